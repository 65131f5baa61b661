"""What a training step of `cptk.ContrastiveTrainer` costs, beside the same step by hand.

    python benchmarks/train_step.py [--steps 24] [--backends tensorflow jax torch] [--tiny]

`tensorflow` and `jax` compare cptk with a plain Keras model, in one process a backend, step
by step in turn; `torch` is Hugging Face's GPT-2. Writes train_step.json and train_step.md.
"""

import argparse
import datetime
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import zlib
from pathlib import Path

import numpy as np
import reporting

REQUIRED = {
    "tensorflow": ("tensorflow", "keras_hub"),
    "jax": ("jax", "keras_hub"),
    "torch": ("torch", "transformers"),
}
CONTENDERS = {
    "tensorflow": ("cptk", "plain Keras"),
    "jax": ("cptk", "plain Keras"),
    "torch": ("Hugging Face",),
}
PACKAGES = "keras keras-hub tensorflow jax torch transformers numpy".split()
OPTIMIZER = {"learning_rate": 1e-4, "weight_decay": 0.004, "epsilon": 1e-7}
LIMIT = 1.05  # of cptk / plain Keras
FIT_STEPS = 4  # in each call of `fit`, and the number of different batches
WARM_UP = 2
SEED = 2201_10005


def setup(tiny):
    """Sizes of model and batch. Dropout is off: two contenders must compute the same."""
    names = "vocabulary_size num_layers num_heads hidden_dim intermediate_dim max_sequence_length"
    sizes = (97, 1, 2, 16, 32, 8) if tiny else (50257, 4, 4, 256, 1024, 64)
    model = {**dict(zip(names.split(), sizes, strict=True)), "dropout": 0.0}
    return {"model": model, "batch_size": 4 if tiny else 64, "optimizer": OPTIMIZER}


def make_pairs(config):
    """The same token arrays for all, from one seed: ids by Zipf's law, texts of many lengths.

    The first text of each batch is of the full length, so that no batch can be cut shorter.
    """
    rng = np.random.default_rng(SEED)
    length, size = config["model"]["max_sequence_length"], config["batch_size"]
    pairs = {}
    for side in ("query", "document"):
        lengths = rng.integers(length // 8, length + 1, size * FIT_STEPS)
        lengths[::size] = length
        ids = rng.zipf(1.3, (len(lengths), length)) % config["model"]["vocabulary_size"]
        mask = np.arange(length) < lengths[:, None]
        pairs[side] = {"token_ids": np.where(mask, ids, 0).astype("int32"), "padding_mask": mask}
    return pairs


def split_batches(pairs, size):
    """The pairs as `FIT_STEPS` batches."""
    return [
        {
            side: {name: array[i * size :][:size] for name, array in tokens.items()}
            for side, tokens in pairs.items()
        }
        for i in range(FIT_STEPS)
    ]


def contender(name, backend, parameters, first, times, batch_size):
    """One row of results; `first` is that of `timed`, `times` of all the others."""
    wall, cpu = np.median([row[:2] for row in times], axis=0)
    return {
        "backend": backend,
        "contender": name,
        "status": "measured",
        "parameters": int(parameters),
        "first_loss": float(first[2]),
        "first_step_seconds": first[0],
        "seconds_per_step": float(wall),
        "cpu_seconds_per_step": float(cpu),
        "pairs_per_second": batch_size / float(wall),
    }


def compare_keras(config, steps):
    """Both models from the same weights, in turn: single steps, then `fit`."""
    import keras
    import keras_hub
    from plain_keras import PlainContrastive, StepClock

    import cptk

    keras.utils.set_random_seed(SEED)
    backend, size = keras.backend.backend(), config["batch_size"]
    pairs = make_pairs(config)
    batches = split_batches(pairs, size)
    backbones = [keras_hub.models.GPT2Backbone(**config["model"]) for _ in range(2)]
    backbones[1].set_weights(backbones[0].get_weights())
    models = {
        "cptk": cptk.ContrastiveTrainer(cptk.models.GPT2TextEmbedder(backbones[0])),
        "plain Keras": PlainContrastive(backbones[1]),
    }
    for model in models.values():
        model.compile(keras.optimizers.AdamW(**OPTIMIZER), jit_compile=backend == "jax")

    def step(name):
        model = models[name]
        return lambda i: reporting.timed(lambda: reporting.take_step(model, batches[i % FIT_STEPS]))

    def fit(name):
        model, clock = models[name], StepClock()
        options = {"batch_size": size, "shuffle": False, "verbose": 0, "callbacks": [clock]}

        def run(i):
            wall, _, _ = reporting.timed(lambda: model.fit(pairs, **options))
            steps_wall, steps_cpu = clock.seconds
            # Data set up and threads joined: once a call, whatever the number of steps.
            return steps_wall / FIT_STEPS, steps_cpu / FIT_STEPS, wall - steps_wall

        return run

    first = {name: step(name)(0) for name in models}
    losses = [float(first[name][2]) for name in models]
    if not abs(losses[0] - losses[1]) <= 1e-5:
        raise SystemExit(
            "The contenders should compute the same loss from the same weights, to 1e-5. "
            f"Received on {backend}: {dict(zip(models, losses, strict=True))}."
        )
    comparisons, times = [], {}
    for by, run, rounds, warm_up, length in (
        ("train_on_batch", step, steps, WARM_UP, 1),
        ("fit", fit, max(2, steps // FIT_STEPS), 1, FIT_STEPS),
    ):
        runs = [run(name) for name in models]
        reporting.alternate(*runs, warm_up)
        times[by] = reporting.alternate(*runs, rounds)
        wall, cpu = (reporting.median_ratio(*(t[:, i] for t in times[by])) for i in range(2))
        comparisons.append(
            {
                "backend": backend,
                "by": by,
                "rounds": rounds,
                "steps_per_round": length,
                "wall": wall,
                "cpu": cpu,
                "within_limit": reporting.verdict(wall, rounds, LIMIT),
                "first_loss_difference": abs(losses[0] - losses[1]),
            }
        )
    rows = []
    for which, (name, model) in enumerate(models.items()):
        count = sum(np.prod(v.shape) for v in model.trainable_variables)
        row = contender(name, backend, count, first[name], times["train_on_batch"][which], size)
        in_fit, _, around = np.median(times["fit"][which], axis=0)
        rows.append({**row, "fit_seconds_per_step": in_fit, "fit_seconds_around": around})
    dtype = cptk.models.fastest_dtype()
    if dtype != "float32":
        name = f"cptk, {dtype}"
        backbone = keras_hub.models.GPT2Backbone(**config["model"], dtype=dtype)
        models = {name: cptk.ContrastiveTrainer(cptk.models.GPT2TextEmbedder(backbone))}
        models[name].compile(keras.optimizers.AdamW(**OPTIMIZER), jit_compile=backend == "jax")
        run = step(name)
        first = run(0)
        times = [run(i) for i in range(WARM_UP + steps)][WARM_UP:]
        rows.append(contender(name, backend, count, first, times, size))
    return {"contenders": rows, "comparisons": comparisons}


def measure_torch(config, steps):
    """Hugging Face's GPT-2, by itself in its process."""
    import torch
    from plain_torch import TorchContrastive

    torch.manual_seed(SEED % 2**31)
    model = TorchContrastive(config["model"], OPTIMIZER).train()
    batches = split_batches(make_pairs(config), config["batch_size"])

    def step(i):
        return model.step(batches[i % FIT_STEPS])

    first = reporting.timed(lambda: step(0))
    for i in range(WARM_UP):
        step(i)
    times = [reporting.timed(lambda i=i: step(i)) for i in range(steps)]
    row = contender(
        "Hugging Face", "torch", model.parameter_count, first, times, config["batch_size"]
    )
    return {"contenders": [row], "comparisons": []}


def missing_modules(backend):
    """What the backend's contenders need and this environment lacks."""
    return [name for name in REQUIRED[backend] if importlib.util.find_spec(name) is None]


def run_fresh(backend, arguments):
    """Measure a backend's contenders in a process of their own."""
    missing = missing_modules(backend)
    if missing:
        print(f"{backend}: not installed ({', '.join(missing)})", flush=True)
        rows = [
            {"backend": backend, "contender": name, "status": "not installed", "missing": missing}
            for name in CONTENDERS[backend]
        ]
        return {"contenders": rows, "comparisons": []}
    print(f"{backend}: measuring {' and '.join(CONTENDERS[backend])} …", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "result.json"
        command = [sys.executable, __file__, "--worker", backend, str(result)]
        command += ["--steps", str(arguments.steps), *(["--tiny"] if arguments.tiny else [])]
        # Hugging Face torch needs no Keras; the variable is set all the same, for clarity.
        environment = {"TF_CPP_MIN_LOG_LEVEL": "2", **os.environ, "KERAS_BACKEND": backend}
        run = subprocess.run(
            command, env=environment, stderr=subprocess.PIPE, text=True, check=False
        )
        if run.returncode != 0:
            raise SystemExit(f"{backend} failed, nothing is written:\n{run.stderr[-3000:]}")
        return json.loads(result.read_text())


def to_markdown(report):
    """The tables that the documentation shows."""
    machine, config = report["machine"], report["setup"]
    model, load = config["model"], machine["load_average"]
    rows = []
    for row in report["contenders"]:
        cells = [row["backend"], row["contender"]]
        if row["status"] == "measured":
            keys = ("seconds_per_step", "cpu_seconds_per_step", "first_step_seconds")
            cells += [f"{row[key]:.3f}" for key in keys] + [f"{row['pairs_per_second']:.1f}"]
        else:
            cells += [row["status"], "", "", ""]
        rows.append(cells)
    header = ["backend", "contender", "s / step", "CPU s / step", "first step, s", "pairs / s"]
    ratios = [
        [
            row["backend"],
            f"`{row['by']}`",
            f"{row['rounds']} × {row['steps_per_round']}",
            *("{ratio:.3f} ({low:.3f} to {high:.3f})".format(**row[k]) for k in ("wall", "cpu")),
            row["within_limit"],
        ]
        for row in report["comparisons"]
    ]
    compared = ["backend", "by", "rounds × steps", "time", "CPU time", f"time within {LIMIT}"]
    return f"""# A training step

GPT-2 of {model["num_layers"]} layers × {model["hidden_dim"]} with {model["vocabulary_size"]:,} \
tokens, float32 where no other type is named, AdamW, batches of {config["batch_size"]} pairs of \
{model["max_sequence_length"]} + {model["max_sequence_length"]} tokens \
({config["real_tokens"]:.0%} of them not padding). Medians of {config["steps"]} steps.

{reporting.markdown_table(header, rows)}

cptk / plain Keras, step by step in turn in one process: median ratio (95 % bootstrap interval).

{reporting.markdown_table(compared, ratios)}

{machine["cpu"]}, {machine["usable_cores"]} cores, {machine["system"]}, Python \
{machine["python"]}, load average {load["before"]} before and {load["after"]} after; \
{", ".join(f"{name} {version}" for name, version in report["versions"].items())}; {report["date"]}.
"""


def parse(arguments):
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, help="timed steps of each contender (24)")
    parser.add_argument("--backends", nargs="+", choices=list(REQUIRED), default=list(REQUIRED))
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results")
    parser.add_argument("--tiny", action="store_true", help="sizes for a test: no real figures")
    parser.add_argument("--worker", nargs=2, metavar=("BACKEND", "FILE"), help=argparse.SUPPRESS)
    parsed = parser.parse_args(arguments)
    if parsed.steps is None:
        parsed.steps = 3 if parsed.tiny else 24
    if parsed.steps < 2:
        parser.error(f"--steps should be 2 or more. Received: {parsed.steps}.")
    return parsed


def main(arguments=None):
    """Measure what is asked for, and write the report."""
    arguments = parse(arguments)
    config = setup(arguments.tiny)
    if arguments.worker:
        backend, file = arguments.worker
        result = (measure_torch if backend == "torch" else compare_keras)(config, arguments.steps)
        Path(file).write_text(json.dumps(result))
        return
    before = reporting.load_average()
    results = [run_fresh(backend, arguments) for backend in dict.fromkeys(arguments.backends)]
    contenders = [row for result in results for row in result["contenders"]]
    counts = {row["contender"]: row["parameters"] for row in contenders if "parameters" in row}
    if len(set(counts.values())) > 1:
        raise SystemExit(f"The contenders should have the same parameters. Received: {counts}.")
    pairs = make_pairs(config)
    arrays = [pairs[side][name] for side in pairs for name in pairs[side]]
    load = {"before": before, "after": reporting.load_average()}
    report = {
        "benchmark": "train_step",
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "machine": {**reporting.machine(), "load_average": load},
        "versions": reporting.versions(PACKAGES),
        "setup": {
            **config,
            "tiny": arguments.tiny,
            "steps": arguments.steps,
            "seed": SEED,
            "dtype": "float32",
            "real_tokens": float(np.mean([pairs[side]["padding_mask"] for side in pairs])),
            "pairs_crc32": zlib.crc32(b"".join(array.tobytes() for array in arrays)),
        },
        "contenders": contenders,
        "comparisons": [row for result in results for row in result["comparisons"]],
        "limit": LIMIT,
    }
    text = to_markdown(report)
    reporting.write_atomically(
        arguments.output / "train_step.json", json.dumps(report, indent=2) + "\n"
    )
    reporting.write_atomically(arguments.output / "train_step.md", text)
    print(f"\n{text}", flush=True)


if __name__ == "__main__":
    main()
