"""The paper's loss, as an objective of the trainer."""

from __future__ import annotations

import keras
from keras import ops

from cptk.losses.in_batch import DOCUMENT_TO_QUERY, QUERY_TO_DOCUMENT, in_batch_softmax
from cptk.losses.matrix import check_label_smoothing
from cptk.losses.objective import Batch, Objective, PerAnchor
from cptk.losses.tiled import check_tile_size
from cptk.types import Config, Tensor


@keras.saving.register_keras_serializable(package="cptk")
class InfoNCE(Objective):
    """Each query finds its document among those of the batch, and each document its query.

    With unit vectors q_i and d_j of a batch of n pairs and s(i, j) = (q_i · d_j) / temperature,
    the loss of pair i is

        -1/2 log( exp s(i, i) / sum_j exp s(i, j) )  -  1/2 log( exp s(i, i) / sum_j exp s(j, i) )

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

    Raises:
        ValueError: A tile size below 1, or another label smoothing.
        TypeError: A tile size that is no integer, or a switch that is no boolean.

    Example:

    ```pycon
    >>> import cptk
    >>> cptk.losses.InfoNCE(label_smoothing=0.1).get_config()["label_smoothing"]
    0.1

    ```

    References:
        Neelakantan et al. 2022, arXiv 2201.10005, section 2. The mask, the tiles and the smoothing
        are ours for it.
    """

    def __init__(
        self,
        symmetric: bool = True,
        mask_equal_texts: bool = False,
        tile_size: int | None = None,
        label_smoothing: float = 0.0,
    ) -> None:
        check_tile_size("InfoNCE", tile_size)
        self.symmetric = check_switch("symmetric", symmetric)
        self.mask_equal_texts = check_switch("mask_equal_texts", mask_equal_texts)
        self.tile_size = tile_size
        self.label_smoothing = check_label_smoothing("InfoNCE", label_smoothing)
        self.metrics = ("query_accuracy", "document_accuracy")[: 1 + self.symmetric]

    def call(self, batch: Batch) -> PerAnchor:
        directions = [QUERY_TO_DOCUMENT, DOCUMENT_TO_QUERY][: 1 + self.symmetric]
        found = in_batch_softmax(batch, directions, self.mask_equal_texts, self.label_smoothing)
        losses = found[0][0]
        if self.symmetric:
            losses = (losses + found[1][0]) * 0.5
        scores = [score for _, score in found]
        return PerAnchor(losses, dict(zip(self.metrics, scores, strict=True)))

    def chance(self, pairs: Tensor) -> Tensor:
        return ops.log(pairs)

    def get_config(self) -> Config:
        return {
            "symmetric": self.symmetric,
            "mask_equal_texts": self.mask_equal_texts,
            "tile_size": self.tile_size,
            "label_smoothing": self.label_smoothing,
        }


def check_switch(name: str, value: object) -> bool:
    """True or False, or an error."""
    if not isinstance(value, bool):
        raise TypeError(f"`{name}` should be True or False. Received: {value!r}.")
    return value
