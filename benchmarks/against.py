"""What a training step, a cached step and encoding cost, beside another checkout of cptk.

    git worktree add ../before main
    python benchmarks/against.py ../before [--rounds 12] [--backends tensorflow jax] [--tiny]

One process for each checkout and backend; the two take their steps in turn. Writes against.json and
against.md.
"""

import argparse
import datetime
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import reporting

HERE = Path(__file__).resolve().parent
WORK = ("train step", "cached step", "encode")
PACKAGES = "keras keras-hub tensorflow jax numpy".split()
SIZES = {
    False: {"layers": 4, "width": 256, "batch": 64, "cached": 256, "micro": 32, "texts": 256},
    True: {"layers": 1, "width": 16, "batch": 4, "cached": 8, "micro": 4, "texts": 8},
}


def serve(tiny):
    """In a process of its own: does the work that is named on a line, and answers its seconds."""
    import keras
    import keras_hub
    import tokenizers

    import cptk

    sizes = SIZES[tiny]
    keras.utils.set_random_seed(0)
    words = [*sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet()), "th", "<|endoftext|>"]
    tokenizer = keras_hub.models.GPT2Tokenizer({word: i for i, word in enumerate(words)}, ["t h"])
    reader = cptk.models.GPT2TextEmbedderPreprocessor(tokenizer, sequence_length=64)

    def trainer(**options):
        backbone = keras_hub.models.GPT2Backbone(
            vocabulary_size=len(words), num_layers=sizes["layers"], num_heads=4, dropout=0.0,
            hidden_dim=sizes["width"], intermediate_dim=4 * sizes["width"], max_sequence_length=64,
        )  # fmt: skip
        made = cptk.ContrastiveTrainer(cptk.models.GPT2TextEmbedder(backbone, reader), **options)
        made.compile(keras.optimizers.AdamW(1e-4))
        return made

    rng = np.random.default_rng(0)

    def texts(count):
        lengths = rng.integers(8, 62, count)
        return ["".join(map(chr, rng.integers(97, 123, length))) for length in lengths]

    def pairs(count):
        return {side: texts(count) for side in ("query", "document")}

    plain, cached = trainer(seed=0), trainer(seed=0, micro_batch_size=sizes["micro"])
    batch, large, many = pairs(sizes["batch"]), pairs(sizes["cached"]), texts(sizes["texts"])
    work = {
        "train step": lambda: reporting.take_step(plain, batch),
        "cached step": lambda: reporting.take_step(cached, large),
        "encode": lambda: float(plain.embedder.encode_text(many, verbose=0).sum()),
    }
    for name in sys.stdin:
        print("answer", json.dumps(reporting.timed(work[name.strip()])), flush=True)


class Checkout:
    """A process that does its work with the cptk of one checkout."""

    def __init__(self, root, backend, tiny):
        environment = {
            **os.environ,
            "KERAS_BACKEND": backend,
            "PYTHONPATH": str(Path(root).resolve()),
            "TF_CPP_MIN_LOG_LEVEL": "3",
        }
        self.process = subprocess.Popen(
            [sys.executable, str(HERE / "against.py"), "--serve", *(["--tiny"] if tiny else [])],
            env=environment, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip

    def do(self, name):
        """Wall seconds, CPU seconds and result of one piece of work."""
        self.process.stdin.write(f"{name}\n")
        self.process.stdin.flush()
        for line in self.process.stdout:
            if line.startswith("answer "):
                return json.loads(line.removeprefix("answer "))
        raise SystemExit(f"The process of a checkout ended: exit status {self.process.wait()}.")


def compare(old, backend, rounds, tiny):
    """Rows of ratios, this checkout over the other one."""
    pair = [Checkout(root, backend, tiny) for root in (HERE.parent, old)]
    rows = []
    for name in WORK:
        first = [checkout.do(name)[2] for checkout in pair]
        for checkout in pair:
            checkout.do(name)
        new, before = reporting.alternate(
            *(lambda _, c=checkout, n=name: c.do(n)[:2] for checkout in pair), rounds
        )
        row = {"backend": backend, "work": name, "rounds": rounds}
        row["difference_of_results"] = abs(first[0] - first[1])
        for column, kind in enumerate(("wall", "cpu")):
            row[kind] = reporting.median_ratio(new[:, column], before[:, column])
            row[f"{kind}_seconds"] = float(np.median(new[:, column]))
        rows.append(row)
    for checkout in pair:
        checkout.process.stdin.close()
        checkout.process.wait()
    return rows


def table(report):
    """The report as Markdown."""
    rows = [
        [
            row["backend"], row["work"], f"{row['wall_seconds']:.3f}", f"{row['cpu_seconds']:.3f}",
            *(f"{row[k]['ratio']:.3f} ({row[k]['low']:.3f} to {row[k]['high']:.3f})"
              for k in ("wall", "cpu")),
            f"{row['difference_of_results']:.1e}",
        ]
        for row in report["rows"]
    ]  # fmt: skip
    header = ["backend", "work", "seconds", "CPU seconds", "wall, new / old", "CPU, new / old"]
    header += ["difference of results"]
    text = f"# This checkout against {report['old']}\n\n{reporting.markdown_table(header, rows)}\n"
    sizes = ", ".join(f"{name} {size}" for name, size in report["sizes"].items())
    return f"{text}\nMedians, with 95 % intervals. {sizes}.\n{reporting.footer(report)}\n"


def main():
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("old", nargs="?", help="folder of the other checkout")
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--backends", nargs="+", default=["tensorflow", "jax"])
    parser.add_argument("--output", default=str(HERE / "results"))
    parser.add_argument("--tiny", action="store_true", help="for the tests: measures nothing")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        serve(arguments.tiny)
        return
    if arguments.old is None or not Path(arguments.old, "cptk").is_dir():
        parser.error(f"expected the folder of another checkout. Got {arguments.old!r}")
    if arguments.rounds < 1:
        parser.error(f"--rounds should be 1 or more. Got {arguments.rounds}")
    before = reporting.load_average()
    rows = []
    for backend in arguments.backends:
        rows += compare(arguments.old, backend, arguments.rounds, arguments.tiny)
    command = ["git", "-C", arguments.old, "rev-parse", "--short", "HEAD"]
    commit = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    load = {"before": before, "after": reporting.load_average()}
    report = {
        "old": commit or "another checkout",
        "rows": rows,
        "sizes": SIZES[arguments.tiny],
        "machine": {**reporting.machine(), "load_average": load},
        "versions": reporting.versions(PACKAGES),
        "date": datetime.date.today().isoformat(),
    }
    output = Path(arguments.output)
    reporting.write_atomically(output / "against.json", json.dumps(report, indent=1))
    reporting.write_atomically(output / "against.md", table(report))
    print(table(report))


if __name__ == "__main__":
    main()
