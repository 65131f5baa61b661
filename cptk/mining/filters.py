"""Filters of mined pairs by language, length and boilerplate, each a rule that is counted."""

from __future__ import annotations

import functools
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

from cptk import checks, optional
from cptk.data.pairs import Pairs
from cptk.mining.copies import check_pairs

HEAD = 300
"""Letters in which boilerplate is looked for: it stands at the beginning."""
BOILERPLATE = re.compile(
    r"""
    \bcopyright\s+(?:\(c\)|©|\d{4}|holders?\b) | ©\s*\d{4} | \ball\s+rights\s+reserved\b
    | \blicensed\s+under\s+(?:the|a)\b | \bpermission\s+is\s+hereby\s+granted\b
    | \bredistribution\s+and\s+use\s+in\s+source\b | \bspdx-license-identifier\b
    | \bthis\s+program\s+is\s+free\s+software\b | \bwithout\s+warranty\s+of\s+any\s+kind\b
    | \b(?:auto(?:matically)?[- ]?)generated\b | \bdo\s+not\s+edit\b
    | \bskip\s+to\s+(?:main\s+)?(?:content|navigation)\b | \baccept\s+(?:all\s+)?cookies\b
    | \b(?:uses|use\s+of)\s+cookies\b | \benable\s+javascript\b | \blorem\s+ipsum\b
    | \bclick\s+here\s+to\b | \bsubscribe\s+to\s+our\b | \btable\s+of\s+contents\b
    """,
    re.IGNORECASE | re.VERBOSE,
)
"""Phrases of licences, of generators and of web pages' frames. Ours."""


def keep_clean(
    parts: Iterable[Pairs],
    *,
    languages: Iterable[str] | None = None,
    by: str = "query",
    min_probability: float = 0.5,
    boilerplate: bool = True,
    max_ratio: float | None = None,
    counts: Counter[str] | None = None,
) -> Iterator[Pairs]:
    """The pairs of each part that no rule leaves out.

    A pair falls, by the first of these rules: "boilerplate" (a licence, a notice that something was
    generated, or a web page's frame, within the first 300 letters of its query or document);
    "unlike lengths" (one side is more than `max_ratio` times as long as the other); "other
    language" (than those asked for); "language not known" (the best guess has less than
    `min_probability`). A short text may be of several languages, and a text of code is of none: ask
    for the language of queries there.

    Args:
        parts: `Pairs`, one after another, as the miners give them. None is held.
        languages: Codes of ISO 639-1, `["en", "de"]`; every language by default.
        by: The side whose language counts, "query" or "document".
        min_probability: From 0 to 1.
        boilerplate: Whether that rule holds.
        max_ratio: 1 or more, of letters; no limit by default.
        counts: Is told how many pairs stay ("clean") and how many fell by which rule.

    Raises:
        TypeError: Something else than `Pairs`.
        ValueError: An unknown language or side, or a limit out of its range.
        ImportError: py3langid, for languages, is not installed: `pip install "cptk[clean]"`.

    Example:

    ```pycon
    >>> from collections import Counter
    >>> from cptk.data import Pairs
    >>> from cptk.mining import keep_clean
    >>> rows = [("How is it done?", "So."), ("Copyright (c) 2020 A. B.", "All rights reserved.")]
    >>> counts = Counter()
    >>> [len(pairs) for pairs in keep_clean([Pairs(rows)], counts=counts)], counts["boilerplate"]
    ([1], 1)

    ```

    References:
        Languages by py3langid, after Lui and Baldwin 2012, langid.py.
    """
    checks.choice("by", by, ("query", "document"))
    if not checks.is_number(min_probability) or not 0 <= min_probability <= 1:
        raise ValueError(
            f"`min_probability` should be from 0 to 1. Received: {checks.shown(min_probability)}."
        )
    if max_ratio is not None and (not checks.is_number(max_ratio) or max_ratio < 1):
        raise ValueError(f"`max_ratio` should be 1 or more. Received: {checks.shown(max_ratio)}.")
    wanted = None
    if languages is not None:
        wanted = frozenset(checks.items(languages, "languages", "codes"))
        known = frozenset(_identifier().labels)
        if not wanted or not wanted <= known:
            raise ValueError(
                f"`languages` should be codes of {checks.shown(sorted(known))}. Received: "
                f"{checks.shown(sorted(map(str, wanted)))}."
            )
    checks.switch("boilerplate", boilerplate)
    counts = Counter() if counts is None else counts

    def rule(query: str, document: str) -> str:
        if boilerplate and any(BOILERPLATE.search(text[:HEAD]) for text in (query, document)):
            return "boilerplate"
        lengths = sorted((len(query), len(document)))
        if max_ratio is not None and lengths[1] > max_ratio * lengths[0]:
            return "unlike lengths"
        if wanted is not None:
            language, probability = _identifier().classify(query if by == "query" else document)
            if probability < min_probability:
                return "language not known"
            if language not in wanted:
                return "other language"
        return "clean"

    return _kept(parts, rule, counts)


def _kept(parts: Iterable[Pairs], rule: Any, counts: Counter[str]) -> Iterator[Pairs]:
    for pairs in checks.iterated(parts, "parts", "Pairs"):
        check_pairs(pairs, "parts")
        sides = zip(pairs["query"], pairs["document"], strict=True)
        rules = [rule(str(query), str(document)) for query, document in sides]
        counts.update(rules)
        kept = pairs.filter([each == "clean" for each in rules])
        if len(kept):
            yield kept


@functools.cache
def _identifier() -> Any:
    langid = optional.load("py3langid.langid", "Telling languages", "py3langid", "clean")
    return langid.LanguageIdentifier.from_model_file(langid.MODEL_FILE, norm_probs=True)
