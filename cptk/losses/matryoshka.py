"""Embeddings whose first numbers are embeddings too."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import keras

from cptk import checks
from cptk.losses.objective import EMBEDDED, Batch, Objective, PerAnchor, get
from cptk.losses.sum import check_weights, weighted, weighted_sum
from cptk.types import Config, Tensor


@keras.saving.register_keras_serializable(package="cptk")
class Matryoshka(Objective):
    """An objective over embeddings cut to several sizes, so that they may be cut in use.

    With x[:d] the first d numbers of an embedding, the loss of pair i is

        sum_d weight_d * loss( x[:d] )(i)

    of shape (n,). Objectives take cosines, so that cut embeddings need no new length. Columns and
    tiles are those of the objective, scores those at the largest of `dims`. The full size is one of
    them only if it is named. A `cptk.models.TextEmbedder` that is trained remembers `dims` as its
    `trained_dims`, in its preset too.

    Args:
        objective: An objective, or its name.
        dims: Sizes: positive integers, each once, none above that of the embeddings.
        weights: As many numbers of 0 or more; 1 each by default.

    Raises:
        ValueError: An unknown name, sizes that are none or above that of the embeddings (this at
            the call), or other weights.
        TypeError: No objective, or sizes that are no integers.

    Example:

    ```pycon
    >>> import cptk
    >>> from keras import ops
    >>> loss = cptk.losses.Matryoshka(cptk.losses.InfoNCE(), dims=[4, 2])
    >>> vectors = {"query": ops.ones((3, 4)), "document": ops.ones((3, 4))}
    >>> batch = cptk.losses.Batch(vectors, vectors, cptk.layers.ContrastiveHead(0.5), scale=2.0)
    >>> [round(float(x), 4) for x in loss(batch).losses]  # 2 log 3: all are alike
    [2.1972, 2.1972, 2.1972]

    ```

    References:
        Kusupati et al. 2022, Matryoshka Representation Learning, arXiv 2205.13147, equation 1.
    """

    def __init__(
        self,
        objective: Objective | str | Config,
        dims: Sequence[int],
        weights: Sequence[float] | None = None,
    ) -> None:
        self.objective = get(objective)
        self.dims = _check_dims(dims)
        self.weights = check_weights(weights, len(self.dims), "of `dims`")
        self.columns, self.metrics = self.objective.columns, self.objective.metrics
        self.optional_columns = self.objective.optional_columns
        self.tile_size = self.objective.tile_size
        self.needs_dropout = self.objective.needs_dropout
        # Of a Matryoshka in a Matryoshka, the inner one's sizes are what is left in the end.
        dims = tuple(weighted(self.dims, self.weights))
        self.trained_dims = self.objective.trained_dims or dims

    def call(self, batch: Batch) -> PerAnchor:
        largest, size = max(self.dims), batch.local["query"].shape[-1]
        if size is not None and largest > size:
            raise ValueError(
                f"Matryoshka expects `dims` of at most the size of the embeddings, {size}. "
                f"Received: dims={self.dims}. Leave {largest} out."
            )
        found = {dim: self.objective(_cut(batch, dim)) for dim in self.dims}
        losses = weighted_sum([x.losses for x in found.values()], self.weights)
        return PerAnchor(losses, found[largest].scores)

    def chance(self, batch: Batch, pairs: Tensor) -> Tensor | None:
        chance = self.objective.chance(batch, pairs)
        return None if chance is None else weighted_sum([chance] * len(self.dims), self.weights)

    def get_config(self) -> Config:
        return {
            "objective": keras.saving.serialize_keras_object(self.objective),
            "dims": self.dims,
            "weights": self.weights,
        }

    def __repr__(self) -> str:
        return (
            f"Matryoshka(objective={self.objective!r}, dims={self.dims!r}, "
            f"weights={self.weights!r})"
        )


def _cut(batch: Batch, dim: int) -> Batch:
    """The batch with the first numbers of its embeddings."""

    def cut(columns: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {name: x[..., :dim] if name in EMBEDDED else x for name, x in columns.items()}

    local = cut(batch.local)
    gathered = local if batch.gathered is batch.local else cut(batch.gathered)
    return dataclasses.replace(batch, local=local, gathered=gathered)


def _check_dims(dims: object) -> list[int]:
    found = [
        checks.integer(f"dims[{place}]", dim, 1)
        for place, dim in enumerate(checks.items(dims, "dims", "positive integers"))
    ]
    if not found or len({*found}) < len(found):
        raise ValueError(
            f"`dims` should hold one size or more, each once. Received: {checks.shown(found)}."
        )
    return found
