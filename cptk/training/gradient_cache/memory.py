"""How much memory is free."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from pathlib import Path


def host_memory() -> float:
    """Bytes that programs on this machine can still have."""
    free = float("inf")  # Not Linux: only an allocation that fails is seen.
    with contextlib.suppress(OSError), open("/proc/meminfo") as file:
        free = next(1024.0 * int(line.split()[1]) for line in file if line.startswith("MemAvail"))
    with contextlib.suppress(OSError, ValueError):  # What a container may have, where there is one.
        limit, used = (
            int(Path(f"/sys/fs/cgroup/memory.{n}").read_text()) for n in ("max", "current")
        )
        free = min(free, float(limit - used))
    return free


@contextlib.contextmanager
def watched_memory(free_memory: Callable[[], float]) -> Iterator[list[float]]:
    """Bytes that are free by a backend's count: before, and, once the block has ended, at least."""
    free = [free_memory()] * 2
    done = threading.Event()

    def watch() -> None:
        while not done.wait(0.005):
            free[1] = min(free[1], free_memory())

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield free
    finally:
        done.set()
        thread.join()


def is_out_of_memory(error: Exception) -> bool:
    """Whether an error of any backend says that memory ran out."""
    signs = (
        "resource_exhausted",
        "resourceexhausted",
        "out of memory",
        "oom when",
        "allocate memory",
    )
    said = f"{type(error).__name__}: {error}".lower()
    return isinstance(error, MemoryError) or any(sign in said for sign in signs)
