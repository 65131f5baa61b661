"""The folders that data sets are looked for in."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

from cptk import checks


def cache_dir() -> Path:
    """`$CPTK_CACHE_DIR`, or `cptk` in the user's cache folder."""
    chosen = os.environ.get("CPTK_CACHE_DIR")
    if chosen:
        return checks.path(chosen, "CPTK_CACHE_DIR")
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData/Local") / "cptk"
    if sys.platform == "darwin":
        return Path.home() / "Library/Caches/cptk"
    folder = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return checks.path(folder, "XDG_CACHE_HOME") / "cptk"


def roots() -> Iterator[tuple[Path, bool]]:
    """The folders that are searched, in order, and whether each is the cache."""
    chosen = os.environ.get("CPTK_DATA_DIR")
    if chosen:
        folder = checks.path(chosen, "CPTK_DATA_DIR")
        if not folder.is_dir():
            problem = "is a file" if folder.exists() else "does not exist"
            raise ValueError(
                f"CPTK_DATA_DIR must name a folder that holds data sets. Received {chosen!r}, "
                f"which {problem}. Correct or unset it."
            )
        yield folder, False
    yield cache_dir() / "datasets", True
