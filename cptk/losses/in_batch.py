"""The softmax over a batch: one way to it for every objective, whole or in tiles."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from keras import ops

from cptk.losses.candidates import OTHER_PAIRS, NegativeRules, candidates_of
from cptk.losses.masks import LEFT_OUT, TIE
from cptk.losses.matrix import info_nce
from cptk.losses.objective import Batch
from cptk.losses.scores import in_batch_scores
from cptk.losses.tiles import streamed_info_nce
from cptk.ops import dimension, l2_normalize
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
        _with_own(batch, *result, rules) if direction == QUERY_TO_DOCUMENT else result
        for direction, result in zip(directions, found, strict=True)
    ]


def _whole(
    batch: Batch,
    directions: Sequence[tuple[str, str]],
    rules: NegativeRules,
    label_smoothing: float,
) -> list[tuple[Tensor, Tensor]]:
    judge = _judge(batch, rules)
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
            judged = logits
            if judge is not batch:
                judged = judge.head(*_texts(judge, anchors, side, rules))
            limit = ops.diagonal(judged) + _allowed(judge, rules.margin, judged)
            above = ops.greater(judged, ops.expand_dims(limit, 1))
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
    judge = _judge(batch, rules)
    found = []
    for anchors, side in directions[:1] if both else directions:
        candidates = candidates_of(batch, anchors, side, rules)
        # Equal texts that are not left out tie with the positive in the scores.
        known = [] if rules.mask_equal_texts or candidates.texts is None else [candidates.texts]
        if known and both:
            known.append(batch.text_ids[anchors])
        rows, columns, row_scores, column_scores = streamed_info_nce(
            l2_normalize(batch.local[anchors]),
            l2_normalize(candidates.after(batch.gathered[side])),
            batch.scale,
            row_ids=tuple(rows for rows, _ in candidates.ids),
            column_ids=tuple(columns for _, columns in candidates.ids),
            keep=candidates.keep,
            symmetric=both,
            tile_size=batch.tile_size,
            text_ids=tuple(known),
            label_smoothing=label_smoothing,
            margin=rules.margin,
            guide=None if judge is batch else _texts(judge, anchors, side, rules),
        )
        found.append((rows, row_scores))
        if columns is not None and column_scores is not None:
            found.append((columns, column_scores))
    return found


def _judge(batch: Batch, rules: NegativeRules) -> Batch:
    """The batch with the embeddings that the margin is held against: its own, or the guide's."""
    if not rules.guide:
        return batch

    def of_guide(columns: Mapping[str, Tensor]) -> dict[str, Tensor]:
        guide = l2_normalize(columns["guide"])
        found = {**columns, "query": guide[:, 0], "document": guide[:, 1]}
        if "negatives" in columns:
            found["negatives"] = guide[:, 2 : 2 + dimension(columns["negatives"], 1)]
        return found

    local = of_guide(batch.local)
    gathered = local if batch.gathered is batch.local else of_guide(batch.gathered)
    return dataclasses.replace(batch, local=local, gathered=gathered, head=_cosines, scale=1.0)


def _cosines(query: Tensor, document: Tensor) -> Tensor:
    """Of vectors of unit length."""
    return query @ ops.transpose(document)


def _texts(batch: Batch, anchors: str, side: str, rules: NegativeRules) -> tuple[Tensor, Tensor]:
    """Vectors `(n, dim)` of the local anchors and `(m', dim)` of all their candidates."""
    candidates = candidates_of(batch, anchors, side, rules)
    return batch.local[anchors], candidates.after(batch.gathered[side])


def _allowed(batch: Batch, margin: float, logits: Tensor) -> Tensor:
    """How far a negative's logit may be above the positive's."""
    return (margin + TIE) * ops.cast(batch.scale, logits.dtype)


def _with_own(
    batch: Batch, losses: Tensor, scores: Tensor, rules: NegativeRules
) -> tuple[Tensor, Tensor]:
    """Losses and scores of the queries, with each query's own hard negatives among the candidates.

    A loss is log(1 + sum of exp(l - positive)): the own ones add to the sum.
    """
    above = _above_positive(batch)
    assert batch.has_negative is not None
    above = ops.where(batch.has_negative[: ops.shape(above)[0]], above, LEFT_OUT)
    summed = above
    if rules.margin is not None:
        judge = _judge(batch, rules)
        judged = above if judge is batch else _above_positive(judge)
        too_near = ops.greater(judged, _allowed(judge, rules.margin, judged))
        summed = ops.where(too_near, LEFT_OUT, above)
    every = ops.concatenate([ops.expand_dims(losses, 1), summed], axis=1)
    top = ops.stop_gradient(ops.max(every, axis=1, keepdims=True))
    total = ops.sum(ops.exp(every - top), axis=1)
    ties = ops.sum(ops.cast(ops.equal(above, 0.0), scores.dtype), axis=1)
    lost = ops.any(ops.greater(above, 0.0), axis=1)
    # A score is 1 / (1 + ties), or 0.
    scores = ops.where(lost, 0.0, scores / (1.0 + scores * ties))
    return ops.log(total) + ops.squeeze(top, axis=1), ops.stop_gradient(scores)


def _above_positive(batch: Batch) -> Tensor:
    """Logits `(n, k)` of each query's own hard negatives, less that of its document."""
    query = l2_normalize(batch.local["query"])
    positive = ops.sum(query * l2_normalize(batch.local["document"]), axis=1, keepdims=True)
    cosine = ops.sum(ops.expand_dims(query, 1) * l2_normalize(batch.local["negatives"]), axis=2)
    return (cosine - positive) * ops.cast(batch.scale, cosine.dtype)
