"""Every form of pairs that people have, as the two columns `query` and `document`."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from cptk import checks

SIDES = ("query", "document")
#: Names that a form with names of its own may have: ours, and those of what cptk mines and loads.
NAMED = (SIDES, ("docstring", "code"), ("docstrings", "codes"))
#: Names that other libraries give the two sides; an error that meets them says what to rename.
OTHER_NAMES = (
    "queries anchor question text1 text_1 sentence1 sentence_1 first left premise title source q",
    "documents doc docs positive answer passage context text2 text_2 sentence2 sentence_2 second "
    "right hypothesis body text target d",
)
EXPECTED = (
    'should be {"query": …, "document": …} with n texts each, a frame or table with these columns, '
    "or a list of (query, document) tuples."
)


def is_pairs(data: Any) -> bool:
    """Whether `data` holds pairs in memory in some form, right or wrong, and no batches of them."""
    rows = isinstance(data, Sequence | np.ndarray) and not isinstance(data, str | bytes)
    return rows or isinstance(data, Mapping) or _column_names(data) is not None


def as_columns(data: Any, what: str = "Data") -> dict[str, Any]:
    """Pairs of any form as `{"query": …, "document": …}`; the texts themselves are not looked at.

    Args:
        data: A mapping of the two sides; a frame or table (pandas, Polars, Arrow) with these
            columns among others; a list of tuples of two texts, or of named tuples or mappings
            with these names among others; or what `cptk.data` mines.
        what: What the error calls it.

    Raises:
        TypeError: Something else.
        ValueError: Other names, which the error lists.
    """
    expected = f"{what} {EXPECTED}"
    if isinstance(data, Mapping):
        if set(data) != set(SIDES):
            raise ValueError(f"{expected} Received the keys {_listed(data)}")
        return {side: data[side] for side in SIDES}
    names = _column_names(data)
    if names is not None:
        own = _chosen(names, f"{expected} Received: {type(data).__name__}")
        take = data.__getitem__ if hasattr(data, "__getitem__") else data.__getattribute__
        return {side: take(name) for side, name in zip(SIDES, own, strict=True)}
    if isinstance(data, np.ndarray) and data.ndim == 2 and data.shape[1] == 2:
        return {side: data[:, column] for column, side in enumerate(SIDES)}
    rows = isinstance(data, Sequence) and not isinstance(data, str | bytes | bytearray)
    if not rows or not all(isinstance(row, tuple | list | Mapping) for row in data):
        raise TypeError(f"{expected} Received: {_described(data)}.")
    return _from_rows(data, expected)


def digest(pairs: Mapping[str, Any]) -> str:
    """32 hexadecimal digits that change with any text, token or their order.

    Args:
        pairs: Checked pairs: lists of strings, or mappings of arrays, by side.
    """
    found = hashlib.blake2b(digest_size=16)
    for side in SIDES:
        values = pairs[side]
        if isinstance(values, Mapping):
            for name in ("token_ids", "padding_mask"):
                array = np.ascontiguousarray(values[name])
                found.update(f"{name}{array.shape}{array.dtype}".encode())
                found.update(array.tobytes())
            continue
        found.update(f"texts{len(values)}".encode())
        for start in range(0, len(values), 4096):
            part = values[start : start + 4096]
            found.update(" ".join(str(len(text)) for text in part).encode())
            found.update("".join(part).encode())
    return found.hexdigest()


def _from_rows(rows: Sequence[Any], expected: str) -> dict[str, list[Any]]:
    if not rows:
        raise ValueError(f"{expected} Received: {type(rows).__name__} of no rows.")
    first = rows[0]
    names = list(first) if isinstance(first, Mapping) else getattr(first, "_fields", None)
    if names is not None:
        kind = f"{type(rows).__name__} of {type(first).__name__}"
        own = _chosen(names, f"{expected} Received: {kind}")

        def take(row: Any, name: str) -> Any:
            return row[name] if isinstance(row, Mapping) else getattr(row, name)

    elif len(rows) == 2 and not isinstance(first, tuple):
        raise TypeError(
            f"{expected} Received: {type(rows).__name__} of two lists, which may be two pairs or "
            "two sides. Pass tuples, or a mapping."
        )
    columns: dict[str, list[Any]] = {side: [] for side in SIDES}
    for index, row in enumerate(rows):
        try:
            pair = row if names is None else [take(row, name) for name in own]
            for side, text in zip(SIDES, pair, strict=True):
                columns[side].append(text)
        except (ValueError, KeyError, AttributeError, TypeError):
            wanted = "two texts" if names is None else f"{own[0]!r} and {own[1]!r}"
            raise (TypeError if names is None else ValueError)(
                f"{expected} Received: {type(rows).__name__}, whose row {index} is not {wanted} "
                f"but a {type(row).__name__} of {len(row)}: {checks.shown(row)}."
            ) from None
    return columns


def _column_names(data: Any) -> list[Any] | None:
    """Names of the columns of a frame, a table, a structured array or a record of cptk's."""
    for name in ("column_names", "columns"):
        names = getattr(data, name, None)
        if names is not None and not callable(names) and hasattr(data, "__getitem__"):
            return list(names)
    if isinstance(data, np.ndarray) and data.dtype.names:
        return list(data.dtype.names)
    fields = getattr(type(data), "__dataclass_fields__", None)
    return None if fields is None or isinstance(data, Mapping) else list(fields)


def _chosen(names: Sequence[Any], received: str) -> tuple[str, str]:
    for pair in NAMED:
        if set(pair) <= set(names):
            return pair
    raise ValueError(f"{received} with {_listed(names)}")


def _listed(names: Iterable[Any]) -> str:
    """Names as an error lists them, and what to rename where two of them are well known."""
    names = [str(name) for name in names]
    found = []
    for side, others in zip(SIDES, OTHER_NAMES, strict=True):
        known = [side, *others.split()]
        found.append(next((n for other in known for n in names if n.lower() == other), None))
    shown = checks.shown(sorted(names))
    first, second = found
    if first is None or second is None or first == second:
        return f"{shown}."
    return f'{shown}. Pass {{"query": <{first}>, "document": <{second}>}}.'


def _described(data: Any) -> str:
    if isinstance(data, np.ndarray):
        return f"ndarray of shape {data.shape}"
    kind = type(data).__name__
    return kind if data is None else f"{kind}, {checks.shown(data)}"
