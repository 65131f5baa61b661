"""Linear probe: how well logistic regression tells classes apart by their vectors (SentEval)."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cptk.checks import is_number
from cptk.evaluation.folds import stratified_folds
from cptk.evaluation.labels import Labeled, labeled_vectors
from cptk.evaluation.logistic import FitOptions, Solver, best_c, fit_options
from cptk.evaluation.metrics import accuracy

SPLIT_GRID = tuple(2.0**t for t in range(-2, 4))
"""SentEval's values of C with a validation set, and in nested cross-validation."""
FOLDS_GRID = tuple(2.0**t for t in range(-1, 6))
"""SentEval's values of C where cross-validation of the training set chooses (TREC, MRPC)."""


@dataclasses.dataclass(frozen=True)
class ProbeResult:
    """What a probe gives.

    Attributes:
        accuracy: Share of the test rows classified rightly; under cross-validation the mean of
            the folds' accuracies, as in SentEval.
        predictions: (n,) predicted label of each test row; under cross-validation, of each row by
            the probe that was not trained on it.
        chosen: The C of each probe: one, or one a fold.
        selection_accuracy: Accuracy of the chosen C where it was chosen (SentEval's `devacc`,
            rounded as it rounds); `None` where C was given.
        folds: (n,) the fold that tested each row; zeros where there is a test set.
    """

    accuracy: float
    predictions: NDArray[Any]
    chosen: tuple[float, ...]
    selection_accuracy: float | None
    folds: NDArray[np.int64]


def linear_probe(
    train_vectors: ArrayLike,
    train_labels: ArrayLike,
    test_vectors: ArrayLike,
    test_labels: ArrayLike,
    *,
    validation_vectors: ArrayLike | None = None,
    validation_labels: ArrayLike | None = None,
    c: float | None = None,
    folds: int = 10,
    solver: Solver = "lbfgs",
    max_iter: int = 1000,
    n_jobs: int = -1,
    allow_zeros: bool = False,
) -> ProbeResult:
    """SentEval's probe with a test set: logistic regression, its C chosen without the test set.

    The probe minimises `|w|^2 / 2 + C * sum_i log loss(y_i, W x_i + b)`. With a validation set, C
    is the best on it of 2^-2, ..., 2^3 (SST); without, the best of 2^-1, ..., 2^5 by the mean
    accuracy of stratified folds of the training set (TREC, MRPC). Accuracies are compared in per
    cent rounded to two decimals, and the smallest of equally good values wins. The probe is then
    trained on the training set alone. The quick form is `c=1.0`: one value, one fit.

    SentEval writes `LogisticRegression(C=reg, random_state=seed)` and leaves the rest to the
    installed scikit-learn. Up to 0.21 that meant liblinear (one class against the rest, the
    intercept regularised too); since 0.22 it means L-BFGS (multinomial, intercept free), which is
    the default here. `solver="liblinear"` is the older form. `max_iter` is ours: scikit-learn's
    100 stops some probes before they have converged. Vectors are used as they are, in their own
    precision, neither normalised nor standardised, as in SentEval.

    Measured with all-MiniLM-L6-v2, in per cent: SST-2's validation set 81.5 (liblinear 81.8), TREC
    89.6 (liblinear 90.4). SentEval's default is a third form, a linear layer trained by Adam with
    early stopping (usepytorch=True, nhid=0), which ours does not contain: it gave 0.6 more on
    SST-2's validation set (halves that choose for each other), 1.0 less on TREC and 0.7 less on MR
    (each form at its best regularisation).

    Args:
        train_vectors: (n, d).
        train_labels: (n,) class numbers or names; at least two classes.
        test_vectors: (m, d).
        test_labels: (m,).
        validation_vectors: (v, d), or `None`.
        validation_labels: (v,), or `None`.
        c: Use this C instead of choosing one.
        folds: Folds of the training set where there is no validation set.
        solver: `"lbfgs"` or `"liblinear"`.
        max_iter: Iterations after which a fit is given up and a warning says so.
        n_jobs: Threads that fit probes; -1 for one a core. The result does not depend on it.
        allow_zeros: Take vectors of zeros, which are refused otherwise.

    Returns:
        A `ProbeResult`.

    Raises:
        ValueError: If lengths do not agree, a vector is not finite, there are fewer than two
            classes, a class has fewer rows than there are folds, no test label is known from
            training, or an option is out of its range.
        TypeError: If labels are neither whole numbers nor strings.

    Example:

    ```pycon
    >>> from cptk.evaluation import linear_probe
    >>> train = [[4.0, 0.0], [3.0, 1.0], [0.0, 4.0], [1.0, 3.0]]
    >>> names = ["film", "film", "weather", "weather"]
    >>> probe = linear_probe(train, names, [[5.0, 2.0], [1.0, 2.0]], ["film", "weather"], c=1.0)
    >>> probe.predictions.tolist()
    ['film', 'weather']
    >>> probe.accuracy
    1.0

    ```

    Conneau & Kiela, SentEval (2018), at commit 102d319, senteval/tools/validation.py:
    `SplitClassifier` (lines 184-245) and `KFoldClassifier` (lines 110-182); the seed is 1111
    (senteval/engine.py, line 32).
    """
    train = labeled_vectors(train_vectors, train_labels, "train_", allow_zeros=allow_zeros)
    test = labeled_vectors(test_vectors, test_labels, "test_", train=train, allow_zeros=allow_zeros)
    options = fit_options(solver, max_iter, n_jobs)
    if (validation_vectors is None) != (validation_labels is None):
        raise ValueError("Give both `validation_vectors` and `validation_labels`, or neither.")
    selection = None
    if c is not None:
        c = _positive_c(c)
    elif validation_vectors is not None and validation_labels is not None:
        validation = labeled_vectors(
            validation_vectors,
            validation_labels,
            "validation_",
            train=train,
            allow_zeros=allow_zeros,
        )
        predictions = options.fit_and_predict((train, validation, value) for value in SPLIT_GRID)
        accuracies = [[accuracy(validation.labels, each)] for each in predictions]
        c, selection = best_c(SPLIT_GRID, np.array(accuracies))
    else:
        ((c, selection),) = _choose_c(options, FOLDS_GRID, folds, [train])
    (predicted,) = options.fit_and_predict([(train, test, c)])
    folded = np.zeros(len(predicted), np.int64)
    return ProbeResult(accuracy(test.labels, predicted), predicted, (c,), selection, folded)


def cross_validated_probe(
    vectors: ArrayLike,
    labels: ArrayLike,
    *,
    c: float | None = None,
    folds: int = 10,
    solver: Solver = "lbfgs",
    max_iter: int = 1000,
    n_jobs: int = -1,
    allow_zeros: bool = False,
) -> ProbeResult:
    """SentEval's nested cross-validation, for sets without a test set (MR, CR, SUBJ, MPQA).

    The rows are cut into stratified, shuffled folds. For each, C is the best of 2^-2, ..., 2^3 by
    cross-validation inside the other folds, cut in the same way; a probe with it, trained on all
    the others, is tested on the fold. The figure is the mean of the folds' accuracies. SentEval
    rounds each of them to 0.01 per cent before; here they are not rounded.

    Args:
        vectors: (n, d), in SentEval's order where its very folds are wanted: by number of words,
            then by label.
        labels: (n,) class numbers or names; at least two classes.
        c: Use this C in every fold instead of choosing one: the quick form.
        folds: Number of folds, outside and inside; 10 as in the literature (SentEval's own
            default is 5).
        solver: As for `linear_probe`.
        max_iter: As for `linear_probe`.
        n_jobs: As for `linear_probe`.
        allow_zeros: As for `linear_probe`.

    Returns:
        A `ProbeResult`.

    Raises:
        ValueError: As for `linear_probe`.
        TypeError: As for `linear_probe`.

    Example:

    ```pycon
    >>> import numpy as np
    >>> from cptk.evaluation import cross_validated_probe
    >>> labels = np.arange(12) % 2
    >>> vectors = np.stack([8.0 * labels - 4.0, np.arange(12) / 12], axis=1)  # the first tells
    >>> probe = cross_validated_probe(vectors, labels, folds=2)
    >>> probe.accuracy
    1.0
    >>> probe.chosen  # of equally good values of C the smallest
    (0.25, 0.25)

    ```

    Conneau & Kiela, SentEval (2018), at commit 102d319, senteval/tools/validation.py:
    `InnerKFoldClassifier` (lines 39-107; the seed of both cuts is 1111 whatever the user's, lines
    63-65); the order of the rows: senteval/binary.py, lines 39-43.
    """
    data = labeled_vectors(vectors, labels, "", allow_zeros=allow_zeros)
    options = fit_options(solver, max_iter, n_jobs)
    cuts = stratified_folds(data.labels, folds)
    chosen, selection = [0.0 if c is None else _positive_c(c)] * folds, None
    if c is None:
        parts = (data.take(train) for train, _ in cuts)
        choices = _choose_c(options, SPLIT_GRID, folds, parts)
        chosen = [value for value, _ in choices]
        selection = float(np.mean([score for _, score in choices]))
    predictions = options.fit_and_predict(
        (data.take(train), data.take(test), value)
        for (train, test), value in zip(cuts, chosen, strict=True)
    )
    predicted, folded = np.empty_like(data.labels), np.empty(len(data.labels), np.int64)
    for fold, (_, test) in enumerate(cuts):
        predicted[test], folded[test] = predictions[fold], fold
    right = predicted == data.labels
    mean = float(np.mean([right[test].mean() for _, test in cuts]))
    return ProbeResult(mean, predicted, tuple(chosen), selection, folded)


def pair_features(first: ArrayLike, second: ArrayLike) -> NDArray[Any]:
    """Features of a pair for a probe: `|u - v|` and `u * v`, side by side.

    Args:
        first: (n, d).
        second: (n, d).

    Returns:
        (n, 2 d).

    Raises:
        ValueError: If the shapes differ or are not of two dimensions.

    Example:

    ```pycon
    >>> from cptk.evaluation import pair_features
    >>> pair_features([[1.0, 2.0]], [[3.0, 1.0]]).tolist()
    [[2.0, 1.0, 3.0, 2.0]]

    ```

    Conneau & Kiela, SentEval (2018), senteval/mrpc.py, lines 80-90 (after Tai et al., 2015).
    """
    u, v = np.asarray(first), np.asarray(second)
    if u.shape != v.shape or u.ndim != 2:
        raise ValueError(
            "`first` and `second` must have one shape, (number, size). "
            f"Received: {u.shape} and {v.shape}."
        )
    return np.concatenate([np.abs(u - v), u * v], axis=1)


def _choose_c(
    options: FitOptions, grid: tuple[float, ...], folds: int, parts: Iterable[Labeled]
) -> list[tuple[float, float]]:
    """The best C for each training set by cross-validation inside it; all fits in one go."""
    truths: list[NDArray[Any]] = []

    def jobs() -> Iterator[tuple[Labeled, Labeled, float]]:
        for part in parts:
            cuts = stratified_folds(part.labels, folds)
            for value in grid:
                for train, test in cuts:
                    truths.append(part.labels[test])
                    yield part.take(train), part.take(test), value

    predictions = options.fit_and_predict(jobs())
    right = [accuracy(*pair) for pair in zip(truths, predictions, strict=True)]
    shape = (-1, len(grid), folds)
    return [best_c(grid, each) for each in np.reshape(right, shape)]


def _positive_c(c: object) -> float:
    if not is_number(c) or not 0 < c < np.inf:
        raise ValueError(f"`c` must be a positive number. Received: {c!r}.")
    return float(c)
