"""What a search finds: rows of the index with their scores."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, overload

import pyarrow as pa

from cptk import tables
from cptk.search.exact import Floats, Integers
from cptk.search.rows import ID, TEXT, Id

_WIDEST = 72
"""Characters of a cell, when it is printed."""


class Hit(NamedTuple):
    """One row that was found.

    Attributes:
        id: The row's id.
        score: How near it is: the cosine, or with `hybrid` the sum of reciprocal ranks.
        text: Its text, where the index has texts.
        metadata: Its other columns.

    Example:

    ```pycon
    >>> from cptk.search import Index
    >>> hit = Index().add([[1.0, 0.0]], ids=["a"], metadata={"page": [7]}).search([1.0, 0.0])[0]
    >>> hit.id, hit.score, hit.metadata["page"]
    ('a', 1.0, 7)

    ```
    """

    id: Id
    score: float
    text: str | None
    metadata: Mapping[str, Any]


class Hits(Sequence[Hit]):
    """What a query found, the best first; it prints as a table.

    Attributes:
        scores: (n,) float32, descending.

    Example:

    ```pycon
    >>> from cptk.search import Index
    >>> index = Index().add([[0.0, 1.0], [1.0, 0.0]], metadata={"text": ["open", "sort"]})
    >>> hits = index.search([0.8, 0.6], k=2)
    >>> hits.ids, hits.texts
    ([1, 0], ['sort', 'open'])
    >>> print(hits)
    score   id  text
    ──────  ──  ────
    0.8000  1   sort
    0.6000  0   open

    ```
    """

    def __init__(self, rows: pa.Table, places: Integers, scores: Floats) -> None:
        self._rows = rows
        self._places = places
        self.scores = scores

    @property
    def ids(self) -> list[Id]:
        """The ids of the rows."""
        return self._column(ID)

    @property
    def texts(self) -> list[str] | None:
        """The texts of the rows; None where the index has none."""
        return self._column(TEXT) if TEXT in self._rows.column_names else None

    def to_arrow(self) -> pa.Table:
        """The rows that were found, with all their columns, and before these `score`."""
        found = self._rows.take(pa.array(self._places))
        return found.add_column(0, "score", pa.array(self.scores))

    def _column(self, name: str) -> list[Any]:
        column = self._rows[name]
        return [column[place].as_py() for place in self._places.tolist()]

    @overload
    def __getitem__(self, index: int) -> Hit: ...
    @overload
    def __getitem__(self, index: slice) -> Hits: ...
    def __getitem__(self, index: int | slice) -> Hit | Hits:
        if isinstance(index, slice):
            return Hits(self._rows, self._places[index], self.scores[index])
        place, names = int(self._places[index]), self._rows.column_names
        row = {name: self._rows[name][place].as_py() for name in names}
        return Hit(row.pop(ID), float(self.scores[index]), row.pop(TEXT, None), row)

    def __len__(self) -> int:
        return len(self._places)

    def __iter__(self) -> Iterator[Hit]:
        return (self[i] for i in range(len(self)))

    def _cells(self) -> tuple[list[str], list[list[str]]]:
        names = ["score", *self._rows.column_names]
        cells = [
            [f"{hit.score:.4f}", str(hit.id), *([] if hit.text is None else [hit.text])]
            + [str(value) for value in hit.metadata.values()]
            for hit in self
        ]
        order = ["score", ID, *(n for n in names if n == TEXT)]
        order += [n for n in names if n not in order]
        return order, [[_short(cell) for cell in row] for row in cells]

    def __repr__(self) -> str:
        return tables.as_text(*self._cells()) if len(self) else "Hits(none)"

    def _repr_html_(self) -> str:
        return tables.as_html(*self._cells())


def _short(cell: str) -> str:
    line = " ".join(cell.split())
    return line if len(line) <= _WIDEST else line[: _WIDEST - 1] + "…"
