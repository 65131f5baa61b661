"""Gradient caching: the step of a large batch in the memory of a small one.

Gao et al., Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup,
arXiv:2101.06983 (GradCache). The loss depends on the weights through the embeddings alone, so

1. all texts are embedded in micro-batches, and nothing is kept but the embeddings;
2. the loss is taken over the whole batch, and its gradient with respect to each embedding;
3. each micro-batch is embedded again, with dropout drawn as before, and its embeddings' gradients
   are carried on to the weights, where they add up.

The sum is the gradient of the plain step. Texts are sorted by length before they are cut into
micro-batches, and each micro-batch is as long as its longest text, so that little work goes into
padding: most of what the second forward pass costs comes back.

One module a backend holds the loops; README.md beside this file says what holds them together.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module

import keras

from cptk.training.gradient_cache.automatic import choose_micro_batch_size
from cptk.training.gradient_cache.backends import backend
from cptk.training.gradient_cache.not_finite import NotFinite, StopNotFinite
from cptk.training.gradient_cache.options import (
    MicroBatches,
    check_first_pass,
    check_micro_batches,
    slices,
    without_xla,
)
from cptk.training.gradient_cache.step import CachedTrainable
from cptk.types import KerasBatch, Tensor, TokenBatch, Tree

__all__ = [
    "MicroBatches",
    "NotFinite",
    "StopNotFinite",
    "check_first_pass",
    "check_micro_batches",
    "choose_micro_batch_size",
    "embed",
    "embed_by_length",
    "sliced_step",
    "slices",
    "train_step",
    "without_xla",
]


def train_step(trainer: CachedTrainable, *args: Tree) -> Tree:
    """`trainer.train_step(*args)`, on any backend; arguments and result are those of Keras."""
    for weight in trainer.trainable_weights:
        if keras.backend.standardize_dtype(weight.dtype) in ("bfloat16", "float16"):
            raise ValueError(
                f"Gradients of many micro-batches cannot be added up in {weight.dtype}, the dtype "
                f"of {weight.path}. Use the policy mixed_{weight.dtype}: its weights are float32."
            )
    return backend().train_step(trainer, *args)


def embed(trainer: CachedTrainable, x: Mapping[str, TokenBatch]) -> dict[str, Tensor]:
    """Embeddings of each side of a batch, outside of training."""
    return backend().embed(trainer, x)  # type: ignore[no-any-return]


def embed_by_length(trainer: CachedTrainable, x: Mapping[str, TokenBatch]) -> dict[str, Tensor]:
    """Embeddings of each side of a batch in a plain step, of which all activations are kept.

    Both sides together are sorted by length and pass in slices, each as long as its longest text:
    the same embeddings to rounding, and little work goes into padding.
    """
    return backend().embed_by_length(trainer.embedder, x, trainer.slices)  # type: ignore[no-any-return]


def sliced_step(trainer: CachedTrainable) -> Callable[[Tree, KerasBatch], Tree]:
    """On JAX, the compiled plain step in slices: `logs, state = step(state, data)`."""
    module = import_module("cptk.training.gradient_cache.jax_slices")
    return module.sliced_step(trainer)  # type: ignore[no-any-return]
