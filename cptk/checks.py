"""One voice for bad input: what was expected, what was received, what to do."""

from __future__ import annotations

import math
import numbers
import os
import reprlib
from collections.abc import Iterable, Mapping, MappingView, Set
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np

from cptk.types import Frame

_SHORT_REPR = reprlib.Repr()
_SHORT_REPR.maxstring = _SHORT_REPR.maxother = 80
_SHORT_REPR.maxlist = _SHORT_REPR.maxtuple = _SHORT_REPR.maxdict = _SHORT_REPR.maxset = 3
_SHORT_REPR.maxlevel = 2


def shown(value: object, width: int = 100) -> str:
    """A value as an error message shows it: its `repr`, cut to one line.

    A text, a list or an array is cut before it is rendered, so that an item of 50 MB costs nothing.

    Args:
        value: Anything.
        width: Number of characters at most.

    Example:

    ```pycon
    >>> from cptk.checks import shown
    >>> len(shown("a" * 1_000_000)) <= 100
    True

    ```
    """
    if isinstance(value, np.ndarray) or hasattr(value, "iloc"):  # their reprs have many lines
        text = f"{type(value).__name__} of shape {getattr(value, 'shape', None)}"
    else:
        if isinstance(value, bytes | bytearray):
            value = value[:width]
        try:
            text = _SHORT_REPR.repr(value)
        except Exception:  # somebody's own `__repr__`
            text = f"a {type(value).__name__}"
    text = " ".join(text.split())
    return text if len(text) <= width else text[: width - 1] + "…"


def texts(
    values: object, name: str = "texts", *, allow_blank: bool = False, first: int = 0
) -> list[str]:
    """Texts as a list of strings, for every public door that takes some.

    It takes lists, tuples, generators, one-dimensional arrays, pandas and Arrow columns, and a
    frame or table of one column. It refuses what iterates over something else than texts: a string,
    bytes, a mapping or a view of one, a set, a file, a frame of several columns.

    Args:
        values: n texts.
        name: What the error calls them.
        allow_blank: Take empty texts and those of white space too, for whoever leaves them out.
        first: The number of the first text, of those that are part of more.

    Returns:
        n strings, each with something else than white space in it.

    Raises:
        TypeError: Not a sequence of texts, or an item that is no string (None, NaN, bytes, …).
        ValueError: None at all, an empty text or one of white space, or a lone surrogate.

    Example:

    ```pycon
    >>> from cptk.checks import texts
    >>> texts(("a good film", "a bad film"))
    ['a good film', 'a bad film']

    ```
    """
    items = list(iterated(values, name))
    if not items:
        raise ValueError(f"`{name}` is empty. Pass at least one text.")
    for index, item in enumerate(items, first):
        if not isinstance(item, str):
            raise TypeError(
                f"`{name}` should hold strings only. Item {index} is {shown(item)} of type "
                f"{type(item).__name__}. Convert or drop it."
            )
        if not allow_blank and (not item or item.isspace()):
            kind = "of white space" if item else "empty"
            raise ValueError(
                f"`{name}` should hold no empty texts. Item {index} is {kind}: drop it, and what "
                "belongs to it (its pair, label or score), as there is no meaning to embed."
            )
        if not item.isascii():
            try:
                item.encode()
            except UnicodeEncodeError as error:
                raise ValueError(
                    f"`{name}` should hold valid Unicode. Item {index} has a lone surrogate at "
                    f"character {error.start}: read the file again with encoding='utf-8', or mend "
                    "it by text.encode('utf-8', 'replace').decode()."
                ) from None
    return [item if type(item) is str else str(item) for item in items]


def items(values: object, name: str, of: str) -> list[Any]:
    """The items of a sequence, a column or a frame of one column.

    What `texts` refuses as a whole is refused here too.

    Args:
        values: n items of any kind.
        name: What the error calls them.
        of: What they should be, in the plural, for the message.

    Raises:
        TypeError: Not a sequence.

    Example:

    ```pycon
    >>> from cptk.checks import items
    >>> items(range(3), "labels", "class numbers")
    [0, 1, 2]

    ```
    """
    return list(iterated(values, name, of))


def iterated(values: object, name: str, of: str = "strings") -> Iterable[Any]:
    """What `texts` iterates over, before it looks at the items.

    Raises:
        TypeError: What `texts` refuses as a whole: a string, a mapping, a file, a frame of several
            columns, ….
    """
    expected = f"`{name}` should be a sequence of {of}."
    columns = getattr(values, "columns", None)
    if columns is not None and len(getattr(values, "shape", ())) == 2:  # pandas, polars, Arrow
        if len(columns) != 1:
            names = getattr(values, "column_names", columns)
            raise TypeError(
                f"{expected} Received a {type(values).__name__} of {len(columns)} columns, "
                f"{shown(list(names))}: choose one."
            )
        return _only_column(values)
    if hasattr(values, "to_pylist"):  # an Arrow array, whose items are scalars of its own
        return list(values.to_pylist())
    refused = {
        "a string": str,
        "bytes": bytes | bytearray | memoryview,
        "a mapping": Mapping,
        "a view of a mapping": MappingView,
        "a set, which has no order": Set,
    }
    for kind, types in refused.items():
        if isinstance(values, types):
            pass_this = "a list of texts" if of == "strings" else "a list"
            raise TypeError(f"{expected} Received {kind}: {shown(values)}. Pass {pass_this}.")
    if hasattr(values, "read") and hasattr(values, "close"):
        raise TypeError(
            f"{expected} Received an open file. Read it first: file.read().splitlines()."
        )
    if isinstance(values, np.ndarray) and values.ndim != 1:
        raise TypeError(
            f"{expected} Received an array of shape {values.shape}: pass one of shape (n,)."
        )
    if not isinstance(values, Iterable) or isinstance(values, type):
        raise TypeError(f"{expected} Received: {shown(values)} of type {type(values).__name__}.")
    return values


def _only_column(frame: Frame) -> list[object]:
    """The items of a frame of one column."""
    if hasattr(frame, "iloc"):
        return list(frame.iloc[:, 0])
    if hasattr(frame, "to_pydict"):
        return list(*frame.to_pydict().values())
    return list(frame.to_series(0))


def is_integer(value: object) -> TypeGuard[int]:
    """Whether a value is an integer, Python's or NumPy's; a bool is none.

    Example:

    ```pycon
    >>> from cptk.checks import is_integer
    >>> is_integer(3), is_integer(True), is_integer(3.0)
    (True, False, False)

    ```
    """
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def is_number(value: object) -> TypeGuard[float]:
    """Whether a value is a real number, Python's or NumPy's, NaN included; a bool is none.

    Example:

    ```pycon
    >>> from cptk.checks import is_number
    >>> is_number(0.5), is_number(False), is_number("0.5")
    (True, False, False)

    ```
    """
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def integer(name: str, value: object, least: int, or_else: str = "") -> int:
    """`value` as an int of `least` or more; a bool is none.

    Args:
        name: What the error calls it.
        value: Anything.
        least: The smallest integer that is taken.
        or_else: What else may be passed there, for the message: `', or "auto"'`.

    Raises:
        TypeError: No integer.
        ValueError: Less than `least`.

    Example:

    ```pycon
    >>> from cptk.checks import integer
    >>> integer("batch_size", 8, 1)
    8

    ```
    """
    if is_integer(value) and value >= least:
        return int(value)
    raise (ValueError if is_integer(value) else TypeError)(
        f"`{name}` should be an integer of {least} or more{or_else}. Received: {shown(value)}."
    )


def positive(name: str, value: object, or_else: str = "") -> float:
    """`value` as a float above 0; a bool is none.

    Args:
        name: What the error calls it.
        value: Anything.
        or_else: What else may be passed there, for the message: `", or None"`.

    Raises:
        ValueError: It is no number, 0 or less, or not finite.

    Example:

    ```pycon
    >>> from cptk import checks
    >>> checks.positive("scale", 0)
    Traceback (most recent call last):
        ...
    ValueError: `scale` should be a positive finite number. Received: 0.

    ```
    """
    if not is_number(value) or not 0 < value < math.inf:
        raise ValueError(
            f"`{name}` should be a positive finite number{or_else}. Received: {shown(value)}."
        )
    return float(value)


def switch(name: str, value: object) -> bool:
    """True or False.

    Args:
        name: What the error calls it.
        value: Anything.

    Raises:
        TypeError: It is neither.

    Example:

    ```pycon
    >>> from cptk import checks
    >>> checks.switch("symmetric", 1)
    Traceback (most recent call last):
        ...
    TypeError: `symmetric` should be True or False. Received: 1.

    ```
    """
    if not isinstance(value, bool):
        raise TypeError(f"`{name}` should be True or False. Received: {shown(value)}.")
    return value


def choice(name: str, value: object, options: Iterable[str]) -> str:
    """`value`, which should be one of the options.

    Args:
        name: What the error calls it.
        value: Anything.
        options: Strings.

    Raises:
        ValueError: It is none of them.

    Example:

    ```pycon
    >>> from cptk.checks import choice
    >>> choice("pooling", "mean", ["eos", "mean"])
    'mean'

    ```
    """
    options = list(options)
    if not isinstance(value, str) or value not in options:
        raise ValueError(f"`{name}` should be one of {options}. Received: {shown(value)}.")
    return value


def path(value: object, name: str) -> Path:
    """A path of the user's, with `~` expanded.

    Args:
        value: A string or `os.PathLike`.
        name: What the error calls it.

    Raises:
        TypeError: Neither of these.
        ValueError: An empty one, or one that holds a null character.

    Example:

    ```pycon
    >>> from cptk.checks import path
    >>> path("~/models", "folder").is_absolute()
    True

    ```
    """
    if not isinstance(value, str | os.PathLike) or isinstance(os.fspath(value), bytes):
        raise TypeError(f"`{name}` should be a path. Received: {shown(value)}.")
    text = os.fspath(value)
    if not text or "\0" in text:
        raise ValueError(f"`{name}` should be a path. Received: {shown(text)}.")
    return Path(os.path.expanduser(text))  # which leaves `~nobody` as it is


def folder_to_write(value: object, name: str) -> Path:
    """A folder that will be made, or replaced as a whole, without links and `..`.

    Args:
        value: A string or `os.PathLike`.
        name: What the error calls it.

    Raises:
        TypeError: No path.
        ValueError: It is the working directory or one above it, a mount point, or a link that leads
            nowhere; its parent is a file; it has a name that is too long.
        PermissionError: Its parent cannot be written.

    Example:

    ```pycon
    >>> from cptk.checks import folder_to_write
    >>> folder_to_write("models/../presets/mine", "folder").parts[-2:]
    ('presets', 'mine')

    ```
    """
    given = path(value, name)
    target = Path(os.path.realpath(given))
    working = Path.cwd()
    if not target.name or target == working or target in working.parents:
        raise ValueError(
            f"`{name}` should name a folder to write, and not the working directory or one above "
            f"it. Received: {shown(str(given))}."
        )
    if any(map(os.path.islink, (target, *target.parents))):
        # `realpath` has followed all links but those that lead to themselves.
        raise ValueError(f"`{name}` is a link that leads nowhere: {shown(str(given))}.")
    parent = target.parent
    while not os.path.exists(parent) and parent != parent.parent:
        parent = parent.parent
    if not parent.is_dir():
        raise ValueError(
            f"`{name}` should name a folder to write. Received {shown(str(given))}, and "
            f"{shown(str(parent))} is a file."
        )
    for part in (*target.parts[len(parent.parts) :], str(target)):
        # Each name by itself, since the system cannot judge a name in a folder that does not exist
        # yet; the whole path last, which may be too long although each name is short enough.
        try:
            os.lstat(parent / part)
        except FileNotFoundError:
            continue
        except OSError as error:
            raise ValueError(
                f"`{name}` cannot be a folder here: {shown(part)}, of {len(os.fsencode(part))} "
                f"bytes ({error.strerror})."
            ) from None
    if not os.access(parent, os.W_OK | os.X_OK):
        raise PermissionError(f"`{name}` cannot be written: {shown(str(parent))} is read-only.")
    if os.path.ismount(target):
        raise ValueError(
            f"`{name}` is a mount point, {shown(str(target))}, which cannot be replaced as a "
            "whole. Name a folder in it."
        )
    return target
