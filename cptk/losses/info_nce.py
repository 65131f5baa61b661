"""The paper's loss, as an objective of the trainer."""

from __future__ import annotations

import keras
from keras import ops

from cptk import checks
from cptk.losses.candidates import NegativeRules
from cptk.losses.in_batch import DOCUMENT_TO_QUERY, QUERY_TO_DOCUMENT, in_batch_softmax
from cptk.losses.matrix import check_label_smoothing
from cptk.losses.objective import Batch, Objective, PerAnchor
from cptk.losses.rows import larger
from cptk.losses.tiled import check_tile_size
from cptk.types import Config, Tensor


@keras.saving.register_keras_serializable(package="cptk")
class InfoNCE(Objective):
    """Each query finds its document among those of the batch, and each document its query.

    With unit vectors q_i and d_j of a batch of n pairs and s(i, j) = (q_i · d_j) / temperature,
    the loss of pair i is

        -1/2 log( exp s(i, i) / sum_j exp s(i, j) )  -  1/2 log( exp s(i, i) / sum_j exp s(j, i) )

    Where the pairs have a column "negatives", of 0 to k texts each, these are further documents d_j
    in the first sum: of every query of the batch, or of their own row's alone.

    Args:
        symmetric: Whether documents look for their queries too. Without it the loss is the first
            half, not halved.
        mask_equal_texts: Whether documents equal to a query's own document, and queries equal to a
            document's own query, are left out of its negatives. (Ours; off as in the paper.
            Equality is that of the token ids, after truncation.)
        tile_size: Rows and columns of the tiles in which the loss is computed, so that the matrix
            of logits is never held. By default tiles of 1,024 with micro-batches and for a
            `batch_size` of 4,096 or more, and else the whole matrix. One tile for the whole batch
            is the whole matrix.
        label_smoothing: e, of 0 or more and below 1: the target is e / k at each of k candidates,
            and 1 - e more at the positive.
        hard_negatives: "all": the texts of the column "negatives", where pairs have it, are
            negatives of every query of the batch. "own": of their row's query alone. None: they
            are not read.
        mask_groups: Whether pairs of one "group" are left out of each other's negatives: for
            queries with several positives. Pairs need the column then. Their hard negatives stay.
        same_side: Whether the other queries are negatives of a query too, and, if `symmetric`, the
            other documents of a document. Both directions have one denominator then, the sum of
            the two, in which the positive stands twice: the loss is log 2 or more.
        false_negative_margin: How far above that of its own positive a negative's cosine may be,
            as the model sees it now; one that is nearer is taken for a right answer that nobody
            has marked, and left out of this anchor's denominator. 0.1 leaves out what is clearly
            nearer; below 0 also what is almost as near. No gradient passes through the choice, and
            the accuracies that `fit` shows count all negatives. None: all stay.
        guide: Whether the cosines of the margin are those of another embedder, whose vectors the
            pairs have in the column "guide" (`cptk.mining.guide_vectors`).

    Raises:
        ValueError: A tile size below 1, another label smoothing or choice of hard negatives, a
            margin that is no number from -2 to 2, or none with a guide; or label smoothing with
            `hard_negatives="own"`, where candidates differ by row, or with `same_side` in both
            directions, which have one denominator.
        TypeError: A tile size that is no integer, or a switch that is no boolean.

    Example:

    ```pycon
    >>> import cptk
    >>> cptk.losses.InfoNCE(label_smoothing=0.1).get_config()["label_smoothing"]
    0.1

    ```

    References:
        Neelakantan et al. 2022, arXiv 2201.10005, section 2; hard negatives beside the batch's in
        section 3.2. Karpukhin et al. 2020, arXiv 2004.04906: of every query of the batch. Li et al.
        2023 (GTE), arXiv 2308.03281, section 3.3: `same_side` in one denominator. Zhang et al. 2025
        (Qwen3 Embedding), arXiv 2506.05176: `false_negative_margin`, of 0.1; Solatorio 2024
        (GISTEmbed), arXiv 2402.16829: `guide`, with a margin of 0. The other masks, the tiles and
        the smoothing are ours for it.
    """

    def __init__(
        self,
        symmetric: bool = True,
        mask_equal_texts: bool = False,
        tile_size: int | None = None,
        label_smoothing: float = 0.0,
        hard_negatives: str | None = "all",
        mask_groups: bool = False,
        same_side: bool = False,
        false_negative_margin: float | None = None,
        guide: bool = False,
    ) -> None:
        check_tile_size("InfoNCE", tile_size)
        self.symmetric = checks.switch("symmetric", symmetric)
        self.mask_equal_texts = checks.switch("mask_equal_texts", mask_equal_texts)
        self.tile_size = tile_size
        self.label_smoothing = check_label_smoothing("InfoNCE", label_smoothing)
        self.hard_negatives = hard_negatives
        if hard_negatives is not None:
            checks.choice("hard_negatives", hard_negatives, ("all", "own"))
            self.optional_columns = ("negatives",)
        if hard_negatives == "own" and self.label_smoothing:
            raise ValueError(
                'InfoNCE has no label smoothing with `hard_negatives="own"`: each row has other '
                'candidates. Use `hard_negatives="all"`, or `label_smoothing=0`.'
            )
        self.mask_groups = checks.switch("mask_groups", mask_groups)
        self.same_side = checks.switch("same_side", same_side)
        if self.same_side and self.symmetric and self.label_smoothing:
            raise ValueError(
                "InfoNCE has no label smoothing with `same_side=True` in both directions, which "
                "have one denominator. Use `symmetric=False`, or `label_smoothing=0`."
            )
        self.false_negative_margin = _check_margin(false_negative_margin)
        self.guide = checks.switch("guide", guide)
        if self.guide and self.false_negative_margin is None:
            raise ValueError(
                "InfoNCE with `guide=True` should have a `false_negative_margin`: how far above "
                "that of the positive a negative's cosine may be, by the guide. GISTEmbed takes 0."
            )
        reads = {"group": self.mask_groups, "guide": self.guide}
        self.columns = tuple(name for name, is_read in reads.items() if is_read)
        self.metrics = ("query_accuracy", "document_accuracy")[: 1 + self.symmetric]

    def call(self, batch: Batch) -> PerAnchor:
        directions = [QUERY_TO_DOCUMENT, DOCUMENT_TO_QUERY][: 1 + self.symmetric]
        rules = NegativeRules(
            self.mask_equal_texts,
            self.mask_groups,
            self.hard_negatives,
            self.same_side,
            self.false_negative_margin,
            self.guide,
        )
        found = in_batch_softmax(batch, directions, rules, self.label_smoothing)
        losses = found[0][0]
        if self.symmetric:
            of_document = found[1][0]
            if self.same_side:  # Each is the log of a denominator, less the logit of the positive.
                losses = _log_of_sum(losses, of_document)
            else:
                losses = (losses + of_document) * 0.5
        scores = [score for _, score in found]
        return PerAnchor(losses, dict(zip(self.metrics, scores, strict=True)))

    def chance(self, batch: Batch, pairs: Tensor) -> Tensor | None:
        if self.guide:
            return None  # it alone knows how many negatives there are
        if self.false_negative_margin is not None and self.false_negative_margin < 0:
            return None  # embeddings that are all alike have no negatives
        of_side = 2 * pairs - 1 if self.same_side else pairs
        of_query = of_side
        if batch.has_negative is not None:
            each = ops.sum(ops.cast(batch.has_negative, pairs.dtype))
            of_query = of_side + (each if self.hard_negatives == "all" else each / pairs)
        if not self.symmetric:
            return ops.log(of_query)
        if self.same_side:
            return ops.log(of_query + of_side)
        return (ops.log(of_query) + ops.log(of_side)) * 0.5

    def get_config(self) -> Config:
        return {
            "symmetric": self.symmetric,
            "mask_equal_texts": self.mask_equal_texts,
            "tile_size": self.tile_size,
            "label_smoothing": self.label_smoothing,
            "hard_negatives": self.hard_negatives,
            "mask_groups": self.mask_groups,
            "same_side": self.same_side,
            "false_negative_margin": self.false_negative_margin,
            "guide": self.guide,
        }


def _log_of_sum(first: Tensor, second: Tensor) -> Tensor:
    """log(exp first + exp second); `ops.logaddexp` is float32 on JAX and torch (Keras 3.15)."""
    top = ops.stop_gradient(larger(first, second))
    return top + ops.log(ops.exp(first - top) + ops.exp(second - top))


def _check_margin(margin: object) -> float | None:
    if margin is None:
        return None
    if not checks.is_number(margin) or not -2 <= margin <= 2:
        raise ValueError(
            "`false_negative_margin` should be a difference of cosines, from -2 to 2, or None. "
            f"Received: {checks.shown(margin)}."
        )
    return float(margin)
