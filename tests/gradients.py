"""Values and gradients on whichever backend runs, as NumPy arrays; float64 where asked."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import keras
import numpy as np

BACKEND = keras.backend.backend()


def value_and_gradients(
    function: Callable[..., Any], *arrays: Any, upstream: Any = 1.0, dtype: str = "float32"
) -> tuple[np.ndarray, list[np.ndarray]]:
    """function(*tensors), of any shape, and the gradients of sum(function(*tensors) * upstream).

    Everything runs eagerly on TensorFlow and torch, and through `jax.vjp` on JAX.
    """
    tensors = [keras.ops.convert_to_tensor(np.asarray(array), dtype=dtype) for array in arrays]
    if BACKEND == "tensorflow":
        import tensorflow as tf

        with tf.GradientTape() as tape:
            tape.watch(tensors)
            value = function(*tensors)
        gradients = [
            tf.convert_to_tensor(g) for g in tape.gradient(value, tensors, like(value, upstream))
        ]
    elif BACKEND == "jax":
        import jax

        value, pull_back = jax.vjp(function, *tensors)
        gradients = pull_back(like(value, upstream))
    else:
        tensors = [tensor.detach().requires_grad_(True) for tensor in tensors]
        value = function(*tensors)
        value.backward(like(value, upstream))
        gradients = [tensor.grad for tensor in tensors]
    return to_numpy(value), [to_numpy(gradient) for gradient in gradients]


def like(value: Any, array: Any) -> Any:
    """The array as a tensor of the shape and dtype of `value`."""
    dtype = keras.backend.standardize_dtype(value.dtype)
    return keras.ops.convert_to_tensor(np.broadcast_to(array, tuple(value.shape)), dtype=dtype)


def weight_gradient(function: Callable[[], Any], variable: Any) -> float:
    """The gradient of a scalar function with respect to a scalar Keras variable."""
    if BACKEND == "tensorflow":
        import tensorflow as tf

        with tf.GradientTape() as tape:
            value = function()
        return float(tape.gradient(value, variable.value))
    if BACKEND == "jax":
        import jax

        def of_value(value: Any) -> Any:
            with keras.StatelessScope(state_mapping=[(variable, value)]):
                return function()

        return float(jax.grad(of_value)(variable.value))
    variable.value.grad = None
    function().backward()
    return variable.value.grad.item()


def to_numpy(tensor: Any) -> np.ndarray:
    """As a NumPy array: float32 for bfloat16, which NumPy does not know."""
    if keras.backend.standardize_dtype(tensor.dtype) == "bfloat16":
        tensor = keras.ops.cast(tensor, "float32")
    return keras.ops.convert_to_numpy(tensor)


@contextmanager
def float64_allowed() -> Iterator[None]:
    """JAX turns float64 into float32 unless told otherwise."""
    if BACKEND == "jax":
        import jax

        with jax.enable_x64(True):
            yield
    else:
        yield


def central_differences(
    function: Callable[..., float], *arrays: np.ndarray, step: float = 1e-6
) -> list[np.ndarray]:
    """The gradients of a scalar float64 NumPy function, one entry at a time."""
    gradients = []
    for array in arrays:
        gradient = np.zeros_like(array)
        for index in np.ndindex(*array.shape):
            kept = array[index]
            array[index] = kept + step
            above = function(*arrays)
            array[index] = kept - step
            below = function(*arrays)
            array[index] = kept
            gradient[index] = (above - below) / (2 * step)
        gradients.append(gradient)
    return gradients
