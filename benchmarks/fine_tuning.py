"""MiniLM fine-tuned for the same seconds by sentence-transformers and by cptk, and searched.

    python benchmarks/fine_tuning.py [--seconds 400] [--seeds 0 1 2]
                                     [--arms st cptk hard matryoshka speed ...] [--tiny]

The pairs and the 1,000 held-out functions are the quickstart's. Each row is measured in a process
of its own, and fine_tuning.json and .md are written after each. Started again, it goes on.
"""

import argparse
import json
import os
import sys
import tempfile
import zlib
from pathlib import Path

import fine_tuning_arms as arms
import fine_tuning_report as results
import reporting

PACKAGES = "cptk keras keras-hub tensorflow torch transformers sentence-transformers".split()
CHOICES = [*arms.ARMS, "speed"]
MOST_PAIRS = 16_384  # more than either tool sees in ten minutes on two cores
SPEED_SEED = 0


# === What is measured ===


def prepare(folder, tiny):
    """The quickstart's pairs, in the folder that all processes read."""
    import dataclasses

    import quickstart
    import quickstart_models

    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "pairs.json"
    if not file.exists():
        recipe = quickstart_models.RECIPES["minilm"]
        smaller = {**quickstart_models.SMOKE, "pairs": 64, "held_out": 32} if tiny else {}
        changes = {"pairs": MOST_PAIRS, **smaller, "index_length": None}
        recipe = dataclasses.replace(recipe, **changes)
        found = quickstart.collect_pairs(recipe, seed=0, packages=not tiny)
        kept = {part: found[part] for part in ("held_out", "training")}
        reporting.write_atomically(file, json.dumps(kept))
    return file.read_bytes()


def tasks(arguments):
    """What is asked for, in order: a seed of all arms, then the next."""
    common = {
        "folder": str(arguments.work),
        "tiny": arguments.tiny,
        "seconds": arguments.seconds,
        "length": 16 if arguments.tiny else 112,
        "longest": 32 if arguments.tiny else 256,
    }
    for seed in dict.fromkeys(arguments.seeds):
        for key in arms.ARMS:
            # Nothing that is not trained depends on a seed.
            once = not arms.ARMS[key].trains and seed != arguments.seeds[0]
            if key in arguments.arms and not once:
                size = 8 if arguments.tiny else arms.ARMS[key].batch_size
                place = {"kind": "training", "arm": key, "batch_size": size}
                place["seed"] = seed if arms.ARMS[key].trains else 0
                # CoSQA takes minutes to encode: once an arm.
                cosqa = arguments.cosqa and place["seed"] == 0
                yield place, {**common, **place, "cosqa": cosqa}, arms.ARMS[key]
    if "speed" in arguments.arms:
        for batch_size in (4, 8) if arguments.tiny else (64, 256):
            steps = 1 if arguments.tiny else max(2, 512 // batch_size)
            for key, arm in arms.STEPS.items():
                place = {"kind": "speed", "arm": key, "batch_size": batch_size, "seed": SPEED_SEED}
                yield place, {**common, **place, "steps": steps}, arm


def run_fresh(task, missing, backend):
    """`arms.measure` in a process of its own, or why not."""
    if missing:
        return {"status": "not installed", "missing": missing}
    environment = {
        "TF_CPP_MIN_LOG_LEVEL": "2",
        **os.environ,
        "KERAS_BACKEND": backend,  # of sentence-transformers' arms it computes no figures
        "CUDA_VISIBLE_DEVICES": "",  # both on the CPU
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "true",
    }
    return reporting.run_worker(__file__, task, environment)


# === The command line ===


def parse(arguments):
    """The command line, checked."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--seconds", type=float, default=None, help="of training, for each (400)")
    add("--seeds", type=int, nargs="+", default=[0, 1, 2])
    add("--arms", nargs="+", choices=CHOICES, default=CHOICES, help=" ".join(CHOICES))
    add("--no-cosqa", dest="cosqa", action="store_false", help="leave CoSQA's queries out")
    add("--output", type=Path, default=Path(__file__).parent / "results")
    add("--work", type=Path, help="folder for the pairs, kept for the next run (temporary folder)")
    add("--fresh", action="store_true", help="measure again what is in the output already")
    add("--tiny", action="store_true", help="a toy for a test: no real figures")
    add("--worker", nargs=2, help=argparse.SUPPRESS)
    parsed = parser.parse_args(arguments)
    if parsed.seconds is None:
        parsed.seconds = 2.0 if parsed.tiny else 400.0
    if not parsed.seconds > 0:
        parser.error(f"--seconds should be above 0. Received: {parsed.seconds:g}.")
    if min(parsed.seeds) < 0:
        parser.error(f"--seeds should be 0 or more. Received: {parsed.seeds}.")
    parsed.cosqa = parsed.cosqa and not parsed.tiny
    name = "cptk_fine_tuning_tiny" if parsed.tiny else "cptk_fine_tuning"
    parsed.work = parsed.work or Path(tempfile.gettempdir()) / name
    return parsed


def begin(arguments, pairs):
    """The report so far: that of an earlier run with the same settings, or an empty one."""
    report = {
        "benchmark": "fine_tuning",
        "date": None,
        "machine": reporting.machine(),
        "versions": reporting.versions(PACKAGES),
        "setup": {
            "tiny": arguments.tiny,
            "seconds": arguments.seconds,
            "cosqa": arguments.cosqa,
            "theirs": arms.THEIRS,
            "ours": arms.OURS,
            "temperature": arms.TEMPERATURE,
            "negatives": {**arms.NEGATIVES, "ranks": [*arms.NEGATIVES["ranks"]]},
            "dims": [*arms.DIMS[arguments.tiny]],
            "pairs_crc32": zlib.crc32(pairs),
        },
        "rows": [],
        "summary": {},
        "answers": [],
    }
    file = arguments.output / "fine_tuning.json"
    report["rows"] = reporting.earlier_rows(report, file, arguments.fresh)
    return report


def main(arguments=None):
    """Measure what is asked for and not there, row by row."""
    arguments = parse(arguments)
    if arguments.worker:
        row = arms.measure(json.loads(arguments.worker[0]))
        Path(arguments.worker[1]).write_text(json.dumps(row))
        return
    report = begin(arguments, prepare(arguments.work, arguments.tiny))
    for place, task, arm in tasks(arguments):
        found = [row for row in report["rows"] if place.items() <= row.items()]
        if any(row["status"] == "measured" for row in found) and not arguments.fresh:
            continue
        what = "a step" if place["kind"] == "speed" else f"seed {place['seed']}"
        print(f"{arm.name}, {what}, batch {place['batch_size']} ...", file=sys.stderr, flush=True)
        load = reporting.load_average()
        row = run_fresh(task, arms.missing_modules(arm, arguments.tiny), arm.backend)
        report["rows"] = [r for r in report["rows"] if r not in found]
        report["rows"].append({**place, "load_average": load, **row})
        results.write(report, arguments.output)
    results.write(report, arguments.output)
    print(results.to_markdown(report), flush=True)


if __name__ == "__main__":
    main()
