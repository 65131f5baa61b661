"""The percentile bootstrap over a task's items: how sure a score is, and whether two differ."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cptk import checks
from cptk.evaluation.metrics.correlation import pearson, spearman

LEVEL = 0.95
# How many numbers are drawn at a time: bounds the memory.
_BLOCK = 1 << 22
_CORRELATIONS: dict[str, Callable[..., float]] = {"pearson": pearson, "spearman": spearman}

Items = Mapping[str, Sequence[float]]


class Difference(NamedTuple):
    """Second minus first, its 95% interval, and a two-sided p-value."""

    value: float
    low: float
    high: float
    p_value: float


def item_score(items: Items, metric: str) -> float:
    """The score that a task's items stand for.

    Args:
        items: One column, whose mean is the score, or two, whose correlation it is.
        metric: Name of the score; of two columns `"pearson"` or `"spearman"`.

    Returns:
        The score.

    Raises:
        TypeError: `items` is no mapping, or a column no sequence.
        ValueError: Neither one column nor two, columns of unequal length or of none, a value that
            is not finite, or two columns and another metric.

    Example:

    ```pycon
    >>> from cptk.evaluation import item_score
    >>> item_score({"correct": [1, 0, 1, 1]}, "accuracy")
    0.75
    >>> items = {"predicted": [0.1, 0.2, 0.9], "gold": [0.0, 2.0, 5.0]}
    >>> round(item_score(items, "spearman"), 4)
    1.0

    ```
    """
    return _statistic(_columns(items), metric)


def bootstrap_interval(
    items: Items, metric: str, n_bootstrap: int = 1000, seed: int = 0
) -> tuple[float, float]:
    """The 95% percentile interval of a score.

    Of n items, n are drawn with replacement, `n_bootstrap` times; the interval runs from the
    2.5% to the 97.5% quantile of the scores of the draws. It says how far the score would move
    with other items of the same kind, not with another training run. Resamples of which a
    correlation is not defined are left out.

    Args:
        items: As for `item_score`.
        metric: As for `item_score`.
        n_bootstrap: Number of resamples.
        seed: Of the resampling.

    Returns:
        Lower and upper end.

    Raises:
        ValueError: As `item_score`; or `n_bootstrap` is not a positive integer.

    Example:

    ```pycon
    >>> from cptk.evaluation import bootstrap_interval
    >>> items = {"correct": [1, 0, 1, 1] * 25}
    >>> low, high = bootstrap_interval(items, "accuracy", n_bootstrap=20_000)
    >>> round(low, 2), round(high, 2)
    (0.66, 0.83)

    ```

    Efron & Tibshirani 1993, An Introduction to the Bootstrap, section 13.3.
    """
    (scores,) = _resampled([_columns(items)], metric, n_bootstrap, seed)
    return _quantiles(scores)


def paired_bootstrap(
    first: Items, second: Items, metric: str, n_bootstrap: int = 1000, seed: int = 0
) -> Difference:
    r"""Whether two embedders differ on the same items.

    Both are scored on the same resamples, so what makes an item hard for both cancels. With the
    difference d of the scores of a resample, the interval holds the middle 95% of d, and

    $$ p = \min(1, 2 \min(\tfrac{1 + \#\{d \le 0\}}{1 + B}, \tfrac{1 + \#\{d \ge 0\}}{1 + B})) $$

    Args:
        first: Items of one, as for `item_score`.
        second: Items of the other, in the same order.
        metric: As for `item_score`.
        n_bootstrap: Number B of resamples; p is never below 2 / (B + 1).
        seed: Of the resampling.

    Returns:
        `Difference(value, low, high, p_value)` of second minus first.

    Raises:
        ValueError: As `bootstrap_interval`; or the two have unequal numbers of items.

    Example:

    ```pycon
    >>> from cptk.evaluation import paired_bootstrap
    >>> first, second = {"correct": [1, 0] * 50}, {"correct": [1, 1] * 50}
    >>> difference = paired_bootstrap(first, second, "accuracy")
    >>> difference.value
    0.5
    >>> round(difference.p_value, 4)  # 2 / 1001: the second is better in every resample
    0.002

    ```

    Koehn 2004, Statistical Significance Tests for Machine Translation Evaluation, section 3;
    Berg-Kirkpatrick et al. 2012 discuss the p-value. Two-sided and with the 1 added: ours.
    """
    a, b = _columns(first), _columns(second)
    if a.shape != b.shape:
        raise ValueError(
            "Two embedders are compared on the same items. Received columns of shape "
            f"{a.shape} and {b.shape}."
        )
    scores_a, scores_b = _resampled([a, b], metric, n_bootstrap, seed)
    differences = scores_b - scores_a
    differences = differences[np.isfinite(differences)]
    low, high = _quantiles(differences)
    sides = [np.sum(differences <= 0), np.sum(differences >= 0)]
    p_value = min(1.0, 2 * (1 + int(min(sides))) / (1 + len(differences)))
    return Difference(_statistic(b, metric) - _statistic(a, metric), low, high, p_value)


def _columns(items: Items) -> NDArray[np.float64]:
    if not isinstance(items, Mapping):
        raise TypeError(
            "`items` should map the names of one or two columns to their numbers. Received: "
            f"{checks.shown(items)}."
        )
    columns = [
        np.asarray(c if isinstance(c, np.ndarray) else checks.items(c, f"items[{n!r}]", "numbers"))
        for n, c in items.items()
    ]
    if len(columns) not in (1, 2) or any(c.ndim != 1 or not c.size for c in columns):
        raise ValueError(
            "`items` must be one or two columns of numbers, not empty. Received: "
            f"{ {name: np.shape(column) for name, column in items.items()} }."
        )
    lengths, kinds = {len(c) for c in columns}, {c.dtype.kind for c in columns}
    if len(lengths) > 1 or kinds - set("fiub"):
        raise ValueError(
            "The columns of `items` must be numbers, and as many in each. Received: "
            f"{ {n: (len(c), np.asarray(c).dtype.name) for n, c in items.items()} }."
        )
    stacked = np.stack(columns).astype(np.float64)
    if not np.isfinite(stacked).all():
        raise ValueError("`items` must be finite. Received NaN or infinity among them.")
    return stacked


def _statistic(columns: NDArray[np.float64], metric: str) -> float:
    if len(columns) == 1:
        return float(columns[0].mean())
    if metric not in _CORRELATIONS:
        raise ValueError(
            f"Two columns of items are correlated: the metric must be one of "
            f"{sorted(_CORRELATIONS)}. Received: {metric!r}."
        )
    return _CORRELATIONS[metric](*columns)


def _resampled(
    samples: list[NDArray[np.float64]], metric: str, n_bootstrap: int, seed: int
) -> list[NDArray[np.float64]]:
    """Scores of the resamples, the same resamples for each."""
    n_bootstrap = checks.integer("n_bootstrap", n_bootstrap, 1)
    rng = np.random.default_rng(checks.integer("seed", seed, 0))
    size = samples[0].shape[1]
    rows = max(1, _BLOCK // size)
    scores: list[list[float]] = [[] for _ in samples]
    for start in range(0, n_bootstrap, rows):
        draws = rng.integers(size, size=(min(rows, n_bootstrap - start), size))
        for columns, found in zip(samples, scores, strict=True):
            if len(columns) == 1:
                found.extend(columns[0][draws].mean(axis=1))
            else:
                found.extend(_statistic(columns[:, draw], metric) for draw in draws)
    return [np.asarray(found) for found in scores]


def _quantiles(scores: NDArray[np.float64]) -> tuple[float, float]:
    scores = scores[np.isfinite(scores)]
    if not scores.size:
        return float("nan"), float("nan")
    low, high = np.quantile(scores, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)
