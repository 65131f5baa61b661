"""Vectors in fewer bytes: float16, int8 with a calibration, or one bit a number; and back.

| dtype | bytes of d numbers | what is kept |
|---|---|---|
| `"float32"` | 4 d | all |
| `"float16"` | 2 d | 11 bits of each number |
| `"int8"` | d | which of 256 equal steps from `low` to `high`, of each dimension |
| `"binary"` | ⌈d / 8⌉ | whether each number is above 0 |
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cptk import checks
from cptk.types import Json, Vectors

__all__ = ["DTYPES", "Calibration", "calibrate", "code_shape", "dequantize", "quantize"]

VectorDType: TypeAlias = Literal["float32", "float16", "int8", "binary"]
"""What a vector is kept in."""

Codes: TypeAlias = NDArray[Any]
"""(n, d) float32, float16 or int8; (n, ⌈d / 8⌉) uint8 of bits."""

DTYPES = ("float32", "float16", "int8", "binary")

_STEPS = 255
_BLOCK = 1 << 22
"""Numbers that are converted at once: what is computed on the way stays small."""


class Calibration(NamedTuple):
    """Of each dimension the numbers that the first and the last of the 256 steps of int8 stand for.

    Example:

    ```pycon
    >>> import json
    >>> from cptk.quantization import Calibration, calibrate
    >>> calibration = calibrate([[0.0, -1.0], [0.5, 1.0]])
    >>> calibration.low.tolist(), calibration.high.tolist()
    ([0.0, -1.0], [0.5, 1.0])
    >>> again = Calibration.from_json(json.loads(json.dumps(calibration.to_json())))
    >>> again.high.tolist()
    [0.5, 1.0]

    ```
    """

    low: Vectors
    """(d,) float32."""
    high: Vectors
    """(d,) float32, nowhere below `low`."""

    def to_json(self) -> dict[str, list[float]]:
        """Two lists of numbers, of which `from_json` makes the same float32 numbers again."""
        return {"low": self.low.tolist(), "high": self.high.tolist()}

    @classmethod
    def from_json(cls, content: Json) -> Calibration:
        """A calibration that `to_json` has written.

        Raises:
            ValueError: Something else.
        """
        given = isinstance(content, Mapping) and {"low", "high"} <= set(content)
        return _checked(cls(content["low"], content["high"]) if given else content)


def calibrate(vectors: ArrayLike) -> Calibration:
    """The least and the greatest number of each dimension: between them lie the steps of int8.

    Args:
        vectors: (n, d) real numbers. A few thousand are enough; what lies outside of their range
            later is cut to it.

    Raises:
        TypeError: No array of real numbers.
        ValueError: No vectors, another shape, or NaN or infinity.

    Example:

    ```pycon
    >>> from cptk.quantization import calibrate, dequantize, quantize
    >>> vectors = [[0.0, -1.0], [0.5, 1.0], [0.25, 0.1]]
    >>> calibration = calibrate(vectors)
    >>> codes = quantize(vectors, "int8", calibration)
    >>> codes.tolist()
    [[-128, -128], [127, 127], [0, 12]]
    >>> [round(number, 2) for number in dequantize(codes, "int8", calibration, 2)[2].tolist()]
    [0.25, 0.1]

    ```
    """
    checked = _matrix(vectors)
    if not len(checked):
        raise ValueError("`vectors` is empty: a calibration is made of one vector or more.")
    return Calibration(checked.min(axis=0), checked.max(axis=0))


def quantize(
    vectors: ArrayLike, dtype: VectorDType, calibration: Calibration | None = None
) -> Codes:
    """Vectors in another type of number.

    Args:
        vectors: (n, d) real numbers.
        dtype: `"float32"`, `"float16"`, `"int8"` or `"binary"`.
        calibration: What the steps of int8 stand for (`calibrate`); for `"int8"` alone.

    Returns:
        (n, d) float32, float16 or int8: the nearest step, from -128 to 127. Of `"binary"`
        (n, ⌈d / 8⌉) uint8: a bit a number, 1 where it is above 0, the first in the highest bit of
        the first byte, as `np.packbits` gives it.

    Raises:
        TypeError: No array of real numbers, or no calibration.
        ValueError: An unknown `dtype`, another shape, NaN or infinity, a number too large for
            float16, no calibration for int8, or one of another size.

    Example:

    ```pycon
    >>> from cptk.quantization import quantize
    >>> quantize([[0.5, -0.5, 0.1]], "binary").tolist()  # 0b10100000
    [[160]]

    ```
    """
    checks.choice("dtype", dtype, DTYPES)
    checked = _matrix(vectors)
    if dtype == "float32":
        return checked
    if dtype == "float16":
        largest = float(np.abs(checked).max(initial=0))
        with np.errstate(over="ignore"):
            halves = checked.astype(np.float16)
        if np.isinf(halves).any():
            raise ValueError(
                f"`vectors` should hold numbers up to {np.finfo(np.float16).max:,.0f} for float16. "
                f"Received: {largest:g}. Scale them to unit length, or take float32."
            )
        return halves
    if dtype == "binary":
        return np.packbits(checked > 0, axis=1)
    known = _needed(calibration, checked.shape[1])
    codes = np.empty(checked.shape, np.int8)
    step = _step(known)
    for rows in _blocks(*checked.shape):
        above = checked[rows].astype(np.float64) - known.low
        steps = np.divide(above, step, out=np.zeros_like(above), where=step > 0)
        codes[rows] = np.clip(np.rint(steps), 0, _STEPS) - 128
    return codes


def dequantize(
    codes: ArrayLike, dtype: VectorDType, calibration: Calibration | None, dim: int
) -> Vectors:
    """The vectors that codes stand for.

    Args:
        codes: What `quantize` has made.
        dtype: What it was made with.
        calibration: The one that int8 was made with; else None.
        dim: d: the bits of a row end in zeros that stand for nothing where d is no multiple of 8.

    Returns:
        (n, d) float32. Of `"binary"` 1 / √d and -1 / √d: vectors of unit length.

    Raises:
        TypeError: No calibration where one is needed, or `dim` is no integer.
        ValueError: An unknown `dtype`; codes of another type or shape.

    Example:

    ```pycon
    >>> from cptk.quantization import dequantize, quantize
    >>> bits = quantize([[0.9, -0.1, 0.2, 0.3]], "binary")
    >>> dequantize(bits, "binary", None, 4).tolist()
    [[0.5, -0.5, 0.5, 0.5]]

    ```
    """
    checks.choice("dtype", dtype, DTYPES)
    dim = checks.integer("dim", dim, 1)
    array = np.asarray(codes)
    of_type, width = code_shape(dtype, dim)
    if array.ndim != 2 or array.shape[1] != width or array.dtype != of_type:
        raise ValueError(
            f"`codes` of {dim} numbers in {dtype} should be {of_type} of shape (n, {width}). "
            f"Received: {array.dtype} of shape {array.shape}."
        )
    if dtype in ("float32", "float16"):
        return array.astype(np.float32, copy=False)
    if dtype == "binary":
        bits = np.unpackbits(array, axis=1, count=dim)
        length = np.float32(1 / np.sqrt(dim))
        return np.where(bits, length, -length)
    known = _needed(calibration, dim)
    vectors = np.empty(array.shape, np.float32)
    step = _step(known)
    for rows in _blocks(*array.shape):
        vectors[rows] = known.low + (array[rows].astype(np.float64) + 128) * step
    return vectors


def code_shape(dtype: VectorDType, dim: int) -> tuple[np.dtype[Any], int]:
    """The NumPy type of the codes of vectors of `dim` numbers, and how many a vector has.

    Example:

    ```pycon
    >>> from cptk.quantization import code_shape
    >>> code_shape("binary", 384)
    (dtype('uint8'), 48)

    ```
    """
    if dtype == "binary":
        return np.dtype(np.uint8), -(-dim // 8)
    return np.dtype(dtype), dim


def _step(calibration: Calibration) -> NDArray[np.float64]:
    """(d,) how far apart two steps are; 0 where all numbers are equal."""
    return (calibration.high.astype(np.float64) - calibration.low) / _STEPS


def _needed(calibration: object, dim: int) -> Calibration:
    if calibration is None:
        raise ValueError(
            "int8 needs a `calibration`, which says what its steps stand for: calibrate(vectors) "
            "of some vectors of the same embedder. Keep it beside the codes."
        )
    known = _checked(calibration)
    if len(known.low) != dim:
        raise ValueError(
            f"`calibration` should be of {dim} dimensions, as the vectors are. Received one of "
            f"{len(known.low)}."
        )
    return known


def _checked(calibration: object) -> Calibration:
    """A calibration of two float32 arrays of one length, or an error."""
    if not isinstance(calibration, Calibration):
        raise TypeError(
            "A calibration is what `calibrate` returns, or the `low` and `high` of one. Received: "
            f"{checks.shown(calibration)}."
        )
    try:
        low, high = (np.asarray(part, np.float32) for part in calibration)
        right = low.ndim == 1 and len(low) and low.shape == high.shape
        right = right and bool(np.isfinite([low, high]).all() and (low <= high).all())
    except (TypeError, ValueError):
        right = False
    if not right:
        raise ValueError(
            "A calibration has as many numbers in `low` as in `high`, all finite, and none in "
            f"`low` above that in `high`. Received: {checks.shown(calibration)}. Make it anew by "
            "`calibrate`."
        )
    return Calibration(low, high)


def _matrix(values: ArrayLike) -> Vectors:
    """(n, d) float32, finite."""
    try:
        array = np.asarray(values)
    except ValueError:  # rows of unequal length
        array = np.empty(0, object)
    if array.dtype.kind not in "fiu":
        raise TypeError(
            "`vectors` should be an array of real numbers, (n, d). Received: "
            f"{checks.shown(values)}."
        )
    if array.ndim != 2 or not array.shape[1]:
        raise ValueError(f"`vectors` should be of shape (n, d). Received: {array.shape}.")
    with np.errstate(over="ignore"):
        checked = array.astype(np.float32, copy=False)
    if not np.isfinite(checked).all():
        row = int(np.flatnonzero(~np.isfinite(checked).all(axis=1))[0])
        raise ValueError(f"`vectors` should be finite. Vector {row} is not.")
    return checked


def _blocks(rows: int, dim: int) -> list[slice]:
    each = max(1, _BLOCK // dim)
    return [slice(start, start + each) for start in range(0, rows, each)]
