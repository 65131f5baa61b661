"""Files of pairs: CSV, JSON and Parquet, and what is wrong with them."""

from __future__ import annotations

import contextlib
import csv as standard_csv
import gzip
import io
import json
import os
import re
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any, cast

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as arrow_csv
import pyarrow.parquet as arrow_parquet

from cptk import checks

BLOCK = 1 << 24
"""Bytes of a CSV file that are read at once; no row is longer, or the file is read in one piece."""
LARGEST_BLOCK = (1 << 31) - 1
PART = 1 << 20
"""Characters of a JSON file that are read at once."""
LARGEST_OBJECT = 1 << 28
"""Characters of the longest object that is waited for before a file counts as broken."""
BETWEEN = re.compile(r"[ \t\r\n]*")
BETWEEN_ITEMS = re.compile(r"[ \t\r\n,]*")


def csv(
    path: object,
    delimiter: str | None,
    quoted: bool,
    texts: Sequence[str],
    header: Sequence[str] | None = None,
    gaps: Sequence[str] = (),
) -> pa.Table:
    """A CSV file as a table.

    Args:
        path: The file.
        delimiter: What stands between fields; None goes by the name's ending.
        quoted: Whether a double quote at the beginning of a field opens it.
        texts: Columns that are read as texts, whatever they look like.
        header: Names of the columns, if the first line does not have them.
        gaps: Columns of texts where an empty field is none.
    """
    file = existing(path)
    if delimiter is None:
        delimiter = "\t" if Path(file.name.removesuffix(".gz")).suffix in (".tsv", ".tab") else ","
    names = [] if header is None else checks.texts(header, "header")
    if not isinstance(delimiter, str) or len(delimiter) != 1:
        raise ValueError(
            f"`delimiter` should be one character. Received: {checks.shown(delimiter)}."
        )
    with naming(file, "as CSV"):
        parse = arrow_csv.ParseOptions(
            delimiter=delimiter, quote_char='"' if quoted else False, newlines_in_values=quoted
        )
        if quoted:
            _check_quotes(file, delimiter)
        try:
            table = _csv(file, parse, texts, names, BLOCK)
        except pa.ArrowInvalid as error:
            if "straddling" not in str(error):
                raise
            table = _csv(file, parse, texts, names, LARGEST_BLOCK)
    for index, name in enumerate(table.column_names):
        if name in gaps:
            empty = pc.equal(table[index], "")
            table = table.set_column(index, name, pc.if_else(empty, None, table[index]))
    return table


def _check_quotes(file: Path, delimiter: str) -> None:
    """Refuse a quote that is never closed: Arrow takes the rest of the file for one text."""
    with opened(file) as stream:
        quotes = sum(part.count(b'"') for part in iter(lambda: stream.read(1 << 20), b""))
    if quotes % 2 == 0:
        return
    # One too many may also stand in the middle of a field, as a letter: the slow reader knows.
    with opened(file) as stream:
        lines = io.TextIOWrapper(stream, "utf-8", errors="replace", newline="")
        try:
            for _ in standard_csv.reader(lines, delimiter=delimiter, strict=True):
                pass
        except standard_csv.Error as error:
            if "end of data" in str(error) or "field limit" in str(error):
                raise ValueError(
                    "a double quote is never closed; with quoted=False it is a letter"
                ) from None


def _csv(
    file: Path,
    parse: arrow_csv.ParseOptions,
    texts: Sequence[str],
    names: list[str],
    block: int,
) -> pa.Table:
    return arrow_csv.read_csv(
        file,
        read_options=arrow_csv.ReadOptions(block_size=block, column_names=names or None),
        parse_options=parse,
        convert_options=arrow_csv.ConvertOptions(column_types=dict.fromkeys(texts, pa.string())),
    )


def jsonl(path: object) -> list[object]:
    """The values of a file of one JSON value a line."""
    file = existing(path)
    rows: list[object] = []
    with naming(file, "as JSON lines"), _lines(file) as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                fault = "nested too deeply" if isinstance(error, RecursionError) else error
                raise ValueError(f"line {number}: {fault}") from None
            if not isinstance(row, dict | list):
                raise ValueError(f"line {number} is neither an object nor a list of two texts")
            rows.append(tuple(row) if isinstance(row, list) else row)
        if not rows:
            raise ValueError("it has no lines")
    return rows


def objects(file: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """The objects of a file of JSON lines, or of one JSON list, one at a time.

    Args:
        file: The file, of any size: what has been read is forgotten.

    Yields:
        `(line, object)`, the line where it begins, from 1.

    Raises:
        ValueError: Something else than an object, or a file that is broken off. It names the line.
    """
    scan = json.JSONDecoder().raw_decode
    text, at, line, state = "", 0, 1, "start"
    with opened(file) as raw:
        stream = io.TextIOWrapper(raw, "utf-8-sig", newline="")
        while True:
            space = (BETWEEN_ITEMS if state == "list" else BETWEEN).match(text, at)
            start = space.end() if space else at
            line += text.count("\n", at, start)
            at = start
            if at == len(text):
                text, at = _part(stream, PART, line), 0
                if not text:
                    break
            elif state == "start":
                state, at = ("list", at + 1) if text[at] == "[" else ("lines", at)
            elif state == "list" and text[at] == "]":
                state, at = "end", at + 1
            elif state == "end":
                raise ValueError(f"line {line}: there is more after the end of the list")
            else:
                try:
                    value, end = scan(text, at)
                except (ValueError, RecursionError) as error:
                    size = len(text) - at
                    more = ""
                    if _may_be_broken_off(error, len(text)) and size < LARGEST_OBJECT:
                        more = _part(stream, max(PART, size), line)
                    if not more:
                        raise ValueError(_json_fault(error, text, at, line)) from None
                    text, at = text[at:] + more, 0
                    continue
                if not isinstance(value, dict):
                    raise ValueError(f"line {line} holds no object: {checks.shown(value, 40)}")
                yield line, value
                line += text.count("\n", at, end)
                at = end
    if state == "list":
        raise ValueError(f"line {line}: the list is never closed; the file may be broken off")


def _part(stream: io.TextIOWrapper, size: int, line: int) -> str:
    try:
        return stream.read(size)
    except UnicodeDecodeError as error:
        raise ValueError(f"line {line}, or one below it, is not UTF-8: {error.reason}") from None


def _may_be_broken_off(error: Exception, size: int) -> bool:
    """Whether more text may mend what is no JSON yet: strings and words that end with the text."""
    if not isinstance(error, json.JSONDecodeError):
        return False
    return error.msg.startswith("Unterminated") or error.pos > size - 16


def _json_fault(error: Exception, text: str, at: int, line: int) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"line {line + text.count(chr(10), at, error.pos)}: this is no JSON, {error.msg}"
    fault = "nested too deeply" if isinstance(error, RecursionError) else error
    return f"line {line}: {fault}"


def lines(file: Path) -> Iterator[tuple[int, str]]:
    """The lines of a file with something in them, and their numbers from 1, one at a time."""
    with _lines(file) as raw:
        for number, line in enumerate(raw, start=1):
            try:
                text = line.decode().rstrip("\r\n")
            except UnicodeDecodeError as error:
                raise ValueError(f"line {number} is not UTF-8: {error.reason}") from None
            if text.strip():
                yield number, text


@contextlib.contextmanager
def _lines(file: Path) -> Iterator[Iterator[bytes]]:
    with opened(file) as stream:
        first = stream.read(3)
        if first != b"\xef\xbb\xbf":  # the mark that some editors begin UTF-8 with
            stream.seek(0)
        yield iter(stream)


def opened(file: Path) -> IO[bytes]:
    """The bytes of a file, plain or `.gz`."""
    return cast(IO[bytes], gzip.open(file) if file.suffix == ".gz" else file.open("rb"))


def parquet(path: object) -> pa.Table:
    """A Parquet file as a table."""
    file = existing(path)
    with naming(file, "as Parquet"):
        return arrow_parquet.ParquetFile(file, memory_map=True).read()


def existing(path: object) -> Path:
    """A file that is there, or an error that says what is.

    Raises:
        FileNotFoundError: Nothing of that name.
        ValueError: A folder.
    """
    file = checks.path(path, "path")
    if file.is_dir():
        raise ValueError(f"`path` should be a file of pairs. {str(file)!r} is a folder.")
    if not file.exists():
        raise FileNotFoundError(f"There is no file {str(file)!r}. Check `path`.")
    return file


@contextlib.contextmanager
def naming(file: Path, form: str) -> Iterator[None]:
    """What goes wrong in the block, as one error that names the file."""
    try:
        yield
    except (pa.ArrowException, OSError, EOFError, ValueError, zlib.error) as error:
        fault = " ".join(str(error)[:1000].split()) or type(error).__name__
        fault = "".join(x if x.isprintable() else repr(x)[1:-1] for x in fault[:200]).rstrip(".")
        raise ValueError(
            f"{checks.shown(os.fspath(file))} cannot be read {form}: {fault}. Mend it, or write or "
            "download it again."
        ) from None
