"""The tables of `encode.py`, and what they are to show."""

import datetime
import json

import reporting
from encode_arms import ARMS, MODELS, TEXTS

# model, texts, our arm, the other's, how many times as many texts a second.
CLAIMS = [
    ("smollm2", "sst2", "tensorflow", "st", 3.0),
    ("smollm2", "sst2", "tensorflow-bfloat16", "st", 5.0),
    ("minilm", "sst2", "tensorflow", "st", 2.0),
    ("minilm", "sst2", "tensorflow-bfloat16", "st", 2.0),
    ("minilm", "sst2", "tensorflow", "st-onnx", 1.0),
    ("smollm2", "sst2", "tensorflow", "kerashub", 5.0),
    ("minilm", "sst2", "tensorflow", "kerashub", 5.0),
]


def answers(report):
    """What the measurements are to show, and whether they do."""
    rates = {
        (row["model"], row["texts"], row["arm"]): row["texts_per_second"]
        for row in report["rows"]
        if (row["kind"], row["status"]) == ("encode", "measured")
    }
    found = []
    for model, texts, ours, theirs, limit in CLAIMS:
        both = [rates.get((model, texts, arm)) for arm in (ours, theirs)]
        ratio = None if None in both else both[0] / both[1]
        found.append(
            {
                "what": f"{MODELS[model]}, {TEXTS[texts]}: texts/s of {_named(ours)}, by "
                f"{_named(theirs)}",
                "limit": f"≥ {limit:g}",
                "value": "" if ratio is None else f"{ratio:.2f}",
                "kept": "not measured" if ratio is None else "yes" if ratio >= limit else "no",
            }
        )
    return found


def _named(arm):
    return f"{ARMS[arm].name} {ARMS[arm].dtype}"


def _tables(report):
    peak = next((row for row in report["rows"] if row["kind"] == "peak"), {})
    header = ["tool", "numbers", "texts / s", "tokens / s", "CPU ms a text", "of the peak"]
    header.append("cosine")
    parts = []
    for model in MODELS:
        for texts in TEXTS:
            rows = {
                row["arm"]: row
                for row in report["rows"]
                if (row["model"], row["texts"]) == (model, texts)
            }
            if rows:
                lines = [_line(arm, rows[arm], peak) for arm in ARMS if arm in rows]
                table = reporting.markdown_table(header, lines)
                parts.append(f"**{MODELS[model]}, {TEXTS[texts]}**\n\n{table}\n")
    return "\n".join(parts)


def _line(arm, row, peak):
    start = [ARMS[arm].name, ARMS[arm].dtype]
    if row["status"] != "measured":
        missing = ", ".join(row.get("missing", ()))
        return [*start, f"{row['status']} {missing}".strip(), *[""] * 4]
    most = peak.get("bfloat16" if ARMS[arm].dtype == "bfloat16" else "float32")
    return [
        *start,
        f"{row['texts_per_second']:.1f}",
        f"{row['tokens_per_second']:,.0f}",
        f"{row['cpu_milliseconds']:.1f}",
        f"{row['flops'] / most:.0%}" if most else "",
        "1" if row["cosine"] is None else f"{row['cosine']:.5f}",
    ]


def to_markdown(report):
    """The tables that the documentation shows."""
    claims = [[row[key] for key in ("what", "limit", "value", "kept")] for row in report["answers"]]
    loads = [row["load_average"] for row in report["rows"] if row["load_average"]]
    load = f"load average {min(loads)} to {max(loads)}; " if loads else ""
    packages = ", ".join(f"{name} {version}" for name, version in report["versions"].items())
    peak = next((row for row in report["rows"] if row["kind"] == "peak"), {})
    rates = ", ".join(
        f"{peak[name] / 1e9:,.0f} GFLOP/s in {name}"
        for name in ("float32", "bfloat16")
        if name in peak
    )
    return f"""# Encoding

Texts a second of one call, after a first one; texts are cut at {report["setup"]["length"]} \
tokens. "Of the peak" is what the products with the model's weights would take, without padding, \
of the machine's largest rate of matrix products ({rates}); int8 weights are held against float32. \
The cosine is the mean one to the first row's vectors.

{_tables(report)}
**What it should show**

{reporting.markdown_table(["what", "limit", "measured", "kept"], claims)}

{reporting.described(report["machine"])}; {load}{packages}; {report["date"]}.
"""


def write(report, folder):
    """encode.json and encode.md."""
    report["date"] = datetime.date.today().isoformat()
    report["answers"] = answers(report)
    text = json.dumps(report, indent=1, ensure_ascii=False) + "\n"
    reporting.write_atomically(folder / "encode.json", text)
    reporting.write_atomically(folder / "encode.md", to_markdown(report))
