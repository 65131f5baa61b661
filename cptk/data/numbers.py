"""The number columns of pairs that a loss reads beside the two sides, as arrays."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from cptk import checks
from cptk.data.columns import NUMBERS, column


def number_columns(data: object, names: Iterable[str], size: int) -> dict[str, NDArray[np.float32]]:
    """Number columns of pairs of any form.

    Args:
        data: The pairs, as `cptk.data.columns.as_columns` takes them.
        names: Names of number columns: "score", "teacher", "group", "weight".
        size: Number of pairs.

    Returns:
        For each name float32 `(size,)`; `(size, k)` where each pair has a list of k numbers.
        Groups, integers or strings, are numbered from 0 in the order in which they come.

    Raises:
        ValueError: A column that is not there, is none of numbers, has another length, or holds
            something that is not a finite number.

    Example:

    ```pycon
    >>> from cptk.data.numbers import number_columns
    >>> data = {"query": ["a", "b"], "document": ["c", "d"], "group": ["x", "y"]}
    >>> number_columns(data, ["group"], 2)["group"].tolist()
    [0.0, 1.0]

    ```
    """
    return {name: _number_column(data, name, size) for name in _checked(names)}


def _checked(names: object) -> list[str]:
    if isinstance(names, str):
        raise TypeError(f"`columns` should be a tuple of names. Received: {names!r}. Pass (…,).")
    found = checks.items(names, "columns", "names")
    for name in found:
        if name not in ("negatives", *NUMBERS):
            raise ValueError(
                f"`columns` should name 'negatives' or number columns, of {NUMBERS}. Received: "
                f"{checks.shown(name)}."
            )
    return [name for name in found if name != "negatives"]


def _number_column(data: object, name: str, size: int) -> NDArray[np.float32]:
    values = column(data, name)
    if values is None:
        raise ValueError(
            f"The pairs have no column {name!r}, which the loss reads. Add one, with a number for "
            "each pair, or choose another loss."
        )
    numbers = _groups(values) if name == "group" else _numbers(values, name)
    if len(numbers) != size:
        raise ValueError(
            f"`{name}` should hold one number a pair, {size}. Received: {len(numbers)}."
        )
    if not np.isfinite(numbers).all():
        row = int(np.argwhere(~np.isfinite(numbers))[0][0])
        raise ValueError(
            f"`{name}` should hold finite numbers. Item {row} is {checks.shown(numbers[row])}. "
            "Fill it, or drop the pair."
        )
    return numbers


def _numbers(values: object, name: str) -> NDArray[np.float32]:
    expected = f"`{name}` should hold one number a pair, or a list of as many for each."
    try:
        found = np.asarray(values)
        if found.dtype.kind == "O":  # gaps, or rows of arrays
            found = np.array([[x] if np.ndim(x) == 0 else list(x) for x in found.tolist()], float)
            found = found[:, 0] if found.shape[1:] == (1,) else found
    except (ValueError, TypeError) as error:
        raise ValueError(f"{expected} {checks.shown(str(error))}.") from None
    if found.dtype.kind not in "fiu" or found.ndim not in (1, 2):
        raise ValueError(f"{expected} Received: {found.dtype} of shape {found.shape}.")
    return found.astype(np.float32)


def _groups(values: object) -> NDArray[np.float32]:
    items = checks.items(values, "group", "integers or strings")
    for row, item in enumerate(items):
        if not isinstance(item, str) and not checks.is_integer(item):
            raise ValueError(
                f"`group` should hold integers or strings. Item {row} is {checks.shown(item)}."
            )
    first = {group: number for number, group in enumerate(dict.fromkeys(items))}
    return np.array([first[item] for item in items], np.float32)
