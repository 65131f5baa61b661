"""Several objectives at once."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TypeVar

import keras

from cptk import checks
from cptk.losses.objective import Batch, Objective, PerAnchor, get
from cptk.types import Config, Tensor

T = TypeVar("T")


@keras.saving.register_keras_serializable(package="cptk")
class Sum(Objective):
    """The weighted sum of objectives.

    The loss of pair i is

        sum_k weight_k * loss_k(i)

    of shape (n,), as each of them. It reads the columns that any of them reads, and shows the
    scores of all; of a name that several have, the score of the first. Where one asks for tiles,
    all that can take them, the smallest that are asked for.

    Args:
        objectives: Objectives, or their names.
        weights: As many numbers of 0 or more; 1 each by default.

    Raises:
        ValueError: No objectives, an unknown name, or other weights.
        TypeError: Not a sequence, or an item that is no objective.

    Example:

    ```pycon
    >>> import cptk
    >>> loss = cptk.losses.Sum([cptk.losses.InfoNCE(), cptk.losses.CoSENT()], weights=[1, 0.1])
    >>> loss.columns, loss.metrics
    (('score',), ('query_accuracy', 'document_accuracy'))

    ```
    """

    def __init__(
        self,
        objectives: Sequence[Objective | str | Config],
        weights: Sequence[float] | None = None,
    ) -> None:
        self.objectives = [get(x) for x in checks.items(objectives, "objectives", "objectives")]
        if not self.objectives:
            raise ValueError("`objectives` is empty. Pass at least one.")
        self.weights = check_weights(weights, len(self.objectives), "objective")
        self.columns = _once(x.columns for x in self.objectives)
        self.optional_columns = _once(x.optional_columns for x in self.objectives)
        self.metrics = _once(x.metrics for x in self.objectives)
        sizes = [x.tile_size for x in self.objectives if x.tile_size is not None]
        self.tile_size = min(sizes, default=None)
        self.needs_dropout = any(x.needs_dropout for x in self.objectives)
        self.trained_dims = _once(x.trained_dims for x in weighted(self.objectives, self.weights))

    def call(self, batch: Batch) -> PerAnchor:
        found = [objective(batch) for objective in self.objectives]
        scores: dict[str, Tensor] = {}
        for of_one in reversed(found):
            scores |= of_one.scores
        return PerAnchor(weighted_sum([x.losses for x in found], self.weights), scores)

    def chance(self, batch: Batch, pairs: Tensor) -> Tensor | None:
        found = [objective.chance(batch, pairs) for objective in self.objectives]
        return None if any(x is None for x in found) else weighted_sum(found, self.weights)

    def get_config(self) -> Config:
        objectives = [keras.saving.serialize_keras_object(x) for x in self.objectives]
        return {"objectives": objectives, "weights": self.weights}

    def __repr__(self) -> str:
        return f"Sum(objectives={self.objectives!r}, weights={self.weights!r})"


def check_weights(weights: object, count: int, of: str) -> list[float] | None:
    """None, or as many numbers of 0 or more, not all 0, or an error."""
    if weights is None:
        return None
    found = checks.items(weights, "weights", "numbers")
    fit = all(checks.is_number(x) and 0 <= x < math.inf for x in found)
    if not fit or len(found) != count or not any(found):
        raise ValueError(
            f"`weights` should be {count} finite numbers of 0 or more, one for each {of}, and not "
            f"all 0. Received {len(found)}: {checks.shown(found)}."
        )
    return [float(x) for x in found]


def weighted_sum(values: Sequence[Tensor], weights: Sequence[float] | None) -> Tensor:
    """The sum of tensors, each times its weight; without weights just the sum."""
    if weights is not None:
        values = [value * weight for value, weight in zip(values, weights, strict=True)]
    return sum(values[1:], start=values[0])


def weighted(items: Sequence[T], weights: Sequence[float] | None) -> list[T]:
    """The items whose weight is not 0."""
    return [x for x, weight in zip(items, weights or [1.0] * len(items), strict=True) if weight]


def _once(some: Iterable[tuple[T, ...]]) -> tuple[T, ...]:
    """All of them in their order, each once."""
    return tuple(dict.fromkeys(each for few in some for each in few))
