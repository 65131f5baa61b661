"""A process that is lost is named, and the others end."""

from __future__ import annotations

import atexit
import contextlib
import signal
from collections.abc import Iterator

LOST = (
    "A process of this training was lost or cannot be reached: {error}. Start all of them again "
    "with the same command; with ExactBackupAndRestore among the callbacks they go on where the "
    "last backup was made."
)


@contextlib.contextmanager
def lost_named(processes: int) -> Iterator[None]:
    """Have an error that says another process has gone say so in one sentence.

    Raises:
        RuntimeError: One of several processes was lost; the backend's own error is its cause.
    """
    try:
        yield
    except Exception as error:
        said = _said_of_another(error) if processes > 1 else None
        if said is None:
            raise
        _end_in_time()
        raise RuntimeError(LOST.format(error=said)) from error


def _said_of_another(error: Exception) -> str | None:
    """What an error says of another process that has gone; `None` where it says nothing of it."""
    signs = ("unavailable", "aborted", "connection reset", "connection closed", "gloo", "heartbeat")
    for line in f"{type(error).__name__}: {error}".splitlines():
        if any(sign in line.lower() for sign in signs):
            return line.strip()[:300]
    return None


def _end_in_time(seconds: int = 10) -> None:
    """Have this process end, once it wants to.

    WORKAROUND. TensorFlow may wait for ever for the lost one when the interpreter shuts down, and
    JAX for the 100 seconds of a missed heartbeat. (No test tells when they no longer do: they have
    to be seen to wait.)
    """
    if hasattr(signal, "alarm"):
        atexit.register(signal.alarm, seconds)
