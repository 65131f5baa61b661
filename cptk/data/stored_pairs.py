"""What stands in a token store, read by the numbers of its pairs."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping

import numpy as np
import pyarrow as pa
from numpy.typing import ArrayLike, NDArray

from cptk import checks, files
from cptk.data import store_writing
from cptk.data.columns import NUMBERS, SIDES
from cptk.data.pairs import Pairs
from cptk.data.token_shards import Shard
from cptk.types import Config, Path, Preprocessor, TokenBatch

_TOKENS = (*SIDES, "negatives")
"""Columns that hold ids."""


class StoredPairs:
    """The pairs of a folder that `TokenStore.write` has made; `TokenStore` says more.

    Args:
        folder: The store.

    Raises:
        FileNotFoundError: There is no store, or one that was not written to its end.
        ValueError: The manifest or a shard is damaged, or was written by another version.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = checks.path(folder, "folder")
        place = self.folder / store_writing.MANIFEST
        if not place.is_file():
            begun = self.folder.is_dir() and any(self.folder.glob("shard-*.arrow"))
            raise FileNotFoundError(
                f"{str(self.folder)!r} holds no token store: {store_writing.MANIFEST} is missing. "
                + (
                    "It was not written to its end: call what writes it again, with the "
                    "same pairs or stores, and it goes on."
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
                f"{(store_writing.FORMAT, store_writing.VERSION)}. Write the store again, into "
                "another folder."
            )
        self.shards = [Shard(self.folder / name) for name, _ in names]
        for shard, (name, rows) in zip(self.shards, names, strict=True):
            if len(shard) != rows:
                raise ValueError(
                    f"The shard {name!r} has {len(shard):,} pairs, and the manifest says {rows:,}. "
                    "Delete it and write the store again: the other shards are kept."
                )
        self._begins: NDArray[np.int64] = np.cumsum([0, *map(len, self.shards)])

    # === What is in it ===

    def __len__(self) -> int:
        return int(self._begins[-1])

    @property
    def columns(self) -> list[str]:
        """Names of the columns, as the pairs had them."""
        names = self.shards[0].batch.schema.names
        hidden = {f"{name}_{what}" for name in _TOKENS for what in ("digest", "text")}
        return [name for name in names if name not in hidden]

    @property
    def digest(self) -> str:
        """What the pairs are: equal for stores of equal shards."""
        shards = [each["sha256"] for each in self.manifest["shards"]]
        return hashlib.blake2b("".join(shards).encode(), digest_size=16).hexdigest()

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
            lengths[here] = self.shards[number].ragged(column).lengths(own[here])
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
        lengths = self.lengths(column, rows)
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
            some[mask[here]] = self.shards[number].ragged(column).take(own[here])
            token_ids[here] = some
        return TokenBatch(token_ids=token_ids, padding_mask=mask)

    def negatives(self, rows: ArrayLike) -> list[list[NDArray[np.int32]]]:
        """The ids of the hard negatives of some pairs: for each a list of 0 to k arrays."""
        if "negatives" not in self.columns:
            raise KeyError(f"The store has no negatives. Columns: {self.columns}.")
        found = []
        wanted = self._rows(rows)
        for number, row in zip(*self._places(wanted), strict=True):
            begins, ids = self.shards[number].nested("negatives")
            places = range(begins[row], begins[row + 1])
            found.append(
                [ids.values[ids.offsets[i] : ids.offsets[i + 1]].astype(np.int32) for i in places]
            )
        return found

    def most_negatives(self) -> int:
        """The most hard negatives that a pair has; 0 without such a column."""
        if "negatives" not in self.columns:
            return 0
        begins = (shard.nested("negatives")[0] for shard in self.shards)
        return max(int(np.diff(each).max(initial=0)) for each in begins)

    def numbers(self, column: str, rows: ArrayLike) -> NDArray[np.float32]:
        """A column of numbers of some pairs, float32: `(m,)`, or `(m, k)` of lists of k each."""
        if column not in NUMBERS or column not in self.columns:
            has = [name for name in self.columns if name in NUMBERS]
            raise KeyError(f"The store has the columns of numbers {has}. Received: {column!r}.")
        found = np.asarray(self.values(column, rows), np.float32)
        if not len(found):  # as wide as where there are some
            found = found.reshape(0, *np.shape(self.shards[0].batch.column(column)[0].as_py()))
        return found

    def values(self, column: str, rows: ArrayLike) -> list[object]:
        """A column of some pairs as it stands: of groups, sources, or where pairs come from."""
        known = {*self.columns} - {*SIDES, "negatives"}
        if column not in known:
            raise KeyError(f"The store has the columns {sorted(known)}. Received: {column!r}.")
        return list(self.table([column], rows)[column].to_pylist())

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
        table = self.table(kept, np.arange(len(self)) if rows is None else rows)
        return Pairs(table.rename_columns(self.columns))

    def repeated(self) -> tuple[NDArray[np.int64], Mapping[str, NDArray[np.int64]]]:
        """The pairs of which a text occurs in another one, too, on the same side or the other.

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

    def table(self, names: list[str], rows: ArrayLike) -> pa.Table:
        """Some columns of some rows as they stand in the shards, in the order of the rows."""
        wanted = self._rows(rows)
        if not len(wanted):
            batch = self.shards[0].batch.select(names).slice(0, 0)
            return pa.Table.from_batches([batch]).replace_schema_metadata()
        shards, own = self._places(wanted)
        parts, places = [], []
        for number in np.unique(shards):
            here = np.flatnonzero(shards == number)
            batch = self.shards[number].batch.select(names)
            parts.append(pa.Table.from_batches([batch.take(pa.array(own[here]))]))
            places.append(here)
        joined = pa.concat_tables([part.replace_schema_metadata() for part in parts])
        return joined.take(pa.array(np.argsort(np.concatenate(places))))
