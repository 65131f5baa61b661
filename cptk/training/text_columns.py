"""The text columns of a batch, hard negatives among them, as an embedder takes them."""

from __future__ import annotations

from collections.abc import Mapping

from keras import ops

from cptk import distribution
from cptk.data.columns import SIDES
from cptk.losses import text_ids
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


def gathered_text_ids(x: Mapping[str, TokenBatch]) -> dict[str, Tensor]:
    """Numbers `(m,)` of the whole batch's texts, equal where these are; the local rows first.

    Of negatives, `(m, k)`, numbered with the documents.
    """
    rows = {}
    for name in (*SIDES, "negatives"):
        if name in x:
            token_ids = ops.cast(x[name]["token_ids"], "int32")
            # -1 at padding: 0 may be a real token.
            known = ops.where(ops.cast(x[name]["padding_mask"], "bool"), token_ids, -1)
            rows[name] = distribution.gather(known)
    if "negatives" not in rows:
        return {side: text_ids(tokens) for side, tokens in rows.items()}
    documents, negatives = rows["document"], rows["negatives"]
    m, each = ops.shape(negatives)[0], dimension(negatives, 1)
    negatives = ops.reshape(negatives, (-1, dimension(negatives, 2)))
    # Each as long as both, with padding: of one length.
    padding = ops.zeros_like(negatives[:m]) - 1, ops.repeat(ops.zeros_like(documents) - 1, each, 0)
    both = [
        ops.concatenate(parts, axis=1)
        for parts in zip((documents, negatives), padding, strict=True)
    ]
    ids = text_ids(ops.concatenate(both, axis=0))
    return {
        "query": text_ids(rows["query"]),
        "document": ids[:m],
        "negatives": ops.reshape(ids[m:], (-1, each)),
    }


def _flat(array: Tensor) -> Tensor:
    return ops.reshape(array, (-1, dimension(array, 2)))
