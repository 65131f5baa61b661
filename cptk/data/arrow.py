"""Columns of pairs as checked Arrow columns, one function for each kind of role."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cptk import checks


def texts(values: object, name: str, allow_blank: bool = False) -> pa.ChunkedArray:
    """A column of strings without gaps; Arrow's own is not copied.

    Args:
        values: n strings: a list, an array, a pandas or Polars series, an Arrow column.
        name: What the error calls them.
        allow_blank: Take empty texts and those of white space.

    Raises:
        TypeError: An item that is no string.
        ValueError: An empty text, or one that is not UTF-8.
    """
    column = as_arrow(values)
    if column is None:
        return chunked(pa.array(checks.texts(values, name, allow_blank=allow_blank), pa.string()))
    column = strings(column, name)
    if column.null_count:
        _refuse(name, column.is_null(), "strings only", "is None", TypeError, "Convert or drop it.")
    if not allow_blank:
        blank = pc.equal(pc.utf8_length(pc.utf8_trim_whitespace(column)), 0)
        why = "drop it, and what belongs to it, as there is no meaning to embed."
        _refuse(name, blank, "no empty texts", "is empty or of white space:", ValueError, why)
    return column


def texts_or_null(values: object, name: str) -> pa.ChunkedArray:
    """A column of strings, with gaps where there is None or NaN."""
    column = as_arrow(values)
    if column is not None:
        return strings(column, name)
    items = [None if _is_missing(x) else x for x in checks.items(values, name, "strings")]
    checks.texts(["", *(x for x in items if x is not None)], name, allow_blank=True)
    return chunked(pa.array(items, pa.string()))


def strings(column: pa.ChunkedArray, name: str) -> pa.ChunkedArray:
    """An Arrow column of strings in its plain form, valid UTF-8."""
    column = decoded(column)
    if pa.types.is_null(column.type):
        return column.cast(pa.string())
    if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
        raise TypeError(
            f"`{name}` should hold strings only. Its Arrow type is {column.type}: convert it, "
            "column.cast('string'), or name another column."
        )
    try:
        column.validate(full=True)
    except pa.ArrowInvalid as error:
        raise ValueError(
            f"`{name}` should hold texts in UTF-8: {checks.shown(str(error))}. Read the file "
            "again with its encoding, or write it again in UTF-8."
        ) from None
    return column


def lists_of_texts(values: object, name: str) -> pa.ChunkedArray:
    """A column of lists of strings, 0 to k a row: a string is a list of one, None an empty one."""
    column = as_arrow(values)
    if column is None:
        items = checks.items(values, name, "lists of strings")
        rows = [_texts_of_row(item, name, number) for number, item in enumerate(items)]
        return chunked(pa.array(rows, pa.list_(pa.string())))
    column = decoded(column)
    if not _is_list(column.type):
        return joined([column], name)
    flat = pa.chunked_array([pc.list_flatten(chunk) for chunk in column.chunks], _item(column.type))
    if len(flat):
        texts(flat, name)
    column = column.cast(pa.list_(pa.string()))
    return pc.coalesce(column, pa.scalar([], column.type)) if column.null_count else column


def joined(columns: Sequence[object], name: str) -> pa.ChunkedArray:
    """Several columns of strings as one of lists; gaps are left out."""
    parts = [texts_or_null(values, name).cast(pa.large_string()) for values in columns]
    check_lengths({str(number): len(part) for number, part in enumerate(parts)})
    rows, count = len(parts[0]), len(parts)
    items = pa.concat_arrays([chunk for part in parts for chunk in part.chunks] or [_NO_TEXT])
    by_row = np.arange(rows * count).reshape(count, rows).T.ravel()
    there = items.is_valid().to_numpy(zero_copy_only=False)[by_row]
    offsets = np.concatenate([[0], there.reshape(rows, count).sum(axis=1).cumsum()])
    flat = items.take(pa.array(by_row[there]))
    if len(flat):
        texts(flat, name)
    lists = pa.LargeListArray.from_arrays(pa.array(offsets, pa.int64()), flat)
    return chunked(lists.cast(pa.list_(pa.string())))


def numbers(values: object, name: str) -> pa.ChunkedArray:
    """A column of finite numbers as float64.

    Raises:
        TypeError: Something else than numbers.
        ValueError: A gap, NaN or infinity; for `weight` a negative number.
    """
    column = decoded(any_column(values, name))
    if not _is_number(column.type):
        raise TypeError(
            f"`{name}` should hold one number a pair. Its Arrow type is {column.type}: convert it, "
            "or give the column another name."
        )
    column = column.cast(pa.float64())
    finite = pc.fill_null(pc.is_finite(column), False)
    why = "Fill it, or drop the pair."
    _refuse(name, pc.invert(finite), "finite numbers", "is missing or not finite.", ValueError, why)
    if name == "weight":
        _refuse(name, pc.less(column, 0), "no negative numbers", "is negative.", ValueError, why)
    return column


def numbers_or_lists(values: object, name: str) -> pa.ChunkedArray:
    """A column of finite numbers, or of lists of them."""
    column = any_column(values, name)
    if not _is_list(column.type):
        return numbers(column, name)
    if column.null_count:
        _refuse(name, column.is_null(), "lists of numbers", "is missing.", ValueError, "Fill it.")
    flat = [pc.list_flatten(chunk) for chunk in column.chunks]
    numbers(pa.chunked_array(flat, _item(column.type)), name)
    return column.cast(pa.list_(pa.float64()))


def vectors(values: object, name: str) -> pa.ChunkedArray:
    """A column of lists of two or more vectors, all of one size, as float32.

    Args:
        values: A list of vectors a pair, or an array `(n, vectors, dim)`.
        name: What the error calls them.

    Raises:
        TypeError: Something else.
        ValueError: Fewer vectors, vectors of several sizes, a gap, NaN or infinity.
    """
    array: Any = values
    if getattr(array, "ndim", 1) == 3 and 0 not in array.shape:
        array = np.asarray(values)
        counts = np.full(len(array), array.shape[1])
        column = chunked(lists_of_vectors(array.reshape(-1, array.shape[2]), counts))
    else:
        column = any_column(values, name)
    kind = column.type
    if not (_is_list(kind) and _is_list(_item(kind)) and _is_number(_item(_item(kind)))):
        raise TypeError(
            f"`{name}` should hold a list of vectors for each pair: of the query, of the document "
            f"and of each negative. Its Arrow type is {kind}."
        )
    rows = column.combine_chunks() if column.num_chunks != 1 else column.chunk(0)
    lengths = pc.fill_null(pc.list_value_length(rows), 0)
    too_few = pc.less(lengths, 2)
    why = "Make the column by cptk.mining.guide_vectors."
    _refuse(name, too_few, "two vectors or more", "has fewer.", ValueError, why)
    found = pc.list_flatten(rows)
    sizes = pc.unique(pc.list_value_length(found)).to_pylist()
    if len(sizes) != 1 or not sizes[0]:
        raise ValueError(
            f"`{name}` should hold vectors of one size. Received the sizes {checks.shown(sizes)}. "
            f"{why}"
        )
    flat = pc.list_flatten(found).cast(pa.float32())
    finite = pc.fill_null(pc.is_finite(flat), False)
    place = pc.index(finite, False).as_py()
    if place >= 0:
        ends = np.cumsum(lengths.to_numpy())
        row = int(np.searchsorted(ends, place // sizes[0], side="right"))
        raise ValueError(
            f"`{name}` should hold finite numbers. One of item {row} is missing or not finite."
        )
    return chunked(lists_of_vectors(flat.to_numpy().reshape(-1, sizes[0]), lengths.to_numpy()))


def lists_of_vectors(flat: np.ndarray, counts: np.ndarray) -> pa.Array:
    """Vectors `(total, dim)` as lists of so many each, without a copy."""
    items = pa.FixedSizeListArray.from_arrays(pa.array(flat.reshape(-1)), flat.shape[1])
    offsets = np.concatenate([[0], np.cumsum(counts)])
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), items)


def groups(values: object, name: str) -> pa.ChunkedArray:
    """A column of integers or strings that say which pairs belong together."""
    column = decoded(any_column(values, name))
    if not (pa.types.is_integer(column.type) or _is_text(column.type)):
        raise TypeError(
            f"`{name}` should hold integers or strings. Its Arrow type is {column.type}: convert "
            "it, or give the column another name."
        )
    why = "Give each pair a group of its own, or drop it."
    _refuse(name, column.is_null(), "no gaps", "is missing.", ValueError, why)
    return column


def any_column(values: object, name: str) -> pa.ChunkedArray:
    """A column of anything that Arrow can hold; NaN of pandas is a gap."""
    column = as_arrow(values)
    if column is not None:
        return column
    try:
        items: Any = values if hasattr(values, "dtype") else checks.items(values, name, "values")
        if getattr(items, "ndim", 1) > 1:  # a row of numbers a pair
            items = list(items)
        return chunked(pa.array(items, from_pandas=hasattr(values, "iloc")))
    except (pa.ArrowException, OverflowError) as error:
        raise TypeError(
            f"`{name}` should hold values of one kind. Arrow says: {checks.shown(str(error))}. "
            "Convert the column, or leave it out."
        ) from None
    except UnicodeEncodeError:
        raise ValueError(f"`{name}` should hold valid Unicode, without lone surrogates.") from None


BY_ROLE: dict[str, Callable[[object, str], pa.ChunkedArray]] = {
    "query": texts,
    "document": texts,
    "negatives": lists_of_texts,
    "score": numbers,
    "teacher": numbers_or_lists,
    "group": groups,
    "source": texts_or_null,
    "weight": numbers,
    "guide": vectors,
}


def as_arrow(values: object) -> pa.ChunkedArray | None:
    """What is an Arrow column already, of Arrow or Polars; None for all else."""
    if isinstance(values, pa.Array | pa.ChunkedArray):
        return chunked(values)
    convert = getattr(values, "to_arrow", None)  # a Polars series
    return chunked(convert()) if callable(convert) else None


def chunked(values: pa.Array | pa.ChunkedArray) -> pa.ChunkedArray:
    """An array as a column of one chunk, without a copy."""
    return values if isinstance(values, pa.ChunkedArray) else pa.chunked_array([values])


def decoded(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """A dictionary's values in place of their numbers; views of strings as strings."""
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    return column.cast(pa.large_string()) if pa.types.is_string_view(column.type) else column


def check_lengths(lengths: dict[str, int]) -> None:
    """One length, or an error that lists them."""
    if len(set(lengths.values())) > 1:
        raise ValueError(
            "Each query needs its document, and each column one value a pair. Received columns of "
            f"unequal length: {checks.shown(lengths)}."
        )


_NO_TEXT = pa.array([], pa.large_string())


def _refuse(
    name: str, mask: pa.ChunkedArray, holds: str, fault: str, error: type[Exception], why: str
) -> None:
    """The first row that a mask marks, named in one error."""
    row = pc.index(mask, True).as_py()
    if row >= 0:
        raise error(f"`{name}` should hold {holds}. Item {row} {fault} {why}")


def _texts_of_row(row: object, name: str, number: int) -> list[str]:
    if isinstance(row, str):
        row = [row]
    elif row is None or _is_missing(row):
        return []
    elif not isinstance(row, Sequence | np.ndarray):
        raise TypeError(
            f"`{name}` should hold a list of strings for each pair. Item {number} is "
            f"{checks.shown(row)} of type {type(row).__name__}."
        )
    return checks.texts(row, f"{name}[{number}]") if len(row) else []


def _is_missing(value: object) -> bool:
    return value is None or (checks.is_number(value) and value != value)


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _is_number(kind: pa.DataType) -> bool:
    is_any = (pa.types.is_integer, pa.types.is_floating, pa.types.is_decimal)
    return any(test(kind) for test in is_any)


def _is_list(kind: pa.DataType) -> bool:
    is_any = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
    views = (pa.types.is_list_view, pa.types.is_large_list_view)
    return any(test(kind) for test in is_any + views)


def _item(kind: pa.DataType) -> pa.DataType:
    return kind.value_type
