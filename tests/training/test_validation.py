"""`val_mrr` and `val_recall@k` over the whole validation set, against NumPy."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
import references
import training_toys as toys

import cptk
from cptk.training import validation

PAIRS = {side: list(texts) for side, texts in toys.PAIRS.items()}
PAIRS["document"][5] = PAIRS["document"][2]  # One document of two queries.
PAIRS["query"][8] = PAIRS["query"][1]  # One query of two documents.
NAMES = ("mrr", "recall@1", "recall@10")


@pytest.fixture(scope="module")
def model() -> Any:
    return toys.trainer(keras.optimizers.SGD(0.0), **toys.EAGER)


def by_hand(model: Any, pairs: Any) -> dict[str, float]:
    queries, documents = (
        model.embedder.encode_text(pairs[side], role=side).astype("float64") for side in toys.SIDES
    )
    return references.retrieval(queries, documents, pairs["query"], pairs["document"])


@pytest.mark.slow_on_jax
@pytest.mark.parametrize("batch_size", [2, 4, 10])
def test_equals_numpy_at_any_batch_size(model, batch_size):
    found = model.evaluate(PAIRS, batch_size=batch_size, verbose=0, return_dict=True)
    assert {name: found[name] for name in NAMES} == pytest.approx(by_hand(model, PAIRS), abs=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"steps_per_execution": 2, "run_eagerly": False},
        pytest.param({"jit_compile": True, "run_eagerly": False}, marks=pytest.mark.slow),
    ],
)
def test_in_fit_and_in_micro_batches(model, options):
    if toys.BACKEND == "torch" and options:
        pytest.skip("Keras compiles no steps on torch")
    size = None if options else 3
    trainer = cptk.ContrastiveTrainer(model.embedder, seed=3, micro_batch_size=size)
    toys.compiled(trainer, keras.optimizers.SGD(0.0), **{**toys.EAGER, **options})
    history = toys.fit(trainer, validation_data=PAIRS, validation_batch_size=4)
    found = {name: history[f"val_{name}"][0] for name in NAMES}
    assert found == pytest.approx(by_hand(model, PAIRS), abs=1e-9)
    assert trainer.steps_per_execution == options.get("steps_per_execution", 1)
    assert "mrr" not in trainer.test_on_batch(toys.EVEN, return_dict=True)


def batches(pairs: Any) -> Any:
    x = toys.tokens(pairs)
    for rows in toys.slices():
        yield ({side: {k: v[rows] for k, v in x[side].items()} for side in toys.SIDES},)


class Own(keras.utils.PyDataset):
    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: int) -> Any:
        return list(batches(PAIRS))[index]


@pytest.mark.slow_on_jax
def test_other_kinds_of_data(model):
    expected = by_hand(model, PAIRS)
    kinds = [Own()]
    if toys.BACKEND == "tensorflow":
        import tensorflow as tf

        kinds.append(tf.data.Dataset.from_tensor_slices(PAIRS).batch(4))
    for data in kinds:
        found = model.evaluate(data, verbose=0, return_dict=True)
        assert {name: found[name] for name in NAMES} == pytest.approx(expected, abs=1e-9)


@pytest.mark.slow
def test_an_endless_generator_with_validation_steps(model):
    def endless() -> Any:
        while True:
            yield from batches(PAIRS)

    history = toys.fit(model, validation_data=endless(), validation_steps=3, epochs=2)
    assert history["val_mrr"] == pytest.approx([by_hand(model, PAIRS)["mrr"]] * 2, abs=1e-9)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Your input ran out of data")  # Keras's, of any generator
def test_a_generator_is_used_up_after_one_epoch(model):
    expected = by_hand(model, PAIRS)
    before = toys.weights(model)
    history = toys.fit(model, validation_data=batches(PAIRS), epochs=2)
    assert history["val_mrr"] == pytest.approx([expected["mrr"]], abs=1e-9)
    # On JAX, the evaluation without a batch took the weights with it.
    toys.assert_same(before, toys.weights(model), atol=0)
    found = model.evaluate(batches(PAIRS), verbose=0, return_dict=True)
    assert {name: found[name] for name in NAMES} == pytest.approx(expected, abs=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("first", [True, False])
def test_early_stopping_and_checkpoints_find_it_wherever_they_stand(model, first, tmp_path):
    stop = keras.callbacks.EarlyStopping("val_mrr", mode="max", patience=0, start_from_epoch=0)
    keep = keras.callbacks.ModelCheckpoint(
        tmp_path / "best.weights.h5", "val_recall@10", mode="max", save_weights_only=True
    )
    other = keras.callbacks.LambdaCallback()
    callbacks = [stop, keep, other] if first else [other, keep, stop]
    history = toys.fit(model, validation_data=PAIRS, epochs=4, callbacks=callbacks)
    assert len(history["val_mrr"]) == 2  # It did not rise.
    assert (tmp_path / "best.weights.h5").exists()


@pytest.mark.parametrize("block", [(512, 8192), (3, 4), (1, 1)])
def test_ranks_in_blocks_with_ties(monkeypatch, block):
    monkeypatch.setattr(validation, "BLOCK", block)
    rng = np.random.default_rng(0)
    # Few directions, so that many documents of other texts tie.
    queries, documents = (rng.integers(-1, 2, (size, 2)).astype("float32") for size in (7, 9))
    pairs = np.stack([rng.integers(0, 7, 20), rng.integers(0, 9, 20)], axis=1)
    pairs[:7, 0], pairs[:9, 1] = np.arange(7), np.arange(9)
    weights = rng.random(20)
    found = validation.retrieval(queries, documents, pairs, weights)
    q, d = pairs.T
    # Numbered as they come: the reference sees texts, in that order.
    order = {n: i for i, n in enumerate(dict.fromkeys(d))}
    assert list(order) == sorted(order)
    expected = references.retrieval(queries[q], documents[d], list(q), list(d), weights)
    assert found == pytest.approx(expected, abs=1e-12)


def test_a_vector_that_is_not_finite_finds_nothing():
    vectors = np.array([[np.nan, 0.0], [0.0, 1.0]])
    found = validation.retrieval(vectors, np.eye(2), np.array([[0, 0], [1, 1]]), np.ones(2))
    assert found["mrr"] == 0.5
