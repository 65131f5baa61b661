"""Neighbouring pieces of text, as the paper has them: what stands together is a pair."""

from __future__ import annotations

import hashlib
import random
import re
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import pyarrow as pa

from cptk import checks, optional
from cptk.data.pairs import Pairs
from cptk.mining.documents import each_document, provenance

PROSE = 0.75
"""Share of letters and spaces from which on text is prose, and no table, list of numbers or code.
Ours."""
_TEXTS = ("query", "document", "path", "source", "license")
_LINES = ("line", "end_line")
SCHEMA = pa.schema(
    [*((name, pa.string()) for name in _TEXTS), *((name, pa.int64()) for name in _LINES)]
)
"""The columns of pairs of text."""
_PIECES = {"sentence": (1, 3), "paragraph": (1, 3), "token": (16, 128)}


class _Unit(NamedTuple):
    """A sentence or paragraph, where it begins and where it ends."""

    text: str
    start: int
    end: int


def neighbouring_text(
    files: Iterable[tuple[str, ...]],
    *,
    unit: str = "sentence",
    pieces: tuple[int, int] | None = None,
    min_words: int = 5,
    max_words: int = 256,
    seed: int = 0,
    counts: Counter[str] | None = None,
) -> Iterator[Pairs]:
    r"""Consecutive pieces of each document, two by two: the first is the query.

    A piece is a few sentences, paragraphs or tokens in a row, their number drawn from a range for
    each. No two pieces share text, and none goes beyond its document. What is drawn depends on the
    seed and on the document's path and text alone, not on other documents nor on their order.

    Args:
        files: `Document`s, as the readers give them, or tuples of a path and a text. They are read
            one by one, and none is held.
        unit: "sentence", split by syntok; "paragraph", at blank lines; or "token", at white space:
            a window of words that begins and ends anywhere.
        pieces: The fewest and the most units of a piece; by default one to three sentences or
            paragraphs, or 16 to 128 tokens.
        min_words: Words that each side has, at least.
        max_words: The most.
        seed: Of the lengths.
        counts: Is told how many pairs were taken ("taken"), and by which rule others fell: "too
            short", "too long", "not prose" (fewer than three quarters letters and spaces), "same
            text".

    Returns:
        An iterator of `Pairs`, one for each document that has any: `query`, `document`, the
        document's `path`, `source` and `license`, `line` (where the query begins, from 1) and
        `end_line` (where the document of the pair ends).

    Raises:
        TypeError: A file that is no tuple of two strings.
        ValueError: An unknown unit, or limits that cross.
        ImportError: syntok, for sentences, is not installed: `pip install "cptk[text]"`.

    Example:

    ```pycon
    >>> from cptk.mining import neighbouring_text
    >>> text = "The first one says this.\n\nThe second one says more.\n\nAnd this is the third one."
    >>> options = {"unit": "paragraph", "pieces": (1, 1), "min_words": 3}
    >>> (pairs,) = neighbouring_text([("a.txt", text)], **options)
    >>> pairs[0]["query"], pairs[0]["document"], pairs[0]["end_line"]
    ('The first one says this.', 'The second one says more.', 3)

    ```

    References:
        Neelakantan et al., Text and Code Embeddings by Contrastive Pre-Training,
        arXiv:2201.10005, section 2: neighbouring pieces of text on the internet are positives. How
        long the pieces are it does not say: these lengths are ours.
    """
    checks.choice("unit", unit, _PIECES)
    pieces = _PIECES[unit] if pieces is None else pieces
    if not isinstance(pieces, tuple | list) or len(pieces) != 2:
        raise ValueError(f"`pieces` should be (least, most). Received: {checks.shown(pieces)}.")
    least, most = (checks.integer("pieces", each, 1) for each in pieces)
    min_words = checks.integer("min_words", min_words, 1)
    max_words = checks.integer("max_words", max_words, 1)
    if least > most or min_words > max_words:
        raise ValueError(
            "Limits should not cross. Received: "
            f"pieces={(least, most)}, min_words={min_words}, max_words={max_words}."
        )
    if unit == "sentence":
        optional.load("syntok", "Splitting text into sentences", "syntok", "text")
    seed = checks.integer("seed", seed, 0)
    counts = Counter() if counts is None else counts
    return _pairs(files, unit, (least, most), (min_words, max_words), seed, counts)


def _pairs(
    files: Iterable[tuple[str, ...]],
    unit: str,
    pieces: tuple[int, int],
    words: tuple[int, int],
    seed: int,
    counts: Counter[str],
) -> Iterator[Pairs]:
    for file in each_document(files):
        path, text = file.path, file.text
        units = list(_SPLIT[unit](text))
        ends_of_lines = [found.start() for found in re.finditer("\n", text)]
        key = hashlib.blake2b(f"{seed}\0{path}\0{text}".encode(errors="surrogatepass")).digest()
        draw = random.Random(key)
        rows, place = [], 0
        while place < len(units):
            first, second = draw.randint(*pieces), draw.randint(*pieces)
            query = units[place : place + first]
            document = units[place + first : place + first + second]
            place += first + second
            if not document:
                break
            sides = [" ".join(each.text for each in side) for side in (query, document)]
            rule = _rule(sides, words)
            counts[rule or "taken"] += 1
            if rule is None:
                ends = (query[0].start, document[-1].end)
                lines = [bisect_left(ends_of_lines, end) + 1 for end in ends]
                texts = {"query": sides[0], "document": sides[1], **provenance(file)}
                rows.append({**texts, **dict(zip(_LINES, lines, strict=True))})
        if rows:
            yield Pairs._of(pa.Table.from_pylist(rows, schema=SCHEMA))


def _rule(sides: list[str], words: tuple[int, int]) -> str | None:
    """The rule by which a pair falls."""
    lengths = [len(side.split()) for side in sides]
    if min(lengths) < words[0]:
        return "too short"
    if max(lengths) > words[1]:
        return "too long"
    if not all(map(is_prose, sides)):
        return "not prose"
    return "same text" if sides[0] == sides[1] else None


def is_prose(text: str) -> bool:
    """Whether three quarters of a text are letters and spaces.

    Example:

    ```pycon
    >>> from cptk.mining.neighbours import is_prose
    >>> is_prose("It is so, they say."), is_prose("x[0] = (1, 2)")
    (True, False)

    ```
    """
    return sum(c.isalpha() or c == " " for c in text) >= PROSE * len(text)


def _paragraphs(text: str) -> Iterator[_Unit]:
    """What stands between blank lines, each on one line."""
    for found in re.finditer(r"\S(?:[^\n]|\n(?![ \t]*\n))*", text):
        yield _Unit(" ".join(found[0].split()), found.start(), found.end())


def _sentences(text: str) -> Iterator[_Unit]:
    """Sentences by syntok, each on one line."""
    from syntok import segmenter

    for paragraph in segmenter.analyze(text):
        for tokens in paragraph:
            if tokens:
                words = "".join(token.spacing + token.value for token in tokens)
                end = tokens[-1].offset + len(tokens[-1].value)
                yield _Unit(" ".join(words.split()), tokens[0].offset, end)


def _tokens(text: str) -> Iterator[_Unit]:
    """What stands between white space."""
    for found in re.finditer(r"\S+", text):
        yield _Unit(found[0], found.start(), found.end())


_SPLIT: dict[str, Callable[[str], Iterator[_Unit]]] = {
    "sentence": _sentences,
    "paragraph": _paragraphs,
    "token": _tokens,
}
