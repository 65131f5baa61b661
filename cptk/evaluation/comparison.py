"""Two reports side by side: differences, their intervals, and p-values."""

from __future__ import annotations

import dataclasses
import html

from cptk import checks
from cptk.evaluation.metrics.bootstrap import Difference, paired_bootstrap
from cptk.evaluation.report import Report, percent
from cptk.tables import Table, as_html, as_markdown, as_text


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Two encoders on the same items.

    Attributes:
        names: Names of the two encoders.
        metrics: Task name -> metric.
        scores: Task name -> the two scores.
        differences: Task name -> `Difference(value, low, high, p_value)` of second minus first.
        left_out: Task name -> why the two cannot be compared on it.

    Example:

    ```pycon
    >>> from cptk.evaluation import Report, TaskResult, compare
    >>> before = TaskResult("accuracy", 0.5, items={"correct": [1, 0, 0, 1]})
    >>> after = TaskResult("accuracy", 0.75, items={"correct": [1, 0, 1, 1]})
    >>> comparison = compare(Report({"films": before}), Report({"films": after}))
    >>> comparison.metrics, comparison.scores, comparison.left_out
    ({'films': 'accuracy'}, {'films': (0.5, 0.75)}, {})

    ```
    """

    names: tuple[str, str]
    metrics: dict[str, str]
    scores: dict[str, tuple[float, float]]
    differences: dict[str, Difference]
    left_out: dict[str, str]

    def __str__(self) -> str:
        header, rows, notes = self._table()
        return "\n".join([as_text(header, rows), "", *notes])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        header, rows, notes = self._table()
        below = "<br>".join(html.escape(note) for note in notes)
        return f"{as_html(header, rows)}<small>{below}</small>"

    def to_markdown(self) -> str:
        """The table and its notes in Markdown."""
        header, rows, notes = self._table()
        return "\n".join([as_markdown(header, rows), "", *(f"- {note}" for note in notes), ""])

    def _table(self) -> Table:
        rows = []
        for task, change in self.differences.items():
            ends = f"[{100 * change.low:+.1f}, {100 * change.high:+.1f}]"
            scores = [percent(score) for score in self.scores[task]]
            difference = f"{100 * change.value:+.1f} {ends}"
            rows.append([task, self.metrics[task], *scores, difference, f"{change.p_value:.3f}"])
        notes = [
            f"Scores times 100; difference: {self.names[1]} minus {self.names[0]}, with the 95% "
            "interval and two-sided p-value of a paired bootstrap over items."
        ]
        if len(rows) > 1:
            notes.append("The p-values are of each task by itself, not corrected for their number.")
        notes += [f"Not compared: {task}: {why}" for task, why in self.left_out.items()]
        header = ["task", "metric", *self.names, "difference [95%]", "p"]
        return Table(header, rows, notes)


def compare(first: Report, second: Report, *, n_bootstrap: int = 1000, seed: int = 0) -> Comparison:
    """Compare two encoders on the tasks that both reports have, item by item.

    Args:
        first: Report of one encoder.
        second: Report of another, or of the same after more training.
        n_bootstrap: Resamples of the paired bootstrap.
        seed: Of the resampling.

    Returns:
        The `Comparison`; tasks that were scored on other data in the two are in `left_out`.

    Raises:
        TypeError: Not two reports.
        ValueError: No task can be compared.

    Example:

    ```pycon
    >>> from cptk.evaluation import Report, TaskResult, compare
    >>> first = TaskResult("accuracy", 0.5, items={"correct": [1, 0, 1, 0] * 25})
    >>> second = TaskResult("accuracy", 0.75, items={"correct": [1, 0, 1, 1] * 25})
    >>> comparison = compare(Report({"films": first}), Report({"films": second}))
    >>> comparison.scores
    {'films': (0.5, 0.75)}
    >>> change = comparison.differences["films"]
    >>> change.value, round(change.p_value, 4)  # 2 / 1001: better in every resample
    (0.25, 0.002)

    ```

    The method is that of `cptk.evaluation.paired_bootstrap`.
    """
    for report in (first, second):
        if not isinstance(report, Report):
            raise TypeError(f"`compare` takes two Reports. Received: {type(report).__name__}.")
    n_bootstrap = checks.integer("n_bootstrap", n_bootstrap, 1)
    seed = checks.integer("seed", seed, 0)
    differences, left_out = {}, {}
    for task in dict.fromkeys([*first.results, *second.results]):
        why = _incomparable(first, second, task)
        if why is None:
            a, b = first.results[task], second.results[task]
            differences[task] = paired_bootstrap(a.items, b.items, a.metric, n_bootstrap, seed)
        else:
            left_out[task] = why
    if not differences:
        reasons = "; ".join(f"{task}: {why}" for task, why in left_out.items()) or "both are empty"
        raise ValueError(f"There is no task on which the two can be compared. {reasons}.")
    names = (first.name, second.name)
    if names[0] == names[1]:
        names = (f"{names[0]} (first)", f"{names[1]} (second)")
    return Comparison(
        names=names,
        metrics={task: first.results[task].metric for task in differences},
        scores={t: (first.results[t].score, second.results[t].score) for t in differences},
        differences=differences,
        left_out=left_out,
    )


def _incomparable(first: Report, second: Report, task: str) -> str | None:
    for report, which in ((first, "first"), (second, "second")):
        if task not in report:
            return f"the {which} report does not have it"
    a, b = first.results[task], second.results[task]
    for field in ("metric", "dataset", "split", "size", "sha256"):
        ours, theirs = getattr(a, field), getattr(b, field)
        if ours != theirs:
            what = "content of the data (sha256)" if field == "sha256" else field
            return f"the {what} differs: {str(ours)[:12]!r} and {str(theirs)[:12]!r}"
    if not (a.items and b.items):
        return "there are no items of it, which are what is compared"
    sizes = [[len(column) for column in result.items.values()] for result in (a, b)]
    return None if sizes[0] == sizes[1] else "they have unequal numbers of items"
