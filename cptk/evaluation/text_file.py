"""Writing a text file in one step."""

from __future__ import annotations

import os

from cptk import checks
from cptk.files import replacing
from cptk.types import Path


def write_text(path: Path, text: str) -> None:
    """Write a text file that all may read. A crash leaves the old file or the new, never a half."""
    target = checks.path(path, "path")
    if target.is_dir() or not target.parent.is_dir():
        kind = "a folder" if target.is_dir() else f"in {str(target.parent)!r}, which is no folder"
        raise FileNotFoundError(f"`path` should name a file. Received: {str(target)!r}, {kind}.")
    with replacing(target) as file:
        file.write(text.encode("utf-8"))
        os.chmod(file.name, 0o644)
