"""What became of the candidates for hard negatives: to print, to read, to paste."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Self

import numpy as np

from cptk import checks
from cptk.tables import as_markdown, as_text

EXAMPLES = 10
BINS = 10


class Example(NamedTuple):
    """A negative to read."""

    query: str
    document: str
    negative: str
    score: float
    margin: float
    """The score of the document less that of the negative."""


class Histogram(NamedTuple):
    """How many values lie in each of some equal steps."""

    low: float
    high: float
    counts: tuple[int, ...]

    @classmethod
    def of(cls, values: Sequence[float]) -> Self:
        """The histogram of some values, in ten steps from the least to the largest."""
        low, high = min(values), max(values)
        counts, edges = np.histogram(values, BINS, (low, high) if high > low else None)
        return cls(float(edges[0]), float(edges[-1]), tuple(counts.tolist()))

    def rows(self) -> list[list[str]]:
        """`from`, `to` and the number of each step."""
        edges = np.linspace(self.low, self.high, len(self.counts) + 1)
        return [
            [f"{low:.2f}", f"{high:.2f}", str(count)]
            for low, high, count in zip(edges[:-1], edges[1:], self.counts, strict=True)
        ]


class NegativesReport(NamedTuple):
    """What became of the candidates that `hard_negatives` has looked at.

    Example:

    ```pycon
    >>> import cptk
    >>> reports = []
    >>> pairs = {"query": queries, "document": documents}
    >>> mined = cptk.mining.hard_negatives(embedder, pairs, k=2, report=reports.append)
    >>> reports[0].kept, reports[0].pairs  # two negatives for each of five pairs
    (10, {2: 5})

    ```
    """

    kept: int
    looked_at: int
    fell: dict[str, int]
    """Candidates by the rule by which they fell."""
    pairs: dict[int, int]
    """Pairs by their number of negatives."""
    measure: str
    """What the scores are: "cosine" or "BM25"."""
    scores: Histogram
    """Negatives by their score."""
    margins: Histogram
    """Negatives by the score of the document less theirs."""
    examples: list[Example]
    """Ten negatives, spread over the pairs."""

    def __str__(self) -> str:
        fell = ", ".join(f"{rule} {count}" for rule, count in self.fell.items())
        parts = [f"{self._summary()}\nfell: {fell}"]
        for title, histogram in self._histograms():
            table = as_text(["from", "to", "negatives"], histogram.rows())
            parts.append(f"{title}:\n{table}")
        for each in self.examples:
            texts = [checks.shown(x, 60) for x in (each.query, each.document, each.negative)]
            parts.append(f"{each.margin:6.2f}  {texts[0]}  ->  {texts[1]}  not  {texts[2]}")
        return "\n".join(parts)

    def to_markdown(self) -> str:
        """The same as tables of GitHub's Markdown, with 300 characters of each text."""
        fell = [[rule, str(count)] for rule, count in self.fell.items()]
        parts = [self._summary() + ".", as_markdown(["rule", "candidates that fell"], fell)]
        for title, histogram in self._histograms():
            table = as_markdown(["from", "to", "negatives"], histogram.rows())
            parts.append(f"{title[0].upper()}{title[1:]}:\n\n{table}")
        examples = [
            [f"{each.score:.2f}", f"{each.margin:.2f}", *(checks.shown(x, 300) for x in each[:3])]
            for each in self.examples
        ]
        parts.append(as_markdown(["score", "margin", "query", "document", "negative"], examples))
        return "\n\n".join(parts) + "\n"

    def _summary(self) -> str:
        numbers = ", ".join(
            f"{k} negative{'s' * (k != 1)}: {n} pair{'s' * (n != 1)}" for k, n in self.pairs.items()
        )
        return f"{self.kept} negatives from {self.looked_at} candidates; {numbers}"

    def _histograms(self) -> list[tuple[str, Histogram]]:
        of_document = f"{self.measure} of the document less that of the negative"
        return [(f"{self.measure} of the negative", self.scores), (of_document, self.margins)]
