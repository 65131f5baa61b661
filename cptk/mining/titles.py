"""Pairs of a title and what stands under it: bodies, sections, answers and glosses."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

import pyarrow as pa

from cptk import checks
from cptk.data.pairs import Pairs
from cptk.mining.documents import Document, each_document, provenance
from cptk.mining.glosses import glosses, without_references
from cptk.mining.neighbours import SCHEMA, is_prose
from cptk.mining.outline import Titled, body_of, headings, paragraphs, written_lines
from cptk.mining.questions import questions

KINDS = ("title", "heading", "question", "term")
LONGEST_TITLE = 40
SHORTEST_QUESTION = 3
"""Words. Ours."""


def titled_text(
    files: Iterable[tuple[str, ...]],
    *,
    kind: str = "heading",
    min_words: int = 5,
    max_words: int = 256,
    counts: Counter[str] | None = None,
) -> Iterator[Pairs]:
    r"""Titles and what stands under them: the title is the query.

    | `kind` | query | document |
    |---|---|---|
    | "title" | the document's title, or its first heading | the document from its beginning |
    | "heading" | a heading, after the title and the headings above it | its text, up to the next |
    | "question" | a heading or a paragraph of one sentence that ends in "?", or what follows "Q:" \
| its text, up to the next question |
    | "term" | a term of a list of definitions | its gloss |

    Headings are those of Markdown, to which the readers bring HTML, reStructuredText and man pages.
    A list of definitions has two entries or more in one of these forms: `term: gloss`,
    `term -- gloss` (or another dash), a term with `: gloss` below it, or a term with its gloss
    indented below it, as in dictionaries for dictd. A line `name - gloss` under a heading "Name"
    stands alone.

    A document takes whole paragraphs from the beginning of the text, as many as fit in `max_words`,
    each on one line; fenced code and comments are left out. It shares no text with its query, and
    goes beyond no document.

    Args:
        files: `Document`s, as the readers give them, or tuples of a path and a text. They are read
            one by one, and none is held.
        kind: See above.
        min_words: Words that the document of a pair has, at least.
        max_words: The most.
        counts: Is told how many pairs were taken ("taken"), and by which rule others fell: "empty"
            (nothing stands under the title), "too short" (the document, or a question of fewer than
            three words), "too long" (its first paragraph, or a title of more than 40 words), "not
            prose" (a document of fewer than three quarters letters and spaces), "same text"; and,
            of titles, how many documents have none ("no title").

    Returns:
        An iterator of `Pairs`, one for each document that has any, with the columns that
        `neighbouring_text` gives.

    Raises:
        TypeError: A file that is no tuple of two strings.
        ValueError: An unknown kind, or limits that cross.

    Example:

    ```pycon
    >>> from cptk.mining import titled_text
    >>> text = "# Sorting\n\n## In place\n\nThe list itself is put in order.\n"
    >>> (pairs,) = titled_text([("sort.md", text)])
    >>> pairs[0]["query"], pairs[0]["document"]
    ('Sorting: In place', 'The list itself is put in order.')
    >>> words = "heap: a tree in which parents come first\nstack: last in is first out\n"
    >>> (pairs,) = titled_text([("words.txt", words)], kind="term")
    >>> pairs["query"]
    ['heap', 'stack']

    ```

    References:
        Wang et al. 2022, Text Embeddings by Weakly-Supervised Contrastive Pre-training,
        arXiv:2212.03533, section 3.1: titles with passages, entity names and section titles with
        passages, questions with answers. The forms that are recognised, and the limits, are ours.
    """
    checks.choice("kind", kind, KINDS)
    min_words = checks.integer("min_words", min_words, 1)
    max_words = checks.integer("max_words", max_words, 1)
    if min_words > max_words:
        raise ValueError(
            f"Limits should not cross. Received: min_words={min_words}, max_words={max_words}."
        )
    counts = Counter() if counts is None else counts
    return _pairs(files, kind, (min_words, max_words), counts)


def _pairs(
    files: Iterable[tuple[str, ...]], kind: str, words: tuple[int, int], counts: Counter[str]
) -> Iterator[Pairs]:
    for file in each_document(files):
        about, rows = provenance(file), []
        for titled in _titled(file, kind, counts):
            text, last = _document(titled, words[1])
            text = without_references(text) if kind == "term" else text
            rule = _rule(titled.query, text, kind, words)
            counts[rule or "taken"] += 1
            if rule is None:
                sides = {"query": titled.query, "document": text}
                rows.append({**sides, **about, "line": titled.place + 1, "end_line": last + 1})
        if rows:
            yield Pairs._of(pa.Table.from_pylist(rows, schema=SCHEMA))


def _titled(file: Document, kind: str, counts: Counter[str]) -> Iterator[Titled]:
    lines = written_lines(file.text)
    if kind == "heading":
        yield from _sections(file, lines)
    elif kind == "question":
        yield from questions(lines)
    elif kind == "term":
        yield from glosses(lines)
    else:
        found = list(headings(lines))
        title = " ".join(file.title.split()) or (found[0].text if found else "")
        if not title:
            counts["no title"] += 1
            return
        own = bool(found) and found[0].text.casefold() == title.casefold()
        start, place = (found[0].end, found[0].start) if own else (0, 0)
        yield Titled(title, place, body_of(lines, start, len(lines), found))


def _sections(file: Document, lines: list[str]) -> Iterator[Titled]:
    """Each heading and its text, behind the document's title and the headings above."""
    found = list(headings(lines))
    title = " ".join(file.title.split())
    above: list[tuple[int, str]] = [(0, title)] if title else []
    for number, heading in enumerate(found):
        while above and above[-1][0] >= heading.level:
            above.pop()
        above.append((heading.level, heading.text))
        chain = [text for _, text in above]
        if len(chain) > 1 and chain[0].casefold() == chain[1].casefold():
            del chain[0]  # a title that is the first heading too
        end = found[number + 1].start if number + 1 < len(found) else len(lines)
        yield Titled(": ".join(chain), heading.start, body_of(lines, heading.end, end))


def _document(titled: Titled, most: int) -> tuple[str, int]:
    """The first paragraphs of a body that fit in `most` words, or the first; and its last line."""
    held: list[str] = []
    count, last = 0, titled.place
    for paragraph in paragraphs(titled.body):
        count += len(paragraph.text.split())
        if held and count > most:
            break
        held.append(paragraph.text)
        last = paragraph.last
    return " ".join(held), last


def _rule(query: str, document: str, kind: str, words: tuple[int, int]) -> str | None:
    """The rule by which a pair falls."""
    title, body = len(query.split()), len(document.split())
    if not body:
        return "empty"
    if body < words[0] or title < (SHORTEST_QUESTION if kind == "question" else 1):
        return "too short"
    if body > words[1] or title > LONGEST_TITLE:
        return "too long"
    if not is_prose(document):
        return "not prose"
    return "same text" if query == document else None
