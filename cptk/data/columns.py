"""The columns of pairs: their names, and every form that people have them in."""

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from cptk import checks
from cptk.types import Preprocessor

SIDES = ("query", "document")
#: Columns of one number a pair, or more, which a loss may read beside the two sides.
NUMBERS = ("score", "teacher", "group", "weight", "guide")
#: Columns that training knows. All others say where a pair comes from, and are left alone.
ROLES = (*SIDES, "negatives", *NUMBERS, "source")
#: Names that other libraries give the two sides; an error that meets them says what to rename.
OTHER_NAMES = (
    "queries anchor question text1 text_1 sentence1 sentence_1 first left premise title docstring "
    "docstrings source q",
    "documents doc docs positive answer passage context text2 text_2 sentence2 sentence_2 second "
    "right hypothesis body code codes text target d",
)
#: The same for two other roles. Of negatives, several columns may be numbered: `negative_1`, ….
OTHER_NEGATIVES = re.compile(r"(hard_)?neg(ative)?s?(_?\d+)?", re.IGNORECASE)
OTHER_SCORES = re.compile(r"(similarity|relatedness)(_score)?|scores|cosine_score", re.IGNORECASE)
EXPECTED = (
    'should be {"query": …, "document": …} with n texts each, a frame or table with these columns, '
    "or a list of (query, document) tuples."
)


def is_pairs(data: object) -> bool:
    """Whether `data` holds pairs in memory in some form, right or wrong, and no batches of them."""
    rows = isinstance(data, Sequence | np.ndarray) and not isinstance(data, str | bytes)
    return rows or isinstance(data, Mapping) or _column_names(data) is not None


def role_of(preprocessor: Preprocessor, side: str) -> str:
    """The role named like the side, or the only role there is."""
    return str(preprocessor.resolve_role(side if len(preprocessor.roles) > 1 else None))


def as_columns(data: object, what: str = "Data") -> dict[str, Any]:
    """Pairs of any form as `{"query": …, "document": …}`; the texts themselves are not looked at.

    Args:
        data: A mapping of the two sides, with other roles (`ROLES`) or without; `Pairs`; a frame
            or table (pandas, Polars, Arrow) with these columns among others; a list of tuples of
            two texts, or of named tuples or mappings with these names among others.
        what: What the error calls it.

    Raises:
        TypeError: Something else.
        ValueError: Other names, which the error lists.
    """
    expected = f"{what} {EXPECTED}"
    if isinstance(data, Mapping):
        if not set(SIDES) <= set(data) <= set(ROLES):
            raise ValueError(f"{expected} Received the keys {_listed(data)}")
        return {side: data[side] for side in SIDES}
    names = _column_names(data)
    if names is not None:
        _check_names(names, f"{expected} Received: {type(data).__name__}")
        frame: Any = data
        return {side: frame[side] for side in SIDES}
    if isinstance(data, np.ndarray) and data.ndim == 2 and data.shape[1] == 2:
        return {side: data[:, column] for column, side in enumerate(SIDES)}
    is_text = isinstance(data, str | bytes | bytearray)
    rows = data if isinstance(data, Sequence) and not is_text else None
    if rows is None or not all(isinstance(row, tuple | list | Mapping) for row in rows):
        without = (
            " For texts without pairs, pass them as both sides and take cptk.losses.SimCSE()."
            if rows and all(isinstance(row, str) for row in rows)
            else ""
        )
        raise TypeError(f"{expected} Received: {_described(data)}.{without}")
    return _from_rows(rows, expected)


def column(data: object, name: str) -> object:
    """One more column of pairs of any form, as they hold it; None if there is none of that name.

    Args:
        data: What `as_columns` takes.
        name: A role other than the two sides.
    """
    if isinstance(data, Mapping):
        return data.get(name)
    names = _column_names(data)
    if names is not None:
        frame: Any = data
        return frame[name] if name in names else None
    rows = data if isinstance(data, Sequence) else []
    if rows and all(isinstance(row, Mapping) and name in row for row in rows):
        return [row[name] for row in rows]
    if rows and all(name in getattr(row, "_fields", ()) for row in rows):
        return [getattr(row, name) for row in rows]
    return None


def digest(pairs: Mapping[str, Any]) -> str:
    """32 hexadecimal digits that change with any text, token or their order.

    Args:
        pairs: Checked pairs: lists of strings, or mappings of arrays, by side; and arrays of
            numbers by their names.
    """
    found = hashlib.blake2b(digest_size=16)
    for name, values in pairs.items():
        if isinstance(values, np.ndarray):
            found.update(f"{name}{values.shape}{values.dtype}".encode())
            found.update(np.ascontiguousarray(values).tobytes())
            continue
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
        _check_names(names, f"{expected} Received: {kind}")

        def take(row: object, name: str) -> object:
            return row[name] if isinstance(row, Mapping) else getattr(row, name)

    elif len(rows) == 2 and not isinstance(first, tuple):
        raise TypeError(
            f"{expected} Received: {type(rows).__name__} of two lists, which may be two pairs or "
            "two sides. Pass tuples, or a mapping."
        )
    columns: dict[str, list[Any]] = {side: [] for side in SIDES}
    for index, row in enumerate(rows):
        try:
            pair = row if names is None else [take(row, side) for side in SIDES]
            for side, text in zip(SIDES, pair, strict=True):
                columns[side].append(text)
        except (ValueError, KeyError, AttributeError, TypeError):
            wanted = "two texts" if names is None else " and ".join(map(repr, SIDES))
            raise (TypeError if names is None else ValueError)(
                f"{expected} Received: {type(rows).__name__}, whose row {index} is not {wanted} "
                f"but a {type(row).__name__} of {len(row)}: {checks.shown(row)}."
            ) from None
    return columns


def _column_names(data: object) -> list[Any] | None:
    """Names of the columns of `Pairs`, a frame, a table, a structured array or a record."""
    for name in ("column_names", "columns"):
        names = getattr(data, name, None)
        if names is not None and not callable(names) and hasattr(data, "__getitem__"):
            return list(names)
    if isinstance(data, np.ndarray) and data.dtype.names:
        return list(data.dtype.names)
    fields = getattr(type(data), "__dataclass_fields__", None)
    return None if fields is None or isinstance(data, Mapping) else list(fields)


def _check_names(names: Sequence[Any], received: str) -> None:
    if not set(SIDES) <= set(names):
        raise ValueError(f"{received} with {_listed(names)}")


def known_sides(names: Sequence[str]) -> dict[str, str]:
    """Which of some names people give the two sides; empty if there is not one for each."""
    found = []
    for side, others in zip(SIDES, OTHER_NAMES, strict=True):
        known = [side, *others.split()]
        found.append(next((n for other in known for n in names if n.lower() == other), None))
    first, second = found
    if first is None or second is None or first == second:
        return {}
    return {"query": first, "document": second}


def _listed(names: Iterable[Any]) -> str:
    """Names as an error lists them, and what to rename where two of them are well known."""
    names = [str(name) for name in names]
    shown, sides = checks.shown(sorted(names)), known_sides(names)
    if not sides:
        return f"{shown}."
    return f'{shown}. Pass {{"query": <{sides["query"]}>, "document": <{sides["document"]}>}}.'


def _described(data: object) -> str:
    if isinstance(data, np.ndarray):
        return f"ndarray of shape {data.shape}"
    kind = type(data).__name__
    return kind if data is None else f"{kind}, {checks.shown(data)}"
