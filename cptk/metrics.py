"""Streaming metrics of contrastive training, for `compile`, `compute_loss` and alone.

They take the (n, m) matrix that the head gives, positives on the diagonal, columns from n
on extra negatives, and keep running means over anchors.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

import keras
from keras import ops

from cptk import checks
from cptk.losses.matrix import check_logits
from cptk.losses.scores import in_batch_scores
from cptk.ops import (
    as_tensor,
    dimension,
    float32_or_higher,
    is_known_mismatch,
    off_diagonal,
    static_shape,
)
from cptk.types import Config, DType, Tensor, TensorLike

__all__ = ["InBatchAccuracy", "NegativeCosine", "PositiveCosine", "Temperature"]

Direction: TypeAlias = Literal["query_to_document", "document_to_query"]

_DIRECTIONS = ("query_to_document", "document_to_query")


@keras.saving.register_keras_serializable(package="cptk")
class InBatchAccuracy(keras.metrics.Mean):  # type: ignore[misc]
    """How often the positive has the highest logit among its candidates.

    An anchor scores 0 if any candidate is above its positive, else 1 / (number of
    candidates that equal the positive, itself included): what breaking ties at random
    scores on average. So an embedder that has collapsed to one vector scores chance, 1 / m. With
    `>=` in place of ties it would score 100 %. NaN scores 0.

    The logits of equal texts may differ in the last bit, which depends on the backend and on the
    size of the batch. Given the `ids` of the texts, equal texts tie whatever that bit is.

    Args:
        direction: "query_to_document" ranks the m documents of each query (rows),
            "document_to_query" the n queries of each of the first n documents (columns).
        name: defaults to the direction and "_accuracy".
        dtype: of the running sums.

    Raises:
        ValueError: for another direction.

    Example:

    ```pycon
    >>> import cptk
    >>> accuracy = cptk.metrics.InBatchAccuracy()
    >>> accuracy.update_state([[9.0, 1.0], [5.0, 2.0]])
    >>> float(accuracy.result())
    0.5

    ```
    """

    def __init__(
        self,
        direction: Direction = "query_to_document",
        name: str | None = None,
        dtype: DType | None = None,
    ) -> None:
        checks.choice("direction", direction, _DIRECTIONS)
        super().__init__(name=name or f"{direction}_accuracy", dtype=dtype)
        self.direction = direction

    def update_state(
        self,
        logits: TensorLike,
        sample_weight: TensorLike | None = None,
        mask: TensorLike | None = None,
        ids: TensorLike | None = None,
    ) -> None:
        """Adds a batch.

        Args:
            logits: (n, m), m >= n; cosines will do as well.
            sample_weight: (n,), the weight of each anchor in the mean.
            mask: (n, m) boolean, True at known false negatives, which do not compete.
            ids: integers of the candidates, equal where their texts are, as
                `cptk.losses.text_ids` gives: (m,) of the documents for "query_to_document", (n,)
                of the queries for "document_to_query".

        Raises:
            ValueError: if a rank or a known dimension does not fit.
        """
        logits = _matrix(self, logits, "logits")
        if self.direction == "document_to_query":
            rows = dimension(logits, 0)
            logits = ops.transpose(logits[:, :rows])
            mask = None if mask is None else ops.transpose(as_tensor(mask)[:, :rows])
        scores = in_batch_scores(logits, mask, _candidate_ids(self, logits, ids))
        super().update_state(scores, sample_weight=_weights(self, logits, sample_weight))

    def get_config(self) -> Config:
        return {"name": self.name, "dtype": self.dtype, "direction": self.direction}


@keras.saving.register_keras_serializable(package="cptk")
class PositiveCosine(keras.metrics.Mean):  # type: ignore[misc]
    """The mean cosine of the positive pairs, the diagonal. Alignment: 1 is best.

    Example:

    ```pycon
    >>> import cptk
    >>> cosine = cptk.metrics.PositiveCosine()
    >>> cosine.update_state([[0.75, 0.0], [0.0, 0.25]])
    >>> float(cosine.result())
    0.5

    ```
    """

    def __init__(self, name: str = "positive_cosine", dtype: DType | None = None) -> None:
        super().__init__(name=name, dtype=dtype)

    def update_state(self, cosine: TensorLike, sample_weight: TensorLike | None = None) -> None:
        """Adds a batch: cosine (n, m) with m >= n, sample_weight (n,)."""
        cosine = _matrix(self, cosine, "cosine")
        weights = _weights(self, cosine, sample_weight)
        super().update_state(ops.diagonal(cosine), sample_weight=weights)


@keras.saving.register_keras_serializable(package="cptk")
class NegativeCosine(keras.metrics.Mean):  # type: ignore[misc]
    """The mean over queries of the mean cosine with the documents that are not theirs.

    High values mean that all texts lie in one direction (a collapsed, or an anisotropic,
    space). Anchors without any negative (one pair, or all masked) count for nothing.

    Example:

    ```pycon
    >>> import cptk
    >>> cosine = cptk.metrics.NegativeCosine()
    >>> cosine.update_state([[1.0, 0.5], [0.0, 1.0]])
    >>> float(cosine.result())
    0.25

    ```
    """

    def __init__(self, name: str = "negative_cosine", dtype: DType | None = None) -> None:
        super().__init__(name=name, dtype=dtype)

    def update_state(
        self,
        cosine: TensorLike,
        sample_weight: TensorLike | None = None,
        mask: TensorLike | None = None,
    ) -> None:
        """Adds a batch.

        Args:
            cosine: (n, m), m >= n.
            sample_weight: (n,), the weight of each query in the mean.
            mask: (n, m) boolean, True at known false negatives, which are left out.
        """
        cosine = _matrix(self, cosine, "cosine")
        negative = off_diagonal(dimension(cosine, 0), dimension(cosine, 1))
        if mask is not None:
            negative = ops.logical_and(negative, ops.logical_not(ops.cast(mask, "bool")))
        count = ops.sum(ops.cast(negative, cosine.dtype), axis=1)
        total = ops.sum(ops.where(negative, cosine, 0.0), axis=1)
        weights = ops.cast(ops.greater(count, 0), cosine.dtype)
        if sample_weight is not None:
            weights = ops.multiply(weights, _weights(self, cosine, sample_weight))
        values = ops.divide(total, ops.maximum(count, 1.0))
        super().update_state(values, sample_weight=weights)


@keras.saving.register_keras_serializable(package="cptk")
class Temperature(keras.metrics.Metric):  # type: ignore[misc]
    """The temperature as of the last update: the value now, not a mean over the epoch.

    Example:

    ```pycon
    >>> import cptk
    >>> temperature = cptk.metrics.Temperature()
    >>> temperature.update_state(0.5)
    >>> temperature.update_state(0.25)
    >>> float(temperature.result())
    0.25

    ```
    """

    def __init__(self, name: str = "temperature", dtype: DType | None = None) -> None:
        super().__init__(name=name, dtype=dtype)
        # "mean": replicas hold the same value, and a sum would multiply it by their number.
        self.last = self.add_variable(
            shape=(), initializer="zeros", dtype=self.dtype, aggregation="mean", name="last"
        )

    def update_state(self, value: TensorLike, sample_weight: None = None) -> None:
        """Takes the new value, a scalar: `head.temperature`."""
        value = as_tensor(value)
        if static_shape(value) != ():
            raise ValueError(
                f"Temperature expects a scalar. Received a value of shape {static_shape(value)}."
            )
        self.last.assign(ops.cast(value, self.dtype))

    def result(self) -> Tensor:
        return ops.cast(self.last, self.dtype)

    def reset_state(self) -> None:
        self.last.assign(0)


def _matrix(metric: keras.metrics.Metric, values: TensorLike, name: str) -> Tensor:
    values = float32_or_higher(values)
    check_logits(type(metric).__name__, values, name)
    return values


def _candidate_ids(
    metric: keras.metrics.Metric, logits: Tensor, ids: TensorLike | None
) -> Tensor | None:
    if ids is None:
        return None
    ids = as_tensor(ids)
    _check_vector(metric, "ids", ids, static_shape(logits)[1], "one number per candidate")
    return ids


def _check_vector(
    metric: keras.metrics.Metric, name: str, values: Tensor, size: int | None, what: str
) -> None:
    shape = static_shape(values)
    if len(shape) != 1 or is_known_mismatch(shape[0], size):
        raise ValueError(
            f"{type(metric).__name__} expects `{name}` of shape ({size},), {what}. "
            f"Received: {name}.shape={shape}."
        )


def _weights(
    metric: keras.metrics.Metric, matrix: Tensor, sample_weight: TensorLike | None
) -> Tensor | None:
    if sample_weight is None:
        return None
    sample_weight = ops.cast(sample_weight, metric.dtype)
    rows = static_shape(matrix)[0]
    _check_vector(metric, "sample_weight", sample_weight, rows, "one weight per anchor")
    return sample_weight
