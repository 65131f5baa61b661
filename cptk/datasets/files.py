"""The one reader of data files: lines, tables, CSV, JSON, with errors that name file and line."""

from __future__ import annotations

import bz2
import codecs
import functools
import gzip
import itertools
import json
import re
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, NoReturn

from cptk.checks import shown

LONGEST_LINE = 64 << 20  # bytes, unpacked
#: A packed file or archive may hold this many times its size (text packs to a tenth, a bomb to a
#: thousandth), or 8 MiB, whichever is more.
RATIO, FLOOR = 100, 8 << 20
PACKED = (".gz", ".bz2")
Rows = Iterator[tuple[int, list[str]]]

_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)(e[+-]?\d+)?|[+-]?(nan|inf)", re.ASCII | re.I)
# A cell: a quoted part, its closing quote or the end of the text, what follows, what ends the cell.
_CELL = re.compile(r'(?:"((?:[^"]++|"")*+)("|\Z))?([^,\n]*+)(,|\n|\Z)')


def bad(path: Path, line: int, problem: str) -> NoReturn:
    """Raises the one error of a file that cannot be read."""
    raise ValueError(f"{path}, line {line}: {problem}")


def lines(path: Path, *, latin1: bool = False) -> Iterator[tuple[int, str]]:
    r"""Number (from 1) and text of each line of a UTF-8 file, plain, `.gz` or `.bz2`.

    Only `\n` ends a line, as in the publishers' own tools: U+0085 and its like, which
    `str.splitlines` splits at, stand inside sentences of MR and SUBJ.

    Args:
        path: The file.
        latin1: Read as Latin-1 a file that is not UTF-8 (sets from before UTF-8 was common).

    Yields:
        `(number, text)`, the line's end and a byte order mark left out.

    Raises:
        ValueError: if the file is not text in that encoding, is broken off, holds a line of more
            than 64 MiB, or is a folder, a web page or a Git LFS pointer that stands in its place.
    """
    if path.is_dir():
        raise ValueError(f"{path} is a folder, and a file was expected: move it away.")
    number, left = 0, most_unpacked(path)
    try:
        encoding = "latin-1" if latin1 and not _is_utf8(path) else "utf-8"
        with _opened(path) as file:
            limited = functools.partial(file.readline, LONGEST_LINE + 1)
            for number, raw in enumerate(iter(limited, b""), 1):
                if number == 1:
                    raw = raw.removeprefix(b"\xef\xbb\xbf")
                    _check_start(path, raw)
                if len(raw) > LONGEST_LINE:
                    bad(path, number, f"it is longer than {LONGEST_LINE >> 20} MiB.")
                left -= len(raw)
                if left < 0 and path.suffix in PACKED:
                    bad(path, number, "the file unpacks to more than a text can. Refused.")
                if b"\0" in raw:
                    bad(path, number, "it holds a null character, so that this is no UTF-8 text.")
                yield number, raw.rstrip(b"\r\n").decode(encoding)
    except UnicodeDecodeError as error:
        bad(
            path,
            number,
            f"byte {error.object[error.start]:#04x} at column {error.start + 1} is not UTF-8. "
            f"Convert the file to UTF-8.",
        )
    except (EOFError, zlib.error, gzip.BadGzipFile, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        bad(path, number + 1, f"the file is broken off or not {path.suffix[1:]} ({error}).")


def most_unpacked(path: Path) -> int:
    """How many bytes a packed file may unpack to."""
    return max(FLOOR, RATIO * path.stat().st_size)


def table(path: Path, *, latin1: bool = False, header: bool = True) -> tuple[list[str], Rows]:
    """Header and rows of a tab-separated file without quoting; blank lines are passed over."""
    rows: Rows = (
        (number, [cell.strip(" ") for cell in line.split("\t")])
        for number, line in lines(path, latin1=latin1)
        if line.strip()
    )
    if not header:
        return [], rows
    _, names = next(rows, (0, []))
    if not names:
        bad(path, 1, "the file is empty.")
    return names, at_least_one(path, rows)


def at_least_one(path: Path, rows: Rows) -> Rows:
    """The rows below a header; an error where there are none, as the file may be cut short."""
    first = next(rows, None)
    if first is None:
        bad(path, 1, "there is a header and no row below it. Fetch or copy the file again.")
    return itertools.chain([first], rows)


def csv_rows(path: Path) -> Rows:
    """Line and cells of each row of a CSV file, quoted as RFC 4180 has it, of any length.

    `csv.reader` refuses cells of more than 131,072 characters, by a limit that is one for the whole
    process, and takes a quote that is never closed for a cell that holds the rest of the file.
    """
    text = "\n".join(line for _, line in lines(path))
    at, line, cells = 0, 1, list[str]()
    begun = line
    while match := _CELL.match(text, at):
        quoted, closed, plain, end = match.groups()
        if quoted is not None and not closed:
            bad(path, line, f"a quote is opened and never closed: {shown(quoted)}.")
        cells.append((quoted or "").replace('""', '"') + plain)
        line += text.count("\n", at, match.end())
        at = match.end()
        if end != ",":
            if cells != [""]:
                yield begun, cells
            if not end:
                return
            begun, cells = line, []


def column(path: Path, header: Sequence[str], *names: str) -> int:
    """Index of the first of `names` that stands in `header`, case aside."""
    lowered = [cell.lower() for cell in header]
    for name in names:
        if name.lower() in lowered:
            return lowered.index(name.lower())
    expected = " or ".join(map(repr, names))
    bad(path, 1, f"expected a column {expected}. Received: {shown([*header])}.")


def number(cell: str) -> float | None:
    """The number in a cell, `None` for none; `float` alone would take `1_0` and `١` too."""
    cell = cell.strip()
    return float(cell) if len(cell) < 40 and _NUMBER.fullmatch(cell) else None


def number_in(path: Path, line: int, cell: str, low: float, high: float) -> float:
    """A score in its range."""
    value = number(cell)
    if value is None:
        bad(path, line, f"expected a score from {low:g} to {high:g}. Received: {shown(cell)}.")
    if not low <= value <= high:  # so is NaN refused
        bad(path, line, f"expected a score from {low:g} to {high:g}. Received: {cell}.")
    return value


def json_in(path: Path, line: int, text: str) -> object:
    """The value of a JSON text that begins in this line of the file."""
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        problem = f"{error.msg} at column {error.colno}"
        bad(path, line + error.lineno - 1, f"this is not JSON ({problem}).")
    except RecursionError:
        bad(path, line, "this JSON is nested too deeply.")
    except ValueError as error:  # a number of more than 4,300 digits
        bad(path, line, f"this is not JSON ({error}).")


def _opened(path: Path) -> IO[bytes]:
    if path.suffix == ".gz":
        return gzip.open(path, "rb")  # type: ignore[return-value]
    if path.suffix == ".bz2":
        return bz2.open(path, "rb")
    return path.open("rb")


def _is_utf8(path: Path) -> bool:
    decoder, left = codecs.getincrementaldecoder("utf-8")(), most_unpacked(path)
    try:
        with _opened(path) as file:
            for block in iter(functools.partial(file.read, 1 << 20), b""):
                decoder.decode(block)
                left -= len(block)
                if left < 0:
                    return True  # too long; `lines` says so
        decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        return False
    return True


def _check_start(path: Path, raw: bytes) -> None:
    start = raw[:64].lstrip().lower()
    if start.startswith((b"<!doctype html", b"<html")):
        bad(path, 1, "this is an HTML page and not the data: delete it and load again.")
    if start.startswith(b"version https://git-lfs"):
        bad(path, 1, "this is a Git LFS pointer and not the data: fetch it with `git lfs pull`.")
    if raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        bad(path, 1, "this is UTF-16 (byte 0xff or 0xfe at column 1). Convert the file to UTF-8.")
