"""Turns a pre-trained model into a code-search embedder, on the Python code of this machine.

    python examples/quickstart.py                  # MiniLM, KerasHub's own class
    python examples/quickstart.py --base smollm2   # SmolLM2-135M, a decoder
    python examples/quickstart.py --smoke          # a tiny random model, to see that it runs

The model is asked to find functions by what their docstrings say: 1,000 functions of the standard
library, of which it sees only the docstring on one side and only the code on the other. It is
measured before and after it is trained, by `fit`, on pairs of (docstring, code) from other modules.
Then it answers five questions from all functions that were read. Everything goes to `--output`;
what is there already is reused, and a training run that was interrupted goes on where it was.
"""

import argparse
import dataclasses
import itertools
import os
import random
import re
import sys
import sysconfig
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from quickstart_models import LOAD, NAMES, RECIPES, SMOKE, TINY, Recipe
from quickstart_parts import (
    Clock,
    Shelf,
    alike_in_length,
    competitor,
    draw,
    fingerprint,
    installed,
    linear_schedule,
    progress,
    say,
    state_of,
    table,
    versions,
)

import cptk  # quick: Keras and its backend are imported when they are first used

QUESTIONS = (
    "how do I parse a date?",
    "how do I make a random unique identifier?",
    "read settings from a configuration file",
    "escape special characters in a pattern",
    "find the smallest few items of a collection",
)


INDEXED_IN_SMOKE = 500


def main(arguments: Sequence[str] | None = None) -> None:
    """The six steps."""
    options = parse_arguments(arguments)
    os.environ["KERAS_BACKEND"] = options.backend  # Keras reads it when it is imported
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    import keras
    import keras_hub

    keras.utils.set_random_seed(options.seed)
    recipe, shelf, clock = options.recipe, Shelf(options.output), Clock()
    dtype = cptk.models.fastest_dtype()

    with clock.stage("pairs", "1/6  Pairs of docstrings and functions"):
        pairs_key = fingerprint(installed(), dataclasses.asdict(recipe), options.seed)
        data = shelf.read("pairs.json", pairs_key)
        if data is None:
            data = collect_pairs(recipe, options.seed, packages=not options.smoke)
            shelf.write("pairs.json", pairs_key, data)
        else:
            say("Reused from an earlier run.")
        say(data["summary"])
        held_out, training = cptk.data.Pairs(data["held_out"]), cptk.data.Pairs(data["training"])

    weights = [options.base, options.preset, state_of(options.preset)]
    key = fingerprint(pairs_key, *weights, dtype, options.backend)
    record = shelf.read("training.json", key)
    untrained = shelf.read_arrays("untrained.npz", key)
    trained = shelf.read_arrays("trained.npz", key)

    with clock.stage("loading", "2/6  The model"):
        if record is None or untrained is None:
            embedder = load(options, dtype)
            say(f"{options.name}: {embedder.count_params():,} weights, {dtype}.")
        else:
            say("Not needed: trained in an earlier run.")

    with clock.stage("before", "3/6  Code search before training"):
        if untrained is None:
            untrained = embed(embedder, held_out)
            shelf.write_arrays("untrained.npz", key, untrained)
        ranks = {
            "tfidf": tfidf_ranks(held_out),
            "untrained": cptk.evaluation.retrieval_ranks(*untrained),
        }
        tfidf, before = (cptk.evaluation.mrr(values) for values in ranks.values())
        say(f"MRR of TF-IDF {tfidf:.3f}, before training {before:.3f}.")

    with clock.stage("training", "4/6  Training"):
        if record is None:
            record = train(embedder, training, options, backup=shelf.folder / "backup" / key)
            embedder.save_to_preset(str(shelf.folder / "embedder"))
            shelf.write("training.json", key, record)
            shelf.discard("backup")
        else:
            say("Reused from an earlier run.")
            embedder = keras_hub.models.TextEmbedder.from_preset(
                str(shelf.folder / "embedder"), dtype=dtype
            )
        say(f"{record['pairs']:,} pairs, {record['pairs_per_second']:.1f} a second.")

    with clock.stage("after", "5/6  Code search after training"):
        if trained is None:
            trained = embed(embedder, held_out)
            shelf.write_arrays("trained.npz", key, trained)
        ranks["trained"] = cptk.evaluation.retrieval_ranks(*trained)
        subject = f"{options.name}: {len(held_out):,} functions that it was not trained on"
        shelf.save_figure("figure.png", draw(ranks, untrained, trained, subject))

    with clock.stage("index", "6/6  An index of the functions"):
        functions, index = held_out, trained[1]
        if recipe.index_length is not None:
            functions = cptk.data.Pairs(data["read"])
            index = index_of(embedder, functions, recipe, shelf, key)
        say(f"{len(functions):,} functions.")

    rows = {
        name: {
            "mrr": cptk.evaluation.mrr(values),
            "recall@1": cptk.evaluation.recall_at_k(values, 1),
            "recall@10": cptk.evaluation.recall_at_k(values, 10),
        }
        for name, values in ranks.items()
    }
    results = {
        "rows": rows,
        "seconds": clock.seconds,
        "training": record,
        "pairs_per_second": record["pairs_per_second"],
        "seed": options.seed,
        "backend": options.backend,
        "cores": os.cpu_count(),
        "versions": versions("cptk", "keras", "keras-hub", options.backend, "numpy"),
        "settings": {"model": options.name, "dtype": dtype, **dataclasses.asdict(recipe)},
    }
    shelf.write_json("results.json", results)
    rival = None if options.smoke else competitor()
    print(f"\n{table(rows, rival)}\n")
    answer_questions(embedder, functions, index)
    print(f"\n{clock.summary()}")
    print(f"Written to {options.output}: results.json, figure.png and the preset embedder/")


# === The steps ===


def collect_pairs(recipe: Recipe, seed: int, packages: bool = True) -> dict[str, Any]:
    """Held-out, development and training pairs, none of which shares a module, text or code.

    `packages` says whether the installed packages are read, too. `read` is all that was.
    """
    library = mine(sysconfig.get_path("stdlib"), "Reading the standard library")
    mining, concat = cptk.mining, cptk.data.Pairs.concat
    held_out, rest = mining.split_by_module(library, recipe.held_out, seed=seed)
    development, rest = mining.split_by_module(rest, recipe.development, seed=seed + 1)
    training = shuffled(rest, seed)
    if packages:
        others = mine(sysconfig.get_path("purelib"), "Reading the installed packages")
        everything = list(mining.deduplicate(concat([library, others])))
        # By turns: half of what is trained on is the library's own code, as long as there is some.
        turns = itertools.zip_longest(training, shuffled(others, seed))
        both = cptk.data.Pairs([pair for turn in turns for pair in turn if pair is not None])
        apart = concat([held_out, development])
        training = list(mining.exclude_copies(mining.deduplicate(both), of=apart))
    else:
        everything = shuffled(library, seed)[:INDEXED_IN_SMOKE]
    taken = min(recipe.pairs, len(training))
    summary = (
        f"{len(held_out):,} standard-library functions held out, {len(development)} for "
        f"development, {taken:,} of {len(training):,} others to train on."
    )
    return {
        "held_out": list(held_out),
        "development": list(development),
        "training": training[: recipe.pairs],
        "read": everything if recipe.index_length is not None else [],
        "summary": summary,
    }


def shuffled(pairs: Any, seed: int) -> list[Any]:
    """The rows of some pairs in another order."""
    rows = list(pairs)
    random.Random(seed).shuffle(rows)
    return rows


def mine(root: str, title: str) -> Any:
    """`mine_functions` with a progress bar."""
    skipped: list[str] = []
    pairs = cptk.mining.mine_functions(
        root, on_file=progress(title), on_skip=lambda path, reason: skipped.append(path)
    )
    say(f"{len(pairs):,} pairs ({len(skipped):,} files left out: tests, generated, not readable).")
    return pairs


def load(options: argparse.Namespace, dtype: str) -> Any:
    """The base, a preset of its kind, or for `--smoke` a tiny one of random weights."""
    if options.smoke and not options.preset:
        return TINY[options.base](options.recipe.search_length, dtype)
    return LOAD[options.base](options.preset, options.recipe.search_length, dtype)


def embed(embedder: Any, pairs: Any) -> tuple[np.ndarray, np.ndarray]:
    """Unit vectors of the docstrings and of the functions."""
    return encode(embedder, pairs["query"], "query"), encode(
        embedder, pairs["document"], "document"
    )


def encode(embedder: Any, texts: Sequence[str], role: str) -> np.ndarray:
    """Unit vectors of texts, in their role where the embedder has roles.

    A trainer embeds with any embedder. KerasHub's own `encode_text` pads each text to one length.
    """
    known = role if role in getattr(embedder.preprocessor, "roles", ()) else None
    trainer = cptk.ContrastiveTrainer(embedder)
    vectors = trainer.encode_text(texts, known, batch_size=64, verbose=int(sys.stdout.isatty()))
    # KerasHub divides by the length within the model, in 16 bits.
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def index_of(embedder: Any, functions: Any, recipe: Recipe, shelf: Shelf, key: str) -> np.ndarray:
    """Unit vectors of all functions that were read, from their first lines."""
    kept = shelf.read_arrays("index.npz", key)
    if kept is not None:
        say("Reused from an earlier run.")
        return kept[0]
    embedder.preprocessor.sequence_length = recipe.index_length
    # Letters that would be cut off are not tokenised.
    texts = [text[: 10 * recipe.index_length] for text in functions["document"]]
    vectors = encode(embedder, texts, "document")
    embedder.preprocessor.sequence_length = recipe.search_length
    shelf.write_arrays("index.npz", key, [vectors])
    return vectors


def tfidf_ranks(pairs: Any) -> np.ndarray:
    """The yardstick: TF-IDF over the words inside identifiers, `parseDate` and `parse_date` alike.

    This form and sublinear counts score highest among word-based ones (MRR 0.48; scikit-learn's
    defaults 0.35).
    """
    from sklearn.feature_extraction.text import TfidfVectorizer

    def words(text: str) -> list[str]:
        return [w.lower() for w in re.findall(r"[A-Z]?[a-z]{2,}|[A-Z]{2,}(?![a-z])", text)]

    queries, documents = pairs["query"], pairs["document"]
    tfidf = TfidfVectorizer(analyzer=words, sublinear_tf=True).fit(queries + documents)
    return cptk.evaluation.retrieval_ranks(
        tfidf.transform(queries).toarray(), tfidf.transform(documents).toarray()
    )


def train(embedder: Any, pairs: Any, options: argparse.Namespace, backup: Path) -> dict[str, Any]:
    """Contrastive training by `fit`, of LoRA's factors or all weights, backed up now and then."""
    import keras

    recipe = options.recipe
    steps = len(pairs) // recipe.batch_size
    epochs = max(1, steps // recipe.steps_per_backup)  # an "epoch" is the time between backups
    steps = steps // epochs * epochs
    pairs = pairs[: steps * recipe.batch_size]
    # A large batch goes through in pieces: the same step, in the memory of a small one.
    pieces = recipe.micro_batch_size if recipe.batch_size > recipe.plain_up_to else None
    if pieces is None:  # and pieces are of like length, whatever the batch
        pairs = alike_in_length(pairs, recipe.batch_size, options.seed)

    embedder.preprocessor.sequence_length = recipe.sequence_length
    if recipe.lora_rank is not None:
        cptk.training.enable_lora(embedder, recipe.lora_rank)
    trainer = cptk.ContrastiveTrainer(
        embedder,
        head=cptk.layers.ContrastiveHead(recipe.temperature),
        seed=options.seed,
        micro_batch_size=pieces,
    )
    trainer.compile(
        optimizer=keras.optimizers.AdamW(
            linear_schedule(recipe.learning_rate, min(recipe.warmup_steps, steps - 1), steps),
            weight_decay=recipe.weight_decay,
            global_clipnorm=1.0,
        )
    )
    times: list[float] = []
    if backup.exists():
        say("Going on from the backup of an interrupted run.")
    start = time.perf_counter()
    trainer.fit(
        pairs,
        batch_size=recipe.batch_size,
        epochs=epochs,
        steps_per_epoch=steps // epochs,
        shuffle=False,  # they are, already
        callbacks=[
            cptk.training.ExactBackupAndRestore(backup, delete_checkpoint=False),
            keras.callbacks.LambdaCallback(
                on_train_batch_end=lambda batch, logs: times.append(time.perf_counter())
            ),
        ],
    )
    seconds = time.perf_counter() - start
    embedder.preprocessor.sequence_length = recipe.search_length
    return {
        "pairs": len(pairs),
        "seconds": round(seconds, 2),
        "pairs_per_second": len(times) * recipe.batch_size / seconds,
    }


def answer_questions(embedder: Any, functions: Any, index: np.ndarray) -> None:
    """The three functions nearest to each question: file, line, name, and what they say they do."""
    scores, found = cptk.search.top_k(encode(embedder, QUESTIONS, "query"), index, k=3)
    for question, near, rows in zip(QUESTIONS, scores, found, strict=True):
        print(f"     {question}")
        for score, row in zip(near, rows, strict=True):
            pair = functions[int(row)]
            print(f"       {score:.2f}  {pair['path']}:{pair['line']}  {pair['name']}")
            print(f"             {pair['query']:.80}")


# === The command line ===


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The flags, checked; `recipe` holds what they say about training."""
    parser = argparse.ArgumentParser(
        description="Turns a pre-trained model into a code-search embedder.", allow_abbrev=False
    )
    add = parser.add_argument
    add(
        "--smoke",
        action="store_true",
        help="a tiny random model and few pairs, to see that it runs",
    )
    add("--base", choices=list(RECIPES), default="minilm", help="what is trained (minilm)")
    add(
        "--preset",
        help="other weights for the base, a preset's folder or name: of a KerasHub text embedder "
        "(minilm); of a decoder, or a GGUF file (smollm2)",
    )
    usual = {name: {k: getattr(r, name) for k, r in RECIPES.items()}
             for name in ("pairs", "batch_size")}  # fmt: skip
    shown = {name: ", ".join(f"{k} {v}" for k, v in each.items()) for name, each in usual.items()}
    add("--pairs", type=int, help=f"pairs to train on ({shown['pairs']})")
    add("--batch-size", type=int, help=f"pairs in a batch ({shown['batch_size']})")
    add("--backend", choices=["tensorflow", "jax", "torch"], help="of Keras (default: tensorflow)")
    add("--seed", type=int, default=0, help="of the split, the order and the new weights")
    add("--output", type=Path, default=Path("quickstart_output"), help="folder for the results")
    options = parser.parse_args(arguments)
    options.backend = options.backend or os.environ.get("KERAS_BACKEND", "tensorflow")

    recipe = RECIPES[options.base]
    if options.smoke:
        smaller = SMOKE if recipe.lora_rank is None else {**SMOKE, "lora_rank": 4}
        recipe = dataclasses.replace(recipe, **smaller)
    batch_size = recipe.batch_size if options.batch_size is None else options.batch_size
    pairs = recipe.pairs if options.pairs is None else options.pairs
    if batch_size < 2:
        parser.error(
            f"--batch-size must be at least 2: the others are negatives. Got {batch_size}."
        )
    if pairs < batch_size:
        parser.error(f"--pairs must be at least the batch size, {batch_size}. Got {pairs}.")
    if options.base == "minilm" and (options.preset or "").endswith(".gguf"):
        parser.error(f"--base minilm reads no GGUF file. Add --base smollm2. Got {options.preset}.")
    if not 0 <= options.seed < 2**32 - 1:
        parser.error(f"--seed must be between 0 and 2**32 - 2. Got {options.seed}.")
    if options.output.exists() and not options.output.is_dir():
        parser.error(f"--output must be a folder. {options.output} is a file.")
    options.recipe = dataclasses.replace(recipe, pairs=pairs, batch_size=batch_size)
    default = "A tiny random model" if options.smoke else NAMES[options.base]
    options.name = os.path.basename(os.path.normpath(options.preset)) if options.preset else default
    return options


if __name__ == "__main__":
    main()
