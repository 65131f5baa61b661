"""Class labels, and vectors that have labels, checked."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cptk import checks


def label_array(values: object, name: str, of: str = "whole numbers or strings") -> NDArray[Any]:
    """Labels as an array of whole numbers, booleans or strings.

    Args:
        values: A list, an array, a column or a frame of one column; (n,).
        name: What the error calls them.
        of: What they should be, for the message.

    Raises:
        TypeError: No sequence, labels of several kinds, or of another kind (floats, None, NaN).
    """
    if isinstance(values, np.ndarray) and values.dtype.kind in "iubUS":
        return values
    if isinstance(values, np.ndarray) and values.ndim == 1:
        labels = values.tolist()  # Python's own values, which tell a float from an integer
    else:
        labels = checks.items(values, name, "labels")
    kinds: tuple[tuple[tuple[type, ...], type[np.generic]], ...] = (
        ((bool, np.bool_), np.bool_), ((int, np.integer), np.int64), ((str,), np.str_)
    )  # fmt: skip
    for types, dtype in kinds:
        if all(isinstance(label, types) for label in labels):
            return np.asarray(labels, dtype)
    received = checks.shown(labels)
    for label in labels:
        if not isinstance(label, int | np.integer | str):
            received = f"{checks.shown(label)} of type {type(label).__name__}"
            break
    if all(isinstance(label, float | np.floating) for label in labels):
        received = f"dtype={np.asarray(labels).dtype}"
    raise TypeError(f"`{name}` must be {of}. Received: {received}.")


class Labeled(NamedTuple):
    """Vectors (n, d) and their labels (n,)."""

    vectors: NDArray[Any]
    labels: NDArray[Any]

    def take(self, rows: NDArray[np.int64]) -> Labeled:
        """Some of the rows."""
        return Labeled(self.vectors[rows], self.labels[rows])


def labeled_vectors(
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
