"""Means over all pairs of all replicas, and what the loss would be by chance."""

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

import keras
from keras import ops

from cptk import distribution
from cptk.types import Tensor


class PairMean(keras.metrics.Mean):  # type: ignore[misc]
    """A mean that is told a batch's sum and weight, where Keras would take the batch's size.

    Keras weights a batch by its rows, of which some may hold no pair, and on TensorFlow each
    replica by its own. `ContrastiveTrainer.compute_loss` knows better.
    """

    def add(self, total: Tensor, weight: Tensor) -> None:
        """Add a batch: the sum of its values, and of their weights."""
        self.total.assign_add(ops.cast(total, self.dtype))
        self.count.assign_add(ops.cast(weight, self.dtype))


class LossMean(PairMean):
    """The mean of what the steps optimise, each batch weighted by its pairs."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        # Each replica of a MirroredStrategy traces the step in a thread of its own.
        self._thread = threading.local()
        self.above_chance, self.chance = (
            self.add_variable((), "zeros", self.dtype, name=name)
            for name in ("above_chance", "chance")
        )

    @contextlib.contextmanager
    def weighed(self, pairs: Callable[[], Tensor]) -> Iterator[None]:
        """Within, `update_state` weights its loss by a number of pairs, of all replicas."""
        self._thread.pairs = pairs
        try:
            yield
        finally:
            self._thread.pairs = None

    def update_state(self, values: Tensor, sample_weight: Tensor | None = None) -> None:
        """As Keras calls it: with what `compute_loss` has returned, also that of a subclass."""
        pairs = getattr(self._thread, "pairs", None)
        if pairs is None:
            super().update_state(values, sample_weight=sample_weight)
            return
        weight = ops.cast(pairs(), self.dtype)
        loss = (
            distribution.all_reduce_sum(ops.cast(values, self.dtype))
            / distribution.replicas_in_sync()
        )
        self.add(loss * weight, weight)

    def compare_with_chance(self, loss: Tensor, by_chance: Tensor, weight: Tensor) -> None:
        """Add a batch to what `at_chance` says.

        Args:
            loss: The sum of its weighted losses.
            by_chance: The loss of a batch whose embeddings are all alike.
            weight: The sum of its weights.
        """
        chance = ops.cast(weight * ops.cast(by_chance, loss.dtype), self.dtype)
        self.chance.assign_add(chance)
        self.above_chance.assign_add(ops.cast(loss, self.dtype) - chance)

    def at_chance(self) -> bool:
        """Whether the loss is, within 1%, that of embeddings which are all alike."""
        above, chance = (_first(variable.value) for variable in (self.above_chance, self.chance))
        return chance > 0 and abs(above) < 0.01 * chance

    def reset_state(self) -> None:
        super().reset_state()
        for variable in (self.above_chance, self.chance):
            variable.assign(0)


def _first(value: Tensor) -> float:
    """A scalar; under a strategy that of the first replica, as all add the same."""
    parts = getattr(value, "values", None)
    return float(ops.convert_to_numpy(parts[0] if isinstance(parts, tuple) else value))
