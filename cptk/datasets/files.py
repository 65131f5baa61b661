"""Reading files line by line, with errors that name file and line."""

from __future__ import annotations

import bz2
import gzip
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, NoReturn


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
        ValueError: if the file is not text in that encoding, is broken off, or is a web page or a
            Git LFS pointer that stands in its place.
    """
    encoding = "latin-1" if latin1 and not _is_utf8(path) else "utf-8"
    number = 0
    try:
        with _opened(path) as file:
            for number, raw in enumerate(file, 1):
                if number == 1:
                    raw = raw.removeprefix(b"\xef\xbb\xbf")
                    _check_start(path, raw)
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


def table(
    path: Path, *, latin1: bool = False, header: bool = True
) -> tuple[list[str], Iterator[tuple[int, list[str]]]]:
    """Header and rows of a tab-separated file without quoting; blank lines are passed over."""
    rows = (
        (number, [cell.strip(" ") for cell in line.split("\t")])
        for number, line in lines(path, latin1=latin1)
        if line.strip()
    )
    if not header:
        return [], rows
    _, names = next(rows, (0, []))
    if not names:
        bad(path, 1, "the file is empty.")
    return names, rows


def column(path: Path, header: Sequence[str], *names: str) -> int:
    """Index of the first of `names` that stands in `header`, case aside."""
    lowered = [cell.lower() for cell in header]
    for name in names:
        if name.lower() in lowered:
            return lowered.index(name.lower())
    bad(path, 1, f"expected a column {' or '.join(map(repr, names))}. Received: {list(header)}.")


def number_in(path: Path, line: int, cell: str, low: float, high: float) -> float:
    """A score in its range."""
    try:
        value = float(cell)
    except ValueError:
        bad(path, line, f"expected a score from {low:g} to {high:g}. Received: {cell!r}.")
    if not low <= value <= high:  # NaN is not, either
        bad(path, line, f"expected a score from {low:g} to {high:g}. Received: {cell}.")
    return value


def _opened(path: Path) -> IO[bytes]:
    if path.suffix == ".gz":
        return gzip.open(path, "rb")  # type: ignore[return-value]
    if path.suffix == ".bz2":
        return bz2.open(path, "rb")
    return path.open("rb")


def _is_utf8(path: Path) -> bool:
    try:
        path.read_bytes().decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _check_start(path: Path, raw: bytes) -> None:
    start = raw[:64].lstrip().lower()
    if start.startswith((b"<!doctype html", b"<html")):
        bad(path, 1, "this is an HTML page and not the data: delete it and load again.")
    if start.startswith(b"version https://git-lfs"):
        bad(path, 1, "this is a Git LFS pointer and not the data: fetch it with `git lfs pull`.")
