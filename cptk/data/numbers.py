"""The number columns of pairs that a loss reads beside the two sides, as arrays."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray

from cptk import checks
from cptk.data import arrow
from cptk.data.columns import NUMBERS, column
from cptk.data.pairs import Pairs


def number_columns(data: object, names: Iterable[str], size: int) -> dict[str, NDArray[np.float32]]:
    """Number columns of pairs of any form.

    Args:
        data: The pairs, as `cptk.data.columns.as_columns` takes them.
        names: Names of number columns: "score", "teacher", "group", "weight", "guide".
        size: Number of pairs.

    Returns:
        For each name float32 `(size,)`; `(size, k)` where each pair has a list of k numbers.
        Groups, integers or strings, are numbered from 0 in the order in which they come. Of a
        guide `(size, most, dim)`: where a pair has fewer vectors than another, the last are zeros.

    Raises:
        ValueError: A column that is not there, is none of numbers, has another length, or holds
            something that is not a finite number; vectors of several sizes.
        TypeError: A guide that is no list of vectors.

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


def check_guide(numbers: Mapping[str, NDArray[np.float32]], negatives: int) -> None:
    """Refuses a guide that lacks vectors of negatives.

    Args:
        numbers: What `number_columns` gives.
        negatives: The most that a pair has.
    """
    if "guide" in numbers and numbers["guide"].shape[1] < 2 + negatives:
        raise ValueError(
            "`guide` should hold a vector of the query, of the document and of each negative, "
            f"{2 + negatives} a pair. Received: {numbers['guide'].shape[1]}. Make it again, with "
            "these negatives, by cptk.mining.guide_vectors."
        )


def _number_column(data: object, name: str, size: int) -> NDArray[np.float32]:
    # A guide's vectors are not to become Python's numbers on their way.
    table = data.to_arrow() if name == "guide" and isinstance(data, Pairs) else data
    values = column(table, name)
    if values is None:
        how = (
            "Make it by cptk.mining.guide_vectors"
            if name == "guide"
            else "Add one, with a number for each pair"
        )
        raise ValueError(
            f"The pairs have no column {name!r}, which the loss reads. {how}, or choose another "
            "loss."
        )
    read = {"group": _groups, "guide": _vectors}.get(name)
    numbers = _numbers(values, name) if read is None else read(values)
    if len(numbers) != size:
        item = "list of vectors" if name == "guide" else "number"
        raise ValueError(
            f"`{name}` should hold one {item} a pair, {size}. Received: {len(numbers)}."
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


def _vectors(values: object) -> NDArray[np.float32]:
    """`(size, most, dim)`, with zeros where a pair has no more vectors."""
    rows = arrow.vectors(values, "guide").chunk(0)
    counts = pc.list_value_length(rows).to_numpy()
    flat = pc.list_flatten(pc.list_flatten(rows)).to_numpy()
    flat = flat.reshape(int(counts.sum()), -1)
    found = np.zeros((len(counts), counts.max(), flat.shape[1]), np.float32)
    found[np.arange(counts.max()) < counts[:, None]] = flat
    return found


def _groups(values: object) -> NDArray[np.float32]:
    items = checks.items(values, "group", "integers or strings")
    for row, item in enumerate(items):
        if not isinstance(item, str) and not checks.is_integer(item):
            raise ValueError(
                f"`group` should hold integers or strings. Item {row} is {checks.shown(item)}."
            )
    first = {group: number for number, group in enumerate(dict.fromkeys(items))}
    return np.array([first[item] for item in items], np.float32)
