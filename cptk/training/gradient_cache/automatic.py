"""`micro_batch_size="auto"`: a few sizes tried out."""

from __future__ import annotations

import time

import keras
import numpy as np

from cptk import distribution
from cptk.training.gradient_cache.backends import backend
from cptk.training.gradient_cache.memory import is_out_of_memory, watched_memory
from cptk.training.gradient_cache.options import MicroBatches
from cptk.training.gradient_cache.step import CachedTrainable

SIZES = (8, 32, 128)
"""Micro-batches that "auto" tries. Each is compiled, hence few; between two the speed differs
little."""


def choose_micro_batch_size(trainer: CachedTrainable, length: int, verbose: bool) -> MicroBatches:
    """`micro_batch_size="auto"` as a number: tried out on texts of `length` tokens, and said.

    The size is that at which most texts a second go forward and back; a larger one is taken
    where it gains 5% or more, and tried where what the last one took leaves room for it.
    """
    distribution.build(trainer)  # Its moments take memory too, and so do sums of gradients.
    sums = sum(4.0 * np.prod(weight.shape) for weight in trainer.trainable_weights)
    best, most, why = 0, 0.0, f"the largest tried, at {length} tokens a text"
    sizes = [*SIZES]
    while sizes:
        size = sizes.pop(0)
        tokens = {
            "token_ids": np.ones((size, length), "int32"),
            "padding_mask": np.ones((size, length), bool),
        }
        try:
            with watched_memory(backend().free_memory) as free:
                run = backend().attempt(trainer, tokens)
                start = time.perf_counter()
                run()
                speed = size / (time.perf_counter() - start)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            if best == 0 and size > 1:
                sizes = [1]
                continue
            if best == 0:
                raise MemoryError(
                    f"There is not the memory to train on one text of {length} tokens, by "
                    '`micro_batch_size="auto"`. Use a smaller model or sequence_length, LoRA '
                    "(cptk.training.enable_lora) or 16 bits (cptk.models.fastest_dtype)."
                ) from error
            why = f"{size} texts of {length} tokens do not fit in memory"
            break
        if speed < 1.05 * most:
            why = f"{most:.3g} texts a second, and {size} at once are no faster ({speed:.3g})"
            break
        best, most = size, speed
        larger = (free[0] - free[1]) * SIZES[1] / SIZES[0]
        if keras.config.backend() == "tensorflow":
            larger *= backend().in_flight(trainer.embedder)
        if larger > 0.8 * (free[0] - sums):
            why = f"more would not fit in the {free[0] / 2**30:.1f} GiB that are free"
            break
    best = distribution.broadcast_from_chief(best, trainer)
    if keras.config.backend() == "jax":
        best *= distribution.replicas().total  # There it is cut among the devices.
    if verbose and distribution.is_chief(trainer):
        print(f'micro_batch_size="auto" is {best}: {why}.', flush=True)
    return MicroBatches(best)
