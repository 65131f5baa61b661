"""Pairs of several sources in one training: each batch from one of them."""

from __future__ import annotations

import hashlib
import math
import zlib
from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np

from cptk import checks
from cptk.data.batching import PairDataset, of_one_type
from cptk.data.columns import ROLES, SIDES, column, is_pairs
from cptk.data.order import OrderedBatches
from cptk.data.pairs import Pairs
from cptk.data.store_batches import StoreBatches
from cptk.data.store_view import by_source
from cptk.data.stored_pairs import StoredPairs
from cptk.types import KerasBatch, TokenBatch


class Mixture(Mapping[str, object]):
    """Named sets of pairs for one `fit`: each batch is of one source.

    So the negatives of a query come from its own source, and each source may have columns and an
    objective of its own, `compile(loss={"nli": …, "sts": …})`. A plain mapping of named pairs is
    taken as `Mixture(mapping)`.

    With n_s the batches of one pass over source s, a pass of the mixture has sum_s n_s batches, of
    which source s has a share of

        n_s^alpha / sum_t n_t^alpha

    to a whole number of batches, one at least, in an order that the seed shuffles. Within a source
    the pairs come as without the others: each once before any comes again. With `alpha=1` a pass of
    the mixture is one over each source.

    Args:
        sources: Pairs of any form that `fit` takes, or `TokenStore`s, by name; or pairs, or one
            store, with a column `source`.
        alpha: 1 draws large sources more often, as they are; 0 draws all equally often.

    Raises:
        TypeError: Something else than named pairs.
        ValueError: No sources, no column `source` or a gap in it, or an `alpha` that is no number
            of 0 or more.

    Example:

    ```pycon
    >>> import cptk
    >>> faq = {"query": ["how?", "why?"], "document": ["so.", "because."]}
    >>> code = [("add", "a + b"), ("sort", "sorted(x)"), ("open", "open(path)")]
    >>> cptk.data.Mixture({"faq": faq, "code": code}, alpha=0.5)
    Mixture(['faq', 'code'], alpha=0.5)
    >>> pairs = cptk.data.Pairs({**faq, "source": ["a", "b"]})
    >>> list(cptk.data.Mixture(pairs))
    ['a', 'b']

    ```

    References:
        Li et al. 2023 (GTE), arXiv 2308.03281: sources in proportion to n^alpha, one a batch. The
        proportion is that of Lample and Conneau 2019, arXiv 1901.07291, section 3.1. Whole numbers
        of batches, in place of draws, are ours.
    """

    def __init__(self, sources: object, alpha: float = 1.0) -> None:
        if not checks.is_number(alpha) or not 0 <= alpha < math.inf:
            raise ValueError(
                f"`alpha` should be a finite number of 0 or more. Received: {checks.shown(alpha)}."
            )
        self.alpha = float(alpha)
        self._sources = _sources(sources)

    def __getitem__(self, name: str) -> object:
        return self._sources[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._sources)

    def __len__(self) -> int:
        return len(self._sources)

    def __repr__(self) -> str:
        return f"Mixture({checks.shown(list(self))}, alpha={self.alpha})"


def as_mixture(data: object) -> Mixture | None:
    """`data`, where it is a mixture or a mapping of named pairs; None where it is not."""
    if isinstance(data, Mixture):
        return data
    named = isinstance(data, Mapping) and bool(data) and not {*data} & {*ROLES}
    return Mixture(data) if named and all(map(_is_set, data.values())) else None  # type: ignore[attr-defined]


def _is_set(values: object) -> bool:
    """Whether these are pairs, right or wrong, and no column of texts or of tokens."""
    if isinstance(values, StoredPairs):
        return True
    if isinstance(values, Mapping):
        return "token_ids" not in values
    if isinstance(values, list | tuple):
        return bool(values) and isinstance(values[0], tuple | Mapping)
    return is_pairs(values) and not isinstance(values, np.ndarray)


def _sources(sources: object) -> dict[str, object]:
    if isinstance(sources, Mixture):
        return dict(sources)
    if isinstance(sources, StoredPairs):
        return dict(by_source(sources))
    if is_pairs(sources) and (found := column(sources, "source")) is not None:
        names = checks.texts(found, "source")
        pairs = Pairs(sources)
        return {
            name: pairs.filter([other == name for other in names]) for name in dict.fromkeys(names)
        }
    if not isinstance(sources, Mapping):
        if is_pairs(sources):
            raise ValueError(
                "A mixture of one table needs its column 'source', with a name for each pair, or "
                'pass {"name": pairs, …}.'
            )
        received = type(sources).__name__
        raise TypeError(f'`sources` should be {{"name": pairs, …}}. Received: {received}.')
    if not sources:
        raise ValueError('A mixture needs sources: {"name": pairs, …}. Received: an empty mapping.')
    for name, pairs in sources.items():
        if not isinstance(name, str) or not name or name in ROLES or not _is_set(pairs):
            received = f"{checks.shown(name)}: {type(pairs).__name__}"
            raise TypeError(
                '`sources` should be {"name": pairs, …}, each of these as `fit` takes them. '
                f"Received: {received}."
            )
    return dict(sources)


Part: TypeAlias = PairDataset | StoreBatches
"""The batches of a source."""


class MixedBatches(OrderedBatches):
    """Batches of several sources, all of one structure.

    Columns that a source lacks are filled up: numbers with 0, negatives with rows without a token.

    Args:
        parts: The batches of each source; their seeds are set by that of the mixture.
        alpha: As of `Mixture`; in training alone.
        shuffle: Whether the sources come in a random order; else one after the other.
        seed: Integer that fixes it.
        steps_per_epoch: Batches in an epoch.
        training: If not, each source is passed once, whatever `alpha`.
        numbers: Where an objective asks for the column "source": a number for each name.
        columns: Columns that a batch has, beside those that a source has.
    """

    def __init__(
        self,
        parts: Mapping[str, Part],
        alpha: float,
        shuffle: bool,
        seed: int,
        steps_per_epoch: int | None,
        training: bool = True,
        numbers: Mapping[str, int] | None = None,
        columns: tuple[str, ...] = (),
    ) -> None:
        self.parts, self.numbers = dict(parts), numbers
        self.alpha = alpha if training else 1.0
        self._counts = shares([part.batches_per_pass for part in parts.values()], self.alpha)
        self.size = sum(part.size for part in parts.values())
        self.batch_size = next(iter(parts.values())).batch_size
        super().__init__(shuffle, seed, steps_per_epoch)
        weights = [part.sample_weight for part in parts.values()]
        self.sample_weight = None
        if any(weight is not None for weight in weights):
            given = [
                np.ones(part.size, np.float32) if weight is None else weight
                for part, weight in zip(parts.values(), weights, strict=True)
            ]
            self.sample_weight = np.concatenate(given)
        self._shapes = _shapes(self.parts, columns)
        (self._each,) = self._shapes.pop("negatives", (0,))

    @property
    def seed(self) -> int:
        """That of the order of the sources, and of the pairs in each."""
        return self._seed

    @seed.setter
    def seed(self, seed: int) -> None:
        self._seed = seed
        for name, part in self.parts.items():
            part.seed = seed ^ zlib.crc32(name.encode())

    @property
    def batches_per_pass(self) -> int:
        return sum(self._counts)

    @cached_property
    def digest(self) -> str:
        parts = [f"{name}\0{part.digest}\0" for name, part in self.parts.items()]
        return hashlib.blake2b(f"{parts}{self.alpha}".encode(), digest_size=16).hexdigest()

    def batch_at(self, place: int) -> KerasBatch:
        number, step = divmod(place, self.batches_per_pass)
        order = np.repeat(np.arange(len(self._counts)), self._counts)
        if self.shuffle:
            np.random.default_rng((self.seed, number)).shuffle(order)
        source = order[step]
        before = number * self._counts[source] + np.count_nonzero(order[:step] == source)
        name = list(self.parts)[source]
        batch = self.parts[name].batch_at(int(before))
        x, weight = (batch[0], batch[2]) if isinstance(batch, tuple) else (batch, None)
        x = self._complete(x, name)
        if self.sample_weight is None:
            return x
        ones = np.ones(len(x["query"]["token_ids"]), np.float32)
        return x, None, ones if weight is None else weight

    def _complete(self, x: Mapping[str, Any], name: str) -> dict[str, Any]:
        """A source's batch with all columns that a batch of the mixture has, of their widths."""
        found: dict[str, Any] = {side: of_one_type(x[side]) for side in SIDES}
        n = len(found["query"]["token_ids"])
        if self._each:
            missing = {
                key: np.zeros((n, 0, 16), dtype)
                for key, dtype in (("token_ids", np.int32), ("padding_mask", bool))
            }
            negatives = of_one_type(x.get("negatives", missing))
            more = [(0, 0), (0, self._each - negatives["token_ids"].shape[1]), (0, 0)]
            found["negatives"] = TokenBatch(
                token_ids=np.pad(negatives["token_ids"], more),
                padding_mask=np.pad(negatives["padding_mask"], more),
            )
        for column_name, shape in self._shapes.items():
            values = x.get(column_name, np.zeros((n, *(0 for _ in shape)), np.float32))
            values = values.reshape(n, *_of_rank(values.shape[1:], len(shape)))
            sizes = zip((n, *shape), values.shape, strict=True)
            found[column_name] = np.pad(values, [(0, most - size) for most, size in sizes])
        if self.numbers is not None:
            found["source"] = np.full(n, self.numbers[name], np.float32)
        return found


def shares(sizes: list[int], alpha: float) -> list[int]:
    """How many of `sum(sizes)` batches each source has: n^alpha, to whole numbers, 1 at least."""
    weights = np.array(sizes, float) ** alpha
    wanted = sum(sizes) * weights / weights.sum()
    counts = np.maximum(np.floor(wanted + 1e-9), 1).astype(int)
    while counts.sum() < sum(sizes):  # the largest remainder first
        counts[np.argmax(wanted - counts)] += 1
    while counts.sum() > sum(sizes):  # of those that have more than the one at least
        counts[np.argmin(np.where(counts > 1, wanted - counts, np.inf))] -= 1
    return [int(count) for count in counts]


def _of_rank(shape: tuple[int, ...], rank: int) -> tuple[int, ...]:
    """The shape with sizes of 1 after its own."""
    return (*shape, *(1 for _ in range(rank - len(shape))))


def _shapes(parts: Mapping[str, Part], columns: tuple[str, ...]) -> dict[str, tuple[int, ...]]:
    """For each column what holds those of all sources: `()` of numbers, `(most,)` of lists."""
    each = max(part.negatives_each for part in parts.values())
    own = {name: part.shapes for name, part in parts.items()}
    names = dict.fromkeys([*columns, *(name for shapes in own.values() for name in shapes)])
    found: dict[str, tuple[int, ...]] = {}
    if each or "negatives" in names:
        found["negatives"] = (max(1, each),)
    for name in names:
        if name in ("negatives", "source"):
            continue
        having = [shapes[name] for shapes in own.values() if name in shapes]
        rank = max(map(len, having), default=0)
        alike = [_of_rank(shape, rank) for shape in having]
        found[name] = tuple(map(max, zip(*alike, strict=True)))
    for name, part in parts.items():
        teacher = own[name].get("teacher", ())
        expected = 1 + part.negatives_each
        if not teacher or expected in (1, teacher[0]):
            continue
        raise ValueError(
            f"Source {name!r}: `teacher` should hold a score of the document and one of each "
            f"negative, {expected} a pair. Received: {teacher[0]}."
        )
    # As the loss reads them, filled up alike.
    (each,) = found.get("negatives", (0,))
    if "teacher" in found and each:
        found["teacher"] = (1 + each,)
    if "guide" in found:
        most, dim = found["guide"] or (0, 1)
        found["guide"] = (max(most, 2 + each), dim)
    return found
