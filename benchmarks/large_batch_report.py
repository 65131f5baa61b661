"""What `large_batch.py` makes of its rows: ratios, answers, and the tables."""

import datetime
import json
from typing import NamedTuple

import reporting


class Arm(NamedTuple):
    """One contender."""

    name: str
    backend: str
    cached: bool
    needs: tuple[str, ...]
    first_pass_dtype: str | None = None


ARMS = {
    "cptk-tensorflow": Arm("cptk, TensorFlow", "tensorflow", True, ("tensorflow", "keras_hub")),
    "cptk-tensorflow-bfloat16": Arm(
        "cptk, TensorFlow, first pass in bfloat16",
        "tensorflow",
        True,
        ("tensorflow", "keras_hub"),
        "bfloat16",
    ),
    "cptk-jax": Arm("cptk, JAX", "jax", True, ("jax", "keras_hub")),
    "cptk-tensorflow-plain": Arm(
        "cptk, TensorFlow, plain padded step", "tensorflow", False, ("tensorflow", "keras_hub")
    ),
    "cptk-jax-plain": Arm("cptk, JAX, plain padded step", "jax", False, ("jax", "keras_hub")),
    "st-cached": Arm(
        "sentence-transformers, cached", "torch", True, ("torch", "sentence_transformers")
    ),
    "st-plain": Arm(
        "sentence-transformers, plain", "torch", False, ("torch", "sentence_transformers")
    ),
}
MODELS = {"gpt2": "GPT-2, 4 layers × 256, from scratch", "smollm2": "SmolLM2-135M"}
PLAIN = {arm.backend: key for key, arm in ARMS.items() if not arm.cached}
# The exact steps, of which something is claimed.
OWN = ["cptk-tensorflow", "cptk-jax"]
FEWER_STEPS = 4096  # from this batch size on, one timed step
LOSS_LIMIT = 0.01  # by which first losses of the arms may differ, as a fraction

# What the measurements are to show.
FASTER = {"batch_size": 2048, "at_least": 2.0}  # than sentence-transformers' cached loss
NOT_SLOWER = {"from": 256, "at_least": 1.0}  # than the own plain step
LARGEST = {"batch_size": 12288, "against": 1024, "within": 0.15, "peak_gib": 4.0}  # GPT-2
WITH_NEGATIVES = {"batch_size": 4096, "negatives": 4, "peak_gib": 6.0}  # GPT-2


def with_ratios(rows):
    """The rows, each with its speed by the two yardsticks, and whether all computed the same."""
    measured = {
        (row["model"], row["arm"], row["batch_size"]): row
        for row in rows
        if row["status"] == "measured"
    }

    def speed(model, arm, size):
        return measured.get((model, arm, size), {}).get("pairs_per_second")

    found = []
    for row in rows:
        row = {k: v for k, v in row.items() if not k.startswith("to_")}
        if row["status"] == "measured":
            model, size = row["model"], row["batch_size"]
            own = row["pairs_per_second"]
            theirs = speed(model, "st-cached", size)
            row["to_st_cached"] = own / theirs if theirs else None
            # Of the same tool and backend. Plain steps end where memory does: the largest one that
            # was measured stands for more.
            yardstick = PLAIN[ARMS[row["arm"]].backend]
            plain = [n for m, arm, n in measured if (m, arm) == (model, yardstick) and n <= size]
            row["to_plain_batch"] = max(plain, default=None)
            row["to_plain"] = own / speed(model, yardstick, max(plain)) if plain else None
            same = [r for (m, _, n), r in measured.items() if (m, n) == (model, size)]
            losses = [r["loss"] for r in same]
            row["agrees"] = max(losses) - min(losses) <= LOSS_LIMIT * max(losses)
            row["agrees"] &= len({r["tokens"] for r in same}) == 1
        found.append(row)
    return found


def answers(rows):
    """What the measurements are to show, and whether they do."""
    measured = [row for row in rows if row["status"] == "measured" and row["arm"] in OWN]
    found = []

    def add(model, arm, what, limit, values, kept):
        verdict = "not measured" if kept is None else "yes" if kept else "no"
        found.append(
            {"model": model, "arm": arm, "what": what, "limit": limit, "value": values,
             "kept": verdict}
        )  # fmt: skip

    for model in MODELS:
        for arm in OWN:
            own = {r["batch_size"]: r for r in measured if (r["model"], r["arm"]) == (model, arm)}
            if not own:
                continue
            size = FASTER["batch_size"]
            ratio = own.get(size, {}).get("to_st_cached")
            add(
                model, arm, f"pairs/s by sentence-transformers' cached loss, batch {size:,}",
                f"≥ {FASTER['at_least']:g}", None if ratio is None else f"{ratio:.2f}",
                None if ratio is None else ratio >= FASTER["at_least"],
            )  # fmt: skip
            ratios = {
                n: row["to_plain"]
                for n, row in own.items()
                if n >= NOT_SLOWER["from"] and row["to_plain"] is not None
            }
            lowest = min(ratios, key=ratios.get, default=None)
            add(
                model, arm,
                f"pairs/s by the plain padded step's, the lowest from batch {NOT_SLOWER['from']}",
                f"≥ {NOT_SLOWER['at_least']:g}",
                None if lowest is None else f"{ratios[lowest]:.2f} (batch {lowest:,})",
                None if lowest is None else ratios[lowest] >= NOT_SLOWER["at_least"],
            )  # fmt: skip
            if model != "gpt2":
                continue
            largest, against = own.get(LARGEST["batch_size"]), own.get(LARGEST["against"])
            peak = None if largest is None else largest["peak_gib"]
            add(
                model, arm, f"peak memory, batch {LARGEST['batch_size']:,}",
                f"< {LARGEST['peak_gib']:g} GiB", None if peak is None else f"{peak:.2f} GiB",
                None if peak is None else peak < LARGEST["peak_gib"],
            )  # fmt: skip
            both = largest is not None and against is not None
            ratio = largest["pairs_per_second"] / against["pairs_per_second"] if both else None
            add(
                model, arm,
                f"pairs/s of batch {LARGEST['batch_size']:,} by those of {LARGEST['against']:,}",
                f"≥ {1 - LARGEST['within']:g}", f"{ratio:.2f}" if both else None,
                ratio >= 1 - LARGEST["within"] if both else None,
            )  # fmt: skip
    return found


def answers_with_negatives(rows, negatives):
    """The same, of batches with hard negatives."""
    size, limit = WITH_NEGATIVES["batch_size"], WITH_NEGATIVES["peak_gib"]
    return [
        {
            "model": row["model"],
            "arm": row["arm"],
            "what": f"peak memory, batch {size:,} with {negatives} negatives each",
            "limit": f"< {limit:g} GiB",
            "value": f"{row['peak_gib']:.2f} GiB",
            "kept": "yes" if row["peak_gib"] < limit else "no",
        }
        for row in rows
        if (row["status"], row["model"], row["batch_size"]) == ("measured", "gpt2", size)
        and row["arm"] in OWN
        and negatives == WITH_NEGATIVES["negatives"]
    ]


def stem(report):
    """The name of the files."""
    return "large_batch_negatives" if "negatives" in report["setup"] else "large_batch"


def to_markdown(report):
    """The tables that the documentation shows."""
    setup, machine = report["setup"], report["machine"]
    parts = []
    for model, name in MODELS.items():
        rows = [row for row in report["rows"] if row["model"] == model]
        if rows:
            parts.append(f"**{name}**\n\n{_table(rows)}")
    keys = ("what", "limit", "value", "kept")
    claims = [
        [MODELS[row["model"]], ARMS[row["arm"]].name, *(row[key] or "" for key in keys)]
        for row in report["answers"]
    ]
    header = ["model", "arm", "what", "limit", "measured", "kept"]
    loads = [row["load_average"] for row in report["rows"] if row.get("load_average") is not None]
    load = f"load average {min(loads)} to {max(loads)}; " if loads else ""
    lengths = " + ".join(map(str, setup["lengths"]))
    negatives = setup.get("negatives")
    each = f", each with {negatives} hard negatives, functions of other pairs" if negatives else ""
    return f"""# Large batches

{setup["pairs"]:,} pairs of docstring and function from the Python code of one machine{each}, cut \
to {lengths} tokens, no delimiters; float32, AdamW, micro-batches of {setup["micro_batch_size"]} \
texts; {setup["steps"]} timed steps, one from batch {FEWER_STEPS:,} on. Each row is a process of \
its own. The first step compiles. Memory is the peak since the model was there, compilation \
included: above the level at that moment, and in all. The last column compares with the plain step \
of the same tool and backend; cptk's pads each batch to one length. Above the largest \
batch of plain steps, `--plain-limit`, that one stands for it, in brackets. On TensorFlow \
without a GPU cptk works on two micro-batches of a small model at once, each on half of the cores.

{chr(10).join(parts)}

**What it should show**

{reporting.markdown_table(header, claims)}

{reporting.described(machine)}; {load}\
{", ".join(f"{name} {version}" for name, version in report["versions"].items())}; {report["date"]}.
"""


def _table(rows):
    header = ["batch", "arm", "pairs / s", "first step, s", "memory above the model, GiB",
              "in all, GiB", "first loss", "× their cached", "× plain"]  # fmt: skip
    lines = []
    for row in rows:
        cells = [f"{row['batch_size']:,}", ARMS[row["arm"]].name]
        if row["status"] != "measured":
            lines.append([*cells, row["status"], "", "", "", "", "", ""])
            continue
        cells += [f"{row[key]:.1f}" for key in ("pairs_per_second", "first_step_seconds")]
        cells += [f"{row[key]:.2f}" for key in ("above_gib", "peak_gib")]
        cells += [f"{row['loss']:.4f}" + ("" if row["agrees"] else " (they differ)")]
        cells += ["" if row["to_st_cached"] is None else f"{row['to_st_cached']:.2f}"]
        plain = "" if row["to_plain"] is None else f"{row['to_plain']:.2f}"
        other = plain and row["to_plain_batch"] != row["batch_size"]
        lines.append([*cells, f"{plain} ({row['to_plain_batch']:,})" if other else plain])
    return reporting.markdown_table(header, lines) + "\n"


def write(report, output):
    """Both files, as far as the rows go."""
    order = [*MODELS], [*ARMS]
    report["rows"].sort(
        key=lambda r: (order[0].index(r["model"]), r["batch_size"], order[1].index(r["arm"]))
    )
    report["rows"] = with_ratios(report["rows"])
    negatives = report["setup"].get("negatives")
    report["answers"] = (
        answers_with_negatives(report["rows"], negatives) if negatives else answers(report["rows"])
    )
    report["date"] = datetime.datetime.now(datetime.UTC).date().isoformat()
    text = json.dumps(report, indent=2) + "\n"
    reporting.write_atomically(output / f"{stem(report)}.json", text)
    reporting.write_atomically(output / f"{stem(report)}.md", to_markdown(report))
