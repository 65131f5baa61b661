"""Correlations of two lists of scores."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray


def pearson(x: ArrayLike, y: ArrayLike) -> float:
    """Pearson's correlation of two lists of scores.

    `r = sum((x - mean x)(y - mean y)) / (|x - mean x| |y - mean y|)`

    A list of which all values are equal has no correlation with anything: NaN, as SciPy gives.

    Args:
        x: (n,) scores, at least two.
        y: (n,) scores.

    Returns:
        A float between -1 and 1, or NaN.

    Raises:
        ValueError: if the shapes differ, there are fewer than two, or a score is not finite.

    Example:

    ```pycon
    >>> from cptk.evaluation import pearson
    >>> round(pearson([1.0, 2.0, 3.0], [2.0, 4.0, 6.0]), 4)
    1.0
    >>> round(pearson([1.0, 2.0, 3.0], [1.0, 10.0, 100.0]), 4)  # rising, but on no line
    0.9042

    ```
    """
    return _correlation(*_pair(x, y))


def spearman(x: ArrayLike, y: ArrayLike) -> float:
    """Spearman's rank correlation: Pearson's of the ranks, equal scores sharing their mean rank.

    A list of which all values are equal has no correlation with anything: NaN, as SciPy gives.
    Arguments, result and errors are those of `pearson`.

    Example:

    ```pycon
    >>> from cptk.evaluation import spearman
    >>> round(spearman([1.0, 2.0, 3.0], [1.0, 10.0, 100.0]), 4)  # the order alone counts
    1.0

    ```
    """
    first, second = _pair(x, y)
    return _correlation(_average_ranks(first), _average_ranks(second))


def _correlation(x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    if (x == x[0]).all() or (y == y[0]).all():
        return float("nan")
    x, y = (v - v.mean() for v in (x, y))
    x, y = (v / np.abs(v).max() for v in (x, y))  # no square overflows or vanishes
    return float(np.clip((x / np.linalg.norm(x)) @ (y / np.linalg.norm(y)), -1.0, 1.0))


def _average_ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    return np.asarray(np.cumsum(counts) - (counts - 1) / 2)[inverse]


def _pair(x: ArrayLike, y: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    first, second = np.asarray(x), np.asarray(y)
    kinds = first.dtype.kind + second.dtype.kind
    if first.ndim != 1 or first.shape != second.shape or first.size < 2 or set(kinds) - set("fiub"):
        raise ValueError(
            "A correlation needs two flat lists of numbers of one length, at least two each. "
            f"Received: {first.shape}, {first.dtype} and {second.shape}, {second.dtype}."
        )
    if not (np.isfinite(first).all() and np.isfinite(second).all()):
        raise ValueError("Scores must be finite. Received NaN or infinity among them.")
    return first.astype(np.float64), second.astype(np.float64)
