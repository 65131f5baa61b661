"""What is trained changes after a step was traced: a new step, or an error that says so."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import training_toys as toys
from gradients import to_numpy
from training_toys import BACKEND, EVEN

import cptk

BATCH = toys.tokens(rows=slice(4))


def trainer(num_layers=1, **kwargs):
    kwargs.setdefault("run_eagerly", True)
    model = cptk.ContrastiveTrainer(toys.embedder(num_layers=num_layers), seed=3)
    return toys.compiled(model, keras.optimizers.SGD(0.5), **kwargs)


def moved(model, act):
    """Paths of the weights that `act` changes."""
    before = {id(v): np.array(to_numpy(v.value)) for v in model.weights}
    act()
    return {v.path for v in model.weights if (to_numpy(v.value) != before[id(v)]).any()}


def keras_lora(model):
    model.embedder.backbone.enable_lora(2)


def own_lora(model):
    cptk.training.enable_lora(model.embedder, 2)


def freeze(model):
    model.embedder.backbone.get_layer("token_embedding").trainable = False


def another_head(model):
    model.head = cptk.layers.ContrastiveHead(0.3)


def another_embedder(model):
    model.embedder = toys.embedder()


CHANGES = [keras_lora, own_lora, freeze, another_head, another_embedder]


@pytest.mark.slow_on_jax
@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_compile_again(change):
    model = trainer()
    model.train_on_batch(BATCH)
    change(model)
    weights = toys.weights(model)
    for go_on in (
        lambda: model.train_on_batch(BATCH),
        lambda: toys.fit(model, EVEN),
    ):
        with pytest.raises(ValueError, match="Call `compile` again, with a new optimizer"):
            go_on()
    toys.assert_same(toys.weights(model), weights, atol=0)
    toys.compiled(model, keras.optimizers.SGD(0.5), run_eagerly=True)
    got = moved(model, lambda: [model.train_on_batch(BATCH) for _ in range(2)])
    assert not got - {v.path for v in model.trainable_variables}
    # A key's bias has no gradient.
    still = {v.path for v in model.trainable_variables} - got
    assert all("key/bias" in path for path in still)
    assert len(model.trainable_variables) == len({id(v) for v in model.trainable_variables})


def test_the_old_head_is_forgotten(tmp_path):
    model = trainer()
    count = len(model.weights)
    another_head(model)
    another_embedder(model)
    assert len(model.weights) == count
    assert float(to_numpy(model.head.temperature)) == pytest.approx(0.3)
    model.save(tmp_path / "x.keras")
    again = keras.saving.load_model(tmp_path / "x.keras")
    toys.assert_same(toys.weights(again), toys.weights(model), atol=0)
    with pytest.raises(TypeError, match=r"should be a cptk\.models\.TextEmbedder"):
        model.embedder = keras.Sequential()


@pytest.mark.slow_on_jax
def test_a_traced_step_is_made_anew():
    """Compiled: two layers of equal shapes change places, which no shape tells."""
    model = trainer(2, run_eagerly=False)
    first, second = model.embedder.backbone.transformer_layers
    first.trainable = False
    toys.compiled(model, keras.optimizers.SGD(0.5))
    paths = moved(model, lambda: model.train_on_batch(BATCH))
    assert not any("transformer_layer_0" in path for path in paths)
    first.trainable, second.trainable = True, False
    with pytest.raises(ValueError, match="Call `compile` again"):
        model.train_on_batch(BATCH)
    toys.compiled(model, keras.optimizers.SGD(0.5))
    paths = moved(model, lambda: model.train_on_batch(BATCH))
    assert any("transformer_layer_0" in path for path in paths)
    assert not any("transformer_layer_1" in path for path in paths)


@pytest.mark.slow
def test_traced_evaluation_is_made_anew():
    model = trainer(run_eagerly=False)
    before = model.test_on_batch(BATCH, return_dict=True)
    another_head(model)
    after = model.test_on_batch(BATCH, return_dict=True)
    assert before["temperature"] == pytest.approx(0.07)
    assert after["temperature"] == pytest.approx(0.3)
    expected = toys.plain_loss(model.embedder, model.head.tau, BATCH)
    assert after["loss"] == pytest.approx(float(to_numpy(expected)), abs=1e-5)
    cptk.training.enable_lora(model.embedder, 2)
    for layer in model.embedder.backbone._flatten_layers():
        if getattr(layer, "lora_enabled", False):
            layer.lora_kernel_b.assign(np.ones(layer.lora_kernel_b.shape))
    expected = toys.plain_loss(model.embedder, model.head.tau, BATCH)
    got = model.test_on_batch(BATCH, return_dict=True)["loss"]
    assert got == pytest.approx(float(to_numpy(expected)), abs=1e-5)


@pytest.mark.slow_on_jax
@pytest.mark.parametrize("when", ["epoch", "step", "last_step"])
def test_a_callback_that_unfreezes(when):
    """In the middle of `fit`, on JAX while Keras has the weights out of their variables."""
    model = trainer(run_eagerly=BACKEND != "jax")
    layer = model.embedder.backbone.get_layer("token_embedding")

    def unfreeze(*args):
        layer.trainable = False

    callback = {
        "epoch": {"on_epoch_begin": lambda epoch, logs: epoch == 1 and unfreeze()},
        "step": {"on_train_batch_end": lambda batch, logs: batch == 0 and unfreeze()},
        "last_step": {"on_train_batch_end": lambda batch, logs: batch == 1 and unfreeze()},
    }[when]
    steps = 1 if when == "step" else 2
    expected = trainer()
    for rows in toys.slices(8)[:steps]:
        expected.train_on_batch(toys.tokens(EVEN, rows))
    with pytest.raises(ValueError, match=r"1 weights frozen or unfrozen.*`compile` again"):
        toys.fit(model, EVEN, epochs=3, callbacks=[keras.callbacks.LambdaCallback(**callback)])
    toys.assert_same(toys.weights(model), toys.weights(expected), atol=1e-5)


@pytest.mark.slow_on_jax
def test_an_optimizer_not_yet_built_fits_whatever_comes():
    model = cptk.ContrastiveTrainer(toys.embedder())
    model.compile(keras.optimizers.SGD(0.5), run_eagerly=True)
    own_lora(model)
    assert any("lora" in path for path in moved(model, lambda: model.train_on_batch(BATCH)))


@pytest.mark.slow
def test_gradient_cache_after_lora():
    model = cptk.ContrastiveTrainer(toys.embedder(), seed=3, micro_batch_size=2)
    toys.compiled(model, keras.optimizers.SGD(0.5), run_eagerly=BACKEND != "jax")
    model.train_on_batch(BATCH)
    own_lora(model)
    with pytest.raises(ValueError, match="`compile` again"):
        model.train_on_batch(BATCH)
    toys.compiled(model, keras.optimizers.SGD(0.5), run_eagerly=BACKEND != "jax")
    paths = moved(model, lambda: model.train_on_batch(BATCH))
    assert any("lora" in path for path in paths)
    assert not any(path.endswith("kernel") for path in paths)
