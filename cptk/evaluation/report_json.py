"""A report's JSON, read back: every value is of the type that a report has, or the file is none."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TypedDict, TypeVar

from cptk import checks
from cptk.evaluation.tasks.registry import Published, TaskResult
from cptk.types import Config

FORMAT = "cptk report 1"

Value = TypeVar("Value")
Read = Callable[[object, str], Value]
"""`read(value, where)`: the value, checked to be of one type; `where` names it in the error."""


class ReportFields(TypedDict):
    """The arguments of `Report`."""

    results: dict[str, TaskResult]
    intervals: dict[str, tuple[float, float]]
    seconds: dict[str, float]
    published: dict[str, tuple[Published, ...]]
    missing: dict[str, str]
    about: Config


def report_fields(content: object) -> ReportFields:
    """The arguments of `Report` in what `Report.to_json` wrote.

    Args:
        content: JSON values.

    Raises:
        ValueError: A part is missing, unknown or of another type; the message names the place.
    """
    fields = _mapping(content, "the report")
    if fields.get("format") != FORMAT:
        raise ValueError(f"its format is {checks.shown(fields.get('format'))}")
    names = set(ReportFields.__annotations__)
    if unknown := set(fields) - {"format", *names}:
        raise ValueError(f"it has the unknown parts {checks.shown(sorted(unknown))}")
    if missing := names - set(fields):
        raise ValueError(f"it lacks {sorted(missing)}")
    return {
        "results": _by_name(_result)(fields["results"], "results"),
        "intervals": _by_name(_interval)(fields["intervals"], "intervals"),
        "seconds": _by_name(_number)(fields["seconds"], "seconds"),
        "published": _by_name(_published)(fields["published"], "published"),
        "missing": _by_name(_text)(fields["missing"], "missing"),
        "about": _about(fields["about"], "about"),
    }


def _result(value: object, where: str) -> TaskResult:
    fields = _mapping(value, where)
    if set(fields) != {field.name for field in dataclasses.fields(TaskResult)}:
        raise ValueError(f"{where} has the parts {checks.shown(sorted(fields))}")

    def part(name: str, read: Read[Value]) -> Value:
        return read(fields[name], f"{where}, {name}")

    return TaskResult(
        metric=part("metric", _text),
        score=part("score", _number),
        scores=part("scores", _by_name(_number)),
        items=part("items", _by_name(_numbers)),
        dataset=part("dataset", _text),
        split=part("split", _text),
        size=part("size", _count),
        sha256=part("sha256", _text),
        details=part("details", _mapping),
    )


def _published(value: object, where: str) -> tuple[Published, ...]:
    if not isinstance(value, list):
        raise _wrong(value, where, "a list")
    rows = [_mapping(row, where) for row in value]
    if any(set(row) != {"model", "score", "source"} for row in rows):
        raise ValueError(f"{where} should hold a model, a score and a source in each row")
    return tuple(
        Published(
            _text(row["model"], where), _number(row["score"], where), _text(row["source"], where)
        )
        for row in rows
    )


def _interval(value: object, where: str) -> tuple[float, float]:
    ends = _numbers(value, where)
    if len(ends) != 2:
        raise _wrong(value, where, "two numbers")
    return ends[0], ends[1]


def _about(value: object, where: str) -> Config:
    about = _mapping(value, where)
    for name in ("embedder", "versions", "bootstrap"):
        _mapping(about.get(name, {}), f"{where}, {name}")
    _count(about.get("bootstrap", {}).get("resamples", 0), f"{where}, bootstrap, resamples")
    return about


def _by_name(read: Read[Value]) -> Read[dict[str, Value]]:
    """A reader of a mapping of names to what `read` reads."""

    def mapping(value: object, where: str) -> dict[str, Value]:
        return {
            name: read(each, f"{where}, {checks.shown(name)}")
            for name, each in _mapping(value, where).items()
        }

    return mapping


def _mapping(value: object, where: str) -> Config:
    if not isinstance(value, dict):
        raise _wrong(value, where, "a mapping")
    return value


def _text(value: object, where: str) -> str:
    if not isinstance(value, str):
        raise _wrong(value, where, "a text")
    return value


def _number(value: object, where: str) -> float:
    """A number; `null` stands for one that is not finite."""
    if value is None:
        return float("nan")
    if not checks.is_number(value):
        raise _wrong(value, where, "a number")
    return float(value)


def _count(value: object, where: str) -> int:
    if not checks.is_integer(value) or value < 0:
        raise _wrong(value, where, "a count")
    return value


def _numbers(value: object, where: str) -> list[float]:
    if not isinstance(value, list):
        raise _wrong(value, where, "a list of numbers")
    return [_number(each, where) for each in value]


def _wrong(value: object, where: str, expected: str) -> ValueError:
    return ValueError(f"{where} should be {expected}, and is {checks.shown(value)}")
