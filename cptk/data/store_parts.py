"""Token stores of other stores: several in one, and some pairs of one, without tokenising again."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cptk import checks, files
from cptk.data import store_locks, store_writing, tables, together, token_shards
from cptk.data.columns import SIDES
from cptk.data.permutation import permuted
from cptk.data.stored_pairs import StoredPairs
from cptk.data.token_shards import Shard

Rows = NDArray[np.int64]

ROWS_PER_SHARD = 65_536
"""As of `TokenStore.write`."""
_OF_SHARDS = ("pairs", "shards", "rows", "repeated", "tokens", "cptk")
"""What a manifest says that may differ between stores of one embedder."""


def merge(folder: Path, stores: Sequence[StoredPairs]) -> None:
    """Put the shards of several stores into one folder, as hard links where the disk has them.

    Args:
        folder: Where; what an earlier call has left there is kept.
        stores: Of one embedder and with the same columns.

    Raises:
        ValueError: They differ, or the folder holds something else.
    """
    _check_alike(stores)
    for store in stores:
        if folder.resolve() == store.folder.resolve():
            raise ValueError(
                f"`folder` should be another one than those of the stores. Received: "
                f"{str(folder)!r}. To add pairs to a store, use `append`."
            )
    wanted = [
        (store.folder / each["file"], str(each["sha256"]))
        for store in stores
        for each in store.manifest["shards"]
    ]
    with store_locks.writing(folder, (0, 1)):
        _refuse_more(folder, len(wanted))
        targets = [folder / store_writing.shard_name(number) for number in range(len(wanted))]
        there = [_is_same(target, *each) for target, each in zip(targets, wanted, strict=True)]
        for target, (source, _), done in zip(targets, wanted, there, strict=True):
            if not done:
                _link(source, target)
        store_writing.write_manifest(folder, len(wanted))


def write_rows(folder: Path, store: StoredPairs, rows: Rows) -> None:
    """Write some pairs of a store as a store of its own, or go on where a call was killed.

    Args:
        folder: Where.
        store: Where the pairs are.
        rows: (m,) their numbers, 1 or more.

    Raises:
        ValueError: The folder holds something else.
    """
    content = "".join(str(each["sha256"]) for each in store.manifest["shards"])
    shards = store.shards
    settings = {name: value for name, value in shards[0].about.items() if name != "pairs"}
    names = shards[0].batch.schema.names
    count = -(-len(rows) // ROWS_PER_SHARD)
    with store_locks.writing(folder, (0, 1)):
        _refuse_more(folder, count)
        for number in range(count):
            own = rows[number * ROWS_PER_SHARD : (number + 1) * ROWS_PER_SHARD]
            digest = hashlib.blake2b(content.encode(), digest_size=16)
            digest.update(own.astype("<i8").tobytes())
            about = {**settings, "pairs": digest.hexdigest()}
            path = folder / store_writing.shard_name(number)
            if store_writing.is_there(path, about):
                continue
            table = store.table(names, own)
            columns = {name: table[name].combine_chunks() for name in names}
            token_shards.write(path, columns, about)
        store_writing.write_manifest(folder, count)


def drawn(store: StoredPairs, n: int, seed: int) -> Rows:
    """`n` numbers of pairs drawn at random, ascending."""
    if checks.integer("n", n, 1) > len(store):
        raise ValueError(f"`n` should be at most the number of pairs, {len(store)}. Received: {n}.")
    key = (checks.integer("seed", seed, 0),)
    return np.sort(permuted(np.arange(n), len(store), key))


class Split(NamedTuple):
    """The numbers of the pairs of both parts, each ascending."""

    drawn: Rows
    others: Rows


def split(store: StoredPairs, size: object, seed: int) -> Split:
    """Draw pairs so that no text of them, on either side, stands among the others.

    Pairs that hang together by texts that they share, over other pairs too, stay together: they
    are drawn where all of them fit. Only these, one byte for each pair and the numbers of the
    result are in memory.

    Args:
        store: Where the pairs are.
        size: How many to draw at most: a number, or a share between 0 and 1.
        seed: Of the draw.

    Raises:
        ValueError: There are no so many, or none that would fit.
    """
    wanted = tables.count_of(size, len(store))
    key = (checks.integer("seed", seed, 0),)
    rows, groups = store.repeated()
    texts = np.stack([groups[side] for side in SIDES], axis=1)
    taken = together.draw(_shuffled(len(store), key), wanted, len(store), rows, texts)
    return Split(np.flatnonzero(taken), np.flatnonzero(~taken))


def _shuffled(size: int, key: tuple[int, ...], block: int = 65_536) -> Iterator[int]:
    """The numbers below `size` in a random order, which is not held."""
    for start in range(0, size, block):
        yield from permuted(np.arange(start, min(start + block, size)), size, key).tolist()


def _check_alike(stores: Sequence[StoredPairs]) -> None:
    first = stores[0]
    mine = {k: v for k, v in first.manifest.items() if k not in (*_OF_SHARDS, "columns")}
    for other in stores[1:]:
        differing = [name for name in mine if other.manifest.get(name) != mine[name]]
        if differing:
            raise ValueError(
                f"All stores should be of one embedder. {str(first.folder)!r} and "
                f"{str(other.folder)!r} differ in {', '.join(differing)}."
            )
        schemas = [store.shards[0].batch.schema for store in (first, other)]
        if not schemas[0].equals(schemas[1], check_metadata=False):
            raise ValueError(
                f"All stores should have the same columns. {str(first.folder)!r} has "
                f"{first.columns}, and {str(other.folder)!r} {other.columns}, or other types in "
                "them. Give them to `fit` as a `Mixture`, which fills columns up."
            )


def _refuse_more(folder: Path, count: int) -> None:
    """Raise `ValueError` where a folder has more shards than it should get."""
    if (folder / store_writing.shard_name(count)).exists():
        raise ValueError(
            f"{str(folder)!r} holds more shards than this store will have: it is another one. "
            "Choose another folder, or delete this one."
        )


def _is_same(target: Path, source: Path, sha256: str) -> bool:
    """Whether a shard is there already; an error if it is another one."""
    if not target.exists():
        return False
    if not os.path.samefile(target, source) and files.sha256_of(target) != sha256:
        raise ValueError(
            f"{str(target)!r} is another shard than {str(source)!r}: the folder holds another "
            "store. Choose another folder, or delete this one."
        )
    return True


def _link(source: Path, target: Path) -> None:
    Shard(source)  # one that is cut short is not spread
    with contextlib.suppress(OSError):
        os.link(source, target)
        return
    with files.replacing(target) as file, source.open("rb") as content:
        shutil.copyfileobj(content, file)
