"""Terms and their glosses, out of lists of definitions as plain text has them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from cptk.mining.outline import Line, Titled, headings

LONGEST_TERM = 8
"""Words of a term. Ours."""
RUN = 2
"""Entries of one form in a row that make a list: "Note: …" alone is none. Ours."""

_INLINE = re.compile(
    r"(?P<indent>\s*)(?:[-*+•]\s+)?(?P<term>\S(?:[^:]|:(?!\s))*?)"
    r"(?P<sign>\s*::?|\s+(?:--|—|–|-))\s+(?P<gloss>\S.*)"
)
_BELOW = re.compile(r" {0,3}:\s+(?P<gloss>\S.*)")
_MARKS = re.compile(r"\*\*|__|`+|^\*|\*$")
_SENTENCE = re.compile(r"[.!?;]\s|[:;,]$|\?$")
_REFERENCES = re.compile(r"\s*\[(?:syn|ant|also): [^\]]*\]|^(?:n|v|adj|adv)\s+(?:1?:\s)?")


class _Entry(NamedTuple):
    """A term and its gloss, which form they have, and the line behind them."""

    titled: Titled
    form: str
    end: int


def glosses(lines: list[str]) -> Iterator[Titled]:
    r"""Each term among the lines of a text, and its gloss.

    Example:

    ```pycon
    >>> from cptk.mining.glosses import glosses
    >>> text = "abet\n    v 1: assist in some wrongdoing\nabbey\n    n 1: a convent\n"
    >>> [(each.query, each.body[0].text.strip()) for each in glosses(text.split("\n"))]
    [('abet', 'v 1: assist in some wrongdoing'), ('abbey', 'n 1: a convent')]

    ```
    """
    run: list[_Entry] = []
    named = -1
    """The line behind a heading "Name", where one entry is enough."""
    of_line = {heading.start: heading for heading in headings(lines)}
    place = 0
    while place < len(lines):
        if not lines[place].strip():
            place += 1
            named += named == place - 1
            continue
        heading = of_line.get(place)
        entry = None if heading else _entry(lines, place, of_line)
        if run and (entry is None or entry.form != run[-1].form):
            yield from _of_run(run)
            run = []
        if entry is not None:
            if entry.form == "dash" and place == named:
                yield entry.titled
            else:
                run.append(entry)
            place = entry.end
        elif heading is not None:
            place = heading.end
            named = place if heading.text.casefold() == "name" else -1
        else:
            place += 1
    yield from _of_run(run)


def without_references(gloss: str) -> str:
    """A gloss as dictd has them, without its part of speech, braces and lists of synonyms.

    Example:

    ```pycon
    >>> from cptk.mining.glosses import without_references
    >>> without_references("n 1: a {convent} [syn: {abbey}, {cloister}]")
    'a convent'

    ```
    """
    return re.sub(r"\{([^{}]*)\}", r"\1", _REFERENCES.sub("", gloss))


def _of_run(run: list[_Entry]) -> Iterator[Titled]:
    if len(run) >= RUN:
        yield from (each.titled for each in run)


def _entry(lines: list[str], place: int, stops: Mapping[int, object]) -> _Entry | None:
    """The entry that begins at a line, if one does."""
    inline = _INLINE.fullmatch(lines[place])
    if inline and (term := _term(inline["term"])):
        end = place + 1
        while end < len(lines) and lines[end].strip() and end not in stops:
            if _INLINE.fullmatch(lines[end]) and _indent(lines[end]) <= _indent(lines[place]):
                break
            end += 1
        body = [Line(place, inline["gloss"]), *_lines(lines, place + 1, end)]
        form = "colon" if ":" in inline["sign"] else "dash"
        return _Entry(Titled(term, place, body), form, end)
    if lines[place][0].isspace():
        return None
    first = next((i for i in range(place + 1, len(lines)) if lines[i].strip()), None)
    below = first is not None and _BELOW.fullmatch(lines[first])
    if first is not None and below and (term := _term(lines[place])):
        end = _end(lines, first + 1, stops)
        body = [Line(first, below["gloss"]), *_lines(lines, first + 1, end)]
        return _Entry(Titled(term, place, body), "below", end)
    return _indented(lines, place, stops)


def _indented(lines: list[str], place: int, stops: Mapping[int, object]) -> _Entry | None:
    """One to three terms, a line each, and what is indented below them."""
    terms: list[str] = []
    first = place
    while first < len(lines) and lines[first].strip() and not lines[first][0].isspace():
        text = lines[first].rstrip()
        marked = text.endswith("::") and lines[first + 1 : first + 2] != [""]  # as AsciiDoc has it
        term = _term(text.removesuffix("::") if marked else text)
        if term is None or first in stops or len(terms) == 3:
            return None
        terms.append(term)
        first += 1
    end = _end(lines, first, stops)
    body = _lines(lines, first, end)
    if not any(line.text.strip() for line in body):
        return None
    return _Entry(Titled(", ".join(terms), place, body), "indented", end)


def _end(lines: list[str], start: int, stops: Mapping[int, object]) -> int:
    """The first line from `start` on that is not indented, nor blank."""
    for place in range(start, len(lines)):
        if place in stops or (lines[place].strip() and not lines[place][0].isspace()):
            return place
    return len(lines)


def _term(text: str) -> str | None:
    """A term without marks of emphasis; None where this is none."""
    term = " ".join(_MARKS.sub("", text.strip()).split())
    fits = 0 < len(term.split()) <= LONGEST_TERM and any(c.isalpha() for c in term)
    return term if fits and not _SENTENCE.search(term) else None


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())


def _lines(lines: list[str], start: int, end: int) -> list[Line]:
    return [Line(place, lines[place]) for place in range(start, end)]
