"""`Report`: what `evaluate` found, to print, keep, draw, and read again."""

from __future__ import annotations

import dataclasses
import html
import json
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from cptk import checks
from cptk.evaluation.report_figure import draw_scores
from cptk.evaluation.report_json import FORMAT, report_fields
from cptk.evaluation.tasks.registry import Published, TaskResult
from cptk.evaluation.text_file import write_text
from cptk.files import read_json
from cptk.tables import Table, as_html, as_markdown, as_text
from cptk.types import Config

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclasses.dataclass
class Report:
    """Results of tasks on one encoder.

    In a terminal and in a notebook it shows as a table: scores times 100 with their 95% bootstrap
    intervals, and the published figures beside them, with their sources.

    Attributes:
        results: Task name -> `TaskResult`; `report["sst2_knn"]` for short.
        intervals: Task name -> lower and upper end of the score's 95% interval.
        seconds: Task name -> time it took, embedding included.
        published: Task name -> figures of others.
        missing: Task name -> why it was not run.
        about: What was run: embedder, versions, split, date, resampling. JSON values.

    Example:

    ```pycon
    >>> from cptk.evaluation import Report, TaskResult
    >>> report = Report({"films": TaskResult("accuracy", 0.75, items={"correct": [1, 0, 1, 1]})})
    >>> print(report.to_markdown().rstrip())
    | task | metric | score ×100 [95%] | data | n | s |
    | --- | --- | ---: | --- | ---: | ---: |
    | films | accuracy | 75.0 |   | 4 | 0.0 |
    >>> report["films"].score
    0.75
    >>> text = report.to_json("report.json")
    >>> Report.from_json("report.json")["films"].size
    4

    ```
    """

    results: dict[str, TaskResult] = dataclasses.field(default_factory=dict)
    intervals: dict[str, tuple[float, float]] = dataclasses.field(default_factory=dict)
    seconds: dict[str, float] = dataclasses.field(default_factory=dict)
    published: dict[str, tuple[Published, ...]] = dataclasses.field(default_factory=dict)
    missing: dict[str, str] = dataclasses.field(default_factory=dict)
    about: Config = dataclasses.field(default_factory=dict)

    def __getitem__(self, task: str) -> TaskResult:
        if task in self.results:
            return self.results[task]
        why = self.missing.get(task, f"this report has {', '.join(self.results) or 'no task'}")
        raise KeyError(f"No result of {task!r}: {why}")

    def __contains__(self, task: object) -> bool:
        return task in self.results

    def __iter__(self) -> Iterator[str]:
        return iter(self.results)

    def __len__(self) -> int:
        return len(self.results)

    def __bool__(self) -> bool:
        return True

    @property
    def name(self) -> str:
        """Name of the encoder."""
        return str(self.about.get("embedder", {}).get("name", "encoder"))

    # === Shown ===

    def __str__(self) -> str:
        header, rows, notes = self._table()
        return "\n".join([self.name, "", as_text(header, rows), "", *notes])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        header, rows, notes = self._table()
        below = "".join(f"<br>{html.escape(note)}" for note in notes)
        return f"<b>{html.escape(self.name)}</b>{as_html(header, rows)}<small>{below}</small>"

    def to_markdown(self) -> str:
        """The table and its notes in Markdown."""
        header, rows, notes = self._table()
        return "\n".join([as_markdown(header, rows), "", *(f"- {note}" for note in notes), ""])

    def _table(self) -> Table:
        sources = list(dict.fromkeys(p.source for row in self.published.values() for p in row))
        rows = []
        for task, result in self.results.items():
            score = percent(result.score)
            if task in self.intervals:
                low, high = self.intervals[task]
                score += f" [{percent(low)}, {percent(high)}]"
            others = [
                f"{p.model} {percent(p.score)} [{sources.index(p.source) + 1}]"
                for p in self.published.get(task, ())
            ]
            split = f"{result.dataset} {result.split}"
            seconds = f"{self.seconds.get(task, 0.0):.1f}"
            row = [task, result.metric, score, split, f"{result.size:,}", seconds]
            rows.append([*row, "; ".join(others)])
        header = ["task", "metric", "score ×100 [95%]", "data", "n", "s", "published"]
        if not sources:
            header, rows = header[:-1], [row[:-1] for row in rows]
        return Table(header, rows, self._notes(sources))

    def _notes(self, sources: list[str]) -> list[str]:
        notes = [f"[{number}] {source}" for number, source in enumerate(sources, 1)]
        by_reason: dict[str, list[str]] = {}
        for task, reason in self.missing.items():
            by_reason.setdefault(" ".join(reason.split()), []).append(task)
        notes += [f"Not run: {', '.join(tasks)}. {reason}" for reason, tasks in by_reason.items()]
        zeros = {t: r.details.get("zero_vectors") for t, r in self.results.items()}
        if any(zeros.values()):
            counts = ", ".join(f"{count} of {task}" for task, count in zeros.items() if count)
            notes.append(f"Texts with a vector of zeros, whose cosine counts as 0: {counts}.")
        embedder = self.about.get("embedder", {})
        known = [f"{k} {v}" for k, v in embedder.items() if k not in ("name", "roles", "normalize")]
        known = [text[:60] for text in known if not text.endswith("None")]
        packages = [f"{k} {v}" for k, v in self.about.get("versions", {}).items()]
        resamples = self.about.get("bootstrap", {}).get("resamples")
        if known:
            notes.append("Embedder: " + ", ".join(known) + ".")
        if packages:
            notes.append("Versions: " + ", ".join(packages) + ".")
        if resamples:
            notes.append(f"Intervals: percentile bootstrap over items, {resamples:,} resamples.")
        if self.about.get("date"):
            notes.append(f"Run {self.about['date']}, {sum(self.seconds.values()):.0f} s.")
        return notes

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw the scores with their intervals, and the published ones beside them.

        Args:
            ax: A matplotlib `Axes` to draw on; a new one by default.

        Returns:
            The `Axes`.

        Raises:
            ValueError: No task has a result.
        """
        scores = {t: r for t, r in self.results.items() if math.isfinite(r.score)}
        if not scores:
            raise ValueError("This report has no result to draw.")
        return draw_scores(self.name, scores, self.intervals, self.published, ax)

    # === Kept ===

    def merge(self, other: Report) -> Report:
        """The results of both, those of `other` where both have a task.

        Raises:
            TypeError: `other` is no report.
            ValueError: They are of different embedders.
        """
        if not isinstance(other, Report):
            raise TypeError(f"`other` should be a Report. Received: {checks.shown(other)}.")
        for key in ("name", "fingerprint"):
            ours, theirs = (r.about.get("embedder", {}).get(key) for r in (self, other))
            if ours != theirs:
                raise ValueError(
                    f"Reports of one embedder are merged; these have the {key} {ours!r} and "
                    f"{theirs!r}. `compare` sets two embedders side by side."
                )
        merged = Report(about={**self.about, **other.about})
        for field in ("results", "intervals", "seconds", "published", "missing"):
            getattr(merged, field).update({**getattr(self, field), **getattr(other, field)})
        for task in set(merged.missing) & set(merged.results):
            del merged.missing[task]
        for task in set(other.results) - set(other.intervals):
            merged.intervals.pop(task, None)
        return merged

    def to_json(self, path: str | os.PathLike[str] | None = None) -> str:
        """The report as JSON, items included, so that reports can be compared later.

        Args:
            path: File to write it to as well; it is replaced in one step.

        Returns:
            The JSON.
        """
        text = json.dumps(
            _plain({"format": FORMAT, **dataclasses.asdict(self)}),
            ensure_ascii=False,
            allow_nan=False,
            separators=(",", ":"),
        )
        if path is not None:
            write_text(path, text + "\n")
        return text

    @classmethod
    def from_json(cls, source: str | os.PathLike[str]) -> Report:
        """Read what `to_json` gave: a file, or the JSON itself.

        Raises:
            FileNotFoundError: There is no such file.
            TypeError: Neither a path nor JSON.
            ValueError: It is not such a report: a folder, something else than JSON in UTF-8, or
                values of other types than a report has.
        """
        inline = isinstance(source, str) and source.lstrip().startswith("{")
        path = Path() if inline else checks.path(source, "source")
        where = "this text" if inline else str(path)
        try:
            content = json.loads(str(source)) if inline else read_json(path, "The report")
            return cls(**report_fields(content))
        except FileNotFoundError:
            raise
        except (TypeError, ValueError, OverflowError, RecursionError) as error:
            raise ValueError(
                f"Not a report of cptk ({FORMAT!r}): {where}. {type(error).__name__}: {error}"
            ) from None


def percent(score: float) -> str:
    """A fraction times 100, to one decimal."""
    return f"{100 * score:.1f}" if math.isfinite(score) else "undefined"


def _plain(value: object) -> object:
    """A value as JSON has it: whole numbers without a point, `None` in place of NaN."""
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    if hasattr(value, "tolist"):
        return _plain(value.tolist())
    if isinstance(value, float):
        if not math.isfinite(value):
            return None
        return int(value) if value.is_integer() and abs(value) < 2**53 else value
    return value
