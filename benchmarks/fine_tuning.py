"""MiniLM fine-tuned for the same seconds by sentence-transformers and by cptk, and searched.

    python benchmarks/fine_tuning.py [--seconds 400] [--seeds 0 1 2]
                                     [--arms st cptk hard matryoshka speed ...] [--tiny]

The pairs and the 1,000 held-out functions are the quickstart's. Each row is measured in a process
of its own, and fine_tuning.json and .md are written after each. Started again, it goes on.
"""

import argparse
import functools
import json
import os
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


def add_work_flag(parser):
    """Where the pairs of `prepare` lie."""
    text = "folder for the pairs, kept for the next run (temporary folder)"
    parser.add_argument("--work", type=Path, help=text)


def usual_work(tiny):
    """The folder that is meant where `--work` is left out."""
    name = "cptk_fine_tuning_tiny" if tiny else "cptk_fine_tuning"
    return Path(tempfile.gettempdir()) / name


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
    add_work_flag(parser)
    reporting.add_run_flags(parser)
    parsed = parser.parse_args(arguments)
    if parsed.seconds is None:
        parsed.seconds = 2.0 if parsed.tiny else 400.0
    reporting.check_above_zero(parser, parsed, "seconds")
    if min(parsed.seeds) < 0:
        parser.error(f"--seeds should be 0 or more. Received: {parsed.seeds}.")
    parsed.cosqa = parsed.cosqa and not parsed.tiny
    parsed.work = parsed.work or usual_work(parsed.tiny)
    return parsed


def begin(arguments, pairs):
    """The report so far: that of an earlier run with the same settings, or an empty one."""
    setup = {
        "tiny": arguments.tiny,
        "seconds": arguments.seconds,
        "cosqa": arguments.cosqa,
        "theirs": arms.THEIRS,
        "ours": arms.OURS,
        "temperature": arms.TEMPERATURE,
        "negatives": {**arms.NEGATIVES, "ranks": [*arms.NEGATIVES["ranks"]]},
        "dims": [*arms.DIMS[arguments.tiny]],
        "pairs_crc32": zlib.crc32(pairs),
    }
    return reporting.begin("fine_tuning", PACKAGES, setup, arguments)


def wanted(arguments):
    """The tasks with what is said of each, and how it is measured."""
    for place, task, arm in tasks(arguments):
        what = "a step" if place["kind"] == "speed" else f"seed {place['seed']}"
        missing = arms.missing_modules(arm, arguments.tiny)
        run = functools.partial(run_fresh, task, missing, arm.backend)
        yield place, f"{arm.name}, {what}, batch {place['batch_size']}", run


def main(arguments=None):
    """Measure what is asked for and not there, row by row."""
    arguments = parse(arguments)
    if arguments.worker:
        row = arms.measure(json.loads(arguments.worker[0]))
        Path(arguments.worker[1]).write_text(json.dumps(row))
        return
    report = begin(arguments, prepare(arguments.work, arguments.tiny))
    reporting.measure_missing(
        report, wanted(arguments), arguments.fresh, lambda: results.write(report, arguments.output)
    )
    print(results.to_markdown(report), flush=True)


if __name__ == "__main__":
    main()
