"""A report of `cptk.evaluation` as a file, by its ending."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from cptk.files import replacing

if TYPE_CHECKING:
    from cptk.evaluation import Report

ENDINGS = (".json", ".md", ".png")


def write(report: Report, path: Path) -> None:
    """Write it, whole or not at all."""
    if path.suffix == ".json":
        report.to_json(path)
        return
    with replacing(path, path.suffix) as file:
        if path.suffix == ".md":
            file.write(report.to_markdown().encode())
        else:
            figure: Any = report.plot().figure
            figure.savefig(file, format="png", dpi=150)
