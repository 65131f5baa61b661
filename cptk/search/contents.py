"""What an index holds: vectors and their rows, which are there, and what finds among them."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from cptk import checks
from cptk.quantization import VectorDType
from cptk.search import approximate
from cptk.search.bm25 import BM25, words
from cptk.search.exact import Floats, Integers
from cptk.search.finders import Approximate, Coded, Exact, Finder, Mask
from cptk.search.rows import ID, TEXT, Id
from cptk.search.vectors import Vectors

DTYPES = ("float32", "int8", "binary")


class Settings(NamedTuple):
    """How rows are found."""

    dtype: VectorDType = "float32"
    factory: str | None = None
    parameters: str | None = None

    def finder(self, vectors: Vectors) -> Finder:
        """What finds among some vectors."""
        if self.factory is not None:
            return Approximate(vectors, self.factory, self.parameters)
        return Exact(vectors) if self.dtype == "float32" else Coded(vectors, self.dtype)


def checked_settings(
    dtype: VectorDType, factory: str | None, parameters: str | None, dim: int | None
) -> Settings:
    """The settings of an index.

    Raises:
        TypeError: FAISS's are no strings.
        ValueError: An unknown type of number; a factory or parameters that FAISS does not take
            for `dim` numbers; or two that do not go together.
        ImportError: FAISS is not installed, and there is a factory.
    """
    checks.choice("dtype", dtype, DTYPES)
    for name, value in (("factory", factory), ("search_parameters", parameters)):
        if value is not None and (not isinstance(value, str) or not value):
            raise TypeError(
                f"`{name}` should be a string, as FAISS has it. Received: {checks.shown(value)}."
            )
    if factory is not None and dtype != "float32":
        raise ValueError(
            "`dtype` should be left out where there is a `factory`, which says itself how vectors "
            f"are kept ('IVF256,SQ8'). Received: {dtype!r} and {factory!r}."
        )
    if parameters is not None and factory is None:
        raise ValueError(
            "`search_parameters` belong to an index of FAISS's: give a `factory` too. Received: "
            f"{checks.shown(parameters)}."
        )
    if factory is not None:
        if dim is None:
            approximate.load_faiss()
        else:
            approximate.check_factory(factory, dim, parameters)
    return Settings(dtype, factory, parameters)


class Contents:
    """Rows that were added, one after another; those that were taken out are marked.

    Args:
        settings: How rows are found.
        base: (n, d) vectors of unit length.
        rows: n rows: ids, texts and metadata.
        next_id: The integer that the next row without an id gets.
    """

    def __init__(self, settings: Settings, base: Floats, rows: pa.Table, next_id: int = 0) -> None:
        self.vectors = Vectors(base)
        self.finder = settings.finder(self.vectors)
        self.table = rows
        self.next_id = next_id
        self.alive: NDArray[np.bool_] = np.ones(len(base), np.bool_)
        self._places: dict[Id, int] | None = None
        self._words: tuple[BM25, Integers] | None = None
        self._filling = threading.Lock()

    def __len__(self) -> int:
        return int(np.count_nonzero(self.alive))

    @property
    def whole(self) -> bool:
        """Whether no row was taken out."""
        return bool(self.alive.all())

    @property
    def rows(self) -> pa.Table:
        """The rows that are there."""
        return self.table if self.whole else self.table.filter(pa.array(self.alive))

    @property
    def places(self) -> dict[Id, int]:
        """Where the row of each id stands."""
        with self._filling:
            if self._places is None:
                ids, alive = self.table[ID].to_pylist(), self.alive.tolist()
                self._places = {each: i for i, each in enumerate(ids) if alive[i]}
            return self._places

    def append(self, vectors: Floats, ids: list[Id], table: pa.Table) -> None:
        """Add rows; `table` is that of all rows. Of ids that are there the old rows are out."""
        places, first = self.places, len(self.vectors)
        alive = np.concatenate([self.alive, np.ones(len(vectors), np.bool_)])
        alive[[places[each] for each in ids if each in places]] = False
        self.vectors.append(vectors)
        self.table, self.alive, self._words = table, alive, None
        places.update(zip(ids, itertools.count(first), strict=False))
        if isinstance(ids[0], int):
            self.next_id = max(self.next_id, *(int(each) + 1 for each in ids))

    def remove(self, ids: Iterable[Id]) -> None:
        """Take rows out."""
        places, alive = self.places, self.alive.copy()
        alive[[places.pop(each) for each in ids]] = False
        self.alive, self._words = alive, None

    def nearest(
        self, queries: Floats, k: int, mask: Mask | None, oversample: int, *, fill: bool = False
    ) -> tuple[Floats, Integers]:
        """Cosines and places of the nearest rows: of a mask, or of all that are there.

        With `fill` the exact search answers the queries of which fewer were found than there are.
        """
        if mask is None and not self.whole:
            mask = self.alive
        if mask is not None and not mask.any():
            nothing = (len(queries), 0)
            return np.empty(nothing, np.float32), np.empty(nothing, np.int64)
        scores, places = self.finder.nearest(queries, k, mask, oversample)
        if fill:
            wanted = min(k, len(self.vectors) if mask is None else int(np.count_nonzero(mask)))
            short = np.flatnonzero((places[:, :wanted] < 0).any(axis=1))
            if len(short):
                found = Exact(self.vectors).nearest(queries[short], k, mask, oversample)
                scores[short, :wanted], places[short, :wanted] = found
        return scores, places

    def by_words(self, texts: list[str], k: int, mask: Mask | None) -> Integers:
        """(n, c) places of the best rows by BM25, c at most k; -1 where there are fewer."""
        with self._filling:
            if self._words is None:
                own = self.rows[TEXT].to_pylist()
                if not any(map(words, own)):  # signs alone
                    return np.empty((len(texts), 0), np.int64)
                self._words = BM25().fit(own), np.flatnonzero(self.alive)
            bm25, places = self._words
        allowed = None if mask is None else mask[places]
        found = bm25.best(texts, min(k, len(places)), allowed)[1]
        return np.where(found >= 0, places[found], -1)
