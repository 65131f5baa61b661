"""The headings of a Markdown text, and its paragraphs, by their lines."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

_FENCE = re.compile(r" {0,3}(```|~~~)")
_MARKED = re.compile(r" {0,3}(#{1,6})[ \t]+(.*?)(?:[ \t]+#+)?[ \t]*")
_COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)
_UNDERLINE = re.compile(r"(=|-)\1+[ \t]*")
_NUMBER = re.compile(r"(?:\d+\.)+\d*[.)]?\s+|\d+\)\s+")
_ANCHOR = re.compile(r"\s*(?:\{#[^}]*\}|¶)\s*$")


class Heading(NamedTuple):
    """A heading, and the lines that it takes, from 0."""

    level: int
    text: str
    start: int
    end: int


class Line(NamedTuple):
    """A line of a text, and its place there, from 0."""

    place: int
    text: str


class Titled(NamedTuple):
    """A title, the line where it begins, from 0, and what stands under it."""

    query: str
    place: int
    body: list[Line]


class Paragraph(NamedTuple):
    """Lines between blank ones as one, and the place of the last."""

    text: str
    last: int


def written_lines(text: str) -> list[str]:
    r"""The lines of a Markdown text, those of fenced code and of comments left blank.

    Example:

    ```pycon
    >>> from cptk.mining.outline import written_lines
    >>> written_lines("before\n~~~\n# no heading\n~~~\n<!-- none\nreads -->\nafter")
    ['before', '', '', '', '', '', 'after']

    ```
    """
    text = _COMMENT.sub(lambda found: "\n" * found[0].count("\n"), text)
    lines, fence = [], ""
    for line in text.split("\n"):
        found = _FENCE.match(line)
        own = found is not None and fence in ("", found[1])
        lines.append("" if own or fence else line)
        if found is not None and own:
            fence = "" if fence else found[1]
    return lines


def headings(lines: list[str]) -> Iterator[Heading]:
    r"""The headings among the lines of a Markdown text.

    A heading has one to six `#` before it, or a line of `=` or `-` below it that is as long as the
    text or longer. What follows a shorter line of dashes may be front matter, or a table.

    Example:

    ```pycon
    >>> from cptk.mining.outline import headings
    >>> [each[:2] for each in headings("# 1.2 A tool #\ntext\n\nUse\n---\n".split("\n"))]
    [(1, 'A tool'), (2, 'Use')]

    ```
    """
    for place, line in enumerate(lines):
        marked = _MARKED.fullmatch(line)
        if marked and marked[2]:
            yield Heading(len(marked[1]), plain_heading(marked[2]), place, place + 1)
            continue
        under = _UNDERLINE.fullmatch(line) if place else None
        above = lines[place - 1].strip()
        if (
            under is not None
            and 2 < len(above) <= len(line.rstrip())
            and above[0] != "#"
            and any(c.isalpha() for c in above)
            and not (place > 1 and lines[place - 2].strip())  # the last line of a paragraph
        ):
            yield Heading(1 if under[1] == "=" else 2, plain_heading(above), place - 1, place + 1)


def plain_heading(text: str) -> str:
    """A heading without its number, its anchor and the marks of emphasis and code."""
    text = _ANCHOR.sub("", text.strip())
    text = _NUMBER.sub("", text, count=1) if _NUMBER.match(text) else text
    return " ".join(re.sub(r"\*\*|__|`", "", text).split())


def body_of(lines: list[str], start: int, end: int, found: Iterable[Heading] = ()) -> list[Line]:
    """The lines of a part of a text, with headings left blank."""
    blank = {place for each in found for place in range(each.start, each.end)}
    return [Line(i, "" if i in blank else lines[i]) for i in range(start, end)]


def paragraphs(lines: Iterable[Line]) -> Iterator[Paragraph]:
    """What stands between blank lines, each on one line."""
    held: list[str] = []
    last = 0
    for line in lines:
        words = line.text.split()
        if words:
            held += words
            last = line.place
        elif held:
            yield Paragraph(" ".join(held), last)
            held = []
    if held:
        yield Paragraph(" ".join(held), last)
