"""The softmax over a batch: one way to it for every objective, whole or in tiles."""

from __future__ import annotations

from collections.abc import Sequence

from keras import ops

from cptk.losses.candidates import OTHER_PAIRS, NegativeRules, candidates_of
from cptk.losses.matrix import info_nce
from cptk.losses.objective import Batch
from cptk.losses.scores import in_batch_scores
from cptk.losses.tiles import TIE, streamed_info_nce
from cptk.ops import l2_normalize
from cptk.types import Tensor

QUERY_TO_DOCUMENT = ("query", "document")
DOCUMENT_TO_QUERY = ("document", "query")


def in_batch_softmax(
    batch: Batch,
    directions: Sequence[tuple[str, str]],
    rules: NegativeRules = OTHER_PAIRS,
    label_smoothing: float = 0.0,
) -> list[tuple[Tensor, Tensor]]:
    """For each direction the local anchors' losses `(n,)` and in-batch scores `(n,)`.

    The loss is the cross-entropy of an anchor's logits with all candidates of the batch against its
    own positive; the score is that of `cptk.metrics.InBatchAccuracy`.

    Args:
        batch: The batch. With a `tile_size`, the matrix of logits is never held.
        directions: `(anchors, candidates)`: ("query", "document"), or ("document", "query"), or
            these two in this order, which take one pass over the matrix.
        rules: Which texts of the batch are negatives.
        label_smoothing: As in `cptk.losses.info_nce`; 0 where `rules.hard_negatives` is "own".

    References:
        van den Oord et al. 2018, arXiv 1807.03748, equation 4.
    """
    softmax = _whole if batch.tile_size is None else _in_tiles
    found = softmax(batch, directions, rules, label_smoothing)
    if rules.hard_negatives != "own" or "negatives" not in batch.local:
        return found
    return [
        _with_own(batch, *result, rules.margin) if direction == QUERY_TO_DOCUMENT else result
        for direction, result in zip(directions, found, strict=True)
    ]


def _whole(
    batch: Batch,
    directions: Sequence[tuple[str, str]],
    rules: NegativeRules,
    label_smoothing: float,
) -> list[tuple[Tensor, Tensor]]:
    found, of_pairs = [], None
    for anchors, side in directions:
        if of_pairs is not None and batch.local is batch.gathered:
            of_pairs = ops.transpose(of_pairs)
        else:
            of_pairs = batch.logits(anchors, side)
        logits, candidates = of_pairs, candidates_of(batch, anchors, side, rules)
        if candidates.extra is not None:
            more = batch.head(batch.local[anchors], candidates.extra)
            logits = ops.concatenate([logits, more], axis=1)
        mask = candidates.left_out()
        if mask is not None:
            mask = ops.broadcast_to(mask, ops.shape(logits))
        left_out = mask
        if rules.margin is not None:
            limit = ops.diagonal(logits) + _allowed(batch, rules.margin, logits)
            above = ops.greater(logits, ops.expand_dims(limit, 1))
            left_out = above if mask is None else ops.logical_or(mask, above)
        losses = info_nce(logits, left_out, label_smoothing=label_smoothing)
        found.append((losses, in_batch_scores(logits, mask, candidates.texts)))
    return found


def _in_tiles(
    batch: Batch,
    directions: Sequence[tuple[str, str]],
    rules: NegativeRules,
    label_smoothing: float,
) -> list[tuple[Tensor, Tensor]]:
    both = len(directions) == 2 and batch.local is batch.gathered and not rules.same_side
    found = []
    for anchors, side in directions[:1] if both else directions:
        candidates = candidates_of(batch, anchors, side, rules)
        vectors = batch.gathered[side]
        if candidates.extra is not None:
            vectors = ops.concatenate([vectors, candidates.extra], axis=0)
        # Equal texts that are not left out tie with the positive in the scores.
        known = [] if rules.mask_equal_texts or candidates.texts is None else [candidates.texts]
        if known and both:
            known.append(batch.text_ids[anchors])
        rows, columns, row_scores, column_scores = streamed_info_nce(
            l2_normalize(batch.local[anchors]),
            l2_normalize(vectors),
            batch.scale,
            row_ids=tuple(rows for rows, _ in candidates.ids),
            column_ids=tuple(columns for _, columns in candidates.ids),
            keep=candidates.keep,
            symmetric=both,
            tile_size=batch.tile_size,
            text_ids=tuple(known),
            label_smoothing=label_smoothing,
            margin=rules.margin,
        )
        found.append((rows, row_scores))
        if columns is not None and column_scores is not None:
            found.append((columns, column_scores))
    return found


def _allowed(batch: Batch, margin: float, logits: Tensor) -> Tensor:
    """How far a negative's logit may be above the positive's."""
    return (margin + TIE) * ops.cast(batch.scale, logits.dtype)


def _with_own(
    batch: Batch, losses: Tensor, scores: Tensor, margin: float | None
) -> tuple[Tensor, Tensor]:
    """Losses and scores of the queries, with each query's own hard negatives among the candidates.

    A loss is log(1 + sum of exp(l - positive)): the own ones add to the sum.
    """
    query = l2_normalize(batch.local["query"])
    positive = ops.sum(query * l2_normalize(batch.local["document"]), axis=1, keepdims=True)
    cosine = ops.sum(ops.expand_dims(query, 1) * l2_normalize(batch.local["negatives"]), axis=2)
    above = (cosine - positive) * ops.cast(batch.scale, cosine.dtype)
    assert batch.has_negative is not None
    above = ops.where(batch.has_negative[: ops.shape(above)[0]], above, -1e30)
    summed = above
    if margin is not None:
        summed = ops.where(ops.greater(above, _allowed(batch, margin, above)), -1e30, above)
    every = ops.concatenate([ops.expand_dims(losses, 1), summed], axis=1)
    top = ops.stop_gradient(ops.max(every, axis=1, keepdims=True))
    total = ops.sum(ops.exp(every - top), axis=1)
    ties = ops.sum(ops.cast(ops.equal(above, 0.0), scores.dtype), axis=1)
    lost = ops.any(ops.greater(above, 0.0), axis=1)
    # A score is 1 / (1 + ties), or 0.
    scores = ops.where(lost, 0.0, scores / (1.0 + scores * ties))
    return ops.log(total) + ops.squeeze(top, axis=1), ops.stop_gradient(scores)
