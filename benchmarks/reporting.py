"""What every benchmark needs: timing, a ratio with its interval, the machine, rows, writing."""

import argparse
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np


def timed(step):
    """`(wall seconds, CPU seconds of all threads of this process, result)` of one call."""
    wall, cpu = time.perf_counter(), time.process_time()
    result = step()
    return time.perf_counter() - wall, time.process_time() - cpu, result


def take_step(model, batch):
    """A step of a Keras model to its end, and its loss: JAX gives the loss before the weights."""
    import keras

    loss = float(model.train_on_batch(batch, return_dict=True)["loss"])
    if keras.config.backend() == "jax":
        import jax

        jax.block_until_ready([variable.value for variable in model.trainable_variables])
    return loss


def alternate(first, second, rounds):
    """Call two functions in turn, so that drift of the machine hits both alike.

    The order turns each round (AB, BA, AB, …): neither always finds the caches of the other.

    Args:
        first: Function from the round's number to a tuple of seconds.
        second: The same.
        rounds: How often to call each.

    Returns:
        For each function an array `(rounds, length of the tuple)`.
    """
    times = ([], [])
    functions = (first, second)
    for i in range(rounds):
        for which in (0, 1) if i % 2 == 0 else (1, 0):
            times[which].append(functions[which](i))
    return np.array(times[0]), np.array(times[1])


def median_ratio(numerator, denominator, seed=0, resamples=4000):
    """The median of paired ratios, and the interval that holds 95 % of its bootstrap.

    Args:
        numerator: `(rounds,)` seconds.
        denominator: `(rounds,)` seconds, round by round measured beside the numerator.
    """
    ratios = np.asarray(numerator) / np.asarray(denominator)
    rows = np.random.default_rng(seed).integers(0, len(ratios), (resamples, len(ratios)))
    low, high = np.quantile(np.median(ratios[rows], axis=1), [0.025, 0.975])
    return {"ratio": float(np.median(ratios)), "low": float(low), "high": float(high)}


def verdict(interval, rounds, limit):
    """Whether the ratio is within the limit, as far as the interval can say.

    Of fewer than 6 rounds the median may lie outside all of them more than 3 times in 100.
    """
    if rounds >= 6 and interval["high"] <= limit:
        return "yes"
    return "no" if rounds >= 6 and interval["low"] > limit else "undecided"


def machine():
    """Cores, processor and system: what the figures depend on, and nobody's names or paths."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        cpu = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        cpu = platform.processor() or "unknown"
    usable = getattr(os, "sched_getaffinity", None)
    return {
        "cpu": cpu,
        "gpu": gpu(),
        "cores": os.cpu_count(),
        "usable_cores": len(usable(0)) if usable else os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
    }


def gpu():
    """The names of NVIDIA's GPUs that are here, or `None`."""
    try:
        command = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
        found = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return ", ".join(found.stdout.split("\n")[:-1]) or None if found.returncode == 0 else None


def described(machine):
    """Processor, cores, GPU, system and Python in words."""
    gpu = f"{machine['gpu']}, " if machine.get("gpu") else ""
    return (
        f"{gpu}{machine['cpu']}, {machine['usable_cores']} cores, {machine['system']}, "
        f"Python {machine['python']}"
    )


def load_average():
    """Processes that wanted a core in the last minute, or `None` where nobody counts them."""
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None


def versions(packages):
    """The installed versions; a package that is not there is left out."""
    found = {}
    for package in packages:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def markdown_table(header, rows):
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def footer(report):
    """One line on the machine, the versions and the day."""
    machine = report["machine"]
    load = machine["load_average"]
    packages = ", ".join(f"{name} {version}" for name, version in report["versions"].items())
    return (
        f"{described(machine)}, load average {load['before']} before and {load['after']} after "
        "(other work on the machine stretches the seconds; CPU seconds less so); "
        f"{packages}; {report['date']}."
    )


def run_worker(script, task, environment):
    """The row that `python script --worker task file` writes to the file, or why there is none."""
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "result.json"
        command = [sys.executable, script, "--worker", json.dumps(task), str(result)]
        run = subprocess.run(
            command, env=environment, stderr=subprocess.PIPE, text=True, check=False
        )
        if run.returncode == 0:
            return json.loads(result.read_text())
    print(run.stderr[-3000:], file=sys.stderr, flush=True)
    killed = f"killed by signal {-run.returncode}" if run.returncode < 0 else None
    lines = run.stderr.strip().splitlines() or [f"exit status {run.returncode}"]
    return {"status": "failed", "reason": (killed or lines[-1])[:200]}


def earlier_rows(report, file, fresh):
    """The rows of an earlier run with the same settings; none where there was no such run.

    Where there was one with others, that is an error, or `fresh`, and its rows are left out.
    """
    try:
        earlier = json.loads(file.read_text("utf-8"))
    except OSError:
        return []
    differing = [
        f"{part}.{name}"
        for part in ("setup", "machine", "versions")
        for name in {**earlier[part], **report[part]}
        if earlier[part].get(name) != report[part].get(name)
    ]
    if differing and not fresh:
        raise SystemExit(
            f"{file} was measured with other settings ({', '.join(differing)}). "
            "Use --fresh to begin anew, or another --output."
        )
    return [] if differing else earlier["rows"]


def add_run_flags(parser):
    """The flags of a benchmark that measures row by row."""
    add = parser.add_argument
    add("--output", type=Path, default=Path(__file__).parent / "results")
    add("--fresh", action="store_true", help="measure again what is in the output already")
    add("--tiny", action="store_true", help="a toy for a test: no real figures")
    add("--worker", nargs=2, help=argparse.SUPPRESS)


def check_above_zero(parser, parsed, *names):
    """End with an error where one of these flags is given and not above 0."""
    for name in names:
        value = getattr(parsed, name)
        if value is not None and not value > 0:
            flag = name.replace("_", "-")
            parser.error(f"--{flag} should be above 0. Received: {value:g}.")


def begin(name, packages, setup, arguments):
    """The report so far: that of an earlier run with the same settings, or an empty one."""
    report = {
        "benchmark": name,
        "date": None,
        "machine": machine(),
        "versions": versions(packages),
        "setup": setup,
        "rows": [],
    }
    report["rows"] = earlier_rows(report, arguments.output / f"{name}.json", arguments.fresh)
    return report


def run_on_tensorflow(script, task):
    """`run_worker` on the TensorFlow backend."""
    environment = {"TF_CPP_MIN_LOG_LEVEL": "2", **os.environ, "KERAS_BACKEND": "tensorflow"}
    return run_worker(script, task, environment)


def measure_missing(report, wanted, fresh, write):
    """Measure what is asked for and not in the report, and write it after each row.

    Args:
        report: The report so far; its rows are replaced and added to.
        wanted: `(place, what, measure)` of each row: what tells it from others, what is said of
            it, and a function that returns the rest of it.
        fresh: Whether to measure again what is there.
        write: Called without arguments.
    """
    for place, what, measure in wanted:
        found = [row for row in report["rows"] if place.items() <= row.items()]
        if any(row["status"] == "measured" for row in found) and not fresh:
            continue
        print(f"{what} ...", file=sys.stderr, flush=True)
        load = load_average()
        row = measure()
        report["rows"] = [r for r in report["rows"] if r not in found]
        report["rows"].append({**place, "load_average": load, **row})
        write()
    write()


def write_atomically(path, text):
    """Write beside the file's place and rename: a reader never sees half of it."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(path.name + ".tmp")
    scratch.write_text(text, encoding="utf-8")
    os.replace(scratch, path)
