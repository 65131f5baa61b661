"""`CachedEncoder`: embeds each text once, and keeps its vector in memory and on disk."""

from __future__ import annotations

import contextlib
import hashlib
import inspect
import os
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NoReturn, Self

import numpy as np
from numpy.typing import NDArray

from cptk import checks
from cptk.encoders import (
    TextEncoder,
    Vectors,
    check_encoder,
    embed_checked,
    is_trained,
    quiet,
    roles_of,
    takes_role,
    warn_of_zeros,
)
from cptk.files import replacing
from cptk.fingerprint import fingerprint

# Texts embedded between two writes to disk: an interrupted run loses no more than these.
BLOCK = 2048

Progress = Callable[[int, int, float], None]


class CachedEncoder:
    """An encoder that embeds each distinct text in each role once.

    Vectors are kept in memory, and with `cache_dir` on disk too, in a folder named by a hash of
    all that the vectors depend on: other weights, another role or another sequence length have
    another folder. Each call hashes the encoder again and forgets the vectors in memory if the
    encoder has changed, so that no stale vector is ever read or written. Files are written beside
    their place and renamed; the vectors of a damaged file are computed anew. Where the disk cannot
    be written, a warning says so and vectors stay in memory. No pickle is read or written.

    `evaluate` makes one for each call. Make it yourself to share it between calls.

    Args:
        encoder: Anything that embeds text (`cptk.evaluation.embed`).
        cache_dir: Folder of the cache; `None` keeps vectors in memory alone.
        name: For an encoder whose weights cannot be read (a function, a vectoriser): what stands
            for it in the cache. Make another CachedEncoder, with another name, whenever the encoder
            changes: nobody else can see it.
        on_progress: Called as `(done, total, seconds)` after each block of a call's new texts, in
            place of the encoder's own progress bar.

    Raises:
        TypeError: Not an encoder, or `cache_dir` is no path.
        ValueError: `cache_dir` is given, the encoder's weights cannot be read and it has no name;
            or a file stands at `cache_dir`.

    Example:

    ```pycon
    >>> import tempfile
    >>> from cptk.evaluation import CachedEncoder
    >>> def encode(texts):
    ...     return [[len(text), text.count("a")] for text in texts]
    >>> folder = tempfile.mkdtemp()
    >>> encoder = CachedEncoder(encode, cache_dir=folder, name="letters")
    >>> encoder(["a film", "rain", "a film"]).tolist()
    [[6.0, 1.0], [4.0, 1.0], [6.0, 1.0]]
    >>> encoder.embedded  # each distinct text once
    2
    >>> later = CachedEncoder(encode, cache_dir=folder, name="letters")
    >>> later(["rain"]).tolist(), later.embedded  # read from the disk
    ([[4.0, 1.0]], 0)

    ```
    """

    is_embed = True  # `embed` passes its vectors on as they are

    def __init__(
        self,
        encoder: TextEncoder,
        cache_dir: str | os.PathLike[str] | None = None,
        name: str | None = None,
        on_progress: Progress | None = None,
    ) -> None:
        if isinstance(encoder, CachedEncoder):
            raise TypeError("`encoder` is a CachedEncoder already; give the encoder in it.")
        check_encoder(encoder)
        if name is not None and (not isinstance(name, str) or not name):
            raise TypeError(f"`name` should be a string. Received: {checks.shown(name)}.")
        self.encoder = encoder
        self.name = name
        self.on_progress = on_progress
        self.embedded = 0
        self.zeros: set[tuple[str | None, str]] = set()
        self._disk: _Disk | None = None
        if cache_dir is not None:
            known = is_trained(encoder) or inspect.getattr_static(encoder, "fingerprint", None)
            if known is None and name is None:
                self._refuse_nameless()
            self._disk = _Disk(checks.path(cache_dir, "cache_dir"))
        self._memory: dict[str | None, _RoleVectors] = {}
        self._has_fingerprint = False  # whether `_fingerprint` is that of the vectors in memory
        self._fingerprint: str | None = None
        self._is_steady = False

    @property
    def fingerprint(self) -> str | None:
        """Hash of the encoder as it is now; `None` if its weights cannot be read."""
        if not (self._is_steady and self._has_fingerprint):
            self._forget_if_changed()
        return self._fingerprint

    @contextlib.contextmanager
    def steady(self) -> Iterator[Self]:
        """A block in which the encoder does not change, so that it is hashed once.

        Without it each call hashes the weights (about a second for 500 MB). Use it for many short
        calls in a row, with no training between them.

        Example:

        ```pycon
        >>> from cptk.evaluation import CachedEncoder
        >>> encoder = CachedEncoder(lambda texts: [[len(text), 1] for text in texts])
        >>> with encoder.steady():
        ...     vectors = [encoder(batch) for batch in (["a", "bb"], ["bb", "ccc"])]
        >>> [each.tolist() for each in vectors]
        [[[1.0, 1.0], [2.0, 1.0]], [[2.0, 1.0], [3.0, 1.0]]]
        >>> encoder.embedded
        3

        ```
        """
        if self._is_steady:
            yield self
            return
        if self._memory or self._disk is not None:
            self._forget_if_changed()
        self._is_steady = True
        try:
            yield self
        finally:
            self._is_steady = False
            if not self._has_fingerprint:  # nothing says of which weights the vectors are
                self._memory.clear()

    def __call__(self, texts: Sequence[str], role: str | None = None) -> Vectors:
        """(n, d) float32 vectors of n texts."""
        checked = checks.texts(texts)
        if not self._is_steady:
            self._forget_if_changed()
        role = self._effective_role(role)
        if role not in self._memory:
            self._memory[role] = _RoleVectors(self._disk, self._folder_name(), role)
        memory = self._memory[role]
        keys = [hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest() for text in checked]
        new = {key: text for key, text in zip(keys, checked, strict=True) if key not in memory.rows}
        if new:
            self._embed(new, role, memory)
        vectors = memory.vectors([memory.rows[key] for key in keys])
        zero = ~vectors.any(axis=1)
        self.zeros |= {(role, checked[row]) for row in np.flatnonzero(zero)}
        return vectors

    encode_text = __call__

    def _forget_if_changed(self) -> None:
        """Hash the encoder, and forget the vectors in memory if it has changed since."""
        now = fingerprint(self.encoder)
        if self._has_fingerprint and now != self._fingerprint:
            self._memory.clear()
        self._fingerprint, self._has_fingerprint = now, True

    def _folder_name(self) -> str:
        """Name of the encoder's folder on disk; empty without a disk."""
        if self._disk is None:
            return ""
        key = self.fingerprint
        if key is None and self.name is None:
            self._refuse_nameless()
        return (key or hashlib.sha256(f"name: {self.name}".encode()).hexdigest())[:32]

    def _refuse_nameless(self) -> NoReturn:
        raise ValueError(
            f"The weights of this {type(self.encoder).__name__} cannot be read, so its vectors "
            "cannot be told from another's on disk. Give it a `name` (and a new one whenever it "
            "changes), or leave `cache_dir` out."
        )

    def _embed(self, new: dict[bytes, str], role: str | None, memory: _RoleVectors) -> None:
        start = time.perf_counter()
        # Longest first: a block then needs little padding, and a text that is too long for the
        # encoder or the memory fails at once.
        order = sorted(new, key=lambda key: -len(new[key]))
        size = BLOCK if self._disk is not None or self.on_progress else len(order)
        encoder = quiet(self.encoder) if self.on_progress else self.encoder
        zeros: dict[str, Vectors] = {}
        for begin in range(0, len(order), size):
            keys = order[begin : begin + size]
            vectors, is_sparse = embed_checked(encoder, [new[key] for key in keys], role)
            memory.add(keys, vectors)
            self.embedded += len(keys)
            if not is_sparse:
                zero = np.flatnonzero(~vectors.any(axis=1))
                zeros |= {new[keys[row]]: vectors[row] for row in zero}
            if self.on_progress:
                self.on_progress(begin + len(keys), len(order), time.perf_counter() - start)
        if zeros:
            name = type(self.encoder).__name__
            warn_of_zeros(np.stack(list(zeros.values())), list(zeros), name)

    def _effective_role(self, role: str | None) -> str | None:
        """The role that the encoder really embeds in: names of one role share their vectors."""
        function = getattr(self.encoder, "encode_text", None)
        if function is None or not takes_role(function):
            return None
        roles = roles_of(self.encoder)
        if roles is not None and len(roles) <= 1:
            return None
        return "document" if role is None and roles is not None and "document" in roles else role


class _Disk:
    """The folder of the cache, and whether it can be written."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.can_write = True
        for place in (folder, *folder.parents):
            if os.path.exists(place):
                if not os.path.isdir(place):
                    raise ValueError(
                        f"`cache_dir` should be a folder. Received: {str(folder)!r}, and "
                        f"{str(place)!r} is a file. Choose another place."
                    )
                break
        with self.writing():
            folder.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=folder).close()

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """A block that writes: an error of the disk ends the writing, not the evaluation."""
        try:
            yield
        except OSError as error:
            self.can_write = False
            warnings.warn(
                f"The cache of vectors {str(self.folder)!r} cannot be written "
                f"({type(error).__name__}: {error}). What is embedded now stays in memory alone: "
                "make room, or choose another `cache_dir`.",
                stacklevel=2,
            )


class _RoleVectors:
    """Vectors of one role: in memory, and as files `<hash of the texts>.npz` in a folder."""

    def __init__(self, disk: _Disk | None, encoder: str, role: str | None) -> None:
        self.rows: dict[bytes, int] = {}
        self._blocks: list[Vectors] = []
        self._disk = disk
        self._folder = Path()
        if disk is None:
            return
        # Hashed, because any string may be a role: `..`, `a/b`, one of 300 characters.
        name = "default" if role is None else hashlib.sha256(role.encode()).hexdigest()[:16]
        self._folder = disk.folder / encoder / name
        for path in sorted(self._folder.glob("*.npz")) if self._folder.is_dir() else ():
            content = _read(path)
            if content is not None:
                self._remember([bytes(key) for key in content[0]], content[1], path)

    def add(self, keys: list[bytes], vectors: Vectors) -> None:
        self._remember(keys, vectors, self._folder)
        if self._disk is not None and self._disk.can_write:
            with self._disk.writing():
                self._folder.mkdir(parents=True, exist_ok=True)
                name = hashlib.sha256(b"".join(sorted(keys))).hexdigest()[:32]
                _write(self._folder / f"{name}.npz", b"".join(keys), vectors)

    def vectors(self, rows: list[int]) -> Vectors:
        if len(self._blocks) > 1:
            self._blocks = [np.concatenate(self._blocks)]
        return self._blocks[0][rows]

    def _remember(self, keys: list[bytes], vectors: Vectors, where: Path | None) -> None:
        if self._blocks and self._blocks[0].shape[1] != vectors.shape[1]:
            raise ValueError(
                f"The encoder's vectors have size {vectors.shape[1]}, and those of its name that "
                f"are kept {self._blocks[0].shape[1]} (at {where}). Is this another encoder? Give "
                "it another `name` or another `cache_dir`."
            )
        start = sum(map(len, self._blocks))
        for row, key in enumerate(keys):
            self.rows.setdefault(key, start + row)
        self._blocks.append(vectors)


def _read(path: Path) -> tuple[NDArray[np.uint8], Vectors] | None:
    """Keys and vectors of a file; `None` if it cannot be read. One that is damaged is removed."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as content:
            keys, vectors, seal = content["keys"], content["vectors"], content["seal"]
        if seal.tobytes() == _seal(path, keys.tobytes(), vectors) and np.isfinite(vectors).all():
            return keys.reshape(-1, 32), vectors
    except (OSError, MemoryError):
        return None
    except Exception:  # zlib, zipfile and NumPy have a dozen kinds for bytes that are not theirs
        pass
    with contextlib.suppress(OSError):
        path.unlink()
    return None


def _write(path: Path, keys: bytes, vectors: Vectors) -> None:
    stored, seal = (np.frombuffer(part, np.uint8) for part in (keys, _seal(path, keys, vectors)))
    with replacing(path) as file:
        np.savez(file, keys=stored, vectors=vectors, seal=seal)


def _seal(path: Path, keys: bytes, vectors: Vectors) -> bytes:
    """A hash of what a file holds: of which encoder, role and texts, and in which shape.

    It tells a file of another encoder's that was put here, or one of another width, from ours. The
    numbers themselves are checked by zip.
    """
    about = f"{path.parent.parent.name} {path.parent.name} {vectors.shape} {vectors.dtype}"
    return hashlib.sha256(about.encode() + keys).digest()
