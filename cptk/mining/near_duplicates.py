"""Near duplicates among pairs, by MinHash: the same survivors in whatever order they come."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from cptk import checks
from cptk.data.pairs import Pairs
from cptk.mining import minhash
from cptk.mining.copies import check_pairs


def drop_near_duplicates(pairs: Pairs, *, by: str = "document", similarity: float = 0.8) -> Pairs:
    """The pairs without those that are nearly another one, of which the smaller id stays.

    Two texts are near duplicates if the sets of their runs of five characters, white space made one
    space and case left out, have a Jaccard index of `similarity` or more. A pair falls if it is a
    near duplicate of one with a smaller content id, a hash of its query and document, whether that
    one stays or not. So what stays depends on the set of pairs alone, not on their order, nor on
    how many workers look. Of equal pairs the first stays.

    Candidates come from MinHash in bands, so that few of all pairs are compared; those are compared
    exactly. `examples/mine_at_scale.py` does the same on a cluster, by the same functions
    (`cptk.mining.minhash`).

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
    texts = minhash.compared(queries, documents, by)
    ids = minhash.content_ids(queries, documents)
    return pairs.filter(~_fallen(texts, ids, float(similarity)))


def _fallen(texts: Sequence[str], ids: NDArray[np.uint64], similarity: float) -> NDArray[np.bool_]:
    """(n,) whether each text is one, or nearly one, of a smaller id."""
    # Equal pairs have one id; the first of them counts as the smallest.
    order = np.argsort(ids, kind="stable")
    _, first = np.unique(minhash.text_keys(texts)[order], return_index=True)
    fallen = np.ones(len(texts), bool)
    # Of equal texts the smallest stands for all: the others fall, and what is near them is near it.
    left = order[np.sort(first)]
    fallen[left] = False
    signatures = minhash.signatures([texts[i] for i in left])
    for band, keys in enumerate(minhash.band_keys(signatures).T):
        for group in minhash.groups_of(keys):
            rows = left[group]
            fallen[rows] = minhash.near_smaller(
                [texts[i] for i in rows], signatures[group], band, similarity, fallen[rows]
            )
    return fallen
