"""The tables of `fine_tuning.py`, and what they are to show."""

import datetime
import json

import numpy as np
import reporting
from fine_tuning_arms import ARMS, STEPS

FASTER = {
    "cptk": ("st", 1.5), "jax": ("st", 1.5),
    "cptk-cached": ("st-cached", 2.0), "jax-cached": ("st-cached", 2.0),
}  # fmt: skip
KEEPS = {4: 0.97, 8: 0.93}  # of MRR with a 4th, an 8th of the numbers


def measured(report, kind):
    """Rows that hold figures."""
    return [row for row in report["rows"] if (row["kind"], row["status"]) == (kind, "measured")]


def summary(report):
    """Of each arm the mean of its figures over the seeds, and MRR of each seed."""
    found = {}
    for arm in ARMS:
        rows = [row for row in measured(report, "training") if row["arm"] == arm]
        if rows:
            names = [
                name for name, value in rows[0].items()
                if isinstance(value, float | int) and name not in ("seed", "batch_size")
            ]  # fmt: skip
            # CoSQA is measured with the first seed alone.
            known = {name: [row[name] for row in rows if name in row] for name in names}
            means = {name: round(float(np.mean(values)), 4) for name, values in known.items()}
            found[arm] = {**means, "seeds": len(rows)}
            if ARMS[arm].trains:
                found[arm]["batch_size"] = rows[0]["batch_size"]
            found[arm]["mrrs"] = [row["mrr"] for row in rows]
    return found


def answers(report):
    """What the measurements are to show, and whether they do."""
    means, found = report["summary"], []

    def add(what, limit, value, kept):
        verdict = "not measured" if kept is None else "yes" if kept else "no"
        found.append({"what": what, "limit": limit, "value": value, "kept": verdict})

    def above(what, own, other, figure):
        both = [means.get(arm, {}).get(figure) for arm in (own, other)]
        if None in both:
            add(what, "above", "", None)
        else:
            add(what, f"above {both[1]:.3f}", f"{both[0]:.3f}", both[0] > both[1])

    above("MRR of cptk, by sentence-transformers'", "cptk", "st", "mrr")
    above("MRR of cptk on JAX, by sentence-transformers'", "jax", "st", "mrr")
    above("MRR with mined hard negatives, by in-batch alone", "hard", "cptk", "mrr")
    dims = report["setup"]["dims"]
    for part, limit in KEEPS.items():
        own = means.get("matryoshka", {})
        share = own[f"mrr@{dims[0] // part}"] / own["mrr"] if own else None
        add(
            f"MRR kept with a {part}th of the numbers, trained for it", f"≥ {limit:.0%}",
            "" if share is None else f"{share:.1%}", None if share is None else share >= limit,
        )  # fmt: skip
    for split in ("validation", "test"):
        figure = f"cosqa_{split}"
        if figure in means.get("cptk", {}) or split == "validation":
            above(f"CoSQA, {split}: MRR of cptk, by MiniLM as it is", "cptk", "untrained", figure)
    speeds = {(r["arm"], r["batch_size"]): r["pairs_per_second"] for r in measured(report, "speed")}
    for batch_size in sorted({row["batch_size"] for row in measured(report, "speed")}):
        for ours, (theirs, limit) in FASTER.items():
            both = [speeds.get((arm, batch_size)) for arm in (ours, theirs)]
            ratio = None if None in both else both[0] / both[1]
            add(
                f"pairs/s of {STEPS[ours].name}, by {STEPS[theirs].name}, batch {batch_size}",
                f"≥ {limit:g}", "" if ratio is None else f"{ratio:.2f}",
                None if ratio is None else ratio >= limit,
            )  # fmt: skip
    return found


def to_markdown(report):
    """The tables that the documentation shows."""
    setup, machine = report["setup"], report["machine"]
    rates = {tool: setup[tool]["learning_rate"] for tool in ("theirs", "ours")}
    dims, loads = setup["dims"], [r["load_average"] for r in report["rows"] if r["load_average"]]
    load = f"load average {min(loads)} to {max(loads)}; " if loads else ""
    claims = [[row[key] for key in ("what", "limit", "value", "kept")] for row in report["answers"]]
    packages = ", ".join(f"{name} {version}" for name, version in report["versions"].items())
    return f"""# Fine-tuning

all-MiniLM-L6-v2, all weights, trained for {setup["seconds"]:g} seconds on the quickstart's pairs \
of docstring and function, at most 112 tokens, AdamW at {rates["theirs"]:g} in \
sentence-transformers and {rates["ours"]:g} in cptk, which takes batches of 256 in micro-batches. \
The rate rises for a tenth of the time and \
falls to zero at its end. Then 1,000 functions that neither has seen, at most 160 tokens, are \
searched by their docstrings. Means over the seeds; MRR with the first {dims[2]} and {dims[3]} \
numbers of each embedding, too; of CoSQA MRR on real web queries, by the split that there is data \
for, after the first seed.

{_table(report)}
{_steps(report)}
**What it should show**

{reporting.markdown_table(["what", "limit", "measured", "kept"], claims)}

{reporting.described(machine)}; {load}{packages}; {report["date"]}.
"""


def _table(report):
    dims = report["setup"]["dims"]
    header = ["arm", "batch", "seeds", "seconds", "of them mining", "pairs seen", "pairs / s",
              "MRR", "of each seed", "recall@1", "recall@10", f"MRR, {dims[2]}", f"MRR, {dims[3]}",
              "CoSQA dev", "CoSQA test"]  # fmt: skip
    forms = {
        "batch_size": "d", "seeds": "d", "seconds": ".0f", "mining_seconds": ".0f", "pairs": ",.0f",
        "pairs_per_second": ".1f", "mrr": ".3f", "mrrs": None, "recall@1": ".3f",
        "recall@10": ".3f", f"mrr@{dims[2]}": ".3f", f"mrr@{dims[3]}": ".3f",
        "cosqa_validation": ".3f", "cosqa_test": ".3f",
    }  # fmt: skip
    lines = []
    for arm, own in report["summary"].items():
        cells = {**own, "mrrs": ", ".join(f"{mrr:.3f}" for mrr in own["mrrs"])}
        lines.append(
            [ARMS[arm].name]
            + [
                format(cells[name], form or "") if name in cells else ""
                for name, form in forms.items()
            ]
        )
    lines += [
        [ARMS[row["arm"]].name, row["batch_size"], row["seed"], row["status"]]
        + [""] * (len(header) - 4)
        for row in report["rows"]
        if row["kind"] == "training" and row["status"] != "measured"
    ]
    return reporting.markdown_table(header, lines) + "\n"


def _steps(report):
    rows = [row for row in report["rows"] if row["kind"] == "speed"]
    if not rows:
        return ""
    header = ["batch", "a training step of", "pairs / s", "seconds", "CPU seconds", "first loss"]
    lines = []
    for row in sorted(rows, key=lambda r: (r["batch_size"], [*STEPS].index(r["arm"]))):
        cells = [row["batch_size"], STEPS[row["arm"]].name]
        if row["status"] == "measured":
            cells += [f"{row['pairs_per_second']:.1f}", f"{row['seconds_per_step']:.2f}"]
            cells += [f"{row['cpu_seconds_per_step']:.2f}", f"{row['loss']:.3f}"]
        else:
            cells += [row["status"], "", "", ""]
        lines.append(cells)
    return f"""
A training step on text of natural length, from strings to a loss; dropout is on, as in training.

{reporting.markdown_table(header, lines)}
"""


def write(report, output):
    """Both files, as far as the rows go."""
    order = {"training": [*ARMS], "speed": [*STEPS]}
    report["rows"].sort(
        key=lambda r: (r["kind"] == "speed", order[r["kind"]].index(r["arm"]), r["batch_size"],
                       r["seed"])
    )  # fmt: skip
    report["summary"] = summary(report)
    report["answers"] = answers(report)
    report["date"] = datetime.datetime.now(datetime.UTC).date().isoformat()
    text = json.dumps(report, indent=2) + "\n"
    reporting.write_atomically(output / "fine_tuning.json", text)
    reporting.write_atomically(output / "fine_tuning.md", to_markdown(report))
