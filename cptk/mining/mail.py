"""Messages of mailboxes as documents: what people wrote, without what they quote."""

from __future__ import annotations

import email.message
import email.policy
import mailbox
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from cptk import checks
from cptk.mining import file_rules
from cptk.mining.code import LARGEST_FILE
from cptk.mining.documents import Document, LeftOut
from cptk.types import Path as StrPath

_WROTE = re.compile(r"^.{0,300}\b(wrote|writes|schrieb|a écrit|escribió)\s*:\s*$", re.MULTILINE)
_SUBJECT = re.compile(r"^((re|fwd?|aw|wg)\s*:\s*|\[[^\]\n]{1,60}\]\s*)+", re.IGNORECASE)


def read_mail(
    path: StrPath, *, largest: int = LARGEST_FILE, counts: Counter[str] | None = None
) -> Iterator[Document]:
    r"""The messages of a mailbox, one after another: an mbox file or a maildir.

    Of a message it gives the plain text, without quoted lines (`> …` and the line that introduces
    them), without the signature below `-- `, and without attachments; its subject, without `Re:`
    and a list's name, is the title. It falls if it has no such text ("no text"), is larger than
    `largest` bytes ("too large"), or cannot be decoded ("wrong encoding", "binary", …).

    Args:
        path: The mailbox.
        largest: Bytes of a message.
        counts: Is told how many messages were read ("messages"), and by which rule others fell.

    Returns:
        An iterator of `Document`s, with the message's id as path and the mailbox's name as source.

    Raises:
        FileNotFoundError: There is nothing.
        ValueError: A folder that is no maildir, or a file without a message.

    Example:

    ```pycon
    >>> import pathlib
    >>> from cptk.mining import read_mail
    >>> head = "From a@example.org Mon Jan  1 00:00:00 2024\nMessage-ID: <1@a>\nSubject: Re: It\n"
    >>> body = "\nOn Monday B wrote:\n> Does it work?\n\nIt does.\n-- \nA\n"
    >>> _ = pathlib.Path("list.mbox").write_text(head + body)
    >>> list(read_mail("list.mbox"))
    [Document(path='1@a', text='It does.', source='list.mbox', license='', title='It')]

    ```
    """
    place = checks.path(path, "path")
    if not place.exists():
        raise FileNotFoundError(f"There is no mailbox {str(place)!r}.")
    if place.is_dir() and not all((place / name).is_dir() for name in ("cur", "new")):
        raise ValueError(
            f"`path` should be an mbox file or a maildir, with its folders `cur` and `new`. "
            f"Received the folder {str(place)!r}."
        )
    largest = checks.integer("largest", largest, 1)
    return _messages(place, largest, Counter() if counts is None else counts)


def _messages(place: Path, largest: int, counts: Counter[str]) -> Iterator[Document]:
    folder = place.is_dir()
    box: mailbox.Mailbox[mailbox.Message] = (
        mailbox.Maildir(place, create=False) if folder else mailbox.mbox(place, create=False)
    )
    any_message = False
    try:
        for key in sorted(box.keys()):
            any_message = True
            try:
                found = _document(box, key, place.name, largest)
            except LeftOut as rule:
                counts[str(rule)] += 1
            else:
                counts["messages"] += 1
                yield found
    finally:
        box.close()
    if not any_message:
        raise ValueError(f"`path` holds no message. Received: {str(place)!r}.")


def _document(
    box: mailbox.Mailbox[mailbox.Message], key: str, source: str, largest: int
) -> Document:
    with box.get_file(key) as file:
        data = file.read(largest + 1)
    if len(data) > largest:
        raise LeftOut("too large")
    try:
        message = email.message_from_bytes(data, policy=email.policy.default)
        body = message.get_body(preferencelist=("plain",))
        text = "" if body is None else str(body.get_content())
        subject, own = str(message["Subject"] or ""), str(message["Message-ID"] or key)
    except (LookupError, ValueError, AttributeError, TypeError, IndexError):
        raise LeftOut("wrong encoding") from None  # what email's parser raises of broken headers
    text = written(text)
    if not text:
        raise LeftOut("no text")
    file_rules.check_text(text)
    if "\ufffd" in text:
        raise LeftOut("wrong encoding")
    title = _SUBJECT.sub("", " ".join(subject.split()))
    path = own.strip().strip("<>")
    title, path = (each if each.isprintable() else "" for each in (title, path))
    return Document(path or str(key), text, source, title=title)


def written(text: str) -> str:
    r"""What somebody wrote in a message: without quotes and signature.

    Example:

    ```pycon
    >>> from cptk.mining.mail import written
    >>> written("A wrote:\n> Is it?\nIt is.\n-- \nB")
    'It is.'

    ```
    """
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    text = re.split(r"^-- ?$", text, maxsplit=1, flags=re.MULTILINE)[0]
    lines = text.split("\n")
    quoted = [line.startswith(">") for line in lines]
    kept = []
    for number, line in enumerate(lines):
        following = next((q for q, each in zip(quoted[number + 1 :], lines[number + 1 :],
                                               strict=True) if each.strip()), False)  # fmt: skip
        if not quoted[number] and not (following and _WROTE.match(line)):
            kept.append(line)
    return re.sub(r"\n{3,}", "\n\n", "\n".join(kept)).strip()
