"""Candidates among vectors of one byte or one bit a number, in blocks, in NumPy."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from cptk.quantization import Calibration
from cptk.search.exact import Floats, Integers

Codes: TypeAlias = NDArray[Any]
"""(m, d) int8, or (m, ⌈d / 8⌉) uint8 of bits."""

# Codes that are looked at together: as floats or as bits they stay in a processor's cache.
_INT8_ROWS = 8192
_BINARY_ROWS = 65_536
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
    for start in range(0, len(queries), _QUERIES):
        part = slice(start, start + _QUERIES)
        if calibration is None:
            blocks = _by_bits(queries[part], codes, rows)
        else:
            blocks = _by_steps(queries[part], codes, calibration, rows)
        found[part] = _best(blocks, len(queries[part]), count)
    return found


Blocks: TypeAlias = Iterator[tuple[NDArray[np.number], Integers]]
"""Scores (n, b) of n queries with b rows, and which rows these are, ascending."""


def _by_steps(
    queries: Floats, codes: Codes, calibration: Calibration, rows: Integers | None
) -> Blocks:
    # <q, low + (code + 128) * step>: the first part is the same for all rows of a query.
    step = (calibration.high.astype(np.float64) - calibration.low) / 255
    scaled = (queries * np.where(step > 0, step, 1.0)).astype(np.float32)
    for block, places in _blocks(codes, rows, _INT8_ROWS):
        yield scaled @ block.astype(np.float32).T, places


def _by_bits(queries: Floats, codes: Codes, rows: Integers | None) -> Blocks:
    asked = _words(np.packbits(queries > 0, axis=1))
    for block, places in _blocks(codes, rows, _BINARY_ROWS):
        columns = np.ascontiguousarray(_words(block).T)
        differing = np.zeros((len(asked), len(block)), np.int32)
        for row, query in zip(differing, asked, strict=True):
            for column, word in zip(columns, query, strict=True):
                row -= np.bitwise_count(column ^ word)
        yield differing, places


def _words(packed: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """(n, ⌈bytes / 8⌉) the same bits, 64 at a time, with zeros after them."""
    width = packed.shape[1]
    padded = np.zeros((len(packed), -(-width // 8) * 8), np.uint8)
    padded[:, :width] = packed
    return padded.view(np.uint64)


def _blocks(codes: Codes, rows: Integers | None, size: int) -> Iterator[tuple[Codes, Integers]]:
    total = len(codes) if rows is None else len(rows)
    for start in range(0, total, size):
        stop = min(start + size, total)
        if rows is None:
            yield codes[start:stop], np.arange(start, stop)
        else:
            yield codes[rows[start:stop]], rows[start:stop]


def _best(blocks: Blocks, queries: int, count: int) -> Integers:
    """The `count` best rows of each query, the lower ones of equal scores."""
    scores: list[NDArray[np.number]] = [np.empty(0, np.float32)] * queries
    places: list[Integers] = [np.empty(0, np.int64)] * queries
    for block, rows in blocks:
        for i in range(queries):
            row = block[i]
            if len(scores[i]) == count:  # a later row of the same score is not better
                near = np.flatnonzero(row > scores[i].min())
                row, found = row[near], rows[near]
            else:
                found = rows
            if len(found):
                row = np.concatenate([scores[i].astype(row.dtype), row])
                found = np.concatenate([places[i], found])
                kept = _first_best(row, count)
                scores[i], places[i] = row[kept], found[kept]
    return np.stack(places)


def _first_best(scores: NDArray[np.number], count: int) -> NDArray[np.bool_] | slice:
    """Which scores are the `count` best, the first ones of those that are equal."""
    if len(scores) <= count:
        return slice(None)
    least = np.partition(scores, len(scores) - count)[len(scores) - count]
    above, equal = scores > least, scores == least
    wanted = count - np.count_nonzero(above)
    kept: NDArray[np.bool_] = above | (equal & (np.cumsum(equal) <= wanted))
    return kept
