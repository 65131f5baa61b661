"""Many logistic regressions fitted in threads, and their C chosen as SentEval chooses it."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cptk import checks
from cptk.evaluation.folds import SEED
from cptk.evaluation.labels import Labeled

Solver = Literal["lbfgs", "liblinear"]


class FitOptions(NamedTuple):
    """How probes are fitted; arguments of `LogisticRegression` and of `joblib.Parallel`."""

    solver: Solver
    max_iter: int
    n_jobs: int

    def fit_and_predict(self, jobs: Iterable[tuple[Labeled, Labeled, float]]) -> list[NDArray[Any]]:
        """Train a probe for each job `(train, test, C)`, and predict the labels of its test set.

        Each fit computes its matrix products in one thread. Its sums are then made in one order,
        and the result does not depend on `n_jobs`. Fits that do not converge are counted, and one
        warning reports the count.
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
            # Older releases of scikit-learn did this for liblinear by themselves.
            probe = OneVsRestClassifier(probe)
        return np.asarray(probe.fit(train.vectors, train.labels).predict(test.vectors))


def fit_options(solver: Solver, max_iter: int, n_jobs: int) -> FitOptions:
    """The options, checked."""
    if solver not in ("lbfgs", "liblinear"):
        raise ValueError(f"`solver` must be 'lbfgs' or 'liblinear'. Received: {solver!r}.")
    checks.integer("max_iter", max_iter, 1)
    if n_jobs != -1:
        checks.integer("n_jobs", n_jobs, 1, ", or -1 for one a core")
    return FitOptions(solver, max_iter, n_jobs)


def best_c(grid: Sequence[float], accuracies: NDArray[np.float64]) -> tuple[float, float]:
    """The C with the best mean accuracy over folds, and that accuracy.

    `accuracies` has a row for each C and a column for each fold. Means are compared in per cent,
    rounded to two decimals. Of equally good values the smallest C wins:
    `round(100*np.mean(...), 2)` and `regs[np.argmax(scores)]` in SentEval's validation.py.
    """
    scores = [float(round(100 * np.mean(row), 2)) for row in accuracies]
    first = int(np.argmax(scores))
    return grid[first], scores[first] / 100
