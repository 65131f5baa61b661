"""Candidates among vectors of one byte or one bit a number, in blocks, in NumPy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from cptk.quantization import Calibration
from cptk.search.exact import Floats, Integers
from cptk.search.selection import Blocks, best_rows, spans_of

Codes: TypeAlias = NDArray[Any]
"""(m, d) int8, or (m, ⌈d / 8⌉) uint8 of bits."""

# Codes that are looked at together: as floats or as bits they stay in a core's own cache.
_INT8_ROWS = 1024
_BINARY_ROWS = 16_384
_QUERIES = 256


def nearest_codes(
    queries: Floats,
    codes: Codes,
    calibration: Calibration | None,
    count: int,
    rows: Integers | None = None,
) -> Integers:
    """The rows whose codes are nearest to each query; of equally near ones the lower rows.

    int8: by the dot product of the query, in float32, and of what the code stands for. Binary: by
    the number of bits that differ from the query's own.

    Args:
        queries: (n, d) float32.
        codes: (m, d) int8 with a calibration, or (m, ⌈d / 8⌉) uint8 without one, as
            `cptk.quantization.quantize` gives them.
        calibration: What int8 codes stand for.
        count: How many rows to find for each query, at most m, and at most as many as `rows`.
        rows: The rows that may be found, ascending; None for all.

    Returns:
        (n, count), in no particular order.
    """
    found = np.empty((len(queries), count), np.int64)
    total = len(codes) if rows is None else len(rows)
    for start in range(0, len(queries), _QUERIES):
        part = queries[start : start + _QUERIES]
        if calibration is None:
            blocks = _by_bits(part, codes, rows)
        else:
            blocks = _by_steps(part, codes, calibration, rows)
        found[start : start + _QUERIES] = best_rows(blocks, total, len(part), count)
    return found


def _by_steps(
    queries: Floats, codes: Codes, calibration: Calibration, rows: Integers | None
) -> Callable[[int, int], Blocks]:
    # <q, low + (code + 128) * step>: all but <q * step, code> is the same for all rows of a query.
    step = (calibration.high.astype(np.float64) - calibration.low) / 255
    scaled = (queries * np.where(step > 0, step, 1.0)).astype(np.float32)

    def blocks(start: int, stop: int) -> Blocks:
        # Written over and over: memory that is new each time costs more than the product.
        floats = np.empty((_INT8_ROWS, codes.shape[1]), np.float32)
        for begin, end in spans_of(start, stop, _INT8_ROWS):
            places = np.arange(begin, end) if rows is None else rows[begin:end]
            part = floats[: end - begin]
            part[...] = codes[begin:end] if rows is None else codes[places]
            yield scaled @ part.T, places

    return blocks


def _by_bits(queries: Floats, codes: Codes, rows: Integers | None) -> Callable[[int, int], Blocks]:
    asked = _words(np.packbits(queries > 0, axis=1))

    def blocks(start: int, stop: int) -> Blocks:
        for begin, end in spans_of(start, stop, _BINARY_ROWS):
            places = np.arange(begin, end) if rows is None else rows[begin:end]
            block = codes[begin:end] if rows is None else codes[places]
            columns = np.ascontiguousarray(_words(block).T)
            same = np.zeros((len(asked), end - begin), np.int32)  # less the bits that differ
            for row, query in zip(same, asked, strict=True):
                for column, word in zip(columns, query, strict=True):
                    row -= np.bitwise_count(column ^ word)
            yield same, places

    return blocks


def _words(packed: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """(n, ⌈bytes / 8⌉) the same bits, 64 at a time, with zeros after them."""
    width = packed.shape[1]
    if width % 8 == 0:
        return np.ascontiguousarray(packed).view(np.uint64)
    padded = np.zeros((len(packed), -(-width // 8) * 8), np.uint8)
    padded[:, :width] = packed
    return padded.view(np.uint64)
