"""What `encode` takes for texts, read block by block: lists, columns, generators, stores."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from cptk import checks
from cptk.data.columns import SIDES, role_of
from cptk.data.token_shards import Ragged
from cptk.data.token_store import TokenStore
from cptk.types import Preprocessor

Items: TypeAlias = list[str] | Ragged
"""Texts, or such that are tokens already."""


class Block(NamedTuple):
    """Some texts, one after another."""

    first: int
    """How many come before."""
    items: Items

    def __len__(self) -> int:
        return count(self.items)

    def bytes(self) -> list[bytes]:
        """What the texts are, for a hash: their lengths, and then all of them."""
        if isinstance(self.items, Ragged):
            lengths = np.diff(self.items.offsets).astype("<i8")
            return [b"tokens", lengths.tobytes(), self.items.values.astype("<i4").tobytes()]
        lengths = np.fromiter(map(len, self.items), "<i8", len(self.items))
        return [b"texts", lengths.tobytes(), *(text.encode() for text in self.items)]


class Source:
    """Texts as they were given, and how to read them.

    Args:
        texts: n texts in any form, or a `TokenStore`.
        reader: The embedder's.
        role: As it was given.
        column: Of a store or table, which.

    Raises:
        TypeError, ValueError: No texts; an unknown column, or one that is not named; a store of
            another embedder's or in another role.
    """

    def __init__(
        self, texts: object, reader: Preprocessor, role: str | None, column: str | None
    ) -> None:
        if isinstance(texts, TokenStore):
            self.role = _role_of_store(texts, reader, role, column)
        else:
            self.role = reader.resolve_role(role)
            texts = texts if column is None else _column(texts, column)
            texts = [texts] if isinstance(texts, str) else texts
            if not isinstance(texts, pa.Array | pa.ChunkedArray):  # never held as a list whole
                texts = checks.iterated(texts, "texts")
        given: Any = texts
        self.texts = given
        self.column = column
        self.total: int | None = len(given) if hasattr(given, "__len__") else None
        if self.total == 0:
            raise ValueError("`texts` is empty. Pass at least one text.")

    @property
    def can_be_read_again(self) -> bool:
        """Whether the texts lie in memory, or on disk, and do not run out."""
        kinds = list | tuple | np.ndarray | pa.Array | pa.ChunkedArray | TokenStore
        return isinstance(self.texts, kinds) or hasattr(self.texts, "iloc")

    def check(self) -> None:
        """Raise what is wrong with any text, before work is done; of a generator nothing yet."""
        if self.can_be_read_again and not isinstance(self.texts, TokenStore):
            for _ in self.blocks(1 << 16):
                pass

    def blocks(self, size: int | None) -> Iterator[Block]:
        """The texts, checked, so many at a time; all at once if None."""
        if isinstance(self.texts, TokenStore):
            assert self.column is not None
            for start, stop in _bounds(len(self.texts), size):
                yield Block(start, _stored(self.texts, self.column, start, stop))
        elif self.can_be_read_again:
            for start, stop in _bounds(len(self.texts), size):
                yield Block(start, checks.texts(_cut(self.texts, start, stop), first=start))
        else:
            first, texts = 0, iter(self.texts)
            while part := list(texts if size is None else islice(texts, size)):
                yield Block(first, checks.texts(part, first=first))
                first += len(part)
            if not first:
                raise ValueError("`texts` is empty. Pass at least one text.")


def count(items: Items) -> int:
    """How many."""
    return len(items.offsets) - 1 if isinstance(items, Ragged) else len(items)


def distinct(items: Items) -> tuple[Items, NDArray[np.int64], NDArray[np.int64] | None]:
    """Each text once.

    Returns:
        The m different ones, in the order in which they come first; (m,) where that is; and (n,)
        which of them each text is, or None where all differ.
    """
    total = count(items)
    if isinstance(items, Ragged):
        raw, size = memoryview(items.values.tobytes()), items.values.itemsize
        bounds = (items.offsets.astype(np.int64) * size).tolist()
        keys: Iterable[str | bytes] = (bytes(raw[bounds[i] : bounds[i + 1]]) for i in range(total))
    else:
        keys = items
    numbers: dict[str | bytes, int] = {}
    inverse = np.fromiter((numbers.setdefault(key, len(numbers)) for key in keys), np.int64, total)
    if len(numbers) == total:
        return items, np.arange(total), None
    firsts = np.full(len(numbers), total)
    np.minimum.at(firsts, inverse, np.arange(total))
    return picked(items, firsts), firsts, inverse


def picked(items: Items, rows: NDArray[np.int64]) -> Items:
    """Some of them."""
    if not isinstance(items, Ragged):
        return [items[row] for row in rows.tolist()]
    offsets = np.concatenate([[0], np.cumsum(items.lengths(rows))])
    return Ragged(offsets, items.take(rows))


def sizes(items: Items) -> NDArray[np.int64]:
    """How long each is: tokens, or bytes, which tell of texts about how many tokens they have."""
    if isinstance(items, Ragged):
        return np.diff(items.offsets).astype(np.int64)
    lengths = (len(text) if text.isascii() else len(text.encode()) for text in items)
    return np.fromiter(lengths, np.int64, len(items))


def _bounds(total: int, size: int | None) -> Iterator[tuple[int, int]]:
    step = size or total
    return ((start, min(start + step, total)) for start in range(0, total, step))


def _cut(texts: Any, start: int, stop: int) -> list[object]:
    if hasattr(texts, "to_pylist"):
        return list(texts.slice(start, stop - start).to_pylist())
    part = texts.iloc[start:stop] if hasattr(texts, "iloc") else texts[start:stop]
    return part.tolist() if hasattr(part, "tolist") else list(part)


def _stored(store: TokenStore, column: str, start: int, stop: int) -> Ragged:
    """The ids of some texts of a store."""
    tokens = []
    lengths = []
    for rows in np.array_split(np.arange(start, stop), -(-(stop - start) // 4096)):
        batch = store.tokens(column, rows)
        tokens.append(batch["token_ids"][batch["padding_mask"]])
        lengths.append(batch["padding_mask"].sum(axis=1))
    offsets = np.concatenate([[0], np.cumsum(np.concatenate(lengths))])
    return Ragged(offsets.astype(np.int64), np.concatenate(tokens))


def _role_of_store(
    store: TokenStore, reader: Preprocessor, role: str | None, column: str | None
) -> str:
    if column not in SIDES:
        raise ValueError(
            f"`column` should say which texts of the store to encode: one of {list(SIDES)}. "
            f"Received: {checks.shown(column)}."
        )
    store.check_read_by(reader)
    if store.sequence_length > reader.sequence_length:
        raise ValueError(
            f"The store's texts have up to {store.sequence_length} tokens, and this embedder reads "
            f"{reader.sequence_length}. Set embedder.preprocessor.sequence_length = "
            f"{store.sequence_length}, or write a store for it."
        )
    stored = role_of(reader, column)
    if role is not None and role != stored:
        raise ValueError(
            f"The store holds its {column!r} texts in the role {stored!r}. Received: "
            f"role={role!r}. Leave `role` out, or pass the texts themselves."
        )
    return stored


def _column(table: Any, column: str) -> Any:
    """A column of a frame, table or mapping of columns."""
    names = getattr(table, "column_names", None)
    names = getattr(table, "columns", table) if names is None else names
    if not hasattr(table, "__getitem__") or isinstance(table, str | Sequence | np.ndarray):
        raise TypeError(
            "`column` is for a TokenStore, a frame or a table. Received: "
            f"{checks.shown(table)} of type {type(table).__name__}. Leave `column` out."
        )
    if column not in list(names):
        raise ValueError(
            f"There is no column {checks.shown(column)}. The columns are: "
            f"{checks.shown([str(name) for name in names])}."
        )
    return table[column]
