"""The figure of a report: scores with their intervals, and the published ones beside them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from cptk.evaluation.tasks.registry import Published, TaskResult

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe and Ito's colours, that colour-blind people tell apart. The first is for our own scores.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = "sD^vP*X<>"


def draw_scores(
    name: str,
    results: Mapping[str, TaskResult],
    intervals: Mapping[str, tuple[float, float]],
    published: Mapping[str, tuple[Published, ...]],
    ax: Axes | None = None,
) -> Axes:
    """Draw a row for each task: our score, its interval, and what others published.

    Args:
        name: What the legend calls the encoder.
        results: Task name -> result with a finite score; one or more.
        intervals: Task name -> lower and upper end of the score's interval.
        published: Task name -> figures of others.
        ax: Axes to draw on; new ones if `None`.
    """
    tasks = list(results)
    if ax is None:
        from matplotlib import pyplot

        size = (8, 1.6 + 0.32 * len(tasks))
        ax = pyplot.subplots(figsize=size, layout="constrained")[1]
    _draw_published(ax, tasks, published)
    scores = np.array([100 * results[task].score for task in tasks])
    ends = np.array([intervals.get(task, (results[task].score,) * 2) for task in tasks])
    # The interval of a mean of few items may lie beside the mean, and matplotlib refuses a bar of
    # negative length.
    bars = np.maximum(0.0, [scores - 100 * ends[:, 0], 100 * ends[:, 1] - scores])
    ax.errorbar(
        scores, np.arange(len(tasks)), xerr=bars, fmt="o", color=COLOURS[0], markersize=5,
        capsize=3, label=f"{name}, 95% interval" if intervals else name, zorder=3,
    )  # fmt: skip
    ax.set_yticks(range(len(tasks)), [f"{task}  ({results[task].metric})" for task in tasks])
    ax.set_ylim(len(tasks) - 0.5, -0.5)
    ax.grid(axis="both", color="#dddddd", linewidth=0.6)
    ax.set_axisbelow(True)
    ax.set_xlabel("score × 100")
    ax.legend(
        loc="lower left", bbox_to_anchor=(0.0, 1.01), ncols=3, frameon=False, fontsize="small",
        borderaxespad=0.0,
    )  # fmt: skip
    return ax


def _draw_published(
    ax: Axes, tasks: list[str], published: Mapping[str, tuple[Published, ...]]
) -> None:
    """Draw each published model in a colour and a marker of its own."""
    models = list(dict.fromkeys(p.model for task in tasks for p in published.get(task, ())))
    for number, model in enumerate(models):
        found = [
            (row, p.score)
            for row, task in enumerate(tasks)
            for p in published.get(task, ())
            if p.model == model
        ]
        ax.scatter(
            [100 * score for _, score in found], [row for row, _ in found], s=26,
            marker=MARKERS[number % len(MARKERS)],
            facecolors="none", edgecolors=COLOURS[1 + number % (len(COLOURS) - 1)],
            label=f"{model} (published)", zorder=2,
        )  # fmt: skip
