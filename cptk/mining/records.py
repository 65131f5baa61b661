"""Records of JSON lines, CSV, TSV and Parquet files as documents, one by one."""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import IO, Final

import pyarrow as pa
import pyarrow.parquet as pq

from cptk import checks
from cptk.mining import file_rules
from cptk.mining.code import LARGEST_FILE
from cptk.mining.documents import Document, LeftOut, taken
from cptk.mining.streams import DAMAGED, unpacked
from cptk.types import Path as StrPath

_KINDS: Final = {
    ".jsonl": "json", ".ndjson": "json", ".json": "json", ".csv": ",", ".tsv": "\t",
    ".parquet": "parquet",
}  # fmt: skip
_PACKED: Final = (".gz", ".zst", ".bz2", ".xz")
ROWS_AT_ONCE = 256


def kind_of(path: Path) -> str | None:
    """How the records of a file are written, by its name; None where it holds none."""
    name = path.name.lower()
    for ending in _PACKED:
        name = name.removesuffix(ending)
    return _KINDS.get(Path(name).suffix)


def read_records(
    path: StrPath,
    *,
    text: str = "text",
    title: str | None = None,
    license: str | None = None,  # noqa: A002 (as `Document` has it)
    largest: int = LARGEST_FILE,
    counts: Counter[str] | None = None,
) -> Iterator[Document]:
    r"""The records of a file, one after another: `.jsonl`, `.csv`, `.tsv`, `.parquet`.

    Those but Parquet may be packed: `.gz`, `.zst`, `.bz2`, `.xz`. No more of a line is held than
    `largest` bytes, however long it is. A record is left out, and counted, that is larger than that
    ("too large"), is not in UTF-8 ("wrong encoding"), is no object, or has another number of fields
    than the header ("not readable"), whose text is missing or no string ("no text"), or is blank
    ("empty"), or holds a null character ("binary") or half of a surrogate pair ("lone surrogate").

    Args:
        path: The file.
        text: Name of the field or column that holds the text.
        title: Of the one that holds a title, if there is one.
        license: Of the one that holds a licence, if there is one.
        largest: Bytes of a record.
        counts: Is told how many records were read ("records"), and by which rule others fell.

    Returns:
        An iterator of `Document`s, with the file's name and the record's number from 1,
        `"faq.jsonl:3"`, as path.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: A name that ends in none of these; a column that is not there, whose error names
            those that are; a file that is cut short or damaged.

    Example:

    ```pycon
    >>> import pathlib
    >>> from cptk.mining import read_records
    >>> lines = '{"body": "One.", "head": "First"}\n{"body": "Two."}\n'
    >>> _ = pathlib.Path("notes.jsonl").write_text(lines)
    >>> [(each.path, each.title) for each in read_records("notes.jsonl", text="body", title="head")]
    [('notes.jsonl:1', 'First'), ('notes.jsonl:2', '')]

    ```
    """
    file = checks.path(path, "path")
    if not file.exists():
        raise FileNotFoundError(f"There is no file {str(file)!r}.")
    kind = kind_of(file)
    if kind is None or not file.is_file():
        raise ValueError(
            f"`path` should be a file that ends in {', '.join(_KINDS)}. Received: {str(file)!r}."
        )
    wanted = {"text": text, "title": title, "license": license}
    for name, value in wanted.items():
        if value is not None and (not isinstance(value, str) or not value):
            raise TypeError(f"`{name}` should name a column. Received: {checks.shown(value)}.")
    names = {name: value for name, value in wanted.items() if value is not None}
    largest = checks.integer("largest", largest, 1)
    return _documents(file, kind, names, largest, Counter() if counts is None else counts)


def _documents(
    file: Path, kind: str, names: Mapping[str, str], largest: int, counts: Counter[str]
) -> Iterator[Document]:
    try:
        records = enumerate(_records(file, kind, names, largest), 1)
        candidates = (partial(_document, file, *each, names, largest) for each in records)
        yield from taken(candidates, counts, "records")
    except (*DAMAGED, pa.ArrowException) as error:
        raise ValueError(
            f"The file {str(file)!r} is damaged or cut short ({checks.shown(str(error))})."
        ) from None


def _document(
    file: Path,
    number: int,
    record: Mapping[str, object] | LeftOut,
    names: Mapping[str, str],
    largest: int,
) -> Document:
    if isinstance(record, LeftOut):
        raise record
    found = dict.fromkeys(("text", "title", "license"), "")
    for name, column in names.items():
        value = record.get(column)
        if isinstance(value, str):
            found[name] = value.replace("\r\n", "\n").replace("\r", "\n")
        elif name == "text":
            raise LeftOut("no text")
    if len(found["text"]) > largest:
        raise LeftOut("too large")
    file_rules.check_text(found["text"])
    for name in ("title", "license"):
        found[name] = found[name] if found[name].isprintable() else ""
    return Document(f"{file.name}:{number}", source=file.name, **found)


def _records(
    file: Path, kind: str, names: Mapping[str, str], largest: int
) -> Iterator[Mapping[str, object] | LeftOut]:
    """Each record by its names, or the rule by which it falls."""
    if kind == "parquet":
        with pq.ParquetFile(file) as table:
            _check_columns(file, names, table.schema_arrow.names)
            for batch in table.iter_batches(ROWS_AT_ONCE, columns=list(names.values())):
                yield from batch.to_pylist()
        return
    with file.open("rb") as opened:
        lines = _lines(unpacked(opened), largest)
        yield from (
            _json(file, lines, names)
            if kind == "json"
            else _table(file, lines, kind, names, largest)
        )


def _json(
    file: Path, lines: Iterator[str | LeftOut], names: Mapping[str, str]
) -> Iterator[Mapping[str, object] | LeftOut]:
    first = True
    for line in lines:
        if isinstance(line, LeftOut):
            yield line
            continue
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            yield LeftOut("not readable")
            continue
        if isinstance(record, dict) and first:  # later ones may lack what others have
            _check_columns(file, {"text": names["text"]}, [*record])
            first = False
        yield record if isinstance(record, dict) else LeftOut("not readable")


def _table(
    file: Path,
    lines: Iterator[str | LeftOut],
    delimiter: str,
    names: Mapping[str, str],
    largest: int,
) -> Iterator[Mapping[str, object] | LeftOut]:
    left_out: list[LeftOut] = []

    def good() -> Iterator[str]:
        for line in lines:
            if isinstance(line, LeftOut):
                left_out.append(line)
            else:
                yield line

    rows = csv.reader(good(), delimiter=delimiter)
    header = _row(rows, largest) or []
    if isinstance(header, LeftOut):
        raise ValueError(f"The first line of {str(file)!r}, the names of its columns, never ends.")
    _check_columns(file, names, header)
    while (row := _row(rows, largest)) is not None:
        yield from left_out
        left_out.clear()
        if isinstance(row, LeftOut):
            yield row
        elif len(row) == len(header):
            yield dict(zip(header, row, strict=True))
        elif row:
            yield LeftOut("not readable")
    yield from left_out


def _row(rows: Iterator[list[str]], largest: int) -> list[str] | LeftOut | None:
    """The next row, of whose fields, which may never be closed, no more is held than is taken."""
    usual = csv.field_size_limit(largest)
    try:
        return next(rows, None)
    except csv.Error:
        return LeftOut("too large")
    finally:
        csv.field_size_limit(usual)


def _check_columns(file: Path, names: Mapping[str, str], columns: list[str]) -> None:
    missing = sorted({*names.values()} - {*columns})
    if missing:
        raise ValueError(
            f"{str(file)!r} has no column {checks.shown(missing[0])}. Its columns: "
            f"{checks.shown(columns)}. Name the one that holds the texts: text=…."
        )


def _lines(stream: IO[bytes], largest: int) -> Iterator[str | LeftOut]:
    """Each line, of which no more is held than is taken."""
    first = True
    while line := stream.readline(largest + 1):
        if len(line) > largest and not line.endswith(b"\n"):
            while line and not line.endswith(b"\n"):
                line = stream.readline(1 << 16)
            yield LeftOut("too large")
            continue
        try:
            text = line.decode("utf-8-sig" if first else "utf-8")
        except UnicodeDecodeError:
            yield LeftOut("wrong encoding")
        else:
            yield text
        first = False
