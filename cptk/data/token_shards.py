"""One shard of a token store: an Arrow IPC file of one record batch, read without a copy."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from cptk import files
from cptk.types import Config

ABOUT = b"cptk"


def digests(contents: Iterable[bytes | memoryview]) -> NDArray[np.uint64]:
    """(n,) a number of each, equal for equal bytes."""
    joined = b"".join(hashlib.blake2b(each, digest_size=8).digest() for each in contents)
    return np.frombuffer(joined, np.uint64)


class Ragged(NamedTuple):
    """n lists of ids, one after another."""

    offsets: NDArray[np.int32]
    """(n + 1,): list i is `values[offsets[i] : offsets[i + 1]]`."""
    values: NDArray[Any]
    """The ids of all lists, of an integer type."""

    @classmethod
    def of(cls, rows: Sequence[Sequence[int]], dtype: str) -> Ragged:
        """Lists of ids, put together."""
        offsets = np.zeros(len(rows) + 1, np.int64)
        np.cumsum(np.fromiter(map(len, rows), np.int64, len(rows)), out=offsets[1:])
        values = np.fromiter(chain.from_iterable(rows), dtype, int(offsets[-1]))
        return cls(offsets.astype(np.int32), values)

    def lengths(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """(m,) how long some of the lists are."""
        return self.offsets[rows + 1].astype(np.int64) - self.offsets[rows]

    def take(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        """The ids of some lists, one after another."""
        lengths = self.lengths(rows)
        before = np.cumsum(lengths) - lengths
        places = np.repeat(self.offsets[rows] - before, lengths) + np.arange(lengths.sum())
        taken: NDArray[Any] = self.values[places]
        return taken

    def digests(self, before: int, after: int, most: int) -> NDArray[np.uint64]:
        """(n,) a number of each list, equal for lists whose middles are equal.

        Args:
            before: Ids at the begin of each list that are no part of its middle.
            after: The same at its end.
            most: Ids of a middle that count, the first ones.
        """
        raw = memoryview(np.ascontiguousarray(self.values).view(np.uint8).data)
        starts = self.offsets[:-1].astype(np.int64) + before
        ends = np.minimum(self.offsets[1:].astype(np.int64) - after, starts + most)
        bounds = np.stack([starts, ends]) * self.values.itemsize
        return digests(raw[a:b] for a, b in zip(*bounds.tolist(), strict=True))

    def to_arrow(self) -> pa.ListArray:
        """As a column of lists."""
        return pa.ListArray.from_arrays(pa.array(self.offsets), pa.array(self.values))


class Shard:
    """A shard, memory-mapped.

    Args:
        path: The file.

    Raises:
        ValueError: It is cut short, or no shard.
        FileNotFoundError: It is not there.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with pa.ipc.open_file(pa.memory_map(str(path))) as reader:
                if reader.num_record_batches != 1:
                    raise ValueError(f"it has {reader.num_record_batches} record batches")
                self.batch: pa.RecordBatch = reader.get_batch(0)
                about = (reader.schema.metadata or {}).get(ABOUT)
            if about is None:
                raise ValueError("it says nothing of a token store")
            self.about: Config = json.loads(about)
        except FileNotFoundError:
            raise FileNotFoundError(f"The shard {str(path)!r} is missing.") from None
        except (pa.ArrowException, ValueError, OSError) as error:
            raise ValueError(
                f"The shard {str(path)!r} is cut short, or no shard of a token store ({error}). "
                "Delete it and write the store again: the other shards are kept."
            ) from None
        self._ragged: dict[str, Ragged] = {}

    def __reduce__(self) -> tuple[type[Shard], tuple[Path]]:
        """Another process maps the file; the ids themselves are not sent there."""
        return Shard, (self.path,)

    def __len__(self) -> int:
        return int(self.batch.num_rows)

    def ragged(self, name: str) -> Ragged:
        """A column of lists of ids."""
        if name not in self._ragged:
            self._ragged[name] = _ragged(self.batch.column(name))
        return self._ragged[name]

    def nested(self, name: str) -> tuple[NDArray[np.int32], Ragged]:
        """A column of lists of lists: where those of each row begin, and all of them."""
        column = self.batch.column(name)
        if name not in self._ragged:
            self._ragged[name] = _ragged(column.values)
        return _array(column.offsets), self._ragged[name]


def write(path: Path, columns: Mapping[str, pa.Array], about: Config) -> None:
    """Write a shard, whole or not at all; `about` stands in its schema."""
    batch = pa.RecordBatch.from_arrays(list(columns.values()), names=list(columns))
    text = json.dumps(about, sort_keys=True, ensure_ascii=False)
    schema = batch.schema.with_metadata({ABOUT: text.encode()})
    with files.replacing(path) as file, pa.ipc.new_file(file, schema) as writer:
        writer.write_batch(batch.replace_schema_metadata(schema.metadata))


def _ragged(column: pa.ListArray) -> Ragged:
    return Ragged(_array(column.offsets), _array(column.values))


def _array(values: pa.Array) -> NDArray[Any]:
    found: NDArray[Any] = values.to_numpy(zero_copy_only=True)
    return found
