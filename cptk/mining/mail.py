"""Messages of mailboxes as documents: what their writers wrote, one by one."""

from __future__ import annotations

import email
import email.policy
import os
import re
from collections import Counter
from collections.abc import Iterator
from email.message import EmailMessage
from functools import partial
from pathlib import Path
from typing import IO, Final

from cptk import checks
from cptk.mining.code import LARGEST_FILE
from cptk.mining.documents import Document, LeftOut, taken
from cptk.mining.file_rules import check_text
from cptk.mining.streams import DAMAGED, begins_with, unpacked
from cptk.types import Path as StrPath

_QUOTE: Final = re.compile(r"[ \t]*[>|]")
_SAYS: Final = re.compile(r".{0,200}\b(wrote|writes|schrieb|a écrit|escribió)\s*:\s*")
_OPENS: Final = re.compile(r"(On|Am|Le|El) ")
_END: Final = re.compile(
    r"-- ?|-{3,} ?(Original Message|Forwarded message).*|_{20,}|-----BEGIN PGP SIGNATURE-----"
)


def read_mail(
    path: StrPath, *, largest: int = LARGEST_FILE, counts: Counter[str] | None = None
) -> Iterator[Document]:
    r"""The messages of an mbox file or a maildir, one after another, as plain text.

    Quotes, the line that says whose they are, and signatures are left out. A message is left out,
    and counted, that is larger than `largest` bytes ("too large"), has no plain text ("no plain
    text") or nothing but quotes ("empty"), whose text is not in the encoding it declares ("wrong
    encoding"), holds null characters ("binary"), or cannot be read ("not readable").

    Args:
        path: An mbox file, which may be packed (`.gz`, `.bz2`, `.xz`, `.zst`), or a maildir.
        largest: Bytes of a message. No more is held.
        counts: Is told how many messages were read ("messages"), and by which rule others fell.

    Returns:
        An iterator of `Document`s: the message's id, or its number from 1, as `path`; its subject
        as `title`.

    Raises:
        FileNotFoundError: There is nothing.
        ValueError: It is neither, or is cut short.

    Example:

    ```pycon
    >>> import pathlib
    >>> from cptk.mining import read_mail
    >>> text = "From a@b.example Mon Jan  1 00:00:00 2024\nSubject: Re: Bread\n\n"
    >>> text += "Ann wrote:\n> How long?\n\nHalf an hour.\n-- \nBob\n"
    >>> _ = pathlib.Path("list.mbox").write_text(text)
    >>> [(each.title, each.text) for each in read_mail("list.mbox")]
    [('Bread', 'Half an hour.\n')]

    ```
    """
    place = checks.path(path, "path")
    if not place.exists():
        raise FileNotFoundError(f"There is nothing at {str(place)!r}.")
    largest = checks.integer("largest", largest, 1)
    if place.is_dir():
        if not (place / "cur").is_dir() or not (place / "new").is_dir():
            raise ValueError(
                "`path` should be an mbox file, or a maildir with the folders cur and new. "
                f"Received: {str(place)!r}."
            )
        messages = _of_maildir(place, largest)
    else:
        if not begins_with(place, b"From "):
            raise ValueError(
                "`path` should be an mbox file, which begins with 'From ', or a maildir. "
                f"Received: {str(place)!r}."
            )
        messages = _of_mbox(place, largest)
    return _documents(place, messages, Counter() if counts is None else counts)


def _documents(
    place: Path, messages: Iterator[bytes | LeftOut], counts: Counter[str]
) -> Iterator[Document]:
    try:
        numbered = enumerate(messages, 1)
        candidates = (partial(_document, each, str(n), place.name) for n, each in numbered)
        yield from taken(candidates, counts, "messages")
    except DAMAGED as error:
        raise ValueError(
            f"{str(place)!r} is damaged or cut short ({checks.shown(str(error))})."
        ) from None


def _of_maildir(place: Path, largest: int) -> Iterator[bytes | LeftOut]:
    for folder in ("cur", "new"):
        for name in sorted(os.listdir(place / folder)):
            file = place / folder / name
            if name.startswith(".") or not file.is_file():  # a pipe would never end
                continue
            try:
                with file.open("rb") as opened:
                    data = opened.read(largest + 1)
            except OSError:
                yield LeftOut("not readable")
            else:
                yield data if len(data) <= largest else LeftOut("too large")


def _of_mbox(place: Path, largest: int) -> Iterator[bytes | LeftOut]:
    """Each message, parted at lines that begin with "From " and follow a blank one."""
    with place.open("rb") as file:
        stream: IO[bytes] = unpacked(file)
        parts: list[bytes] = []
        size, blank, begins = 0, True, True
        while line := stream.readline(1 << 16):
            if begins and blank and line.startswith(b"From "):
                if size:
                    yield b"".join(parts) if size <= largest else LeftOut("too large")
                parts, size = [], 1
            elif size <= largest:
                size += len(line)
                parts.append(re.sub(rb"^>(>*From )", rb"\1", line) if begins else line)
            blank = begins and not line.strip()
            begins = line.endswith(b"\n")
        if size:
            yield b"".join(parts) if size <= largest else LeftOut("too large")


def _document(data: bytes | LeftOut, number: str, source: str) -> Document:
    """What a message's writer wrote."""
    if isinstance(data, LeftOut):
        raise data
    try:
        message = email.message_from_bytes(data, policy=email.policy.default)
        body = message.get_body(("plain",)) if isinstance(message, EmailMessage) else None
        if body is None:
            raise LeftOut("no plain text")
        content = body.get_content(errors="strict")
        subject, name = str(message.get("Subject", "")), str(message.get("Message-ID", ""))
    except (UnicodeError, LookupError):
        raise LeftOut("wrong encoding") from None
    except LeftOut:
        raise
    except Exception:  # the parser of headers has a dozen kinds for what strangers write in them
        raise LeftOut("not readable") from None
    text = _own(content.replace("\r\n", "\n").replace("\r", "\n"))
    check_text(text)
    subject = re.sub(r"^((re|fwd?|aw|wg)\s*:\s*)+", "", _printable(subject), flags=re.IGNORECASE)
    return Document(_printable(name).strip("<> ") or number, text, source, "", subject)


def _own(text: str) -> str:
    """A message's text without quotes, whose they are, and what follows the signature's mark."""
    if text.startswith("-----BEGIN PGP SIGNED MESSAGE-----"):
        text = text.partition("\n\n")[2]
    kept: list[str] = []
    for line in text.split("\n"):
        if _END.fullmatch(line):
            break
        if not _QUOTE.match(line):
            kept.append(line.rstrip())
            continue
        while kept and not kept[-1]:
            kept.pop()
        if kept and _SAYS.fullmatch(kept[-1]):
            opened = _OPENS.match(kept.pop())
            if not opened and kept and _OPENS.match(kept[-1]):  # it goes over two lines
                kept.pop()
        kept.append("")
    return re.sub(r"\n{3,}", "\n\n", "\n".join(kept)).strip("\n") + "\n"


def _printable(text: str) -> str:
    return "".join(each for each in " ".join(text.split()) if each.isprintable()).strip()
