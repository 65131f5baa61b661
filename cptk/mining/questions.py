"""Questions and their answers, as FAQs, manuals and notes have them."""

from __future__ import annotations

import re
from collections.abc import Iterator

from cptk.mining.outline import Heading, Line, Titled, body_of, headings, plain_heading

LONGEST_QUESTION = 40
"""Words of a paragraph that is taken for a question. Ours."""
_ASKED = re.compile(r"[\W_]{0,4}(?:Q|Question)[ \t]*\d*\**[:.)]\**[ \t]*", re.IGNORECASE)
_ANSWERED = re.compile(r"[\W_]{0,4}(?:A|Answer)[ \t]*\d*\**[:.)]\**[ \t]*", re.IGNORECASE)
_BULLET = re.compile(r"\s*[-*+•]\s+")
_TWO_SENTENCES = re.compile(r"[.!?]\s+[A-Z]")


def questions(lines: list[str]) -> Iterator[Titled]:
    r"""Each question among the lines of a text, and what stands under it up to the next.

    A question is a heading that ends in "?", what follows "Q:", or a paragraph of one sentence that
    ends in "?" and begins with a letter: in novels it begins with a quotation mark. An answer may
    begin with "A:". It ends at a heading too, but at one below that of its question.

    Example:

    ```pycon
    >>> from cptk.mining.questions import questions
    >>> text = "Q: What is it?\nA: A tool.\n\nWho made it?\n\nNobody knows."
    >>> [(each.query, each.body[-1].text) for each in questions(text.split("\n"))]
    [('What is it?', ''), ('Who made it?', 'Nobody knows.')]

    ```
    """
    found = list(headings(lines))
    asked = list(_asked(lines, found))
    for number, (query, level, start, end) in enumerate(asked):
        stop = asked[number + 1][2] if number + 1 < len(asked) else len(lines)
        stop = next((h.start for h in found if end <= h.start < stop and h.level <= level), stop)
        body = body_of(lines, end, stop, (h for h in found if end <= h.start < stop))
        first = next((i for i, line in enumerate(body) if line.text.strip()), None)
        if first is not None:
            text = _ANSWERED.sub("", body[first].text, count=1)
            body[first] = Line(body[first].place, text)
        yield Titled(query, start, body)


def _asked(lines: list[str], found: list[Heading]) -> Iterator[tuple[str, int, int, int]]:
    """Each question, the level of the headings that end its answer, its lines."""
    of_line = {heading.start: heading for heading in found}
    place = 0
    while place < len(lines):
        heading = of_line.get(place)
        if heading is not None:
            if heading.text.endswith("?"):
                query = _ASKED.sub("", heading.text, count=1) or heading.text
                yield query, heading.level, heading.start, heading.end
            place = heading.end
            continue
        if not lines[place].strip():
            place += 1
            continue
        labelled = _ASKED.match(lines[place])
        end = place + 1
        while end < len(lines) and lines[end].strip() and end not in of_line:
            if (_ANSWERED.match(lines[end]) and labelled) or _ASKED.match(lines[end]):
                break
            end += 1
        text = " ".join(" ".join(lines[place:end]).split())
        if labelled:
            text = _ASKED.sub("", text, count=1).strip("* ")
            if text:
                yield text, 6, place, end
        elif _is_question(text):
            yield plain_heading(_BULLET.sub("", text, count=1)), 6, place, end
        place = end


def _is_question(text: str) -> bool:
    if not text.rstrip("* ").endswith("?") or len(text.split()) > LONGEST_QUESTION:
        return False
    own = plain_heading(_BULLET.sub("", text, count=1))
    return own[:1].isalnum() and not _TWO_SENTENCES.search(own)
