"""The text columns of a batch, hard negatives among them, as an embedder takes them."""

from __future__ import annotations

from collections.abc import Mapping

from keras import ops

from cptk.data.columns import SIDES
from cptk.ops import dimension
from cptk.types import Tensor, TokenBatch


def text_columns(x: Mapping[str, TokenBatch]) -> dict[str, TokenBatch]:
    """Tokens `(rows, length)` of each text column: of negatives, `(n, k, length)`, n * k rows."""
    found = {side: x[side] for side in SIDES}
    if "negatives" in x:
        tokens = x["negatives"]
        found["negatives"] = TokenBatch(
            token_ids=_flat(tokens["token_ids"]), padding_mask=_flat(tokens["padding_mask"])
        )
    return found


def of_pairs(vectors: Tensor, mask: Tensor) -> Tensor:
    """Embeddings `(n * k, dim)` of negatives as `(n, k, dim)`, by their `(n, k, length)` mask."""
    count = dimension(mask, 1)
    return ops.reshape(vectors, (-1, count, dimension(vectors, 1)))


def _flat(array: Tensor) -> Tensor:
    return ops.reshape(array, (-1, dimension(array, 2)))
