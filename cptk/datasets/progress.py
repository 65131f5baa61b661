"""A progress bar for downloads."""

from __future__ import annotations

import sys
import time


class ProgressBar:
    """Bytes done on stderr: redrawn in a terminal or notebook, two lines in a log.

    Args:
        name: What is fetched.
        start: Bytes that are there already.
        total: Bytes in all, if the server says so.
    """

    def __init__(self, name: str, start: int, total: int | None) -> None:
        self.name, self.done, self.total, self.drawn = name, start, total, 0.0
        self.live = sys.stderr.isatty() or "ipykernel" in sys.modules

    def __enter__(self) -> ProgressBar:
        if not self.live:
            size = "" if self.total is None else f" ({self.total / 1e6:,.1f} MB)"
            print(f"Downloading {self.name}{size}", file=sys.stderr)
        return self

    def update(self, count: int) -> None:
        """Counts bytes that have come."""
        self.done += count
        if self.live and time.monotonic() - self.drawn > 0.1:
            self.drawn = time.monotonic()
            self._draw()

    def _draw(self) -> None:
        text = f"{self.done / 1e6:,.1f} MB"
        if self.total:
            filled = min(30, 30 * self.done // self.total)
            text = f"[{'=' * filled}{' ' * (30 - filled)}] {text} of {self.total / 1e6:,.1f} MB"
        print(f"\r{self.name} {text}", end="", file=sys.stderr, flush=True)

    def __exit__(self, *_: object) -> None:
        if self.live:
            self._draw()
        print("" if self.live else f"  {self.done / 1e6:,.1f} MB of {self.name}", file=sys.stderr)
