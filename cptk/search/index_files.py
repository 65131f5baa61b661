"""An index in a folder: what is in its files, and how one generation of them takes another's place.

`index.json` names the files of one generation (`vectors-….npy`, `rows-….arrow`, and `codes-….npy`
or `faiss-….index`). A new generation is written beside the old one, and `index.json` is replaced
last: whoever is killed before leaves the old index, whoever comes after finds the new one.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from cptk import files
from cptk.search.exact import Floats
from cptk.types import Config
from cptk.version import __version__

MANIFEST = "index.json"
FORMAT, VERSION = "cptk.search.Index", 1
_NAMES = re.compile(r"(vectors|rows|codes|faiss)-[0-9a-f]{12}\.(npy|arrow|index)")
_FULL = (errno.ENOSPC, errno.EDQUOT)


class Generation(NamedTuple):
    """What `index.json` says."""

    folder: Path
    name: str
    about: Config
    files: dict[str, tuple[str, int]]
    """By kind: the file's name, and its bytes."""

    def path(self, kind: str) -> Path:
        """The file of a kind."""
        return self.folder / self.files[kind][0]


# === Writing ===


@contextlib.contextmanager
def writing(folder: Path) -> Iterator[Generation | None]:
    """Lock a folder for one writer, and give the index that is there, if there is one.

    Raises:
        ValueError: A file stands there, a folder with other things, or another process writes.
        OSError: The disk is full: the index that was there is whole.
    """
    made, accepted = not folder.exists(), False
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise ValueError(
            f"`folder` should be a folder. Received: {str(folder)!r}, where a file stands."
        ) from None
    lock = files.sole_lock(
        folder,
        f"Another process is saving the index {str(folder)!r}. Wait for it, load the index again, "
        "and save then.",
    )
    try:
        there = _manifest(folder) if (folder / MANIFEST).exists() else None
        if there is None:
            others = [f for f in os.listdir(folder) if not _is_left_over(f)]
            if others:
                raise ValueError(
                    f"{str(folder)!r} holds other things than an index: {min(others)!r}. Name a "
                    "folder of the index's own."
                )
        accepted = True
        yield there
    except OSError as error:
        if error.errno not in _FULL:
            raise
        kept = "" if not (folder / MANIFEST).exists() else " The index that was there is whole"
        raise OSError(
            error.errno, f"The disk is full ({error.strerror}).{kept}", str(folder)
        ) from error
    finally:
        if accepted:  # what is in a folder that was refused is somebody else's
            clear(folder)
            if made:
                with contextlib.suppress(OSError):  # not empty: the index is there
                    folder.rmdir()
        if lock is not None:
            lock.release()


class Writer:
    """Writes the files of one generation.

    Args:
        folder: A folder that is locked.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.name = uuid.uuid4().hex[:12]
        self.written: dict[str, Path] = {}

    def vectors(self, parts: list[tuple[Floats, NDArray[np.bool_] | None]], dim: int) -> Path:
        """(n, d) of several arrays, each with a mask of the rows that are kept."""
        count = sum(len(p) if m is None else int(np.count_nonzero(m)) for p, m in parts)
        files.check_free_space(self.folder, 4 * count * dim, "The index")
        path = self._path("vectors", "npy")
        with files.replacing(path) as file:
            header = {"descr": "<f4", "fortran_order": False, "shape": (count, dim)}
            np.lib.format.write_array_header_1_0(file, header)
            for part, mask in parts:
                for start in range(0, len(part), 65_536):
                    rows = slice(start, start + 65_536)
                    block = part[rows] if mask is None else part[rows][mask[rows]]
                    file.write(np.ascontiguousarray(block, "<f4").data)
        return path

    def rows(self, table: pa.Table) -> None:
        """The rows' ids, texts and metadata."""
        whole = table.combine_chunks()
        with (
            files.replacing(self._path("rows", "arrow")) as file,
            pa.ipc.new_file(file, whole.schema) as writer,
        ):
            writer.write_table(whole)

    def codes(self, codes: NDArray[np.generic]) -> None:
        """int8 or binary codes."""
        with files.replacing(self._path("codes", "npy")) as file:
            np.lib.format.write_array(file, codes, allow_pickle=False)

    @contextlib.contextmanager
    def faiss(self) -> Iterator[str]:
        """A path for a file of FAISS's, which takes its place when the block ends."""
        with files.replacing(self._path("faiss", "index")) as file:
            yield file.name

    def commit(self, about: Config) -> None:
        """Make this generation the index."""
        content = {
            "format": FORMAT,
            "version": VERSION,
            "cptk": __version__,
            "generation": self.name,
            **about,
            "files": {
                kind: {"name": path.name, "bytes": path.stat().st_size}
                for kind, path in self.written.items()
            },
        }
        with files.replacing(self.folder / MANIFEST) as file:
            file.write((json.dumps(content, indent=2, sort_keys=True) + "\n").encode())

    def _path(self, kind: str, ending: str) -> Path:
        self.written[kind] = self.folder / f"{kind}-{self.name}.{ending}"
        return self.written[kind]


def clear(folder: Path) -> None:
    """Remove the files of other generations than the index's own. The folder must be locked."""
    files.clear_scratch(folder)
    kept: set[str] = set()
    if (folder / MANIFEST).exists():
        try:
            kept = {name for name, _ in _manifest(folder).files.values()}
        except ValueError:  # damaged: nothing is known of what belongs to it
            return
    for name in os.listdir(folder):
        if _NAMES.fullmatch(name) and name not in kept:
            with contextlib.suppress(OSError):  # where open files cannot be removed
                os.unlink(folder / name)


def _is_left_over(name: str) -> bool:
    return name.startswith(".scratch-") or _NAMES.fullmatch(name) is not None


# === Reading ===


def read(folder: Path) -> Generation:
    """The index in a folder, whose files are all there, and whole.

    Raises:
        FileNotFoundError: There is none, or a file of it is missing.
        ValueError: A file is cut short, or the index was written by another version.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"There is no folder {str(folder)!r}.")
    if not (folder / MANIFEST).exists():
        raise FileNotFoundError(
            f"{str(folder)!r} holds no index: it has no {MANIFEST}. Index.save(folder) makes one."
        )
    return _manifest(folder)


def _manifest(folder: Path) -> Generation:
    path = folder / MANIFEST
    content = files.read_json(path, "The index's file")
    damaged = ValueError(
        f"{str(path)!r} is no index of cptk's, or is damaged. Delete the folder, and make the "
        "index again."
    )
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise damaged
    if content.get("version") != VERSION:
        raise ValueError(
            f"{str(path)!r} was written in version {content.get('version')} of the format, by cptk "
            f"{content.get('cptk')}; this cptk reads version {VERSION}."
        )
    try:
        found = {kind: (f["name"], f["bytes"]) for kind, f in content["files"].items()}
        right = all(
            (match := _NAMES.fullmatch(name)) and match[1] == kind and isinstance(size, int)
            for kind, (name, size) in found.items()
        )
        right = right and {"vectors", "rows"} <= set(found)
        right = right and isinstance(content["generation"], str)
    except (AttributeError, KeyError, TypeError):
        right = False
    if not right:
        raise damaged
    return Generation(folder, content["generation"], content, found)


def check_sizes(generation: Generation) -> None:
    """Raise where a file is missing, or has another size than it was written with."""
    for name, size in generation.files.values():
        path = generation.folder / name
        try:
            there = path.stat().st_size
        except OSError:
            raise _missing(path) from None
        if there != size:
            fault = "is cut short" if there < size else "has grown"
            raise ValueError(
                f"The index's file {str(path)!r} {fault}: it has {there:,} bytes, and was written "
                f"with {size:,}. Copy or save the index again."
            )


def _missing(path: Path) -> FileNotFoundError:
    return FileNotFoundError(f"The index's file {str(path)!r} is missing.")


def says_nothing_of(generation: Generation, missing: KeyError) -> ValueError:
    """The error for an `index.json` without something that every index has."""
    return ValueError(
        f"The index in {str(generation.folder)!r} is damaged: its {MANIFEST} says nothing of "
        f"{missing}. Delete the folder, and make the index again."
    )


def read_floats(path: Path, count: int, dim: int) -> Floats:
    """(count, dim) float32, memory-mapped; `ValueError` where it is another array."""
    return _array(path, (count, dim), np.dtype(np.float32))


def read_codes(path: Path, shape: tuple[int, int], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Codes, memory-mapped; `ValueError` where it is another array."""
    return _array(path, shape, dtype)


def _array(path: Path, shape: tuple[int, int], dtype: np.dtype[Any]) -> NDArray[Any]:
    try:
        # Nothing at all cannot be mapped.
        found = np.load(path, mmap_mode="r" if shape[0] else None, allow_pickle=False)
    except FileNotFoundError:  # another process has saved, and `load` reads again
        raise _missing(path) from None
    except (ValueError, EOFError, OSError) as error:
        raise ValueError(f"The index's file {str(path)!r} is damaged ({error}).") from None
    if found.shape != shape or found.dtype != dtype:
        raise ValueError(
            f"The index's file {str(path)!r} should hold {dtype} of shape {shape}. It holds "
            f"{found.dtype} of shape {found.shape}."
        )
    array: NDArray[Any] = found.view(np.ndarray)  # a slice of a memmap costs ten times as much
    return array


def read_rows(path: Path, count: int) -> pa.Table:
    """The rows, memory-mapped; `ValueError` where they are others."""
    try:
        with pa.ipc.open_file(pa.memory_map(str(path))) as reader:
            table = reader.read_all()
        table.validate()
    except FileNotFoundError:
        raise _missing(path) from None
    except (pa.ArrowException, ValueError, OSError) as error:
        raise ValueError(f"The index's file {str(path)!r} is damaged ({error}).") from None
    if table.num_rows != count or "id" not in table.column_names:
        raise ValueError(
            f"The index's file {str(path)!r} should hold {count} rows with an id. It holds "
            f"{table.num_rows} with the columns {table.column_names}."
        )
    return table
