"""Pairs kept apart from the texts that an embedder will be tested on."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence

import pyarrow as pa

from cptk import checks
from cptk.data.pairs import Pairs
from cptk.mining.copies import check_pairs
from cptk.search.bm25 import words
from cptk.types import Path

NGRAM = 13


def decontaminate(
    pairs: Pairs, texts: Iterable[str], *, n: int = NGRAM, dropped: Path | None = None
) -> Pairs:
    """The pairs that share no text with a test set.

    A pair falls if its query or its document is one of the texts, or shares `n` words in a row with
    one; words are runs of letters, digits and underscores, in lower case.

    Args:
        pairs: `Pairs`.
        texts: Those of the test set, its queries and documents alike.
        n: Words.
        dropped: A Parquet file for what fell: the pairs, with the columns `reason` ("query: exact
            match", "document: 13-gram", …) and `overlap`, the words that are shared. Nothing is
            written where nothing fell.

    Raises:
        TypeError: Something else than `Pairs`, or texts that are no strings.
        ValueError: No texts, or `n` below 1.

    Example:

    ```pycon
    >>> from cptk.data import Pairs
    >>> from cptk.mining import decontaminate
    >>> pairs = Pairs([("how?", "So it is."), ("why?", "He says: because of that.")])
    >>> decontaminate(pairs, ["so it is!", "Only because of that it rains."], n=3)["query"]
    []
    >>> len(decontaminate(pairs, ["so it is!"], n=3))
    1

    ```

    References:
        Brown et al. 2020, Language Models are Few-Shot Learners, arXiv:2005.14165, appendix C,
        where 13 words count as an overlap.
    """
    check_pairs(pairs, "pairs")
    n = checks.integer("n", n, 1)
    whole: set[int] = set()
    grams: set[int] = set()
    for text in checks.texts(texts):
        own = words(text)
        whole.add(_number(own))
        grams.update(number for number, _ in _grams(own, n))
    kept, reasons, overlaps = [], [], []
    for query, document in zip(pairs["query"], pairs["document"], strict=True):
        found = None
        for side, text in (("query", str(query)), ("document", str(document))):
            own = words(text)
            if own and _number(own) in whole:
                found = f"{side}: exact match", " ".join(own)
                break
            place = next((p for number, p in _grams(own, n) if number in grams), None)
            if place is not None:
                found = f"{side}: {n}-gram", " ".join(own[place : place + n])
                break
        kept.append(found is None)
        if found is not None:
            reasons.append(found[0])
            overlaps.append(found[1])
    if dropped is not None and reasons:
        fallen = pairs.filter([not each for each in kept]).to_arrow()
        for name, values in (("reason", reasons), ("overlap", overlaps)):
            fallen = fallen.append_column(name, pa.array(values))
        Pairs._of(fallen).to_parquet(dropped)
    return pairs.filter(kept)


def _grams(own: Sequence[str], n: int) -> Iterator[tuple[int, int]]:
    """The number of each run of n words, and where it begins."""
    for place in range(len(own) - n + 1):
        yield _number(own[place : place + n]), place


def _number(run: Sequence[str]) -> int:
    """64 bits of some words: two different runs share them once in 10^19."""
    key = " ".join(run).encode(errors="surrogatepass")
    return int.from_bytes(hashlib.blake2b(key, digest_size=8).digest())
