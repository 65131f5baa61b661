"""What the workers of `mine_at_scale.py` do: functions over a few units, records or shards."""

import hashlib
import json
import os
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import fs

import cptk
from cptk import files
from cptk.data import tables
from cptk.mining import file_rules, folders, minhash
from cptk.mining.code import SKIPPED_FOLDERS
from cptk.mining.documents import LeftOut, taken

ENDINGS = {"code": tuple(cptk.mining.LANGUAGE_OF), "text": (".txt", ".md", ".rst")}
WHOLE_ON_CLOSE = ("s3", "gcs", "abfs")
"""File systems on which a file is there when it was written to its end, and not before."""
RECORDS_PER_BUCKET = 1_500_000
MOST_TASKS = 1000
"""Of one step: a shuffle makes (tasks before) times (tasks after) pieces."""
RECORD = pa.schema(
    [("bucket", pa.int32()), ("key", pa.uint64()), ("id", pa.uint64()), ("same", pa.uint64()),
     ("unit", pa.int32()), ("row", pa.int32()), ("falls", pa.bool_())]
)  # fmt: skip
"""What is shuffled of a pair: once for each band of its signature."""


class Job(NamedTuple):
    """What the result depends on."""

    source: str
    work: str
    kind: str
    unit: str
    by: str
    similarity: float
    preset: str
    rows_per_shard: int
    keep_text: bool


# === Files ===


def opened(address: str) -> tuple[fs.FileSystem, str]:
    """The file system of a path or address, and the path there."""
    return fs.FileSystem.from_uri(address if "://" in address else os.path.abspath(address))


def below(address: str, *names: str) -> str:
    """The address of a file below a folder."""
    return "/".join([address.rstrip("/"), *names])


def is_there(address: str) -> bool:
    """Whether there is such a file."""
    system, path = opened(address)
    return bool(system.get_file_info(path).type == fs.FileType.File)


def put(address: str, data: Any) -> None:
    """Write bytes, or an Arrow buffer, whole or not at all."""
    system, path = opened(address)
    system.create_dir(str(PurePosixPath(path).parent), recursive=True)
    if isinstance(system, fs.LocalFileSystem):
        with files.replacing(Path(path)) as file:
            file.write(data)
        return
    scratch = path if system.type_name in WHOLE_ON_CLOSE else f"{path}.scratch-{os.getpid()}"
    with system.open_output_stream(scratch) as stream:
        stream.write(data)
    if scratch != path:
        system.move(scratch, path)


def got(address: str) -> bytes:
    """The bytes of a file."""
    system, path = opened(address)
    with system.open_input_stream(path, compression=None) as stream:
        return bytes(stream.read())


def put_table(address: str, table: pa.Table) -> None:
    """Write a table, as an Arrow file."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    put(address, sink.getvalue())


def got_table(address: str) -> pa.Table:
    """The table of an Arrow file; on a disk it is mapped, not read."""
    system, path = opened(address)
    local = isinstance(system, fs.LocalFileSystem)
    source = pa.memory_map(path) if local else system.open_input_file(path)
    with pa.ipc.open_file(source) as reader:
        return reader.read_all()


def listed(source: str, endings: tuple[str, ...]) -> list[str]:
    """Paths below a folder in the order of `read_folder`, which leaves out the same."""
    system, root = opened(source)
    if isinstance(system, fs.LocalFileSystem):
        names = file_rules.Names(endings, SKIPPED_FOLDERS, plain=False)
        found = (path for _, path in folders.files_below(Path(root), names, Counter()))
        return [path for path in found if names.takes(path)]
    paths = []
    for info in system.get_file_info(fs.FileSelector(root, recursive=True)):
        path = info.path.removeprefix(root.rstrip("/") + "/")
        names = path.split("/")
        hidden = any(name.startswith(".") or name in SKIPPED_FOLDERS for name in names)
        if info.type == fs.FileType.File and path.lower().endswith(endings) and not hidden:
            paths.append(path)
    return sorted(paths, key=lambda path: path.split("/"))


# === Mining ===


def stamps(source: str, paths: Sequence[str]) -> list[str]:
    """Path, size and time of each file: what was mined of others would not be theirs."""
    system, root = opened(source)
    found = list(paths)
    named = [i for i, path in enumerate(paths) if _is_utf8(path)]
    infos = system.get_file_info([below(root, paths[i]) for i in named])
    for i, info in zip(named, infos, strict=True):
        found[i] += f"\0{info.size}\0{info.mtime_ns}"
    return found


def _is_utf8(path: str) -> bool:
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True


def claim(job: Job, paths: Sequence[str]) -> None:
    """Take a folder of work that is new, or of the same job."""
    joined = "\0".join(paths).encode(errors="surrogatepass")
    about = {**job._asdict(), "files": hashlib.blake2b(joined, digest_size=16).hexdigest()}
    del about["work"]
    address = below(job.work, "job.json")
    if not is_there(address):
        put(address, json.dumps(about, indent=1).encode())
        return
    there = json.loads(got(address))
    differing = [name for name in about if there.get(name) != about[name]]
    if differing:
        raise SystemExit(
            f"{job.work!r} holds the work of another call, which differs in "
            f"{', '.join(differing)}. Choose another --work, or delete this one."
        )


def mine(batch: dict[str, Any], job: Job) -> dict[str, Any]:
    """Mine the files of each unit into a table of pairs, if it is missing."""
    found = []
    for number, paths in zip(batch["unit"].tolist(), batch["paths"], strict=True):
        address = mined(job, number)
        if not is_there(address):
            counts: Counter[str] = Counter()
            documents = read(job, json.loads(paths), counts)
            if job.kind == "code":
                parts = list(cptk.mining.functions(documents, counts=counts))
            else:
                parts = list(cptk.mining.neighbouring_text(documents, unit=job.unit, counts=counts))
            none = pa.table({side: pa.array([], pa.string()) for side in ("query", "document")})
            table = cptk.data.Pairs.concat(parts).to_arrow() if parts else none
            put_table(address, table.replace_schema_metadata({"counts": json.dumps(counts)}))
        table = got_table(address)
        found.append((number, table.num_rows, table.schema.metadata[b"counts"].decode()))
    return {name: [row[i] for row in found] for i, name in enumerate(("unit", "pairs", "counts"))}


def mined(job: Job, unit: int) -> str:
    """Where the pairs of a unit lie."""
    return below(job.work, "mined", f"{unit:06}.arrow")


def read(job: Job, paths: Sequence[str], counts: Counter[str]) -> Iterator[Any]:
    """Files as documents, one by one; what `read_folder` leaves out is left out and counted."""
    system, root = opened(job.source)
    source = file_rules.Source(PurePosixPath(root).name)

    def document(path: str) -> Any:
        try:
            with system.open_input_file(below(root, path)) as file:
                data = file.read(source.largest + 1)
        except UnicodeEncodeError:  # its name, which Arrow does not open
            raise LeftOut("wrong encoding") from None
        except OSError:
            raise LeftOut("not readable") from None
        return file_rules.document(data, path, source)

    return taken((partial(document, path) for path in paths), counts)


# === Near duplicates ===


def texts_of(table: pa.Table, by: str) -> list[str]:
    """What is compared of each pair of a table."""
    return minhash.compared(*(table[side].to_pylist() for side in ("query", "document")), by)


def keyed(batch: dict[str, Any], job: Job, buckets: int) -> Iterator[pa.Table]:
    """The records of some units: 25 for each text, which its pair of the smallest id stands for."""
    for unit in batch["unit"].tolist():
        table = got_table(mined(job, unit))
        texts = texts_of(table, job.by)
        sides = (table[side].to_pylist() for side in ("query", "document"))
        ids, same = minhash.content_ids(*sides), minhash.text_keys(texts)
        order = np.argsort(ids, kind="stable")
        rows = order[np.unique(same[order], return_index=True)[1]]
        keys = minhash.band_keys(minhash.signatures([texts[row] for row in rows]))
        each = np.repeat(rows, minhash.BANDS)
        yield records(keys.ravel(), ids[each], same[each], unit, each, False, buckets)
        others = np.setdiff1d(np.arange(len(texts)), rows)
        yield records(same[others], ids[others], same[others], unit, others, True, buckets)


def records(
    key: Any, ids: Any, same: Any, unit: Any, row: Any, falls: bool, buckets: int
) -> pa.Table:
    """Records in columns."""
    bucket = (key >> minhash.BAND_BITS) % np.uint64(buckets)
    columns = [bucket, key, ids, same, np.broadcast_to(unit, len(row)), row]
    arrays = [pa.array(c).cast(f.type) for c, f in zip(columns, RECORD, strict=False)]
    return pa.Table.from_arrays([*arrays, pa.array([falls] * len(row), pa.bool_())], schema=RECORD)


def met(table: pa.Table) -> pa.Table:
    """Of a bucket, what falls as the copy of another text, and what meets others in a band."""
    waiting = table.filter(pc.invert(table["falls"]))
    waiting = waiting.sort_by([(name, "ascending") for name in ("key", "id", "unit", "row")])
    key, same = (waiting[name].to_numpy() for name in ("key", "same"))
    # The first of each text in each key; others of it fall, which band 0 says for all.
    order = np.lexsort((np.arange(len(key)), same, key))
    first = np.ones(len(key), bool)
    first[order[1:]] = (np.diff(key[order]) != 0) | (np.diff(same[order]) != 0)
    band = key & np.uint64((1 << int(minhash.BAND_BITS)) - 1)
    copies = waiting.filter(pa.array(~first & (band == 0)))
    texts = waiting.filter(pa.array(first))
    several = np.zeros(texts.num_rows, bool)
    for group in minhash.groups_of(texts["key"].to_numpy()):
        several[group] = True
    falls = pa.array(np.ones(copies.num_rows, bool))
    return pa.concat_tables(
        [table.filter(table["falls"]), copies.set_column(6, "falls", falls),
         texts.filter(pa.array(several))]
    ).combine_chunks()  # fmt: skip


def with_texts(table: pa.Table, job: Job) -> pa.Table:
    """Records of a unit with their texts; those that fall have none."""
    unit = got_table(mined(job, table["unit"][0].as_py())).select(["query", "document"])
    rows, falls = table["row"].to_numpy(), table["falls"].to_numpy()
    wanted, place = np.unique(rows[~falls], return_inverse=True)
    texts = np.array([*texts_of(unit.take(pa.array(wanted)), job.by), None], object)
    found = np.full(len(rows), len(wanted))
    found[~falls] = place
    return table.append_column("text", pa.array(texts[found], pa.large_string()))


def decided(table: pa.Table, job: Job) -> pa.Table:
    """Of a bucket, the records that fall."""
    waiting = table.filter(pc.invert(table["falls"]))
    waiting = waiting.sort_by([(name, "ascending") for name in ("key", "id", "unit", "row")])
    keys = waiting["key"].to_numpy()
    fallen = np.zeros(len(keys), bool)
    for group in minhash.groups_of(keys):
        texts = waiting["text"].take(pa.array(group)).to_pylist()
        band = int(keys[group[0]]) % (1 << int(minhash.BAND_BITS))
        fallen[group] = minhash.near_smaller(texts, minhash.signatures(texts), band, job.similarity)
    parts = [table.filter(table["falls"]), waiting.filter(pa.array(fallen))]
    return pa.concat_tables(parts).select(["unit", "row"]).combine_chunks()


def noted(table: pa.Table, job: Job) -> pa.Table:
    """Write down which rows of a unit fall, and say how many."""
    unit, rows = table["unit"][0].as_py(), np.unique(table["row"].to_numpy())
    put_table(fallen_of(job, unit), pa.table({"row": rows}))
    return pa.table({"unit": [unit], "fallen": [len(rows)]})


def fallen_of(job: Job, unit: int) -> str:
    """Where the rows of a unit that fall are written."""
    return below(job.work, "fallen", f"{unit:06}.arrow")


# === The store ===


class Tokenise:
    """Writes shards of the store: an actor, that has loaded the preset."""

    def __init__(self, job: Job) -> None:
        from cptk.data import store_writing  # brings Keras, of which the other steps need nothing

        self.writing = store_writing
        self.job = job
        embedder = cptk.models.TextEmbedder.from_preset(job.preset, load_weights=False)
        self.reader = embedder.preprocessor
        settings = store_writing.settings_of(self.reader)
        self.plan = store_writing.Plan(settings, job.rows_per_shard, job.keep_text)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        for number, parts in zip(batch["shard"].tolist(), batch["parts"], strict=True):
            address = below(self.job.work, "shards", self.writing.shard_name(number))
            if not is_there(address):
                table = pa.concat_tables([self._stay(*part) for part in json.loads(parts)])
                with tempfile.TemporaryDirectory() as folder:
                    path = Path(folder) / self.writing.shard_name(number)
                    table = tables.large(table.combine_chunks())
                    self.writing.write_shard(path, table, self.reader, self.plan)
                    put(address, pa.memory_map(str(path)).read_buffer())
        return {"shard": batch["shard"]}

    def _stay(self, unit: int, fallen: int, start: int, stop: int) -> pa.Table:
        """Some of the pairs of a unit that stay."""
        table = got_table(mined(self.job, unit)).replace_schema_metadata()
        stays = np.ones(table.num_rows, bool)
        if fallen:
            stays[got_table(fallen_of(self.job, unit))["row"].to_numpy()] = False
        return table.take(pa.array(np.flatnonzero(stays)[start:stop]))
