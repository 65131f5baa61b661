"""Trains an embedder that finds functions by what they do, in six languages.

    python examples/train_code.py --input FOLDER …  # pairs of collect_corpus.py, or your own code
    python examples/train_code.py --input FOLDER … --tiny

A folder below an input that holds Parquet files of pairs is a source of that name; a folder of code
is mined, and each language in it is a source. Of each source whole packages (of one's own code,
whole files) are held out. The rest is cleaned, tokenised once into stores, and trained on: each
batch from one language, as many of each as the square root of its size says. A share of the queries
is not the documentation but what somebody might type, made of the function's name. Afterwards the
weights are averaged with those of the model that it began with, which keeps what that one knew of
other queries.

Everything goes to `--output`: stores, backups, the preset and report.md. What is there is gone on
with.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np
import quickstart_models
from quickstart_parts import linear_schedule, say
from train_code_queries import with_typed_queries

import cptk

BATCH_SIZE = 256
MICRO_BATCH_SIZE = 64
LEARNING_RATE = 2e-4
TEMPERATURE = 0.05
ALPHA = 0.5  # batches of a source in proportion to the root of its pairs
SHARE = 0.1  # of the trained weights in what is saved: more of them loses what MiniLM knew of CoSQA
TYPED = 0.6  # of the pairs whose functions have names of several words
LENGTH = {"training": 112, "search": 160}
HELD_OUT = 500  # pairs of a source
STEPS_PER_BACKUP = 8
"""Rate, batch and temperature are the quickstart's; the others are first choices, not tuned."""


# === Pairs ===


def sources(folders: Sequence[Path]) -> dict[str, Any]:
    """The pairs below some folders, by language."""
    found: dict[str, list[Any]] = {}
    for folder in folders:
        files = sorted(folder.rglob("*.parquet"))
        for file in files:
            found.setdefault(file.parent.name, []).append(cptk.data.Pairs.from_parquet(file))
        if not files:
            say(f"Reading the code in {folder}")
            for pairs in cptk.mining.functions(cptk.mining.read_folder(folder)):
                found.setdefault(str(pairs["language"][0]), []).append(pairs)
    return {name: cptk.data.Pairs.concat(parts) for name, parts in sorted(found.items())}


def held_out_and_rest(pairs: Any, size: int) -> tuple[Any, Any]:
    """Pairs of whole packages, or of whole files where there are few packages; and clean others."""
    by = "source" if len(set(pairs["source"])) >= 10 else "path"
    held_out, rest = cptk.mining.split_by_module(pairs, min(size, len(pairs) // 5), by=by)
    rest = cptk.mining.drop_near_duplicates(cptk.mining.deduplicate(rest))
    tests = list(test_texts())
    return held_out, cptk.mining.decontaminate(rest, tests) if tests else rest


def tests() -> Iterator[tuple[str, str]]:
    """Names and splits of the public sets of code search that are here."""
    known = cptk.datasets.list()
    for name in ["cosqa", *(each for each in known if each.startswith("codesearchnet_"))]:
        for split in cptk.datasets.available_splits(name):
            if split != "train":
                yield name, split


def test_texts() -> Iterator[str]:
    """What the embedder will be measured on, as far as it is here: nothing of it is trained on."""
    for name, split in tests():
        data = cptk.datasets.load(name, split=split)
        yield from data.queries.values()
        yield from data.corpus.values()


# === Training ===


def train(embedder: Any, training: dict[str, Any], options: argparse.Namespace) -> dict[str, Any]:
    """By `fit`, from stores, backed up now and then."""
    import keras

    preprocessor = embedder.preprocessor
    preprocessor.sequence_length = LENGTH["training"]
    stores = {
        name: cptk.data.TokenStore.write(
            options.output / "stores" / name, pairs, cptk.models.text_reader(embedder)
        )
        for name, pairs in training.items()
    }
    steps = options.pairs // options.batch_size
    epochs = max(1, steps // STEPS_PER_BACKUP)  # an "epoch" is the time between backups
    steps = steps // epochs * epochs
    trainer = cptk.ContrastiveTrainer(
        embedder,
        head=cptk.layers.ContrastiveHead(TEMPERATURE),
        seed=options.seed,
        micro_batch_size=min(MICRO_BATCH_SIZE, options.batch_size),
    )
    schedule = linear_schedule(LEARNING_RATE, max(1, steps // 10), steps)
    trainer.compile(keras.optimizers.AdamW(schedule, weight_decay=0.01, global_clipnorm=1.0))
    start = time.perf_counter()
    trainer.fit(
        cptk.data.Mixture(stores, alpha=ALPHA),
        batch_size=options.batch_size,
        epochs=epochs,
        steps_per_epoch=steps // epochs,
        callbacks=[
            cptk.training.ExactBackupAndRestore(options.output / "backup", delete_checkpoint=False)
        ],
    )
    return {"pairs": steps * options.batch_size, "seconds": round(time.perf_counter() - start, 1)}


def average(embedder: Any, before: Sequence[np.ndarray], share: float) -> None:
    """Give each weight a share of what it has learnt: the rest is what it was.

    Wortsman et al. 2022, Robust fine-tuning of zero-shot models, arXiv:2109.01903.
    """
    for weight, old in zip(embedder.trainable_weights, before, strict=True):
        weight.assign(share * np.asarray(weight) + (1 - share) * old)


# === What is measured ===


def measure(embedder: Any, held_out: dict[str, Any], public: bool) -> dict[str, float]:
    """MRR of each source's held-out functions by their documentation, and of the public sets'."""
    embedder.preprocessor.sequence_length = LENGTH["search"]
    trainer = cptk.ContrastiveTrainer(embedder)

    def encode(texts: Sequence[str]) -> np.ndarray:
        vectors = trainer.encode_text(texts, batch_size=64, verbose=0)
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    found = {}
    for name, pairs in held_out.items():
        ranks = cptk.evaluation.retrieval_ranks(encode(pairs["query"]), encode(pairs["document"]))
        found[name] = cptk.evaluation.mrr(ranks)
    found["mean"] = float(np.mean(list(found.values())))
    for name, split in tests() if public else ():
        report = cptk.evaluation.evaluate(encode, [name], split=split, n_bootstrap=0)
        found[f"{name}, {split}"] = report[name].score
    return found


# === The command line ===


def main(arguments: Sequence[str] | None = None) -> None:
    """Pairs, training, and what it gave."""
    options = parse(arguments)
    import keras

    keras.utils.set_random_seed(options.seed)
    options.output.mkdir(parents=True, exist_ok=True)
    parts = {
        name: held_out_and_rest(pairs, HELD_OUT) for name, pairs in sources(options.input).items()
    }
    held_out = {name: own for name, (own, _) in parts.items()}
    training = {
        name: with_typed_queries(
            rest.sample(min(len(rest), options.pairs), seed=options.seed),
            options.typed,
            options.seed,
        )
        for name, (_, rest) in parts.items()
    }
    for name in parts:
        say(f"{name}: {len(training[name]):,} pairs, and {len(held_out[name])} held out")
    dtype = cptk.models.fastest_dtype()
    if options.tiny:
        embedder = quickstart_models.tiny_bert(LENGTH["search"], "float32")
    else:
        embedder = quickstart_models.load_minilm(options.preset, LENGTH["search"], dtype)
    begun = [np.asarray(weight) for weight in embedder.trainable_weights]
    report = {"before": measure(embedder, held_out, not options.tiny)}
    say(shown(report))
    record = train(embedder, training, options)
    report["trained"] = measure(embedder, held_out, not options.tiny)
    average(embedder, begun, options.share)
    report["averaged"] = measure(embedder, held_out, not options.tiny)
    embedder.save_to_preset(str(options.output / "embedder"))
    text = json.dumps({**record, "share": options.share, "scores": report}, indent=1)
    (options.output / "report.json").write_text(text + "\n", encoding="utf-8")
    (options.output / "report.md").write_text(shown(report), encoding="utf-8")
    print(f"\n{shown(report)}\n{record['pairs']:,} pairs in {record['seconds']:.0f} s")


def shown(report: dict[str, dict[str, float]]) -> str:
    """The scores as a table of Markdown."""
    columns = [*report]
    lines = [f"| MRR | {' | '.join(columns)} |", f"| --- |{' --- |' * len(columns)}"]
    for name in report[columns[0]]:
        lines.append(f"| {name} | {' | '.join(f'{report[c][name]:.3f}' for c in columns)} |")
    return "\n".join(lines) + "\n"


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line, checked."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--input", type=Path, nargs="+", required=True, help="folders of pairs, or of code")
    add("--preset", help="the encoder to begin with (all-MiniLM-L6-v2, of a pip package)")
    add("--pairs", type=int, default=12_288, help="pairs to train on (15 minutes on two cores)")
    add("--batch-size", type=int, default=BATCH_SIZE)
    add("--share", type=float, default=SHARE, help="of the trained weights in what is saved")
    add("--typed", type=float, default=TYPED, help="share of queries made of functions' names")
    add("--seed", type=int, default=0)
    add("--output", type=Path, default=Path("code_embedder"), help="folder for the results")
    add("--tiny", action="store_true", help="a tiny random model, to see that it runs")
    options = parser.parse_args(arguments)
    for folder in options.input:
        if not folder.is_dir():
            parser.error(f"--input should be folders. Received: {folder}.")
    for flag in ("share", "typed"):
        if not 0 <= getattr(options, flag) <= 1:
            parser.error(f"--{flag} should be from 0 to 1. Received: {getattr(options, flag)}.")
    if not 2 <= options.batch_size <= options.pairs:
        parser.error("--batch-size should be 2 or more, and at most --pairs.")
    return options


if __name__ == "__main__":
    main(sys.argv[1:])
