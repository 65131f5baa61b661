"""Pairs drawn so that no text stands on both sides of the cut."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

Rows = NDArray[np.int64]


def draw(
    order: Iterable[int], wanted: int, count: int, rows: Rows, texts: NDArray[np.int64]
) -> NDArray[np.bool_]:
    """Draw pairs in some order, each with all that hang together with it by texts they share.

    Pairs hang together over other pairs, too. They are drawn where all of them fit.

    Args:
        order: All numbers of pairs, as they are tried.
        wanted: How many to draw at most.
        count: How many there are.
        rows: (r,) those of which a text occurs in another pair, ascending.
        texts: (r, 2) numbers of their texts, equal for equal texts of whatever side.

    Returns:
        (count,) which are drawn.

    Raises:
        ValueError: None.

    Example:

    ```pycon
    >>> import numpy as np
    >>> from cptk.data.together import draw
    >>> texts = np.array([[0, 1], [1, 2]])  # pairs 1 and 2 of three share a text
    >>> draw([1, 0, 2], 1, 3, np.array([1, 2]), texts).tolist()
    [True, False, False]

    ```
    """
    several = _Together(rows, texts)
    taken = np.zeros(count, bool)
    drawn = 0
    for row in order:
        if taken[row]:
            continue
        group = several.of(row, wanted - drawn)
        if group is not None:
            taken[group] = True
            drawn += len(group)
            if drawn == wanted:
                break
    if not drawn:
        raise ValueError(
            f"No {wanted} of {count} pairs can be drawn: by texts that they share, all hang "
            "together in larger groups. Take a larger `size`, or drop repeated texts before."
        )
    return taken


def repeated_texts(
    queries: pa.ChunkedArray, documents: pa.ChunkedArray
) -> tuple[Rows, NDArray[np.int64]]:
    """The pairs of which a text occurs in another pair too, as `draw` takes them.

    Args:
        queries: n texts.
        documents: n texts.
    """
    kind = pa.large_string()
    chunks = [chunk for side in (queries, documents) for chunk in side.cast(kind).chunks]
    column = pa.chunked_array(chunks, kind).combine_chunks().dictionary_encode()
    texts = column.indices.to_numpy().astype(np.int64).reshape(2, -1).T
    counts = np.bincount(texts[:, 0], minlength=len(column.dictionary))
    others = texts[texts[:, 0] != texts[:, 1], 1]  # a pair of one text twice counts once
    counts += np.bincount(others, minlength=len(counts))
    rows = np.flatnonzero((counts[texts] > 1).any(1))
    return rows, texts[rows]


class _Together:
    """Which pairs hang together by texts that they share."""

    def __init__(self, rows: Rows, texts: NDArray[np.int64]) -> None:
        from scipy.sparse import coo_array
        from scipy.sparse.csgraph import connected_components

        self.rows = rows
        # A node for each pair and, after them, for each text.
        ends = np.unique(texts, return_inverse=True)[1].reshape(-1) + len(rows)
        nodes = int(ends.max(initial=len(rows) - 1)) + 1
        edges = (np.ones(len(ends), bool), (np.repeat(np.arange(len(rows)), 2), ends))
        labels = connected_components(coo_array(edges, shape=(nodes, nodes)), directed=False)[1]
        self.labels = labels[: len(rows)]
        self.order = np.argsort(self.labels, kind="stable")
        # Where each group begins. A search among int32 labels for an int64 would copy them all.
        sizes = np.bincount(self.labels)
        self.bounds = np.concatenate([[0], np.cumsum(sizes)])

    def of(self, row: int, most: int) -> Rows | None:
        """A pair, and those that hang together with it; None where these are more than `most`."""
        place = int(np.searchsorted(self.rows, row))
        if place == len(self.rows) or self.rows[place] != row:
            return np.array([row]) if most else None
        begin, end = self.bounds[self.labels[place] : self.labels[place] + 2].tolist()
        if end - begin > most:  # a large group is met many times: nothing is copied
            return None
        return self.rows[self.order[begin:end]]
