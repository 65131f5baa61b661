"""Several rankings of the same rows as one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cptk import checks

CONSTANT = 60.0
"""Cormack et al.'s: how little the very first ranks stand out."""


def reciprocal_rank_fusion(
    rankings: Sequence[ArrayLike], k: int | None = None, *, constant: float = CONSTANT
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Fuses rankings by their ranks alone, whatever the scores were.

        score(row) = sum over the rankings that have the row of 1 / (constant + its rank from 1)

    Args:
        rankings: Rows of integers, (n, k_i) each for n queries, or (k_i,) for one: the best first;
            -1 stands for nothing, as `BM25.top_k` has it where it finds fewer.
        k: How many to keep of each; all by default.
        constant: 60 in the paper.

    Returns:
        Scores (n, k) float64, descending, and rows (n, k) int64; of equal scores the lower row
        first. Where there are fewer, the rest is `-inf` and -1. For one query both are (k,).

    Raises:
        TypeError: Rankings that are no integers.
        ValueError: None at all, of other shapes, a row twice in one, or `constant` below 0.

    Example:

    ```pycon
    >>> from cptk.search import reciprocal_rank_fusion
    >>> scores, rows = reciprocal_rank_fusion([[4, 7, 9], [7, 1, 4]], k=2)
    >>> rows.tolist(), scores.round(4).tolist()  # 1/62 + 1/61, 1/61 + 1/63
    ([7, 4], [0.0325, 0.0323])

    ```

    References:
        - Cormack, Clarke & Büttcher 2009, Reciprocal Rank Fusion outperforms Condorcet and
          individual rank learning methods, SIGIR.
    """
    if not checks.is_number(constant) or not 0 <= constant < np.inf:
        raise ValueError(
            f"`constant` should be a number of 0 or more. Received: {checks.shown(constant)}."
        )
    arrays = [_ranking(each) for each in checks.items(rankings, "rankings", "rankings")]
    if not arrays:
        raise ValueError("`rankings` is empty. Pass one ranking or more.")
    single = arrays[0].ndim == 1
    if len({(array.ndim, *array.shape[:-1]) for array in arrays}) > 1:
        raise ValueError(
            "`rankings` should be of as many queries each. Received shapes: "
            f"{checks.shown([array.shape for array in arrays])}."
        )
    matrices = [np.atleast_2d(array) for array in arrays]
    total = sum(matrix.shape[1] for matrix in matrices)
    k = total if k is None else checks.integer("k", k, 1)
    scores = np.full((len(matrices[0]), k), -np.inf)
    rows = np.full((len(matrices[0]), k), -1, np.int64)
    for i in range(len(scores)):
        found, sums = _fused([matrix[i] for matrix in matrices], constant)
        order = np.lexsort((found, -sums))[:k]
        scores[i, : len(order)], rows[i, : len(order)] = sums[order], found[order]
    return (scores[0], rows[0]) if single else (scores, rows)


def _fused(
    rankings: list[NDArray[np.int64]], constant: float
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    given, worth = [], []
    for ranking in rankings:
        there = ranking >= 0
        if len(np.unique(ranking[there])) < np.count_nonzero(there):
            raise ValueError(
                f"A ranking should have each row once. Received: {checks.shown(ranking.tolist())}."
            )
        given.append(ranking[there])
        worth.append(1 / (constant + np.flatnonzero(there) + 1))
    found, inverse = np.unique(np.concatenate(given), return_inverse=True)
    sums = np.bincount(inverse, weights=np.concatenate(worth), minlength=len(found))
    return found, sums.astype(np.float64)


def _ranking(values: ArrayLike) -> NDArray[np.int64]:
    try:
        array = np.asarray(values)
    except ValueError:  # rows of unequal length
        array = np.empty(0, object)
    if (array.dtype.kind not in "iu" and array.size) or array.ndim not in (1, 2):
        raise TypeError(
            "A ranking should be rows of integers, (k,) or (n, k). Received: "
            f"{checks.shown(values)}."
        )
    return array.astype(np.int64)
