"""Texts that an embedder, or BM25, takes for an answer and that are none."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from cptk import checks
from cptk.data.pairs import Pairs
from cptk.encoders import TextEncoder, check_encoder
from cptk.mining.block_folder import BlockFolder
from cptk.mining.copies import jaccard, plain, shingles
from cptk.mining.nearest import Found, Wanted, dependencies, nearest
from cptk.mining.negatives_report import EXAMPLES, Example, Histogram, NegativesReport
from cptk.search import BM25
from cptk.types import Path

RULES = ("own document", "other document of the query", "the query itself", "near copy", "too near")
"""Why a candidate is none, in the order in which it is asked."""


def hard_negatives(
    embedder: TextEncoder | BM25,
    pairs: object,
    corpus: Iterable[str] | None = None,
    k: int = 4,
    *,
    ranks: tuple[int, int] = (0, 100),
    margin: float | None = None,
    ratio: float | None = None,
    near_copies: float | None = 0.9,
    search: str = "exact",
    folder: Path | None = None,
    report: Callable[[NegativesReport], object] | None = None,
    verbose: str | int = "auto",
) -> Pairs:
    """Give each pair the texts of a corpus that score best with its query and are no answer to it.

    The texts of the corpus are ranked by their score with the query: the cosine of an embedder's
    vectors, or BM25. Of those at the given ranks the first `k` become negatives that are none of
    these: the pair's own document; the document of another pair with the same query text, or of the
    same `group`; the query itself; a near copy of a document of the query; and, where a margin or a
    ratio is given, a text as near as the document, which may be a right answer that nobody has
    marked.

    A near copy differs in case, spaces and punctuation alone, or shares `near_copies` of its runs
    of five characters with the document, `|A & B| / |A | B|`.

    Work goes by blocks of queries. Memory is the vectors of the documents (of BM25, the words of
    the corpus) and one block, whatever the number of queries. With a `folder`, vectors and what was
    found are kept there block by block: a call that was killed goes on there and ends with the same
    pairs. So does one with another `k`, `margin`, `ratio` or `near_copies`, or another first rank:
    these are asked of what was found. Nothing deletes the folder.

    Args:
        embedder: Anything that embeds text (`cptk.evaluation.embed`), a trainer too, or
            `cptk.search.BM25()`, which counts the words of this corpus. Queries and documents are
            embedded in their roles where it has them.
        pairs: Pairs in any form that `Pairs` takes. Negatives that they have are replaced, and the
            vectors of a `guide`, which knows of those alone, are left out.
        corpus: Texts to choose from; by default the documents of the pairs.
        k: How many negatives a pair gets at most; fewer where no more are left.
        ranks: The first rank that is looked at, from 0, and the one behind the last. By BM25 only
            texts that share a word with the query have a rank.
        margin: A negative's score is at most the document's less this; 0 or more. BM25's scores
            have no upper end and are larger for longer queries: take `ratio` there.
        ratio: A negative's score is at most this share of the document's, from 0 to 1 (0.95, say);
            where the document's is below 0, it is at most the document's. By BM25 a query that
            shares no word with its document then has none.
        near_copies: See above; above 0, at most 1. None asks for case, spaces and punctuation
            alone, and takes no time.
        search: "exact", or what `faiss.index_factory` takes, such as "HNSW32", for a corpus of
            millions. What FAISS finds is scored exactly.
        folder: Where work is kept; it should be new, or that of an earlier call on the same pairs,
            corpus, embedder, search and last rank.
        report: Called with a `NegativesReport` at the end: `print`, or a list's `append`.
        verbose: 1 shows progress, 0 none, "auto" only on long work.

    Returns:
        The pairs with a column `negatives`, nearest first.

    Raises:
        ValueError: No pairs, an empty text, a corpus of one text, ranks that cross, a limit out of
            range, a margin and a ratio, an unknown search, a folder of other work, or no negative
            for any pair.
        TypeError: Something that cannot embed.
        ImportError: `search` asks for FAISS, which is not installed.

    Example:

    ```pycon
    >>> import cptk
    >>> pairs = {"query": queries, "document": documents}
    >>> with_negatives = cptk.mining.hard_negatives(embedder, pairs, k=2)
    >>> [len(texts) for texts in with_negatives["negatives"]]
    [2, 2, 2, 2, 2]
    >>> pairs = {"query": ["open a file", "sort it"], "document": ["f = open(path)", "it.sort()"]}
    >>> corpus = ["open a window", "a window is open, a file is not", "f = open(path)"]
    >>> cptk.mining.hard_negatives(cptk.search.BM25(), pairs, corpus, k=1)["negatives"]
    [['a window is open, a file is not'], []]

    ```

    References:
        - Karpukhin et al. 2020, Dense Passage Retrieval, arXiv:2004.04906, section 3.2: negatives
          that BM25 finds.
        - Xiong et al. 2020, ANCE, arXiv:2007.00808: negatives that the model itself finds.
        - Moreira et al. 2024, NV-Retriever, arXiv:2407.15831, section 3: `margin` and `ratio`,
          there "TopK-MarginPos" and "TopK-PercPos". Near copies and groups are ours.
    """
    k = checks.integer("k", k, 1)
    first, last = _check_ranks(ranks)
    by_words = isinstance(embedder, BM25)
    if not by_words:
        check_encoder(embedder)
    _check_limits(margin, ratio, near_copies, most=np.inf if by_words else 2)
    _check_search(search, by_words)
    if report is not None and not callable(report):
        raise TypeError(f"`report` should be callable, as print is. Received: {report!r}.")
    data = pairs if isinstance(pairs, Pairs) else Pairs(pairs)
    queries, documents = checks.texts(data["query"]), checks.texts(data["document"])
    texts = list(dict.fromkeys(documents if corpus is None else checks.texts(corpus, "corpus")))
    if len(texts) < 2:
        raise ValueError(
            "`corpus` should hold two different texts or more. Received: "
            f"{len(texts)}. Pass more texts to choose from."
        )
    rows: dict[str, list[int]] = {}
    for row, query in enumerate(queries):
        rows.setdefault(query, []).append(row)
    depth = min(len(texts), last)
    wanted = Wanted(list(rows), list(rows.values()), documents, texts, depth, search)
    limits = _Limits(k, first, margin, ratio, near_copies)
    choice = _Choice(wanted, _of_group(data, documents), limits)
    with BlockFolder(folder, {} if folder is None else dependencies(embedder, wanted)) as kept:
        for block, found in nearest(embedder, wanted, kept, verbose):
            choice.add(block, found)
    if not any(choice.negatives):
        why = ", ".join(f"{rule}: {count}" for rule, count in choice.fell.items() if count)
        raise ValueError(
            f"No pair has a negative. Of {choice.looked_at} candidates fell {why or 'none'}. Pass "
            "a larger corpus, more `ranks`, or a smaller `margin`."
        )
    stale = [name for name in ("negatives", "guide") if name in data.columns]
    table = data.to_arrow().drop_columns(stale)
    negatives = pa.array(choice.negatives, pa.list_(pa.string()))
    result = Pairs(table.append_column("negatives", negatives))
    if report is not None:
        report(choice.summed_up(queries, "BM25" if by_words else "cosine"))
    return result


class _Limits(NamedTuple):
    """Which candidates become negatives; as the arguments of `hard_negatives`."""

    k: int
    first: int
    margin: float | None
    ratio: float | None
    near_copies: float | None

    def highest(self, own: float) -> float:
        """The highest score of a negative where the document's own is this."""
        if self.margin is not None:
            return own - self.margin
        return np.inf if self.ratio is None else min(own, own * self.ratio)


class _Choice:
    """The negatives of each pair, and what became of the other candidates."""

    def __init__(self, wanted: Wanted, of_group: list[set[str]] | None, limits: _Limits) -> None:
        self.wanted, self.of_group, self.limits = wanted, of_group, limits
        count = len(wanted.documents)
        self.negatives: list[list[str]] = [[] for _ in range(count)]
        self.scores: list[list[float]] = [[] for _ in range(count)]
        self.own = np.zeros(count)
        self.fell = dict.fromkeys(RULES, 0)
        self.looked_at = 0

    def add(self, block: range, found: Found) -> None:
        """Choose for the pairs of a block of queries."""
        own = iter(found.own.tolist())
        for place, query in enumerate(block):
            rows = self.wanted.rows[query]
            answers = _Answers({self.wanted.documents[row] for row in rows}, self.limits)
            candidates = list(
                zip(
                    found.scores[place, self.limits.first :].tolist(),
                    found.places[place, self.limits.first :].tolist(),
                    strict=True,
                )
            )
            for row in rows:
                self.own[row] = next(own)
                self._choose(row, self.wanted.queries[query], answers, candidates)

    def _choose(
        self, row: int, query: str, answers: _Answers, candidates: list[tuple[float, int]]
    ) -> None:
        highest = self.limits.highest(self.own[row])
        for score, place in candidates:
            if place < 0 or len(self.negatives[row]) == self.limits.k:
                break
            self.looked_at += 1
            text = self.wanted.texts[place]
            if text == self.wanted.documents[row]:
                rule = 0
            elif text in answers.texts or (
                self.of_group is not None and text in self.of_group[row]
            ):
                rule = 1
            elif text == query:
                rule = 2
            elif answers.near(text):
                rule = 3
            elif score > highest:
                rule = 4
            else:
                self.negatives[row].append(text)
                self.scores[row].append(score)
                continue
            self.fell[RULES[rule]] += 1

    def summed_up(self, queries: list[str], measure: str) -> NegativesReport:
        """The report of all that was added."""
        picked = [
            Example(query, document, text, score, own - score)
            for query, document, texts, scores, own in zip(
                queries,
                self.wanted.documents,
                self.negatives,
                self.scores,
                self.own.tolist(),
                strict=True,
            )
            for text, score in zip(texts, scores, strict=True)
        ]
        counts = np.bincount([len(texts) for texts in self.negatives])
        return NegativesReport(
            len(picked),
            self.looked_at,
            self.fell,
            {number: int(count) for number, count in enumerate(counts) if count},
            measure,
            Histogram.of([each.score for each in picked]),
            Histogram.of([each.margin for each in picked]),
            picked[:: max(1, len(picked) // EXAMPLES)][:EXAMPLES],
        )


class _Answers:
    """The documents of a query, and which texts are near copies of one."""

    def __init__(self, texts: set[str], limits: _Limits) -> None:
        self.texts, self.least = texts, limits.near_copies
        self.plain = {plain(text) for text in texts}
        self.shingles = [] if self.least is None else [shingles(text) for text in self.plain]
        self.known: dict[str, bool] = {}

    def near(self, text: str) -> bool:
        """Whether a text is a near copy of a document."""
        if text not in self.known:
            self.known[text] = self._near(plain(text))
        return self.known[text]

    def _near(self, words: str) -> bool:
        if words in self.plain:
            return True
        if self.least is None:
            return False
        # A text has at most as many shingles as characters: one that is too short is not cut up.
        long = [own for own in self.shingles if len(words) >= self.least * len(own)]
        if not long:
            return False
        cut = shingles(words)
        return any(jaccard(own, cut) >= self.least for own in long)


def _of_group(data: Pairs, documents: list[str]) -> list[set[str]] | None:
    """For each pair the documents of its group; one set for all pairs of a group."""
    if "group" not in data.columns:
        return None
    of_key: dict[object, set[str]] = {}
    for key, document in zip(data["group"], documents, strict=True):
        of_key.setdefault(key, set()).add(document)
    return [of_key[key] for key in data["group"]]


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


def _check_limits(margin: object, ratio: object, near_copies: object, most: float) -> None:
    if margin is not None and ratio is not None:
        raise ValueError("Pass `margin` or `ratio`, not both.")
    if margin is not None and (not checks.is_number(margin) or not 0 <= margin < most):
        kind = "scores of BM25" if most > 2 else "cosines"
        raise ValueError(
            f"`margin` should be a difference of {kind}, 0 or more. Received: "
            f"{checks.shown(margin)}."
        )
    for name, share in (("ratio", ratio), ("near_copies", near_copies)):
        if share is not None and (not checks.is_number(share) or not 0 < share <= 1):
            raise ValueError(
                f"`{name}` should be above 0 and at most 1. Received: {checks.shown(share)}."
            )


def _check_search(search: object, by_words: bool) -> None:
    if not isinstance(search, str) or not search:
        raise TypeError(
            "`search` should be 'exact', or the name of an index of FAISS's, such as 'HNSW32'. "
            f"Received: {checks.shown(search)}."
        )
    if by_words and search != "exact":
        raise ValueError(f"BM25 searches words, and search={search!r} vectors. Leave `search` out.")
