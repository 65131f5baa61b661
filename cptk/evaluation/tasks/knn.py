"""Classification by the nearest neighbours of the training set."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cptk import checks
from cptk.datasets.records import LabeledTexts
from cptk.encoders import Embed
from cptk.evaluation.folds import check_sets
from cptk.evaluation.labels import Labeled, labeled_vectors
from cptk.evaluation.metrics import accuracy
from cptk.evaluation.tasks.published import SST2_PUBLISHED
from cptk.evaluation.tasks.registry import Task, TaskResult
from cptk.evaluation.tasks.splits import load_split
from cptk.search import top_k

Weights = Literal["majority", "distance"]
PAPER_K = 256
QUERIES_AT_A_TIME = 8192
# The cosine of two equal vectors, in float32, may differ from 1 by this much.
COINCIDENT = 1e-6


@dataclasses.dataclass(frozen=True)
class KnnResult:
    """What classification by neighbours gives.

    Attributes:
        accuracy: Share of the test rows classified rightly.
        predictions: (m,) predicted labels.
        k: The number of neighbours used.
        validation_accuracies: Accuracy on the validation set by k, where k was chosen there.
    """

    accuracy: float
    predictions: NDArray[Any]
    k: int
    validation_accuracies: dict[int, float] | None = None


def knn(
    train_vectors: ArrayLike,
    train_labels: ArrayLike,
    test_vectors: ArrayLike,
    test_labels: ArrayLike,
    *,
    k: int | Sequence[int] = PAPER_K,
    weights: Weights = "majority",
    validation_vectors: ArrayLike | None = None,
    validation_labels: ArrayLike | None = None,
    allow_zeros: bool = False,
) -> KnnResult:
    """Classify by the k training vectors of the highest cosine.

    `class(x) = argmax_c sum over the k nearest x_i of class c of w(x, x_i)`: `w = 1` for the
    majority, `w = 1 / (1 - cos(x, x_i))` for distances; where neighbours coincide with x (a
    cosine within 1e-6 of 1), they alone vote. Of equally near neighbours the one earlier in the
    training set counts as nearer, and of equal votes the lowest class wins: so do scikit-learn's
    `KNeighborsClassifier`, and the argmax of votes. The search is exact and in blocks (`top_k`).

    Args:
        train_vectors: (n, d).
        train_labels: (n,) class numbers or names, of two or more classes.
        test_vectors: (m, d).
        test_labels: (m,).
        k: Number of neighbours, 1 to n; or several numbers, of which the validation set chooses
            the best (of equally good ones the smallest).
        weights: `"majority"` or `"distance"`.
        validation_vectors: (v, d), where k is to be chosen.
        validation_labels: (v,), where k is to be chosen.
        allow_zeros: Take vectors of zeros, whose cosine counts as 0 with all; refused otherwise.

    Returns:
        A `KnnResult`.

    Raises:
        ValueError: If lengths do not agree, a vector is not finite or zero, there are fewer than
            two classes, `k` is not from 1 to n, or several are given without a validation set.
        TypeError: If labels are neither whole numbers nor strings.

    Example:

    ```pycon
    >>> from cptk.evaluation import knn
    >>> train, labels = [[1.0, 0.0], [0.1, 0.9], [0.0, 1.0]], ["a", "b", "b"]
    >>> knn(train, labels, [[1.0, 0.2]], ["a"], k=1).predictions.tolist()
    ['a']
    >>> knn(train, labels, [[1.0, 0.2]], ["a"], k=3).predictions.tolist()  # two votes against one
    ['b']
    >>> knn(train, labels, [[1.0, 0.2]], ["a"], k=3, weights="distance").predictions.tolist()
    ['a']

    ```

    Neelakantan et al. (2022), arXiv 2201.10005, on SST-2, with k = 256. The rules for ties are
    scikit-learn's; that coinciding neighbours vote alone is too.
    """
    train = labeled_vectors(train_vectors, train_labels, "train_", allow_zeros=allow_zeros)
    test = labeled_vectors(test_vectors, test_labels, "test_", train=train, allow_zeros=allow_zeros)
    on_validation = None
    if isinstance(k, Sequence):
        if validation_vectors is None or validation_labels is None:
            raise ValueError(
                "Of several `k` the validation set chooses: give `validation_vectors` and "
                f"`validation_labels`, or one `k`. Received: k={checks.shown(k)}. "
                "`knn_accuracies` gives the accuracy for each."
            )
        on_validation = knn_accuracies(
            train_vectors,
            train_labels,
            validation_vectors,
            validation_labels,
            k,
            weights=weights,
            allow_zeros=allow_zeros,
        )
        # The most accurate; of equally accurate ones the smallest.
        k = min((-accurate, each) for each, accurate in on_validation.items())[1]
    (count,) = _checked_ks([k], len(train.labels))
    predicted = _predictions(train, test.vectors, [count], weights)[:, 0]
    return KnnResult(accuracy(test.labels, predicted), predicted, count, on_validation)


def knn_accuracies(
    train_vectors: ArrayLike,
    train_labels: ArrayLike,
    test_vectors: ArrayLike,
    test_labels: ArrayLike,
    ks: Sequence[int],
    *,
    weights: Weights = "majority",
    allow_zeros: bool = False,
) -> dict[int, float]:
    """The accuracy of `knn` for each of several k, from one search.

    Args:
        train_vectors: (n, d).
        train_labels: (n,).
        test_vectors: (m, d).
        test_labels: (m,).
        ks: Numbers of neighbours, 1 to n.
        weights: `"majority"` or `"distance"`.
        allow_zeros: As for `knn`.

    Returns:
        Accuracy by k, in the order of `ks`.

    Raises:
        ValueError: As for `knn`.
        TypeError: As for `knn`.

    Example:

    ```pycon
    >>> from cptk.evaluation import knn_accuracies
    >>> train, labels = [[1.0, 0.0], [0.1, 0.9], [0.0, 1.0]], ["a", "b", "b"]
    >>> knn_accuracies(train, labels, [[1.0, 0.2], [0.2, 1.0]], ["a", "b"], [1, 3])
    {1: 1.0, 3: 0.5}

    ```
    """
    train = labeled_vectors(train_vectors, train_labels, "train_", allow_zeros=allow_zeros)
    test = labeled_vectors(test_vectors, test_labels, "test_", train=train, allow_zeros=allow_zeros)
    counts = _checked_ks(ks, len(train.labels))
    predicted = _predictions(train, test.vectors, counts, weights)
    return {k: accuracy(test.labels, predicted[:, i]) for i, k in enumerate(counts)}


def _predictions(
    train: Labeled, queries: NDArray[Any], counts: list[int], weights: str
) -> NDArray[Any]:
    """(queries, counts) labels."""
    if weights not in ("majority", "distance"):
        raise ValueError(f"`weights` must be 'majority' or 'distance'. Received: {weights!r}.")
    names, classes = np.unique(train.labels, return_inverse=True)
    cosines, neighbours = top_k(queries, train.vectors, max(counts))
    columns = np.asarray(counts) - 1
    winners = np.empty((len(queries), len(counts)), np.int64)
    for start in range(0, len(queries), QUERIES_AT_A_TIME):
        rows = slice(start, start + QUERIES_AT_A_TIME)
        votes = _votes(cosines[rows], weights)
        voted = classes[neighbours[rows]]
        totals = [
            np.cumsum(np.where(voted == c, votes, 0.0), axis=1)[:, columns]
            for c in range(len(names))
        ]
        winners[rows] = np.argmax(totals, axis=0)
    return np.asarray(names[winners])


def _votes(cosines: NDArray[np.float32], weights: str) -> NDArray[np.float64]:
    if weights == "majority":
        return np.ones(cosines.shape)
    distances = 1.0 - cosines.astype(np.float64)
    same = distances <= COINCIDENT
    return np.where(same.any(axis=1, keepdims=True), same, 1.0 / np.where(same, 1.0, distances))


def _checked_ks(ks: Sequence[int], most: int) -> list[int]:
    if not len(ks):
        raise ValueError("Give at least one `k`. Received none.")
    for k in ks:
        if checks.integer("k", k, 1) > most:
            raise ValueError(
                f"`k` must be from 1 to the number of training vectors, {most}. Received: {k}."
            )
    return [int(k) for k in ks]


def _sst2(embed: Embed, split: str | None) -> TaskResult:
    train, _ = load_split(LabeledTexts, "sst2", "train")
    data, chosen = load_split(LabeledTexts, "sst2", split)
    check_sets(train, data)
    vectors, queries = embed(train.texts), embed(data.texts)
    k = min(PAPER_K, len(train))
    plain, weighted = (
        knn(vectors, train.labels, queries, data.labels, k=k, weights=weights, allow_zeros=True)
        for weights in ("majority", "distance")
    )
    right = plain.predictions == np.asarray(data.labels)
    return TaskResult(
        metric="accuracy",
        score=plain.accuracy,
        scores={"accuracy": plain.accuracy, "accuracy_distance_weighted": weighted.accuracy},
        items={"correct": right.astype(float).tolist()},
        dataset="sst2",
        split=chosen,
        size=len(data),
        sha256=data.sha256,
        details={"k": k, "vote": "majority; of equal votes the lowest class"},
    )


TASKS = (
    Task(
        "sst2_knn",
        _sst2,
        ("sst2", "knn"),
        "SST-2, whole sentences: accuracy of 256 nearest neighbours by majority.",
        SST2_PUBLISHED,
    ),
)
