"""What pairs are like: how many, how long, and which stand in them twice."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from cptk.data.columns import SIDES
from cptk.data.tables import counted

if TYPE_CHECKING:
    from matplotlib.axes import Axes

QUANTILES = {"min": 0.0, "5%": 0.05, "25%": 0.25, "50%": 0.5, "75%": 0.75, "95%": 0.95, "max": 1.0}
COLOURS = ("#0072B2", "#D55E00", "#009E73")  # Okabe & Ito 2008, Color Universal Design


@dataclass(frozen=True)
class Summary:
    """What `Pairs.describe` finds; `print` shows it as a table.

    Attributes:
        pairs: Number of pairs.
        columns: Names of the columns.
        lengths: Quantiles of the number of characters, by column of texts, then by name: "min",
            "5%", "25%", "50%", "75%", "95%", "max".
        duplicates: How many queries, documents and pairs ("query", "document", "pair") stand there
            beside an earlier equal one.
        negatives: Mean number of negatives a pair; None without that column.

    Example:

    ```pycon
    >>> from cptk.data import Pairs
    >>> print(Pairs([("how?", "so."), ("how?", "thus.")]).describe())
    2 pairs; query, document
    characters    min     5%    25%    50%    75%    95%    max
    query           4      4      4      4      4      4      4
    document        3      3      4      4      4      5      5
    Duplicates: query 1, document 0, pair 0.

    ```
    """

    pairs: int
    columns: tuple[str, ...]
    lengths: dict[str, dict[str, float]]
    duplicates: dict[str, int]
    negatives: float | None = None
    _counts: dict[str, NDArray[np.int64]] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def of(cls, table: pa.Table) -> Summary:
        """The summary of a table of pairs."""
        counts = {side: _characters(table[side]) for side in SIDES}
        mean = None
        if "negatives" in table.column_names and table.num_rows:
            lists = table["negatives"]
            mean = float(pc.mean(pc.list_value_length(lists)).as_py())
            flat = [pc.list_flatten(chunk) for chunk in lists.chunks]
            counts["negatives"] = _characters(pa.chunked_array(flat, lists.type.value_type))
        keys = {"query": ["query"], "document": ["document"], "pair": list(SIDES)}
        return cls(
            table.num_rows,
            tuple(table.column_names),
            {name: _quantiles(values) for name, values in counts.items()},
            {name: table.num_rows - _distinct(table, key) for name, key in keys.items()},
            mean,
            counts,
        )

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw how long the texts are, in characters, on a logarithmic scale.

        Args:
            ax: A matplotlib `Axes` to draw on; a new one by default.

        Returns:
            The `Axes`.

        Raises:
            TypeError: `ax` is something else.
            ValueError: There are no pairs.

        Example:

        ```pycon
        >>> from cptk.data import Pairs
        >>> Pairs([("how?", "so."), ("why?", "because.")]).describe().plot().get_xlabel()
        'characters'

        ```
        """
        if not self.pairs:
            raise ValueError("There are no pairs to draw.")
        ax = axes_or_new(ax)
        longest = max(int(values.max(initial=1)) for values in self._counts.values())
        bins = np.geomspace(1, max(longest, 2), 41)
        for colour, (name, values) in zip(COLOURS, self._counts.items(), strict=False):
            clipped = np.maximum(values, 1)
            ax.hist(
                clipped, bins.tolist(), histtype="step", color=colour, linewidth=1.5, label=name
            )
        ax.set(xscale="log", xlabel="characters", ylabel="texts", title=f"{self.pairs:,} pairs")
        ax.legend(frameon=False)
        return ax

    def __str__(self) -> str:
        lines = [f"{counted(self.pairs)}; {', '.join(self.columns)}"]
        if self.pairs:
            lines.append("characters" + "".join(f"{name:>7}" for name in QUANTILES))
        for name, values in self.lengths.items():
            if values:
                figures = "".join(f"{round(value):>7,}" for value in values.values())
                lines.append(f"{name:<10}{figures}")
        found = ", ".join(f"{name} {number:,}" for name, number in self.duplicates.items())
        lines.append(f"Duplicates: {found}.")
        if self.negatives is not None:
            lines.append(f"Negatives: {self.negatives:.1f} a pair.")
        return "\n".join(lines)


def axes_or_new(ax: Axes | None) -> Axes:
    """The axes given, or new ones of `pyplot`'s; `TypeError` for something else."""
    if ax is None:
        from matplotlib import pyplot

        return pyplot.subplots(figsize=(5.0, 3.5), layout="constrained")[1]
    if not hasattr(ax, "hist"):
        raise TypeError(f"`ax` must be a matplotlib Axes. Received: {type(ax).__name__}.")
    return ax


def _characters(column: pa.ChunkedArray) -> NDArray[np.int64]:
    return np.asarray(pc.utf8_length(column).to_numpy(), dtype=np.int64)


def _quantiles(values: NDArray[np.int64]) -> dict[str, float]:
    if not len(values):
        return {}
    found = np.quantile(values, list(QUANTILES.values()))
    return dict(zip(QUANTILES, map(float, found), strict=True))


def _distinct(table: pa.Table, key: list[str]) -> int:
    return int(table.select(key).group_by(key).aggregate([]).num_rows)
