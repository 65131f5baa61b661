"""What a teacher says of a query's document and its negatives, and what the embeddings say."""

from __future__ import annotations

from typing import Any

from keras import ops

from cptk.losses.objective import Batch
from cptk.ops import l2_normalize
from cptk.types import Tensor

COLUMNS = ("negatives", "teacher")


def of_student(batch: Batch) -> Tensor:
    """Cosines `(n, 1 + k)` of each local query with its document, then with its own negatives."""
    query = ops.expand_dims(l2_normalize(batch.local["query"]), 1)
    document = ops.expand_dims(batch.local["document"], 1)
    texts = ops.concatenate([document, batch.local["negatives"]], axis=1)
    return ops.sum(query * l2_normalize(texts), axis=2)


def of_teacher(caller: str, batch: Batch, student: Tensor) -> Tensor:
    """Its scores `(n, 1 + k)`, or an error where they are not as many."""
    scores: Any = batch.local["teacher"]
    widths = [1 if len(scores.shape) == 1 else scores.shape[1], student.shape[1]]
    if len(scores.shape) != 2 or (None not in widths and widths[0] != widths[1]):
        raise ValueError(
            f"{caller} expects in the column 'teacher' a score of the document and one of each "
            f"negative, {widths[1]} a pair. Received: {widths[0]}."
        )
    return ops.cast(scores, student.dtype)


def all_there(batch: Batch) -> Tensor:
    """`(n, 1 + k)` booleans, False where a pair has fewer than k negatives."""
    assert batch.has_negative is not None
    has = batch.has_negative[: ops.shape(batch.local["query"])[0]]
    return ops.concatenate([ops.ones_like(has[:, :1]), has], axis=1)
