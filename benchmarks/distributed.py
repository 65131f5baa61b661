"""What it costs to train in two processes instead of one, at the same global batch.

    python benchmarks/distributed.py [--backends tensorflow jax] [--workers 2] [--tiny]

A GPT-2 of 4 layers of 256 takes the same steps in one process and in several, which find each
other on this machine. Counted are the CPU seconds of all processes from the end of the first epoch
to that of the last, without start and compilation: on a machine with few cores the wall time says
nothing; and the bytes that the loopback device carried meanwhile, beside the formula of
docs/scaling.md. Writes distributed.json and distributed.md.
"""

import argparse
import contextlib
import datetime
import json
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import reporting

sys.path.append(str(Path(__file__).parents[1] / "examples" / "cluster"))

LIMIT = 1.25
EPOCHS = 4
PACKAGES = "cptk keras keras-hub tensorflow jax numpy".split()


def work(backend, workers, arguments, result):
    """One process of a training; it writes its CPU seconds and the losses shown."""
    import keras
    import keras_hub
    import numpy as np

    import cptk

    scope = contextlib.nullcontext
    if workers > 1 and backend == "tensorflow":
        import tensorflow as tf

        scope = tf.distribute.MultiWorkerMirroredStrategy().scope
    elif workers > 1:
        keras.distribution.initialize(
            os.environ["JAX_COORDINATOR_ADDRESS"], workers, int(os.environ["JAX_PROCESS_ID"])
        )
        keras.distribution.set_distribution(keras.distribution.DataParallel())
    keras.utils.set_random_seed(0)
    layers, width = (1, 32) if arguments.tiny else (4, 256)
    with scope():
        backbone = keras_hub.models.GPT2Backbone(
            vocabulary_size=8192, num_layers=layers, num_heads=4, hidden_dim=width,
            intermediate_dim=4 * width, max_sequence_length=64, dropout=0.0,
        )  # fmt: skip
        trainer = cptk.ContrastiveTrainer(cptk.models.TextEmbedder(backbone), seed=0)
        trainer.compile(keras.optimizers.AdamW(1e-4))
    rng = np.random.default_rng(0)
    size = arguments.batch_size * arguments.steps
    features = {
        "token_ids": rng.integers(1, 8192, (size, 64)).astype("int32"),
        "padding_mask": np.ones((size, 64), bool),
    }
    ends = []
    note = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: ends.append((cpu(), sent()))
    )
    history = trainer.fit(
        {"query": features, "document": features},
        batch_size=arguments.batch_size,
        epochs=EPOCHS,
        callbacks=[note],
        verbose=0,
    ).history
    seconds, sent_bytes = np.subtract(ends[-1], ends[0]).tolist()
    trained = sum(int(np.prod(weight.shape)) for weight in trainer.trainable_weights)
    found = {
        "cpu": seconds,
        "sent": sent_bytes / (arguments.steps * (EPOCHS - 1)),
        "formula": (workers - 1) * (24 * arguments.batch_size * width + 8 * trained),
        "loss": history["loss"],
    }
    Path(result).write_text(json.dumps(found))


def cpu():
    """CPU seconds of this process so far."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def sent():
    """Bytes that went through the loopback device so far, of all programs; NaN outside Linux."""
    try:
        lines = Path("/proc/net/dev").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.split()[0] == "lo:")
    except (OSError, StopIteration):
        return float("nan")


def run(backend, workers, arguments, folder):
    """CPU seconds of all processes together, and what the first one found."""
    from launch import local_cluster

    results = [folder / f"{backend}-{workers}-{index}.json" for index in range(workers)]
    print(f"{backend}, {workers} process(es) ...", file=sys.stderr, flush=True)
    processes = []
    for result, environment in zip(results, local_cluster(workers), strict=True):
        command = [sys.executable, __file__, "--worker", backend, str(workers), str(result)]
        command += ["--batch-size", str(arguments.batch_size), "--steps", str(arguments.steps)]
        command += ["--tiny"] if arguments.tiny else []
        environment = environment if workers > 1 else {}
        environment = {**os.environ, **environment, "KERAS_BACKEND": backend}
        processes.append(subprocess.Popen(command, env=environment, stderr=subprocess.PIPE))
    for process in processes:
        error = process.communicate()[1].decode(errors="replace")
        if process.returncode:
            for other in processes:
                other.kill()
            raise SystemExit(f"{backend} failed, nothing is written:\n{error[-3000:]}")
    found = [json.loads(result.read_text()) for result in results]
    return sum(one["cpu"] for one in found), found[0]


def main(arguments=None):
    """All backends, one process and several, and a report."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--backends", nargs="+", default=["tensorflow", "jax"])
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--batch-size", type=int, default=128, help="the global batch")
    parser.add_argument("--steps", type=int, default=4, help="in an epoch, of which there are 4")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results")
    parser.add_argument("--tiny", action="store_true", help="a toy for a test: no real figures")
    parser.add_argument("--worker", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.worker:
        backend, workers, result = options.worker
        work(backend, int(workers), options, result)
        return
    if options.workers < 2 or options.batch_size < 2 or options.steps < 1:
        parser.error("expected 2 workers or more, a batch of 2 or more and 1 step or more")
    rows, before = [], reporting.load_average()
    with tempfile.TemporaryDirectory() as folder:
        for backend in options.backends:
            alone, single = run(backend, 1, options, Path(folder))
            together, shared = run(backend, options.workers, options, Path(folder))
            pairs = zip(single["loss"], shared["loss"], strict=True)
            difference = max(abs(a - b) for a, b in pairs)
            if difference > 1e-3:
                raise SystemExit(f"The losses should agree. They differ by {difference:.2g}.")
            rows.append(
                {
                    "backend": backend,
                    "cpu_seconds_alone": alone,
                    "cpu_seconds_together": together,
                    "ratio": together / alone,
                    "within_limit": "yes" if together / alone <= LIMIT else "no",
                    "bytes_a_step": shared["sent"],
                    "bytes_by_formula": shared["formula"],
                    "largest_difference_of_losses": difference,
                }
            )
    machine = {
        **reporting.machine(),
        "load_average": {"before": before, "after": reporting.load_average()},
    }
    report = {
        "setup": {key: getattr(options, key) for key in ("workers", "batch_size", "steps")},
        "rows": rows,
        "machine": machine,
        "versions": reporting.versions(PACKAGES),
        "date": datetime.date.today().isoformat(),
    }
    text = to_markdown(report)
    reporting.write_atomically(options.output / "distributed.json", json.dumps(report, indent=1))
    reporting.write_atomically(options.output / "distributed.md", text)
    print(text)


def to_markdown(report):
    """The table that the documentation shows."""
    setup = report["setup"]
    count = setup["workers"]
    rows = []
    for row in report["rows"]:
        seconds = [f"{row[f'cpu_seconds_{key}']:.1f}" for key in ("alone", "together")]
        ratio = [f"{row['ratio']:.2f}", LIMIT, row["within_limit"]]
        sent = [f"{row[f'bytes_{key}'] / 1e6:.1f}" for key in ("a_step", "by_formula")]
        rows.append([row["backend"], *seconds, *ratio, *sent])
    header = ["backend", "CPU s, one process", f"CPU s, {count} processes", "ratio", "at most"]
    header += ["kept", "MB sent a step", "by the formula"]
    return f"""# Several processes against one

GPT-2, 4 layers of 256, 64 + 64 tokens, global batch {setup["batch_size"]}, AdamW, \
{(EPOCHS - 1) * setup["steps"]} steps.

{reporting.markdown_table(header, rows)}

{reporting.footer(report)}
"""


if __name__ == "__main__":
    main()
