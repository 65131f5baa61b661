"""Retrieval through a `cptk.search.Index`, and what its approximation cost."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np

from cptk import checks
from cptk.encoders import Vectors
from cptk.search import Index
from cptk.search.exact import Floats, Integers

NewIndex: TypeAlias = str | Callable[[], Index]
"""A factory of FAISS's, or a function that makes an empty index."""

RANKS = (10, 100)


class IndexSearch:
    """A search through a new index on each call; `recall` says what the last one missed.

    Args:
        index: What makes it.

    Raises:
        TypeError: Neither a factory nor a function.
        ValueError: FAISS does not know the factory.
    """

    def __init__(self, index: NewIndex) -> None:
        if isinstance(index, str):
            self._check_name(index)  # an unknown one is refused before texts are embedded
        elif not callable(index):
            raise TypeError(
                "`index` should be a factory of FAISS's, such as 'HNSW32', or a function that "
                "makes an empty index: lambda: cptk.search.Index(dtype='int8'). Received: "
                f"{checks.shown(index)}."
            )
        self._index = index
        self.recall: dict[str, float] = {}

    @staticmethod
    def _check_name(factory: str) -> None:
        try:
            Index(factory=factory, dim=64)
        except ValueError as error:
            # What else 64 numbers are refused for ("PQ48") may be right for the embedder's.
            if "could not parse" in str(error):
                raise

    def check(self, dim: int) -> None:
        """Raise `ValueError` where FAISS does not make the index for vectors of `dim` numbers."""
        if isinstance(self._index, str):
            Index(factory=self._index, dim=dim)

    def __call__(self, queries: Vectors, documents: Vectors, k: int) -> tuple[Floats, Integers]:
        """Cosines and rows of the best documents of each query, (n, k) or fewer."""
        index = Index(factory=self._index) if isinstance(self._index, str) else self._index()
        if not isinstance(index, Index) or len(index):
            raise TypeError(
                "`index` should make an empty cptk.search.Index on each call. Received: "
                f"{checks.shown(index)}."
            )
        scores, rows = index.add(documents).nearest(queries, k)
        exact, _ = Index().add(documents).nearest(queries, min(k, max(RANKS)))
        self.recall = {
            f"index_recall@{rank}": _recall(scores, exact, rank)
            for rank in RANKS
            if rank <= exact.shape[1]
        }
        return scores, rows


def _recall(found: Floats, exact: Floats, rank: int) -> float:
    """The share of the `rank` best that was found; any of equal cosines will do."""
    hits = np.count_nonzero(found[:, :rank] >= exact[:, rank - 1 : rank])
    return int(hits) / (rank * len(found))
