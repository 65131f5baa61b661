"""The SHA-256 that a cached file is held to whenever it is read: a disk or a person may alter it.

Hashing costs a tenth of what reading the same file as JSON or CSV does. A published hash is in the
table of sets; a note `<name>.sha256` beside a file has that of its first download, beside a folder
those of the files that were unpacked into it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from cptk.files import replacing, sha256_of


def verify(path: Path, expected: str | None = None) -> None:
    """Holds a file to its SHA-256, wherever one is known.

    Args:
        path: The file.
        expected: The published hash. `None`: the one that its first download left beside it, or
            that was taken when its archive was unpacked. A file with neither, as put there by hand,
            is taken as it is.

    Raises:
        ValueError: if it has another.
    """
    if expected is not None:
        _check(path, expected, "cptk's table of publishers' files")
    elif note_of(path).exists():
        _check(path, pinned(path), f"its first download ({note_of(path)})")
    for folder in path.parents[:8]:
        if folder.name.endswith(".unpacked") and note_of(folder).is_file():
            sums, name = read_sums(folder), path.relative_to(folder).as_posix()
            if name in sums:
                _check(path, sums[name], f"its archive ({note_of(folder)})")
            return


def _check(path: Path, expected: str, promised_by: str) -> None:
    compare(path, sha256_of(path), expected, promised_by)


def compare(path: Path, received: str, expected: str, promised_by: str) -> None:
    """An error that names the file and both hashes, where they differ."""
    if received != expected:
        raise ValueError(
            f"{path} is not the file that was expected. Received SHA-256 {received}, expected "
            f"{expected} (from {promised_by}). A download is removed: try again. A cached file "
            "stays: delete it, or the folder that it was unpacked into, and load again. If the "
            "hash differs again, the publisher has changed the file, or something on the way has: "
            "delete the note of a first download to trust the new one."
        )


def pinned(target: Path) -> str:
    """The SHA-256 that a first download left beside the file."""
    note = note_of(target)
    found = re.match(rb"[0-9a-f]{64}\b", note.read_bytes()[:100])
    if found is None:
        raise ValueError(f"{note} should begin with a SHA-256 and does not: delete it.")
    return found.group().decode()


def write_sums(folder: Path, sums: Mapping[str, str]) -> None:
    """Notes what was unpacked into a folder, beside it and as `sha256sum` has it."""
    text = "".join(f"{digest}  {name}\n" for name, digest in sums.items())
    with replacing(note_of(folder)) as file:
        file.write(text.encode("utf-8", "surrogateescape"))


def read_sums(folder: Path) -> dict[str, str]:
    """The hashes of what was unpacked into a folder, by path."""
    text = note_of(folder).read_bytes().decode("utf-8", "surrogateescape")
    return {line[66:]: line[:64] for line in text.split("\n") if line}


def lacks_a_file(folder: Path) -> bool:
    """Whether something was taken out of an unpacked folder."""
    there = note_of(folder).is_file()
    return there and not all((folder / name).is_file() for name in read_sums(folder))


def note_of(path: Path) -> Path:
    """Where the hash of a file, or those of an unpacked folder, are noted."""
    return path.with_name(path.name + ".sha256")
