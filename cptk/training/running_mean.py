"""A mean over all pairs of all replicas."""

import threading
from typing import Any

import keras

from cptk.types import Tensor


class PairMean(keras.metrics.Mean):  # type: ignore[misc]
    """A mean that is told a batch's sum and weight, where Keras would take the batch's size.

    Keras weights a batch by its rows, of which some may hold no pair, and on TensorFlow each
    replica by its own. `ContrastiveTrainer.compute_loss` knows better and calls `add`.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        # Each replica of a MirroredStrategy traces the step in a thread of its own.
        self._told = threading.local()

    def add(self, total: Tensor, weight: Tensor) -> None:
        """Add a batch: the sum of its values, and of their weights."""
        self.total.assign_add(keras.ops.cast(total, self.dtype))
        self.count.assign_add(keras.ops.cast(weight, self.dtype))
        self._told.value = True

    def update_state(self, values: Any, sample_weight: Any = None) -> None:
        """As Keras calls it after `compute_loss`: only where that has not called `add`."""
        if not getattr(self._told, "value", False):
            super().update_state(values, sample_weight=sample_weight)
        self._told.value = False
