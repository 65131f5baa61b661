"""Vectors written to disk block by block, so that a killed process loses a few seconds of work."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path as FilePath
from typing import IO, Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from cptk import checks, files
from cptk.quantization import Calibration
from cptk.types import Config, Path
from cptk.vectors import (
    FORMAT,
    HEADER,
    VERSION,
    About,
    Form,
    about_of,
    mapped,
    part_of,
    read_about,
)

BETWEEN = 1.0
"""Seconds from one time that what is done is written down to the next."""
_FULL = (errno.ENOSPC, errno.EDQUOT)
_OF_WHAT = {
    "fingerprint": "another embedder",
    "role": "another role",
    "dtype": "another `dtype`",
    "dim": "vectors of another size",
    "truncate_dim": "another `truncate_dim`",
    "block": "blocks of another size",
}


class Texts(Protocol):
    """Some texts, one after another."""

    def __len__(self) -> int:
        """How many."""

    def bytes(self) -> list[bytes]:
        """What the texts are, for a hash."""


Block = TypeVar("Block", bound=Texts)


class VectorWriter:
    """A file of vectors that grows, and what stands beside it. `writing` makes one.

    Args:
        path: Where the vectors will stand.
        settings: What they depend on: `fingerprint`, `role`, `dtype`, `dim`, `truncate_dim`, …
        before: What an earlier call has written down, if there was one.
    """

    def __init__(self, path: FilePath, settings: Config, before: About | None) -> None:
        self.path = path
        self.form = Form(settings["dtype"], settings["dim"])
        self.settings = settings
        self.rows = 0 if before is None else before.rows
        self.calibration: Calibration | None = None if before is None else before.calibration
        self.texts = "" if before is None else str(before.content["texts"])
        self.is_complete = path.exists()
        self._file: IO[bytes] | None = None
        self._noted = time.monotonic()
        if not self.is_complete:
            self._open(self.rows)

    def _open(self, rows: int) -> None:
        place = part_of(self.path)
        self._file = open(place, "r+b")  # noqa: SIM115  closed by `close`
        size, expected = self._file.seek(0, os.SEEK_END), HEADER + rows * self.form.row
        if rows and size < expected:
            self.close()
            raise ValueError(
                f"{str(place)!r} is cut short: {size:,} bytes, and {expected:,} were written. "
                f"Delete it and {about_of(self.path).name!r}, and encode again."
            )
        # What a killed process has written after the last block that it wrote down.
        self._file.truncate(expected)
        self._file.seek(expected)

    def check_room(self, total: int) -> None:
        """Raise `OSError` (ENOSPC) where so many vectors in all do not fit on the disk."""
        left = (total - self.rows) * self.form.row
        files.check_free_space(self.path.parent, left, f"{str(self.path)!r} of {total:,} vectors")

    def take(self, calibration: Calibration) -> None:
        """Use a calibration of the caller's.

        Raises:
            ValueError: Vectors were written by another one.
        """
        before = self.calibration
        if before is not None and before.to_json() != calibration.to_json():
            raise ValueError(
                f"{str(self.path)!r} holds vectors of another `calibration`. Leave it out to go on "
                "with the one that is kept there, or choose another `output`."
            )
        self.calibration = calibration

    def after_those_written(
        self, blocks: Iterator[Block], hashes: deque[str], skipped: Callable[[int], None]
    ) -> Iterator[Block]:
        """The blocks that are not in the file yet.

        Args:
            blocks: All blocks, from the first text on.
            hashes: Where the hash of each block that is given out is put, for `add`.
            skipped: Called with the number of texts of each block that is in the file.

        Raises:
            ValueError: The texts are not those of the file.
        """
        running, seen = "", 0
        for block in blocks:
            running = chained(running, block.bytes())
            seen += len(block)
            if seen > self.rows:
                if self.is_complete or seen - len(block) < self.rows:
                    self._refuse_texts()
                hashes.append(running)
                yield block
                continue
            if seen == self.rows and running != self.texts:
                self._refuse_texts()
            skipped(len(block))
        if seen < self.rows:
            self._refuse_texts()

    def _refuse_texts(self) -> None:
        raise ValueError(
            f"{str(self.path)!r} holds vectors of other texts: {self.rows:,} of them, and now they "
            "differ, or are more or less. Choose another `output`, or delete it and "
            f"{about_of(self.path).name!r}."
        )

    def add(self, codes: NDArray[Any], texts: str) -> None:
        """Write the vectors of one more block.

        Args:
            codes: (m, width).
            texts: The hash of all texts up to these.
        """
        assert self._file is not None
        data = np.ascontiguousarray(codes, self.form.of_type.newbyteorder("<"))
        self._file.write(data.data)
        self.rows += len(data)
        self.texts = texts
        if time.monotonic() - self._noted >= BETWEEN:
            self._note()

    def finish(self) -> None:
        """The file is complete: it takes its place."""
        assert self._file is not None
        self._file.seek(0)
        self._file.write(self.form.header(self.rows))
        self._note()
        self._file.close()
        os.replace(part_of(self.path), self.path)
        self._file, self.is_complete = None, True

    def read(self) -> NDArray[Any]:
        """The vectors of the complete file, by a read-only memory map."""
        return mapped(self.path, self.form, self.rows)

    def close(self) -> None:
        """Close the file; what is written stays."""
        if self._file is not None:
            with contextlib.suppress(OSError):
                self._file.close()

    def _note(self) -> None:
        """Have the disk keep what is written, and then write down how much it is."""
        assert self._file is not None
        self._file.flush()
        os.fsync(self._file.fileno())
        known = self.calibration
        about = {
            "format": FORMAT,
            "version": VERSION,
            **self.settings,
            "rows": self.rows,
            "texts": self.texts,
            "calibration": None if known is None else known.to_json(),
        }
        with files.replacing(about_of(self.path)) as file:
            file.write(json.dumps(about, indent=1).encode() + b"\n")
        self._noted = time.monotonic()


@contextlib.contextmanager
def writing(output: Path, settings: Config) -> Iterator[VectorWriter]:
    """A file of vectors that is begun, goes on where an earlier call was killed, or is complete.

    Args:
        output: Where the vectors will stand, an `.npy` file.
        settings: What they depend on, in JSON values.

    Raises:
        ValueError: No `.npy` file; vectors of something else, or such that are damaged; another
            process is at it.
        OSError: The disk is full: blocks that were written are kept.
    """
    path = output_path(output)
    lock = _alone(path)
    writer = None
    try:
        writer = VectorWriter(path, settings, _before(path, settings))
        yield writer
    except OSError as error:
        if error.errno not in _FULL or "Nothing was written" in str(error):
            raise
        raise OSError(
            error.errno,
            f"The disk is full ({error.strerror}). Vectors that were written down are kept: make "
            "room and call again with the same texts, and it goes on",
            str(path),
        ) from error
    finally:
        if writer is not None:
            writer.close()
        if lock is not None:
            lock.release()


def output_path(output: Path) -> FilePath:
    """Where vectors shall stand.

    Raises:
        TypeError: No path.
        ValueError: Its name does not end in .npy, or a folder stands there.
    """
    path = checks.path(output, "output")
    if path.suffix != ".npy" or path.is_dir():
        raise ValueError(
            f"`output` should be a file whose name ends in .npy. Received: {str(path)!r}."
        )
    return path


def chained(before: str, parts: list[bytes]) -> str:
    """The hash of all texts up to some, from the one before them."""
    digest = hashlib.sha256(before.encode())
    for part in parts:
        digest.update(part)
    return digest.hexdigest()


def _alone(path: FilePath) -> files.Lock | None:
    """A lock on what is being written: no other process, nor another thread, writes it too."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise ValueError(
            f"`output` should lie in a folder. Received: {str(path)!r}, above which a file stands."
        ) from None
    busy = (
        f"Another process, or another call of this one, writes {str(path)!r}. Wait for it, or "
        "choose another `output`."
    )
    while True:
        place = path if path.exists() else part_of(path)
        if place != path:
            place.touch()
        lock = files.sole_lock(place, busy)
        # Another process may have completed the file, and so moved it, in this moment.
        if lock is None or (place.exists() and path.exists() == (place == path)):
            return lock
        lock.release()


def _before(path: FilePath, settings: Config) -> About | None:
    """What an earlier call has written down; None where there was none."""
    place = about_of(path)
    part = part_of(path)
    if not place.exists():
        if path.exists():
            raise ValueError(
                f"{str(path)!r} exists, and {place.name!r}, which would say of which texts it is, "
                "does not. Choose another `output`, or delete it."
            )
        return None
    if not path.exists() and part.stat().st_size == 0:  # deleted, but for what stood beside it
        place.unlink()  # it would seem to tell of the new file, if this call were killed early
        return None
    found = read_about(path)
    for name, value in settings.items():
        before = found.content.get(name)
        if before != value:
            raise ValueError(
                f"{str(path)!r} holds vectors of {_OF_WHAT.get(name, f'another {name}')}: "
                f"{checks.shown(before, 40)}, and now {checks.shown(value, 40)}. Choose another "
                f"`output`, or delete it and {place.name!r}."
            )
    if path.exists():
        mapped(path, found.form, found.rows)
        with contextlib.suppress(FileNotFoundError):
            if part.stat().st_size == 0:  # of a call that waited to begin while another ended
                part.unlink()
    return found
