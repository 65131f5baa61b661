"""Trains a text embedder on pairs of several kinds, and draws how it gets on.

    python examples/train_text.py --input FOLDER …  # pairs of collect_corpus.py, or your own texts
    python examples/train_text.py --input FOLDER … --tiny

Of each input, Parquet files are pairs, and the name of a file is that of its source; a token store
is a source; other folders are read as documents, whose headings, questions and neighbouring
paragraphs are pairs. Each batch is from one source, as many of each as its size to the power of
ALPHA says.

While it trains it is measured: sentence similarity (STS-B), sentiment without training (SST-2's
labels as texts, and neighbours), search (cranfield) where these sets are here, and search among
pairs that are held out. Everything goes to `--output`: stores, backups, curve.json and curve.png,
the preset, report.md. What is there is gone on with, after a kill too.
"""

import argparse
import dataclasses
import functools
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import corpus_text
import numpy as np
import quickstart_models
from quickstart_parts import linear_schedule, say

import cptk
from cptk.evaluation.metrics.trec_eval import ndcg_at_k

PROMPT = ('This sentence: "', '" means in one word: "')  # PromptEOL, arXiv:2307.16645
ALPHA = 0.5
HELD_OUT = 50  # pairs of a source
NEIGHBOURS = 500, 16  # labelled sentences, and how many of them vote
OFTEN = "stsb", "sst2_zero_shot", "sst2_zero_shot_prompt"
SELDOM = 5  # each fifth time cranfield is measured too


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How a base is trained."""

    learning_rate: float
    batch_size: int = 64
    temperature: float = 0.05
    lora_rank: int | None = None
    num_layers: int | None = None
    trained_layers: int | None = None
    """The last ones; all by default."""
    length: int = 40
    search_length: int = 192


RECIPES = {
    "smollm2": Recipe(1e-4, batch_size=128, lora_rank=16, num_layers=24, trained_layers=8),
    "minilm": Recipe(3e-5, batch_size=256, length=32),
}
"""First choices, not tuned: see the curve before you trust them."""


# === Pairs ===


def sources(folders: Sequence[Path]) -> dict[str, Any]:
    """The pairs, or the store, of each source below some folders."""
    stores: dict[str, Any] = {}
    pairs: dict[str, list[Any]] = {}
    for folder in folders:
        files = sorted(folder.glob("*.parquet"))
        if (folder / "manifest.json").is_file():
            if folder.name in stores:
                raise SystemExit(f"Two stores have the name {folder.name!r}. Rename one.")
            stores[folder.name] = cptk.data.TokenStore(folder)
            continue
        of_files = [(file.stem, cptk.data.Pairs.from_parquet(file)) for file in files]
        for name, own in of_files or mined(folder).items():
            pairs.setdefault(name, []).append(own)
    both = sorted(stores.keys() & pairs.keys())
    if both:
        raise SystemExit(f"A store and pairs have the name {both[0]!r}. Rename one.")
    return stores | {name: cptk.data.Pairs.concat(parts) for name, parts in pairs.items()}


def mined(folder: Path) -> dict[str, Any]:
    """Clean pairs of a folder of documents, by kind."""
    say(f"Reading the texts in {folder}")
    counts: Counter[str] = Counter()
    documents = list(cptk.mining.read_folder(folder, plain=True, counts=counts))
    every = cptk.data.Pairs.concat(corpus_text.of_documents(documents, counts))
    tests = list(corpus_text.test_texts())
    clean = {}
    for kind in sorted({str(each) for each in every["kind"]}):
        own = every.filter([each == kind for each in every["kind"]])
        clean[kind] = corpus_text.clean(own, kind, tests, None, counts)
    say(", ".join(f"{rule} {count:,}" for rule, count in counts.most_common()))
    return {kind: pairs for kind, pairs in clean.items() if len(pairs) >= 2}


# === The model ===


def load(options: argparse.Namespace) -> tuple[Any, Recipe]:
    """The embedder to begin with, and how it is trained."""
    dtype = cptk.models.fastest_dtype()
    roles = {"query": PROMPT, "document": PROMPT}
    if options.tiny:
        recipe = Recipe(1e-3, batch_size=8, lora_rank=2, length=24, search_length=32)
        embedder = quickstart_models.tiny_gpt2(recipe.search_length, "float32")
    elif options.base == "minilm":
        recipe = RECIPES["minilm"]
        embedder = quickstart_models.load_minilm(None, recipe.search_length, dtype)
    elif options.base == "smollm2":
        recipe = RECIPES["smollm2"]
        gguf = cptk.integrations.gguf
        embedder = gguf.load_embedder(
            gguf.smollm2_path(), num_layers=recipe.num_layers,
            sequence_length=recipe.search_length, roles=roles, dtype=dtype,
        )  # fmt: skip
    else:
        embedder = cptk.models.TextEmbedder.from_preset(options.base, dtype=dtype)
        is_decoder = getattr(embedder, "pooling", "") == "eos"
        recipe = RECIPES["smollm2" if is_decoder else "minilm"]
    names = ("learning_rate", "batch_size", "temperature", "trained_layers")
    given = {name: getattr(options, name) for name in names if getattr(options, name) is not None}
    recipe = dataclasses.replace(recipe, **given)
    if recipe.lora_rank is not None:
        cptk.training.enable_lora(embedder, recipe.lora_rank, alpha=2 * recipe.lora_rank)
    if recipe.trained_layers is not None:
        for layer in embedder.backbone.transformer_layers[: -recipe.trained_layers]:
            layer.trainable = False
    return embedder, recipe


def soften(embedder: Any, before: Sequence[np.ndarray], share: float) -> None:
    """Give each weight a share of what it has learnt; of LoRA's factors, the second one alone.

    Wortsman et al. 2022, Robust fine-tuning of zero-shot models, arXiv:2109.01903.
    """
    weights = embedder.trainable_weights
    has_lora = any("lora_kernel_b" in weight.path for weight in weights)
    for weight, old in zip(weights, before, strict=True):
        if not has_lora or "lora_kernel_a" not in weight.path:
            weight.assign(share * np.asarray(weight) + (1 - share) * old)


# === What is measured ===


def here(name: str) -> list[str]:
    """The splits of a public set that need no download."""
    return cptk.datasets.available_splits(name) if name in cptk.datasets.list() else []


def tasks(held_out: dict[str, Any]) -> list[Any]:
    """What is measured often, as far as there is data for it."""
    found: list[Any] = [name for name in OFTEN if "validation" in here(name.partition("_")[0])]
    if {"train", "validation"} <= set(here("sst2")):
        found.append(cptk.evaluation.Task("sst2_neighbours", neighbours))
    if held_out:
        found.append(cptk.evaluation.Task("held_out", functools.partial(search, held_out)))
    return found


def neighbours(embed: Any, split: str | None) -> Any:
    """SST-2's sentences by those of a few labelled ones that are nearest."""
    train, shown = (cptk.datasets.load("sst2", name) for name in ("train", "validation"))
    rows = np.random.default_rng(0).permutation(len(train.texts))[: NEIGHBOURS[0]]
    result = cptk.evaluation.knn(
        embed([train.texts[row] for row in rows]), [train.labels[row] for row in rows],
        embed(shown.texts), shown.labels, k=NEIGHBOURS[1],
    )  # fmt: skip
    right = result.predictions == np.asarray(shown.labels)
    items = {"correct": right.astype(float).tolist()}
    return cptk.evaluation.TaskResult(
        "accuracy", result.accuracy, items=items, dataset="sst2", split="validation"
    )


def search(held_out: dict[str, Any], embed: Any, split: str | None) -> Any:
    """The mean over sources of the MRR of held-out documents by their queries."""
    ranks = {
        name: cptk.evaluation.retrieval_ranks(
            embed(pairs["query"], role="query"), embed(pairs["document"], role="document")
        )
        for name, pairs in held_out.items()
    }
    scores = {name: float(cptk.evaluation.mrr(each)) for name, each in ranks.items()}
    mean = float(np.mean(list(scores.values())))
    return cptk.evaluation.TaskResult("mrr", mean, scores=scores)


def encoder(trainer: Any, length: int) -> Callable[..., np.ndarray]:
    """The embedder as it stands, on longer texts than it is trained on."""
    preprocessor = trainer.embedder.preprocessor
    has_roles = bool(getattr(preprocessor, "roles", None))

    def encode(texts: Sequence[str], role: str | None = None) -> np.ndarray:
        before, preprocessor.sequence_length = preprocessor.sequence_length, length
        try:
            kind = {"role": role} if has_roles else {}
            return trainer.encode_text(texts, batch_size=64, verbose=0, **kind)
        finally:
            preprocessor.sequence_length = before

    return encode


# === Training ===


def train(
    embedder: Any, recipe: Recipe, training: dict[str, Any], held_out: dict[str, Any],
    options: argparse.Namespace,
) -> list[dict[str, Any]]:  # fmt: skip
    """By `fit`, measured and backed up now and then; the scores by how many pairs were seen."""
    import keras

    given = (each for each in training.values() if isinstance(each, cptk.data.TokenStore))
    length = max(recipe.length, *(store.sequence_length for store in given), 0)
    embedder.preprocessor.sequence_length = length
    reader = cptk.models.text_reader(embedder)
    stores = {
        name: pairs
        if isinstance(pairs, cptk.data.TokenStore)
        else cptk.data.TokenStore.write(options.output / "stores" / name, pairs, reader)
        for name, pairs in training.items()
    }
    steps = max(1, options.pairs // recipe.batch_size // options.points)  # between measurements
    trainer = cptk.ContrastiveTrainer(
        embedder,
        head=cptk.layers.ContrastiveHead(recipe.temperature),
        seed=options.seed,
        micro_batch_size=options.micro_batch_size,
    )
    total = steps * options.points
    schedule = linear_schedule(recipe.learning_rate, max(1, total // 20), total)
    trainer.compile(keras.optimizers.AdamW(schedule, weight_decay=0.01, global_clipnorm=1.0))
    measure = cptk.evaluation.EvaluationCallback
    encode = encoder(trainer, recipe.search_length)
    own: dict[str, Any] = {"encoder": encode, "at_start": True}
    callbacks = [
        measure(tasks(held_out), split="validation", file=options.output / "often.json", **own)
    ]
    if "test" in here("cranfield") and not options.tiny:
        file = options.output / "seldom.json"
        callbacks.append(
            measure("cranfield", split="test", every_n_epochs=SELDOM, file=file, **own)
        )
    backup = cptk.training.ExactBackupAndRestore(options.output / "backup", delete_checkpoint=False)
    trainer.fit(
        cptk.data.Mixture(stores, alpha=ALPHA),
        batch_size=recipe.batch_size,
        epochs=options.points,
        steps_per_epoch=steps,
        callbacks=[*callbacks, *([backup] if options.resume else [])],
        verbose=2,
    )
    return [
        {"pairs": row["step"] * recipe.batch_size, "task": row["task"], "score": row["score"]}
        for callback in callbacks
        for row in callback.history
        if row["score"] is not None
    ]


# === What is shown ===


def draw(rows: Sequence[dict[str, Any]], yardstick: float | None) -> Any:
    """Every score against the pairs seen; a line where BM25 is on cranfield."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    for name in dict.fromkeys(row["task"] for row in rows):
        own = sorted((row["pairs"], row["score"]) for row in rows if row["task"] == name)
        pairs, scores = zip(*own, strict=True)
        cptk.visualization.learning_curve(
            pairs, {name: scores}, xlabel="pairs seen", ylabel="score × 100", log=False, ax=axes
        )
        look = cptk.visualization.axes.look_of(len(axes.lines) - 1)
        axes.lines[-1].set(color=look["color"], marker=look["marker"])
    if yardstick is not None:
        axes.axhline(100 * yardstick, color="#777777", linestyle="--", label="cranfield, BM25")
    axes.legend(frameon=False, fontsize="small", loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


def bm25() -> float | None:
    """nDCG@10 of BM25 on cranfield, where it is here."""
    if "test" not in here("cranfield"):
        return None
    data = cptk.datasets.load("cranfield", split="test")
    corpus = {key: text for key, text in data.corpus.items() if text.strip()}
    ids = list(corpus)
    queries = {key: text for key, text in data.queries.items() if key in data.qrels}
    index = cptk.search.BM25().fit(list(corpus.values()))
    scores, rows = index.top_k(list(queries.values()), k=10)
    run = {
        key: {ids[row]: float(score) for score, row in zip(*found, strict=True) if row >= 0}
        for key, *found in zip(queries, scores, rows, strict=True)
    }
    gained = ndcg_at_k(data.qrels, run, k=10)
    return float(np.mean(list(gained.values())))


def shown(rows: Sequence[dict[str, Any]], yardstick: float | None) -> str:
    """The scores as a table of Markdown, a row for each number of pairs seen."""
    names = list(dict.fromkeys(row["task"] for row in rows))
    by_pairs: dict[int, dict[str, float]] = {}
    for row in rows:
        by_pairs.setdefault(row["pairs"], {})[row["task"]] = row["score"]
    lines = [f"| pairs seen | {' | '.join(names)} |", f"| --- |{' --- |' * len(names)}"]
    for pairs, scores in sorted(by_pairs.items()):
        cells = [f"{100 * scores[name]:.1f}" if name in scores else "" for name in names]
        lines.append(f"| {pairs:,} | {' | '.join(cells)} |")
    if yardstick is not None:
        cells = [f"{100 * yardstick:.1f}" if name == "cranfield" else "" for name in names]
        lines.append(f"| BM25 | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


# === The command line ===


def main(arguments: Sequence[str] | None = None) -> None:
    """Pairs, training, and what it gave."""
    options = parse(arguments)
    import keras

    keras.utils.set_random_seed(options.seed)
    options.output.mkdir(parents=True, exist_ok=True)
    held_out, training = {}, {}
    for name, pairs in sources(options.input).items():
        training[name] = pairs
        if isinstance(pairs, cptk.data.Pairs):
            size = min(HELD_OUT, len(pairs) // 10)
            if size >= 2:
                held_out[name], training[name] = pairs.split(size, seed=options.seed)
        say(f"{name}: {len(training[name]):,} pairs")
    embedder, recipe = load(options)
    begun = [np.asarray(weight) for weight in embedder.trainable_weights]
    start = time.perf_counter()
    rows = train(embedder, recipe, training, held_out, options)
    seconds = time.perf_counter() - start
    soften(embedder, begun, options.share)
    embedder.preprocessor.sequence_length = recipe.search_length
    embedder.save_to_preset(str(options.output / "embedder"))
    write(options.output, rows, {**dataclasses.asdict(recipe), "share": options.share})
    print(f"\n{(options.output / 'report.md').read_text(encoding='utf-8')}\n{seconds:.0f} s")


def write(output: Path, rows: Sequence[dict[str, Any]], recipe: dict[str, Any]) -> None:
    """The curve as numbers, as a table and as a figure."""
    yardstick = bm25()
    content = {"recipe": recipe, "cranfield by BM25": yardstick, "curve": list(rows)}
    (output / "curve.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    (output / "report.md").write_text(shown(rows, yardstick), encoding="utf-8")
    if rows:
        draw(rows, yardstick).savefig(output / "curve.png", dpi=150)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line, checked."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--input", type=Path, nargs="+", required=True, help="folders of pairs, stores or texts")
    add("--base", default="smollm2", help="smollm2, minilm, or a preset")
    add("--pairs", type=int, default=102_400, help="pairs to train on")
    add("--points", type=int, default=20, help="times that it is measured and backed up")
    add("--batch-size", type=int)
    add("--micro-batch-size", type=int, help="texts at once, for batches that do not fit")
    add("--learning-rate", type=float)
    add("--temperature", type=float)
    add("--trained-layers", type=int, help="train the last ones alone")
    add("--share", type=float, default=1.0, help="of what was learnt, in what is saved")
    add("--seed", type=int, default=0)
    add("--output", type=Path, default=Path("text_embedder"), help="folder for the results")
    add("--resume", action=argparse.BooleanOptionalAction, default=True, help="go on where it was")
    add("--tiny", action="store_true", help="a tiny random model, to see that it runs")
    options = parser.parse_args(arguments)
    for folder in options.input:
        if not folder.is_dir():
            parser.error(f"--input should be folders. Received: {folder}.")
    if not 0 <= options.share <= 1:
        parser.error(f"--share should be from 0 to 1. Received: {options.share}.")
    if options.points < 1 or options.pairs < 2:
        parser.error("--points should be 1 or more, and --pairs 2 or more.")
    return options


if __name__ == "__main__":
    main(sys.argv[1:])
