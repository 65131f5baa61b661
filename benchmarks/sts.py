"""Sentence similarity before and after minutes of training on STS-B's scores, by CoSENT.

    python benchmarks/sts.py [--models minilm smollm2] [--epochs 4] [--seeds 0] [--tiny]

MiniLM trains all weights; SmolLM2-135M, 24 layers and a prompt that asks for one word, LoRA's. Each
row is measured in a process of its own, and sts.json and sts.md are written after each. Started
again, it goes on. STS-B is found by CPTK_DATA_DIR.
"""

import argparse
import datetime
import functools
import json
import random
import sys
import time
from pathlib import Path
from typing import NamedTuple

import reporting

sys.path.append(str(Path(__file__).parents[1] / "examples"))

PACKAGES = "cptk keras keras-hub tensorflow".split()
PROMPT = ('This sentence: "', '" means in one word: "')  # PromptEOL, arXiv:2307.16645
BATCH_SIZE = {False: 32, True: 8}  # by `tiny`
LENGTH = {False: 96, True: 24}
WARM_UP = 0.1  # of the steps; ours


class Recipe(NamedTuple):
    """How a model is trained; ours."""

    name: str
    learning_rate: float
    epochs: int
    lora_rank: int | None = None


MODELS = {
    "minilm": Recipe("all-MiniLM-L6-v2", 7e-5, epochs=4),
    "smollm2": Recipe("SmolLM2-135M, 24 layers", 5e-4, epochs=1, lora_rank=16),
}
LIMITS = {"minilm": ("above untrained", 0.015), "smollm2": ("at least", 0.84)}


# === In the process of a row ===


def load(model, tiny):
    """The embedder, with what is trained of it."""
    import quickstart_models

    import cptk

    dtype = cptk.models.fastest_dtype()
    if tiny:
        return quickstart_models.TINY[model](LENGTH[True], dtype)
    if model == "minilm":
        return quickstart_models.load_minilm(None, LENGTH[False], dtype)
    gguf = cptk.integrations.gguf
    return gguf.load_embedder(
        gguf.smollm2_path(), num_layers=24, sequence_length=LENGTH[False],
        roles={"query": PROMPT, "document": PROMPT}, dtype=dtype,
    )  # fmt: skip


def scored_pairs(split, tiny):
    """Pairs of sentences with their scores; for a test, of words that are shared or not."""
    import cptk

    if not tiny:
        return cptk.datasets.load("stsb", split=split)
    rng = random.Random(split)
    words = "sun rain snow wind cloud storm river lake sea hill".split()
    first = [rng.sample(words, 4) for _ in range(48)]
    shared = [rng.randrange(5) for _ in first]
    second = [own[:k] + rng.sample(words, 4 - k) for own, k in zip(first, shared, strict=True)]
    texts = [[" ".join(own) for own in side] for side in (first, second)]
    return cptk.datasets.ScoredPairs(*texts, list(map(float, shared)), ["toy"] * len(first))


def measure(task):
    """One row: Spearman's correlation on each split that there is data for."""
    import keras

    import cptk

    keras.utils.set_random_seed(task["seed"])
    tiny, recipe = task["tiny"], MODELS[task["model"]]
    embedder = load(task["model"], tiny)
    row = {"status": "measured"}
    if task["trained"] and recipe.lora_rank is not None:
        cptk.training.enable_lora(embedder, recipe.lora_rank)
    trainer = cptk.ContrastiveTrainer(embedder, seed=task["seed"])
    if task["trained"]:
        data = scored_pairs("train", tiny)
        pairs = {"query": data.first, "document": data.second, "score": data.scores}
        size, epochs = BATCH_SIZE[tiny], task["epochs"]
        steps = epochs * -(-len(data.first) // size)
        rising = max(1, int(WARM_UP * steps))
        rate = keras.optimizers.schedules.CosineDecay(
            0.0, max(1, steps - rising), warmup_target=task["learning_rate"], warmup_steps=rising
        )
        optimizer = keras.optimizers.AdamW(rate, weight_decay=0.01, global_clipnorm=1.0)
        trainer.compile(optimizer, loss=cptk.losses.CoSENT())
        start = time.perf_counter()
        trainer.fit(pairs, batch_size=size, epochs=epochs, verbose=0)
        row["training_seconds"] = round(time.perf_counter() - start, 2)
    for split in task["splits"]:
        found = cptk.evaluation.similarity(
            lambda texts: trainer.encode_text(texts, verbose=0, **role(embedder)),
            scored_pairs(split, tiny),
        )
        row[split] = found["spearman"]
    return row


def role(embedder):
    """Both sides are read alike, where an embedder has roles."""
    return {"role": "query"} if getattr(embedder.preprocessor, "roles", None) else {}


# === The table ===


def answers(rows):
    """What the measurements are to show on dev, by the recipe that is best there, and whether."""
    found = []
    for model, (what, limit) in LIMITS.items():
        own = [r for r in rows if r["model"] == model and r["status"] == "measured"]
        before = [r["validation"] for r in own if not r["trained"]]
        by_recipe = {}
        for row in own:
            if row["trained"]:
                recipe = row["learning_rate"], row["epochs"]
                by_recipe.setdefault(recipe, []).append(row["validation"])
        after = max(by_recipe.values(), key=lambda each: sum(each) / len(each), default=[])
        needed = limit + (before[0] if before and what == "above untrained" else 0.0)
        known = after and (before or what == "at least")
        value = sum(after) / len(after) if after else None
        found.append(
            {
                "what": f"{MODELS[model].name}: Spearman on dev after training",
                "limit": f"≥ {100 * needed:.1f}" if known else what,
                "value": "" if value is None else f"{100 * value:.1f}",
                "kept": "not measured" if not known else "yes" if value >= needed else "no",
            }
        )
    return found


def to_markdown(report):
    """The table that the documentation shows."""
    header = ["model", "trained", "seed", "rate", "epochs", "seconds", "dev", "test"]
    lines = []
    for row in report["rows"]:
        cells = [MODELS[row["model"]].name, "yes" if row["trained"] else "no"]
        names = ("seed", "learning_rate", "epochs")
        cells += [f"{row[name]:g}" for name in names] if row["trained"] else [""] * 3
        if row["status"] == "measured":
            cells.append(f"{row['training_seconds']:.0f}" if row["trained"] else "")
            cells += [f"{100 * row[s]:.1f}" if s in row else "" for s in ("validation", "test")]
        else:
            cells += [row["status"], "", ""]
        lines.append(cells)
    claims = [[row[key] for key in ("what", "limit", "value", "kept")] for row in report["answers"]]
    packages = ", ".join(f"{name} {version}" for name, version in report["versions"].items())
    loads = [row["load_average"] for row in report["rows"] if row["load_average"] is not None]
    load = f"load average {min(loads)} to {max(loads)}; " if loads else ""
    return f"""# STS-B

Spearman's correlation × 100 of cosine and score, before and after training on STS-B's train split \
by CoSENT, batches of {BATCH_SIZE[False]}, AdamW; the rate rises for a tenth of the steps and \
falls to zero by a cosine. Test where there is data for it.

{reporting.markdown_table(header, lines)}

{reporting.markdown_table(["what", "limit", "measured", "kept"], claims)}

{reporting.described(report["machine"])}; {load}{packages}; {report["date"]}.
"""


def write(report, output):
    """Both files, as far as the rows go."""
    report["rows"].sort(key=lambda r: ([*MODELS].index(r["model"]), r["trained"], r["seed"]))
    report["answers"] = answers(report["rows"])
    report["date"] = datetime.datetime.now(datetime.UTC).date().isoformat()
    reporting.write_atomically(output / "sts.json", json.dumps(report, indent=2) + "\n")
    reporting.write_atomically(output / "sts.md", to_markdown(report))


# === The command line ===


def parse(arguments):
    """The command line, checked."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--models", nargs="+", choices=list(MODELS), default=list(MODELS))
    add("--epochs", type=int, help="instead of each model's own")
    add("--seeds", type=int, nargs="+", default=[0])
    add("--learning-rate", type=float, help="instead of each model's own")
    reporting.add_run_flags(parser)
    parsed = parser.parse_args(arguments)
    reporting.check_above_zero(parser, parsed, "epochs", "learning_rate")
    return parsed


def splits(tiny):
    """What there is to be measured on; the train split has to be there, too."""
    if tiny:
        return ["validation"]
    import cptk

    found = cptk.datasets.available_splits("stsb")
    if "train" not in found or "validation" not in found:
        raise SystemExit(
            "STS-B's train and dev splits should be in CPTK_DATA_DIR or the cache. "
            f"Found: {', '.join(found) or 'none'}."
        )
    return found[1:]


def tasks(arguments):
    """What is asked for, in order: a model as it is, then trained, seed by seed."""
    common = {"tiny": arguments.tiny, "splits": splits(arguments.tiny)}
    for model in dict.fromkeys(arguments.models):
        rate = arguments.learning_rate or MODELS[model].learning_rate
        epochs = arguments.epochs or (1 if arguments.tiny else MODELS[model].epochs)
        for seed in (None, *dict.fromkeys(arguments.seeds)):  # None: as it is
            place = {"model": model, "trained": seed is not None, "seed": seed or 0}
            place["learning_rate"] = rate if place["trained"] else 0.0
            place["epochs"] = epochs if place["trained"] else 0
            task = {**common, **place}
            run = functools.partial(reporting.run_on_tensorflow, __file__, task)
            yield place, f"{MODELS[model].name}, seed {seed}", run


def main(arguments=None):
    """Measure what is asked for and not there, row by row."""
    arguments = parse(arguments)
    if arguments.worker:
        row = measure(json.loads(arguments.worker[0]))
        Path(arguments.worker[1]).write_text(json.dumps(row))
        return
    setup = {"tiny": arguments.tiny, "batch_size": BATCH_SIZE[arguments.tiny]}
    report = reporting.begin("sts", PACKAGES, setup, arguments)
    reporting.measure_missing(
        report, tasks(arguments), arguments.fresh, lambda: write(report, arguments.output)
    )
    print(to_markdown(report), flush=True)


if __name__ == "__main__":
    main()
