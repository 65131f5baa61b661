"""Copies among pairs: duplicates taken out, and what is held out kept apart from the rest."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Set
from typing import NamedTuple

import numpy as np

from cptk import checks
from cptk.checks import is_integer, shown
from cptk.data.pairs import Pairs


class _Texts(NamedTuple):
    """What is compared of a pair."""

    query: str
    document: str
    name: str


def deduplicate(pairs: Pairs) -> Pairs:
    """Keeps the first of all pairs that share their query or their document.

    Two queries are the same if their words are, in lower case; two documents if they are without
    white space, comment lines (`#`) and case.

    Args:
        pairs: `Pairs`, of functions or of other texts.

    Raises:
        TypeError: Something else than `Pairs`.

    Example:

    ```pycon
    >>> from cptk.data import Pairs
    >>> from cptk.mining import deduplicate
    >>> len(deduplicate(Pairs([("Add two.", "a + b"), ("add two", "b + a")])))
    1

    ```
    """
    seen: set[tuple[str, str]] = set()
    kept = []
    for pair in _rows(pairs, "pairs"):
        keys = _keys(pair)
        kept.append(seen.isdisjoint(keys))
        seen.update(keys)
    return pairs.filter(kept)


def exclude_copies(pairs: Pairs, of: Pairs, *, similarity: float = 0.7) -> Pairs:
    """Drops the pairs that are copies of one in `of`: other people vendor, fork and backport.

    A copy shares query or document in the sense of `deduplicate`, or it bears the same `name` and
    the sets of words of the two queries, or of the two documents, overlap by `similarity` or more
    (`|A & B| / |A | B|`).

    Args:
        pairs: `Pairs` to filter, for instance the training set.
        of: `Pairs` to keep apart from them, for instance the held-out set.
        similarity: overlap from which on two functions of one name count as copies.

    Returns:
        The pairs that are no copies, in their order.

    Raises:
        TypeError: Something else than `Pairs`.

    Example:

    ```pycon
    >>> from cptk.data import Pairs
    >>> from cptk.mining import exclude_copies
    >>> training = Pairs([("Add two.", "a + b"), ("Sort it.", "sorted(x)")])
    >>> exclude_copies(training, of=Pairs([("Add.", "a+b")]))["query"]
    ['Sort it.']

    ```
    """
    taken: set[tuple[str, str]] = set()
    namesakes: dict[str, list[_Texts]] = {}
    for pair in _rows(of, "of"):
        taken.update(_keys(pair))
        if pair.name:
            namesakes.setdefault(_last_name(pair), []).append(pair)
    return pairs.filter(
        [
            taken.isdisjoint(_keys(pair))
            and not any(
                _overlap(pair.query, other.query) >= similarity
                or _overlap(pair.document, other.document) >= similarity
                for other in namesakes.get(_last_name(pair), ())
            )
            for pair in _rows(pairs, "pairs")
        ]
    )


def plain(text: str) -> str:
    """The words of a text in small letters; of a text without words, the text itself.

    Example:

    ```pycon
    >>> from cptk.mining.copies import plain
    >>> plain("It's  here!"), plain("?!")
    ('it s here', '?!')

    ```
    """
    return " ".join(re.findall(r"\w+", text.casefold())) or text


def shingles(text: str) -> frozenset[str]:
    """All runs of five characters of a text; of a shorter one, the text itself.

    Example:

    ```pycon
    >>> from cptk.mining.copies import shingles
    >>> sorted(shingles("a film"))
    [' film', 'a fil']

    ```

    Characters need no words, so that texts without spaces are compared as well. Five of them are
    what Leskovec, Rajaraman & Ullman (Mining of Massive Datasets, section 3.2) take for mail.
    """
    return frozenset(text[i : i + 5] for i in range(max(1, len(text) - 4)))


def jaccard(one: Set[str], other: Set[str]) -> float:
    """How much two sets share, `|A & B| / |A | B|`; 0 of two empty ones.

    Example:

    ```pycon
    >>> from cptk.mining.copies import jaccard
    >>> jaccard({"a", "b"}, {"b", "c", "d"})
    0.25

    ```
    """
    shared = len(one & other)
    return shared / max(1, len(one) + len(other) - shared)


def split_by_module(
    pairs: Pairs, size: int, *, by: str = "path", seed: int = 0
) -> tuple[Pairs, Pairs]:
    """Holds out `size` pairs of whole modules; the rest shares no module, text or code with them.

    Modules are drawn at random until they hold `size` pairs. What the last one holds beyond that
    is in neither part, and neither are copies of what was held out (`exclude_copies`).

    Args:
        pairs: `Pairs` with a column that names the module.
        size: number of pairs to hold out.
        by: that column: "path" for files, "source" for packages or repositories.
        seed: of the draw.

    Returns:
        `(held_out, rest)`, both in the order of `pairs`.

    Raises:
        TypeError: Something else than `Pairs`.
        ValueError: if `size` is not between 1 and `len(pairs) - 1`, or there is no such column.

    Example:

    ```pycon
    >>> import json
    >>> from cptk.mining import mine_functions, split_by_module
    >>> held_out, training = split_by_module(mine_functions(json.__path__[0]), size=2)
    >>> len(held_out), set(held_out["path"]) & set(training["path"])
    (2, set())

    ```
    """
    check_pairs(pairs, "pairs")
    if by not in pairs.columns:
        raise ValueError(
            f"`pairs` should have a column {shown(by)}, the module of each. Columns: "
            f"{pairs.columns}."
        )
    if not is_integer(size) or not 0 < size < len(pairs):
        raise ValueError(
            f"`size` must be between 1 and the number of pairs less one ({len(pairs) - 1}). "
            f"Received: size={shown(size)}."
        )
    paths = pairs[by]
    members: dict[str, list[int]] = {}
    for index, path in enumerate(paths):
        members.setdefault(str(path), []).append(index)
    modules = sorted(members)
    random.Random(seed).shuffle(modules)
    drawn: list[int] = []
    drawn_modules = set()
    for module in modules:
        if len(drawn) >= size:
            break
        drawn += members[module]
        drawn_modules.add(module)
    held = np.zeros(len(pairs), dtype=bool)
    held[drawn[:size]] = True
    held_out = pairs.filter(held)
    rest = pairs.filter([str(path) not in drawn_modules for path in paths])
    return held_out, exclude_copies(rest, of=held_out)


def _rows(pairs: Pairs, what: str) -> Iterator[_Texts]:
    check_pairs(pairs, what)
    names = pairs["name"] if "name" in pairs.columns else [""] * len(pairs)
    for query, document, name in zip(pairs["query"], pairs["document"], names, strict=True):
        yield _Texts(str(query), str(document), str(name or ""))


def check_pairs(pairs: object, what: str) -> None:
    """`TypeError` where these are no `Pairs`."""
    if not isinstance(pairs, Pairs):
        raise TypeError(
            f"`{what}` should be Pairs. Received: {checks.shown(pairs)}. Make them by "
            "cptk.data.Pairs(…)."
        )


def _keys(pair: _Texts) -> tuple[tuple[str, str], tuple[str, str]]:
    code = re.sub(r"^[ \t]*#.*$", "", pair.document, flags=re.MULTILINE)
    return ("text", plain(pair.query)), ("code", "".join(code.casefold().split()))


def _last_name(pair: _Texts) -> str:
    return pair.name.rpartition(".")[2]


def _overlap(one: str, other: str) -> float:
    return jaccard(set(re.findall(r"\w+", one)), set(re.findall(r"\w+", other)))
