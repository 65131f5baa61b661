"""Files written whole or not at all, locks, free space, and JSON files that may be damaged."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import hashlib
import json
import os
import shutil
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from cptk.types import Json

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]


@contextlib.contextmanager
def replacing(path: Path, suffix: str = "") -> Iterator[IO[bytes]]:
    """A binary file beside `path` that takes the place of `path` when the block ends.

    Where the block raises, the file is removed and `path` stays as it was. The file is flushed to
    the disk before it is renamed, so that a power cut leaves the old file or the new one.

    Args:
        path: Where the file will stand.
        suffix: How the name of the file beside ends, for writers that choose a format by it.

    Example:

    ```pycon
    >>> from pathlib import Path
    >>> from cptk.files import replacing
    >>> with replacing(Path("report.json")) as file:
    ...     written = file.write(b"{}")
    >>> Path("report.json").read_text()
    '{}'

    ```
    """
    scratch = path.with_name(f".scratch-{uuid.uuid4().hex[:12]}{suffix}")
    try:
        with open(scratch, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(scratch, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(scratch)
        raise


class Lock:
    """A lock on an existing file or folder, held until `release` or until the process ends.

    The system takes the lock back however the process ends, so no lock is left behind.

    Args:
        path: What is locked.

    Raises:
        BlockingIOError: Another process, or another lock of this one, has it.
        FileNotFoundError: There is no such file.
        OSError: The system or the file system has no locks.

    Example:

    ```pycon
    >>> from pathlib import Path
    >>> from cptk.files import Lock
    >>> Path("runs").mkdir()
    >>> lock = Lock(Path("runs"))
    >>> lock.held
    True
    >>> lock.release()
    >>> lock.held
    False

    ```
    """

    def __init__(self, path: Path) -> None:
        self._handle: int | None = None
        if fcntl is None:
            raise OSError("there are no locks on this system")
        # For writing, where possible: network disks lock nothing else. No folder opens for writing.
        handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(handle)
            raise
        self._handle = handle

    @property
    def held(self) -> bool:
        """Whether the lock has not been given up."""
        return self._handle is not None

    def release(self) -> None:
        """Give the lock up; a second call does nothing."""
        handle, self._handle = self._handle, None
        if handle is not None:
            os.close(handle)


def sole_lock(path: Path, busy: str) -> Lock | None:
    """A lock on a file or folder; None where the file system has none.

    Args:
        path: What is locked.
        busy: What the error says.

    Raises:
        ValueError: Somebody else has it.

    Example:

    ```pycon
    >>> from pathlib import Path
    >>> from cptk.files import sole_lock
    >>> Path("work").mkdir()
    >>> lock = sole_lock(Path("work"), "Another process is at it.")
    >>> sole_lock(Path("work"), "Another process is at it.")
    Traceback (most recent call last):
        ...
    ValueError: Another process is at it.

    ```
    """
    try:
        return Lock(path)
    except BlockingIOError:
        raise ValueError(busy) from None
    except OSError:
        return None


def clear_scratch(folder: Path) -> None:
    """Remove what `replacing` left in a folder, in processes that were killed."""
    for scratch in folder.glob(".scratch-*"):
        with contextlib.suppress(OSError):
            scratch.unlink()


def flush_to_disk(folder: Path) -> None:
    """Write a folder through to the disk, so that a power cut finds the old preset or the new."""
    if os.name == "nt":  # Windows flushes only files that are open for writing.
        return
    for path in [*folder.rglob("*"), folder]:
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def exchange(one: Path, other: Path) -> bool:
    """Let two paths change places in one step; `False` where the system cannot."""
    names = {"linux": "renameat2", "darwin": "renameatx_np"}
    if sys.platform not in names:
        return False
    rename = getattr(ctypes.CDLL(None, use_errno=True), names[sys.platform], None)
    if rename is None:
        return False
    here = -100 if sys.platform == "linux" else -2  # AT_FDCWD; the flag is 2 on both
    paths = [ctypes.c_char_p(os.fsencode(path)) for path in (one, other)]
    return bool(rename(here, paths[0], here, paths[1], ctypes.c_uint(2)) == 0)


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_free_space(folder: Path, size: int, what: str) -> None:
    """Raise `OSError` (ENOSPC) where `size` bytes do not fit on the disk that holds `folder`.

    Args:
        folder: Where `what` will be written. If it does not exist, its nearest parent counts.
        size: Bytes needed.
        what: What is to be written, for the message.
    """
    place = Path(os.path.abspath(folder))
    while not place.is_dir() and place != place.parent:
        place = place.parent
    free = shutil.disk_usage(place).free
    if size > free:
        raise OSError(
            errno.ENOSPC,
            f"{what} needs {size / 2**20:,.1f} MiB, and {free / 2**20:,.1f} MiB are free. Nothing "
            "was written: make room or choose another place",
            str(folder),
        )


def read_json(path: Path, what: str = "The file") -> Json:
    """The content of a JSON file.

    Args:
        path: The file.
        what: What the error calls it.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: A folder, or something that is not JSON: cut short, not in UTF-8, nested too
            deeply. The message names the file.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise FileNotFoundError(f"{what} {str(path)!r} is missing.") from None
    except (OSError, ValueError, RecursionError) as error:
        fault = "nested too deeply" if isinstance(error, RecursionError) else error
        raise ValueError(
            f"{what} {str(path)!r} cannot be read as JSON ({fault}). Save or download it again."
        ) from None
