"""One contract for every objective of `cptk.losses`, and for two that a user might write.

The objectives are found by themselves, each as it is and with each of its arguments changed. That
one is right, a test of its own says; here it has to be the same however the batch is cut: whole or
in tiles, on one device or several, in one pass or by micro-batches, in one run or in two.
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
import training_toys as toys
from gradients import to_numpy, value_and_gradients
from keras import ops
from objective_kinds import FOUND, GIVEN, make, variants
from training_toys import PAIRS

import cptk
from cptk.losses import Batch, InfoNCE, Matryoshka, Objective

N, DIM, SCALE = 7, 4, 5.0
SIDES = ("query", "document")
COLUMNS = (*SIDES, "negatives")


class Hinge(Objective):
    """Negatives should stay a margin below the positive."""

    metrics = ("above",)

    def __init__(self, margin: float = 0.5) -> None:
        self.margin = margin

    def call(self, batch: Batch) -> Any:
        logits = batch.logits()
        above = ops.relu(logits - ops.expand_dims(ops.diagonal(logits), 1) + self.margin)
        losses = ops.sum(ops.where(batch.negatives(), above, 0.0), axis=1)
        return losses, {"above": ops.cast(losses > 0, "float32")}

    def get_config(self) -> dict[str, Any]:
        return {"margin": self.margin}


class Alone(Objective):
    """Without a matrix: only the positives count."""

    def call(self, batch: Batch) -> Any:
        cosine = ops.sum(batch.local["query"] * batch.local["document"], axis=1)
        return 1.0 - cosine


class Graded(Objective):
    """The cosine of a pair should be its score."""

    columns = ("score",)

    def call(self, batch: Batch) -> Any:
        cosine = ops.sum(batch.local["query"] * batch.local["document"], axis=1)
        return ops.square(cosine - batch.local["score"])


SCORES = np.linspace(0, 1, 10)
#: Every column that an objective may read.
GRADED = {
    **PAIRS,
    "score": SCORES,
    "group": [0, 1, 2, 3, 4, 5, 6, 0, 1, 2],
    "negatives": [[f"not {i}", f"nor {i} here"] for i in range(10)],
    "teacher": np.random.default_rng(3).normal(size=(10, 3)),
}


def by_batches(start: int = 0) -> list[Any]:
    """The same pairs as a user's own batches."""
    return [{name: values[rows] for name, values in GRADED.items()} for rows in toys.slices()]


DATA = {
    "a mapping": lambda: (GRADED, {"batch_size": 4}),
    "rows": lambda: (
        [dict(zip(GRADED, row, strict=True)) for row in zip(*GRADED.values(), strict=True)],
        {"batch_size": 4},
    ),
    "Pairs": lambda: (cptk.data.Pairs(GRADED), {"batch_size": 4}),
    "a PyDataset": lambda: (toys.Batches(by_batches()), {}),
    "a generator": lambda: (iter(by_batches()), {"steps_per_epoch": 3}),
}


KINDS = [*FOUND, Hinge, Alone]
#: With its arguments changed, each on one backend: each is compiled anew on JAX.
each = pytest.mark.parametrize(
    "objective",
    [
        pytest.param(objective, marks=[pytest.mark.once] if place else [], id=repr(objective))
        for kind in KINDS
        for place, objective in enumerate(variants(kind))
    ],
)
#: On torch each of them: nothing is compiled there.
EVERYWHERE = KINDS if toys.BACKEND == "torch" else [InfoNCE, Matryoshka]
each_kind = pytest.mark.parametrize(
    "kind",
    [
        pytest.param(
            kind,
            marks=[] if kind in EVERYWHERE else [pytest.mark.once],
            id=kind.__name__,
        )
        for kind in KINDS
    ],
)


def draw() -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Embeddings; and numbers of the texts and of the other columns.

    Some texts are equal, and so are their embeddings; some scores and groups are equal. A few
    negatives are not there.
    """
    rng = np.random.default_rng(0)
    ids = {"query": np.array([0, 1, 0, 3, 4, 5, 6]), "document": np.arange(N) % 5}
    vectors = {side: rng.normal(size=(N, DIM))[ids[side]].astype("float32") for side in SIDES}
    vectors["negatives"] = rng.normal(size=(N, 2, DIM)).astype("float32")
    ids["negatives"] = 50 + np.arange(2 * N).reshape(N, 2)
    group, has = np.array([0, 1, 2, 3, 4, 4, 5]), rng.random((N, 2)) > 0.2
    teacher = rng.normal(size=(N, 3))
    others = {"score": np.arange(N) * 3 % 5, "group": group, "teacher": teacher, "has": has}
    others["guide"] = rng.normal(size=(N, 4, 3))
    return vectors, ids | others


def batch_of(
    query: Any,
    document: Any,
    negatives: Any,
    numbers: dict[str, Any],
    rows: int | None = None,
    is_pair: Any = None,
    tile_size: int | None = None,
) -> Batch:
    """The batch, or what a device sees that has its first `rows`."""
    gathered = {"query": query, "document": document, "negatives": negatives}
    for name in ("score", "group", "teacher", "guide"):
        gathered[name] = ops.convert_to_tensor(numbers[name], dtype="float32")
    local = gathered if rows is None else {name: x[:rows] for name, x in gathered.items()}
    head = cptk.layers.ContrastiveHead(1 / SCALE)
    ids = {name: ops.convert_to_tensor(numbers[name].astype("int32")) for name in COLUMNS}
    has = ops.convert_to_tensor(numbers["has"].astype(bool))
    scale = ops.convert_to_tensor(SCALE)
    return Batch(local, gathered, head, scale, ids, is_pair, tile_size, has)


def outcome(objective: Objective, batch: Batch) -> Any:
    """Losses and scores in one matrix."""
    found = objective(batch)
    scores = [ops.cast(found.scores[name], "float32") for name in objective.metrics]
    return ops.stack([found.losses, *scores])


def of_whole(objective: Objective, **options: Any) -> tuple[np.ndarray, list[np.ndarray]]:
    vectors, ids = draw()
    return value_and_gradients(
        lambda *x: outcome(objective, batch_of(*x, ids, **options)) + 0.0 * ops.sum(x[2]),
        *vectors.values(),
        upstream=weights(objective),
    )


def weights(objective: Objective) -> np.ndarray:
    """Upstream: only losses have a gradient, each another."""
    upstream = np.zeros((1 + len(objective.metrics), N))
    upstream[0] = np.linspace(0.5, 2, N)
    return upstream


def assert_close(first: Any, second: Any, atol: float = 2e-6) -> None:
    for a, b in zip([first[0], *first[1]], [second[0], *second[1]], strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=atol)


@each
def test_one_loss_a_pair_with_a_gradient(objective):
    (values, gradients) = of_whole(objective)
    assert np.isfinite(values).all()
    assert all(np.isfinite(g).all() for g in gradients)
    reads = "negatives" in (*objective.columns, *objective.optional_columns)
    assert [bool(g.any()) for g in gradients] == [True, True, reads]
    assert isinstance(objective, Objective)
    assert objective.__doc__


@pytest.mark.slow_on_jax
@each
def test_tiles_change_nothing(objective):
    assert_close(of_whole(objective, tile_size=3), of_whole(objective))


@pytest.mark.slow_on_jax
@each
@pytest.mark.parametrize("tile_size", [None, 2])
def test_devices_change_nothing(objective, tile_size):
    """Two devices of four rows each, of which the last holds no pair."""
    vectors, ids = draw()
    upstream = np.concatenate([weights(objective), 0 * weights(objective)[:, :1]], axis=1)
    values, gradients = [], [np.zeros(x.shape) for x in vectors.values()]
    for first in (0, 4):
        order = np.roll(np.arange(8), -first)
        padded = [np.concatenate([x, np.zeros_like(x[:1])]) for x in vectors.values()]
        numbers = {
            name: np.concatenate([x, np.full_like(x[:1], 0 if name == "has" else 99)])[order]
            for name, x in ids.items()
        }
        on_device = {
            "numbers": numbers,
            "rows": 4,
            "is_pair": ops.convert_to_tensor(order < N),
            "tile_size": tile_size,
        }
        found, of_vectors = value_and_gradients(
            lambda *x, seen=on_device: (
                outcome(objective, batch_of(*x, **seen)) + 0.0 * ops.sum(x[2])
            ),
            *(x[order] for x in padded),
            upstream=upstream[:, order[:4]],
        )
        assert np.isfinite(found).all()
        values.append(found)
        for total, gradient in zip(gradients, of_vectors, strict=True):
            total += gradient[np.argsort(order)][:N]
    assert_close((np.concatenate(values, axis=1)[:, :N], gradients), of_whole(objective))


@each
def test_pairs_may_stand_in_any_order(objective):
    vectors, ids = draw()
    order = np.random.default_rng(1).permutation(N)
    whole = batch_of(*map(ops.convert_to_tensor, vectors.values()), ids)
    moved = batch_of(
        *(ops.convert_to_tensor(x[order]) for x in vectors.values()),
        {side: x[order] for side, x in ids.items()},
    )
    expected = to_numpy(outcome(objective, whole))[:, order]
    np.testing.assert_allclose(to_numpy(outcome(objective, moved)), expected, rtol=1e-5, atol=1e-6)


@each
def test_config_by_behaviour(objective):
    config = keras.saving.serialize_keras_object(objective)
    known = {type(objective).__name__: type(objective)}
    again = cptk.losses.get(keras.saving.deserialize_keras_object(config, known))
    assert type(again) is type(objective)
    vectors, ids = draw()
    batch = batch_of(*map(ops.convert_to_tensor, vectors.values()), ids)
    found = to_numpy(outcome(again, batch))
    np.testing.assert_array_equal(found, to_numpy(outcome(objective, batch)))
    default = make(type(objective))
    if objective.tile_size == default.tile_size and repr(objective) != repr(default):
        plain = to_numpy(outcome(default, batch))
        assert found.shape != plain.shape or not np.allclose(found, plain)


# === In training ===


def trained(
    kind: type[Objective],
    epochs: int = 2,
    callbacks: Any = None,
    optimizer: Any = None,
    **options: Any,
) -> Any:
    trainer = cptk.ContrastiveTrainer(toys.embedder(), seed=3, **options)
    toys.compiled(trainer, optimizer or keras.optimizers.AdamW(0.01), loss=make(kind))
    history = toys.fit(trainer, GRADED, epochs=epochs, shuffle=True, callbacks=callbacks)
    return trainer, history


@pytest.mark.slow
@each_kind
def test_micro_batches_change_nothing(kind):
    # Not Adam, which makes as much of a gradient that is all rounding as of any other.
    plain, history = trained(kind, optimizer=keras.optimizers.SGD(0.05))
    cached, found = trained(kind, optimizer=keras.optimizers.SGD(0.05), micro_batch_size=3)
    toys.assert_same(toys.weights(cached), toys.weights(plain), 2e-5)
    assert set(found) == set(history) == {"loss", "temperature", *make(kind).metrics}
    for name, values in history.items():
        np.testing.assert_allclose(found[name], values, rtol=0, atol=1e-4)
    logs = cached.evaluate(GRADED, verbose=0, return_dict=True)
    assert logs == pytest.approx(plain.evaluate(GRADED, verbose=0, return_dict=True), abs=1e-3)
    assert set(logs) == {"mrr", "recall@1", "recall@10", *history}


@pytest.mark.slow_on_jax
@pytest.mark.parametrize(
    "kind",
    [Hinge, *(pytest.param(k, marks=[pytest.mark.slow, pytest.mark.once]) for k in FOUND)],
)
def test_saved_and_loaded_training_goes_on(kind, tmp_path):
    trainer, _ = trained(kind)
    trainer.save(tmp_path / "trainer.keras")
    again = keras.saving.load_model(tmp_path / "trainer.keras", {kind.__name__: kind})
    assert repr(again.loss) == repr(trainer.loss)
    again.run_eagerly = trainer.run_eagerly
    histories = [toys.fit(t, GRADED, shuffle=True) for t in (trainer, again)]
    for name, values in histories[0].items():
        np.testing.assert_allclose(histories[1][name], values, rtol=0, atol=1e-6)
    toys.assert_same(toys.state(again), toys.state(trainer))


@pytest.mark.slow
@each_kind
def test_an_interrupted_run_ends_as_one_that_was_not(kind, tmp_path):
    class Interrupted(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
            if epoch == 2:
                raise KeyboardInterrupt

    whole, expected = trained(kind, epochs=4)
    backup = cptk.training.ExactBackupAndRestore
    with pytest.raises(KeyboardInterrupt):
        trained(kind, 4, [backup(tmp_path / "backup"), Interrupted()])
    resumed, history = trained(kind, 4, [backup(tmp_path / "backup")])
    toys.assert_same(toys.state(resumed), toys.state(whole), 0.0)
    assert history == expected


# === Number columns ===


def graded(**options: Any) -> Any:
    trainer = cptk.ContrastiveTrainer(toys.embedder(), seed=3, **options)
    return toys.compiled(trainer, loss=Graded(), **toys.EAGER)


def expected_loss(trainer: Any) -> float:
    vectors = trainer.predict(PAIRS, verbose=0)
    return float(np.mean((np.sum(vectors["query"] * vectors["document"], axis=1) - SCORES) ** 2))


@pytest.mark.once
@pytest.mark.parametrize(
    "kind", [k if k == "Pairs" else pytest.param(k, marks=pytest.mark.slow) for k in DATA]
)
def test_number_columns_reach_the_loss(kind):
    trainer = graded()
    trainer.optimizer.learning_rate.assign(0.0)
    expected = pytest.approx(expected_loss(trainer), abs=1e-5)
    x, options = DATA[kind]()
    assert toys.fit(trainer, x, **options)["loss"] == [expected]
    if kind != "a generator":
        options = {} if kind == "a PyDataset" else options
        assert trainer.evaluate(x, verbose=0, return_dict=True, **options)["loss"] == expected
    batch = by_batches()[0]
    assert trainer.train_on_batch(batch) is not None
    assert trainer.test_on_batch(batch) is not None


@pytest.mark.slow
def test_number_columns_in_tf_data():
    import tensorflow as tf

    trainer = graded(micro_batch_size=2)
    trainer.optimizer.learning_rate.assign(0.0)
    expected = pytest.approx(expected_loss(trainer), abs=1e-5)
    columns = {name: values for name, values in GRADED.items() if name != "negatives"}
    data = tf.data.Dataset.from_tensor_slices(columns)
    assert toys.fit(trainer, data.batch(4))["loss"] == [expected]
    assert toys.fit(trainer, data, batch_size=5)["loss"] == [expected]


@pytest.mark.once
def test_number_columns_are_split_and_validated():
    trainer = graded()
    trainer.optimizer.learning_rate.assign(0.0)
    history = toys.fit(trainer, GRADED, validation_split=0.3)
    vectors = trainer.predict(PAIRS, verbose=0)
    losses = (np.sum(vectors["query"] * vectors["document"], axis=1) - SCORES) ** 2
    assert history["loss"] == [pytest.approx(losses[:7].mean(), abs=1e-5)]
    assert history["val_loss"] == [pytest.approx(losses[7:].mean(), abs=1e-5)]


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (PAIRS, "The pairs have no column 'score', which the loss reads"),
        ({**PAIRS, "score": [float("nan")] * 10}, "`score` should hold finite numbers"),
        ({**PAIRS, "score": [0.5]}, "`score` should hold one number a pair, 10. Received: 1"),
        ({**PAIRS, "score": ["high"] * 10}, "`score` should hold one number a pair"),
    ],
)
def test_missing_or_bad_numbers_are_refused(x, message):
    trainer = graded()
    with pytest.raises(ValueError, match=message):
        toys.fit(trainer, x)
    with pytest.raises(ValueError, match=message):
        trainer.train_on_batch(x)


def test_a_pair_dataset_without_the_columns_is_refused():
    trainer = graded()
    data = cptk.data.PairDataset(GRADED, batch_size=4)
    with pytest.raises(ValueError, match=r"reads the columns \['score'\].*columns=\('score',\)"):
        toys.fit(trainer, data)


# === compile ===


def test_names_and_nothing():
    trainer = toys.compiled(cptk.ContrastiveTrainer(toys.embedder()))
    assert isinstance(trainer.loss, cptk.losses.InfoNCE)
    for kind in FOUND:
        if make(kind).get_config().keys() & GIVEN:
            with pytest.raises(ValueError, match=rf"have to be given.*{kind.__name__}\(objective"):
                cptk.losses.get(kind.__name__)
        else:
            assert type(cptk.losses.get(kind.__name__)) is kind
    trainer.compile(loss="InfoNCE")
    assert trainer.loss.symmetric


@pytest.mark.parametrize(
    ("loss", "error", "message"),
    [
        ("mse", ValueError, r"`loss` should be one of \[.*'InfoNCE'.*Received: 'mse'"),
        ("", ValueError, "Received: ''"),
        (keras.losses.MeanSquaredError(), TypeError, "Received: MeanSquaredError. A loss of keras"),
        (cptk.losses.InfoNCE, TypeError, "Received: the class InfoNCE"),
        (lambda y, z: 0.0, TypeError, "Received: function"),
        (3, TypeError, "Received: int"),
        (["InfoNCE"], TypeError, "Received: list"),
    ],
)
def test_other_losses_are_refused(loss, error, message):
    trainer = cptk.ContrastiveTrainer(toys.embedder())
    with pytest.raises(error, match=message):
        trainer.compile(loss=loss)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"tile_size": 0}, ValueError, "InfoNCE expects `tile_size` of 1 or more"),
        ({"tile_size": 2.5}, TypeError, "InfoNCE expects `tile_size` to be a positive int"),
        ({"label_smoothing": 1.0}, ValueError, "of 0 or more and below 1.*Received: .*1.0"),
        ({"label_smoothing": float("nan")}, ValueError, "`label_smoothing` of 0 or more"),
        ({"label_smoothing": True}, ValueError, "`label_smoothing` of 0 or more"),
        ({"symmetric": "yes"}, TypeError, "`symmetric` should be True or False.*'yes'"),
        ({"mask_equal_texts": 1}, TypeError, "`mask_equal_texts` should be True or False"),
    ],
)
def test_options_are_checked(options, error, message):
    with pytest.raises(error, match=message):
        cptk.losses.InfoNCE(**options)


@pytest.mark.parametrize("name", ["mask_equal_texts", "tile_size", "label_smoothing"])
def test_the_trainer_says_where_an_option_of_the_loss_belongs(name):
    with pytest.raises(TypeError, match=rf"compile\(loss=cptk.losses.InfoNCE\({name}=3\)\)"):
        cptk.ContrastiveTrainer(toys.embedder(), **{name: 3})
    with pytest.raises(TypeError, match=r"trainer.compile\(optimizer, loss='InfoNCE'\)"):
        cptk.ContrastiveTrainer(toys.embedder(), loss="InfoNCE")


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        (lambda batch: ops.sum(batch.logits()), r"of shape \(4,\), not reduced. Received: \(\)"),
        (lambda batch: batch.logits(), r"Received: \(4, 4\)"),
        (lambda batch: (ops.zeros(4), {"x": ops.zeros(4)}), r"names: \[\]. Received: \['x'\]"),
    ],
)
def test_what_an_objective_returns_is_checked(returned, message):
    class Wrong(Objective):
        def call(self, batch: Batch) -> Any:
            return returned(batch)

    trainer = toys.compiled(cptk.ContrastiveTrainer(toys.embedder()), loss=Wrong(), **toys.EAGER)
    with pytest.raises(ValueError, match=message):
        trainer.train_on_batch(toys.tokens(rows=slice(4)))


def test_an_objective_without_call_says_so():
    vectors, ids = draw()
    with pytest.raises(NotImplementedError, match=r"Objective should have a method `call"):
        Objective()(batch_of(*vectors.values(), ids))


@pytest.mark.slow_on_jax
def test_compiled_again_with_another_loss():
    trainer, _ = trained(cptk.losses.InfoNCE, epochs=1)
    toys.compiled(trainer, loss=Hinge())
    history = toys.fit(trainer)
    assert set(history) == {"loss", "above", "temperature"}
    assert [metric.name for metric in trainer.metrics] == ["loss", "above", "temperature"]
