"""The pieces of finding near duplicates, each a function over a batch of texts.

One process (`drop_near_duplicates`) and a cluster (`examples/mine_at_scale.py`) call the same ones:
what is compared, its signature, the keys by which candidates meet, and who falls among those.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from cptk import optional
from cptk.mining.copies import jaccard, shingles

BANDS, ROWS = 25, 5
"""Two texts are compared if all numbers of a band of their signatures agree: with a probability of
1 - (1 - s^5)^25 at a Jaccard index of s, 99.995% at 0.8 and 98% at 0.68. Ours."""
BAND_BITS = np.uint64(5)
"""The last bits of a key name its band."""
SEED = 42
TEXTS_AT_ONCE = 1024
SLACK = 0.15
"""A signature of 125 numbers tells the index to a standard deviation of 0.045 at most."""


def compared(queries: Sequence[str], documents: Sequence[str], by: str) -> list[str]:
    r"""What is compared of some pairs, in small letters, with white space made one space.

    Args:
        queries: (n,) texts.
        documents: (n,) texts.
        by: "query", "document", or "pair", both together.

    Example:

    ```pycon
    >>> from cptk.mining.minhash import compared
    >>> compared(["Why?"], ["Because\n of that."], "pair")
    ['why? because of that.']

    ```
    """
    sides = {
        "query": queries,
        "document": documents,
        "pair": [f"{query}\n{document}" for query, document in zip(queries, documents, strict=True)]
        if by == "pair"
        else (),
    }
    return [" ".join(text.lower().split()) for text in sides[by]]


def content_ids(queries: Sequence[str], documents: Sequence[str]) -> NDArray[np.uint64]:
    """(n,) the first 64 bits of a hash of query and document: of equal pairs the same.

    Example:

    ```pycon
    >>> from cptk.mining.minhash import content_ids
    >>> ids = content_ids(["a", "b", "a"], ["x", "x", "x"])
    >>> int(ids[0]) == int(ids[2]), int(ids[0]) == int(ids[1])
    (True, False)

    ```
    """
    both = zip(queries, documents, strict=True)
    return _hashes(["\0".join(sides) for sides in both])


def text_keys(texts: Sequence[str]) -> NDArray[np.uint64]:
    """(n,) a number of each text that is compared, equal for equal ones.

    Example:

    ```pycon
    >>> from cptk.mining.minhash import text_keys
    >>> len(set(text_keys(["one", "two", "one"]).tolist()))
    2

    ```
    """
    return _hashes(texts)


def signatures(texts: Sequence[str]) -> NDArray[np.uint32]:
    """(n, 125) MinHash signatures of texts, over their runs of five characters.

    Raises:
        ImportError: rensa is not installed: `pip install "cptk[clean]"`.

    Example:

    ```pycon
    >>> from cptk.mining.minhash import signatures
    >>> signatures(["the quick brown fox"]).shape
    (1, 125)

    ```
    """
    rensa = optional.load("rensa", "Finding near duplicates", "rensa", "clean")
    found = np.empty((len(texts), BANDS * ROWS), np.uint32)
    for start in range(0, len(texts), TEXTS_AT_ONCE):
        sets = [list(shingles(text)) for text in texts[start : start + TEXTS_AT_ONCE]]
        matrix = rensa.RMinHash.digest_matrix_from_token_sets(sets, BANDS * ROWS, SEED)
        found[start : start + len(sets)] = matrix.to_rows()
    return found


def band_keys(numbers: NDArray[np.uint32]) -> NDArray[np.uint64]:
    """(n, 25) a key of each band of signatures, equal for bands that agree; none is of two bands.

    Example:

    ```pycon
    >>> from cptk.mining.minhash import band_keys, signatures
    >>> near = band_keys(signatures(["The quick brown fox jumps.", "The quick brown fox jumped."]))
    >>> near.shape, bool((near[0] == near[1]).any())
    ((2, 25), True)

    ```
    """
    bands = numbers.reshape(-1, BANDS, ROWS).astype(np.uint64)
    found = np.zeros(bands.shape[:2], np.uint64)
    for row in range(ROWS):  # FNV-1a, and the high bits mixed into the low ones
        found = (found ^ bands[:, :, row]) * np.uint64(0x100000001B3)
        found ^= found >> np.uint64(29)
    return (found << BAND_BITS) | np.arange(BANDS, dtype=np.uint64)


def near_smaller(
    texts: Sequence[str],
    numbers: NDArray[np.uint32],
    band: int,
    similarity: float,
    fallen: NDArray[np.bool_] | None = None,
) -> NDArray[np.bool_]:
    """Which texts of one group are near duplicates of one before them.

    Two texts that meet in several groups are compared in that of the first band they share, so that
    no list of what was compared is held. Of a large group of texts that are nearly the same, most
    fall by the first comparison.

    Args:
        texts: (m,) different texts, as `compared` gives them, that share the key of a band, in the
            order of their pairs' content ids.
        numbers: (m, 125) their signatures.
        band: Its number.
        similarity: Jaccard index from which on two are near duplicates.
        fallen: (m,) texts that are known to fall, and need not be looked at for themselves.

    Returns:
        (m,) those, and the known ones.

    Example:

    ```pycon
    >>> from cptk.mining.minhash import band_keys, near_smaller, signatures
    >>> texts = ["the quick brown fox jumps over it.", "the quick brown fox jumps over it!"]
    >>> numbers = signatures(texts)
    >>> keys = band_keys(numbers)
    >>> band = int((keys[0] == keys[1]).argmax())
    >>> near_smaller(texts, numbers, band, 0.8).tolist()
    [False, True]

    ```
    """
    falls = np.zeros(len(texts), bool) if fallen is None else fallen.copy()
    bands = numbers.reshape(len(texts), BANDS, ROWS)
    for own in range(1, len(texts)):
        parts = None
        for start in range(0, 0 if falls[own] else own, TEXTS_AT_ONCE):
            block = slice(start, min(own, start + TEXTS_AT_ONCE))
            agree = bands[block] == bands[own]
            near = agree.mean((1, 2)) >= similarity - SLACK
            near &= agree.all(2).argmax(1) == band  # their first
            for other in (np.flatnonzero(near) + start).tolist():
                parts = shingles(texts[own]) if parts is None else parts
                if jaccard(parts, shingles(texts[other])) >= similarity:
                    falls[own] = True
                    break
            if falls[own]:
                break
    return falls


def groups_of(keys: NDArray[np.uint64]) -> Iterator[NDArray[np.int64]]:
    """The places of keys that occur twice or more, in their order, key by key.

    Example:

    ```pycon
    >>> import numpy as np
    >>> from cptk.mining.minhash import groups_of
    >>> [group.tolist() for group in groups_of(np.array([7, 3, 7, 5, 3, 7], np.uint64))]
    [[1, 4], [0, 2, 5]]

    ```
    """
    order = np.argsort(keys, kind="stable")
    begins = np.flatnonzero(np.concatenate([[True], np.diff(keys[order]) != 0, [True]]))
    several = np.flatnonzero(np.diff(begins) > 1)
    for begin, end in zip(begins[several].tolist(), begins[several + 1].tolist(), strict=True):
        yield order[begin:end]


def _hashes(texts: Sequence[str]) -> NDArray[np.uint64]:
    joined = b"".join(
        hashlib.blake2b(text.encode(errors="surrogatepass")).digest()[:8] for text in texts
    )
    return np.frombuffer(joined, ">u8").astype(np.uint64)
