"""A table as text, Markdown and HTML; the figure of a report."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from cptk.evaluation.report import Report

Rows = Sequence[Sequence[str]]

# Okabe and Ito's colours, that colour-blind people tell apart; the first is ours.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = "sD^vP*X<>"


def as_text(header: Sequence[str], rows: Rows) -> str:
    """Columns padded to their widest cell; figures to the right."""
    lines = [list(header), *map(list, rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(header))]
    right = [all(_numeric(row[i]) for row in rows) and bool(rows) for i in range(len(header))]
    text = [
        "  ".join(
            cell.rjust(width) if to_right else cell.ljust(width)
            for cell, width, to_right in zip(line, widths, right, strict=True)
        ).rstrip()
        for line in lines
    ]
    return "\n".join([text[0], "  ".join("─" * width for width in widths), *text[1:]])


def as_markdown(header: Sequence[str], rows: Rows) -> str:
    """A table of GitHub's Markdown."""
    escaped = [[cell.replace("|", "\\|").replace("\n", " ") for cell in row] for row in rows]
    rules = [
        "---:" if rows and all(_numeric(r[i]) for r in rows) else "---" for i in range(len(header))
    ]
    return "\n".join("| " + " | ".join(line) + " |" for line in [list(header), rules, *escaped])


def as_html(header: Sequence[str], rows: Rows) -> str:
    """An HTML table, every cell escaped."""
    head = "".join(f"<th>{html.escape(cell)}</th>" for cell in header)
    body = "".join(
        "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def plot(report: Report, ax: Any = None) -> Any:
    """What `Report.plot` draws."""
    tasks = [task for task, result in report.results.items() if np.isfinite(result.score)]
    if not tasks:
        raise ValueError("This report has no result to draw.")
    if ax is None:
        from matplotlib import pyplot

        size = (8, 1.6 + 0.32 * len(tasks))
        ax = pyplot.subplots(figsize=size, layout="constrained")[1]
    places = np.arange(len(tasks))
    models = list(dict.fromkeys(p.model for t in tasks for p in report.published.get(t, ())))
    for number, model in enumerate(models):
        points = [
            (100 * p.score, place)
            for place, task in zip(places, tasks, strict=True)
            for p in report.published.get(task, ())
            if p.model == model
        ]
        colour = COLOURS[1 + number % (len(COLOURS) - 1)]
        ax.scatter(
            *zip(*points, strict=True), marker=MARKERS[number % len(MARKERS)], s=26,
            facecolors="none", edgecolors=colour, label=f"{model} (published)", zorder=2,
        )  # fmt: skip
    scores = np.array([100 * report.results[task].score for task in tasks])
    ends = np.array(
        [report.intervals.get(task, (report.results[task].score,) * 2) for task in tasks]
    )
    # The interval of a mean of a few items need not hold the mean: no negative bar.
    bars = np.maximum(0.0, [scores - 100 * ends[:, 0], 100 * ends[:, 1] - scores])
    ax.errorbar(
        scores, places, xerr=bars, fmt="o", color=COLOURS[0], markersize=5, capsize=3,
        label=f"{report.name}, 95% interval" if report.intervals else report.name, zorder=3,
    )  # fmt: skip
    labels = [f"{task}  ({report.results[task].metric})" for task in tasks]
    ax.set_yticks(places, labels)
    ax.set_ylim(len(tasks) - 0.5, -0.5)
    ax.grid(axis="both", color="#dddddd", linewidth=0.6)
    ax.set_axisbelow(True)
    ax.set_xlabel("score × 100")
    ax.legend(
        loc="lower left", bbox_to_anchor=(0.0, 1.01), ncols=3, frameon=False, fontsize="small",
        borderaxespad=0.0,
    )  # fmt: skip
    return ax


def _numeric(cell: str) -> bool:
    return cell[:1].isdigit() or cell[:2].lstrip("-+")[:1].isdigit() or cell == ""
