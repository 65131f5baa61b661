"""A report's JSON, read back: every value is of the type that a report has, or the file is none."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from cptk import checks
from cptk.evaluation.tasks import Published, TaskResult

FORMAT = "cptk report 1"

Read = Callable[[Any, str], Any]


def report_fields(content: Any) -> dict[str, Any]:
    """The arguments of `Report` in what `Report.to_json` wrote.

    Args:
        content: JSON values.

    Raises:
        ValueError: A part is missing, unknown or of another type; the message names the place.
    """
    fields = _mapping(content, "the report")
    if fields.get("format") != FORMAT:
        raise ValueError(f"its format is {checks.shown(fields.get('format'))}")
    readers: dict[str, Read] = {
        "results": _by_name(_result),
        "intervals": _by_name(_interval),
        "seconds": _by_name(_number),
        "published": _by_name(_published),
        "missing": _by_name(_text),
        "about": _about,
    }
    if unknown := set(fields) - {"format", *readers}:
        raise ValueError(f"it has the unknown parts {checks.shown(sorted(unknown))}")
    if missing := set(readers) - set(fields):
        raise ValueError(f"it lacks {sorted(missing)}")
    return {name: read(fields[name], name) for name, read in readers.items()}


def _result(value: Any, where: str) -> TaskResult:
    fields = _mapping(value, where)
    readers: dict[str, Read] = {
        "metric": _text,
        "score": _number,
        "scores": _by_name(_number),
        "items": _by_name(_numbers),
        "dataset": _text,
        "split": _text,
        "size": _count,
        "sha256": _text,
        "details": _mapping,
    }
    if set(fields) != set(readers):
        raise ValueError(f"{where} has the parts {checks.shown(sorted(fields))}")
    read = {name: reader(fields[name], f"{where}, {name}") for name, reader in readers.items()}
    return TaskResult(**read)


def _published(value: Any, where: str) -> tuple[Published, ...]:
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


def _interval(value: Any, where: str) -> tuple[float, float]:
    ends = _numbers(value, where)
    if len(ends) != 2:
        raise _wrong(value, where, "two numbers")
    return ends[0], ends[1]


def _about(value: Any, where: str) -> dict[str, Any]:
    about = _mapping(value, where)
    for name in ("embedder", "versions", "bootstrap"):
        _mapping(about.get(name, {}), f"{where}, {name}")
    _count(about.get("bootstrap", {}).get("resamples", 0), f"{where}, bootstrap, resamples")
    return about


def _by_name(read: Read) -> Read:
    """A reader of a mapping of names to what `read` reads."""

    def mapping(value: Any, where: str) -> dict[str, Any]:
        return {
            name: read(each, f"{where}, {checks.shown(name)}")
            for name, each in _mapping(value, where).items()
        }

    return mapping


def _mapping(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _wrong(value, where, "a mapping")
    return value


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str):
        raise _wrong(value, where, "a text")
    return value


def _number(value: Any, where: str) -> float:
    """A number; `null` stands for one that is not finite."""
    if value is None:
        return float("nan")
    if not checks.is_number(value):
        raise _wrong(value, where, "a number")
    return float(value)


def _count(value: Any, where: str) -> int:
    if not checks.is_integer(value) or value < 0:
        raise _wrong(value, where, "a count")
    return value


def _numbers(value: Any, where: str) -> list[float]:
    if not isinstance(value, list):
        raise _wrong(value, where, "a list of numbers")
    return [_number(each, where) for each in value]


def _wrong(value: Any, where: str, expected: str) -> ValueError:
    return ValueError(f"{where} should be {expected}, and is {checks.shown(value)}")
