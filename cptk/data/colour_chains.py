"""Chains of pairs that two batches share, by which pairs change their batches (Kempe 1879)."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.int64]

TRIES = 4
"""How many two batches a pair is tried with."""
PROBES = 8
"""How many batches with room are looked at for a pair, before chains are."""


def rings(ends: Numbers) -> Numbers:
    """(m,) a number of each edge, equal for edges that hang together.

    Args:
        ends: (m, 2) the nodes of each edge.

    Example:

    ```pycon
    >>> import numpy as np
    >>> from cptk.data.colour_chains import rings
    >>> rings(np.array([[7, 1], [3, 4], [1, 9]])).tolist()
    [0, 1, 0]

    ```
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    nodes, flat = np.unique(ends, return_inverse=True)
    flat = flat.reshape(-1, 2)
    edges = (np.ones(len(flat), bool), (flat[:, 0], flat[:, 1]))
    graph = coo_array(edges, shape=(len(nodes), len(nodes)))
    labels = connected_components(graph, directed=False)[1]
    return np.unique(labels[flat[:, 0]], return_inverse=True)[1]


def exchanged(
    batches: list[Numbers],
    ends: Numbers,
    target: int,
    source: int,
    size: int,
    rng: np.random.Generator,
) -> None:
    """Exchange chains between two batches, so that one has more pairs and the other fewer.

    The pairs of two batches, in neither of which a text occurs twice, form chains and rings in
    which they take turns. A chain that begins and ends with pairs of the source gives the target
    one pair when all its pairs change their batches.

    Args:
        batches: Rows of each batch; two are replaced.
        ends: (m, 2) the texts of each row.
        target: The batch that gets more.
        source: The batch that gets fewer.
        size: How many pairs a batch may have; a source that has more gives what is beyond it.
        rng: Chooses among chains.
    """
    if not len(batches[source]):
        return
    rows = np.concatenate([batches[target], batches[source]])
    over = len(batches[source]) - size
    most = size - len(batches[target])
    if over > 0:
        most = min(most, over)
    in_source = np.arange(len(rows)) >= len(batches[target])
    labels = rings(ends[rows])
    more = np.bincount(labels, np.where(in_source, 1, -1))
    given = rng.permutation(np.flatnonzero(more > 0))[:most]
    in_source ^= np.isin(labels, given)
    batches[target], batches[source] = rows[~in_source], rows[in_source]


class Chains:
    """Pairs in batches, into which more pairs go by turning chains around, one at a time.

    Which pair of a text is in which batch is looked up in dictionaries, made of a text when it is
    asked for first. How many pairs a batch has is not kept to its size: `exchanged` does that.

    Args:
        ends: (m, 2) the texts of each row.
        into: (m,) the batch of each row, -1 for none; changed in place.
        count: Batches.
        size: Places in each.
    """

    def __init__(self, ends: Numbers, into: Numbers, count: int, size: int) -> None:
        self.ends = ends
        self.into = into
        self.count = count
        flat = ends.ravel()
        self.order = np.argsort(flat, kind="stable")
        self.begins = np.searchsorted(flat[self.order], np.arange(int(flat.max()) + 2))
        self.room: list[int] = (size - np.bincount(into[into >= 0], minlength=count)).tolist()
        self.open = [batch for batch, free in enumerate(self.room) if free > 0]
        self.at: dict[int, dict[int, int]] = {}

    def batches(self) -> list[Numbers]:
        """The rows of each batch."""
        order = np.argsort(self.into, kind="stable")
        bounds = np.searchsorted(self.into[order], np.arange(self.count + 1))
        return [order[a:b] for a, b in pairwise(bounds)]

    def insert(self, row: int, rng: np.random.Generator) -> bool:
        """Give a row a batch; False where one of its texts is in all of them, or no chain turns."""
        one, other = self.ends[row].tolist()
        ones, others = self._of(one), self._of(other)
        if len(ones) >= self.count or len(others) >= self.count:
            return False
        for _ in range(PROBES if self.open else 0):
            place = int(rng.integers(len(self.open)))
            batch = self.open[place]
            if self.room[batch] <= 0:
                self.open[place] = self.open[-1]
                self.open.pop()
                if not self.open:
                    break
            elif batch not in ones and batch not in others:
                self._put(row, batch)
                return True
        for _ in range(TRIES):
            # The first text is in no pair of batch a, the other in none of b.
            a, b = self._without(ones, rng), self._without(others, rng)
            if a not in others:
                self._put(row, a)
                return True
            rows, end = self._chain(other, a, b)
            if end != one:
                self._turn(rows, a, b)
                self._put(row, a)
                return True
        return False

    def _of(self, node: int) -> dict[int, int]:
        """Of a text, the row that it has in each batch."""
        found = self.at.get(node)
        if found is None:
            rows = self.order[self.begins[node] : self.begins[node + 1]] // 2
            pairs = zip(rows.tolist(), self.into[rows].tolist(), strict=True)
            found = self.at[node] = {batch: row for row, batch in pairs if batch >= 0}
        return found

    def _without(self, found: dict[int, int], rng: np.random.Generator) -> int:
        """A random batch in which a text is not."""
        if 2 * len(found) < self.count:
            while (batch := int(rng.integers(self.count))) in found:
                pass
            return batch
        free = [batch for batch in range(self.count) if batch not in found]
        return free[int(rng.integers(len(free)))]

    def _chain(self, node: int, a: int, b: int) -> tuple[list[int], int]:
        """The rows from a text on, of batches a and b in turn, and the text where they end."""
        rows = []
        while (row := self._of(node).get(a)) is not None:
            rows.append(row)
            one, other = self.ends[row].tolist()
            node = other if node == one else one
            a, b = b, a
        return rows, node

    def _turn(self, rows: list[int], a: int, b: int) -> None:
        """Let the rows of a chain change their batches."""
        for row in rows:
            batch = int(self.into[row])
            self.room[batch] += 1
            for node in self.ends[row].tolist():
                del self.at[node][batch]
        for row in rows:
            self._put(row, a + b - int(self.into[row]))

    def _put(self, row: int, batch: int) -> None:
        self.into[row] = batch
        self.room[batch] -= 1
        for node in self.ends[row].tolist():
            self._of(node)[batch] = row
