"""What a pair costs on its way into a token store: processor time and bytes, step by step.

    python benchmarks/mining_rates.py FOLDER [--kind code text] [--files 4000]

The steps are those of `examples/mine_at_scale.py`, without Ray, in one process, on one core.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("RAYON_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import numpy as np
import pyarrow as pa

sys.path.append(str(Path(__file__).parents[1] / "examples"))
import mine_at_scale as script
import mine_at_scale_parts as work

PAIRS = 1_000_000_000


def timed(function: Callable[[], Any]) -> tuple[Any, float]:
    """What a function returns, and the processor time it took, of all threads."""
    start = time.process_time()
    return function(), time.process_time() - start


def grouped(table: pa.Table, by: str, function: Callable[[pa.Table], pa.Table]) -> pa.Table:
    """The tables that a function makes of each group."""
    table = table.sort_by(by)
    begins = np.flatnonzero(np.diff(table[by].to_numpy(), prepend=-1))
    ends = [*begins[1:], table.num_rows]
    return pa.concat_tables(
        [function(table.slice(a, b - a)) for a, b in zip(begins, ends, strict=True)]
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and print what a billion pairs would take."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder")
    parser.add_argument("--kind", choices=["code", "text"], default="code")
    parser.add_argument("--files", type=int, default=4000)
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        _, job = script.parse(
            [options.folder, f"{folder}/store", "--kind", options.kind, "--work", f"{folder}/work"]
        )
        paths = work.listed(job.source, work.ENDINGS[job.kind])[: options.files]
        units = [
            {"unit": np.array([n]), "paths": [json.dumps(paths[start : start + 1000])]}
            for n, start in enumerate(range(0, len(paths), 1000))
        ]
        found, mining = timed(lambda: [work.mine(unit, job) for unit in units])
        pairs = {each["unit"][0]: each["pairs"][0] for each in found}
        count = sum(pairs.values())
        between = sum(path.stat().st_size for path in Path(folder).rglob("*.arrow"))
        batch = {"unit": np.array([unit for unit, size in pairs.items() if size])}
        keyed, keys = timed(lambda: pa.concat_tables(work.keyed(batch, job, 1)))
        met, meeting = timed(lambda: grouped(keyed, "bucket", work.met))
        texts, joining = timed(lambda: grouped(met, "unit", lambda t: work.with_texts(t, job)))
        fallen, deciding = timed(lambda: grouped(texts, "bucket", lambda t: work.decided(t, job)))
        noted = grouped(fallen, "unit", lambda t: work.noted(t, job)).to_pylist()
        falls = {each["unit"]: each["fallen"] for each in noted}
        parts = list(script.shards_of(pairs, falls, job.rows_per_shard))
        shards = {"shard": np.arange(len(parts)), "parts": list(map(json.dumps, parts))}
        tokenise = work.Tokenise(job)
        _, tokenising = timed(lambda: tokenise(shards))
        stored = sum(path.stat().st_size for path in Path(folder).rglob("shards/*.arrow"))
    left = count - sum(falls.values())
    print(f"{len(paths):,} files, {count:,} pairs, {left:,} of them stay")
    for what, seconds, each in (
        ("mining", mining, count),
        ("signatures and keys", keys, count),
        ("meeting in bands", meeting, count),
        ("fetching texts", joining, count),
        ("comparing texts", deciding, count),
        ("tokenising, writing", tokenising, left),
    ):
        hours = PAIRS * seconds / each / 3600
        print(f"{what:24}{1e6 * seconds / each:10,.0f} µs a pair{hours:10,.0f} hours for 10⁹")
    for what, size, each in (
        ("mined pairs", between, count),
        ("records of bands", keyed.nbytes, count),
        ("texts to compare", texts.nbytes, count),
        ("store", stored, left),
    ):
        print(f"{what:24}{size / each:10,.0f} bytes a pair{size / each:10,.0f} GB for 10⁹")


if __name__ == "__main__":
    main()
