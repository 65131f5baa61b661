"""Batches of a token store: each pair once a pass, no text twice in a batch, and no order kept."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cptk.data.batching import check_batch_size, check_weights
from cptk.data.columns import SIDES
from cptk.data.order import OrderedBatches, count_batches, places_of
from cptk.data.permutation import permuted
from cptk.data.stored_pairs import StoredPairs
from cptk.types import KerasBatch, TokenBatch

Rows = NDArray[np.int64]


class StoreBatches(OrderedBatches):
    """Batches of a store, shuffled anew in each pass; a function of (seed, step) alone.

    Pairs whose texts occur in no other pair are shuffled by a cipher, without an order in memory.
    The others, which alone are held, are dealt out so that no two of a batch share a query or a
    document. A text that occurs in more pairs than a pass has batches makes smaller batches at the
    end of the pass.

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
        shards = [each["sha256"] for each in self.store.manifest["shards"]]
        return hashlib.blake2b("".join(shards).encode(), digest_size=16).hexdigest()

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
        self.size, self.rows_twice, self.batch_size = size, rows, batch_size
        self.single = size - len(rows)
        self.pairs_of_groups = list(zip(*(groups[side].tolist() for side in SIDES), strict=True))
        # Single pair number u is row u + (how many repeated rows stand before it).
        self.before = rows - np.arange(len(rows))
        self.main = count_batches(size, batch_size)
        counts = [np.bincount(groups[side])[groups[side]] for side in SIDES] if len(rows) else []
        self.often = np.argsort(-np.maximum(*counts), kind="stable") if counts else rows
        self.first = self._dealt(np.zeros(len(rows), np.int64))
        self.batches = len(self.first.repeated)

    def deal(self, key: tuple[int, int]) -> _Deal:
        """A pass: random, unless a random one would need another number of batches."""
        if not len(self.rows_twice):
            return self.first
        rng = np.random.default_rng(key)
        starts = rng.integers(self.main, size=len(self.rows_twice))
        found = self._dealt(starts)
        return found if len(found.repeated) == self.batches else self.first

    def rows(self, deal: _Deal, batch: int, key: tuple[int, int]) -> Rows:
        """The pairs of a batch, the repeated ones among the others."""
        places = np.arange(deal.begins[batch], deal.begins[batch + 1])
        numbers = permuted(places, self.single, key) if self.single else places
        single = numbers + np.searchsorted(self.before, numbers, side="right")
        found = np.concatenate([single, deal.repeated[batch]])
        np.random.default_rng((*key, batch)).shuffle(found)
        return found

    def _dealt(self, starts: Rows) -> _Deal:
        """The repeated pairs one by one into the first batch, from a start on, that they fit."""
        room = [len(places_of(b, self.size, self.batch_size)) for b in range(self.main)]
        texts: list[set[tuple[int, int]]] = [set() for _ in room]
        into: list[list[int]] = [[] for _ in room]
        for place in self.often.tolist():
            own = set(enumerate(self.pairs_of_groups[place]))
            begin = int(starts[place])
            for step in range(len(room)):
                batch = (begin + step) % len(room)
                if len(into[batch]) < room[batch] and texts[batch].isdisjoint(own):
                    break
            else:
                batch = len(room)
                texts.append(set())
                into.append([])
                room.append(self.batch_size)
            texts[batch] |= own
            into[batch].append(place)
        self._keep_company(into, texts)
        taken = np.array([*map(len, into)])
        return _Deal(
            np.cumsum([0, *self._singles(taken, room)]),
            [self.rows_twice[np.array(places, np.int64)] for places in into],
        )

    def _keep_company(self, into: list[list[int]], texts: list[set[tuple[int, int]]]) -> None:
        """A pair that is alone in its batch gets another one from a batch that has more.

        Where there are single pairs, `_singles` gives it one of them.
        """
        alone = [batch for batch in range(self.main, len(into)) if len(into[batch]) == 1]
        for batch in alone[self.single :]:
            places = (
                (other, place)
                for other, places in enumerate(into)
                if len(places) > 2
                for place in places
                if texts[batch].isdisjoint(enumerate(self.pairs_of_groups[place]))
            )
            other, place = next(places, (batch - 1, into[batch][0]))
            if place == into[batch][0]:  # its text is in every pair: with the batch before
                into[other].append(into[batch].pop())
                continue
            into[other].remove(place)
            into[batch].append(place)
        into[:] = [places for i, places in enumerate(into) if i < self.main or places]

    def _singles(self, taken: Rows, room: list[int]) -> Rows:
        """How many single pairs each batch gets, so that all are dealt and none is alone."""
        if not self.single:
            return np.zeros(len(taken), np.int64)
        if len(taken) == self.main:
            return np.array(room) - taken
        # Batches beyond the main ones hold what fits nowhere else, and a single pair if they must.
        needs = np.zeros(len(taken), np.int64)
        needs[self.main :] = np.maximum(0, 2 - taken[self.main :])
        left = self.single - int(needs.sum())
        if left < 0:
            needs[self.main :], left = 0, self.single
        free = np.array(room[: self.main]) - taken[: self.main]
        shares = np.minimum(free, -(-left // self.main))
        while shares.sum() > left:
            shares[np.argmax(shares)] -= 1
        while shares.sum() < left:
            shares[np.argmax(free - shares)] += 1
        needs[: self.main] = shares
        return needs
