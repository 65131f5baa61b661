"""Logistic regressions by the dozen: fitted in threads, and their C chosen as SentEval does."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cptk import checks
from cptk.datasets.records import LabeledPairs, LabeledTexts
from cptk.evaluation.labels import label_array

SEED = 1111
Solver = Literal["lbfgs", "liblinear"]
Rows = NDArray[Any]
Folds = list[tuple[NDArray[np.int64], NDArray[np.int64]]]


class Labeled(NamedTuple):
    """Vectors (n, d) and their labels (n,)."""

    vectors: Rows
    labels: NDArray[Any]

    def take(self, rows: NDArray[np.int64]) -> Labeled:
        """Some of the rows."""
        return Labeled(self.vectors[rows], self.labels[rows])


class Fitting(NamedTuple):
    """How probes are fitted."""

    solver: Solver
    max_iter: int
    n_jobs: int

    def run(self, jobs: Iterable[tuple[Labeled, Labeled, float]]) -> list[NDArray[Any]]:
        """Train on the first of each job with its C, and predict the labels of the second.

        Every fit runs with one thread in its matrix products: sums are then made in one order, and
        the result is the same whatever the number of jobs. What does not converge is counted and
        reported once.
        """
        import threadpoolctl
        from joblib import Parallel, delayed
        from sklearn.exceptions import ConvergenceWarning

        with (
            warnings.catch_warnings(record=True) as caught,
            threadpoolctl.threadpool_limits(1, user_api="blas"),
        ):
            warnings.simplefilter("always", ConvergenceWarning)
            predictions = Parallel(n_jobs=self.n_jobs, prefer="threads")(
                delayed(self._predict)(*job) for job in jobs
            )
        others = [each for each in caught if not issubclass(each.category, ConvergenceWarning)]
        for each in others:
            warnings.warn_explicit(each.message, each.category, each.filename, each.lineno)
        if len(caught) > len(others):
            warnings.warn(
                f"{len(caught) - len(others)} logistic regressions (of {len(predictions)} probes) "
                f"did not converge in max_iter={self.max_iter} iterations: their figures are not "
                "those of the optimum. Scale the vectors to a length near 1, or raise `max_iter`.",
                ConvergenceWarning,
                stacklevel=4,
            )
        return list(predictions)

    def _predict(self, train: Labeled, test: Labeled, c: float) -> NDArray[Any]:
        from sklearn.linear_model import LogisticRegression
        from sklearn.multiclass import OneVsRestClassifier

        probe = LogisticRegression(
            C=c, random_state=SEED, solver=self.solver, max_iter=self.max_iter
        )
        if self.solver == "liblinear" and len(np.unique(train.labels)) > 2:
            probe = OneVsRestClassifier(probe)  # as liblinear did by itself
        return np.asarray(probe.fit(train.vectors, train.labels).predict(test.vectors))


def fitting(solver: Solver, max_iter: int, n_jobs: int) -> Fitting:
    """The options, checked."""
    if solver not in ("lbfgs", "liblinear"):
        raise ValueError(f"`solver` must be 'lbfgs' or 'liblinear'. Received: {solver!r}.")
    checks.integer("max_iter", max_iter, 1)
    if n_jobs != -1:
        checks.integer("n_jobs", n_jobs, 1, ", or -1 for one a core")
    return Fitting(solver, max_iter, n_jobs)


def best(grid: Sequence[float], accuracies: NDArray[np.float64]) -> tuple[float, float]:
    """The C with the best mean accuracy over folds (C by folds), and that accuracy.

    In per cent, rounded to two decimals before they are compared, the smallest C of equal ones:
    `round(100*np.mean(...), 2)` and `regs[np.argmax(scores)]` in SentEval's validation.py.
    """
    scores = [float(round(100 * np.mean(row), 2)) for row in accuracies]
    first = int(np.argmax(scores))
    return grid[first], scores[first] / 100


def stratified(labels: NDArray[Any], folds: int) -> Folds:
    """SentEval's folds: stratified and shuffled, seed 1111."""
    from sklearn.model_selection import StratifiedKFold

    folds = checks.integer("folds", folds, 2)
    values, counts = np.unique(labels, return_counts=True)
    if counts.min() < folds:
        raise ValueError(
            f"Every class needs a row in each of the {folds} folds. Received {counts.min()} of "
            f"class {values[counts.argmin()]!s}; give more rows, fewer `folds`, or `c`."
        )
    cuts = StratifiedKFold(n_splits=folds, shuffle=True, random_state=SEED)
    return list(cuts.split(np.zeros(len(labels)), labels))


def labeled(
    vectors: ArrayLike,
    labels: ArrayLike,
    name: str,
    *,
    train: Labeled | None = None,
    allow_zeros: bool = False,
) -> Labeled:
    """Vectors and labels that a probe can be trained on, or tested on after `train`."""
    rows = np.asarray(vectors)
    if rows.dtype.kind not in "fiu" or rows.ndim != 2 or not rows.size:
        raise ValueError(
            f"`{name}vectors` must be a non-empty array of numbers of shape (number, size). "
            f"Received: shape={rows.shape}, dtype={rows.dtype}."
        )
    if rows.dtype not in (np.float32, np.float64):
        rows = rows.astype(np.float32 if rows.dtype == np.float16 else np.float64)
    if train is not None and rows.shape[1] != train.vectors.shape[1]:
        raise ValueError(
            f"`{name}vectors` must have the size of the training vectors, "
            f"{train.vectors.shape[1]}. Received: {rows.shape[1]}."
        )
    if not np.isfinite(rows).all():
        raise ValueError(f"`{name}vectors` must be finite. Received NaN or infinity.")
    zero = np.flatnonzero(~rows.any(axis=1))
    if len(zero) and not allow_zeros:
        raise ValueError(
            f"`{name}vectors` holds {len(zero)} vectors of zeros, the first in row {zero[0]}. If "
            "they are meant (a bag of words without a known word), say `allow_zeros=True`."
        )
    return Labeled(rows, class_labels(labels, len(rows), name, train))


def check_sets(
    train: LabeledTexts | LabeledPairs, *tests: LabeledTexts | LabeledPairs, folds: int = 0
) -> None:
    """Raise before anything is embedded what training a probe on these sets would raise after.

    Args:
        train: The training set.
        tests: Those that are predicted.
        folds: In how many folds the training set is cut; 0 for none.
    """
    known = None
    for data, name in ((train, "train_"), *((test, "test_") for test in tests)):
        for side in ("texts", "first", "second"):
            if hasattr(data, side):
                count = len(checks.texts(getattr(data, side), f"{name}{side}"))
                labels = class_labels(data.labels, count, name, known)
        known = Labeled(labels, labels) if known is None else known
    if folds:
        stratified(class_labels(train.labels, len(train.labels), "train_"), folds)


def class_labels(
    labels: ArrayLike, count: int, name: str, train: Labeled | None = None
) -> NDArray[Any]:
    """`count` labels; two classes or more of them, or some that occur in training."""
    classes = label_array(labels, f"{name}labels")
    if classes.shape != (count,):
        raise ValueError(
            f"`{name}labels` must hold one label for each of the {count} vectors. "
            f"Received: shape={classes.shape}."
        )
    if train is None and len(np.unique(classes)) < 2:
        raise ValueError(
            f"`{name}labels` must be of two or more classes. Received only {classes[0]!s}."
        )
    if train is not None and (
        (classes.dtype.kind in "US") != (train.labels.dtype.kind in "US")
        or not np.isin(classes, train.labels).any()
    ):
        raise ValueError(
            f"None of `{name}labels` occurs among the training labels. Received: "
            f"{classes[0]!s}, ... and in training {train.labels[0]!s}, ...; are they coded alike?"
        )
    return classes
