"""Who writes into a token store: one process, or several with a part each."""

from __future__ import annotations

import contextlib
import errno
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from cptk import checks, files

LOCKS = "locks"
_FULL = (errno.ENOSPC, errno.EDQUOT)


@contextlib.contextmanager
def writing(folder: Path, part: tuple[int, int]) -> Iterator[None]:
    """One process, or each of several for its own part, writes a store into a folder."""
    try:
        (folder / LOCKS).mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise ValueError(
            f"`folder` should be a folder. Received: {str(folder)!r}, where a file stands."
        ) from None
    place = folder / LOCKS / f"part-{part[0]}-of-{part[1]}"
    place.touch()
    lock = files.sole_lock(
        place,
        f"Another process writes part {part[0]} of {part[1]} of the store {str(folder)!r}. Wait "
        "for it, or give each process a `part` of its own.",
    )
    try:
        _refuse_other_parts(folder, part[1])
        yield
    except OSError as error:
        if error.errno not in _FULL:
            raise
        raise OSError(
            error.errno,
            f"The disk is full ({error.strerror}). Every shard that was written is kept: make "
            "room and call again, and it goes on",
            str(folder),
        ) from error
    finally:
        if lock is not None:
            lock.release()


def _refuse_other_parts(folder: Path, count: int) -> None:
    """Raise `ValueError` where a process is at it that counts on another number of parts."""
    for place in folder.glob(f"{LOCKS}/part-*-of-*"):
        if place.name.endswith(f"-of-{count}"):
            continue
        others = files.sole_lock(
            place,
            f"Another process writes {place.name.replace('-', ' ')} of the store {str(folder)!r}, "
            f"and this one counts on {count} in all. Wait for it.",
        )
        if others is not None:
            others.release()


@contextlib.contextmanager
def ending(folder: Path) -> Iterator[None]:
    """Processes that end at the same time write the manifest one after the other."""
    place = folder / LOCKS / "manifest"
    place.parent.mkdir(exist_ok=True)
    place.touch()
    while True:
        try:
            lock = files.sole_lock(place, "")
            break
        except ValueError:
            time.sleep(0.05)
    try:
        yield
    finally:
        if lock is not None:
            lock.release()


def checked_part(part: object) -> tuple[int, int]:
    """`(k, n)` with k from 0 to n - 1."""
    if (
        isinstance(part, Sequence)
        and len(part) == 2
        and all(map(checks.is_integer, part))
        and 0 <= part[0] < part[1]
    ):
        return int(part[0]), int(part[1])
    raise ValueError(
        f"`part` should be (k, n) with 0 <= k < n, this process's number and how many there are. "
        f"Received: {checks.shown(part)}."
    )
