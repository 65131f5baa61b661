"""What mining found and left out: to print, to read, to paste, to draw."""

from __future__ import annotations

import hashlib
import heapq
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pyarrow.compute as pc

from cptk import checks
from cptk.data.columns import SIDES
from cptk.data.pairs import Pairs
from cptk.data.summary import COLOURS, axes_or_new
from cptk.data.tables import counted
from cptk.mining.copies import check_pairs
from cptk.tables import as_markdown, as_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes

EXAMPLES = 20
EDGES = 2 ** np.arange(0, 21)
"""Of the histograms of lengths, in characters: 1, 2, 4, …, 1,048,576."""


class _Example(NamedTuple):
    """A pair to read."""

    query: str
    document: str
    path: str


class MiningReport:
    r"""What `functions`, `neighbouring_text` and `read_folder` found, and what they left out.

    Hand its `counts` to them, and let the pairs pass through `watch` on their way into a store or
    into `Pairs.concat`. Nothing is held but counts and twenty pairs, drawn at random by what they
    hold: the same twenty in whatever order they come.

    Args:
        seed: Of the draw.

    Attributes:
        counts: How many files, pairs and what fell by which rule, by name.
        pairs: How many pairs have passed.

    Example:

    ```pycon
    >>> from cptk.mining import MiningReport, functions
    >>> files = [("a.rb", "# Adds two numbers up.\ndef add(a, b)\n  a + b\nend\n")]
    >>> report = MiningReport()
    >>> parts = list(report.watch(functions(files, counts=report.counts)))
    >>> report.pairs, report.counts["taken"]
    (1, 1)
    >>> print(report)
    1 pair
    what   number
    ─────  ──────
    taken       1
    characters   1+  2+  4+  8+  16+  32+
    ──────────  ──  ──  ──  ──  ───  ───
    query        0   0   0   0    1    0
    document     0   0   0   0    1    0
    a.rb  'Adds two numbers up.'  ->  'def add(a, b)\n  a + b\nend'

    ```
    """

    def __init__(self, seed: int = 0) -> None:
        self.seed = checks.integer("seed", seed, 0)
        self.counts: Counter[str] = Counter()
        self.pairs = 0
        self._lengths = {side: np.zeros(len(EDGES), np.int64) for side in SIDES}
        self._drawn: list[tuple[int, _Example]] = []

    def watch(self, parts: Iterable[Pairs]) -> Iterator[Pairs]:
        """The same pairs, seen on their way."""
        for pairs in checks.iterated(parts, "parts", "Pairs"):
            check_pairs(pairs, "parts")
            self._note(pairs)
            yield pairs

    def _note(self, pairs: Pairs) -> None:
        self.pairs += len(pairs)
        table = pairs.to_arrow()
        for side in SIDES:
            lengths = np.asarray(pc.utf8_length(table[side]).to_numpy())
            places = np.searchsorted(EDGES, lengths, side="right") - 1
            self._lengths[side] += np.bincount(places, minlength=len(EDGES))[: len(EDGES)]
        paths = pairs["path"] if "path" in pairs.columns else [""] * len(pairs)
        for query, document, path in zip(pairs["query"], pairs["document"], paths, strict=True):
            example = _Example(str(query), str(document), str(path))
            key = "\0".join((str(self.seed), *example)).encode(errors="surrogatepass")
            # Of all hashes the smallest are kept: in a heap, negated.
            number = -int.from_bytes(hashlib.blake2b(key, digest_size=8).digest())
            if len(self._drawn) < EXAMPLES:
                heapq.heappush(self._drawn, (number, example))
            else:
                heapq.heappushpop(self._drawn, (number, example))

    @property
    def examples(self) -> list[tuple[str, str, str]]:
        """At most twenty pairs: query, document and path."""
        drawn = [example for _, example in sorted(self._drawn, reverse=True)]
        return [(each.query, each.document, each.path) for each in drawn]

    def __str__(self) -> str:
        parts = [counted(self.pairs)]
        if self.counts:
            parts.append(as_text(["what", "number"], self._counted()))
        if self.pairs:
            header, rows = self._histogram()
            parts.append(as_text(header, rows))
        for query, document, path in self.examples:
            parts.append(f"{path}  {checks.shown(query, 60)}  ->  {checks.shown(document, 60)}")
        return "\n".join(parts)

    def to_markdown(self) -> str:
        """The same as tables of GitHub's Markdown, with 300 characters of each text."""
        parts = [f"{counted(self.pairs)}."]
        if self.counts:
            parts.append(as_markdown(["what", "number"], self._counted()))
        if self.pairs:
            parts.append(as_markdown(*self._histogram()))
            rows = [
                [path, checks.shown(query, 300), checks.shown(document, 300)]
                for query, document, path in self.examples
            ]
            parts.append(as_markdown(["path", "query", "document"], rows))
        return "\n\n".join(parts) + "\n"

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw how long queries and documents are, in characters, on a logarithmic scale.

        Args:
            ax: A matplotlib `Axes` to draw on; a new one by default.

        Returns:
            The `Axes`.

        Raises:
            TypeError: `ax` is something else.
            ValueError: No pairs have passed.
        """
        if not self.pairs:
            raise ValueError("No pairs have passed through `watch`: there is nothing to draw.")
        ax = axes_or_new(ax)
        edges = [*EDGES.tolist(), 2 * int(EDGES[-1])]
        for colour, (side, counts) in zip(COLOURS, self._lengths.items(), strict=False):
            ax.stairs(counts, edges, color=colour, linewidth=1.5, label=side)
        ax.set(
            xscale="log", xlim=(1, edges[self._steps()]), xlabel="characters", ylabel="texts",
            title=counted(self.pairs),
        )  # fmt: skip
        ax.legend(frameon=False)
        return ax

    def _steps(self) -> int:
        """Steps of the histograms up to the longest text."""
        return 1 + max(int(np.flatnonzero(counts)[-1]) for counts in self._lengths.values())

    def _counted(self) -> list[list[str]]:
        return [[name, f"{number:,}"] for name, number in self.counts.most_common()]

    def _histogram(self) -> tuple[list[str], list[list[str]]]:
        last = self._steps() + 1
        header = ["characters", *(f"{edge:,}+" for edge in EDGES[:last].tolist())]
        rows = [
            [side, *(f"{count:,}" for count in counts[:last].tolist())]
            for side, counts in self._lengths.items()
        ]
        return header, rows
