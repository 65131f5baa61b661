"""What an index knows of each vector: its id, its text, and the user's own columns, in Arrow."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TypeAlias

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from cptk import checks
from cptk.types import Frame

Id: TypeAlias = str | int
Ids: TypeAlias = Iterable[str] | Iterable[int]
Metadata: TypeAlias = Mapping[str, object] | Sequence[Mapping[str, object]] | Frame
"""Columns by name, a dictionary for each row, or a frame or table."""

ID, TEXT, SCORE = "id", "text", "score"
LARGEST_INTEGER = 2**63 - 1
_MOST_CHUNKS = 100
_WHAT = (
    "`metadata` should be columns by name ({'path': [...]}), a dictionary for each row, or a frame "
    "or Arrow table."
)


def checked_ids(ids: Ids, name: str = "ids") -> list[Id]:
    """Ids as a list of strings, or of integers, each there once.

    Args:
        ids: n ids.
        name: What the error calls them.

    Raises:
        TypeError: Not a sequence; strings and integers mixed; or something else.
        ValueError: One twice, an empty string, or an integer of more than 64 bits.

    Example:

    ```pycon
    >>> from cptk.search.rows import checked_ids
    >>> checked_ids(["a", 1])
    Traceback (most recent call last):
        ...
    TypeError: `ids` should be all strings or all integers. Item 0 is 'a', item 1 is 1.

    ```
    """
    found: list[Id] = checks.items(ids, name, "strings or integers")
    for place, each in enumerate(found):
        if not isinstance(each, str) and not checks.is_integer(each):
            raise TypeError(
                f"`{name}` should be strings or integers. Item {place} is {checks.shown(each)} of "
                f"type {type(each).__name__}."
            )
        if isinstance(each, str) != isinstance(found[0], str):
            raise TypeError(
                f"`{name}` should be all strings or all integers. Item 0 is "
                f"{checks.shown(found[0])}, item {place} is {checks.shown(each)}."
            )
    if found and isinstance(found[0], str):
        found = [*checks.texts(found, name)]
    else:
        found = [int(each) for each in found]
        if any(not -LARGEST_INTEGER <= int(each) <= LARGEST_INTEGER for each in found):
            raise ValueError(f"`{name}` should fit into 64 bits. Received: {checks.shown(found)}.")
    if len(set(found)) < len(found):
        seen: set[Id] = set()
        twice = next(each for each in found if each in seen or seen.add(each))  # type: ignore[func-returns-value]
        raise ValueError(
            f"`{name}` should name each row once. Received {checks.shown(twice)} twice or more."
        )
    return found


def as_rows(ids: list[Id], texts: list[str] | None, metadata: Metadata | None) -> pa.Table:
    """The rows of some vectors: id, text where there is one, and the columns of `metadata`.

    Raises:
        TypeError: Metadata in another form.
        ValueError: Of another length; a column twice; or a column "id" or "score", or a second
            text.
    """
    kind = pa.large_string() if ids and isinstance(ids[0], str) else pa.int64()
    columns = {ID: pa.array(ids, kind)}
    if texts is not None:
        columns[TEXT] = pa.array(texts, pa.large_string())
    given = _plain(_metadata_table(metadata))
    names = given.column_names
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"`metadata` should name each column once. Received {twice!r} twice.")
    for name in names:
        if name in columns or name == SCORE:
            raise ValueError(
                f"`metadata` should have no column {name!r}: the index has its own. Rename it."
            )
    if given.num_columns and given.num_rows != len(ids):
        raise ValueError(
            f"`metadata` should have a row for each of the {len(ids)} vectors. Received "
            f"{given.num_rows}."
        )
    if TEXT in names:
        own = checks.texts(given[TEXT], "the column 'text' of metadata")
        columns[TEXT] = pa.array(own, pa.large_string())
    columns |= {n: given[n] for n in names if n != TEXT}
    return pa.table(columns)


def joined(rows: pa.Table | None, more: pa.Table) -> pa.Table:
    """Rows with more after them, which must have the same columns.

    Raises:
        ValueError: Other columns, or values of another type in one.
    """
    if rows is None:
        return more
    names, others = rows.column_names, more.column_names
    if set(names) != set(others):
        raise ValueError(
            f"The rows of this index have the columns {names}, and these would have {others}. Give "
            "every row the same ones; None stands for a value that is not there."
        )
    columns = []
    for name in names:
        wanted, column = rows.schema.field(name).type, more[name]
        if column.type != wanted and not pa.types.is_null(wanted):
            try:
                column = column.cast(wanted)
            except pa.ArrowException as error:
                raise ValueError(
                    f"The column {name!r} of this index holds {wanted}, and these rows have "
                    f"{column.type} there ({checks.shown(str(error))})."
                ) from None
        columns.append(column)
    added = pa.table(columns, names=names)
    if rows.column(0).num_chunks > _MOST_CHUNKS:  # a row is looked for in one after another
        rows = rows.combine_chunks()
    return pa.concat_tables([rows, added], promote_options="default")


def chosen(rows: pa.Table, condition: object) -> NDArray[np.bool_]:
    """(n,) which rows a condition is true of; a comparison with a missing value is not.

    Args:
        rows: n rows.
        condition: A `pyarrow.compute.Expression` over their columns.

    Raises:
        TypeError: No such expression.
        ValueError: It names a column that is not there, or does not fit a column's type.
    """
    import pyarrow.compute as pc
    import pyarrow.dataset as ds

    if not isinstance(condition, pc.Expression):
        raise TypeError(
            "`filter` should be an expression of pyarrow.compute's, such as "
            "pyarrow.compute.field('language') == 'python'. Received: "
            f"{checks.shown(condition)}."
        )
    place = "row of the index"
    numbered = rows.append_column(place, pa.array(np.arange(rows.num_rows)))
    try:
        found = ds.dataset(numbered).scanner(columns=[place], filter=condition).to_table()
    except (pa.ArrowException, TypeError) as error:
        known = ", ".join(f"{field.name} ({field.type})" for field in rows.schema)
        fault = checks.shown(str(error).split(" in ")[0])
        raise ValueError(
            f"`filter` does not fit the columns of this index: {fault}. It has: {known}. "
            f"Received: {checks.shown(str(condition))}."
        ) from None
    mask = np.zeros(rows.num_rows, np.bool_)
    mask[found[place].to_numpy()] = True
    return mask


def _metadata_table(metadata: Metadata | None) -> pa.Table:
    if metadata is None:
        return pa.table({})
    if isinstance(metadata, pa.Table | pa.RecordBatch):
        return pa.table(metadata)
    try:
        if hasattr(metadata, "iloc"):
            return pa.Table.from_pandas(metadata, preserve_index=False)
        if hasattr(metadata, "to_arrow"):
            return pa.table(metadata.to_arrow())
        if isinstance(metadata, Mapping):
            return pa.table({_name(n): _column(n, v) for n, v in metadata.items()})
        if isinstance(metadata, Sequence) and not isinstance(metadata, str | bytes):
            return _of_dictionaries(metadata)
    except UnicodeEncodeError as error:
        raise ValueError(
            "`metadata` should be text that UTF-8 can write. Received half a character (a lone "
            f"surrogate) in {checks.shown(error.object)}."
        ) from None
    except (pa.ArrowException, OverflowError) as error:
        raise ValueError(
            f"`metadata` should have values of one type in each column, and columns of one "
            f"length: {checks.shown(str(error))}."
        ) from None
    raise TypeError(f"{_WHAT} Received: {checks.shown(metadata)}.")


def _plain(table: pa.Table) -> pa.Table:
    """Categories as what they name, which has no end; texts in a type that filters compare."""
    for place, field in enumerate(table.schema):
        kind = field.type.value_type if pa.types.is_dictionary(field.type) else field.type
        kind = pa.large_string() if kind == pa.string_view() else kind
        if kind != field.type:
            table = table.set_column(place, field.name, table[place].cast(kind))
    return table


def _of_dictionaries(rows: Sequence[Mapping[str, object]]) -> pa.Table:
    for place, row in enumerate(rows):
        if not isinstance(row, Mapping):
            raise TypeError(f"{_WHAT} Item {place} is {checks.shown(row)}.")
        if set(row) != set(rows[0]):
            raise ValueError(
                f"`metadata` should have the same names in each row. Row 0 has {sorted(rows[0])}, "
                f"row {place} has {sorted(row)}; None stands for a value that is not there."
            )
    names = [_name(name) for name in rows[0]] if rows else []
    return pa.table({name: [row[name] for row in rows] for name in names})


def _name(name: object) -> str:
    if not isinstance(name, str) or not name:
        raise TypeError(f"{_WHAT} Received a column named {checks.shown(name)}.")
    return name


def _column(name: str, values: object) -> object:
    if isinstance(values, pa.Array | pa.ChunkedArray):
        return values
    found = checks.iterated(values, f"the column {name!r} of metadata", "values")
    return found if isinstance(found, np.ndarray) or hasattr(found, "iloc") else list(found)
