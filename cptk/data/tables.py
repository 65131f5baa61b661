"""Every form of pairs as one Arrow table, whose columns have the names that training knows."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypedDict

import numpy as np
import pyarrow as pa

from cptk import checks
from cptk.data.arrow import BY_ROLE, any_column, check_lengths, joined, lists_of_texts
from cptk.data.columns import (
    NUMBERS,
    OTHER_NEGATIVES,
    OTHER_SCORES,
    SIDES,
    as_columns,
    known_sides,
)

Renames = Mapping[str, object]
"""Role -> the name that the data give its column; for negatives there may be several."""


class Names(TypedDict, total=False):
    """Names of the data's own columns, by role."""

    query: str
    document: str
    negatives: str | Sequence[str]
    score: str
    teacher: str
    group: str
    source: str
    weight: str


RENAMED = tuple(Names.__annotations__)
"""The roles, whose columns may have other names in the data."""

EXPECTED = (
    "Pairs are made of a mapping of columns, a list of (query, document) tuples or of mappings, a "
    "frame (pandas, Polars), or a table (Arrow, datasets)."
)


def to_table(data: object, renames: Renames, call: str = "Pairs(data") -> pa.Table:
    """Pairs of any form as a table of checked columns.

    Args:
        data: As `Pairs` takes them.
        renames: Names of the data's own columns, by role.
        call: How the caller is called, for an error that shows the call that works.

    Raises:
        TypeError: Something else, or items of another kind.
        ValueError: No rows, names that are not known, gaps, or columns of unequal length.
    """
    columns = _renamed(raw_columns(data), _checked(renames), call)
    if not set(SIDES) <= set(columns):
        raise ValueError(_missing_sides(list(columns), call))
    checked = {
        name: BY_ROLE.get(name, any_column)(values, name) for name, values in columns.items()
    }
    check_lengths({name: len(column) for name, column in checked.items()})
    table = pa.table(checked)
    if not table.num_rows:
        raise ValueError("There are no pairs in these data. Pass at least one.")
    return table.select([*SIDES, *(name for name in checked if name not in SIDES)])


def raw_columns(data: object) -> dict[str, object]:
    """The columns of data of any form as they are, not looked at."""
    table = _arrow_table(data)
    if table is not None:
        return _named(table.column_names, table.columns)
    if isinstance(data, Mapping):
        return _named(list(data), list(data.values()))
    if isinstance(data, np.ndarray):
        names = data.dtype.names
        return {name: data[name] for name in names} if names else dict(as_columns(data))
    frame: Any = data
    names = getattr(data, "column_names", None)
    names = getattr(data, "columns", None) if names is None else names
    if names is not None and not callable(names) and hasattr(data, "__getitem__"):
        names = list(names)
        _check_unique(names)
        return _named(names, [frame[name] for name in names])
    if isinstance(data, Sequence) and not isinstance(data, str | bytes | bytearray):
        return _of_rows(data)
    raise TypeError(f"{EXPECTED} Received: {checks.shown(data)} of type {type(data).__name__}.")


def _arrow_table(data: object) -> pa.Table | None:
    """A table of Arrow, Polars, `datasets` or of whatever else speaks Arrow; not pandas."""
    if isinstance(data, pa.Table):
        return data
    if isinstance(data, pa.RecordBatch):
        return pa.Table.from_batches([data])
    dataset: Any = data
    if hasattr(data, "with_format") and hasattr(data, "column_names"):
        return _arrow_table(dataset.with_format("arrow")[:])
    if callable(getattr(data, "to_arrow", None)):
        return _arrow_table(dataset.to_arrow())
    if hasattr(data, "__arrow_c_stream__") and not hasattr(data, "iloc"):
        return pa.table(data)
    return None


def _of_rows(rows: Sequence[Any]) -> dict[str, object]:
    if rows and all(isinstance(row, Mapping) for row in rows):
        keys = list(dict.fromkeys(key for row in rows for key in row))
        return _named(keys, [[row.get(key) for row in rows] for key in keys])
    names = getattr(rows[0], "_fields", None) if rows else None
    if names and all(getattr(row, "_fields", None) == names for row in rows):
        return _named(names, [list(column) for column in zip(*rows, strict=True)])
    return dict(as_columns(rows, "Data"))


def _named(names: Sequence[object], columns: Sequence[object]) -> dict[str, object]:
    _check_unique(names)
    for name in names:
        if not isinstance(name, str):
            raise TypeError(f"Names of columns should be strings. Received: {checks.shown(name)}.")
    return {str(name): column for name, column in zip(names, columns, strict=True)}


def _check_unique(names: Sequence[object]) -> None:
    if len(set(names)) == len(names):
        return
    twice = next(name for index, name in enumerate(names) if name in names[:index])
    raise ValueError(
        f"Columns should have names of their own. Several are called {checks.shown(twice)}: rename "
        "or drop all but one."
    )


def _checked(renames: Renames) -> dict[str, str | list[str]]:
    """The renames that were given."""
    found: dict[str, str | list[str]] = {}
    for role, name in renames.items():
        several = list(name) if role == "negatives" and isinstance(name, list | tuple) else []
        if isinstance(name, str):
            found[role] = name
        elif several and all(isinstance(each, str) for each in several):
            found[role] = several
        elif name is not None:
            kind = "a name, or a list of names," if role == "negatives" else "the name"
            raise TypeError(
                f"`{role}` should be {kind} of a column in the data. Received: "
                f"{checks.shown(name)}."
            )
    return found


def _renamed(
    columns: dict[str, object], renames: Mapping[str, str | list[str]], call: str
) -> dict[str, object]:
    """Columns under the names of their roles; one that has a given role's name gives way."""
    taken: dict[str, object] = {}
    used: list[str] = []
    for role, given in renames.items():
        names = [given] if isinstance(given, str) else given
        for name in names:
            if name not in columns:
                near = difflib.get_close_matches(name, columns, n=1)
                raise ValueError(
                    f"{call}, {role}={checks.shown(name)}) names a column that is not there. "
                    f"Columns: {listed(columns)}." + (f" Near: {near[0]!r}." if near else "")
                )
        used += names
        several = [columns[name] for name in names]
        taken[role] = several[0] if isinstance(given, str) else joined(several, role)
    rest = {name: c for name, c in columns.items() if name not in used and name not in renames}
    return {**taken, **rest}


def _missing_sides(names: list[str], call: str) -> str:
    """What is said to data whose columns have other names, and the call that works."""
    arguments: dict[str, object] = dict(known_sides(names)) or dict.fromkeys(SIDES, "…")
    negatives = [name for name in names if OTHER_NEGATIVES.fullmatch(name) and name != "negatives"]
    if negatives:
        arguments["negatives"] = negatives[0] if len(negatives) == 1 else negatives
    score = next((name for name in names if OTHER_SCORES.fullmatch(name)), None)
    if score is not None and "score" not in names:
        arguments["score"] = score
    shown = ", ".join(
        f'{role}="{name}"' if isinstance(name, str) else f"{role}={name}"
        for role, name in arguments.items()
        if role != name
    )
    return (
        "Pairs need the columns 'query' and 'document'. Received the columns "
        f"{listed(names)}. Say which they are: {call}, {cut(shown)})."
    )


def listed(names: Iterable[str]) -> str:
    """Names of columns as an error lists them."""
    return cut(", ".join(map(repr, names)))


def cut(text: str, width: int = 200) -> str:
    """A text of names, cut to a line."""
    return text if len(text) <= width else text[: width - 1] + "…"


def counted(pairs: int) -> str:
    """A number of pairs in words."""
    return "1 pair" if pairs == 1 else f"{pairs:,} pairs"


def large(table: pa.Table) -> pa.Table:
    """A table whose texts may have more than 2 GB in one column; they are not copied."""
    kinds = [pa.large_string() if pa.types.is_string(kind) else kind for kind in table.schema.types]
    return table.cast(pa.schema(list(zip(table.column_names, kinds, strict=True))))


def taken(table: pa.Table, rows: np.ndarray) -> pa.Table:
    """Some rows of a table in some order."""
    indices = pa.array(rows, pa.int64())
    try:
        return table.take(indices)
    except pa.ArrowInvalid:  # more than 2 GB of text in one column
        return large(table).take(indices)


def concatenated(parts: Sequence[pa.Table]) -> pa.Table:
    """Tables of pairs one after another; see `Pairs.concat`."""
    if not parts:
        raise ValueError("`parts` is empty. Pass one Pairs at least.")
    names = dict.fromkeys(name for part in parts for name in part.column_names)
    for number, part in enumerate(parts):
        lacking = [n for n in NUMBERS if n in names and n not in part.column_names]
        if lacking:
            raise ValueError(
                f"Part {number} has no column {lacking[0]!r}, and another part has one. Add it to "
                "this part, or leave it out of the others."
            )
    try:
        table = pa.concat_tables(parts, promote_options="permissive").select(list(names))
    except (pa.ArrowTypeError, pa.ArrowInvalid) as error:
        raise TypeError(
            f"Columns of one name should hold one kind of values: {checks.shown(str(error))}. "
            "Rename or leave out one of them."
        ) from None
    if "negatives" in names and table["negatives"].null_count:
        filled = lists_of_texts(table["negatives"], "negatives")
        table = table.set_column(table.column_names.index("negatives"), "negatives", filled)
    return table


def count_of(size: object, count: int) -> int:
    """How many of `count` pairs a number, or a share, of them is: one at least, and not all."""
    if not checks.is_number(size):
        raise TypeError(
            "`size` should be a number of pairs, or a share between 0 and 1. Received: "
            f"{checks.shown(size)}."
        )
    if checks.is_integer(size):
        number = int(size)
    else:
        number = min(max(round(size * count), 1), count - 1) if 0 < size < 1 else 0
    if not 0 < number < count:
        raise ValueError(
            f"`size` should be 1 to {count - 1} of the {count} pairs, or a share between 0 and 1. "
            f"Received: {size}."
        )
    return number


def mask_of(keep: object, count: int) -> np.ndarray:
    """`count` booleans as an array."""
    values = checks.items(keep, "keep", "booleans")
    if not all(isinstance(value, bool | np.bool_) for value in values):
        raise TypeError("`keep` should be a function of a row, or hold True and False alone.")
    if len(values) != count:
        raise ValueError(
            f"`keep` should hold one boolean a pair, {count}. Received: {len(values)}."
        )
    return np.array(values, dtype=bool)
