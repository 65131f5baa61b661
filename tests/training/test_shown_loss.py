"""What is optimised is what is shown, also of a subclass's loss; ties of equal texts; chance."""

from __future__ import annotations

import logging
from typing import Any

import keras
import numpy as np
import pytest
import references
import training_toys as toys
from gradients import to_numpy

import cptk

X = toys.tokens(rows=slice(4))


class Penalised(cptk.ContrastiveTrainer):
    def compute_loss(self, *args: Any, **kwargs: Any) -> Any:
        return super().compute_loss(*args, **kwargs) + 0.1 * self.head.tau


class Scaled(cptk.ContrastiveTrainer):
    # As before Keras 3.3, without `training`.
    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None):
        return 3 * super().compute_loss(x, y, y_pred, sample_weight)


class Replaced(cptk.ContrastiveTrainer):
    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        return keras.ops.mean(keras.ops.square(y_pred["query"] - y_pred["document"]))


def of_penalised(loss: float, tau: float, q: Any, d: Any) -> float:
    return loss + 0.1 * tau


def of_scaled(loss: float, tau: float, q: Any, d: Any) -> float:
    return 3 * loss


def of_replaced(loss: float, tau: float, q: Any, d: Any) -> float:
    return float(np.mean(np.square(q - d)))


KINDS = {Penalised: of_penalised, Scaled: of_scaled, Replaced: of_replaced}


class Seen(keras.callbacks.Callback):
    def __init__(self) -> None:
        super().__init__()
        self.losses: list[float] = []

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.losses.append(float(logs["loss"]))


@pytest.mark.slow_on_jax
@pytest.mark.parametrize(
    ("kind", "size"),
    [
        pytest.param(
            kind, size, marks=[] if (kind, size) == (Penalised, None) else [pytest.mark.slow]
        )
        for kind in KINDS
        for size in (None, 3)
        if toys.BACKEND == "tensorflow" or (kind, size) == (Penalised, 3)
    ],
)
def test_a_subclass_shows_its_own_loss_at_every_door(kind, size):
    model = kind(toys.embedder(), seed=3, micro_batch_size=size)
    # A rate of zero, so that the loss by hand is that of each door.
    toys.compiled(model, keras.optimizers.SGD(0.0), **toys.EAGER)
    sums = 0.0
    for rows in toys.slices():
        x = toys.tokens(rows=rows)
        q, d = (to_numpy(v) for v in model(x, training=False).values())
        tau = float(to_numpy(model.head.tau.value))
        loss = references.symmetric_info_nce(references.head_logits(q, d, tau)).mean()
        sums += KINDS[kind](loss, tau, q, d) * len(q)
        if rows.start == 0:
            first = sums / len(q)
    expected = pytest.approx(sums / 10, abs=1e-5)
    seen = Seen()
    history = toys.fit(model, validation_data=toys.PAIRS, validation_batch_size=4, callbacks=seen)
    assert history["loss"] == [expected]
    assert history["val_loss"] == [expected]
    assert seen.losses[0] == pytest.approx(first, abs=1e-5)
    assert seen.losses[-1] == expected
    assert model.evaluate(toys.PAIRS, batch_size=4, verbose=0, return_dict=True)["loss"] == expected
    on_batch = [f(X, return_dict=True)["loss"] for f in (model.train_on_batch, model.test_on_batch)]
    assert on_batch == [pytest.approx(first, abs=1e-5)] * 2


@pytest.mark.slow_on_jax
@pytest.mark.parametrize("options", [{}, {"tile_size": 3}])
def test_equal_texts_tie_whatever_the_last_bit(options):
    pairs = {side: list(texts) for side, texts in toys.PAIRS.items()}
    pairs["document"][2:6] = [pairs["document"][1]] * 4
    pairs["query"][7] = pairs["query"][0]
    model = cptk.ContrastiveTrainer(toys.embedder(), seed=3)
    toys.compiled(model, loss=cptk.losses.InfoNCE(**options), **toys.EAGER)
    x = toys.tokens(pairs)
    vectors = {side: to_numpy(v) for side, v in model(x, training=False).items()}
    noise = np.random.default_rng(0)
    vectors = {  # What another cut of the batch does to the last bit, made larger.
        side: (v + noise.normal(size=v.shape) * 1e-6).astype("float32")
        for side, v in vectors.items()
    }
    x = keras.tree.map_structure(keras.ops.convert_to_tensor, x)
    model.compute_loss(x, y_pred=keras.tree.map_structure(keras.ops.convert_to_tensor, vectors))
    logits = references.head_logits(*vectors.values(), float(to_numpy(model.head.tau.value)))
    found = {name: float(value) for name, value in model.get_metrics_result().items()}
    for name, of_side, ids in (
        ("query_accuracy", logits, pairs["document"]),
        ("document_accuracy", logits.T, pairs["query"]),
    ):
        expected = np.mean(references.in_batch_accuracy(of_side, ids))
        assert found[name] == pytest.approx(expected, abs=1e-6)


@pytest.mark.slow
def test_a_loss_at_chance_is_said_once(caplog):
    one = {side: [texts[0]] * 8 for side, texts in toys.PAIRS.items()}
    model = toys.trainer(keras.optimizers.SGD(0.0), **toys.EAGER)
    with caplog.at_level(logging.WARNING):
        toys.fit(model, one, batch_size=4, epochs=8, validation_data=one)
    said = [record.getMessage() for record in caplog.records if "at chance" in record.getMessage()]
    assert len(said) == 1
    assert "temperature 0.07" in said[0]


@pytest.mark.slow
def test_a_loss_off_chance_is_not_remarked_on(caplog):
    model = toys.trainer(keras.optimizers.SGD(0.0), **toys.EAGER)
    with caplog.at_level(logging.WARNING):
        toys.fit(model, epochs=4)
    assert "at chance" not in caplog.text


@pytest.mark.slow
def test_a_high_rate_does_not_lose_the_temperature():
    model = toys.trainer(keras.optimizers.SGD(500.0), **toys.EAGER)
    toys.fit(model, epochs=4)
    assert 0.0099 < float(to_numpy(model.head.temperature)) < 1.0001
