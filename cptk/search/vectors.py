"""The vectors of an index: those of its file, memory-mapped, and those that came after."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from cptk import checks
from cptk.search.exact import ROWS_AT_A_TIME, Floats, Integers


class Vectors:
    """Rows of unit length, float32: an array that is never written to, and a growing one after it.

    Args:
        base: (n, d).
    """

    def __init__(self, base: Floats) -> None:
        self.base = base
        self._grown = np.empty((0, base.shape[1]), np.float32)
        self._more = 0

    @property
    def tail(self) -> Floats:
        """(m, d) what was added."""
        return self._grown[: self._more]

    @property
    def dim(self) -> int:
        """d, the numbers of a vector."""
        return int(self.base.shape[1])

    def __len__(self) -> int:
        return len(self.base) + self._more

    def append(self, vectors: Floats) -> None:
        """Add rows, an array that nobody else writes to, after those that are there."""
        needed = self._more + len(vectors)
        if not self._more:
            self._grown, self._more = vectors, needed
            return
        if needed > len(self._grown):
            grown = np.empty((max(needed, 2 * len(self._grown)), self.dim), np.float32)
            grown[: self._more] = self.tail
            self._grown = grown
        # A search that began before sees the rows that were there then.
        self._grown[self._more : needed] = vectors
        self._more = needed

    def gather(self, rows: Integers) -> Floats:
        """The vectors of some rows, of any shape; those of a row below 0 are anybody's."""
        first = len(self.base)
        if not self._more:
            return np.take(self.base, rows, axis=0, mode="clip")
        if not first:
            return np.take(self.tail, rows, axis=0, mode="clip")
        found = np.take(self.base, rows, axis=0, mode="clip")
        late = rows >= first
        found[late] = self.tail[rows[late] - first]
        return found


def unit_vectors(values: ArrayLike, name: str, dim: int | None) -> Floats:
    """Vectors as (n, d) float32 of unit length; one of zeros stays as it is.

    Args:
        values: (n, d) real numbers.
        name: What the error calls them.
        dim: d, where it is known.

    Raises:
        TypeError: No array of real numbers.
        ValueError: Another shape or size, none at all, NaN or infinity.
    """
    array = _array(values)
    if array.dtype.kind not in "fiu":
        raise TypeError(
            f"`{name}` should be texts, or vectors: an array of real numbers, (n, d). Received: "
            f"{checks.shown(values)}."
        )
    if array.ndim != 2 or not array.size:
        raise ValueError(
            f"`{name}` should be texts, or vectors of shape (n, d). Received shape {array.shape}."
        )
    if dim is not None and array.shape[1] != dim:
        raise ValueError(
            f"`{name}` should have vectors of {dim} numbers, as this index has. Received vectors "
            f"of {array.shape[1]}: of another embedder, or cut to another length."
        )
    unit = np.empty(array.shape, np.float32)
    for start in range(0, len(array), ROWS_AT_A_TIME):
        part = slice(start, start + ROWS_AT_A_TIME)
        block = array[part].astype(np.float64)
        largest = np.abs(block).max(axis=1, keepdims=True)
        bad = np.flatnonzero(~np.isfinite(largest))
        if len(bad):
            raise ValueError(
                f"`{name}` should have finite vectors. Vector {start + int(bad[0])} has NaN or "
                "infinity in it."
            )
        if largest.max() > 1e100 or largest.min() < 1e-100:  # whose squares leave the range
            block /= np.where(largest > 0, largest, 1.0)
        lengths = np.sqrt(np.vecdot(block, block))[:, None]
        np.divide(block, np.where(lengths > 0, lengths, 1.0), out=unit[part], casting="same_kind")
    return unit


def texts_or_array(values: object) -> object:
    """Vectors as an array of NumPy's, whatever holds them; texts, and anything else, as they are.

    Example:

    ```pycon
    >>> from cptk.search.vectors import texts_or_array
    >>> texts_or_array([[1, 0]]).shape, texts_or_array(["a"]), texts_or_array(iter("ab"))
    ((1, 2), ['a'], ['a', 'b'])

    ```
    """
    if hasattr(values, "__next__"):
        values = list(values)  # type: ignore[call-overload]
    if isinstance(values, np.ndarray):
        return values if values.dtype.kind not in "OUT" or values.ndim != 1 else list(values)
    if isinstance(values, list | tuple):
        first = values[0] if values else ""
        numbers = checks.is_number(first) or hasattr(first, "__len__")
        return _array(values) if numbers and not isinstance(first, str | bytes) else values
    is_array = hasattr(values, "shape") and hasattr(values, "__array__")
    if is_array and not hasattr(values, "columns"):
        array = _array(values)
        return values if array.dtype.kind in "OUT" else array
    return values


def _array(values: object) -> np.ndarray[tuple[int, ...], np.dtype[np.generic]]:
    if hasattr(values, "detach"):  # a torch tensor, which NumPy refuses where it has a gradient
        values = values.detach().cpu()
    try:
        array: np.ndarray[tuple[int, ...], np.dtype[np.generic]] = np.asarray(values)
    except (ValueError, TypeError):  # rows of unequal length
        return np.empty(0, object)
    if array.dtype.kind == "V" and array.dtype.itemsize == 2:  # bfloat16 from ml_dtypes
        array = array.astype(np.float32)
    return array
