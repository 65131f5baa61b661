"""Pages of web archives and of folders as documents: their main text, one by one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import IO, Any, Final

from cptk import checks, optional
from cptk.mining import plain_text
from cptk.mining.documents import Document, LeftOut, taken
from cptk.mining.file_rules import Source, check_text, decoded, document
from cptk.mining.folders import read_folder
from cptk.mining.streams import DAMAGED, begins_with, unpacked
from cptk.types import Path as StrPath

LARGEST_PAGE: Final = 10_000_000
_PAGES: Final = (".html", ".htm", ".xhtml")
_ARCHIVE_NEEDS: Final = ("warcio.archiveiterator", "Reading web archives", "warcio", "web")


def read_web(
    path: StrPath, *, largest: int = LARGEST_PAGE, counts: Counter[str] | None = None
) -> Iterator[Document]:
    r"""The pages of a web archive, of a folder or of one HTML file, as main text.

    Of a WARC, packed or not, pages that were answered with 200 are read, and the texts of a WET as
    they are. Main text is found by trafilatura, with headings as `# ` lines. A page is left out,
    and counted, that is larger than `largest` bytes when unpacked ("too large"), was answered with
    an error or is no HTML ("no page"), has none ("no main text"), or falls by the rules of
    `read_folder` ("binary", "empty", "wrong encoding", "not readable").

    Args:
        path: The archive, the folder, or the `.html` file.
        largest: Bytes of a page.
        counts: Is told how many pages were read ("files"), and by which rule others fell.

    Returns:
        An iterator of `Document`s. Those of an archive have their URL as `path`.

    Raises:
        FileNotFoundError: There is nothing.
        ValueError: It is neither; an archive that is cut short or holds no page at all.
        ImportError: trafilatura or warcio is not installed: `pip install "cptk[web]"`.

    Example:

    ```pycon
    >>> import pathlib
    >>> from cptk.mining import read_web
    >>> record = "WARC/1.0\r\nWARC-Type: conversion\r\nWARC-Target-URI: http://a.example/\r\n"
    >>> record += "Content-Length: 10\r\n\r\nPlain text\r\n\r\n"
    >>> _ = pathlib.Path("crawl.wet").write_text(record, newline="")
    >>> [(each.path, each.text) for each in read_web("crawl.wet")]
    [('http://a.example/', 'Plain text')]

    ```
    """
    place = checks.path(path, "path")
    largest = checks.integer("largest", largest, 1)
    counts = Counter() if counts is None else counts
    if not place.exists():
        raise FileNotFoundError(f"There is nothing at {str(place)!r}.")
    if place.is_dir():
        return read_folder(place, _PAGES, largest=largest, plain=True, counts=counts)
    if place.name.lower().endswith(_PAGES):
        return _page(place, largest, counts)
    if not begins_with(place, b"WARC/"):
        raise ValueError(
            f"`path` should be a WARC or WET file, an HTML file, or a folder of them. "
            f"{str(place)!r} begins with something else, or is damaged."
        )
    optional.load(*_ARCHIVE_NEEDS)
    return _archive(place, largest, counts)


def _page(file: Path, largest: int, counts: Counter[str]) -> Iterator[Document]:
    with file.open("rb") as opened:
        data = opened.read(largest + 1)
    source = Source(file.name, "", largest, True)
    yield from taken([partial(document, data, file.name, source)], counts)


class _Whole:
    """A packed stream whose early end is an error: warcio takes it for the end of the archive."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._place = 0

    def tell(self) -> int:
        return self._place

    def read(self, size: int) -> bytes:
        try:
            data = self._stream.read(size)
        except EOFError as error:
            raise OSError(str(error)) from None
        self._place += len(data)
        return data


def _archive(place: Path, largest: int, counts: Counter[str]) -> Iterator[Document]:
    warcio: Any = optional.load(*_ARCHIVE_NEEDS)
    failed: Any = optional.load("warcio.exceptions", *_ARCHIVE_NEEDS[1:]).ArchiveLoadFailed
    any_page = False
    try:
        with place.open("rb") as file:
            for record in warcio.ArchiveIterator(_Whole(unpacked(file))):
                if record.rec_type not in ("response", "resource", "conversion"):
                    continue
                any_page = True
                try:
                    text, title = _content(record, largest)
                except LeftOut as rule:
                    counts[str(rule)] += 1
                    _check_whole(record)
                    continue
                _check_whole(record)
                counts["files"] += 1
                url = record.rec_headers.get_header("WARC-Target-URI") or ""
                yield Document(_one_line(url), text, place.name, "", title)
    except (*DAMAGED, failed) as error:
        raise ValueError(
            f"The file {str(place)!r} is damaged or cut short ({checks.shown(str(error))})."
        ) from None
    if not any_page:
        raise ValueError(f"`path` holds no page. Received: {str(place)!r}.")


def _content(record: Any, largest: int) -> tuple[str, str]:
    """(text, title) of a record, or the rule by which it falls."""
    headers = record.http_headers if record.rec_type == "response" else record.rec_headers
    kind = (headers.get_header("Content-Type") or "") if headers is not None else ""
    is_text = record.rec_type == "conversion"
    answered = record.rec_type != "response" or (
        headers is not None and headers.get_statuscode() == "200"
    )
    if not is_text and not (answered and "html" in kind.lower()):
        raise LeftOut("no page")
    stream, data = record.content_stream(), bytearray()
    try:
        while len(data) <= largest and (piece := stream.read(min(1 << 16, largest + 1))):
            data += piece
    except DAMAGED:  # its own packing, gzip or Brotli: the archive's goes on
        raise LeftOut("not readable") from None
    if len(data) > largest:
        raise LeftOut("too large")
    text, title = (decoded(bytes(data)), "") if is_text else plain_text.of_html(bytes(data))
    check_text(text)
    return text, title


def _check_whole(record: Any) -> None:
    """Read a record to its end, which the archive may lack."""
    while record.raw_stream.read(1 << 16):
        pass
    if getattr(record.raw_stream, "limit", 0) > 0:
        raise OSError("the last record ends early")


def _one_line(url: str) -> str:
    return "".join(each for each in url if each.isprintable())
