"""How a token store is written: shard by shard, and on from where it was killed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from cptk import checks, files
from cptk.data import store_locks, tables, token_shards
from cptk.data.columns import SIDES, is_pairs, role_of
from cptk.data.pairs import Pairs
from cptk.data.token_shards import Ragged
from cptk.fingerprint import tokenizer_fingerprint
from cptk.progress import Progress
from cptk.types import Config, Preprocessor
from cptk.version import __version__

MANIFEST = "manifest.json"
REPEATED = "repeated.npy"
FORMAT, VERSION = "cptk token store", 2
PAIRS_AT_ONCE = 2048
"""Pairs whose ids are held as lists of Python's integers, thirty times as large as in the store."""
THREADS = 2
"""Pieces that are tokenised at the same time."""
BUCKETS = 16
"""Parts in which texts that occur several times are looked for, each by itself in memory."""


class Plan(NamedTuple):
    """What all shards of a store have in common."""

    settings: Config
    """Tokenizer, roles and lengths: what decides on the ids, and is written into each shard."""
    rows_per_shard: int
    keep_text: bool


def settings_of(preprocessor: Preprocessor) -> Config:
    """What decides on the ids that a preprocessor gives, in JSON values."""
    for name in ("tokenize", "resolve_role", "sequence_length", "tokenizer"):
        if not hasattr(preprocessor, name):
            raise TypeError(
                "`preprocessor` should be the `preprocessor` of a cptk embedder; of a KerasHub "
                "embedder, `cptk.models.text_reader(embedder)`. Received: "
                f"{checks.shown(preprocessor)}."
            )
    roles = {}
    for side in SIDES:
        name = role_of(preprocessor, side)
        affixes = getattr(preprocessor, "affixes", None)
        around = [list(ids) for ids in affixes(name)] if affixes is not None else []
        roles[side] = [name, *around, getattr(preprocessor.roles[name], "prompt", "")]
    size = preprocessor.tokenizer.vocabulary_size()
    return {
        "tokenizer": f"{type(preprocessor.tokenizer).__name__} of {size:,} tokens",
        "fingerprint": tokenizer_fingerprint(preprocessor),
        "dtype": "uint16" if size <= 1 << 16 else "int32",
        "sequence_length": int(preprocessor.sequence_length),
        "roles": roles,
    }


def write_shards(
    folder: Path,
    pairs: object,
    preprocessor: Preprocessor,
    plan: Plan,
    first: int,
    part: tuple[int, int],
    bar: Progress | None,
) -> int:
    """Write the shards of one part that are missing.

    Args:
        folder: The store.
        pairs: Pairs of any form, or an iterable of them.
        preprocessor: What tokenises.
        plan: See there.
        first: Number of the first shard.
        part: `(k, n)`: shards k, k + n, k + 2 n, … are this process's.
        bar: Is told of each pair.

    Returns:
        The number of the shard after the last one, over all parts.

    Raises:
        ValueError: Other pairs, another tokenizer or other columns than in the shards that are
            there.
    """
    number = first
    for table in chunks(pairs, plan.rows_per_shard):
        if (number - first) % part[1] == part[0]:
            write_shard(folder / shard_name(number), table, preprocessor, plan, bar)
        number += 1
    if number == first:
        raise ValueError("There are no pairs to write. Received: an empty iterable.")
    return number


def write_shard(
    path: Path,
    table: pa.Table,
    preprocessor: Preprocessor,
    plan: Plan,
    bar: Progress | None = None,
) -> None:
    """Write a shard of some pairs, if it is missing.

    Args:
        path: Its file.
        table: The pairs, as `cptk.data.tables.large` gives them.
        preprocessor: What tokenises.
        plan: See there.
        bar: Is told of each pair.

    Raises:
        ValueError: There is a shard of other pairs, or of another tokenizer.
    """
    about = {**plan.settings, "pairs": _digest(table), "text": plan.keep_text, "version": VERSION}
    if not is_there(path, about):
        token_shards.write(path, _columns(table, preprocessor, plan, bar), about)
    elif bar is not None:
        bar.add(table.num_rows)


def shard_name(number: int) -> str:
    """The file of a shard."""
    return f"shard-{number:06}.arrow"


def write_manifest(folder: Path, count: int) -> bool:
    """Write the manifest of `count` shards and the list of repeated texts, where all are there."""
    paths = [folder / shard_name(number) for number in range(count)]
    if not all(path.exists() for path in paths):
        return False
    with store_locks.ending(folder):
        _write_manifest(folder, paths)
    return True


def _write_manifest(folder: Path, paths: Sequence[Path]) -> None:
    files.clear_scratch(folder)
    shards = [token_shards.Shard(path) for path in paths]
    rows, groups = repeated(shards)
    with files.replacing(folder / REPEATED) as file:
        np.save(file, np.stack([rows, *groups.values()]), allow_pickle=False)
    about = {k: v for k, v in shards[0].about.items() if k != "pairs"}
    manifest = {
        "format": FORMAT,
        "version": VERSION,
        "cptk": __version__,
        **about,
        "columns": {field.name: str(field.type) for field in shards[0].batch.schema},
        "rows": sum(map(len, shards)),
        "tokens": {side: int(sum(len(s.ragged(side).values) for s in shards)) for side in SIDES},
        "repeated": len(rows),
        "shards": [
            {"file": path.name, "rows": len(shard), "bytes": path.stat().st_size,
             "sha256": files.sha256_of(path)}
            for path, shard in zip(paths, shards, strict=True)
        ],
    }  # fmt: skip
    with files.replacing(folder / MANIFEST) as file:
        file.write((json.dumps(manifest, indent=1, ensure_ascii=False) + "\n").encode())


def repeated(
    shards: Sequence[token_shards.Shard],
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """The pairs of which a text occurs in another pair too, on the same side or the other.

    Returns:
        (r,) their rows, ascending, and of each side (r,) numbers that are equal for equal texts.
    """
    begins = np.cumsum([0, *map(len, shards)])
    rows, sides, groups = [], [], []
    for bucket in range(BUCKETS):
        places, digests = [np.empty(0, np.int64)], [np.empty(0, np.uint64)]
        for begin, shard in zip(begins[:-1], shards, strict=True):
            own = [
                shard.batch.column(f"{side}_digest").to_numpy(zero_copy_only=True) for side in SIDES
            ]
            for side, values in enumerate(own):
                here = values % np.uint64(BUCKETS) == bucket
                if side:  # a pair of one text twice counts once
                    here &= values != own[0]
                places.append(2 * (np.flatnonzero(here) + begin) + side)
                digests.append(values[here])
        found, all_digests = np.concatenate(places), np.concatenate(digests)
        _, inverse, counts = np.unique(all_digests, return_inverse=True, return_counts=True)
        several = counts[inverse] > 1
        rows.append(found[several] // 2)
        sides.append(found[several] % 2)
        groups.append(all_digests[several])
    distinct, numbers = np.unique(np.concatenate(groups), return_inverse=True)
    rows_of, index = np.unique(np.concatenate(rows), return_inverse=True)
    # What occurs once has a number of its own, above those of the others.
    numbered = len(distinct) + np.arange(2 * len(rows_of), dtype=np.int64).reshape(-1, 2)
    numbered[index, np.concatenate(sides)] = numbers
    for begin, shard in zip(begins[:-1], shards, strict=True):
        low, high = np.searchsorted(rows_of, [begin, begin + len(shard)])
        own = [shard.batch.column(f"{side}_digest").to_numpy() for side in SIDES]
        same = low + np.flatnonzero((own[0] == own[1])[rows_of[low:high] - begin])
        numbered[same, 1] = numbered[same, 0]
    return rows_of, dict(zip(SIDES, numbered.T, strict=True))


def chunks(pairs: object, size: int) -> Iterator[pa.Table]:
    """Tables of `size` pairs, the last one of what is left."""
    waiting: list[pa.Table] = []
    count, columns = 0, None
    for table in map(tables.large, _tables(pairs)):  # one type, however the pairs came
        if columns is not None and table.column_names != columns:
            raise ValueError(
                "All pairs of a store should have the same columns, in one order. Received first "
                f"{columns}, then {table.column_names}."
            )
        columns = table.column_names
        waiting.append(table)
        count += table.num_rows
        while count >= size:
            joined = waiting[0] if len(waiting) == 1 else tables.concatenated(waiting)
            yield joined.slice(0, size)
            waiting, count = [joined.slice(size)], count - size
    if count:
        yield waiting[0] if len(waiting) == 1 else tables.concatenated(waiting)


def _tables(pairs: object) -> Iterator[pa.Table]:
    if isinstance(pairs, Pairs):
        yield pairs.to_arrow()
    elif is_pairs(pairs):
        yield Pairs(pairs).to_arrow()
    elif isinstance(pairs, Iterable):
        for several in pairs:
            yield (several if isinstance(several, Pairs) else Pairs(several)).to_arrow()
    else:
        raise TypeError(
            "`pairs` should be pairs as `fit` takes them, or an iterable of such. Received: "
            f"{checks.shown(pairs)}."
        )


def is_there(path: Path, about: Config) -> bool:
    """Whether a shard is written already; an error if it is another one."""
    try:
        found = token_shards.Shard(path).about
    except FileNotFoundError:
        return False
    differing = [name for name in about if found.get(name) != about[name]]
    if differing:
        raise ValueError(
            f"{str(path)!r} holds a shard that differs in {', '.join(differing)}: it was written "
            "of other pairs, by another embedder or another cptk. Choose another folder, or delete "
            "this one."
        )
    return True


def _columns(
    table: pa.Table, preprocessor: Preprocessor, plan: Plan, bar: Progress | None
) -> dict[str, pa.Array]:
    """The columns of a shard: ids, digests of them, numbers and other columns, text if asked."""
    dtype = plan.settings["dtype"]
    roles = {side: role_of(preprocessor, side) for side in SIDES}
    rest = {name: table[name].combine_chunks() for name in table.column_names}
    texts = {side: rest.pop(side) for side in SIDES}
    negatives = rest.pop("negatives", None)

    def tokenised(start: int) -> list[Ragged]:
        some = {side: texts[side].slice(start, PAIRS_AT_ONCE).to_pylist() for side in SIDES}
        return [Ragged.of(preprocessor.tokenize(some[side], roles[side]), dtype) for side in SIDES]

    parts = []
    starts = range(0, table.num_rows, PAIRS_AT_ONCE)
    for start, part in zip(starts, _by_threads(tokenised, starts), strict=True):
        parts.append(part)
        if bar is not None:
            bar.add(min(PAIRS_AT_ONCE, table.num_rows - start))
    ids = {
        side: joined([part[number] for part in parts], dtype) for number, side in enumerate(SIDES)
    }
    made = {**rest, **{side: ids[side].to_arrow() for side in SIDES}}
    if negatives is not None:
        made["negatives"] = _negatives(negatives, preprocessor, roles["document"], dtype)
        texts["negatives"] = negatives
    columns: dict[str, pa.Array] = {name: made[name] for name in table.column_names}
    columns |= _digests(ids, texts, plan.settings)
    if plan.keep_text:
        columns |= {f"{name}_text": column for name, column in texts.items()}
    return columns


def _digests(
    ids: Mapping[str, Ragged], texts: Mapping[str, pa.Array], settings: Config
) -> dict[str, pa.Array]:
    """A number of each text, equal where a query and a document are one text, too.

    It is that of the ids, as far as both roles leave room for them, without what the roles put
    around. Where these put different prompts before a text, that of the text itself.
    """
    prompts = {settings["roles"][side][-1] for side in SIDES}
    if len(prompts) > 1:
        found = {
            side: token_shards.digests(
                text.encode("utf-8", "surrogatepass") for text in texts[side].to_pylist()
            )
            for side in SIDES
        }
    else:
        around = {side: [len(part) for part in settings["roles"][side][1:-1]] for side in SIDES}
        most = settings["sequence_length"] - max(map(sum, around.values()))
        found = {}
        for side in SIDES:
            before, after = around[side] or (0, 0)
            found[side] = ids[side].digests(before, after, most)
    return {f"{side}_digest": pa.array(values) for side, values in found.items()}


def _by_threads(function: Callable[[int], list[Ragged]], starts: range) -> Iterator[list[Ragged]]:
    """What a function gives for each start, in order.

    The tokenizer's own threads have no need of Python: they work for one piece while the ids of
    another are put together.
    """
    pool = ThreadPoolExecutor(THREADS)
    try:
        yield from pool.map(function, starts)
    finally:
        pool.shutdown(cancel_futures=True)


def _negatives(column: pa.Array, preprocessor: Preprocessor, role: str, dtype: str) -> pa.Array:
    """Lists of lists of ids."""
    rows = column.to_pylist()
    texts = [text for row in rows for text in row or ()]
    parts = [
        Ragged.of(preprocessor.tokenize(texts[start : start + PAIRS_AT_ONCE], role), dtype)
        for start in range(0, len(texts), PAIRS_AT_ONCE)
    ]
    begins = np.cumsum([0, *(len(row or ()) for row in rows)]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(begins), joined(parts, dtype).to_arrow())


def joined(parts: Sequence[Ragged], dtype: str) -> Ragged:
    """Lists of several, one after another."""
    ends = np.cumsum([0, *(len(part.values) for part in parts)])
    if ends[-1] > np.iinfo(np.int32).max:
        raise ValueError(
            f"A shard of {ends[-1]:,} tokens is too large: take a smaller `rows_per_shard`."
        )
    offsets = [part.offsets[1:] + end for part, end in zip(parts, ends[:-1], strict=True)]
    values = [part.values for part in parts]
    return Ragged(
        np.concatenate([np.zeros(1, np.int64), *offsets]).astype(np.int32),
        np.concatenate([np.empty(0, dtype), *values]),
    )


def _digest(table: pa.Table) -> str:
    """32 digits of all that stands in some pairs, however their table is cut into chunks."""
    found = hashlib.blake2b(digest_size=16)
    for name in table.column_names:
        found.update(f"\0{name}\0".encode())
        column = table[name]
        if pa.types.is_large_string(column.type) and not column.null_count:
            lengths = hashlib.blake2b(digest_size=16)
            for chunk in column.chunks:
                _, places, letters = chunk.buffers()
                offsets = np.frombuffer(places, np.int64)[chunk.offset :][: len(chunk) + 1]
                lengths.update(np.diff(offsets).tobytes())
                if letters is not None and len(offsets):
                    found.update(memoryview(letters)[offsets[0] : offsets[-1]])
            found.update(lengths.digest())
            continue
        for chunk in filter(len, column.chunks):
            values = json.dumps(
                chunk.to_pylist(), ensure_ascii=False, default=str, separators=(",", ":")
            )
            found.update(values[1:-1].encode("utf-8", "surrogatepass") + b",")
    return found.hexdigest()
