"""The softmax over a batch: one way to it for every objective, whole or in tiles."""

from __future__ import annotations

from collections.abc import Sequence

from keras import ops

from cptk.losses.matrix import info_nce
from cptk.losses.objective import Batch
from cptk.losses.scores import in_batch_scores
from cptk.losses.tiles import streamed_info_nce
from cptk.ops import l2_normalize
from cptk.types import Tensor

QUERY_TO_DOCUMENT = ("query", "document")
DOCUMENT_TO_QUERY = ("document", "query")


def in_batch_softmax(
    batch: Batch,
    directions: Sequence[tuple[str, str]],
    mask_equal_texts: bool = False,
    label_smoothing: float = 0.0,
) -> list[tuple[Tensor, Tensor]]:
    """For each direction the local anchors' losses `(n,)` and in-batch scores `(n,)`.

    The loss is the cross-entropy of an anchor's logits with all candidates of the batch against its
    own positive; the score is that of `cptk.metrics.InBatchAccuracy`.

    Args:
        batch: The batch. With a `tile_size`, the matrix of logits is never held.
        directions: `(anchors, candidates)`: ("query", "document"), or ("document", "query"), or
            these two in this order, which take one pass over the matrix.
        mask_equal_texts: Whether equal texts are left out of the negatives.
        label_smoothing: As in `cptk.losses.info_nce`.

    References:
        van den Oord et al. 2018, arXiv 1807.03748, equation 4.
    """
    softmax = _whole if batch.tile_size is None else _in_tiles
    return softmax(batch, directions, mask_equal_texts, label_smoothing)


def _whole(
    batch: Batch,
    directions: Sequence[tuple[str, str]],
    mask_equal_texts: bool,
    label_smoothing: float,
) -> list[tuple[Tensor, Tensor]]:
    mask = batch.left_out(mask_equal_texts)  # Of pairs with pairs, so the same both ways.
    found, logits = [], None
    for anchors, candidates in directions:
        if logits is not None and batch.local is batch.gathered:
            logits = ops.transpose(logits)
        else:
            logits = batch.logits(anchors, candidates)
        losses = info_nce(logits, mask, label_smoothing=label_smoothing)
        scores = in_batch_scores(logits, mask, batch.text_ids.get(candidates))
        found.append((losses, scores))
    return found


def _in_tiles(
    batch: Batch,
    directions: Sequence[tuple[str, str]],
    mask_equal_texts: bool,
    label_smoothing: float,
) -> list[tuple[Tensor, Tensor]]:
    ids = tuple(batch.text_ids.values()) if mask_equal_texts else ()
    both = len(directions) == 2 and batch.local is batch.gathered
    found = []
    for anchors, candidates in directions[:1] if both else directions:
        # Equal texts that are not left out tie with the positive in the scores.
        tying = (candidates, anchors) if both else (candidates,)
        known = [batch.text_ids[side] for side in tying if side in batch.text_ids]
        rows, columns, row_scores, column_scores = streamed_info_nce(
            l2_normalize(batch.local[anchors]),
            l2_normalize(batch.gathered[candidates]),
            batch.scale,
            row_ids=tuple(batch.local_ids(vector) for vector in ids),
            column_ids=ids,
            keep=batch.is_pair,
            symmetric=both,
            tile_size=batch.tile_size,
            text_ids=() if mask_equal_texts else tuple(known),
            label_smoothing=label_smoothing,
        )
        found.append((rows, row_scores))
        if columns is not None and column_scores is not None:
            found.append((columns, column_scores))
    return found
