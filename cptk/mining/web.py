"""Pages of web archives as documents: WARC, and WET, which holds their text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cptk import checks, optional
from cptk.mining import file_rules, plain_text
from cptk.mining.documents import Document, LeftOut
from cptk.mining.streams import DAMAGED
from cptk.types import Path as StrPath

LARGEST_PAGE = 5_000_000
"""Bytes. Ours."""
_HTML = ("text/html", "application/xhtml+xml")


def is_web_archive(path: Path) -> bool:
    """Whether a file is a web archive, by its name."""
    return path.name.lower().removesuffix(".gz").endswith((".warc", ".wet"))


def read_web(
    path: StrPath, *, largest: int = LARGEST_PAGE, counts: Counter[str] | None = None
) -> Iterator[Document]:
    r"""The pages of a web archive, one after another: `.warc`, `.wet`, packed by gzip or not.

    Of a page (a response in HTML) it gives the main text, without navigation, with headings as `# `
    lines, by trafilatura; of a WET file its texts as they are. What is something else is counted as
    "no page"; a page falls that is larger than `largest` ("too large"), holds no main text ("no
    main text"), or is no text ("binary", "empty", "lone surrogate", "wrong encoding").

    Args:
        path: The file.
        largest: Bytes of a page.
        counts: Is told how many pages were read ("pages"), and by which rule others fell.

    Returns:
        An iterator of `Document`s, with the page's address as path and the file's name as source.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is no web archive, or is damaged or cut short.
        ImportError: warcio or trafilatura is not installed: `pip install "cptk[web]"`.

    Example:

    ```pycon
    >>> import pathlib
    >>> from cptk.mining import read_web
    >>> text = "The page says this.\n"
    >>> head = "WARC/1.0\r\nWARC-Type: conversion\r\nWARC-Target-URI: https://example.org/a\r\n"
    >>> record = f"{head}Content-Length: {len(text)}\r\n\r\n{text}\r\n\r\n"
    >>> _ = pathlib.Path("pages.wet").write_text(record, newline="")
    >>> list(read_web("pages.wet"))[0][:2]
    ('https://example.org/a', 'The page says this.\n')

    ```
    """
    file = checks.path(path, "path")
    if not file.exists():
        raise FileNotFoundError(f"There is no file {str(file)!r}.")
    if not file.is_file() or not is_web_archive(file):
        raise ValueError(
            f"`path` should be a file that ends in .warc, .wet or the same with .gz. Received: "
            f"{str(file)!r}."
        )
    largest = checks.integer("largest", largest, 1)
    records = _warcio("archiveiterator").ArchiveIterator
    return _pages(file, records, largest, Counter() if counts is None else counts)


def _warcio(module: str) -> Any:
    return optional.load(f"warcio.{module}", "Reading web archives", "warcio", "web")


def _pages(file: Path, records: Any, largest: int, counts: Counter[str]) -> Iterator[Document]:
    any_record = False
    try:
        with file.open("rb") as stream:
            for record in records(stream):
                any_record = True
                try:
                    found = _page(record, file.name, largest)
                except LeftOut as rule:
                    counts[str(rule)] += 1
                else:
                    counts["pages"] += 1
                    yield found
    except (_warcio("exceptions").ArchiveLoadFailed, *DAMAGED) as error:
        raise ValueError(
            f"The web archive {str(file)!r} is damaged or cut short ({checks.shown(str(error))})."
        ) from None
    if not any_record:
        raise ValueError(f"`path` holds no record of a web archive. Received: {str(file)!r}.")


def _page(record: Any, source: str, largest: int) -> Document:
    """A record's text; `record` is warcio's, which is untyped."""
    address = record.rec_headers.get_header("WARC-Target-URI") or ""
    if record.rec_type not in ("response", "conversion", "resource"):
        raise LeftOut("no page")
    if record.rec_type == "response":
        headers = record.http_headers
        kind = headers and headers.get_header("Content-Type", "").split(";")[0].strip().lower()
        if not headers or headers.get_statuscode() != "200" or kind not in _HTML:
            raise LeftOut("no page")
    data = record.content_stream().read(largest + 1)
    if len(data) > largest:
        raise LeftOut("too large")
    if getattr(record.raw_stream, "limit", 0) > 0:  # what the header says is still to come
        raise EOFError("it ends within a record")
    if record.rec_type == "response":
        text, title = plain_text.of_html(data)
    else:
        text, title = file_rules.decoded(data), ""
    file_rules.check_text(text)
    return Document(address, text, source, title=title)
