"""Progress of long work: a bar where somebody looks on, a line now and then in a file or a pipe."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Literal, Protocol, TypeAlias


class Progress(Protocol):
    """Something that is told how much more is done."""

    def add(self, done: int) -> None:
        """Say that `done` more are done."""


Shown: TypeAlias = bool | Literal["auto"] | Callable[[int, int | None], object] | None
"""How progress is shown: by a bar or not, or by a function of (done, total)."""


def is_terminal() -> bool:
    """Whether standard output shows a bar that moves: a terminal, or a notebook.

    Example:

    ```pycon
    >>> from cptk.progress import is_terminal
    >>> 1 if is_terminal() else 2  # here the output goes into a pipe
    2

    ```
    """
    if type(sys.stdout).__module__.startswith("ipykernel"):
        return True
    try:
        return sys.stdout.isatty()
    except (AttributeError, ValueError):  # none, one of somebody's own, or a closed one
        return False


def verbosity(verbose: str | int) -> str | int:
    """Keras's `verbose`, with "auto" made 1 (a bar) where somebody looks on, else 2 (lines).

    Example:

    ```pycon
    >>> from cptk.progress import verbosity
    >>> verbosity("auto")  # 1 in a terminal or notebook, 2 in a file or pipe
    2
    >>> verbosity(0)
    0

    ```
    """
    if isinstance(verbose, str) and verbose == "auto":
        return 1 if is_terminal() else 2
    return verbose


def progress(total: int | None, unit: str) -> Progress:
    """Shows how many of `total` are done, and about how long the rest will take.

    Args:
        total: How many there are; None where nobody knows.
        unit: What they are, in the singular.

    Example:

    ```pycon
    >>> from cptk.progress import progress
    >>> bar = progress(1000, "text")
    >>> bar.add(100)
    100/1,000 texts

    ```
    """
    if is_terminal():
        import keras  # mining has no other need of it

        bar: Progress = keras.utils.Progbar(total, unit_name=unit)
        return bar
    return _Lines(total, unit)


class Called:
    """Hands progress to a function of (done, total).

    Args:
        function: It.
        total: How many there are; None where nobody knows.
    """

    def __init__(self, function: Callable[[int, int | None], object], total: int | None) -> None:
        self.function, self.total, self.done = function, total, 0

    def add(self, done: int) -> None:
        """Say that `done` more are done."""
        self.done += done
        self.function(self.done, self.total)


class _Lines:
    """At most ten lines, without control characters: one as each tenth is done.

    What is left is estimated at the pace since the line before, as what a resumed run finds done
    goes by at once. It is not said of less than some seconds. Of an unknown number there is a line
    as what is done doubles.
    """

    def __init__(self, total: int | None, unit: str) -> None:
        self.total, self.unit, self.done = total, unit, 0
        self.next = 1000
        self._said, self._since = 0, time.monotonic()

    def add(self, done: int) -> None:
        before, self.done = self.done, self.done + done
        if self.total is None:
            if self.done >= self.next:
                self.next = 2 * self.done
                print(f"{self.done:,} {self.unit}s", flush=True)
        elif 10 * self.done // self.total > 10 * before // self.total:
            now = time.monotonic()
            pace = (now - self._since) / (self.done - self._said)
            left = shown_time(pace * (self.total - self.done))
            self._said, self._since = self.done, now
            print(f"{self.done:,}/{self.total:,} {self.unit}s{left}", flush=True)


def shown_time(seconds: float) -> str:
    """What is said of the time that is left: nothing of less than five seconds.

    Example:

    ```pycon
    >>> from cptk.progress import shown_time
    >>> shown_time(3), shown_time(47.3), shown_time(700), shown_time(9000)
    ('', ', about 47 s left', ', about 12 min left', ', about 2.5 h left')

    ```
    """
    if seconds < 5:
        return ""
    if seconds < 100:
        return f", about {seconds:.0f} s left"
    if seconds < 6000:
        return f", about {seconds / 60:.0f} min left"
    return f", about {seconds / 3600:.1f} h left"
