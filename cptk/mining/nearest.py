"""The texts of a corpus that lie nearest to queries: found block by block, and kept on disk."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from cptk.encoders import TextEncoder, embed_checked, quiet, trained_embedder
from cptk.fingerprint import fingerprint
from cptk.mining.block_folder import BlockFolder
from cptk.search import BM25, top_k
from cptk.search.approximate import faiss_search
from cptk.search.bm25 import words
from cptk.search.exact import unit_rows
from cptk.types import Vectors

# Texts that are embedded, and queries that are searched for, between two writes to disk: a killed
# run loses no more than these.
TEXTS = 2048
QUERIES = 4 * TEXTS

Scores: TypeAlias = NDArray[np.floating[Any]]
Told: TypeAlias = Callable[[int], None]
"""Shows that so many more texts are done."""


class Wanted(NamedTuple):
    """What is looked for, and among what."""

    queries: list[str]
    """n different ones."""
    rows: list[list[int]]
    """For each query its pairs."""
    documents: list[str]
    """The document of each pair."""
    texts: list[str]
    """m different ones, to look among."""
    depth: int
    """How many texts to find for each query."""
    search: str
    """`"exact"`, or an index of FAISS's."""

    def pairs(self, queries: range) -> list[tuple[int, int]]:
        """The pairs of some queries, as (place among these queries, row)."""
        return [(i, row) for i, query in enumerate(queries) for row in self.rows[query]]


class Found(NamedTuple):
    """The nearest texts of a block of queries."""

    scores: Scores
    """(queries, depth), descending; `-inf` where there are no more."""
    places: NDArray[np.int64]
    """(queries, depth), in `Wanted.texts`; -1 where there are no more."""
    own: Scores
    """Of each of `Wanted.pairs`, the score of its document."""


class _Finder(Protocol):
    def find(self, queries: range) -> Found:
        """The nearest texts of some queries."""


def nearest(
    embedder: TextEncoder | BM25, wanted: Wanted, kept: BlockFolder, verbose: str | int
) -> Iterator[tuple[range, Found]]:
    """The nearest texts of all queries, a block of queries at a time.

    Args:
        embedder: What scores.
        wanted: What is looked for.
        kept: Where vectors, and what was found, are kept.
        verbose: As `hard_negatives` takes it.
    """
    finder: _Finder | None = None
    for start in range(0, len(wanted.queries), QUERIES):
        queries = range(start, min(start + QUERIES, len(wanted.queries)))
        name = f"found-{start // QUERIES:06d}"
        shape = (len(queries), wanted.depth)
        shapes = {"scores": shape, "places": shape, "own": (len(wanted.pairs(queries)),)}
        arrays = kept.load(name, shapes)
        if arrays is None:
            finder = finder or _finder(embedder, wanted, kept, start, verbose)
            found = finder.find(queries)
            kept.save(name, found._asdict())
        else:
            found = Found(**arrays)
        yield queries, found


def dependencies(embedder: TextEncoder | BM25, wanted: Wanted) -> dict[str, str]:
    """All that vectors and what is found depend on, for the folder that keeps them."""
    every = wanted.pairs(range(len(wanted.queries)))
    return {
        "format": "1",
        "embedder": _identity(embedder),
        "queries": _of_texts(wanted.queries),
        "pairs": _of_texts(f"{query} {wanted.documents[row]}" for query, row in every),
        "corpus": _of_texts(wanted.texts),
        "ranks": f"up to {wanted.depth}",
        "search": wanted.search,
    }


def _finder(
    embedder: TextEncoder | BM25, wanted: Wanted, kept: BlockFolder, start: int, verbose: str | int
) -> _Finder:
    """What finds texts for the queries from `start` on."""
    by_words = isinstance(embedder, BM25)
    documents = [] if by_words else list(dict.fromkeys([*wanted.texts, *wanted.documents]))
    total = len(documents) + len(wanted.queries) - start
    show = total > TEXTS if verbose == "auto" else bool(verbose)
    told = _nothing
    if show:
        from cptk.progress import progress  # which may import Keras

        told = progress(total, "text").add
    if isinstance(embedder, BM25):
        return _ByWords(embedder, wanted, told)
    # A short call may show the embedder's own progress.
    silent = quiet(embedder) if show or not verbose else embedder
    return _ByVectors(silent, wanted, documents, kept, told)


def _nothing(done: int) -> None:
    """Show no progress."""


class _ByWords:
    """Texts found by BM25."""

    def __init__(self, bm25: BM25, wanted: Wanted, told: Told) -> None:
        self.wanted, self.told = wanted, told
        self.bm25 = copy.copy(bm25).fit(wanted.texts)  # the user's own stays as it is

    def find(self, queries: range) -> Found:
        asked = self.wanted.queries[queries.start : queries.stop]
        pairs = self.wanted.pairs(queries)
        scores, places = self.bm25.top_k(asked, self.wanted.depth)
        own = self.bm25.score(
            [asked[i] for i, _ in pairs], [self.wanted.documents[row] for _, row in pairs]
        )
        self.told(len(queries))
        return Found(scores, places, own)


class _ByVectors:
    """Texts found by the cosine of their vectors, of which the documents' are held in memory."""

    def __init__(
        self,
        embedder: TextEncoder,
        wanted: Wanted,
        documents: list[str],
        kept: BlockFolder,
        told: Told,
    ) -> None:
        self.wanted = wanted
        self.places = {text: place for place, text in enumerate(documents)}
        self.queries = _UnitVectors(embedder, wanted.queries, "query", kept, told)
        self.vectors = _UnitVectors(embedder, documents, "document", kept, told).between(
            0, len(documents)
        )
        self.among = self.vectors[: len(wanted.texts)]
        self.index = None if wanted.search == "exact" else faiss_search(self.among, wanted.search)

    def find(self, queries: range) -> Found:
        asked, depth = self.queries.between(queries.start, queries.stop), self.wanted.depth
        if asked.shape[1] != self.vectors.shape[1]:
            raise _another_size(self.vectors, asked)
        scores, places = (
            top_k(asked, self.among, depth, metric="dot")
            if self.index is None
            else self.index(asked, depth)
        )
        pairs = self.wanted.pairs(queries)
        own = np.empty(len(pairs), np.float32)
        for start in range(0, len(pairs), TEXTS):
            part = pairs[start : start + TEXTS]
            documents = [self.places[self.wanted.documents[row]] for _, row in part]
            # Each pair alone, in float32, as `top_k` scores: equal vectors have equal scores.
            own[start : start + TEXTS] = np.vecdot(
                asked[[i for i, _ in part]], self.vectors[documents]
            )
        return Found(scores, places, own)


class _UnitVectors:
    """Different texts in a role, embedded block by block, and divided by their lengths."""

    def __init__(
        self, embedder: TextEncoder, texts: list[str], role: str, kept: BlockFolder, told: Told
    ) -> None:
        self.embedder, self.texts, self.role = embedder, texts, role
        self.kept, self.told = kept, told

    def between(self, start: int, stop: int) -> Vectors:
        """Vectors of the texts from `start`, where a block begins, to `stop`."""
        vectors: Vectors | None = None
        for begin in range(start, stop, TEXTS):
            block = self._block(begin)
            if vectors is None:
                vectors = np.empty((stop - start, block.shape[1]), np.float32)
            if block.shape[1] != vectors.shape[1]:
                raise _another_size(vectors, block)
            vectors[begin - start : begin - start + len(block)] = block
            self.told(len(block))
        assert vectors is not None  # there is a text
        return vectors

    def _block(self, begin: int) -> Vectors:
        texts = self.texts[begin : begin + TEXTS]
        name = f"{self.role}-{begin // TEXTS:06d}"
        arrays = self.kept.load(name, {"vectors": (len(texts), None)})
        if arrays is not None:
            return arrays["vectors"]
        vectors = unit_rows(embed_checked(self.embedder, texts, self.role).vectors)
        self.kept.save(name, {"vectors": vectors})
        return vectors


def _another_size(vectors: Vectors, others: Vectors) -> ValueError:
    return ValueError(
        "The embedder should give vectors of one size. Received "
        f"{vectors.shape[1]} and then {others.shape[1]} numbers a text."
    )


def _identity(embedder: TextEncoder | BM25) -> str:
    """The name of a class, and a hash of all that it computes with."""
    owner = trained_embedder(embedder)
    known = fingerprint(owner)
    if known is not None:
        return f"{type(owner).__name__} {known[:16]}"
    if isinstance(owner, BM25) and owner.tokenize is words:
        return f"BM25 of k1={owner.k1} and b={owner.b}"
    raise ValueError(
        f"What this {type(owner).__name__} computes with cannot be read, so its work in `folder` "
        "could not be told from another's. Give it a string attribute `fingerprint`, and another "
        "one whenever it changes; or leave `folder` out."
    )


def _of_texts(texts: Iterable[str]) -> str:
    """How many texts there are, and a hash of them."""
    digest, count = hashlib.sha256(), 0
    for count, text in enumerate(texts, 1):  # noqa: B007
        encoded = text.encode()
        digest.update(b"%d " % len(encoded) + encoded)
    return f"{count:,} texts ({digest.hexdigest()[:16]})"
