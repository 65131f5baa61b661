"""`TokenStore`: pairs tokenised once, on disk, in Arrow shards that are read by memory map."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, Self

import numpy as np
import pyarrow as pa
from numpy.typing import ArrayLike, NDArray

from cptk import checks, files
from cptk.data import store_writing
from cptk.data.columns import NUMBERS, SIDES
from cptk.data.pairs import Pairs
from cptk.data.tables import counted
from cptk.data.token_shards import Shard
from cptk.progress import Progress, is_terminal, progress
from cptk.types import Config, Path, Preprocessor, TokenBatch

_TOKENS = (*SIDES, "negatives")
"""Columns that hold ids."""


class TokenStore:
    """Pairs tokenised once, in a folder of Arrow IPC shards, read without being loaded.

    A folder holds `manifest.json` (tokenizer, roles, columns, counts, SHA-256 of each shard),
    `shard-000000.arrow` and so on, which pyarrow, `datasets`, polars and DuckDB open, and
    `repeated.npy`, which texts occur in several pairs. A shard's columns are the ids `query` and
    `document` (lists of uint16, or int32 for vocabularies above 65,536), `negatives` (lists of
    such), a digest of each side, and all others that the pairs had; the texts themselves
    (`query_text`, …) if asked.

    `trainer.fit(store, batch_size=12288)` takes a store as it is: batches are a function of (seed,
    epoch, step), shuffled over the whole store without an order in memory, and no text occurs twice
    in a batch.

    Args:
        folder: A store that `write` has made.

    Raises:
        FileNotFoundError: There is no store, or one that was not written to its end.
        ValueError: The manifest or a shard is damaged, or was written by another version.

    Example:

    ```pycon
    >>> import cptk
    >>> pairs = cptk.data.Pairs([("sort", "sorted(x)"), ("open", "open(path)")])
    >>> store = cptk.data.TokenStore.write("my_store", pairs, embedder.preprocessor, verbose=0)
    >>> store
    TokenStore('my_store', 2 pairs; query, document)
    >>> store.tokens("query", [1])["token_ids"].shape
    (1, 6)
    >>> store.decode([1], embedder.preprocessor)["document"]
    ['{open(path)}']

    ```
    """

    def __init__(self, folder: Path) -> None:
        self.folder = checks.path(folder, "folder")
        place = self.folder / store_writing.MANIFEST
        if not place.is_file():
            begun = self.folder.is_dir() and any(self.folder.glob("shard-*.arrow"))
            raise FileNotFoundError(
                f"{str(self.folder)!r} holds no token store: {store_writing.MANIFEST} is missing. "
                + (
                    "It was not written to its end: call `TokenStore.write` again with the same "
                    "pairs, and it goes on."
                    if begun
                    else "Make one by `TokenStore.write(folder, pairs, preprocessor)`."
                )
            )
        self.manifest: Config = files.read_json(place, "The manifest")
        try:
            known = self.manifest["format"], self.manifest["version"]
            names = [(str(each["file"]), int(each["rows"])) for each in self.manifest["shards"]]
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"{str(place)!r} is no manifest of a token store ({error!r} is missing or wrong). "
                "Write the store again: its shards are kept."
            ) from None
        if known != (store_writing.FORMAT, store_writing.VERSION):
            raise ValueError(
                f"{str(place)!r} is of format {known}, and this cptk reads "
                f"{(store_writing.FORMAT, store_writing.VERSION)}. Write the store again."
            )
        self._shards = [Shard(self.folder / name) for name, _ in names]
        for shard, (name, rows) in zip(self._shards, names, strict=True):
            if len(shard) != rows:
                raise ValueError(
                    f"The shard {name!r} has {len(shard):,} pairs, and the manifest says {rows:,}. "
                    "Delete it and write the store again: the other shards are kept."
                )
        self._begins = np.cumsum([0, *map(len, self._shards)])

    @classmethod
    def write(
        cls,
        folder: Path,
        pairs: object,
        preprocessor: Preprocessor,
        *,
        rows_per_shard: int = 65_536,
        keep_text: bool = False,
        part: tuple[int, int] = (0, 1),
        verbose: Literal["auto"] | int = "auto",
    ) -> Self | None:
        """Tokenise pairs into a folder, or go on where an earlier call was killed.

        Shards are written one by one, each whole or not at all; those that are there are compared
        with the pairs, not made again. The files are the same bytes however often it was killed,
        and by however many processes they were written.

        Args:
            folder: Where; it is made where there is none.
            pairs: Pairs in any form that `fit` takes, or an iterable of such, which is read once
                and never held: `Pairs` of a file at a time, say. The same on each call.
            preprocessor: The embedder's (`embedder.preprocessor`); of a KerasHub embedder
                `cptk.models.text_reader(embedder)`. Texts are cut at its `sequence_length`.
            rows_per_shard: Pairs in a shard.
            keep_text: Whether to keep the texts beside the ids.
            part: `(k, n)`: this process is number k of n, and writes every n-th shard. All of them
                read all pairs; the one that ends last writes the manifest.
            verbose: 1 shows progress, 0 none, "auto" only in a terminal or notebook.

        Returns:
            The store; None where other processes have not written their parts yet.

        Raises:
            TypeError: Pairs, or a preprocessor, that are none.
            ValueError: Bad pairs; or the folder holds other pairs', another embedder's or other
                columns' shards, or another process is at it.
            OSError: The disk is full: what was written is kept.

        Example:

        ```pycon
        >>> import cptk
        >>> pairs = [("sort", "sorted(x)"), ("open", "open(path)"), ("add", "a + b")]
        >>> write = cptk.data.TokenStore.write
        >>> options = {"rows_per_shard": 2, "verbose": 0}
        >>> write("in_parts", pairs, embedder.preprocessor, part=(1, 2), **options) is None
        True
        >>> len(write("in_parts", pairs, embedder.preprocessor, part=(0, 2), **options))
        3

        ```
        """
        place = checks.path(folder, "folder")
        plan = store_writing.Plan(
            store_writing.settings_of(preprocessor),
            checks.integer("rows_per_shard", rows_per_shard, 1),
            checks.switch("keep_text", keep_text),
        )
        part = _checked_part(part)
        bar = _bar(pairs, verbose)
        with store_writing.writing(place, part):
            count = store_writing.write_shards(place, pairs, preprocessor, plan, 0, part, bar)
            extra = place / store_writing.shard_name(count)
            if extra.exists():
                raise ValueError(
                    f"{str(place)!r} holds more shards than these pairs have: it was written of "
                    "other pairs. Choose another folder, or delete this one."
                )
            complete = store_writing.write_manifest(place, count)
        return cls(place) if complete else None

    def append(
        self,
        pairs: object,
        preprocessor: Preprocessor,
        *,
        rows_per_shard: int = 65_536,
        verbose: Literal["auto"] | int = "auto",
    ) -> TokenStore:
        """The store with more pairs after its own. Killed and called again, it goes on.

        Args:
            pairs: As of `write`, with the columns of the store.
            preprocessor: The one that the store was written with, or an equal one.
            rows_per_shard: As of `write`.
            verbose: As of `write`.

        Returns:
            The store, opened anew.

        Raises:
            TypeError, ValueError, OSError: As `write` says; or the columns are others.

        Example:

        ```pycon
        >>> import cptk
        >>> write = cptk.data.TokenStore.write
        >>> store = write("grows", [("sort", "sorted(x)")], embedder.preprocessor, verbose=0)
        >>> len(store.append([("open", "open(path)")], embedder.preprocessor, verbose=0))
        2

        ```
        """
        settings = store_writing.settings_of(preprocessor)
        self._check_settings(settings)
        size = checks.integer("rows_per_shard", rows_per_shard, 1)
        plan = store_writing.Plan(settings, size, bool(self.manifest["text"]))
        first = len(self._shards)
        bar = _bar(pairs, verbose)
        with store_writing.writing(self.folder, (0, 1)):
            count = store_writing.write_shards(
                self.folder, pairs, preprocessor, plan, first, (0, 1), bar
            )
            added = Shard(self.folder / store_writing.shard_name(first)).batch.schema
            mine = self._shards[0].batch.schema
            if not added.equals(mine, check_metadata=False):
                for number in range(first, count):
                    os.unlink(self.folder / store_writing.shard_name(number))
                raise ValueError(
                    f"The store has the columns {mine.names}, and these pairs would have "
                    f"{added.names}, or other types in them. Nothing was added."
                )
            store_writing.write_manifest(self.folder, count)
        return TokenStore(self.folder)

    # === What is in it ===

    def __len__(self) -> int:
        return int(self._begins[-1])

    @property
    def columns(self) -> list[str]:
        """Names of the columns, as the pairs had them."""
        names = self._shards[0].batch.schema.names
        hidden = {f"{name}_{what}" for name in _TOKENS for what in ("digest", "text")}
        return [name for name in names if name not in hidden]

    @property
    def sequence_length(self) -> int:
        """Tokens at which texts were cut."""
        return int(self.manifest["sequence_length"])

    def check_read_by(self, preprocessor: Preprocessor) -> None:
        """Raise `ValueError` where the ids are not those that a preprocessor gives."""
        wanted = store_writing.settings_of(preprocessor)
        if wanted["sequence_length"] > self.sequence_length:  # a shorter store is only shorter
            wanted["sequence_length"] = self.sequence_length
        self._check_settings(wanted)

    def _check_settings(self, wanted: Config) -> None:
        """Raise `ValueError` where what decides on the ids differs from the store's."""
        differing = [name for name, value in wanted.items() if self.manifest.get(name) != value]
        if differing:
            parts = [
                f"{name} (of the store {checks.shown(self.manifest.get(name), 60)}, of the "
                f"embedder {checks.shown(wanted[name], 60)})"
                for name in differing
            ]
            raise ValueError(
                f"The store {str(self.folder)!r} was written for another embedder. They differ in "
                f"{'; '.join(parts)}. Write a store for this one, or take the embedder that it was "
                "written for."
            )

    def lengths(self, column: str, rows: ArrayLike) -> NDArray[np.int64]:
        """(m,) how many tokens some texts have, their roles' among them.

        Args:
            column: "query" or "document".
            rows: (m,) numbers of pairs, from 0.

        Raises:
            KeyError: No such column.
            IndexError: No such pair.
        """
        if column not in SIDES:
            raise KeyError(f"`column` should be one of {SIDES}. Received: {checks.shown(column)}.")
        wanted = self._rows(rows)
        shards, own = self._places(wanted)
        lengths = np.zeros(len(wanted), np.int64)
        for number in np.unique(shards):
            here = shards == number
            lengths[here] = self._shards[number].ragged(column).lengths(own[here])
        return lengths

    def tokens(
        self, column: str, rows: ArrayLike, length: int | Callable[[int], int] | None = None
    ) -> TokenBatch:
        """The ids of some texts, padded on the right.

        Args:
            column: "query" or "document".
            rows: (m,) numbers of pairs, from 0.
            length: To pad to, or a function from that of the longest to it; by default that of the
                longest.

        Returns:
            `{"token_ids": (m, length) int32, "padding_mask": the same shape, bool}`.

        Raises:
            KeyError: No such column.
            IndexError: No such pair.
            ValueError: A `length` below that of the longest.
        """
        wanted = self._rows(rows)
        lengths = self.lengths(column, wanted)
        shards, own = self._places(wanted)
        longest = int(lengths.max(initial=1))
        if callable(length):
            length = length(longest)
        if length is not None and length < longest:
            raise ValueError(f"`length` should be {longest} or more. Received: {length}.")
        mask = np.arange(length or longest) < lengths[:, None]
        token_ids = np.zeros(mask.shape, np.int32)
        for number in np.unique(shards):
            here = np.flatnonzero(shards == number)
            some = np.zeros((len(here), mask.shape[1]), np.int32)
            some[mask[here]] = self._shards[number].ragged(column).take(own[here])
            token_ids[here] = some
        return TokenBatch(token_ids=token_ids, padding_mask=mask)

    def negatives(self, rows: ArrayLike) -> list[list[NDArray[np.int32]]]:
        """The ids of the hard negatives of some pairs: for each a list of 0 to k arrays."""
        if "negatives" not in self.columns:
            raise KeyError(f"The store has no negatives. Columns: {self.columns}.")
        found = []
        wanted = self._rows(rows)
        for number, row in zip(*self._places(wanted), strict=True):
            begins, ids = self._shards[number].nested("negatives")
            places = range(begins[row], begins[row + 1])
            found.append(
                [ids.values[ids.offsets[i] : ids.offsets[i + 1]].astype(np.int32) for i in places]
            )
        return found

    def most_negatives(self) -> int:
        """The most hard negatives that a pair has; 0 without such a column."""
        if "negatives" not in self.columns:
            return 0
        begins = (shard.nested("negatives")[0] for shard in self._shards)
        return max(int(np.diff(each).max(initial=0)) for each in begins)

    def numbers(self, column: str, rows: ArrayLike) -> NDArray[np.float32]:
        """A column of numbers of some pairs, float32: `(m,)`, or `(m, k)` of lists of k each."""
        if column not in NUMBERS or column not in self.columns:
            has = [name for name in self.columns if name in NUMBERS]
            raise KeyError(f"The store has the columns of numbers {has}. Received: {column!r}.")
        return np.asarray(self.values(column, rows), np.float32)

    def values(self, column: str, rows: ArrayLike) -> list[object]:
        """A column of some pairs as it stands: of groups, sources, or where pairs come from."""
        known = {*self.columns} - {*SIDES, "negatives"}
        if column not in known:
            raise KeyError(f"The store has the columns {sorted(known)}. Received: {column!r}.")
        return list(self._take([column], rows)[column].to_pylist())

    def decode(self, rows: ArrayLike, preprocessor: Preprocessor) -> dict[str, list[str]]:
        """The texts of some pairs as their ids spell them, in their roles.

        Args:
            rows: (m,) numbers of pairs.
            preprocessor: The one that the store was written with, or an equal one.

        Returns:
            `{"query": m texts, "document": m texts}`.
        """
        self.check_read_by(preprocessor)
        spell = preprocessor.tokenizer.detokenize
        found = {}
        for side in SIDES:
            tokens = self.tokens(side, rows)
            ids = zip(tokens["token_ids"], tokens["padding_mask"], strict=True)
            texts = [spell(row[mask].tolist()) for row, mask in ids]
            found[side] = [text if isinstance(text, str) else str(text) for text in texts]
        return found

    def pairs(self, rows: ArrayLike | None = None) -> Pairs:
        """Some pairs, or all of them, as they were before, if the store has kept the texts.

        Raises:
            ValueError: It has not: `decode` spells the ids.
        """
        if not self.manifest["text"]:
            raise ValueError(
                "The store was written without its texts. Write it with keep_text=True, or spell "
                "the ids: store.decode(rows, preprocessor)."
            )
        kept = [f"{name}_text" if name in _TOKENS else name for name in self.columns]
        table = self._take(kept, np.arange(len(self)) if rows is None else rows)
        return Pairs(table.rename_columns(self.columns))

    def repeated(self) -> tuple[NDArray[np.int64], Mapping[str, NDArray[np.int64]]]:
        """The pairs of which a side occurs in another one, too.

        Returns:
            (r,) their numbers, ascending, and of each side (r,) numbers that are equal for equal
            texts.
        """
        place = self.folder / store_writing.REPEATED
        try:
            found = np.load(place, allow_pickle=False)
        except (OSError, ValueError) as error:
            raise ValueError(
                f"{str(place)!r} is missing or damaged ({error}). Write the store again: its "
                "shards are kept."
            ) from None
        return found[0], dict(zip(SIDES, found[1:], strict=True))

    def verify(self) -> None:
        """Read every shard and compare its SHA-256 with the manifest's.

        Raises:
            ValueError: Some differ; the message names them.
        """
        damaged = [
            each["file"]
            for each in self.manifest["shards"]
            if files.sha256_of(self.folder / each["file"]) != each["sha256"]
        ]
        if damaged:
            raise ValueError(
                f"Damaged shards in {str(self.folder)!r}: {', '.join(damaged)}. Delete them and "
                "write the store again: the others are kept."
            )

    def describe(self) -> dict[str, object]:
        """Counts of pairs, tokens and bytes, and of pairs whose texts occur several times."""
        shards = self.manifest["shards"]
        tokens = self.manifest["tokens"]
        return {
            "pairs": len(self),
            "shards": len(shards),
            "bytes": sum(each["bytes"] for each in shards),
            "tokens": dict(tokens),
            "mean_tokens": {side: tokens[side] / len(self) for side in SIDES},
            "repeated": self.manifest["repeated"],
            "columns": self.columns,
            "tokenizer": self.manifest["tokenizer"],
            "sequence_length": self.sequence_length,
        }

    def __repr__(self) -> str:
        return f"TokenStore({str(self.folder)!r}, {counted(len(self))}; {', '.join(self.columns)})"

    # === Rows ===

    def _rows(self, rows: ArrayLike) -> NDArray[np.int64]:
        found = np.asarray(rows)
        if found.ndim != 1 or (found.size and found.dtype.kind not in "iu"):
            raise TypeError(f"`rows` should be integers, (m,). Received: {checks.shown(rows)}.")
        if found.size and not (found.min() >= 0 and found.max() < len(self)):
            raise IndexError(
                f"The store has pairs 0 to {len(self) - 1}. Received: {checks.shown(rows)}."
            )
        return found.astype(np.int64)

    def _places(self, rows: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The shard of each row, and its number there."""
        shards = np.searchsorted(self._begins, rows, side="right") - 1
        return shards, rows - self._begins[shards]

    def _take(self, names: list[str], rows: ArrayLike) -> pa.Table:
        """Some columns of some rows, in the order of the rows."""
        wanted = self._rows(rows)
        shards, own = self._places(wanted)
        parts, places = [], []
        for number in np.unique(shards):
            here = np.flatnonzero(shards == number)
            batch = self._shards[number].batch.select(names)
            parts.append(pa.Table.from_batches([batch.take(pa.array(own[here]))]))
            places.append(here)
        joined = pa.concat_tables([part.replace_schema_metadata() for part in parts])
        return joined.take(pa.array(np.argsort(np.concatenate(places))))


def _checked_part(part: object) -> tuple[int, int]:
    if (
        isinstance(part, Sequence)
        and len(part) == 2
        and all(map(checks.is_integer, part))
        and 0 <= part[0] < part[1]
    ):
        return int(part[0]), int(part[1])
    raise ValueError(
        f"`part` should be (k, n) with 0 <= k < n, this process's number and how many there are. "
        f"Received: {checks.shown(part)}."
    )


def _bar(pairs: object, verbose: str | int) -> Progress | None:
    """What shows the progress; None where nobody looks on, or their number is not known."""
    shows = is_terminal() if verbose == "auto" else bool(verbose)
    known = len(pairs) if isinstance(pairs, Sequence | Pairs) else 0
    return progress(known, "pair") if known and shows else None
