"""Pairs of texts, with what is known of each: one table that training, mining and data share.

Most of the file is the documentation of one class; the work is done in `arrow`, `tables` and
`reading`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, TypeAlias, Unpack, overload

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet

from cptk import checks, files
from cptk.data import reading, tables, together
from cptk.data.columns import SIDES
from cptk.data.tables import Names
from cptk.types import Path

if TYPE_CHECKING:
    from cptk.data.summary import Summary

Row: TypeAlias = dict[str, object]
"""One pair: its values by the names of the columns."""


class Pairs:
    r"""Pairs of texts: equal-length columns `query` and `document`, and what is known of each pair.

    | column | holds | |
    |---|---|---|
    | `query`, `document` | strings | always there |
    | `negatives` | lists of 0 to k strings | documents that are wrong for the query |
    | `score` | numbers | how well the two fit |
    | `teacher` | numbers, or lists of them | what another model says of them |
    | `group` | integers or strings | which pairs belong together |
    | `source` | strings | the set that a pair comes from |
    | `weight` | numbers from 0 | how much a pair counts in training |
    | `guide` | lists of 2 + k vectors | another embedder's, of the query, document and negatives |

    All other columns (`path`, `line`, `name`, …) say where a pair comes from, and training leaves
    them alone. `ContrastiveTrainer.fit` and `PairDataset` take pairs as they are.

    Pairs are a thin layer over a `pyarrow.Table`: Arrow's columns are taken over, sliced and put
    together without a copy. They do not change; what changes them makes new ones.

    Args:
        data: A mapping of columns; a list of `(query, document)` tuples, of named tuples or of
            mappings; a frame (pandas, Polars); a table (Arrow, `datasets`).
        query: Name of the column that holds the queries, if it is another one.
        document: The same for documents, and so on.
        negatives: A name, or several: `["negative_1", "negative_2"]` become one list a pair.
        score: See above.
        teacher: See above.
        group: See above.
        source: See above.
        weight: See above.

    A column that bears the name of a role for which another one was named is left out.

    Raises:
        TypeError: Something else, or an item of another kind: None, NaN, bytes, a number.
        ValueError: No pairs, columns of unequal length or of unknown names, an empty text, a
            number that is not finite.

    Example:

    ```pycon
    >>> from cptk.data import Pairs
    >>> data = {"question": ["how?", "why?"], "answer": ["so.", "because."], "id": [7, 8]}
    >>> pairs = Pairs(data, query="question", document="answer")
    >>> pairs
    Pairs(2 pairs; query, document, id)
      query='how?', document='so.', id=7
      query='why?', document='because.', id=8
    >>> pairs["document"], pairs[0]["query"]
    (['so.', 'because.'], 'how?')

    ```
    """

    _table: pa.Table

    def __init__(
        self,
        data: object,
        *,
        query: str | None = None,
        document: str | None = None,
        negatives: str | Sequence[str] | None = None,
        score: str | None = None,
        teacher: str | None = None,
        group: str | None = None,
        source: str | None = None,
        weight: str | None = None,
    ) -> None:
        names: tables.Renames = {
            "query": query, "document": document, "negatives": negatives, "score": score,
            "teacher": teacher, "group": group, "source": source, "weight": weight,
        }  # fmt: skip
        self._table = tables.to_table(data, names)

    # === Files ===

    @classmethod
    def from_csv(
        cls,
        path: Path,
        *,
        delimiter: str | None = None,
        quoted: bool = True,
        header: Sequence[str] | None = None,
        **names: Unpack[Names],
    ) -> Pairs:
        r"""Pairs of a CSV or TSV file (or `.gz`).

        Args:
            path: The file, in UTF-8. Fields may stand in double quotes, and hold line ends there.
            delimiter: What stands between fields. Default: a tab where the name ends in `.tsv` or
                `.tab`, else a comma.
            quoted: Whether fields may stand in double quotes. In a file of False, as some TSV
                files are, quotes are letters.
            header: Names of the columns. Default: the first line has them.
            **names: Names of the file's own columns by role, as `Pairs` takes them. Where negatives
                are named, an empty field is none.

        Raises:
            FileNotFoundError: No such file.
            ValueError: A folder, a broken file, rows of unequal length, or as `Pairs` says.

        Example:

        ```pycon
        >>> import pathlib, tempfile
        >>> from cptk.data import Pairs
        >>> path = pathlib.Path(tempfile.mkdtemp()) / "faq.csv"
        >>> _ = path.write_text("question,answer\nhow?,so.\n")
        >>> Pairs.from_csv(path, query="question", document="answer")
        Pairs(1 pair; query, document)
          query='how?', document='so.'

        ```
        """
        texts = _named(names, *SIDES, "negatives", "source")
        gaps = _named(names, "negatives")
        table = reading.csv(path, delimiter, quoted, texts, header, gaps)
        return cls._read("from_csv", path, table, names)

    @classmethod
    def from_jsonl(cls, path: Path, **names: Unpack[Names]) -> Pairs:
        r"""Pairs of a file (or `.gz`) with one JSON object, or one list of two texts, a line.

        Args:
            path: The file, in UTF-8. Empty lines are passed over.
            **names: Names of the file's own columns by role, as `Pairs` takes them.

        Raises:
            FileNotFoundError: No such file.
            ValueError: A folder, a line that is not JSON, or as `Pairs` says.

        Example:

        ```pycon
        >>> import pathlib, tempfile
        >>> from cptk.data import Pairs
        >>> path = pathlib.Path(tempfile.mkdtemp()) / "pairs.jsonl"
        >>> _ = path.write_text('{"query": "how?", "document": "so.", "score": 0.5}\n')
        >>> Pairs.from_jsonl(path)["score"]
        [0.5]

        ```
        """
        return cls._read("from_jsonl", path, reading.jsonl(path), names)

    @classmethod
    def from_parquet(cls, path: Path, **names: Unpack[Names]) -> Pairs:
        """Pairs of a Parquet file.

        Args:
            path: The file.
            **names: Names of the file's own columns by role, as `Pairs` takes them.

        Raises:
            FileNotFoundError: No such file.
            ValueError: A folder, a broken file, or as `Pairs` says.

        Example:

        ```pycon
        >>> import pathlib, tempfile
        >>> from cptk.data import Pairs
        >>> path = pathlib.Path(tempfile.mkdtemp()) / "pairs.parquet"
        >>> Pairs([("how?", "so.")]).to_parquet(path)
        >>> len(Pairs.from_parquet(path))
        1

        ```
        """
        return cls._read("from_parquet", path, reading.parquet(path), names)

    @staticmethod
    def _read(
        method: str,
        path: Path,
        data: object,
        names: Names,
    ) -> Pairs:
        unknown = sorted(set(names) - set(tables.RENAMED))
        if unknown:
            raise TypeError(
                f"Pairs.{method} takes the roles {list(tables.RENAMED)}. Received: {unknown[0]!r}."
            )
        try:
            return Pairs._of(tables.to_table(data, names, f"Pairs.{method}(path"))
        except (TypeError, ValueError) as error:
            raise type(error)(f"{checks.shown(os.fspath(path))}: {error}") from None

    def to_parquet(self, path: Path) -> None:
        """Write a Parquet file, which `from_parquet` reads; an older one is replaced in one step.

        Args:
            path: Where.

        Raises:
            FileNotFoundError: The folder is not there.

        Example:

        ```pycon
        >>> import pathlib, tempfile
        >>> from cptk.data import Pairs
        >>> path = pathlib.Path(tempfile.mkdtemp()) / "pairs.parquet"
        >>> Pairs([("how?", "so.")]).to_parquet(path)
        >>> Pairs.from_parquet(path)[0]
        {'query': 'how?', 'document': 'so.'}

        ```
        """
        place = checks.path(path, "path")
        if place.is_dir():
            raise ValueError(f"`path` should be a file. {str(place)!r} is a folder.")
        if not place.parent.is_dir():
            raise FileNotFoundError(f"There is no folder {str(place.parent)!r}. Make it first.")
        with files.replacing(place, ".parquet") as file:
            parquet.write_table(self.to_arrow(), file)

    def to_arrow(self) -> pa.Table:
        """The `pyarrow.Table` itself, without a copy.

        Example:

        ```pycon
        >>> from cptk.data import Pairs
        >>> Pairs([("how?", "so.")]).to_arrow().num_rows
        1

        ```
        """
        return self._table

    # === Parts ===

    def split(self, size: float, seed: int = 0) -> tuple[Pairs, Pairs]:
        """Draw some pairs at random, for validation, say; and the others.

        No text of one part, query or document, is a query or a document of the other. Pairs that
        hang together by texts that they share are drawn together where all of them fit, so that a
        few less than `size` may be drawn. `cptk.mining`'s `split_by_module` keeps functions of one
        module together.

        Args:
            size: How many to draw: an integer, or a share between 0 and 1.
            seed: Of the draw.

        Returns:
            `(drawn, others)`, at least one pair each, both in the order of these pairs.

        Raises:
            TypeError: No number.
            ValueError: As many as there are, or none; or all pairs hang together.

        Example:

        ```pycon
        >>> from cptk.data import Pairs
        >>> held_out, training = Pairs([("a", "b"), ("c", "d"), ("e", "f")]).split(1, seed=0)
        >>> len(held_out), len(training)
        (1, 2)

        ```
        """
        count = len(self)
        number = tables.count_of(size, count)
        order = np.random.default_rng(checks.integer("seed", seed, 0)).permutation(count)
        repeated = together.repeated_texts(*(self.to_arrow()[side] for side in SIDES))
        drawn = together.draw(order.tolist(), number, count, *repeated)
        return self._take(np.flatnonzero(drawn)), self._take(np.flatnonzero(~drawn))

    def sample(self, n: int, seed: int = 0) -> Pairs:
        """`n` different pairs drawn at random, in the order in which they were drawn.

        Args:
            n: How many; at most as many as there are.
            seed: Of the draw.

        Raises:
            TypeError: No integer.
            ValueError: Less than 1, or more than there are.

        Example:

        ```pycon
        >>> from cptk.data import Pairs
        >>> len(Pairs([("a", "b"), ("c", "d"), ("e", "f")]).sample(2, seed=0))
        2

        ```
        """
        if checks.integer("n", n, 1) > len(self):
            raise ValueError(
                f"`n` should be at most the number of pairs, {len(self)}. Received: {n}."
            )
        draw = np.random.default_rng(checks.integer("seed", seed, 0))
        return self._take(draw.permutation(len(self))[:n])

    def filter(self, keep: Callable[[Row], object] | Iterable[object]) -> Pairs:
        """The pairs that are to be kept, in their order.

        Args:
            keep: A function of a row, `{"query": …, "document": …, …}`; or n booleans.

        Raises:
            TypeError: Something else.
            ValueError: Not one boolean a pair.

        Example:

        ```pycon
        >>> from cptk.data import Pairs
        >>> pairs = Pairs([("a film", "is good"), ("a", "b")])
        >>> pairs.filter(lambda row: len(row["query"]) > 3)["query"]
        ['a film']

        ```
        """
        if callable(keep):
            mask = np.fromiter((bool(keep(row)) for row in self), dtype=bool, count=len(self))
        else:
            mask = tables.mask_of(keep, len(self))
        return self._of(self.to_arrow().filter(pa.array(mask)))

    @staticmethod
    def concat(parts: Iterable[Pairs]) -> Pairs:
        """Pairs one after another, without a copy.

        A part that lacks a column of another one's has gaps there, and no negatives. Numbers and
        groups have no gaps: all parts have them, or none.

        Args:
            parts: One or more `Pairs`.

        Raises:
            TypeError: Something else than `Pairs`, or a column that is text here and number there.
            ValueError: No parts, or one that lacks a number that another one has.

        Example:

        ```pycon
        >>> from cptk.data import Pairs
        >>> len(Pairs.concat([Pairs([("a", "b")]), Pairs([("c", "d")])]))
        2

        ```
        """
        several = list(checks.iterated(parts, "parts", "Pairs"))
        for part in several:
            if not isinstance(part, Pairs):
                raise TypeError(f"`parts` should be Pairs. Received: {checks.shown(part)}.")
        return Pairs._of(tables.concatenated([part.to_arrow() for part in several]))

    def describe(self) -> Summary:
        """Lengths, duplicates and what else is there, to be printed; `.plot()` draws the lengths.

        Example:

        ```pycon
        >>> from cptk.data import Pairs
        >>> summary = Pairs([("how?", "so."), ("how?", "thus.")]).describe()
        >>> summary.duplicates["query"], summary.lengths["document"]["50%"]
        (1, 4.0)

        ```
        """
        from cptk.data.summary import Summary

        return Summary.of(self.to_arrow())

    # === What Python asks of a collection ===

    @property
    def columns(self) -> list[str]:
        """Names of the columns, the two sides first."""
        return list(self.to_arrow().column_names)

    def __len__(self) -> int:
        return int(self.to_arrow().num_rows)

    def __iter__(self) -> Iterator[Row]:
        for batch in self.to_arrow().to_batches(max_chunksize=4096):
            yield from batch.to_pylist()

    @overload
    def __getitem__(self, key: str) -> list[object]: ...

    @overload
    def __getitem__(self, key: slice) -> Pairs: ...

    @overload
    def __getitem__(self, key: int) -> Row: ...

    def __getitem__(self, key: str | slice | int) -> list[object] | Pairs | Row:
        """A column as a list, a slice as `Pairs`, or a pair as a mapping."""
        table = self.to_arrow()
        if isinstance(key, str):
            if key not in table.column_names:
                raise KeyError(f"There is no column {key!r}. Columns: {table.column_names}.")
            return list(table[key].to_pylist())
        if isinstance(key, slice):
            start, stop, step = key.indices(len(self))
            if step == 1:
                return self._of(table.slice(start, max(0, stop - start)))
            return self._take(np.arange(start, stop, step))
        if not checks.is_integer(key):
            raise TypeError(
                "Pairs are read by the name of a column, a slice, or the number of a pair. "
                f"Received: {checks.shown(key)}."
            )
        if not -len(self) <= key < len(self):
            raise IndexError(f"Pair {key} of {len(self)}.")
        row: Row = table.slice(int(key) % len(self), 1).to_pylist()[0]
        return row

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Pairs):
            return NotImplemented
        return bool(tables.large(self.to_arrow()).equals(tables.large(other.to_arrow())))

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        rows = [
            "\n  " + ", ".join(f"{name}={checks.shown(value, 60)}" for name, value in row.items())
            for row in self[:2]
        ]
        return (
            f"{type(self).__name__}({tables.counted(len(self))}; {', '.join(self.columns)})"
            + "".join(rows)
        )

    @classmethod
    def _of(cls, table: pa.Table) -> Pairs:
        """Pairs of a table that has been checked."""
        made = Pairs.__new__(Pairs)
        made._table = table
        return made

    def _take(self, rows: np.ndarray) -> Pairs:
        return self._of(tables.taken(self.to_arrow(), rows))


def _named(names: Mapping[str, object], *roles: str) -> list[str]:
    """The columns of a file that some roles may have."""
    found = [*roles]
    for role in roles:
        named = names.get(role)
        several = named if isinstance(named, list | tuple) else [named]
        found += [name for name in several if isinstance(name, str)]
    return found
