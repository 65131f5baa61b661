"""SimCSE in `fit`: each text is its own pair, and dropout tells the two apart."""

from __future__ import annotations

from typing import Any

import keras
import pytest
import toys
import training_toys as tt

import cptk
from cptk.data import PairDataset
from cptk.losses import Matryoshka, SimCSE

TEXTS = tt.PAIRS["query"]
BOTH = {"query": TEXTS, "document": TEXTS}


def trainer(embedder: Any, loss: Any = None, **kwargs: Any) -> Any:
    model = cptk.ContrastiveTrainer(embedder, seed=3, **kwargs)
    loss = SimCSE() if loss is None else loss
    return tt.compiled(model, keras.optimizers.SGD(0.0), loss=loss, **tt.EAGER)


@pytest.mark.parametrize("micro_batch_size", [None, pytest.param(3, marks=pytest.mark.slow)])
def test_dropout_makes_two_views_of_a_text(micro_batch_size: int | None) -> None:
    """In training; in an evaluation they are one vector, which is nearer than any other text's."""
    embedder = toys.keras_hub_embedder(dropout=0.3)
    model = trainer(embedder, micro_batch_size=micro_batch_size)
    history = tt.fit(model, BOTH, batch_size=5)
    logs = model.evaluate(BOTH, batch_size=5, verbose=0, return_dict=True)
    assert set(history) == {"loss", "query_accuracy", "temperature"}
    assert abs(history["loss"][0] - logs["loss"]) > 1e-3  # equal, were there one view
    assert logs["query_accuracy"] == logs["mrr"] == 1.0


@pytest.mark.once
@pytest.mark.parametrize("loss", [SimCSE(), Matryoshka(SimCSE(), [4])], ids=repr)
def test_without_dropout_it_is_refused(loss: Any) -> None:
    model = trainer(tt.embedder(), loss)
    tokens = tt.tokens()["query"]
    both = {"query": tokens, "document": tokens}
    one_of_them = {"query": TEXTS, "document": [*TEXTS[:9], "another"]}
    for x in (BOTH, both, one_of_them, PairDataset(both, batch_size=4)):
        with pytest.raises(ValueError, match=r"SimCSE\(\).*has none.*backbone with `dropout=0.1`"):
            model.fit(x, verbose=0)
    tt.fit(model, tt.PAIRS)  # of two texts each, without
    model.compile("sgd", loss="InfoNCE", **tt.EAGER)
    tt.fit(model, BOTH)


def test_texts_alone_are_told_what_to_do() -> None:
    with pytest.raises(TypeError, match=r"pass them as both sides and take cptk.losses.SimCSE\(\)"):
        trainer(tt.embedder()).fit(TEXTS)
