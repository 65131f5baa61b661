"""The history that `EvaluationCallback` keeps: its rows, written as CSV or JSON and read again."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypedDict, cast

from cptk import checks
from cptk.files import read_json

_NUMBERS = {"step": int, "epoch": int, "score": float, "size": int, "seconds": float}


class Row(TypedDict):
    """One evaluation of one task; `error` says why there is no score."""

    step: int
    epoch: int | None
    task: str
    metric: str | None
    score: float | None
    data: str | None
    split: str | None
    size: int | None
    seconds: float | None
    error: str | None


FIELDS = tuple(Row.__annotations__)


def as_text(history: Sequence[Row], suffix: str) -> str:
    """The rows as JSON if `suffix` is `.json`, else as CSV."""
    if suffix == ".json":
        rows = [{key: _plain(value) for key, value in row.items()} for row in history]
        return json.dumps({"history": rows}, indent=1, allow_nan=False) + "\n"
    text = io.StringIO()
    writer = csv.DictWriter(text, FIELDS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(history)
    return text.getvalue()


def read(path: Path) -> list[Row]:
    """The rows of a file that `as_text` made.

    Raises:
        ValueError: The file is not such a history.
    """
    try:
        if path.suffix == ".json":
            rows = read_json(path)["history"]
        else:
            reader = csv.DictReader(io.StringIO(path.read_text(encoding="utf-8")), strict=True)
            if tuple(reader.fieldnames or ()) != FIELDS:
                raise ValueError(f"its columns are {checks.shown(reader.fieldnames)}")
            rows = list(reader)
        return [_row(row) for row in rows]
    except (OSError, ValueError, TypeError, KeyError, csv.Error) as error:
        raise ValueError(
            f"{path} is not a history of EvaluationCallback with the columns {list(FIELDS)} "
            f"({error}). Give another `file`, or move this one away."
        ) from error


def _plain(value: object) -> object:
    """The value, or `None` in place of NaN, which JSON does not have."""
    return None if isinstance(value, float) and value != value else value


def _row(row: Mapping[str, str | float | None]) -> Row:
    if set(row) != set(FIELDS):
        raise ValueError(f"its columns are {checks.shown(sorted(map(str, row)))}")
    values = {field: None if row[field] in ("", None) else row[field] for field in FIELDS}
    for name, number in _NUMBERS.items():
        value = values[name]
        if value is None:
            continue
        number_like = isinstance(value, str) and "_" not in value
        if not checks.is_number(value) and not number_like:
            raise ValueError(f"{checks.shown(value)} is no {name}")
        values[name] = number(value)
    if values["step"] is None or not isinstance(values["task"], str):
        raise ValueError("a row without step or task")
    return cast(Row, values)
