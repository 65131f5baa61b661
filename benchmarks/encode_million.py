"""A million short texts through a tiny embedder into a file: memory, and five kills.

    python benchmarks/encode_million.py [--count 1000000] [--kills 5] [--dtype float32] [--tiny]

One process embeds all. Another is killed with SIGKILL again and again and started anew; its file
must have the same bytes. Memory is that of the process after each hundredth of the texts; what it
is to show is that it moves by less than 200 MiB after the first tenth. A generator yields the
texts: no list of them exists.
"""

import argparse
import datetime
import functools
import hashlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import reporting

PACKAGES = "cptk keras keras-hub tensorflow jax numpy tokenizers".split()
LIMIT_MIB = 200


# === In a process of its own ===


def texts(count):
    """Short ones; one in ten repeats an earlier one."""
    for number in range(count):
        yield f"text {number - number % 10 * 7 if number % 10 == 9 else number} of them"


def encode_all(task):
    """Embed what is missing, and write the memory down as it goes."""
    sys.path.append(str(Path(__file__).parents[1]))
    import cptk
    from tests import toys

    embedder = toys.gpt2_embedder(1)
    memory, start, count = [], time.perf_counter(), task["count"]
    every = max(1, count // 100)

    def watch(done, total):
        if done // every > len(memory):
            memory.extend([resident_mib()] * (done // every - len(memory)))
            Path(task["log"]).write_text(f"{done}")

    options = {"dtype": task["dtype"], "progress": watch}
    cptk.encode(embedder, texts(count), output=task["output"], **options)
    return {"seconds": time.perf_counter() - start, "memory_mib": memory}


def resident_mib():
    """Memory of this process that is not mapped from a file."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("RssAnon")).split()[1]) / 1024


# === What is measured ===


def measure(task):
    """`encode_all` undisturbed, or killed as often as the task says."""
    log, kills = Path(task["log"]), 0
    log.unlink(missing_ok=True)
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "result.json"
        command = [sys.executable, __file__, "--worker", json.dumps(task), str(result)]
        while True:
            process = subprocess.Popen(command)
            after = (kills + 1) * task["count"] // (task["kills"] + 1)
            while process.poll() is None and kills < task["kills"]:
                time.sleep(0.02)
                if log.exists() and int(log.read_text() or 0) >= after:
                    process.send_signal(signal.SIGKILL)
                    process.wait()
                    kills += 1
                    break
            if process.wait() == 0:
                break
            if process.returncode != -signal.SIGKILL:
                return {"status": "failed", "reason": f"exit status {process.returncode}"}
        row = json.loads(result.read_text())
    memory = row.pop("memory_mib")
    settled = memory[len(memory) // 10 :]
    output = Path(task["output"])
    with output.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {
        "status": "measured",
        "killed": kills,
        "wall_seconds": time.perf_counter() - start,
        "texts_per_second_of_the_last": task["count"] / row["seconds"],
        "memory_mib": [min(settled), max(settled)],
        "mib": output.stat().st_size / 2**20,
        "sha256": digest,
    }


def answers(report):
    """What the measurements are to show, and whether they do."""
    rows = {row["kind"]: row for row in report["rows"] if row["status"] == "measured"}
    if set(rows) != {"whole", "killed"}:
        return []
    low, high = rows["whole"]["memory_mib"]
    same = rows["whole"]["sha256"] == rows["killed"]["sha256"]
    return [
        ["memory after the first tenth", f"± {LIMIT_MIB} MiB", f"{low:,.0f} to {high:,.0f} MiB",
         "yes" if high - low <= LIMIT_MIB else "no"],
        [f"bytes after {rows['killed']['killed']} kills", "those of one run",
         "equal" if same else "others", "yes" if same else "no"],
    ]  # fmt: skip


def to_markdown(report):
    """The tables."""
    header = ["run", "kills", "wall seconds", "MiB of vectors", "memory, MiB"]
    lines = [
        [row["kind"], row["killed"], f"{row['wall_seconds']:.0f}", f"{row['mib']:,.0f}",
         " to ".join(f"{value:,.0f}" for value in row["memory_mib"])]
        if row["status"] == "measured"
        else [row["kind"], row["status"], "", "", ""]
        for row in report["rows"]
    ]  # fmt: skip
    packages = ", ".join(f"{name} {version}" for name, version in report["versions"].items())
    return f"""# A million texts

{report["setup"]["count"]:,} short texts of a generator through a tiny GPT-2 into a file, \
{report["setup"]["dtype"]}.

{reporting.markdown_table(header, lines)}

{reporting.markdown_table(["what", "limit", "measured", "kept"], report["answers"])}

{reporting.described(report["machine"])}; {packages}; {report["date"]}.
"""


def write(report, folder):
    """encode_million.json and encode_million.md."""
    report["date"] = datetime.date.today().isoformat()
    report["answers"] = answers(report)
    text = json.dumps(report, indent=1, ensure_ascii=False) + "\n"
    reporting.write_atomically(folder / "encode_million.json", text)
    reporting.write_atomically(folder / "encode_million.md", to_markdown(report))


def main(arguments=None):
    """Measure both runs."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--count", type=int, help="texts (1,000,000)")
    add("--kills", type=int, default=5)
    add("--dtype", choices=["float32", "float16", "int8", "binary"], default="float32")
    reporting.add_run_flags(parser)
    parsed = parser.parse_args(arguments)
    if parsed.worker:
        Path(parsed.worker[1]).write_text(json.dumps(encode_all(json.loads(parsed.worker[0]))))
        return
    parsed.count = parsed.count or (20_000 if parsed.tiny else 1_000_000)
    reporting.check_above_zero(parser, parsed, "count", "kills")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    setup = {"count": parsed.count, "kills": parsed.kills, "dtype": parsed.dtype}
    report = reporting.begin("encode_million", PACKAGES, setup, parsed)
    with tempfile.TemporaryDirectory() as folder:
        wanted = []
        for kind, kills in (("whole", 0), ("killed", parsed.kills)):
            task = {
                **setup,
                "kills": kills,
                "output": f"{folder}/{kind}.npy",
                "log": f"{folder}/{kind}.log",
            }
            wanted.append(({"kind": kind}, kind, functools.partial(measure, task)))
        reporting.measure_missing(
            report, wanted, parsed.fresh, lambda: write(report, parsed.output)
        )
    print(to_markdown(report), flush=True)


if __name__ == "__main__":
    main()
