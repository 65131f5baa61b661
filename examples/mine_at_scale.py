"""Code or text on any file system becomes a token store, by a Ray cluster.

    python examples/mine_at_scale.py INPUT OUTPUT --address auto --work s3://bucket/work

INPUT and the folder of work are paths that all nodes see, or addresses that pyarrow knows (`s3://`,
`gs://`, `abfs://`, `fsspec+…://`). OUTPUT is a folder of this machine. Pairs are mined, those that
are nearly another one dropped, and the rest tokenised; the store has the bytes that one process
writes, however many workers there are and whichever are lost. Started again, it goes on.
"""

import argparse
import hashlib
import json
import os
import shutil
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
# Of tasks alone: the shuffle by actors does not outlive a node.
os.environ.setdefault("RAY_DATA_DEFAULT_SHUFFLE_STRATEGY", "sort_shuffle_pull_based")

from pyarrow import fs

import cptk
from cptk import files
from cptk.mining import minhash

sys.path.append(str(Path(__file__).parent))
import mine_at_scale_parts as work
from mine_at_scale_parts import Job, below, claim, is_there, opened, put

# === What the driver does ===


def mapped(rows: list[dict[str, Any]], function: Any, **options: Any) -> list[dict[str, Any]]:
    """What a function makes of each row, somewhere on the cluster."""
    import ray.data

    blocks = min(len(rows), work.MOST_TASKS)
    made = ray.data.from_items(rows, override_num_blocks=blocks)
    return list(made.map_batches(function, batch_size=1, **options).iter_rows())


def drop_near_duplicates(job: Job, pairs: dict[int, int]) -> dict[int, int]:
    """How many pairs of each unit fall; which, is written down. By four shuffles."""
    import ray.data

    done = below(job.work, "fallen", "done.json")
    if is_there(done):
        return {int(unit): count for unit, count in json.loads(work.got(done)).items()}
    buckets = 1 + sum(pairs.values()) * minhash.BANDS // work.RECORDS_PER_BUCKET
    parts = {"num_partitions": min(buckets, work.MOST_TASKS)}
    arrow = {"batch_format": "pyarrow"}
    own = {**arrow, "fn_kwargs": {"job": job}}
    units = [{"unit": unit} for unit, count in pairs.items() if count]
    found: dict[int, int] = {}
    if units:
        made = ray.data.from_items(units, override_num_blocks=min(len(units), work.MOST_TASKS))
        options = {"job": job, "buckets": buckets}
        made = made.map_batches(work.keyed, batch_size=1, fn_kwargs=options)
        made = made.groupby("bucket", **parts).map_groups(work.met, **arrow).materialize()
        if made.count():  # no text meets another: Ray cannot group nothing
            made = made.groupby("unit", **parts).map_groups(work.with_texts, **own)
            made = made.groupby("bucket", **parts).map_groups(work.decided, **own).materialize()
        if made.count():
            made = made.groupby("unit", **parts).map_groups(work.noted, **own)
            found = {row["unit"]: row["fallen"] for row in made.iter_rows()}
    put(done, json.dumps(found).encode())
    return found


def shards_of(
    pairs: dict[int, int], fallen: dict[int, int], size: int
) -> Iterator[list[tuple[int, int, int, int]]]:
    """Of each shard its parts: unit, how many fall there, and from where to where of the others."""
    parts: list[tuple[int, int, int, int]] = []
    room = size
    for unit, count in sorted(pairs.items()):
        falls = fallen.get(unit, 0)
        start, left = 0, count - falls
        while left:
            taken = min(room, left)
            parts.append((unit, falls, start, start + taken))
            start, left, room = start + taken, left - taken, room - taken
            if not room:
                yield parts
                parts, room = [], size
    if parts:
        yield parts


def collect(job: Job, output: Path, count: int) -> Any:
    """Copy the shards into the store, and write its manifest."""
    from cptk.data import store_locks, store_writing  # brings Keras

    with store_locks.writing(output, (0, 1)):
        for number in range(count):
            name = store_writing.shard_name(number)
            place = output / name
            system, path = opened(below(job.work, "shards", name))
            with system.open_input_stream(path, compression=None) as stream:
                if not place.exists():
                    with files.replacing(place) as file:
                        shutil.copyfileobj(stream, file, 1 << 24)
                elif hashlib.file_digest(stream, "sha256").hexdigest() != files.sha256_of(place):
                    raise SystemExit(f"OUTPUT holds another store: {str(place)!r} differs.")
        store_writing.write_manifest(output, count)
    return cptk.data.TokenStore(output)


def main(arguments: Sequence[str] | None = None) -> None:
    """Mine, clean, tokenise and collect; each step goes on where it was."""
    options, job = parse(arguments)
    ray = cptk.optional.load("ray", "Mining on a cluster", "ray[data]", "ray")
    paths = work.listed(job.source, work.ENDINGS[job.kind])
    if not paths:
        raise SystemExit(f"INPUT holds no file of {job.kind} to read. Received: {job.source}.")
    claim(job, work.stamps(job.source, paths))
    how = {"address": options.address} if options.address else {"num_cpus": options.workers}
    ray.cloudpickle.register_pickle_by_value(work)  # nodes need cptk, and not this folder
    ray.init(**how, **({} if options.address else {"include_dashboard": False}))
    step = options.files_per_task
    units = [
        {"unit": number, "paths": json.dumps(paths[start : start + step])}
        for number, start in enumerate(range(0, len(paths), step))
    ]
    counts: Counter[str] = Counter()
    pairs = {}
    for row in mapped(units, work.mine, fn_kwargs={"job": job}):
        pairs[row["unit"]] = row["pairs"]
        counts.update(json.loads(row["counts"]))
    fallen = drop_near_duplicates(job, pairs)
    counts["near duplicates"] = sum(fallen.values())
    parts = shards_of(pairs, fallen, job.rows_per_shard)
    shards = [{"shard": n, "parts": json.dumps(each)} for n, each in enumerate(parts)]
    if not shards:
        raise SystemExit(f"No pair was found in {len(paths):,} files: {dict(counts)}.")
    actors = max(1, min(len(shards), int(ray.cluster_resources().get("CPU", 1))))
    pool = ray.data.ActorPoolStrategy(min_size=1, max_size=actors)
    mapped(shards, work.Tokenise, fn_constructor_args=[job], compute=pool)
    ray.shutdown()
    for name, number in counts.most_common():
        print(f"{number:>12,}  {name}")
    print(collect(job, options.output, len(shards)))


def parse(arguments: Sequence[str] | None) -> tuple[argparse.Namespace, Job]:
    """The command line, checked."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("input", help="where code or text lies: a path that all nodes see, or an address")
    add("output", type=Path, help="folder of the token store, on this machine")
    add("--address", help='the cluster\'s: "auto" on its head node (default: this machine alone)')
    add("--workers", type=int, help="without --address: how many (default: one a core)")
    add("--work", help="folder of what lies between, seen by all nodes (default: OUTPUT.work)")
    add("--kind", choices=["code", "text"], default="code")
    add("--unit", choices=["sentence", "paragraph"], default="sentence", help="of pieces of text")
    add("--by", choices=["query", "document", "pair"], default="document", help="what is compared")
    add("--similarity", type=float, default=0.8, help="of near duplicates, 0.5 to 1")
    add("--preset", help="the embedder's preset (all-MiniLM-L6-v2, of a pip package)")
    add("--files-per-task", type=int, default=1000)
    add("--rows-per-shard", type=int, default=65_536)
    add("--keep-text", action="store_true", help="keep the texts beside their ids")
    options = parser.parse_args(arguments)
    for name in ("files_per_task", "rows_per_shard"):
        if getattr(options, name) < 1:
            parser.error(f"--{name.replace('_', '-')} should be 1 or more.")
    if not 0.5 <= options.similarity <= 1:
        parser.error(f"--similarity should be from 0.5 to 1. Received: {options.similarity}.")
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
    source = options.input if "://" in options.input else os.path.abspath(options.input)
    between = options.work or f"{options.output}.work"
    between = between if "://" in between else os.path.abspath(between)
    return options, Job(
        source, between, options.kind, options.unit, options.by, options.similarity, options.preset,
        options.rows_per_shard, options.keep_text,
    )  # fmt: skip


if __name__ == "__main__":
    main()
