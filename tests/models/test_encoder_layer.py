"""The layer of the encoders that come from Hugging Face's folders, and their GELU."""

import math

import keras
import keras_hub
import numpy as np
import pytest
from keras import ops

from cptk.models.encoder_layer import EncoderLayer, gelu

POINTS = np.linspace(-6, 6, 241)
SLOPES = np.array(
    [0.5 * math.erfc(-x / math.sqrt(2)) + x * math.exp(-x * x / 2) / math.sqrt(2 * math.pi)
     for x in POINTS]
)  # fmt: skip
ERRORS = {"float32": (1e-6, 1e-6), "bfloat16": (2.0**-8, 1e-4), "float16": (2.0**-10, 1e-4)}
"""Relative, and absolute: 1 + erf cancels."""


@pytest.mark.parametrize("dtype", ERRORS)
def test_values(dtype):
    x = ops.convert_to_tensor(POINTS, dtype)
    rounded = np.asarray(ops.convert_to_numpy(ops.cast(x, "float32")), np.float64)
    exact = np.array([x * 0.5 * math.erfc(-x / math.sqrt(2)) for x in rounded])
    found = gelu(x)
    assert keras.backend.standardize_dtype(found.dtype) == dtype
    found = np.asarray(ops.convert_to_numpy(ops.cast(found, "float32")), np.float64)
    relative, absolute = ERRORS[dtype]
    np.testing.assert_allclose(found, exact, rtol=relative, atol=absolute)


def test_the_slope():
    points = ops.convert_to_tensor(POINTS, "float32")
    if keras.config.backend() == "tensorflow":
        import tensorflow as tf

        with tf.GradientTape() as tape:
            tape.watch(points)
            total = ops.sum(gelu(points))
        slopes = tape.gradient(total, points)
    elif keras.config.backend() == "jax":
        import jax

        slopes = jax.grad(lambda x: ops.sum(gelu(x)))(points)
    else:
        import torch

        x = torch.tensor(POINTS, dtype=torch.float32, requires_grad=True)
        gelu(x).sum().backward()
        slopes = x.grad
    np.testing.assert_allclose(np.asarray(slopes), SLOPES, atol=1e-6)


def layers(dtype="float32"):
    """KerasHub's layer, and ours of the same weights."""
    made = []
    for kind in (keras_hub.layers.TransformerEncoder, EncoderLayer):
        layer = kind(32, 4, activation=gelu, layer_norm_epsilon=1e-12, dtype=dtype)
        layer.build((None, None, 16))
        made.append(layer)
    rng = np.random.default_rng(0)
    for theirs, ours in zip(made[0].weights, made[1].weights, strict=True):
        theirs.assign(rng.normal(0, 0.5, theirs.shape))
        ours.assign(theirs)
    return made


def outputs(layer, dtype="float32", **kwargs):
    rng = np.random.default_rng(1)
    x = ops.convert_to_tensor(rng.normal(size=(5, 7, 16)), dtype)
    found = layer(x, padding_mask=MASK, **{"training": False, **kwargs})
    return np.asarray(ops.convert_to_numpy(ops.cast(found, "float32")))[MASK]


MASK = np.arange(7) < np.array([7, 1, 4, 6, 2])[:, None]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "mixed_bfloat16", "float16"])
def test_a_layer_is_keras_hubs(dtype):
    theirs, ours = layers(dtype)
    inputs = keras.dtype_policies.get(dtype).compute_dtype
    error = {"float32": 1e-5, "float16": 0.02}.get(dtype, 0.1)
    np.testing.assert_allclose(outputs(ours, inputs), outputs(theirs, inputs), atol=error)


@pytest.mark.skipif(keras.config.backend() != "tensorflow", reason="KerasHub's own elsewhere")
def test_it_is_its_own_way(monkeypatch):
    _, ours = layers()
    before = outputs(ours)

    def refuse(*args, **kwargs):
        raise AssertionError("KerasHub's way")

    monkeypatch.setattr(keras_hub.layers.TransformerEncoder, "call", refuse)
    np.testing.assert_array_equal(outputs(ours), before)
    with pytest.raises(AssertionError, match="KerasHub's way"):
        outputs(ours, training=True)


def test_lora_and_whole_numbers():
    theirs, ours = layers()
    for layer in (theirs, ours):
        for dense in (
            layer._feedforward_intermediate_dense,
            layer._self_attention_layer._query_dense,
        ):
            dense.enable_lora(2)
            shape = dense.lora_kernel_b.shape
            dense.lora_kernel_a.assign(np.full(dense.lora_kernel_a.shape, 0.3))
            dense.lora_kernel_b.assign(np.linspace(-1, 1, np.prod(shape)).reshape(shape))
    changed = outputs(ours)
    np.testing.assert_allclose(changed, outputs(theirs), atol=1e-5)
    assert np.abs(changed - outputs(layers()[1])).max() > 0.1
    theirs, ours = layers()
    for layer in (theirs, ours):
        layer._feedforward_output_dense.quantize("int8")
    np.testing.assert_allclose(outputs(ours), outputs(theirs), atol=1e-5)
