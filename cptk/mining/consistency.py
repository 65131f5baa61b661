"""Pairs whose document an embedder finds again among many others."""

from __future__ import annotations

import hashlib
import heapq
from collections import Counter

import numpy as np
from numpy.typing import NDArray

from cptk import checks
from cptk.data.pairs import Pairs
from cptk.encoders import TextEncoder, check_encoder, embed, quiet
from cptk.mining.copies import check_pairs
from cptk.search.exact import unit_rows
from cptk.types import Vectors

TEXTS = 2048
"""Texts that are embedded at once, and documents that a block of queries is compared with."""
TIE = 1e-6
"""What batches of other lengths may move a cosine by."""


def consistent(
    embedder: TextEncoder,
    pairs: Pairs,
    *,
    k: int = 2,
    pool: int = 100_000,
    seed: int = 0,
    counts: Counter[str] | None = None,
) -> Pairs:
    """The pairs whose document is among the k nearest of a random pool to their query.

    The pool is drawn from the documents of the pairs, equal ones once, by a hash of text and seed:
    it is the same in whatever order they come. A pair stays if fewer than `k` documents of the
    pool, its own left out, have a higher cosine with its query than its own document has; ties
    count for the pair.

    Memory is the vectors of the pool, four bytes a number, and one block of pairs.

    Args:
        embedder: Anything that embeds text (`cptk.evaluation.embed`). Queries and documents are
            embedded in their roles where it has them.
        pairs: `Pairs`.
        k: See above; 1 keeps pairs alone whose document is the nearest of all.
        pool: How many documents to draw; all, where there are fewer.
        seed: Of the draw.
        counts: Is told how many pairs stay ("consistent") and fall ("inconsistent").

    Raises:
        TypeError: Something else than `Pairs`, or something that cannot embed.
        ValueError: No pairs, a blank text, or a limit below its least.

    Example:

    ```pycon
    >>> from cptk.data import Pairs
    >>> from cptk.mining import consistent
    >>> letters = lambda texts: [[text.count("a"), text.count("b")] for text in texts]
    >>> pairs = Pairs([("aa", "aab"), ("bb", "abb"), ("ab", "b")])
    >>> consistent(letters, pairs, k=1)["query"]
    ['aa']
    >>> consistent(letters, pairs, k=2)["query"]
    ['aa', 'bb']

    ```

    References:
        - Wang et al. 2022, E5, arXiv:2212.03533, section 3.1: pairs among the top 2 of a pool of a
          million passages, by a model trained on the noisy pairs.
        - Dai et al. 2022, Promptagator, arXiv:2209.11755, section 3.3, where the filter is from.
    """
    check_pairs(pairs, "pairs")
    check_encoder(embedder)
    k = checks.integer("k", k, 1)
    pool = checks.integer("pool", pool, 1)
    seed = checks.integer("seed", seed, 0)
    queries = checks.texts(pairs["query"], "query")
    documents = checks.texts(pairs["document"], "document")
    encoder = quiet(embedder)
    drawn = _drawn(documents, pool, seed)
    place = {text: number for number, text in enumerate(drawn)}
    vectors = np.concatenate(
        [_unit(encoder, drawn[i : i + TEXTS], "document") for i in range(0, len(drawn), TEXTS)]
    )
    kept: list[bool] = []
    for start in range(0, len(queries), TEXTS):
        own = documents[start : start + TEXTS]
        above = _above(
            _unit(encoder, queries[start : start + TEXTS], "query"),
            _own_vectors(encoder, own, place, vectors),
            np.array([place.get(text, -1) for text in own]),
            vectors,
        )
        kept += (above < k).tolist()
    if counts is not None:
        counts["consistent"] += sum(kept)
        counts["inconsistent"] += len(kept) - sum(kept)
    return pairs.filter(kept)


def _drawn(documents: list[str], size: int, seed: int) -> list[str]:
    """The documents of the smallest hashes."""

    def number(text: str) -> bytes:
        return hashlib.blake2b(f"{seed}\0{text}".encode(errors="surrogatepass")).digest()

    return heapq.nsmallest(size, dict.fromkeys(documents), key=number)


def _unit(encoder: TextEncoder, texts: list[str], role: str) -> Vectors:
    return unit_rows(embed(encoder, texts, role))


def _own_vectors(
    encoder: TextEncoder, own: list[str], place: dict[str, int], vectors: Vectors
) -> Vectors:
    """The vectors of some documents, of which those of the pool are there."""
    found = np.empty((len(own), vectors.shape[1]), np.float32)
    missing = [text for text in dict.fromkeys(own) if text not in place]
    more = dict(zip(missing, _unit(encoder, missing, "document"), strict=True)) if missing else {}
    for row, text in enumerate(own):
        found[row] = vectors[place[text]] if text in place else more[text]
    return found


def _above(
    queries: Vectors, own: Vectors, places: NDArray[np.int64], vectors: Vectors
) -> NDArray[np.int64]:
    """How many documents of the pool are nearer to each query than its own."""
    least = (queries * own).sum(1) + np.float32(TIE)
    above = np.zeros(len(queries), np.int64)
    for start in range(0, len(vectors), TEXTS):
        nearer = queries @ vectors[start : start + TEXTS].T > least[:, None]
        here = np.flatnonzero((places >= start) & (places < start + TEXTS))
        nearer[here, places[here] - start] = False
        above += nearer.sum(1)
    return above
