"""A tiny trainer, its pairs, and a training loop by hand to hold it against."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import toys
from gradients import to_numpy
from keras import ops

import cptk
from cptk.models import GPT2TextEmbedder, GPT2TextEmbedderPreprocessor

BACKEND = keras.backend.backend()
SIDES = ("query", "document")
LENGTH = 24
#: Long enough to be cut at `LENGTH`, and so every batch has one shape.
PAIRS = {
    "query": [f"{word}: how is it spelt?" for word in "abcdefghij"],
    "document": [f"{word} is spelt just like it" for word in "ABCDEFGHIJ"],
}
#: What `compile` is given where the step, and not that it is compiled, is tested.
EAGER = {"run_eagerly": BACKEND == "tensorflow"}
BATCH = 4  # Of 10 pairs: 4, 4 and an uneven 2.
EVEN = {side: texts[:8] for side, texts in PAIRS.items()}


class Batches(keras.utils.PyDataset):
    """Somebody's own dataset."""

    def __init__(self, batches: list[Any], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.batches = batches

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, index: int) -> Any:
        return self.batches[index]


def embedder(dropout: float = 0.0, num_layers: int = 1, **kwargs: Any) -> Any:
    """A `GPT2TextEmbedder` with the same weights at each call."""
    reader = GPT2TextEmbedderPreprocessor(toys.tokenizer(), LENGTH)
    return GPT2TextEmbedder(toys.backbone("GPT2", num_layers, dropout=dropout, **kwargs), reader)


def trainer(optimizer: Any = None, dropout: float = 0.0, lora: int = 0, **kwargs: Any) -> Any:
    """A compiled `ContrastiveTrainer`; `kwargs` are those of `compile`."""
    model = embedder(dropout)
    if lora:
        model.backbone.enable_lora(lora)
    return compiled(cptk.ContrastiveTrainer(model, seed=3), optimizer, **kwargs)


def compiled(model: Any, optimizer: Any = None, **kwargs: Any) -> Any:
    """On TensorFlow not traced unless asked: most tests fit a trainer of their own once."""
    traced = kwargs.get("jit_compile") or "steps_per_execution" in kwargs
    kwargs.setdefault("run_eagerly", BACKEND == "tensorflow" and not traced)
    kwargs.setdefault("jit_compile", False if BACKEND != "jax" else "auto")
    model.compile(optimizer or keras.optimizers.SGD(0.05, momentum=0.5), **kwargs)
    model.optimizer.build(model.trainable_variables)
    return model


def fit(model: Any, x: Any = None, **kwargs: Any) -> dict[str, list[float]]:
    x = PAIRS if x is None else x
    if isinstance(x, dict):
        kwargs = {"batch_size": BATCH, **kwargs}
    return model.fit(x, **{"verbose": 0, "shuffle": False, **kwargs}).history


def tokens(texts: Any = None, rows: slice = slice(None)) -> dict[str, dict[str, np.ndarray]]:
    """Tokenised pairs, as a preprocessor gives them."""
    reader = GPT2TextEmbedderPreprocessor(toys.tokenizer(), LENGTH)
    texts = PAIRS if texts is None else texts
    pairs = {side: reader(texts[side], role=side) for side in SIDES}
    return {side: {k: v[rows] for k, v in pairs[side].items()} for side in SIDES}


def slices(size: int = 10, batch: int = BATCH) -> list[slice]:
    return [slice(start, start + batch) for start in range(0, size, batch)]


def weights(model: Any, trainable: bool = False) -> list[np.ndarray]:
    kept = model.trainable_variables if trainable else model.weights
    return [np.array(to_numpy(v.value)) for v in kept]


def state(model: Any) -> list[np.ndarray]:
    """Weights and optimizer variables."""
    return weights(model) + [np.array(to_numpy(v.value)) for v in model.optimizer.variables]


def assert_same(first: list[np.ndarray], second: list[np.ndarray], atol: float = 1e-6) -> None:
    assert len(first) == len(second)
    for a, b in zip(first, second, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=atol)


def restore(model: Any, start: list[np.ndarray]) -> None:
    """Set a trainer back to a `state`."""
    for variable, value in zip(model.weights + model.optimizer.variables, start, strict=True):
        variable.assign(value)


def difference(first: list[np.ndarray], second: list[np.ndarray]) -> float:
    return max(float(np.max(np.abs(a - b), initial=0)) for a, b in zip(first, second, strict=True))


# === By hand ===


def plain_loss(model: Any, tau: Any, x: Any, weight: Any = None, mask: Any = None) -> Any:
    """The paper's loss, section 2, of embeddings of unit length; written without cptk."""
    q, d = (
        model({k: ops.convert_to_tensor(v) for k, v in x[side].items()}, training=False)
        for side in SIDES
    )
    logits = ops.matmul(q, ops.transpose(d)) * ops.exp(tau)
    if mask is not None:
        logits = logits - ops.convert_to_tensor(np.where(mask, 1e9, 0.0), dtype=logits.dtype)
    rows = ops.diagonal(ops.log_softmax(logits, axis=1))
    columns = ops.diagonal(ops.log_softmax(logits, axis=0))
    losses = (rows + columns) * -0.5
    if weight is not None:
        losses = losses * ops.convert_to_tensor(weight, dtype=losses.dtype)
    return ops.sum(losses) / losses.shape[0]


def gradients(function: Any, variables: list[Any]) -> list[np.ndarray]:
    """Gradients of a scalar function of Keras variables."""
    if BACKEND == "tensorflow":
        import tensorflow as tf

        with tf.GradientTape() as tape:
            value = function()
        found = tape.gradient(value, [v.value for v in variables])
        return [tf.convert_to_tensor(g).numpy() for g in found]
    if BACKEND == "jax":
        import jax

        def of_values(values: list[Any]) -> Any:
            with keras.StatelessScope(state_mapping=zip(variables, values, strict=True)):
                return function()

        return [np.array(g) for g in jax.grad(of_values)([v.value for v in variables])]
    for variable in variables:
        variable.value.grad = None
    function().backward()
    return [variable.value.grad.numpy(force=True).copy() for variable in variables]


def plain_steps(
    model: Any, head: Any, batches: list[tuple[Any, Any, Any]], rate: float
) -> list[np.ndarray]:
    """Gradient descent over `(x, weight, mask)`; returns the trainable weights, tau last."""
    variables = [*model.trainable_variables, head.tau]
    for x, weight, mask in batches:
        found = gradients(lambda b=(x, weight, mask): plain_loss(model, head.tau, *b), variables)
        for variable, gradient in zip(variables, found, strict=True):
            variable.assign(to_numpy(variable.value) - rate * gradient)
    return [np.array(to_numpy(v.value)) for v in variables]
