"""What readers of all formats share: rows are gathered as Arrow columns, and the unfit counted."""

from __future__ import annotations

import os
import pathlib
import warnings
from collections import Counter
from collections.abc import Sequence

import pyarrow as pa

from cptk import checks
from cptk.data.pairs import Pairs

ROWS = 4096
"""Rows that are Python's own before they become Arrow's, which take a fraction of the memory."""
KINDS = {"query": pa.string(), "document": pa.string(), "negatives": pa.list_(pa.string())}


class Gathered:
    """Pairs that come out of a file one by one.

    What cannot be trained on is left out and counted: empty texts, a query without a positive, a
    positive given before for the query, a negative that equals one of its positives.

    Args:
        file: Whose they are, for messages.
        max_negatives: How many negatives a pair has at most; None for all.
    """

    def __init__(self, file: pathlib.Path, max_negatives: object = None) -> None:
        self.file = checks.shown(os.fspath(file))
        self.most: int | None = None
        if max_negatives is not None:
            self.most = checks.integer("max_negatives", max_negatives, 0, ", or None for all")
        self.left_out: Counter[str] = Counter()
        self._rows: dict[str, list[object]] = {}
        self._batches: list[pa.Table] = []

    def add(
        self,
        query: str,
        positives: Sequence[str],
        negatives: Sequence[str],
        group: int | str | None = None,
    ) -> None:
        """A query with all that is known of it: one pair a positive, each with the negatives."""
        if not query.strip():
            self.left_out["empty queries"] += 1
            return
        texts = self._with_text(positives, "empty positives")
        right = list(dict.fromkeys(texts))
        self.left_out["positives given before"] += len(texts) - len(right)
        if not right:
            self.left_out["queries without a positive"] += 1
            return
        wrong = self.fit(negatives, right)[: self.most]
        for positive in right:
            self._append(query, positive, wrong, group)

    def fit(self, negatives: Sequence[str], positives: Sequence[str]) -> list[str]:
        """The negatives that are texts, and none of the positives."""
        texts = self._with_text(negatives, "empty negatives")
        wrong = [text for text in texts if text not in positives]
        self.left_out["negatives equal to a positive"] += len(texts) - len(wrong)
        return wrong

    def pairs(self) -> Pairs:
        """All pairs, with one warning that counts what was left out.

        Raises:
            ValueError: There are none.
        """
        counts = ", ".join(f"{count:,} {what}" for what, count in self.left_out.items() if count)
        self._to_arrow()
        if not self._batches:
            left_out = f" (left out: {counts})" if counts else ""
            raise ValueError(
                f"{self.file} holds no pairs{left_out}. Check that it is the file, and the format, "
                "that you mean."
            )
        if counts:
            warnings.warn(f"{self.file}: left out {counts}.", stacklevel=3)
        return Pairs(pa.concat_tables(self._batches))

    def _with_text(self, texts: Sequence[str], what: str) -> list[str]:
        found = [text for text in texts if text.strip()]
        self.left_out[what] += len(texts) - len(found)
        return found

    def _append(
        self, query: str, document: str, negatives: list[str], group: int | str | None
    ) -> None:
        row = {"query": query, "document": document, "negatives": negatives, "group": group}
        for name, value in row.items():
            if value is not None:
                self._rows.setdefault(name, []).append(value)
        if len(self._rows["query"]) == ROWS:
            self._to_arrow()

    def _to_arrow(self) -> None:
        columns = {name: pa.array(of, KINDS.get(name)) for name, of in self._rows.items()}
        if columns:
            self._batches.append(pa.table(columns))
        self._rows = {}


def unicode(text: str, line: int, name: str) -> str:
    r"""A text of a JSON file, which may hold half of a character, `\ud83d`."""
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            raise ValueError(
                f"line {line}: `{name}` should hold valid Unicode, without lone surrogates"
            ) from None
    return text
