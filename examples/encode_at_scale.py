"""Texts in Parquet files become vectors in Parquet files, by actors on a Ray cluster.

    python examples/encode_at_scale.py INPUT OUTPUT --column text --address auto --preset PRESET

INPUT and OUTPUT are folders that all nodes see, or addresses that pyarrow knows (`s3://`, `gs://`,
`abfs://`, `fsspec+…://`). Each task reads some rows and writes one file, whole or not at all, with
all columns and one more, `vector`. An actor that is killed is started again, and its task with it:
no row is lost and none is there twice. Started again, the command goes on.
"""

import argparse
import hashlib
import json
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

import cptk
from cptk.files import sha256_of

sys.path.append(str(Path(__file__).parent))
import mine_at_scale_parts as files
from mine_at_scale_parts import below, is_there, opened, put

ABOUT = "_about.json"  # readers of a folder of Parquet files pass over such names


class Job(NamedTuple):
    """What the result depends on."""

    source: str
    output: str
    preset: str
    column: str
    role: str | None
    dtype: str
    truncate_dim: int | None
    rows_per_task: int


class Task(NamedTuple):
    """Some rows of a row group of a file."""

    number: int
    path: str
    group: int
    start: int
    stop: int


# === What the driver does ===


def parquet_files(source: str) -> list[str]:
    """The Parquet files below a folder, in the order of their names."""
    system, root = opened(source)
    found = system.get_file_info(fs.FileSelector(root, recursive=True))
    names = {
        each.path: each.path.removeprefix(root.rstrip("/") + "/").split("/")
        for each in found
        if each.type == fs.FileType.File and each.path.endswith(".parquet")
    }
    return sorted(path for path, parts in names.items() if not any(p[0] in "._" for p in parts))


def tasks_of(job: Job, paths: Sequence[str]) -> Iterator[Task]:
    """The rows of all files, cut into tasks."""
    system, _ = opened(job.source)
    number = 0
    for path in paths:
        with system.open_input_file(path) as file:
            about = pq.read_metadata(file)
        schema = about.schema.to_arrow_schema()
        if job.column not in schema.names:
            raise SystemExit(f"{path!r} has no column {job.column!r}. Choose another --column.")
        if "vector" in schema.names:
            raise SystemExit(f"{path!r} has a column 'vector' already. Rename it.")
        kind = schema.field(job.column).type
        kind = kind.value_type if pa.types.is_dictionary(kind) else kind
        if kind not in (pa.string(), pa.large_string(), pa.string_view()):
            raise SystemExit(f"{path!r} has no texts in the column {job.column!r}, but {kind}.")
        for group in range(about.num_row_groups):
            rows = about.row_group(group).num_rows
            for start in range(0, rows, job.rows_per_task):
                yield Task(number, path, group, start, min(rows, start + job.rows_per_task))
                number += 1


def stamp_of_inputs(paths: Sequence[str], job: Job) -> str:
    """Changes with any input file, by its size and time."""
    system, root = opened(job.source)
    infos = system.get_file_info(list(paths))
    return digest([(info.path.removeprefix(root), info.size, info.mtime_ns) for info in infos])


def stamp_of_preset(preset: str) -> str:
    """Changes with what a local preset holds; of a name or a handle it is the name."""
    place = Path(preset)
    if not place.is_dir():
        return preset
    names = sorted(path for path in place.rglob("*") if path.is_file())
    return digest([(str(path.relative_to(place)), sha256_of(path)) for path in names])


def digest(values: Sequence[Any]) -> str:
    """SHA-256 of some values."""
    return hashlib.sha256(json.dumps(values).encode()).hexdigest()


def claim(job: Job, tasks: Sequence[Task], paths: Sequence[str]) -> None:
    """Take an OUTPUT that is new, or of the same job over the same files by the same embedder."""
    about = {**job._asdict(), "tasks": len(tasks), "rows": sum(t.stop - t.start for t in tasks)}
    about |= {"files": stamp_of_inputs(paths, job), "embedder": stamp_of_preset(job.preset)}
    del about["output"]
    address = below(job.output, ABOUT)
    if not is_there(address):
        put(address, json.dumps(about, indent=1).encode())
        return
    there = json.loads(files.got(address))
    differing = [name for name in about if there.get(name) != about[name]]
    if differing:
        raise SystemExit(
            f"{job.output!r} holds the vectors of another call, which differs in "
            f"{', '.join(differing)}. Choose another OUTPUT, or delete this one."
        )


def main(arguments: Sequence[str] | None = None) -> None:
    """Encode what is not there yet."""
    options, job = parse(arguments)
    ray = cptk.optional.load("ray", "Encoding on a cluster", "ray[data]", "ray")
    data = cptk.optional.load("ray.data", "Encoding on a cluster", "ray[data]", "ray")
    paths = parquet_files(job.source)
    tasks = list(tasks_of(job, paths))
    if not tasks:
        raise SystemExit(f"INPUT holds no rows in Parquet files. Received: {job.source}.")
    claim(job, tasks, paths)
    missing = [task for task in tasks if not is_there(place_of(job, task.number))]
    if missing:
        how = {"address": options.address} if options.address else {"num_cpus": options.workers}
        for module in (files, sys.modules[__name__]):  # nodes need cptk, and not this folder
            ray.cloudpickle.register_pickle_by_value(module)
        ray.init(**how, **({} if options.address else {"include_dashboard": False}))
        actors = options.workers or max(1, int(ray.cluster_resources().get("CPU", 1)))
        rows = [{"task": json.dumps(task)} for task in missing]
        made = data.from_items(rows, override_num_blocks=min(len(rows), files.MOST_TASKS))
        done = made.map_batches(
            Encode,
            fn_constructor_args=[job],
            batch_size=1,
            compute=data.ActorPoolStrategy(size=min(actors, len(missing))),
            num_gpus=options.gpus_per_worker,
        )
        seen = sum(1 for _ in done.iter_rows())
        ray.shutdown()
        print(f"{seen:,} tasks done, {len(tasks) - len(missing):,} were there.")
    check(job, tasks)


def check(job: Job, tasks: Sequence[Task]) -> None:
    """Count the rows of every file that should be there."""
    system, root = opened(job.output)
    rows = 0
    for task in tasks:
        with system.open_input_file(below(root, name_of(task.number))) as file:
            found = pq.read_metadata(file).num_rows
        if found != task.stop - task.start:
            raise SystemExit(f"{name_of(task.number)} has {found} rows. Delete it and call again.")
        rows += found
    print(f"{rows:,} vectors in {len(tasks):,} files of {job.output}")


# === What the actors do ===


def name_of(number: int) -> str:
    """The file that a task writes."""
    return f"{number:07}.parquet"


def place_of(job: Job, number: int) -> str:
    """Where a task writes."""
    return below(job.output, name_of(number))


class Encode:
    """An actor that has loaded the embedder; it writes the vectors of one task at a time."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.embedder = cptk.models.TextEmbedder.from_preset(job.preset)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        for text in batch["task"]:
            self.write(Task(*json.loads(text)))
        return {"task": batch["task"]}

    def write(self, task: Task) -> None:
        """Write the file of a task, if it is not there."""
        job = self.job
        address = place_of(job, task.number)
        if is_there(address):  # of an actor that was killed before it could say so
            return
        system, _ = opened(job.source)
        with system.open_input_file(task.path) as file:
            table = pq.ParquetFile(file).read_row_group(task.group)
        table = table.slice(task.start, task.stop - task.start)
        vectors = cptk.encode(
            self.embedder,
            table,
            job.role,
            verbose=0,
            column=job.column,
            truncate_dim=job.truncate_dim,
            dtype=job.dtype,  # type: ignore[arg-type]  # argparse has checked it
        )
        flat = pa.array(np.ascontiguousarray(vectors).reshape(-1))
        column = pa.FixedSizeListArray.from_arrays(flat, vectors.shape[1])
        sink = pa.BufferOutputStream()
        pq.write_table(table.append_column("vector", column), sink)
        put(address, sink.getvalue())


# === The command line ===


def parse(arguments: Sequence[str] | None) -> tuple[argparse.Namespace, Job]:
    """The command line, checked."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("input", help="a folder of Parquet files that all nodes see, or an address")
    add("output", help="the same, for the vectors")
    add("--column", default="text", help="that holds the texts (text)")
    add("--preset", help="the embedder's, on all nodes (all-MiniLM-L6-v2, of a pip package)")
    add("--role", help="the embedder's own by default")
    add("--dtype", choices=["float32", "float16", "binary"], default="float32", help="of vectors")
    add("--truncate-dim", type=int, help="numbers of a vector that are kept (all)")
    add("--rows-per-task", type=int, default=8192)
    add("--address", help='the cluster\'s: "auto" on its head node (default: this machine alone)')
    add("--workers", type=int, help="how many actors (default: one a core)")
    add("--gpus-per-worker", type=float, help="(none)")
    options = parser.parse_args(arguments)
    for name in ("rows_per_task", "workers", "truncate_dim"):
        if getattr(options, name) is not None and getattr(options, name) < 1:
            parser.error(f"--{name.replace('_', '-')} should be 1 or more.")
    try:
        system, path = opened(options.input)
        is_folder = system.get_file_info(path).type == fs.FileType.Directory
    except (OSError, ValueError) as error:
        parser.error(f"INPUT cannot be read: {error}")
    if not is_folder:
        parser.error(f"INPUT should be a folder. Received: {options.input}.")
    if options.preset is None:
        import quickstart_models

        options.preset = quickstart_models.minilm_folder()
    source, output = (
        place if "://" in place else os.path.abspath(place)
        for place in (options.input, options.output)
    )
    inside = [f"{place.rstrip('/')}/" for place in (source, output)]
    if inside[0].startswith(inside[1]) or inside[1].startswith(inside[0]):
        parser.error("OUTPUT and INPUT should not lie in one another: vectors would be texts.")
    return options, Job(
        source, output, options.preset, options.column, options.role, options.dtype,
        options.truncate_dim, options.rows_per_task,
    )  # fmt: skip


if __name__ == "__main__":
    main()
