"""Accuracy and F1 of predicted labels."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cptk import checks


def accuracy(gold: ArrayLike, predicted: ArrayLike) -> float:
    """Share of the predictions that equal the gold label.

    Args:
        gold: (n,) labels, numbers or strings.
        predicted: (n,) labels.

    Returns:
        A float between 0 and 1.

    Raises:
        ValueError: if the shapes differ or there is no label.

    Example:

    ```pycon
    >>> from cptk.evaluation import accuracy
    >>> accuracy([0, 1, 1, 0], [0, 1, 0, 0])
    0.75

    ```
    """
    return float(np.mean(np.equal(*_labels(gold, predicted))))


def f1(gold: ArrayLike, predicted: ArrayLike, positive: int | str | bool = 1) -> float:
    """Harmonic mean of precision and recall of one class: `2 tp / (2 tp + fp + fn)`.

    0 where the class is neither in `gold` nor in `predicted`, as scikit-learn has it.

    Args:
        gold: (n,) labels, numbers or strings.
        predicted: (n,) labels.
        positive: the class that counts as found.

    Returns:
        A float between 0 and 1.

    Raises:
        ValueError: if the shapes differ or there is no label.

    Example:

    ```pycon
    >>> from cptk.evaluation import f1
    >>> round(f1([0, 1, 1, 0], [0, 1, 0, 0]), 4)  # precision 1, recall 1/2
    0.6667
    >>> round(f1([0, 1, 1, 0], [0, 1, 0, 0], positive=0), 4)  # precision 2/3, recall 1
    0.8

    ```
    """
    is_gold, is_predicted = (labels == positive for labels in _labels(gold, predicted))
    found = 2 * int(np.sum(is_gold & is_predicted))
    return found / max(int(np.sum(is_gold)) + int(np.sum(is_predicted)), 1)


def _labels(
    gold: ArrayLike, predicted: ArrayLike
) -> tuple[NDArray[np.generic], NDArray[np.generic]]:
    first, second = (
        np.asarray(each if isinstance(each, np.ndarray) else checks.items(each, name, "labels"))
        for each, name in ((gold, "gold"), (predicted, "predicted"))
    )
    if first.ndim != 1 or first.shape != second.shape or not first.size:
        raise ValueError(
            "`gold` and `predicted` must be flat lists of labels of one length, not empty. "
            f"Received shapes: {first.shape} and {second.shape}."
        )
    texts = [labels.dtype.kind in "US" for labels in (first, second)]
    if texts[0] != texts[1]:
        raise ValueError(
            "`gold` and `predicted` must be labels of one kind. Received: "
            f"{first.dtype} and {second.dtype}; are they coded alike?"
        )
    if any(labels.dtype.kind == "f" and np.isnan(labels).any() for labels in (first, second)):
        raise ValueError("`gold` and `predicted` must be labels. Received NaN among them.")
    return first, second
