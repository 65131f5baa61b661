"""Files of pairs: CSV, JSONL and Parquet, and what is wrong with them."""

from __future__ import annotations

import contextlib
import csv as standard_csv
import gzip
import io
import json
import os
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, cast

import pyarrow as pa
import pyarrow.csv as arrow_csv
import pyarrow.parquet as arrow_parquet

from cptk import checks

BLOCK = 1 << 24
"""Bytes of a CSV file that are read at once; no row is longer, or the file is read in one piece."""
LARGEST_BLOCK = (1 << 31) - 1


def csv(path: object, delimiter: str | None, quoted: bool, texts: Sequence[str]) -> pa.Table:
    """A CSV file as a table.

    Args:
        path: The file.
        delimiter: What stands between fields; None goes by the name's ending.
        quoted: Whether a double quote at the beginning of a field opens it.
        texts: Columns that are read as texts, whatever they look like.
    """
    file = existing(path)
    if delimiter is None:
        delimiter = "\t" if Path(file.name.removesuffix(".gz")).suffix in (".tsv", ".tab") else ","
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
            return _csv(file, parse, texts, BLOCK)
        except pa.ArrowInvalid as error:
            if "straddling" not in str(error):
                raise
        return _csv(file, parse, texts, LARGEST_BLOCK)


def _check_quotes(file: Path, delimiter: str) -> None:
    """Refuse a quote that is never closed: Arrow takes the rest of the file for one text."""
    with _opened(file) as stream:
        quotes = sum(part.count(b'"') for part in iter(lambda: stream.read(1 << 20), b""))
    if quotes % 2 == 0:
        return
    # One too many may also stand in the middle of a field, as a letter: the slow reader knows.
    with _opened(file) as stream:
        lines = io.TextIOWrapper(stream, "utf-8", errors="replace", newline="")
        try:
            for _ in standard_csv.reader(lines, delimiter=delimiter, strict=True):
                pass
        except standard_csv.Error as error:
            if "end of data" in str(error) or "field limit" in str(error):
                raise ValueError(
                    "a double quote is never closed; with quoted=False it is a letter"
                ) from None


def _csv(file: Path, parse: arrow_csv.ParseOptions, texts: Sequence[str], block: int) -> pa.Table:
    return arrow_csv.read_csv(
        file,
        read_options=arrow_csv.ReadOptions(block_size=block),
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


@contextlib.contextmanager
def _lines(file: Path) -> Iterator[Iterator[bytes]]:
    with _opened(file) as stream:
        first = stream.read(3)
        if first != b"\xef\xbb\xbf":  # the mark that some editors begin UTF-8 with
            stream.seek(0)
        yield iter(stream)


def _opened(file: Path) -> IO[bytes]:
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
        fault = checks.shown(str(error) or type(error).__name__, 200).strip("'\"")
        raise ValueError(
            f"{checks.shown(os.fspath(file))} cannot be read {form}: {fault}. Mend it, or write or "
            "download it again."
        ) from None
