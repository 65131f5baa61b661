"""The compiled forward pass: in threads, beside a `fit`, after changes, after a fork."""

import gc
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib.util import find_spec

import keras
import numpy as np
import pytest

import cptk
from cptk.models import GPT2TextEmbedder, TextEmbedder, forward
from tests import toys

ON_JAX = keras.backend.backend() == "jax"
ON_TORCH = keras.backend.backend() == "torch"
TEXTS = [f"text {index} " * (index % 3 + 1) for index in range(12)]


def eager(embedder, texts=TEXTS):
    """Vectors of the model as it is, by nothing that is compiled."""
    return keras.ops.convert_to_numpy(embedder(embedder.preprocessor(texts), training=False))


# --- Threads


@pytest.mark.slow_on_jax
def test_threads_from_the_first_call_on():
    embedder = toys.gpt2_embedder(1)
    doors = [
        lambda: embedder.encode_text(TEXTS, batch_size=4, verbose=0),
        lambda: embedder.predict_on_batch(TEXTS),
        lambda: embedder.predict(TEXTS, verbose=0),
    ]
    with ThreadPoolExecutor(8) as pool:
        found = [pool.submit(doors[index % 8 // 3]) for index in range(24)]
        found = [future.result(timeout=120) for future in found]
    expected = eager(embedder)
    for vectors in found:
        np.testing.assert_allclose(vectors, expected, atol=1e-5)


def made_trainer(embedder):
    trainer = cptk.ContrastiveTrainer(embedder, seed=0)
    # Compiled on JAX alone: there a compiled step takes the arrays of the weights.
    trainer.compile(keras.optimizers.SGD(0.1), run_eagerly=not ON_JAX)
    return trainer


PAIRS = {"query": TEXTS, "document": TEXTS[::-1]}


@pytest.mark.slow
def test_beside_a_fit():
    embedder = toys.gpt2_embedder(1)
    trainer = made_trainer(embedder)
    first = embedder.encode_text(TEXTS, verbose=0)
    over, found, faults = threading.Event(), [], []

    def serve():
        while not over.is_set():
            try:
                found.append(embedder.encode_text(TEXTS, verbose=0))
            except Exception as error:
                faults.append(error)
                return
            time.sleep(0.01)  # Two cores are few.

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        trainer.fit(PAIRS, batch_size=4, epochs=3, verbose=0)
        trainer.evaluate(PAIRS, batch_size=4, verbose=0)
    finally:
        over.set()
        thread.join()
    assert not faults
    last = embedder.encode_text(TEXTS, verbose=0)
    assert np.abs(last - first).max() > 1e-3
    # Between the first weights and the last: a new draw of the initializers would be far off.
    moved = np.linalg.norm(last - first, axis=1).max()
    for vectors in found:
        assert np.linalg.norm(vectors - first, axis=1).max() < 3 * moved + 1e-3


class AtEachBatch(keras.callbacks.Callback):
    def __init__(self, embedder):
        super().__init__()
        self.embedder = embedder

    def on_train_batch_end(self, batch, logs=None):
        self.vectors = self.embedder.encode_text(TEXTS, verbose=0)


@pytest.mark.slow_on_jax
def test_in_a_callback_at_each_batch():
    embedder = toys.gpt2_embedder(1)
    callback = AtEachBatch(embedder)
    made_trainer(embedder).fit(PAIRS, batch_size=4, verbose=0, callbacks=[callback])
    np.testing.assert_allclose(callback.vectors, eager(embedder), atol=1e-5)


@pytest.mark.slow_on_jax
@pytest.mark.skipif(not ON_JAX, reason="only there a fit takes the weights with it")
def test_another_models_fit_is_named():
    embedder = toys.gpt2_embedder(1)
    other = keras.Sequential([embedder, keras.layers.Dense(1)])
    other.compile("sgd", loss="mse")
    with pytest.raises(RuntimeError, match=r"Another model .* is training this embedder"):
        other.fit(
            embedder.preprocessor(TEXTS),
            np.zeros((len(TEXTS), 1), "float32"),
            verbose=0,
            callbacks=[AtEachBatch(embedder)],
        )


# --- Changes after the first call


def add_lora(embedder):
    embedder.backbone.enable_lora(2)
    for weight in embedder.trainable_weights:
        weight.assign(np.random.default_rng(1).normal(size=weight.shape))


def replace_a_weight(embedder):
    layer = embedder.backbone.transformer_layers[0]._feedforward_layer_norm
    new = keras.Variable(np.linspace(-5, 5, toys.HIDDEN_DIM), dtype="float32")
    layer._tracker.unlock()  # as Keras's own `quantize` and `enable_lora` do
    layer._untrack_variable(layer.beta)
    layer.beta = new
    layer._tracker.lock()


def change_an_activation(embedder):
    embedder.backbone.transformer_layers[
        0
    ]._feedforward_intermediate_dense.activation = keras.ops.square


def lower_the_precision(embedder):
    for layer in embedder.backbone._flatten_layers():
        layer.dtype_policy = "mixed_bfloat16"


CHANGES = [add_lora, replace_a_weight, change_an_activation, lower_the_precision]


@pytest.mark.slow
@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_a_changed_model_is_compiled_anew(change):
    embedder = toys.gpt2_embedder(1)
    before = embedder.encode_text(TEXTS, verbose=0)
    if change is add_lora:
        embedder.predict(TEXTS, verbose=0)
    change(embedder)
    expected = eager(embedder)
    assert np.abs(expected - before).max() > 1e-3
    tolerance = 0.02 if change is lower_the_precision else 1e-5
    found = embedder.encode_text(TEXTS, verbose=0)
    np.testing.assert_allclose(found, expected, atol=tolerance)
    if change is lower_the_precision:
        assert np.abs(found - before).max() > 1e-4
    if change is add_lora:
        found = embedder.predict(TEXTS, verbose=0)
        np.testing.assert_allclose(found, expected, atol=tolerance)


def test_a_model_that_is_the_same_is_not_compiled_again():
    embedder = toys.gpt2_embedder(1)
    program = forward.compiled_forward(embedder)
    embedder.encode_text(TEXTS, verbose=0)
    embedder.set_weights([2 * weight for weight in embedder.get_weights()])
    embedder.backbone.trainable = False
    assert forward.compiled_forward(embedder) is program


@pytest.mark.slow_on_jax
def test_variables_are_told_apart_though_an_id_be_given_away_again():
    embedder = toys.gpt2_embedder(1)
    before = forward.signature(embedder)
    assert before == forward.signature(embedder)
    kept = {id(variable) for variable in before.variables}
    layer = embedder.backbone.transformer_layers[0]._feedforward_layer_norm
    for _ in range(3):
        replace_a_weight(embedder)
        gc.collect()
        assert id(layer.beta) not in kept  # The signature keeps the old ones alive.
        assert before != forward.signature(embedder)


@pytest.mark.slow_on_jax
def test_an_optimizer_of_other_weights_says_compile_again():
    embedder = toys.gpt2_embedder(1)
    embedder.compile("sgd", loss="mse", run_eagerly=not ON_JAX)
    targets = np.zeros((len(TEXTS), toys.HIDDEN_DIM), "float32")
    embedder.train_on_batch(TEXTS, targets)
    embedder.backbone.enable_lora(2)
    for step in (embedder.train_on_batch, partial(embedder.fit, shuffle=False)):
        with pytest.raises(ValueError, match="Compile again"):
            step(TEXTS, targets)
    embedder.compile("sgd", loss="mse", run_eagerly=not ON_JAX)
    embedder.train_on_batch(TEXTS, targets)


@pytest.mark.slow
def test_int8_encodes_and_survives_a_preset(tmp_path):
    embedder = toys.gpt2_embedder(1)
    before = embedder.encode_text(TEXTS, verbose=0)
    embedder.quantize("int8")
    assert "int8" in {weight.dtype for weight in embedder.weights}
    found = embedder.encode_text(TEXTS, verbose=0)
    assert (found * before).sum(axis=1).min() > 0.99
    assert np.abs(found - before).max() > 1e-5
    embedder.save_to_preset(str(tmp_path / "int8"))
    again = GPT2TextEmbedder.from_preset(str(tmp_path / "int8"))
    assert "int8" in {weight.dtype for weight in again.weights}
    np.testing.assert_allclose(again.encode_text(TEXTS, verbose=0), found, atol=1e-6)


# --- Export


@pytest.mark.slow
@pytest.mark.skipif(ON_TORCH or not find_spec("tensorflow"), reason="SavedModels are TensorFlow's")
@pytest.mark.filterwarnings("ignore:The `native_serialization` parameter:DeprecationWarning")
def test_saved_model_takes_what_the_preprocessor_gives(tmp_path):
    import tensorflow as tf

    embedder = toys.gpt2_embedder(1)
    embedder.export(str(tmp_path / "saved"), verbose=False)
    features = embedder.preprocessor(TEXTS)
    assert features["padding_mask"].dtype == bool
    loaded = tf.saved_model.load(str(tmp_path / "saved"))
    served = loaded.serve({name: tf.constant(array) for name, array in features.items()})
    np.testing.assert_allclose(served, eager(embedder), atol=1e-5)


def test_onnx_of_an_embedder_that_was_never_called(tmp_path):
    # Keras's own converter of each backend; cptk.export.to_onnx converts on TensorFlow from any.
    converter = "jax2onnx" if keras.backend.backend() == "jax" else "tf2onnx"
    for library in ("onnx", converter, "onnxruntime"):
        pytest.importorskip(library)
    import onnxruntime

    embedder = toys.gpt2_embedder(1)
    embedder.export(str(tmp_path / "model.onnx"), format="onnx", verbose=False)
    session = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"))
    features = embedder.preprocessor(TEXTS)
    inputs = {given.name: features[given.name] for given in session.get_inputs()}
    np.testing.assert_allclose(session.run(None, inputs)[0], eager(embedder), atol=1e-5)


@pytest.mark.slow_on_jax
def test_onnx_is_asked_for_by_a_model_that_has_been_called(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(
        keras.Model, "export", lambda self, path, **options: asked.append((self._called, options))
    )
    toys.gpt2_embedder(1).export(str(tmp_path / "model.onnx"), format="onnx")
    assert asked == [(True, {"format": "onnx"})]


# --- Forks


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore")
def test_a_forked_process_is_refused_at_once(capfd):
    embedder = toys.gpt2_embedder(1)
    child = os.fork()
    if child == 0:
        doors = [
            lambda: embedder.encode_text(TEXTS),
            lambda: embedder.predict(TEXTS),
            lambda: embedder.predict_on_batch(TEXTS),
            lambda: TextEmbedder(embedder.backbone),
        ]
        refused = 0
        try:
            for door in doors:
                try:
                    door()
                except RuntimeError as error:
                    refused += "spawn" in str(error)
        finally:
            os._exit(refused)
    for _ in range(300):
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            break
        time.sleep(0.1)
    else:
        os.kill(child, 9)
        os.waitpid(child, 0)
        pytest.fail("the child hangs")
    assert os.waitstatus_to_exitcode(status) == 4
    assert len(embedder.encode_text("x", verbose=0)) == 1  # The parent goes on.
