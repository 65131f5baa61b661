"""The best rows out of blocks of scores, on several threads, of equal ones the lower rows."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from cptk.search.exact import Floats, Integers

Scores: TypeAlias = NDArray[Any]
"""float32 or int32."""
Blocks: TypeAlias = Iterator[tuple[Scores, Integers]]
"""Scores (n, b) of n queries with b rows, and which rows these are, ascending."""

# A thread that has fewer rows to look at costs more than it saves.
_ROWS_OF_A_THREAD = 32_768


def best_rows(
    blocks: Callable[[int, int], Blocks], total: int, queries: int, count: int
) -> Integers:
    """The `count` best rows of each query among all blocks.

    Args:
        blocks: A function from where to begin and where to end, 0 to `total`, to the blocks there.
        total: Rows, `count` or more.
        queries: How many queries each block has scores of.
        count: How many rows to find.

    Returns:
        (queries, count), in no particular order.
    """
    threads = max(1, min(_cores(), total // _ROWS_OF_A_THREAD))
    ends = [total * i // threads for i in range(threads + 1)]
    spans = list(pairwise(ends))
    if threads == 1:
        return _best(blocks(0, total), queries, count)[1]
    with ThreadPoolExecutor(threads) as pool:
        parts = list(pool.map(lambda span: _best(blocks(*span), queries, count), spans))
    # The rows of each part come before those of the next, so that the lower one still goes first.
    scores = np.concatenate([part[0] for part in parts], axis=1)
    rows = np.concatenate([part[1] for part in parts], axis=1)
    kept = [_first_best(row, count) for row in scores]
    return np.stack([found[keep] for found, keep in zip(rows, kept, strict=True)])


def spans_of(start: int, stop: int, size: int) -> Iterator[tuple[int, int]]:
    """(begin, end) of pieces of at most `size`."""
    for begin in range(start, stop, size):
        yield begin, min(begin + size, stop)


def vector_blocks(
    queries: Floats, vectors: Floats, rows: Integers | None, size: int
) -> Callable[[int, int], Blocks]:
    """Blocks of the dot products of a few queries with vectors, each pair alone."""

    def blocks(start: int, stop: int) -> Blocks:
        for begin, end in spans_of(start, stop, size):
            places = np.arange(begin, end) if rows is None else rows[begin:end]
            block = vectors[begin:end] if rows is None else vectors[places]
            yield np.stack([np.vecdot(block, query) for query in queries]), places

    return blocks


def _cores() -> int:
    usable = getattr(os, "sched_getaffinity", None)
    return len(usable(0)) if usable else os.cpu_count() or 1


def _best(blocks: Blocks, queries: int, count: int) -> tuple[Scores, Integers]:
    """Scores and rows (n, c) of the best rows; c is less than `count` where there are fewer."""
    scores: list[Scores | None] = [None] * queries
    places: list[Integers] = [np.empty(0, np.int64)] * queries
    for block, rows in blocks:
        for i in range(queries):
            before, row, found = scores[i], block[i], rows
            if before is not None and len(before) == count:
                near = np.flatnonzero(row > before.min())  # a later one of the same is not better
                if not len(near):
                    continue
                row, found = row[near], rows[near]
            if before is not None:
                row, found = np.concatenate([before, row]), np.concatenate([places[i], found])
            kept = _first_best(row, count)
            scores[i], places[i] = row[kept], found[kept]
    return np.stack([row for row in scores if row is not None]), np.stack(places)


def _first_best(scores: Scores, count: int) -> NDArray[np.bool_] | slice:
    """Which scores are the `count` best, the first ones of those that are equal."""
    if len(scores) <= count:
        return slice(None)
    least = np.partition(scores, len(scores) - count)[len(scores) - count]
    above, equal = scores > least, scores == least
    wanted = count - np.count_nonzero(above)
    kept: NDArray[np.bool_] = above | (equal & (np.cumsum(equal) <= wanted))
    return kept
