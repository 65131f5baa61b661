"""A decoder that sees its whole text beside one that sees what went before: equal training time.

    python benchmarks/bidirectional.py [--data code sts] [--seconds 300] [--seeds 0] [--tiny]
                                       [--arms causal-prompt causal-eos causal-mean ...]

SmolLM2-135M, 24 layers, LoRA of rank 16: on the quickstart's pairs (MRR on its 1,000 held-out
functions) and on STS-B's scores by CoSENT (Spearman's correlation on dev). Each row is measured in
a process of its own, and bidirectional.json and .md are written after each. Started again, it goes
on. STS-B is found by CPTK_DATA_DIR.
"""

import argparse
import datetime
import functools
import json
import sys
import time
import zlib
from pathlib import Path
from typing import NamedTuple

import by_the_clock
import fine_tuning
import reporting
import sts

sys.path.append(str(Path(__file__).parents[1] / "examples"))

PACKAGES = "cptk keras keras-hub tensorflow".split()
LAYERS, LORA_RANK = 24, 16
NAME = "\nThe name of the function, in one word: "


class Data(NamedTuple):
    """What is trained on and measured, with the quickstart's and `sts.py`'s settings."""

    name: str
    score: str
    batch_size: int
    learning_rate: float
    length: int
    search_length: int
    prompts: dict


class Arm(NamedTuple):
    """A row of the table."""

    attention: str
    pooling: str
    form: str  # what stands around a text


DATA = {
    "code": Data("code search", "MRR", 32, 1.5e-3, 112, 160, {
        "query": ("Summary of a Python function: ", NAME), "document": ("Python function:\n", NAME),
    }),
    "sts": Data("STS-B dev", "Spearman", 64, 3e-4, 96, 96, dict.fromkeys(
        ("query", "document"), sts.PROMPT
    )),
}  # fmt: skip
ARMS = {
    "causal-prompt": Arm("causal", "eos", "prompt"),
    "causal-eos": Arm("causal", "eos", "delimiters"),
    "causal-mean": Arm("causal", "mean", "nothing"),
    "bidirectional-mean": Arm("bidirectional", "mean", "nothing"),
}
TINY = {"batch_size": 8, "length": 96, "search_length": 96}


def settings(task):
    """The data of a task; smaller in a test."""
    data = DATA[task["data"]]
    return data._replace(**TINY) if task["tiny"] else data


# === In the process of a row ===


def load(task):
    """The embedder of an arm, before training."""
    import quickstart_models

    import cptk

    arm, data = ARMS[task["arm"]], settings(task)
    roles = {
        "prompt": data.prompts,
        "delimiters": None,  # the paper's
        "nothing": dict.fromkeys(("query", "document"), ("", "")),
    }[arm.form]
    how = {"pooling": arm.pooling, "attention": arm.attention}
    dtype = cptk.models.fastest_dtype()
    if task["tiny"]:
        toy = quickstart_models.tiny_gpt2(256, dtype)
        reader = type(toy.preprocessor)(toy.preprocessor.tokenizer, 256, roles)
        return type(toy)(toy.backbone, reader, **how)
    gguf = cptk.integrations.gguf
    return gguf.load_embedder(
        gguf.smollm2_path(), num_layers=LAYERS, roles=roles, dtype=dtype, **how
    )


def measure(task):
    """One row: trained or not, and its score."""
    import keras

    import cptk

    keras.utils.set_random_seed(task["seed"])
    data, embedder = settings(task), load(task)
    row = {"status": "measured"}
    if task["trained"]:
        cptk.training.enable_lora(embedder, LORA_RANK)
        row |= train(embedder, data, task)
    embedder.preprocessor.sequence_length = data.search_length
    start = time.perf_counter()
    row["score"] = float({"code": mrr, "sts": spearman}[task["data"]](embedder, task))
    return {**row, "search_seconds": round(time.perf_counter() - start, 2)}


def train(embedder, data, task):
    """By the clock, InfoNCE or CoSENT: what the row says of it."""
    import keras
    from quickstart_parts import alike_in_length

    import cptk

    embedder.preprocessor.sequence_length = data.length
    trainer = cptk.ContrastiveTrainer(embedder, seed=task["seed"])
    optimizer = keras.optimizers.AdamW(
        task["learning_rate"], weight_decay=0.01, global_clipnorm=1.0
    )
    if task["data"] == "code":
        pairs = code_pairs(task)["training"]
        pairs = pairs[: len(pairs) // data.batch_size * data.batch_size]
        known, loss = len(pairs), cptk.losses.InfoNCE()
        pairs = cptk.data.Pairs(alike_in_length(pairs, data.batch_size, task["seed"]))
    else:
        scored = sts.scored_pairs("train", task["tiny"])
        known, loss = len(scored.first), cptk.losses.CoSENT()
        pairs = {"query": scored.first, "document": scored.second, "score": scored.scores}
    trainer.compile(optimizer, loss=loss)
    deadline = time.perf_counter() + task["seconds"]
    row = by_the_clock.fit(
        trainer, pairs, data.batch_size, task["learning_rate"], deadline,
        shuffle=task["data"] == "sts",
    )  # fmt: skip
    return {**row, "epochs": round(row["pairs"] / known, 2)}


def code_pairs(task):
    """The quickstart's pairs, as `fine_tuning.prepare` has laid them down."""
    return json.loads((Path(task["folder"]) / "pairs.json").read_text("utf-8"))


def mrr(embedder, task):
    """Of each held-out function's docstring among all the functions."""
    import quickstart

    import cptk

    vectors = quickstart.embed(embedder, cptk.data.Pairs(code_pairs(task)["held_out"]))
    return cptk.evaluation.mrr(cptk.evaluation.retrieval_ranks(*vectors))


def spearman(embedder, task):
    """Of cosine and score on dev; both sentences are read alike."""
    import cptk

    return cptk.evaluation.similarity(
        lambda texts: embedder.encode_text(texts, role="query", verbose=0),
        sts.scored_pairs("validation", task["tiny"]),
    )["spearman"]


# === The table ===


def to_markdown(report):
    """The tables that the documentation shows, one of each data."""
    tables = []
    header = ["attention", "pooling", "around a text", "before", "rate", "seed"]
    header += ["seconds", "pairs seen", "passes", "after"]
    for key, data in DATA.items():
        rows = [row for row in report["rows"] if row["data"] == key]
        before = {row["arm"]: row for row in rows if not row["trained"]}
        lines = []
        for arm in ARMS:
            untrained = [shown_score(before[arm])] if arm in before else [""]
            trained = [row for row in rows if row["arm"] == arm and row["trained"]]
            for row in trained:
                cells = [f"{row['learning_rate']:g}", row["seed"]]
                if row["status"] == "measured":
                    cells += [f"{row['training_seconds']:.0f}", f"{row['pairs']:,}"]
                    cells += [f"{row['epochs']:.1f}", shown_score(row)]
                else:
                    cells += ["", "", "", row["status"]]
                lines.append([*ARMS[arm], *untrained, *cells])
            if not trained and arm in before:
                lines.append([*ARMS[arm], *untrained, *[""] * 6])
        if lines:
            table = reporting.markdown_table(header, lines)
            tables.append(f"**{data.name}**, {data.score}:\n\n{table}")
    packages = ", ".join(f"{name} {version}" for name, version in report["versions"].items())
    loads = [row["load_average"] for row in report["rows"] if row["load_average"] is not None]
    load = f"load average {min(loads)} to {max(loads)}; " if loads else ""
    found = "\n\n".join(tables)
    return f"""# Bidirectional attention

SmolLM2-135M, {LAYERS} layers, LoRA of rank {LORA_RANK} on all linear layers, before and after \
{report["setup"]["seconds"]:g} seconds of training: on the quickstart's pairs by InfoNCE, batches \
of {DATA["code"].batch_size}, and on STS-B's train split by CoSENT, batches of \
{DATA["sts"].batch_size}. AdamW; the rate rises for a tenth of the time and falls to zero at its \
end. Around a text: a prompt that asks for one word, the paper's delimiters, or nothing.

{found}

{reporting.described(report["machine"])}; {load}{packages}; {report["date"]}.
"""


def shown_score(row):
    """A score as it stands in the table, or why there is none."""
    if row["status"] != "measured":
        return row["status"]
    return f"{row['score']:.3f}" if row["data"] == "code" else f"{100 * row['score']:.1f}"


def write(report, output):
    """Both files, as far as the rows go."""
    order = [*DATA], [*ARMS]
    report["rows"].sort(
        key=lambda r: (
            order[0].index(r["data"]), order[1].index(r["arm"]),
            r["trained"], r["learning_rate"], r["seed"],
        )
    )  # fmt: skip
    report["date"] = datetime.datetime.now(datetime.UTC).date().isoformat()
    reporting.write_atomically(output / "bidirectional.json", json.dumps(report, indent=2) + "\n")
    reporting.write_atomically(output / "bidirectional.md", to_markdown(report))


# === The command line ===


def parse(arguments):
    """The command line, checked."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--data", nargs="+", choices=list(DATA), default=list(DATA))
    add("--arms", nargs="+", choices=list(ARMS), default=list(ARMS))
    add("--seconds", type=float, help="of training, for each (300)")
    add("--seeds", type=int, nargs="+", default=[0])
    add("--learning-rate", type=float, help="instead of each data's own")
    fine_tuning.add_work_flag(parser)
    reporting.add_run_flags(parser)
    parsed = parser.parse_args(arguments)
    if parsed.seconds is None:
        parsed.seconds = 2.0 if parsed.tiny else 300.0
    reporting.check_above_zero(parser, parsed, "seconds", "learning_rate")
    # fine_tuning.py trains on the same pairs, and may have laid them down already.
    parsed.work = parsed.work or fine_tuning.usual_work(parsed.tiny)
    return parsed


def begin(arguments):
    """The report so far: that of an earlier run with the same settings, or an empty one."""
    if "sts" in arguments.data:
        sts.splits(arguments.tiny)  # ends the run where there is none
    pairs = fine_tuning.prepare(arguments.work, arguments.tiny)
    setup = {
        "tiny": arguments.tiny,
        "seconds": arguments.seconds,
        "layers": LAYERS,
        "lora_rank": LORA_RANK,
        "pairs_crc32": zlib.crc32(pairs),
    }
    return reporting.begin("bidirectional", PACKAGES, setup, arguments)


def places(arguments):
    """What is asked for, in order: all arms as they are, then all trained, seed by seed."""
    for data in dict.fromkeys(arguments.data):
        rate = arguments.learning_rate or DATA[data].learning_rate
        for seed in (None, *dict.fromkeys(arguments.seeds)):  # None: as it is
            for arm in dict.fromkeys(arguments.arms):
                place = {"data": data, "arm": arm, "trained": seed is not None, "seed": seed or 0}
                yield {**place, "learning_rate": rate if place["trained"] else 0.0}


def tasks(arguments):
    """The same with what is said of each, and how it is measured."""
    common = {"tiny": arguments.tiny, "seconds": arguments.seconds, "folder": str(arguments.work)}
    for place in places(arguments):
        trained = f"seed {place['seed']}" if place["trained"] else "before training"
        run = functools.partial(reporting.run_on_tensorflow, __file__, {**common, **place})
        yield place, f"{place['data']}, {place['arm']}, {trained}", run


def main(arguments=None):
    """Measure what is asked for and not there, row by row."""
    arguments = parse(arguments)
    if arguments.worker:
        row = measure(json.loads(arguments.worker[0]))
        Path(arguments.worker[1]).write_text(json.dumps(row))
        return
    report = begin(arguments)
    reporting.measure_missing(
        report, tasks(arguments), arguments.fresh, lambda: write(report, arguments.output)
    )
    print(to_markdown(report), flush=True)


if __name__ == "__main__":
    main()
