"""The paper's study of the batch size, on one machine: what do more negatives bring?

    python examples/batch_size_study.py --input FOLDER   # SmolLM2-135M; hours on two CPU cores
    python examples/batch_size_study.py --model minilm --input FOLDER
    python examples/batch_size_study.py --model gpt2     # a small one from scratch
    python examples/batch_size_study.py --smoke          # toys, to see that it runs

FOLDER holds pairs of text, as collect_corpus.py --text leaves them; without it the pairs are
(docstring, function) of the Python code on this machine. The same pairs, and the same number of
them seen; only the batch differs, from 32 to 4,096. Memory does not grow with it: batches above
`--micro-batch-size` pass through the model in micro-batches, and the step is that of the whole.

Learning rate: that of a batch of 256, times the square root of (batch / 256), the rule for Adam of
Malladi et al. 2022 (arXiv:2205.10287). A tenth of the steps warms up, then the rate falls to zero
in a line. It is one rule and no search: each batch size may have a better rate of its own.

Each finished run (batch, seed) is a file in `--output`; started again, the study goes on.
"""

import argparse
import dataclasses
import math
import os
import random
import sysconfig
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import quickstart_models
from quickstart_parts import (
    COLOURS,
    Shelf,
    fingerprint,
    installed,
    linear_schedule,
    say,
    state_of,
    versions,
)
from train_text import PROMPT, encoder

import cptk  # quick: Keras and its backend are imported when they are first used

REFERENCE_BATCH = 256  # of which `learning_rate` is the rate


@dataclasses.dataclass(frozen=True)
class Recipe:
    """What all runs share."""

    pairs: int = 16_384  # seen in a run: of a smaller training set, in several passes
    learning_rate: float = 2e-4
    weight_decay: float = 0.01
    temperature: float = 0.05
    micro_batch_size: int = 64
    sequence_length: int = 40
    held_out: int = 1000
    lora_rank: int | None = 16
    num_layers: int | None = 24
    hidden_dim: int = 64  # of a GPT-2 from scratch alone
    vocabulary_size: int = 8192


RECIPES = {
    "smollm2": Recipe(),
    "minilm": Recipe(learning_rate=1e-4, lora_rank=None, num_layers=None),
    "gpt2": Recipe(
        pairs=262_144, learning_rate=4e-3, temperature=0.07, micro_batch_size=256,
        sequence_length=32, num_layers=2,
    ),
}  # fmt: skip
SMOKE = dataclasses.replace(
    RECIPES["gpt2"], pairs=256, learning_rate=3e-3, micro_batch_size=16, held_out=50,
    num_layers=1, hidden_dim=32, vocabulary_size=400,
)  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> None:
    """All runs that are not there yet, and what they show."""
    options = parse_arguments(arguments)
    os.environ["KERAS_BACKEND"] = options.backend  # Keras reads it when it is imported
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    shelf, recipe = Shelf(options.output), options.recipe
    of_input = [state_of(str(folder)) for folder in options.input]
    read = [recipe.pairs, of_input] if of_input else installed()
    pairs_key = fingerprint(read, recipe.held_out, options.smoke)
    data = shelf.read("pairs.json", pairs_key)
    if data is None:
        data = collect_text(options) if options.input else collect_code(recipe, options.smoke)
        shelf.write("pairs.json", pairs_key, data)
    largest = max(options.batch_sizes)
    # Whole batches of each size: then a pass ends alike for all, and all see the same pairs.
    training = data["training"][: len(data["training"]) // largest * largest]
    if not training:
        raise SystemExit(
            f"There are {len(data['training']):,} pairs to train on here, too few for a batch of "
            f"{largest:,}. Use smaller --batch-sizes, or install more packages."
        )
    say(f"{len(training):,} pairs to train on, {len(data['held_out']):,} held out.")

    vocabulary_key = fingerprint(pairs_key, recipe.vocabulary_size, len(training))
    key = fingerprint(
        pairs_key, dataclasses.asdict(recipe), len(training), options.model, options.backend
    )
    runs: dict[tuple[int, int], dict[str, float]] = {}
    wanted = [(size, seed) for seed in options.seeds for size in options.batch_sizes]
    for size, seed in wanted:
        found = shelf.read(f"batch_{size}_seed_{seed}.json", key)
        if found is not None:
            runs[size, seed] = found
    if runs:
        say(f"{len(runs)} of {len(wanted)} runs are there from an earlier start.")
    for size, seed in wanted:
        if (size, seed) in runs:
            continue
        vocabulary = shelf.read("vocabulary.json", vocabulary_key)
        if vocabulary is None and options.model == "gpt2":
            vocabulary = learn_vocabulary(training, recipe.vocabulary_size)
            shelf.write("vocabulary.json", vocabulary_key, vocabulary)
        run = one_run(size, seed, training, data["held_out"], vocabulary, options)
        shelf.write(f"batch_{size}_seed_{seed}.json", key, run)
        runs[size, seed] = run
        say(
            f"{len(runs)}/{len(wanted)}  batch {size:,}, seed {seed}: MRR {run['mrr']:.3f}, "
            f"{run['pairs_per_second']:.0f} pairs/s"
        )
        report(shelf, runs, options)  # so far
    report(shelf, runs, options)
    print(f"\n{(options.output / 'table.md').read_text(encoding='utf-8')}")
    print(f"Written to {options.output}: table.md, figure.png, results.json")


# === The data ===


def collect_text(options: argparse.Namespace) -> dict[str, Any]:
    """Held-out pairs of text and others, of each file as many as the root of its size says."""
    files = sorted(file for folder in options.input for file in folder.glob("*.parquet"))
    if not files:
        raise SystemExit(f"There are no Parquet files of pairs in {options.input[0]}.")
    recipe = options.recipe
    sources = [cptk.data.Pairs.from_parquet(file) for file in files]
    shares = np.sqrt([len(pairs) for pairs in sources])
    wanted = np.ceil((recipe.pairs + recipe.held_out) * shares / shares.sum())
    parts = [
        pairs.sample(min(len(pairs), int(size)), seed=0)
        for pairs, size in zip(sources, wanted, strict=True)
    ]
    every = cptk.mining.deduplicate(cptk.data.Pairs.concat(parts))
    held_out, training = every.split(recipe.held_out, seed=0)
    return {"held_out": texts(held_out), "training": texts(training)}


def collect_code(recipe: Recipe, smoke: bool) -> dict[str, Any]:
    """Held-out functions of the standard library, and others that share nothing with them."""
    say("Reading the Python code on this machine.")
    mining = cptk.mining
    library = Path(sysconfig.get_path("stdlib"))
    few = [library / name for name in ("email", "http", "importlib", "json", "logging", "xml")]
    pairs = mining.mine_functions(few if smoke else library)
    held_out, training = mining.split_by_module(pairs, recipe.held_out, seed=0)
    if not smoke:
        others = mining.mine_functions(sysconfig.get_path("purelib"))
        training = mining.deduplicate(cptk.data.Pairs.concat([training, others]))
        training = mining.exclude_copies(training, of=held_out)
    return {"held_out": texts(held_out), "training": texts(training)}


def texts(pairs: Iterable[Any]) -> list[list[str]]:
    """Pairs in a random order, with more than the tokens that count: some functions are long."""
    rows = [[pair["query"][:2000], pair["document"][:2000]] for pair in pairs]
    random.Random(0).shuffle(rows)
    return rows


def learn_vocabulary(pairs: Sequence[Sequence[str]], size: int) -> dict[str, Any]:
    """Byte-pair tokens of the training texts, in GPT-2's form."""
    import json

    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=size - 1, initial_alphabet=sorted(alphabet), show_progress=False
    )
    tokenizer.train_from_iterator((text for pair in pairs for text in pair), trainer)
    model = json.loads(tokenizer.to_str())["model"]
    vocabulary = model["vocab"] | {"<|endoftext|>": len(model["vocab"])}
    return {"vocabulary": vocabulary, "merges": [" ".join(pair) for pair in model["merges"]]}


# === A run ===


def one_run(
    batch_size: int,
    seed: int,
    training: Sequence[Sequence[str]],
    held_out: Sequence[Sequence[str]],
    vocabulary: dict[str, Any],
    options: argparse.Namespace,
) -> dict[str, float]:
    """Train from the seed's weights, in the seed's order, and measure."""
    import keras

    recipe = options.recipe
    keras.backend.clear_session()
    keras.utils.set_random_seed(seed)
    embedder = make_embedder(options, vocabulary)
    micro_batches = recipe.micro_batch_size if batch_size > recipe.micro_batch_size else None
    head = cptk.layers.ContrastiveHead(recipe.temperature)
    trainer = cptk.ContrastiveTrainer(embedder, head, seed=seed, micro_batch_size=micro_batches)
    steps = recipe.pairs // batch_size
    trainer.compile(
        optimizer=keras.optimizers.AdamW(
            linear_schedule(rate(batch_size, recipe), steps // 10, steps),
            weight_decay=recipe.weight_decay,
            global_clipnorm=1.0,
        )
    )
    queries, documents = ([pair[side] for pair in training] for side in (0, 1))
    epochs = math.gcd(steps, 8)  # of equal length; the last one's loss is kept
    start = time.perf_counter()
    history = trainer.fit(
        {"query": queries, "document": documents},
        batch_size=batch_size,
        epochs=epochs,
        steps_per_epoch=steps // epochs,
        verbose=0,
    )
    seconds = time.perf_counter() - start
    queries, documents = ([pair[side] for pair in held_out] for side in (0, 1))
    # One batch of all held-out pairs: a loss that can be compared, the same negatives for each.
    loss = trainer.evaluate(
        {"query": queries, "document": documents},
        batch_size=len(held_out), verbose=0, return_dict=True,
    )["loss"]  # fmt: skip
    encode = encoder(trainer, recipe.sequence_length)
    ranks = cptk.evaluation.retrieval_ranks(encode(queries, "query"), encode(documents, "document"))
    return {
        "batch_size": batch_size,
        "seed": seed,
        "steps": steps,
        "pairs": steps * batch_size,
        "learning_rate": rate(batch_size, recipe),
        "mrr": float(cptk.evaluation.mrr(ranks)),
        "held_out_loss": float(loss),
        "in_batch_loss": float(history.history["loss"][-1]),
        "seconds": round(seconds, 2),
        "pairs_per_second": steps * batch_size / seconds,
    }


def rate(batch_size: int, recipe: Recipe) -> float:
    """The peak of the learning rate: it grows with the square root of the batch."""
    return recipe.learning_rate * math.sqrt(batch_size / REFERENCE_BATCH)


def make_embedder(options: argparse.Namespace, vocabulary: dict[str, Any]) -> Any:
    """SmolLM2-135M of which LoRA's factors are trained, MiniLM, or a GPT-2 that knows nothing."""
    import keras_hub

    recipe, dtype = options.recipe, cptk.models.fastest_dtype()
    if options.model == "minilm":
        return quickstart_models.load_minilm(None, recipe.sequence_length, dtype)
    if options.model == "smollm2":
        gguf = cptk.integrations.gguf
        embedder = gguf.load_embedder(
            gguf.smollm2_path(), num_layers=recipe.num_layers, dtype=dtype,
            sequence_length=recipe.sequence_length, roles={"query": PROMPT, "document": PROMPT},
        )  # fmt: skip
        cptk.training.enable_lora(embedder, recipe.lora_rank, alpha=2 * recipe.lora_rank)
        return embedder
    tokenizer = keras_hub.models.GPT2Tokenizer(**vocabulary)
    backbone = keras_hub.models.GPT2Backbone(
        vocabulary_size=len(vocabulary["vocabulary"]), num_layers=recipe.num_layers, num_heads=2,
        hidden_dim=recipe.hidden_dim, intermediate_dim=4 * recipe.hidden_dim,
        max_sequence_length=recipe.sequence_length, dropout=0.0,
    )  # fmt: skip
    preprocessor = cptk.models.GPT2TextEmbedderPreprocessor(tokenizer, recipe.sequence_length)
    return cptk.models.GPT2TextEmbedder(backbone, preprocessor)


# === What is shown ===


def report(
    shelf: Shelf, runs: dict[tuple[int, int], dict[str, float]], options: argparse.Namespace
) -> None:
    """Table, figure and JSON of the runs so far."""
    of_size = ([run for (n, _), run in runs.items() if n == size] for size in options.batch_sizes)
    rows = [summary(found) for found in of_size if found]
    table = to_markdown(rows, options)
    shelf.write_json(
        "results.json",
        {
            "rows": rows,
            "runs": list(runs.values()),
            "model": options.model,
            "backend": options.backend,
            "cores": os.cpu_count(),
            "settings": dataclasses.asdict(options.recipe),
            "versions": versions("cptk", "keras", "keras-hub", options.backend, "numpy"),
        },
    )
    shelf.write_text("table.md", table)
    shelf.save_figure("figure.png", draw(rows, options))


def summary(runs: Sequence[dict[str, float]]) -> dict[str, Any]:
    """Mean and standard deviation over seeds."""
    row: dict[str, Any] = {
        name: runs[0][name] for name in ("batch_size", "steps", "pairs", "learning_rate")
    }
    row["seeds"] = len(runs)
    for name in ("mrr", "held_out_loss", "in_batch_loss", "pairs_per_second"):
        values = [run[name] for run in runs]
        deviation = float(np.std(values, ddof=1)) if len(values) > 1 else None
        row[name] = {"mean": float(np.mean(values)), "deviation": deviation}
    return row


def to_markdown(rows: Sequence[dict[str, Any]], options: argparse.Namespace) -> str:
    """The measurements as a table."""

    def cell(value: dict[str, Any], digits: int = 3) -> str:
        spread = value["deviation"]
        return f"{value['mean']:.{digits}f}" + ("" if spread is None else f" ± {spread:.{digits}f}")

    lines = [
        "| batch | steps | learning rate | seeds | MRR | held-out loss | in-batch loss | log n "
        "| pairs/s |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        cells = [f"{row['batch_size']:,}", f"{row['steps']:,}", f"{row['learning_rate']:.2g}"]
        cells += [str(row["seeds"])]
        cells += [cell(row[name]) for name in ("mrr", "held_out_loss", "in_batch_loss")]
        cells += [f"{math.log(row['batch_size']):.2f}", f"{row['pairs_per_second']['mean']:.0f}"]
        lines.append("| " + " | ".join(cells) + " |")
    recipe = options.recipe
    lines += [
        "",
        f"{NAMES[options.model]}; {recipe.pairs:,} pairs seen in each run; mean ± standard "
        f"deviation over seeds. MRR and held-out loss: {recipe.held_out:,} pairs that no run "
        "has seen, all of them one another's negatives. In-batch loss: of training, the mean of "
        "its last eighth, or of all of it; chance is log n, so that rows of different batches "
        "cannot be compared by it. Pairs/s: compilation included.",
        "",
    ]
    return "\n".join(lines)


NAMES = {
    "smollm2": "SmolLM2-135M with LoRA",
    "minilm": "all-MiniLM-L6-v2",
    "gpt2": "A small GPT-2 from scratch",
}


def draw(rows: Sequence[dict[str, Any]], options: argparse.Namespace) -> Any:
    """MRR and held-out loss against the batch size; bars are one standard deviation."""
    import matplotlib
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4), layout="constrained")
    sizes = [row["batch_size"] for row in rows]
    for axes, name, label in zip(
        figure.subplots(1, 2),
        ("mrr", "held_out_loss"),
        ("MRR on held-out pairs", f"loss on {options.recipe.held_out:,} held-out pairs"),
        strict=True,
    ):
        axes.errorbar(
            sizes,
            [row[name]["mean"] for row in rows],
            yerr=[row[name]["deviation"] or 0.0 for row in rows],
            color=COLOURS["trained"], marker="o", markersize=5, capsize=3, linewidth=1.5,
        )  # fmt: skip
        axes.set_xscale("log", base=2)
        axes.set_xticks(sizes, [f"{size:,}" for size in sizes])
        axes.xaxis.set_minor_locator(matplotlib.ticker.NullLocator())
        axes.grid(color="#dddddd", linewidth=0.6)
        axes.set_axisbelow(True)
        axes.set(xlabel="pairs in a batch", ylabel=label)
    seeds = max(row["seeds"] for row in rows)
    figure.suptitle(
        f"{NAMES[options.model]}, {options.recipe.pairs:,} pairs seen, {seeds} seed"
        f"{'s' if seeds > 1 else ''}"
    )
    return figure


# === The command line ===


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The flags, checked; `recipe` holds what all runs share."""
    parser = argparse.ArgumentParser(
        description="The same pairs in batches of different size: what do more negatives bring?",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--smoke", action="store_true", help="toys and few pairs, to see that it runs")
    add("--model", choices=list(NAMES), default="smollm2", help="(default: smollm2)")
    add("--input", type=Path, nargs="+", default=[], help="folders of pairs (default: code)")
    add("--batch-sizes", type=int, nargs="+", help="(default: 32 128 512 2048 4096)")
    add("--seeds", type=int, nargs="+", help="(default: 0)")
    add("--pairs", type=int, help=f"pairs seen in each run (default: {Recipe.pairs})")
    add(
        "--learning-rate",
        type=float,
        help=f"at a batch of {REFERENCE_BATCH}, and by the square root at others "
        f"(default: {Recipe.learning_rate:g} for SmolLM2)",
    )
    add(
        "--micro-batch-size",
        type=int,
        help=f"texts that pass the model at once (default: {Recipe.micro_batch_size})",
    )
    add("--backend", choices=["tensorflow", "jax", "torch"], help="of Keras (default: tensorflow)")
    add("--output", type=Path, default=Path("batch_size_study_output"), help="folder for results")
    options = parser.parse_args(arguments)
    options.backend = options.backend or os.environ.get("KERAS_BACKEND", "tensorflow")
    sizes = options.batch_sizes or ([8, 32] if options.smoke else [32, 128, 512, 2048, 4096])
    options.batch_sizes = sorted(set(sizes))
    seeds = options.seeds or ([0, 1] if options.smoke else [0])
    options.seeds = list(dict.fromkeys(seeds))
    given = {
        name: getattr(options, name)
        for name in ("pairs", "learning_rate", "micro_batch_size")
        if getattr(options, name) is not None
    }
    options.model = "gpt2" if options.smoke else options.model
    own = SMOKE if options.smoke else RECIPES[options.model]
    options.recipe = recipe = dataclasses.replace(own, **given)

    largest = options.batch_sizes[-1]
    if options.batch_sizes[0] < 2:
        parser.error(
            "--batch-sizes must be at least 2: the others are negatives. "
            f"Got {options.batch_sizes[0]}."
        )
    odd = [size for size in options.batch_sizes if largest % size]
    if odd:
        parser.error(
            f"--batch-sizes must divide the largest, {largest}, so that all see the same pairs. "
            f"{odd[0]} does not."
        )
    if recipe.pairs < largest or recipe.pairs % largest:
        parser.error(
            f"--pairs must be a multiple of the largest batch, {largest}. Got {recipe.pairs}."
        )
    if not all(0 <= seed < 2**32 - 1 for seed in options.seeds):
        parser.error(f"--seeds must be between 0 and 2**32 - 2. Got {options.seeds}.")
    if not 0 < recipe.learning_rate < math.inf:
        parser.error(f"--learning-rate must be above 0. Got {recipe.learning_rate}.")
    if recipe.micro_batch_size < 1:
        parser.error(f"--micro-batch-size must be at least 1. Got {recipe.micro_batch_size}.")
    if options.output.exists() and not options.output.is_dir():
        parser.error(f"--output must be a folder. {options.output} is a file.")
    return options


if __name__ == "__main__":
    main()
