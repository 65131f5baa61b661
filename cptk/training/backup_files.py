"""The files of `ExactBackupAndRestore`: whole, checked, and of one run at a time."""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import socket
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file, save_file

from cptk import files

OWNER = "owner.lock"


class Backup(NamedTuple):
    """One backup: what it says of itself, and its arrays by name."""

    path: Path
    about: dict[str, Any]
    arrays: dict[str, np.ndarray]


def write(path: Path, arrays: dict[str, np.ndarray], about: dict[str, Any]) -> None:
    """Write a backup beside its place and rename it when it is on disk.

    Raises:
        OSError: There is not the room, or not the right.
        SafetensorError: It could not be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    size = sum(array.nbytes for array in arrays.values())
    files.check_free_space(path.parent, size + 2**20, "The backup")
    dtypes = {name: str(array.dtype) for name, array in arrays.items()}
    # safetensors knows none of the short floats that NumPy does not: they are kept as bits.
    plain = {name: _bits(array) for name, array in arrays.items()}
    text = json.dumps({**about, "dtypes": dtypes})
    metadata = {"about": text, "checksum": _checksum(text, plain)}
    with files.replacing(path) as file:
        save_file(plain, file.name, metadata=metadata)


def read(path: Path) -> Backup:
    """Read a backup.

    Raises:
        ValueError: It is damaged; the message says how.
    """
    try:
        with safe_open(path, "np") as file:
            metadata = file.metadata() or {}
        arrays = load_file(path)
        if "checksum" not in metadata:
            raise ValueError("it has no checksum, as those of earlier versions of cptk")
        if metadata["checksum"] != _checksum(metadata["about"], arrays):
            raise ValueError("its checksum does not fit its content")
        about = json.loads(metadata["about"])
        if about["epoch"] != epoch_of(path):
            raise ValueError(f"it is of epoch {about['epoch']}")
        for name, dtype in about["dtypes"].items():
            arrays[name] = arrays[name].view(_dtype(dtype))
    except (OSError, TypeError, KeyError, SafetensorError) as error:
        raise ValueError(str(error)) from None
    bad = not_finite(arrays)
    if bad:
        raise ValueError(f"{bad} is not finite")
    return Backup(path, about, arrays)


def run_of(path: Path) -> str | None:
    """The run that wrote a backup; `None` where that cannot be read."""
    try:
        with safe_open(path, "np") as file:
            return str(json.loads(file.metadata()["about"])["run"])
    except (OSError, ValueError, TypeError, KeyError, SafetensorError):
        return None


def not_finite(arrays: dict[str, np.ndarray]) -> str:
    """The name of a weight that has NaN or infinity in it, or ""."""
    for name, array in arrays.items():
        weight = name.startswith(("model/", "optimizer/"))
        if weight and array.dtype.kind in "fV" and not np.isfinite(array.astype("float64")).all():
            return name
    return ""


def epoch_of(path: Path) -> int:
    """The number in a backup's name; 0 in the name of somebody else's file."""
    number = path.name.removeprefix("epoch-").removesuffix(".safetensors")
    return int(number) if number.isdecimal() else 0


def newest_first(folder: Path) -> list[Path]:
    """The backups in a folder."""
    found = folder.glob("epoch-*.safetensors")
    return sorted((path for path in found if epoch_of(path) > 0), key=epoch_of, reverse=True)


def leftovers(folder: Path) -> list[Path]:
    """What a run that was killed while it wrote has left in a folder."""
    return [*folder.glob(".scratch-*"), *folder.glob("epoch-*.safetensors.tmp")]


class Owner(NamedTuple):
    """What makes a run the owner of a folder."""

    file: Path
    lock: files.Lock


def claim(folder: Path) -> Owner | None:
    """Make this run the owner of a folder, until that is released or its process dies.

    Returns:
        What to release; `None` where the disk knows no locks.

    Raises:
        ValueError: Another run owns the folder.
        OSError: The folder cannot be made or written to.
    """
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / OWNER
    file.touch()
    try:
        lock = files.Lock(file)
    except BlockingIOError:
        owner = file.read_text(errors="replace").strip() or "another process"
        raise ValueError(
            f"`backup_dir` {str(folder)!r} is in use by {owner}: two runs would overwrite each "
            "other's backups. Give each run a folder of its own, or wait until that one has ended."
        ) from None
    except OSError:  # Windows; a network disk without locks.
        return None
    file.write_text(f"process {os.getpid()} on {socket.gethostname()}\n")
    return Owner(file, lock)


def release(owner: Owner | None) -> None:
    """Give up what `claim` gave; again does nothing."""
    if owner is not None and owner.lock.held:
        owner.file.unlink(missing_ok=True)
        owner.lock.release()


def _bits(array: np.ndarray) -> np.ndarray:
    array = np.asarray(array, order="C")
    return array.view(f"uint{8 * array.itemsize}") if array.dtype.kind == "V" else array


def _dtype(name: str) -> np.dtype[Any]:
    short = importlib.import_module("ml_dtypes")
    return np.dtype(getattr(short, name, name))


def _checksum(text: str, arrays: dict[str, np.ndarray]) -> str:
    total = hashlib.sha256(text.encode())
    for name in sorted(arrays):
        array = np.asarray(arrays[name], order="C")
        total.update(f"{name} {array.dtype} {array.shape}".encode())
        total.update(array.reshape(-1).view(np.uint8).data)
    return total.hexdigest()
