"""Texts that an embedder takes for an answer and that are none."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from cptk import checks
from cptk.data.pairs import Pairs
from cptk.mining.encoding import check_encoder, encode_each
from cptk.search import top_k
from cptk.types import Encoder, Vectors

RULES = ("own document", "other document of the query", "the query itself", "near copy", "too near")
"""Why a candidate is none, in the order in which it is asked."""

EXAMPLES = 10


class Example(NamedTuple):
    """A negative to read."""

    query: str
    document: str
    negative: str
    margin: float
    """The cosine of the document less that of the negative."""


class NegativesReport(NamedTuple):
    """What became of the candidates that `hard_negatives` has looked at.

    Example:

    ```pycon
    >>> import cptk
    >>> print(cptk.mining.NegativesReport(2, 3, {"too near": 1}, {1: 2}, (-0.5, 0.5), (1, 1), []))
    2 negatives from 3 candidates; 1 negative: 2 pairs
    fell: too near 1
    cosine of the document less that of the negative:
      -0.50 to  0.00      1
       0.00 to  0.50      1

    ```
    """

    kept: int
    looked_at: int
    fell: dict[str, int]
    """Candidates by the rule by which they fell."""
    pairs: dict[int, int]
    """Pairs by their number of negatives."""
    span: tuple[float, float]
    """The least and the largest margin of a negative."""
    histogram: tuple[int, ...]
    """Negatives by margin, in equal steps from the one to the other."""
    examples: list[Example]
    """Ten negatives, spread over the pairs."""

    def __str__(self) -> str:
        numbers = ", ".join(
            f"{k} negative{'s' * (k != 1)}: {n} pairs" for k, n in self.pairs.items()
        )
        fell = ", ".join(f"{rule} {count}" for rule, count in self.fell.items())
        lines = [f"{self.kept} negatives from {self.looked_at} candidates; {numbers}"]
        lines += [f"fell: {fell}", "cosine of the document less that of the negative:"]
        edges = np.linspace(*self.span, len(self.histogram) + 1)
        for low, high, count in zip(edges[:-1], edges[1:], self.histogram, strict=True):
            lines.append(f"  {low:5.2f} to {high:5.2f} {count:6d}")
        for each in self.examples:
            texts = [checks.shown(x, 60) for x in (each.query, each.document, each.negative)]
            lines.append(f"{each.margin:6.2f}  {texts[0]}  ->  {texts[1]}  not  {texts[2]}")
        return "\n".join(lines)


def hard_negatives(
    embedder: Encoder,
    pairs: object,
    corpus: Iterable[str] | None = None,
    k: int = 4,
    *,
    ranks: tuple[int, int] = (0, 100),
    margin: float | None = None,
    ratio: float | None = None,
    report: Callable[[NegativesReport], object] | None = None,
) -> Pairs:
    """Give each pair the texts of a corpus that an embedder finds nearest to its query.

    The texts of the corpus are ranked by their cosine with the query, exactly. Of those at the
    given ranks the first `k` become negatives that are none of these: the pair's own document; the
    document of another pair with the same query text, or of the same `group`; the query itself; a
    near copy of the document, which differs in case, spaces and punctuation alone; and, where a
    margin or a ratio is given, a text as near as the document, which may be a right answer that
    nobody has marked.

    Args:
        embedder: Something with `encode_text`: an embedder, or a trainer of one. Queries and
            documents are given their roles where it has them.
        pairs: Pairs in any form that `Pairs` takes. Negatives that they have are replaced, and the
            vectors of a `guide`, which knows of those alone, are left out.
        corpus: Texts to choose from; by default the documents of the pairs.
        k: How many negatives a pair gets at most; fewer where no more are left.
        ranks: The first rank that is looked at, from 0, and the one behind the last.
        margin: A negative's cosine is at most the document's less this; 0 or more.
        ratio: A negative's cosine is at most this share of the document's, from 0 to 1 (0.95, say).
        report: Called with a `NegativesReport` at the end: `print`, or a list's `append`.

    Returns:
        The pairs with a column `negatives`, nearest first.

    Raises:
        ValueError: No pairs, an empty text, a corpus of one text, ranks that cross, a margin or
            ratio out of range or both, or no negative for any pair.
        TypeError: Something that cannot embed.

    Example:

    ```pycon
    >>> import cptk
    >>> pairs = {"query": queries, "document": documents}
    >>> with_negatives = cptk.mining.hard_negatives(embedder, pairs, k=2)
    >>> [len(texts) for texts in with_negatives["negatives"]]
    [2, 2, 2, 2, 2]

    ```

    References:
        - Xiong et al. 2020, ANCE, arXiv:2007.00808: negatives that the model itself finds.
        - Moreira et al. 2024, NV-Retriever, arXiv:2407.15831, section 3: `margin` and `ratio`,
          there "TopK-MarginPos" and "TopK-PercPos". Near copies and groups are ours.
    """
    k = checks.integer("k", k, 1)
    first, last = _check_ranks(ranks)
    _check_limits(margin, ratio)
    check_encoder(embedder)
    if report is not None and not callable(report):
        raise TypeError(f"`report` should be callable, as print is. Received: {report!r}.")
    data = pairs if isinstance(pairs, Pairs) else Pairs(pairs)
    queries, documents = checks.texts(data["query"]), checks.texts(data["document"])
    given = documents if corpus is None else checks.texts(corpus, "corpus")
    texts = list(dict.fromkeys(given))
    if len(texts) < 2:
        raise ValueError(
            "`corpus` should hold two different texts or more. Received: "
            f"{len(texts)}. Pass more texts to choose from."
        )
    right = _right_documents(data, queries, documents)
    vectors = encode_each(embedder, [*texts, *documents], "document")
    asked = encode_each(embedder, queries, "query")
    of_queries = asked.of(queries)
    depth = min(len(texts), last)
    scores, found = top_k(of_queries, vectors.of(texts), depth)
    own = np.sum(_unit(of_queries) * _unit(vectors.of(documents)), axis=1)
    fell = dict.fromkeys(RULES, 0)
    chosen: list[list[str]] = []
    picked: list[tuple[int, str, float]] = []
    looked_at = 0
    plain = {text: _plain(text) for text in {*texts, *documents}}
    for row, (query, document) in enumerate(zip(queries, documents, strict=True)):
        limit = _limit(float(own[row]), margin, ratio)
        kept: list[str] = []
        for score, place in zip(scores[row, first:], found[row, first:], strict=True):
            if len(kept) == k:
                break
            text = texts[place]
            looked_at += 1
            rule = _rule(text, query, document, right[row], plain, float(score), limit)
            if rule is not None:
                fell[rule] += 1
                continue
            kept.append(text)
            picked.append((row, text, float(own[row] - score)))
        chosen.append(kept)
    if not picked:
        why = ", ".join(f"{rule}: {count}" for rule, count in fell.items() if count)
        raise ValueError(
            f"No pair has a negative. Of {looked_at} candidates fell {why}. Pass a larger corpus, "
            "more `ranks`, or a smaller `margin`."
        )
    stale = [name for name in ("negatives", "guide") if name in data.columns]
    table = data.to_arrow().drop_columns(stale)
    result = Pairs(table.append_column("negatives", pa.array(chosen, pa.list_(pa.string()))))
    if report is not None:
        report(_summed_up(k, queries, documents, chosen, picked, looked_at, fell))
    return result


def _summed_up(
    k: int,
    queries: list[str],
    documents: list[str],
    chosen: list[list[str]],
    picked: list[tuple[int, str, float]],
    looked_at: int,
    fell: dict[str, int],
) -> NegativesReport:
    margins = [margin for _, _, margin in picked]
    low, high = min(margins), max(margins)
    counts = np.bincount([len(kept) for kept in chosen], minlength=k + 1)
    return NegativesReport(
        len(picked),
        looked_at,
        fell,
        {number: int(count) for number, count in enumerate(counts) if count},
        (low, high),
        tuple(np.histogram(margins, 10, (low, max(high, low + 1e-6)))[0].tolist()),
        [
            Example(queries[row], documents[row], text, margin)
            for row, text, margin in picked[:: max(1, len(picked) // EXAMPLES)][:EXAMPLES]
        ],
    )


def _right_documents(data: Pairs, queries: list[str], documents: list[str]) -> list[set[str]]:
    """For each pair the documents of its query, in all pairs, and of its group."""
    columns = [queries]
    if "group" in data.columns:
        columns.append([f"group {group}" for group in data["group"]])
    right: list[set[str]] = [set() for _ in queries]
    for keys in columns:
        of_key: dict[str, set[str]] = {}
        for key, document in zip(keys, documents, strict=True):
            of_key.setdefault(key, set()).add(document)
        for row, key in enumerate(keys):
            right[row] = right[row] | of_key[key]
    return right


def _rule(
    text: str,
    query: str,
    document: str,
    right: set[str],
    plain: dict[str, str],
    score: float,
    limit: float,
) -> str | None:
    """The rule by which a candidate falls; None where it stays."""
    if text == document:
        return RULES[0]
    if text in right:
        return RULES[1]
    if text == query:
        return RULES[2]
    if plain[text] == plain[document]:
        return RULES[3]
    return RULES[4] if score > limit else None


def _plain(text: str) -> str:
    """The words of a text, in small letters."""
    return " ".join(re.findall(r"\w+", text.casefold()))


def _limit(own: float, margin: float | None, ratio: float | None) -> float:
    if margin is not None:
        return own - margin
    return np.inf if ratio is None else own * ratio


def _unit(vectors: Vectors) -> NDArray[np.float64]:
    wide = vectors.astype(np.float64)
    lengths = np.linalg.norm(wide, axis=1, keepdims=True)
    return wide / np.where(lengths == 0, 1.0, lengths)


def _check_ranks(ranks: object) -> tuple[int, int]:
    found = checks.items(ranks, "ranks", "two integers")
    if len(found) != 2:
        raise ValueError(f"`ranks` should be two integers. Received: {checks.shown(ranks)}.")
    first = checks.integer("ranks[0]", found[0], 0)
    last = checks.integer("ranks[1]", found[1], 1)
    if first >= last:
        raise ValueError(
            f"`ranks` should be the first and one behind the last. Received: ({first}, {last})."
        )
    return first, last


def _check_limits(margin: object, ratio: object) -> None:
    if margin is not None and ratio is not None:
        raise ValueError("Pass `margin` or `ratio`, not both.")
    if margin is not None and (not checks.is_number(margin) or not 0 <= margin < 2):
        raise ValueError(
            f"`margin` should be a difference of cosines, 0 or more. Received: "
            f"{checks.shown(margin)}."
        )
    if ratio is not None and (not checks.is_number(ratio) or not 0 < ratio <= 1):
        raise ValueError(
            f"`ratio` should be above 0 and at most 1. Received: {checks.shown(ratio)}."
        )
