"""Pairs with repeated texts dealt out to batches so that no two of a batch share a text.

Texts are nodes of a graph and pairs its edges; batches are colours of an edge colouring in which a
colour has a bounded number of edges. Where the graph has no odd ring, which holds if no text stands
on both sides, k batches can be full if and only if `k * batch_size` pairs can be chosen, at most k
of each text (König 1916; the sizes are made even as by de Werra 1971). Choosing them is a problem
of flow.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cptk.data.colour_chains import Chains, exchanged, rings

Numbers = NDArray[np.int64]

LEAST_GAIN = 50
"""Random places are tried while one try places more than a 50th of the pairs that wait; ours."""
EXCHANGES = 4096
"""Two batches that are looked at to fill the first of them up; of 91 batches all two. Ours."""
COMPANY_TRIES = 16
"""How often a pair that is alone in its batch is offered another one."""


class Dealing(NamedTuple):
    """Where the pairs with repeated texts go, and how many others are in each batch."""

    into: Numbers
    """(r,) the batch of each pair."""
    singles: Numbers
    """(batches,) how many pairs without a repeated text each batch has."""

    @property
    def sizes(self) -> Numbers:
        """(batches,) pairs in all."""
        return self.singles + np.bincount(self.into, minlength=len(self.singles))


def dealt(ends: Numbers, single: int, batch_size: int, rng: np.random.Generator) -> Dealing:
    """Deal out pairs at random, in nearly linear time.

    Args:
        ends: (r, 2) the two texts of each pair, numbers from 0, those of a pair not equal.
        single: How many other pairs there are, whose texts occur in no other pair.
        batch_size: Pairs in a batch, at most.
        rng: Chooses among what fits.

    Returns:
        Batches in descending size, no two pairs of one with a text in common. As many of them are
        full as in any such dealing, if the graph has no odd ring; then those with three pairs or
        more give one each to pairs that would be alone. A batch of one pair is there only where no
        company was found: its text stands in about half of all pairs, or more. With a `batch_size`
        of 2, one batch may have 3.

    Example:

    ```pycon
    >>> import numpy as np
    >>> from cptk.data.dealing import dealt
    >>> ring = np.array([[0, 1], [1, 2], [2, 3], [3, 4], [4, 5], [5, 0]])
    >>> dealt(ring, 2, 4, np.random.default_rng(0)).sizes.tolist()
    [4, 4]

    ```
    """
    into = np.full(len(ends), -1, np.int64)
    left, others, begun = np.arange(len(ends)), single, 0
    singles: list[int] = []
    while len(left) or others:
        chosen, count, size = _chosen(ends[left], others, batch_size, rng)
        found = _filled(ends[left[chosen]], count, size, others, rng)
        placed = found >= 0
        into[left[chosen[placed]]] = begun + found[placed]
        room = batch_size - np.bincount(found[placed], minlength=count)
        fill = np.clip(others - (np.cumsum(room) - room), 0, room)
        singles += fill.tolist()
        others -= int(fill.sum())
        begun += count
        left = np.flatnonzero(into < 0)
    into, numbers = with_company(ends, into, np.array(singles, np.int64), batch_size)
    counts = numbers + np.bincount(into, minlength=len(numbers))
    sizes = np.minimum(counts, batch_size)
    order = np.lexsort([rng.random(len(counts)), counts > sizes, -sizes])  # one of three last
    order = order[: np.count_nonzero(counts)]
    new = np.zeros(len(counts), np.int64)
    new[order] = np.arange(len(order))
    return Dealing(new[into], numbers[order])


def split_up(dealing: Dealing, count: int) -> Dealing | None:
    """The same in `count` batches, the last ones halved; None where that cannot be.

    Example:

    ```pycon
    >>> import numpy as np
    >>> from cptk.data.dealing import Dealing, split_up
    >>> split_up(Dealing(np.array([0, 0, 0, 1, 1, 1]), np.array([2, 1])), 3).sizes.tolist()
    [5, 2, 2]

    ```
    """
    into, singles, sizes = dealing.into.copy(), dealing.singles.tolist(), dealing.sizes.tolist()
    while len(sizes) < count:
        batch = max((b for b, size in enumerate(sizes) if size > 3), default=-1)
        if batch < 0:
            return None
        half = sizes[batch] // 2
        rows = np.flatnonzero(into == batch)[:half]
        into[rows] = len(sizes)
        others = half - len(rows)
        singles[batch] -= others
        singles.append(others)
        sizes[batch] -= half
        sizes.append(half)
    if len(sizes) != count:
        return None
    if count == len(dealing.sizes):  # as it was: one of three may come last
        return dealing
    order = np.argsort(-np.array(sizes), kind="stable")
    return Dealing(np.argsort(order)[into], np.array(singles)[order])


def _chosen(
    ends: Numbers, single: int, batch_size: int, rng: np.random.Generator
) -> tuple[Numbers, int, int]:
    """Pairs to deal out next, in the order in which they get places; the batches and their size."""
    total = len(ends) + single
    if not len(ends):
        return np.arange(0), -(-total // batch_size), batch_size
    parts, odd = _two_parts(ends)
    low, high, rows = 0, total // batch_size, np.arange(0)
    count = high
    while low < high:  # how many batches can be full: mostly the first that is tried
        found = most_pairs(ends, parts, odd, count)
        if len(found) + single >= count * batch_size:
            low, rows = count, found
        else:
            high = count - 1
        count = (low + high + 1) // 2
    if not low:
        most = min(batch_size, *(len(np.unique(side)) for side in ends.T))
        count = -(-len(ends) // most)
        return most_pairs(ends, parts, odd, count), count, most
    if not odd.any():  # else not all of the rows may find a place: the more of them the better
        rows = rows[~_waiting(ends, rows, total, low * batch_size, rng)]
    return rows, low, batch_size


def _waiting(
    ends: Numbers, rows: Numbers, total: int, places: int, rng: np.random.Generator
) -> NDArray[np.bool_]:
    """Which of the rows go into the last batch: those that must, or else its share of them."""
    waits = np.zeros(len(rows), bool)
    excess = len(rows) - places
    share = max(excess, min(len(rows) * (total - places) // total, total - len(ends) + excess))
    if share <= 0:
        return waits
    # Such as have no text in common, nor with those that wait anyhow; of frequent texts the last.
    others = np.setdiff1d(np.arange(len(ends)), rows)
    often = np.bincount(ends.ravel())[ends[rows]].max(1)
    order = np.concatenate([others, rows[np.lexsort([rng.random(len(rows)), often])]])
    together = order[_spread(ends[order], np.array([len(others) + share]), rng) >= 0]
    waits[np.flatnonzero(np.isin(rows, together))[:share]] = True
    more = np.flatnonzero(~waits)[::-1][: max(0, excess - int(waits.sum()))]
    waits[more] = True
    return waits


def _two_parts(ends: Numbers) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Of each text one of two parts, so that pairs go between them; which pairs hang at odd rings.

    There such parts do not exist.
    """
    count = int(ends.max()) + 1
    part = np.zeros(count, bool)
    part[ends[:, 1]] = True
    if not part[ends[:, 0]].any():
        return part, np.zeros(len(ends), bool)
    # Each text twice, a pair going from the first of one to the second of the other.
    shift = np.array([0, count])
    double = np.concatenate([ends + shift, ends[:, ::-1] + shift])
    labels = np.full(2 * count, -1)
    labels[double] = rings(double)[:, None]
    first, second = labels[:count], labels[count:]
    return first > second, (first == second)[ends[:, 0]]


def most_pairs(
    ends: Numbers, parts: NDArray[np.bool_], odd: NDArray[np.bool_], count: int
) -> Numbers:
    """As many pairs as there can be with at most `count` of each text.

    Args:
        ends: (m, 2) the texts of each pair.
        parts: Of each text, one of two parts.
        odd: (m,) pairs that do not go from one part into the other: of these, about as many as
            there can be, the last in order.
        count: A number of batches.

    Example:

    ```pycon
    >>> import numpy as np
    >>> from cptk.data.dealing import most_pairs
    >>> ends = np.array([[0, 3], [0, 4], [1, 4], [2, 3]])
    >>> len(most_pairs(ends, np.arange(5) > 2, np.zeros(4, bool), 1))
    2

    ```
    """
    degrees = np.bincount(ends.ravel())
    hard = (degrees[ends] > count).any(1)
    free = np.flatnonzero(~hard & ~odd)
    rows = np.flatnonzero(hard & ~odd)
    kept = [free, rows[_flowing(ends[rows], parts, count)]]
    if odd.any():
        rows = np.flatnonzero(odd)
        some = np.bincount(ends[rows].ravel())
        order = np.argsort((some[ends[rows]] > count).sum(1), kind="stable")
        kept.append(rows[order][: int(np.minimum(some, count).sum()) // 2])
    return np.concatenate(kept)


def _flowing(ends: Numbers, parts: NDArray[np.bool_], count: int) -> NDArray[np.bool_]:
    """Which pairs a greatest flow goes through, from one part of the texts into the other."""
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import maximum_flow

    if not len(ends):
        return np.zeros(0, bool)
    own = np.where(parts[ends[:, :1]], ends[:, ::-1], ends)
    nodes, flat = np.unique(own, return_inverse=True)
    # Pairs of the same two texts are one pipe; the first of them are taken.
    pipes, pipe, widths = np.unique(
        flat.reshape(-1, 2), axis=0, return_inverse=True, return_counts=True
    )
    pipe = pipe.ravel()
    degrees = np.bincount(flat.ravel())
    left, right = np.unique(pipes[:, 0]), np.unique(pipes[:, 1])
    source, sink = len(nodes), len(nodes) + 1
    begins = np.concatenate([np.full(len(left), source), pipes[:, 0], right])
    ends_at = np.concatenate([left, pipes[:, 1], np.full(len(right), sink)])
    limits = np.minimum(degrees, count)
    capacity = np.concatenate([limits[left], widths, limits[right]]).astype(np.int32)
    graph = csr_array((capacity, (begins, ends_at)), shape=(sink + 1, sink + 1))
    flow = maximum_flow(graph, source, sink).flow
    taken = np.asarray(flow[pipes[:, 0], pipes[:, 1]]).ravel()
    order = np.argsort(pipe, kind="stable")
    rank = np.empty(len(pipe), np.int64)
    rank[order] = np.arange(len(pipe)) - np.searchsorted(pipe[order], pipe[order])
    return rank < taken[pipe]


def _filled(ends: Numbers, count: int, size: int, others: int, rng: np.random.Generator) -> Numbers:
    """(m,) the batch of each pair, -1 where it found none.

    Args:
        ends: (m, 2) their texts, the pairs in the order in which they get a place.
        count: Batches.
        size: Pairs in each, at most.
        others: Pairs that fill up what stays free.
        rng: Chooses among what fits.
    """
    into = _spread(ends, np.full(count, size), rng)
    left = np.flatnonzero(into < 0)
    if not len(left):
        return into
    chains = Chains(ends, into, count, size)
    places = count * size - (len(into) - len(left))
    for row in left.tolist():
        if not places:
            break
        places -= chains.insert(row, rng)
    batches = chains.batches()
    _level(batches, ends, size, rng)
    if places > others:
        _concentrate(batches, ends, size, rng)
    into[:] = -1
    for number, rows in enumerate(batches):
        into[rows] = number
    return into


def _spread(ends: Numbers, sizes: Numbers, rng: np.random.Generator) -> Numbers:
    """Pairs into random places, those that meet one of their texts there again, and so on."""
    nodes = int(ends.max(initial=0)) + 1
    into = np.full(len(ends), -1, np.int64)
    free = sizes.copy()
    taken = np.empty(0, np.int64)  # (batch, text) as one number, ascending
    waiting = np.arange(len(ends))
    while len(waiting):
        places = np.repeat(np.arange(len(sizes)), free)
        rng.shuffle(places)
        rows, rest = waiting[: len(places)], waiting[len(places) :]
        places = places[: len(rows)]
        if not len(rows):
            break
        keys = (places[:, None] * nodes + ends[rows]).ravel()
        distinct, first = np.unique(keys, return_index=True)
        is_first = first[np.searchsorted(distinct, keys)] == np.arange(len(keys))
        there = np.zeros(len(keys), bool)
        if len(taken):
            found = np.minimum(np.searchsorted(taken, keys), len(taken) - 1)
            there = taken[found] == keys
        good = (is_first & ~there).reshape(-1, 2).all(1)
        into[rows[good]] = places[good]
        free -= np.bincount(places[good], minlength=len(sizes))
        new = np.sort(keys.reshape(-1, 2)[good].ravel())
        taken = np.insert(taken, np.searchsorted(taken, new), new)
        waiting = np.concatenate([rows[~good], rest])
        if np.count_nonzero(good) * LEAST_GAIN < min(len(waiting), free.sum()):
            break
    return into


def _level(batches: list[Numbers], ends: Numbers, size: int, rng: np.random.Generator) -> None:
    """What a batch has beyond its size goes to those that have room."""
    free = [batch for batch, rows in enumerate(batches) if len(rows) < size]
    for batch in range(len(batches)):
        while len(batches[batch]) > size:
            target = free[-1]
            exchanged(batches, ends, target, batch, size, rng)
            if len(batches[target]) == size:
                free.pop()


def _concentrate(
    batches: list[Numbers], ends: Numbers, size: int, rng: np.random.Generator
) -> None:
    """Pairs of later batches go to earlier ones, which are full then, or as full as they can be."""
    most = EXCHANGES // len(batches)
    for batch in range(len(batches)):
        for other in range(len(batches) - 1, batch, -1)[:most]:
            if len(batches[batch]) == size:
                break
            exchanged(batches, ends, batch, other, size, rng)


def with_company(
    ends: Numbers, into: Numbers, singles: Numbers, batch_size: int
) -> tuple[Numbers, Numbers]:
    """A second pair for batches of one, of batches that have three or more, the last ones first."""
    counts = singles + np.bincount(into, minlength=len(singles))
    alone = np.flatnonzero(counts == 1)
    if not len(alone):
        return into, singles
    into, singles = into.copy(), singles.copy()
    # Pairs without a repeated text go with all others.
    for batch in np.flatnonzero((singles > 0) & (counts > 2))[::-1].tolist():
        given = min(int(singles[batch]), int(counts[batch]) - 2, len(alone))
        singles[batch] -= given
        singles[alone[:given]] += 1
        counts[batch] -= given
        alone = alone[given:]
    order = np.argsort(-into, kind="stable")
    sorted_batches = into[order]
    rank = np.arange(len(order)) - np.searchsorted(-sorted_batches, -sorted_batches)
    givers = order[rank < counts[sorted_batches] - 2]  # two stay in each
    owner = np.full(len(singles), -1, np.int64)
    owner[into] = np.arange(len(into))  # of a batch of one, that one
    for turn in range(COMPANY_TRIES):
        if not len(alone) or not len(givers):
            break
        givers = np.roll(givers, -turn)
        size = min(len(alone), len(givers))
        own, other = owner[alone[:size]], givers[:size]
        fit = (own < 0) | ~(ends[own][:, :, None] == ends[other][:, None, :]).any((1, 2))
        into[other[fit]] = alone[:size][fit]
        alone = np.concatenate([alone[:size][~fit], alone[size:]])
        givers = np.concatenate([other[~fit], givers[size:]])
    if batch_size == 2 and len(alone) == 1:
        _third(ends, into, singles, int(alone[0]))
    return into, singles


def _third(ends: Numbers, into: Numbers, singles: Numbers, batch: int) -> None:
    """The pair that is alone goes as the third into a batch of two, where one takes it."""
    if singles[batch]:
        other = next((b for b in range(len(singles))[::-1] if b != batch), None)
        if other is not None:
            singles[batch], singles[other] = 0, singles[other] + 1
        return
    (row,) = np.flatnonzero(into == batch)
    barred = np.unique(into[np.isin(ends, ends[row]).any(1)])
    others = np.setdiff1d(np.arange(len(singles)), barred)
    if len(others):
        into[row] = others[-1]
