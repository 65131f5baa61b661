"""Cosines in the order of their scores."""

from __future__ import annotations

import keras
from keras import ops

from cptk import checks
from cptk.losses.masks import LEFT_OUT
from cptk.losses.objective import Batch, Objective
from cptk.ops import dimension, l2_normalize
from cptk.types import Config, Tensor


@keras.saving.register_keras_serializable(package="cptk")
class CoSENT(Objective):
    """Of any two pairs the one with the higher score should have the higher cosine.

    For pairs of texts with graded similarity, in the column "score": numbers of any range, of which
    only the order counts. With c_i the cosine of pair i and s_i its score, the loss of a batch is

        log( 1 + sum_{i, j: s_i > s_j} exp( scale * (c_j - c_i) ) )

    over all pairs of the batch, on all devices. Pairs of equal scores are not compared; where no
    two differ, the loss is 0. It is no mean over pairs: `call` returns this one value for each of
    the n local pairs, `(n,)`, so that their mean is the loss. So a weight of a pair does not weigh
    its cosine: weights multiply the batch's loss by their mean.

    All (m, m) differences are held at once.

    Args:
        scale: A fixed factor, above 0; None: 1 / temperature, which is trained.

    Raises:
        ValueError: A scale that is no positive finite number, or several scores a pair.

    Example:

    ```pycon
    >>> import cptk
    >>> from keras import ops
    >>> columns = {"query": ops.eye(2), "document": ops.ones((2, 2)), "score": ops.arange(2)}
    >>> batch = cptk.losses.Batch(columns, columns, cptk.layers.ContrastiveHead(), scale=14.3)
    >>> [round(float(x), 4) for x in cptk.losses.CoSENT()(batch).losses]  # log 2: equal cosines
    [0.6931, 0.6931]

    ```

    References:
        Su 2022, CoSENT, https://kexue.fm/archives/8847; Huang et al. 2024, CoSENT: Consistent
        Sentence Embedding via Similarity Ranking, IEEE/ACM TASLP 32. A scale of 20 is the first's.
    """

    columns = ("score",)

    def __init__(self, scale: float | None = 20.0) -> None:
        self.scale = None if scale is None else checks.positive("scale", scale, ", or None")

    def call(self, batch: Batch) -> Tensor:
        score = batch.gathered["score"]
        if len(score.shape) != 1:
            raise ValueError(
                "CoSENT expects one score a pair, of shape (batch,). "
                f"Received: {tuple(score.shape)}."
            )
        unit = [l2_normalize(batch.gathered[side]) for side in ("query", "document")]
        cosine = ops.sum(unit[0] * unit[1], axis=1)
        cosine = cosine * (batch.scale if self.scale is None else self.scale)
        # Row i is the pair of the higher score, column j that of the lower.
        differences = ops.expand_dims(cosine, 0) - ops.expand_dims(cosine, 1)
        compared = ops.greater(ops.expand_dims(score, 1), ops.expand_dims(score, 0))
        if batch.is_pair is not None:
            both = [ops.expand_dims(batch.is_pair, axis) for axis in (0, 1)]
            compared = ops.logical_and(compared, ops.logical_and(*both))
        differences = ops.where(compared, differences, LEFT_OUT)
        top = ops.stop_gradient(ops.relu(ops.max(differences)))  # The 1 is exp(0).
        loss = top + ops.log(ops.exp(-top) + ops.sum(ops.exp(differences - top)))
        return ops.broadcast_to(loss, (dimension(batch.local["query"], 0),))

    def get_config(self) -> Config:
        return {"scale": self.scale}
