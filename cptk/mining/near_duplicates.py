"""Near duplicates among pairs, by MinHash: the same survivors in whatever order they come."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from cptk import checks, optional
from cptk.data.pairs import Pairs
from cptk.mining.copies import check_pairs, jaccard, shingles

BANDS, ROWS = 25, 5
"""Two texts are compared if all numbers of a band of their signatures agree: with a probability of
1 - (1 - s^5)^25 at a Jaccard index of s, 99.995% at 0.8 and 98% at 0.68. Ours."""
SEED = 42
TEXTS_AT_ONCE = 4096
SLACK = 0.15
"""A signature of 125 numbers tells the index to a standard deviation of 0.045 at most."""


def drop_near_duplicates(pairs: Pairs, *, by: str = "document", similarity: float = 0.8) -> Pairs:
    """The pairs without those that are nearly another one, of which the smaller id stays.

    Two texts are near duplicates if the sets of their runs of five characters, white space made one
    space and case left out, have a Jaccard index of `similarity` or more. A pair falls if it is a
    near duplicate of one with a smaller content id, a hash of its query and document, whether that
    one stays or not. So what stays depends on the set of pairs alone, not on their order, nor on
    how many workers look. Of equal pairs the first stays.

    Candidates come from MinHash in bands, so that few of all pairs are compared; those are compared
    exactly.

    Args:
        pairs: `Pairs`.
        by: What is compared: "query", "document", or "pair", both together.
        similarity: 0.5 to 1.

    Raises:
        TypeError: Something else than `Pairs`.
        ValueError: An unknown side, or a similarity out of its range.
        ImportError: rensa is not installed: `pip install "cptk[clean]"`.

    Example:

    ```pycon
    >>> from cptk.data import Pairs
    >>> from cptk.mining import drop_near_duplicates
    >>> rows = [("a", "The quick brown fox jumps over the lazy dog."), ("b", "Another text.")]
    >>> rows.append(("c", "The quick brown fox jumps over the lazy dogs."))
    >>> len(drop_near_duplicates(Pairs(rows)))
    2

    ```

    References:
        Broder 1997, On the Resemblance and Containment of Documents; bands after Leskovec,
        Rajaraman & Ullman, Mining of Massive Datasets, section 3.4.
    """
    check_pairs(pairs, "pairs")
    checks.choice("by", by, ("query", "document", "pair"))
    if not checks.is_number(similarity) or not 0.5 <= similarity <= 1:
        raise ValueError(
            f"`similarity` should be from 0.5 to 1. Received: {checks.shown(similarity)}."
        )
    queries, documents = [[str(x) for x in pairs[side]] for side in ("query", "document")]
    both = list(zip(queries, documents, strict=True))
    texts = {"query": queries, "document": documents, "pair": ["\n".join(x) for x in both]}[by]
    ids = [hashlib.blake2b("\0".join(x).encode(errors="surrogatepass")).digest() for x in both]
    # Equal pairs have one id; the first of them counts as the smallest.
    rank = np.empty(len(ids), np.int64)
    rank[sorted(range(len(ids)), key=lambda i: (ids[i], i))] = np.arange(len(ids))
    return pairs.filter(~_fallen(texts, rank, float(similarity)))


def _fallen(texts: Sequence[str], rank: NDArray[np.int64], similarity: float) -> NDArray[np.bool_]:
    """(n,) whether each text is nearly one of a smaller rank."""
    fallen = np.zeros(len(texts), bool)
    signatures = _signatures(texts)
    different: set[tuple[int, int]] = set()
    for band in range(BANDS):
        keys = _keys(signatures[:, band * ROWS : (band + 1) * ROWS])
        order = np.lexsort((rank, keys))
        begins = np.flatnonzero(np.concatenate([[True], np.diff(keys[order]) != 0, [True]]))
        for begin, end in pairwise(begins.tolist()):
            group = order[begin:end]
            for place in range(1, len(group)):
                own = int(group[place])
                if fallen[own]:
                    continue
                smaller = group[:place]
                near = (signatures[smaller] == signatures[own]).mean(1) >= similarity - SLACK
                for other in map(int, smaller[near]):
                    if (own, other) in different:
                        continue
                    if jaccard(_parts(texts[own]), _parts(texts[other])) >= similarity:
                        fallen[own] = True
                        break
                    different.add((own, other))
    return fallen


def _parts(text: str) -> frozenset[str]:
    return shingles(" ".join(text.lower().split()))


def _signatures(texts: Sequence[str]) -> NDArray[np.uint32]:
    """(n, 125) MinHash signatures."""
    rensa = optional.load("rensa", "Finding near duplicates", "rensa", "clean")
    blocks = []
    for start in range(0, len(texts), TEXTS_AT_ONCE):
        sets = [list(_parts(text)) for text in texts[start : start + TEXTS_AT_ONCE]]
        found = rensa.RMinHash.digest_matrix_from_token_sets(sets, BANDS * ROWS, SEED)
        blocks.append(np.asarray(found.to_rows(), np.uint32))
    return np.concatenate(blocks)


def _keys(numbers: NDArray[np.uint32]) -> NDArray[np.uint64]:
    """(n,) a number of each row, equal for equal rows."""
    found = np.zeros(len(numbers), np.uint64)
    for column in numbers.T:  # FNV-1a, a column at a time
        found = (found ^ column.astype(np.uint64)) * np.uint64(0x100000001B3)
    return found
