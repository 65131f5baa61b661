"""Class labels as an array, whatever they came in."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

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
