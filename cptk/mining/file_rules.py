"""What a file's bytes are as text, or the rule by which they are left out: one place for all."""

from __future__ import annotations

import gzip
import io
import tokenize
import zlib
from collections.abc import Iterable, Mapping
from pathlib import PurePosixPath
from typing import NamedTuple

from cptk import checks
from cptk.mining import licenses, plain_text
from cptk.mining.code import LARGEST_FILE, is_generated
from cptk.mining.documents import Document, LeftOut

LONGEST_LINE = 5_000
MEAN_LINE = 300
"""Letters of a line: files above either were written by no one, as minified scripts are. Ours."""


class Source(NamedTuple):
    """What documents are read from, and how."""

    name: str
    license: str = ""
    largest: int = LARGEST_FILE
    plain: bool = False


def document(data: bytes, path: str, source: Source) -> Document:
    """The document that a file's bytes are.

    Args:
        data: All bytes of the file.
        path: Its path below its source, whose ending says what it is.
        source: What it comes from, and whether prose is made plain.

    Raises:
        LeftOut: By which rule it is none.
    """
    if len(data) > source.largest:
        raise LeftOut("too large")
    try:
        path.encode()
    except UnicodeEncodeError:  # a name in another encoding, which no column of pairs takes
        raise LeftOut("wrong encoding") from None
    if source.plain and path.lower().endswith(".gz"):
        data, path = _unzipped(data, source.largest), path[:-3]
    form = plain_text.format_of(path) if source.plain else None
    if form == "html":  # it declares its encoding itself, and may well stand on one line
        text, title = plain_text.of_html(data)
        check_text(text)
        return Document(path, text, source.name, source.license, title)
    text, title = decoded(data, path), ""
    check_text(text)
    if form == "man" and not plain_text.is_roff(text):  # `CHANGES-1.2`
        form = None
    if form is None:
        _check_lines(text)
    if form != "man" and is_generated(text):  # pod2man says so of pages that people wrote
        raise LeftOut("generated")
    license_ = licenses.of_file(text) or source.license
    if form is not None:
        text, title = plain_text.of_text(text, form)
        check_text(text)
    return Document(path, text, source.name, license_, title)


def decoded(data: bytes, path: str = "") -> str:
    r"""Bytes as text with `"\n"` at the ends of lines, or `LeftOut`.

    They are UTF-8, or for a Python file what it declares by PEP 263.
    """
    if b"\0" in data:
        raise LeftOut("binary")
    encoding = "utf-8-sig"
    try:
        if PurePosixPath(path).suffix == ".py":
            encoding, _ = tokenize.detect_encoding(io.BytesIO(data).readline)
        text = data.decode(encoding)
    except (SyntaxError, ValueError, LookupError):
        raise LeftOut("wrong encoding") from None
    return text.replace("\r\n", "\n").replace("\r", "\n")


def check_text(text: str) -> None:
    """Leave out what no tokenizer takes: nothing, null characters, halves of surrogate pairs."""
    if not text.strip():
        raise LeftOut("empty")
    if "\0" in text:
        raise LeftOut("binary")
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            raise LeftOut("lone surrogate") from None


def _check_lines(text: str) -> None:
    lines = text.split("\n")
    if max(map(len, lines)) > LONGEST_LINE or len(text) > MEAN_LINE * len(lines):
        raise LeftOut("minified")


def _unzipped(data: bytes, largest: int) -> bytes:
    """The content of a gzip file, of which no more is ever unpacked than is taken."""
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(data)) as stream:
            content = stream.read(largest + 1)
    except (OSError, EOFError, zlib.error):
        raise LeftOut("not readable") from None
    if len(content) > largest:
        raise LeftOut("too large")
    return content


def strings(values: Iterable[str], name: str) -> list[str]:
    """Several strings, none of them empty, or `TypeError`."""
    if isinstance(values, Iterable) and not isinstance(values, str | bytes | Mapping):
        found = list(values)
        if all(isinstance(each, str) and each for each in found):
            return found
    raise TypeError(f"`{name}` should be several strings. Received: {checks.shown(values)}.")


class Names:
    """Which files are read, by their paths.

    Args:
        endings: Endings of files that are read; None for all.
        skipped_folders: Names of folders that are not entered.
        plain: Whether `.gz` files are read too, by what their names end in before it.
    """

    def __init__(
        self, endings: Iterable[str] | None, skipped_folders: Iterable[str], plain: bool
    ) -> None:
        self.endings = None if endings is None else tuple(strings(endings, "endings"))
        self.skipped = frozenset(strings(skipped_folders, "skipped_folders"))
        self._plain = plain

    def enters(self, name: str) -> bool:
        """Whether a file or folder of this name is looked at: no hidden one, no skipped one."""
        return not name.startswith(".") and name not in self.skipped

    def takes(self, path: str) -> bool:
        """Whether a file is read, by its ending."""
        if self.endings is None:
            return True
        path = path.lower()
        return path.endswith(self.endings) or (
            self._plain and path.removesuffix(".gz").endswith(self.endings)
        )

    def takes_below(self, path: str) -> bool:
        """Whether a file is read, by all parts of its path."""
        return all(map(self.enters, path.split("/"))) and self.takes(path)

    def wanted(self) -> str:
        """For an error: which endings were looked for."""
        return "" if self.endings is None else f" that ends in {', '.join(self.endings)}"
