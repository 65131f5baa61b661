"""The trainer against a loop by hand, and against float64 NumPy."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import references
import training_toys as toys
from gradients import float64_allowed, to_numpy
from training_toys import BATCH, PAIRS, SIDES

import cptk
from cptk.losses import InfoNCE
from cptk.training.text_columns import gathered_text_ids

RATE = 0.125  # Exact in any precision.


@pytest.fixture
def float64():
    floatx, policy = keras.config.floatx(), keras.config.dtype_policy()
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    with float64_allowed():
        yield
    keras.config.set_floatx(floatx)
    keras.config.set_dtype_policy(policy)


def plain(batches):
    return toys.plain_steps(toys.embedder(), cptk.layers.ContrastiveHead(), batches, RATE)


@pytest.mark.slow_on_jax
def test_one_step_equals_plain_step_in_float64(float64):
    model = toys.compiled(
        cptk.ContrastiveTrainer(toys.embedder()), keras.optimizers.SGD(RATE), run_eagerly=True
    )
    x = toys.tokens(rows=slice(6))
    weight = np.array([1, 0.5, 2, 0, 1, 0.25])
    expected = plain([(x, weight, None)])
    logs = model.train_on_batch(x, sample_weight=weight, return_dict=True)
    assert keras.backend.standardize_dtype(model.head.tau.dtype) == "float64"
    # On torch, KerasHub's decoder computes in float32 on its way, whatever its dtype.
    tight = 1e-6 if toys.BACKEND == "torch" else 1e-11
    toys.assert_same(toys.weights(model, trainable=True), expected, tight)
    start = cptk.ContrastiveTrainer(toys.embedder())
    assert logs["loss"] == pytest.approx(numpy_loss(start, x, weight), abs=1e-6)


def numpy_loss(model, x, weight=None, mask=None):
    vectors = {k: to_numpy(v) for k, v in model(x, training=False).items()}
    tau = float(to_numpy(model.head.tau.value))
    logits = references.head_logits(vectors["query"], vectors["document"], tau)
    return references.symmetric_info_nce(logits, mask, weight).mean()


@pytest.mark.slow_on_jax
def test_epochs_equal_plain_loop():
    model = toys.compiled(cptk.ContrastiveTrainer(toys.embedder()), keras.optimizers.SGD(RATE))
    history = toys.fit(model, epochs=2)
    batches = [(toys.tokens(rows=rows), None, None) for rows in toys.slices()] * 2
    toys.assert_same(toys.weights(model, trainable=True), plain(batches), atol=2e-6)
    assert set(history) == {"loss", "query_accuracy", "document_accuracy", "temperature"}


@pytest.mark.slow_on_jax
def test_sample_weights_in_batches_equal_plain_loop():
    model = toys.compiled(cptk.ContrastiveTrainer(toys.embedder()), keras.optimizers.SGD(RATE))
    weight = np.linspace(0, 2, 10)
    toys.fit(model, sample_weight=weight)
    batches = [(toys.tokens(rows=rows), weight[rows], None) for rows in toys.slices()]
    toys.assert_same(toys.weights(model, trainable=True), plain(batches), atol=2e-6)


@pytest.mark.slow_on_jax
def test_equal_texts_are_masked():
    # 0, 1 and 4 have one query; 2 and 3 one document; 5 repeats a pair, so nothing of it is left.
    queries, documents = list(PAIRS["query"][:6]), list(PAIRS["document"][:6])
    queries[1] = queries[4] = queries[0]
    documents[3] = documents[2]
    queries[5], documents[5] = queries[2], documents[2]
    pairs = {"query": queries, "document": documents}
    mask = references.same_text_mask(np.array(queries), np.array(documents))
    assert mask.sum() == 6 + 6
    model = cptk.ContrastiveTrainer(toys.embedder())
    toys.compiled(model, keras.optimizers.SGD(RATE), loss=InfoNCE(mask_equal_texts=True))
    x = toys.tokens(pairs)
    loss = numpy_loss(model, x, mask=mask)
    assert loss < numpy_loss(model, x) - 0.1
    logs = model.evaluate(pairs, batch_size=6, verbose=0, return_dict=True)
    assert logs["loss"] == pytest.approx(loss, abs=1e-5)
    logits = references.head_logits(
        *(to_numpy(v) for v in model(x, training=False).values()),
        float(to_numpy(model.head.tau.value)),
    )
    accuracy = references.in_batch_accuracy(np.where(mask, -np.inf, logits))
    assert logs["query_accuracy"] == pytest.approx(np.mean(accuracy), abs=1e-6)
    toys.fit(model, pairs, batch_size=6)
    toys.assert_same(toys.weights(model, trainable=True), plain([(x, None, mask)]), atol=2e-6)


@pytest.mark.parametrize("dtype", ["int64", "uint16"])
def test_equal_texts_of_any_integer_dtype(dtype):
    x = toys.tokens(rows=slice(4))
    for side in SIDES:
        x[side]["token_ids"] = x[side]["token_ids"].astype(dtype)
        x[side]["padding_mask"] = x[side]["padding_mask"].astype("int32")
    x = keras.tree.map_structure(keras.ops.array, x)
    for side in SIDES:
        assert len(set(to_numpy(gathered_text_ids(x)[side]).tolist())) == 4


def test_padding_is_no_text():
    # Byte 0 of the toy vocabulary is the padding id: "!" and "!!" differ by the mask alone.
    ids = np.zeros((2, 3), "int32")
    x = {
        side: {"token_ids": ids, "padding_mask": np.array([[1, 1, 0], [1, 1, 1]], bool)}
        for side in SIDES
    }
    x = keras.tree.map_structure(keras.ops.convert_to_tensor, x)
    for side in SIDES:
        assert len(set(to_numpy(gathered_text_ids(x)[side]).tolist())) == 2


@pytest.mark.slow_on_jax
def test_evaluate_and_metrics_equal_numpy(trainer):
    weight = np.linspace(0.5, 2, 10)
    logs = trainer.evaluate(
        PAIRS, batch_size=BATCH, sample_weight=weight, verbose=0, return_dict=True
    )
    losses, accuracies = [], {"query_accuracy": [], "document_accuracy": []}
    for rows in toys.slices():
        x = toys.tokens(rows=rows)
        q, d = (to_numpy(v) for v in trainer(x, training=False).values())
        logits = references.head_logits(q, d, float(to_numpy(trainer.head.tau.value)))
        losses += list(references.symmetric_info_nce(logits, None, weight[rows]))
        accuracies["query_accuracy"] += references.in_batch_accuracy(logits)
        accuracies["document_accuracy"] += references.in_batch_accuracy(logits.T)
    assert logs["loss"] == pytest.approx(np.mean(losses), abs=1e-5)
    for name, values in accuracies.items():
        assert logs[name] == pytest.approx(np.average(values, weights=weight), abs=1e-6)
    assert logs["temperature"] == pytest.approx(0.07, abs=1e-6)


def test_compute_loss_can_be_overridden():
    class RowsOnly(cptk.ContrastiveTrainer):
        def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
            logits = self.head(y_pred["query"], y_pred["document"])
            return keras.ops.mean(cptk.losses.info_nce(logits))

    model = toys.compiled(RowsOnly(toys.embedder()), run_eagerly=True)
    logs = model.test_on_batch(toys.tokens(rows=slice(4)), return_dict=True)
    q, d = (to_numpy(v) for v in model(toys.tokens(rows=slice(4)), training=False).values())
    logits = references.head_logits(q, d, float(to_numpy(model.head.tau.value)))
    assert logs["loss"] == pytest.approx(references.info_nce(logits).mean(), abs=1e-5)


@pytest.mark.slow_on_jax
def test_losses_of_layers_are_added():
    model = toys.embedder()
    model.backbone.get_layer("token_embedding").embeddings_regularizer = None
    regularised = cptk.ContrastiveTrainer(model)
    regularised.head.tau.regularizer = keras.regularizers.L2(0.5)
    toys.compiled(regularised, run_eagerly=True)
    x = toys.tokens(rows=slice(4))
    logs = regularised.test_on_batch(x, return_dict=True)
    tau = float(to_numpy(regularised.head.tau.value))
    assert logs["loss"] == pytest.approx(numpy_loss(regularised, x) + 0.5 * tau**2, abs=1e-4)
