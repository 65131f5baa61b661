"""How often the positive is ranked first in its batch."""

from __future__ import annotations

from keras import ops

from cptk.losses.masks import equal_ids
from cptk.ops import dimension, off_diagonal
from cptk.types import Tensor, TensorLike


def in_batch_scores(
    logits: Tensor, mask: TensorLike | None = None, ids: Tensor | None = None
) -> Tensor:
    """Of each row of logits `(n, m)`, m >= n: the score of `cptk.metrics.InBatchAccuracy`."""
    positive = ops.expand_dims(ops.diagonal(logits), 1)
    equal = ops.equal(logits, positive)
    if ids is not None:
        equal = ops.logical_or(equal, equal_ids(ids[: dimension(logits, 0)], ids))
    above = ops.logical_not(ops.logical_or(equal, ops.less(logits, positive)))
    if mask is not None:
        kept = ops.logical_not(_false_negatives(logits, mask))
        above, equal = ops.logical_and(above, kept), ops.logical_and(equal, kept)
    ties = ops.sum(ops.cast(equal, logits.dtype), axis=1)
    # A NaN positive equals nothing, itself included.
    is_number = ops.squeeze(ops.equal(positive, positive), axis=1)
    right = ops.logical_and(is_number, ops.logical_not(ops.any(above, axis=1)))
    return ops.where(right, ops.divide(1.0, ops.maximum(ties, 1.0)), 0.0)


def _false_negatives(logits: Tensor, mask: TensorLike) -> Tensor:
    negative = off_diagonal(dimension(logits, 0), dimension(logits, 1))
    return ops.logical_and(ops.cast(mask, "bool"), negative)
