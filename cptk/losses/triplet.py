"""Triplets: a margin between the document of a query and the others."""

from __future__ import annotations

import keras
from keras import ops

from cptk import checks
from cptk.losses.masks import TIE
from cptk.losses.objective import Batch, Objective, PerAnchor
from cptk.ops import cosine_similarity
from cptk.types import Config


@keras.saving.register_keras_serializable(package="cptk")
class TripletLoss(Objective):
    """The other documents of a batch should stay a margin farther from a query than its own.

    With c(i, j) the cosine of query i and document j, so that their distance is 1 - c(i, j), the
    loss of pair i is

        mean_{j in N(i)} max( 0, margin + c(i, j) - c(i, i) )

    where N(i) holds all negatives of the batch, or only the nearest, and is 0 without negatives.
    Embeddings are (n, dim) local and (m, dim) gathered ones, losses (n,). The temperature plays no
    part. The score "violated" is the share of N(i) that is within the margin.

    Args:
        margin: Above 0; two cosines are 2 apart at most.
        mining: "all", or "hardest": the negative of the highest cosine. Some that are equally near
            count alike.
        mask_equal_texts: Whether documents equal to a query's own document, and those of equal
            queries, are left out of its negatives. With "hardest" they would else be the nearest.

    Raises:
        ValueError: A margin that is no positive finite number, or another mining.
        TypeError: `mask_equal_texts` is no boolean.

    Example:

    ```pycon
    >>> import cptk
    >>> from keras import ops
    >>> vectors = {"query": ops.eye(3), "document": ops.convert_to_tensor([[1.0, 0, 0]] * 3)}
    >>> batch = cptk.losses.Batch(vectors, vectors, cptk.layers.ContrastiveHead(), scale=14.3)
    >>> [round(float(x), 4) for x in cptk.losses.TripletLoss(margin=0.2)(batch).losses]
    [0.2, 0.2, 0.2]

    ```

    References:
        Schroff et al. 2015, FaceNet, arXiv 1503.03832, equation 3. Its margin of 0.2 is one of
        squared distances of unit vectors, which are twice ours; the mean is ours, for the sum.
        Hermans et al. 2017, arXiv 1703.07737: all triplets of a batch, and the hardest.
    """

    metrics = ("violated",)

    def __init__(
        self, margin: float = 0.1, mining: str = "all", mask_equal_texts: bool = False
    ) -> None:
        self.margin = checks.positive("margin", margin)
        self.mining = checks.choice("mining", mining, ("all", "hardest"))
        self.mask_equal_texts = checks.switch("mask_equal_texts", mask_equal_texts)

    def call(self, batch: Batch) -> PerAnchor:
        cosine = cosine_similarity(batch.local["query"], batch.gathered["document"])
        negative = batch.negatives(self.mask_equal_texts)
        if self.mining == "hardest":
            nearest = ops.max(ops.where(negative, cosine, -2.0), axis=1, keepdims=True)
            # So written, a NaN is as near as any.
            farther = ops.less(cosine, ops.stop_gradient(nearest) - TIE)
            negative = ops.logical_and(negative, ops.logical_not(farther))
        excess = cosine - ops.expand_dims(ops.diagonal(cosine), 1) + self.margin
        number = ops.sum(ops.cast(negative, cosine.dtype), axis=1)
        number = ops.where(ops.greater(number, 0.0), number, 1.0)
        violated = ops.cast(ops.logical_and(negative, ops.greater(excess, 0.0)), cosine.dtype)
        losses = ops.sum(ops.where(negative, ops.relu(excess), 0.0), axis=1) / number
        return PerAnchor(losses, {"violated": ops.sum(violated, axis=1) / number})

    def get_config(self) -> Config:
        return {
            "margin": self.margin,
            "mining": self.mining,
            "mask_equal_texts": self.mask_equal_texts,
        }
