"""Rows without a token, which fill up a batch that the replicas could not divide."""

from __future__ import annotations

from collections.abc import Mapping

import keras
from keras import ops

from cptk import distribution
from cptk.types import KerasBatch, Model, Tensor, TokenBatch


def is_pair(x: Mapping[str, TokenBatch]) -> Tensor:
    """Boolean `(n,)`, False where a row fills the batch up."""
    return ops.any(ops.cast(x["query"]["padding_mask"], "bool"), axis=1)


def count_pairs(trainer: Model, data: KerasBatch) -> Tensor:
    """Pairs in the global batch."""
    x, _, _ = keras.utils.unpack_x_y_sample_weight(data)
    if distribution.replicas(trainer).total == 1:
        return ops.shape(x["query"]["token_ids"])[0]
    return distribution.all_reduce_sum(ops.sum(ops.cast(is_pair(x), "float32")))
