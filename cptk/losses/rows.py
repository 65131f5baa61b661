"""Rows of arrays whose place is known at run time alone, on each backend as it is quick there."""

from __future__ import annotations

import keras
from keras import ops

from cptk.ops import dimension
from cptk.types import Size, Tensor, Tree


def slice_rows(array: Tensor, start: Size, size: Size) -> Tensor:
    """array[start : start + size], where both may be known at run time alone."""
    further = range(1, len(array.shape))
    sizes = (size, *(dimension(array, axis) for axis in further))
    return ops.slice(array, (start, *(0 for _ in further)), sizes)


def write_rows(array: Tensor, start: Size, rows: Tensor) -> Tensor:
    """The array with array[start : start + len(rows)] = rows.

    In place on torch, where `ops.slice_update` copies the array, and in loops of JAX. TensorFlow
    always copies it, which is cheap as long as the array is narrow.
    """
    backend = keras.backend.backend()
    if backend == "torch":
        array[start : start + len(rows)] = rows
        return array
    if backend == "tensorflow":
        indices = ops.arange(dimension(rows, 0)) + start
        return ops.scatter_update(array, ops.expand_dims(indices, 1), rows)
    return ops.slice_update(array, (start, 0), rows)


# Sums of the shape of embeddings, of what the tiles add to their rows: an array on JAX and torch.
# On TensorFlow, which copies an array to change a part of it, a list with a part for each tile.


def open_sum(like: Tensor, tile: int) -> Tree:
    """Zeros."""
    if keras.backend.backend() != "tensorflow":
        return ops.zeros_like(like)
    import tensorflow as tf

    size = dimension(like, 0)
    zeros = ops.zeros_like(like[: smaller(tile, size)])
    count = _start_of_last(size, tile) // tile + 1
    # Cleared, a part could be read but once.
    parts = tf.TensorArray(zeros.dtype, count, clear_after_read=False, element_shape=zeros.shape)
    return ops.fori_loop(0, count, lambda i, parts: parts.write(i, zeros), parts)


def add_rows(total: Tree, start: Size, index: Size, rows: Tensor) -> Tree:
    """The sum after a tile, the index-th from `start` on, has added its rows."""
    backend = keras.backend.backend()
    if backend == "tensorflow":
        return total.write(index, total.read(index) + rows)
    if backend == "torch":
        total[start : start + len(rows)] += rows
        return total
    return write_rows(total, start, slice_rows(total, start, len(rows)) + rows)


def close_sum(total: Tree, size: Size, tile: int) -> Tensor:
    """The sum as an array."""
    if keras.backend.backend() != "tensorflow":
        return total
    parts = total.stack()
    rows = ops.reshape(parts, (-1, dimension(parts, 2)))
    if divides(smaller(tile, size), size):
        return rows
    before = _start_of_last(size, tile)
    return ops.concatenate([rows[:before], rows[dimension(rows, 0) - (size - before) :]], axis=0)


def _start_of_last(size: Size, tile: int) -> Tree:
    """The first index that only the last tile sees."""
    last = max(size - 1, 0) if isinstance(size, int) else ops.maximum(size - 1, 0)
    return last // tile * tile


def larger(first: Tensor, second: Tensor) -> Tensor:
    """Not `ops.maximum`, which returns float32 for float64 on torch (Keras 3.15)."""
    return ops.where(ops.greater(first, second), first, second)


def smaller(first: Size, second: Size) -> Size:
    """An int if both are: `ops.minimum` would make a tensor of them."""
    if isinstance(first, int) and isinstance(second, int):
        return min(first, second)
    return ops.minimum(first, second)


def divides(size: Size, total: Size) -> bool:
    """Whether tiles of the size are known to cover the total without overlap."""
    return isinstance(size, int) and isinstance(total, int) and total % max(size, 1) == 0
