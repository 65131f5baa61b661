"""Several sources in one `fit`: each batch from one, with an objective of its own if wanted."""

from __future__ import annotations

from itertools import chain
from typing import Any

import keras
import numpy as np
import pytest
import training_toys as tt
from recorder import SEEN, pairs

import cptk
from cptk.data import Mixture, PairDataset, Pairs
from cptk.losses import CoSENT, InfoNCE, MarginMSE
from cptk.training import ExactBackupAndRestore

ROWS = {side: texts[:6] for side, texts in tt.PAIRS.items()}
REST = {side: texts[6:] for side, texts in tt.PAIRS.items()}
HARD = {**ROWS, "negatives": [["x", "y z"], [], ["z"], ["w"], ["x"], ["y"]]}
GRADED = {**REST, "score": [0.1, 0.5, 0.3, 0.9]}
TAUGHT = {
    **ROWS,
    "negatives": [[f"not {i}"] for i in range(6)],
    "teacher": np.random.default_rng(0).normal(size=(6, 2)),
}
LOSSES = {"nli": InfoNCE(hard_negatives="all"), "sts": CoSENT()}


def trainer(loss: Any = None, rate: float = 0.0, **kwargs: Any) -> Any:
    model = cptk.ContrastiveTrainer(tt.embedder(), seed=3, **kwargs)
    return tt.compiled(model, keras.optimizers.SGD(rate), loss=loss)


def alone(loss: Any, x: Any) -> float:
    """The loss of one source by itself."""
    return trainer(loss).evaluate(x, batch_size=6, verbose=0, return_dict=True)["loss"]


def test_batches_are_of_one_source(recorder: Any) -> None:
    x = {"a": pairs(9), "b": pairs(20, first=100)}
    recorder.fit(x, batch_size=4, epochs=2, verbose=0)
    assert {len({number // 100 for number in batch}) for batch in SEEN} == {1}
    half = len(SEEN) // 2
    for batches in (SEEN[:half], SEEN[half:]):
        assert sorted(chain.from_iterable(batches)) == [*range(9), *range(100, 120)]
    assert SEEN[:half] != SEEN[half:]


def test_the_order_goes_on(recorder: Any) -> None:
    x = Mixture({"a": pairs(9), "b": pairs(20, first=100)}, alpha=0.5)
    recorder.fit(x, batch_size=4, epochs=3, verbose=0)
    whole, SEEN[:] = list(SEEN), []
    recorder.data_order = type(recorder.data_order)()
    for _ in range(3):
        recorder.fit(x, batch_size=4, steps_per_epoch=7, verbose=0)
    assert whole == SEEN


class Stop(keras.callbacks.Callback):
    """Ends a run at the begin of an epoch."""

    def __init__(self, epoch: int) -> None:
        super().__init__()
        self.epoch = epoch

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        if epoch == self.epoch:
            raise InterruptedError

    def get_state(self) -> dict[str, Any]:
        return {}

    def set_state(self, state: Any) -> None:
        pass


def test_a_killed_run_sees_what_it_would_have_seen(recorder: Any, tmp_path: Any) -> None:
    """From the middle of a pass on, whatever seed it was given."""
    x = Mixture({"a": pairs(9), "b": pairs(20, first=100)}, alpha=0.5)

    def fit(*callbacks: Any) -> None:
        options = {"batch_size": 4, "steps_per_epoch": 3, "epochs": 5, "verbose": 0}
        recorder.fit(x, callbacks=list(callbacks), **options)

    fit()
    whole, SEEN[:] = list(SEEN), []
    recorder.data_order = type(recorder.data_order)()
    with pytest.raises(InterruptedError):
        fit(ExactBackupAndRestore(tmp_path), Stop(2))
    recorder.data_order, recorder.seed = type(recorder.data_order)(), 11
    fit(ExactBackupAndRestore(tmp_path), Stop(-1))
    assert whole == SEEN


@pytest.mark.slow
def test_resumed_in_the_middle_it_ends_as_it_would_have(tmp_path: Any) -> None:
    """Of a pass, with an objective for each source."""
    x = Mixture({"nli": HARD, "sts": GRADED}, alpha=0.5)

    def fit(model: Any, *callbacks: Any) -> Any:
        options = {"batch_size": 2, "steps_per_epoch": 2, "epochs": 4, "verbose": 0}
        return model.fit(x, callbacks=list(callbacks), **options).history

    whole = trainer(LOSSES, 0.1)
    expected = fit(whole)
    killed = trainer(LOSSES, 0.1)
    with pytest.raises(InterruptedError):
        fit(killed, ExactBackupAndRestore(tmp_path), Stop(2))
    again = trainer(LOSSES, 0.1)
    assert fit(again, ExactBackupAndRestore(tmp_path), Stop(-1)) == expected
    tt.assert_same(tt.state(again), tt.state(whole), 0.0)


@pytest.mark.parametrize(
    ("options", "step"),
    [
        pytest.param({}, tt.EAGER, marks=pytest.mark.slow_on_jax),
        pytest.param({}, {"run_eagerly": False}, marks=[pytest.mark.slow, pytest.mark.once]),
        pytest.param({"micro_batch_size": 4}, {"run_eagerly": False}, marks=pytest.mark.slow),
        pytest.param({"micro_batch_size": 4}, tt.EAGER, marks=[pytest.mark.slow, pytest.mark.once]),
    ],
    ids=str,
)
def test_each_source_has_its_objective(options: dict[str, Any], step: dict[str, Any]) -> None:
    """And none sees what fills the columns up that it lacks."""
    sources = {"nli": HARD, "sts": GRADED, "taught": TAUGHT}
    losses = {**LOSSES, "taught": MarginMSE()}
    model = cptk.ContrastiveTrainer(tt.embedder(), seed=3, **options)
    tt.compiled(model, keras.optimizers.SGD(0.0), loss=losses, **step)
    history = model.fit(sources, batch_size=6, verbose=0).history
    shown = {"nli_loss", "sts_loss", "taught_loss", "query_accuracy", "document_accuracy"}
    assert set(history) == {"loss", "temperature", *shown}
    expected = {name: alone(losses[name], sources[name]) for name in sources}
    for name, value in expected.items():
        assert history[f"{name}_loss"] == [pytest.approx(value, abs=1e-5)]
    mean = (6 * expected["nli"] + 4 * expected["sts"] + 6 * expected["taught"]) / 16
    assert history["loss"] == [pytest.approx(mean, abs=1e-5)]
    logs = trainer(LOSSES["nli"]).evaluate(HARD, batch_size=6, verbose=0, return_dict=True)
    assert history["query_accuracy"] == [pytest.approx(logs["query_accuracy"], abs=1e-6)]
    logs = model.evaluate({"sts": GRADED}, batch_size=6, verbose=0, return_dict=True)
    assert logs["loss"] == pytest.approx(expected["sts"], abs=1e-5)


@pytest.mark.slow_on_jax
def test_training_is_that_of_the_batches_one_by_one() -> None:
    """One objective, negatives in one source alone, weights in the other."""
    sources = {"hard": HARD, "plain": {**REST, "weight": [1.0, 2.0, 0.5, 1.0]}}
    model = trainer(rate=0.3)
    model.fit(sources, batch_size=6, verbose=0, shuffle=False)
    by_hand = trainer(rate=0.3)
    by_hand.train_on_batch(HARD)
    by_hand.train_on_batch(REST, sample_weight=np.array([1.0, 2.0, 0.5, 1.0]))
    tt.assert_same(tt.weights(model), tt.weights(by_hand), 2e-6)


@pytest.mark.once
def test_a_table_with_a_column_source_is_a_mixture_where_the_loss_asks_for_it() -> None:
    table = Pairs({**tt.PAIRS, "source": ["x"] * 6 + ["y"] * 4})
    losses = {"x": "InfoNCE", "y": InfoNCE(symmetric=False)}
    history = tt.fit(trainer(losses), table, batch_size=6)
    assert history["x_loss"] == [pytest.approx(alone("InfoNCE", ROWS), abs=1e-5)]
    assert history["y_loss"] == [pytest.approx(alone(losses["y"], REST), abs=1e-5)]
    assert "x_loss" not in tt.fit(trainer(), table, batch_size=6)


@pytest.mark.slow
@pytest.mark.once
def test_validation_prediction_and_saving(tmp_path: Any) -> None:
    model = trainer(LOSSES, 0.1)
    sources = {"nli": HARD, "sts": GRADED}
    history = model.fit(sources, validation_data=sources, batch_size=4, verbose=0).history
    assert np.isfinite([history["val_nli_loss"], history["val_sts_loss"], history["val_mrr"]]).all()
    vectors = model.predict(sources, batch_size=4, verbose=0)
    np.testing.assert_allclose(
        vectors["query"], model.encode_text(tt.PAIRS["query"], role="query"), atol=1e-5
    )
    model.save(tmp_path / "trainer.keras")
    again = keras.saving.load_model(tmp_path / "trainer.keras")
    assert repr(again.loss) == repr(model.loss)
    logs = [m.evaluate(sources, verbose=0, return_dict=True) for m in (again, model)]
    assert logs[0] == pytest.approx(logs[1], abs=1e-6)


ONE = {side: texts[:1] for side, texts in ROWS.items()}


@pytest.mark.once
@pytest.mark.parametrize(
    ("loss", "x", "message"),
    [
        (None, {"a": ROWS, "b": ONE}, "Source 'b': Contrastive training needs at least 2 pairs"),
        (None, {"a": ROWS, "b": {"query": ["x", "y"]}}, "Source 'b': Data should be"),
        (CoSENT(), {"a": GRADED, "b": ROWS}, "Source 'b': The pairs have no column 'score'"),
        (LOSSES, {"nli": HARD, "sts": ROWS}, "Source 'sts': The pairs have no column 'score'"),
        (LOSSES, {"nli": HARD, "other": GRADED}, r"for the sources \['nli', 'sts'\].*'other'"),
        (LOSSES, {"nli": HARD}, r"are of \['nli'\]. Give each source one"),
        (LOSSES, HARD, "takes pairs in memory: a mapping of named pairs.*Received: dict"),
        (LOSSES, PairDataset(ROWS), "Received: PairDataset"),
        (None, {}, r"Data should be .*Received the keys \[\]"),
    ],
)
def test_what_is_wrong_names_the_source(loss: Any, x: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        trainer(loss).fit(x, verbose=0)


@pytest.mark.once
def test_what_sources_do_not_go_with() -> None:
    model, sources = trainer(LOSSES), {"nli": HARD, "sts": GRADED}
    with pytest.raises(ValueError, match="leave `sample_weight` out"):
        model.fit(sources, sample_weight=np.ones(10))
    with pytest.raises(ValueError, match="`validation_split` takes pairs of one source"):
        model.fit(sources, validation_split=0.2)
    with pytest.raises(ValueError, match="not known which source"):
        model.train_on_batch(HARD)
    wrong = {**TAUGHT, "teacher": np.zeros((6, 3))}
    with pytest.raises(
        ValueError, match=r"Source 'b': `teacher` should hold.*2 a pair\. Received: 3"
    ):
        trainer({"a": "InfoNCE", "b": MarginMSE()}).fit({"a": ROWS, "b": wrong})
    with pytest.raises(TypeError, match="Source 'a': `loss` should be a cptk"):
        model.compile(loss={"a": 3})
    with pytest.raises(ValueError, match=r"should be \{'name': objective, …\}\. Received: \{\}"):
        model.compile(loss={})
