"""Batches whose content is a function of (seed, epoch, step) and of nothing else."""

from __future__ import annotations

import keras
import numpy as np
from numpy.typing import NDArray

from cptk import checks
from cptk.types import KerasBatch


class OrderedBatches(keras.utils.PyDataset):  # type: ignore[misc]
    """The base of cptk's own batches: passes over the data, one after the other.

    A subclass says how many batches a pass has (`batches_per_pass`) and what a batch holds
    (`batch_at`). Epochs begin where the last one ended, whatever their length.

    Args:
        shuffle: Whether each pass has an order of its own.
        seed: Integer that fixes the orders.
        steps_per_epoch: Batches in an epoch; by default those of a pass.

    Attributes:
        start: Number of batches that earlier calls of `fit` have taken.
        epoch: The epoch, which `fit` sets.
    """

    size: int
    """Pairs, in all."""
    batch_size: int
    sample_weight: NDArray[np.float32] | None

    def __init__(self, shuffle: bool, seed: object, steps_per_epoch: object) -> None:
        # Two workers are threads that fetch batches ahead of training; one is none in Keras.
        super().__init__(workers=2, max_queue_size=4)
        self.shuffle = shuffle
        self.seed = _at_least("seed", seed, 0)
        self.steps_per_epoch = self.batches_per_pass
        if steps_per_epoch is not None:
            self.steps_per_epoch = _at_least("steps_per_epoch", steps_per_epoch, 1)
        self.start = self.epoch = 0

    @property
    def batches_per_pass(self) -> int:
        """Batches in one pass over the data."""
        raise NotImplementedError

    @property
    def digest(self) -> str:
        """What the pairs are: equal for equal pairs in equal order."""
        raise NotImplementedError

    def batch_at(self, place: int) -> KerasBatch:
        """The batch after so many others, from the first pass on."""
        raise NotImplementedError

    def place(self, batches: int) -> tuple[int, int]:
        """Where the order stands after so many batches: whole passes, then pairs of the next."""
        passes, rest = divmod(batches, self.batches_per_pass)
        return passes, rest * self.batch_size

    def batches_before(self, passes: int, pairs: int) -> int:
        """The number of batches of `place`, rounded down where the batch size is another now."""
        last = self.batches_per_pass - 1
        return passes * self.batches_per_pass + min(pairs // self.batch_size, last)

    def __len__(self) -> int:
        return self.steps_per_epoch

    def __getitem__(self, index: int) -> KerasBatch:
        if not 0 <= index < len(self):
            raise IndexError(f"Batch {index} of {len(self)}.")
        return self.batch_at(self.start + self.epoch * len(self) + index)


def count_batches(size: int, batch_size: int) -> int:
    """Batches of a pass over `size` pairs; a last pair alone is put with the batch before."""
    whole, rest = divmod(size, batch_size)
    return whole + (rest > 1) or 1


def places_of(batch: int, size: int, batch_size: int) -> range:
    """The places of the order that a batch of a pass has."""
    last = batch == count_batches(size, batch_size) - 1
    return range(batch * batch_size, size if last else (batch + 1) * batch_size)


def _at_least(name: str, value: object, least: int) -> int:
    if not checks.is_integer(value) or value < least:
        shown = checks.shown(value)
        raise ValueError(f"`{name}` should be an integer of {least} or more. Received: {shown}.")
    return int(value)
