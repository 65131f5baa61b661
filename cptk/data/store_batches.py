"""Batches of a token store: each pair once a pass, no text twice in a batch, and no order kept."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cptk.data.batching import check_batch_size, check_weights
from cptk.data.columns import SIDES
from cptk.data.dealing import Dealing, dealt, split_up
from cptk.data.order import OrderedBatches, count_batches, places_of
from cptk.data.permutation import permuted
from cptk.data.stored_pairs import StoredPairs
from cptk.types import KerasBatch, TokenBatch

Rows = NDArray[np.int64]

TRIES = 4
"""How often a pass is dealt out that has more batches than the first one; then it is that one."""


class StoreBatches(OrderedBatches):
    """Batches of a store, shuffled anew in each pass; a function of (seed, step) alone.

    A pass is each pair once. No text stands in two pairs of a batch, on the same side or the other.
    No batch has more than `batch_size` pairs; with a `batch_size` of 2, one has 3 if the number of
    pairs is odd.

    Batches come in descending size. As many are full as in any such order of the pairs, if no text
    is a query in one pair and a document in another (or the texts, linked by pairs, make no ring of
    an odd number), but for those that give a pair away to one that would stand alone. In other
    stores, about as many. What does not fit makes smaller batches at the end: a text in m pairs
    makes m batches at least. A batch has one pair alone only where its text stands in about half of
    all pairs, or more.

    Pairs whose texts occur in no other pair are shuffled by a cipher, without an order in memory.
    The others are dealt out anew in each pass; of these, which alone are held, a few arrays of
    numbers are in memory, and dealing takes about as long as sorting them, and longer where
    texts repeat in more pairs than there are batches.

    Args:
        store: A `TokenStore`.
        batch_size: Pairs in a batch, 2 or more.
        shuffle: Whether to shuffle; if not, pairs come as they stand, with texts that repeat.
        seed: Integer that fixes the order.
        steps_per_epoch: Batches in an epoch. Defaults to one pass over the data.
        training: Whether pairs need negatives.
        columns: Columns that the loss reads beside the two sides.
        bucket: From the tokens of the longest text of a batch to the length that is padded to.
        part: `(k, n)`: of each batch the k-th of n parts alone, padded as the whole batch is.
    """

    def __init__(
        self,
        store: StoredPairs,
        batch_size: int = 32,
        shuffle: bool = True,
        seed: int = 0,
        steps_per_epoch: int | None = None,
        training: bool = True,
        columns: tuple[str, ...] = (),
        bucket: Callable[[int], int] = int,
        part: tuple[int, int] = (0, 1),
    ) -> None:
        least = 2 if training else 1
        if len(store) < least:
            raise ValueError(
                f"Contrastive training needs at least 2 pairs. Received: {len(store)} in {store}."
            )
        missing = sorted({*columns} - {*store.columns})
        if missing:
            raise ValueError(
                f"The loss reads the columns {missing}, and the store has {store.columns}. Write a "
                "store of pairs that have them."
            )
        self.store, self.columns, self.bucket, self.part = store, columns, bucket, part
        self.size, self.batch_size = len(store), check_batch_size(batch_size, least)
        if self.batch_size < part[1]:
            raise ValueError(
                f"`batch_size` should be {part[1]} or more for {part[1]} parts. Received: "
                f"{batch_size}."
            )
        self.sample_weight = None
        if "weight" in store.columns:
            weights = store.numbers("weight", np.arange(self.size))
            self.sample_weight = check_weights(weights, self.size)
        self._dealer: _Dealer | None = None
        self._dealt: tuple[tuple[int, int], _Deal] | None = None
        if shuffle:
            rows, groups = store.repeated()
            self._dealer = _Dealer(self.size, rows, groups, self.batch_size)
        super().__init__(shuffle, seed, steps_per_epoch)

    @property
    def batches_per_pass(self) -> int:
        if self._dealer is not None:
            return self._dealer.batches
        return count_batches(self.size, self.batch_size)

    @cached_property
    def digest(self) -> str:
        """What the pairs are: equal for stores of equal shards."""
        return self.store.digest

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Of each number column `()`, or `(k,)` where each pair has k numbers."""
        found = {}
        for name in self.columns:
            if name != "negatives":
                # A group is a number in its batch, whatever it is in the store.
                numbers = [0] if name == "group" else self.store.numbers(name, [0])
                found[name] = np.shape(numbers)[1:]
        return found

    @cached_property
    def negatives_each(self) -> int:
        """The most negatives of a pair."""
        return self.store.most_negatives() if "negatives" in self.columns else 0

    def rows_at(self, place: int) -> Rows:
        """The pairs of the batch after so many others."""
        number, batch = divmod(place, self.batches_per_pass)
        if self._dealer is None:
            return np.array(places_of(batch, self.size, self.batch_size))
        key = (self.seed, number)
        dealt = self._dealt
        if dealt is None or dealt[0] != key:  # threads may race, harmlessly
            self._dealt = dealt = (key, self._dealer.deal(key))
        return self._dealer.rows(dealt[1], batch, key)

    def batch_at(self, place: int) -> KerasBatch:
        rows = self.rows_at(place)
        places = np.array_split(np.arange(len(rows)), self.part[1])[self.part[0]]
        own = rows[places]
        x: dict[str, Any] = {}
        for side in SIDES:
            length: int | Callable[[int], int] = self.bucket
            if len(own) < len(rows):  # the parts of a batch are as long as its longest text
                length = self.bucket(int(self.store.lengths(side, rows).max(initial=1)))
            x[side] = self.store.tokens(side, own, length)
        for name in self.columns:
            if name == "negatives":
                x[name] = self._negatives(rows, places)
            elif name == "group":  # equal or not within the batch is all that counts
                values = np.array(self.store.values("group", rows))
                numbers = np.unique(values, return_inverse=True)[1].astype(np.float32)
                x[name] = numbers[places]
            else:
                x[name] = self.store.numbers(name, own)
        return x if self.sample_weight is None else (x, None, self.sample_weight[own])

    def read_by(self, bucket: Callable[[int], int], in_order: bool) -> StoreBatches:
        """The same pairs for one trainer; for evaluation, as they stand."""
        data = copy.copy(self)
        data.bucket = bucket
        if in_order:
            data.shuffle, data._dealer, data.start, data.epoch = False, None, 0, 0
            data.steps_per_epoch = data.batches_per_pass
        return data

    def _negatives(self, rows: Rows, places: Rows) -> TokenBatch:
        """The negatives at some places of a batch, as many each as any pair of the store has."""
        lists = self.store.negatives(rows)
        longest = max((len(ids) for row in lists for ids in row), default=1)
        shape = (len(places), max(1, self.negatives_each), self.bucket(longest))
        token_ids, mask = np.zeros(shape, np.int32), np.zeros(shape, bool)
        for i, place in enumerate(places):
            for j, ids in enumerate(lists[place]):
                token_ids[i, j, : len(ids)] = ids
                mask[i, j, : len(ids)] = True
        return TokenBatch(token_ids=token_ids, padding_mask=mask)


class _Deal(NamedTuple):
    """Where the pairs of one pass go."""

    begins: Rows
    """(batches + 1,): batch b has the single pairs `begins[b]` to `begins[b + 1]` - 1 of the
    order."""
    repeated: list[Rows]
    """Of each batch, the pairs with texts that occur elsewhere too."""


class _Dealer:
    """Deals out the pairs of a store to the batches of a pass.

    Args:
        size: Number of pairs.
        rows: (r,) those of which a text occurs in another pair too.
        groups: Of each side (r,) numbers that are equal for equal texts.
        batch_size: Pairs in a batch.
    """

    def __init__(self, size: int, rows: Rows, groups: Mapping[str, Rows], batch_size: int) -> None:
        self.rows_twice, self.batch_size = rows, batch_size
        self.single = size - len(rows)
        # Single pair number u is row u + (how many repeated rows stand before it).
        self.before = rows - np.arange(len(rows))
        ends = np.stack([groups[side] for side in SIDES], axis=1)
        twice = ends[:, 0] == ends[:, 1]  # a pair of one text twice: the other end is its own
        ends[twice, 1] = np.arange(twice.sum()) + ends.max(initial=-1) + 1
        self.ends = np.unique(ends, return_inverse=True)[1].reshape(-1, 2)
        self.first = dealt(self.ends, self.single, batch_size, np.random.default_rng(0))
        self.batches = len(self.first.singles)

    def deal(self, key: tuple[int, int]) -> _Deal:
        """A pass: random, in as many batches as all passes have."""
        dealing: Dealing | None = self.first
        if len(self.rows_twice):
            rng = np.random.default_rng(key)
            for _ in range(TRIES):
                dealing = split_up(
                    dealt(self.ends, self.single, self.batch_size, rng), self.batches
                )
                if dealing is not None:
                    break
        into, singles = dealing or self.first
        order = np.argsort(into, kind="stable")
        bounds = np.searchsorted(into[order], np.arange(1, self.batches))
        return _Deal(np.cumsum([0, *singles]), np.split(self.rows_twice[order], bounds))

    def rows(self, deal: _Deal, batch: int, key: tuple[int, int]) -> Rows:
        """The pairs of a batch, the repeated ones among the others."""
        places = np.arange(deal.begins[batch], deal.begins[batch + 1])
        numbers = permuted(places, self.single, key) if self.single else places
        single = numbers + np.searchsorted(self.before, numbers, side="right")
        found = np.concatenate([single, deal.repeated[batch]])
        np.random.default_rng((*key, batch)).shuffle(found)
        return found
