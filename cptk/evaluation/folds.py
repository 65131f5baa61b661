"""SentEval's folds of a training set, and what is checked before anything is embedded."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from cptk import checks
from cptk.datasets.records import LabeledPairs, LabeledTexts
from cptk.evaluation.labels import Labeled, class_labels

SEED = 1111
"""SentEval's seed, of its folds and of its probes."""

Folds: TypeAlias = list[tuple[NDArray[np.int64], NDArray[np.int64]]]
"""For each fold the rows to train on and the rows to test on."""


def stratified_folds(labels: NDArray[Any], folds: int) -> Folds:
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


def check_sets(
    train: LabeledTexts | LabeledPairs, *tests: LabeledTexts | LabeledPairs, folds: int = 0
) -> None:
    """Raise now what a probe of these sets would raise after its texts had been embedded.

    Args:
        train: The training set.
        tests: The sets whose labels are predicted.
        folds: How many folds the training set is cut into; 0 for none.
    """
    known = None
    for data, name in ((train, "train_"), *((test, "test_") for test in tests)):
        for side in ("texts", "first", "second"):
            if hasattr(data, side):
                count = len(checks.texts(getattr(data, side), f"{name}{side}"))
                labels = class_labels(data.labels, count, name, known)
        known = Labeled(labels, labels) if known is None else known
    if folds:
        stratified_folds(class_labels(train.labels, len(train.labels), "train_"), folds)
