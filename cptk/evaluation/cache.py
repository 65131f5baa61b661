"""Each text embedded once: in memory within an evaluation, and on disk between them."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import inspect
import os
import time
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cptk import checks
from cptk.evaluation.encoders import Vectors, _takes_role, embed
from cptk.evaluation.fingerprint import fingerprint
from cptk.files import replacing

# Texts embedded between two writes to disk: what an interrupted run can lose.
BLOCK = 2048

Progress = Callable[[int, int, float], None]


class CachedEncoder:
    """An encoder that embeds each distinct text in each role once.

    Vectors are kept in memory, and with `cache_dir` on disk too, in a folder named by a hash of
    all that the vectors depend on: other weights, another role or another sequence length have
    another folder, so that nothing stale is ever read. Files are written beside their place and
    renamed; one that is damaged is computed anew. No pickle is read or written.

    `evaluate` makes one for each call. Make it yourself to share it between calls.

    Args:
        encoder: Anything that embeds text (`cptk.evaluation.embed`).
        cache_dir: Folder of the cache; `None` keeps vectors in memory alone.
        name: For an encoder whose weights cannot be read (a function, a vectoriser): what stands
            for it in the cache. Change it whenever the encoder changes.
        on_progress: Called as `(done, total, seconds)` after each block of a call's new texts, in
            place of the encoder's own progress bar.

    Raises:
        ValueError: `cache_dir` is given, the encoder's weights cannot be read and it has no name.

    Example:

    ```python
    encoder = CachedEncoder(embedder, cache_dir="embeddings")
    report = evaluate(encoder, "sst2").merge(evaluate(encoder, "sts"))
    ```
    """

    is_embed = True  # `embed` passes its vectors on as they are

    def __init__(
        self,
        encoder: Any,
        cache_dir: str | os.PathLike[str] | None = None,
        name: str | None = None,
        on_progress: Progress | None = None,
    ) -> None:
        if isinstance(encoder, CachedEncoder):
            raise TypeError("`encoder` is a CachedEncoder already; give the encoder in it.")
        self.encoder = encoder
        self.name = name
        self.on_progress = on_progress
        self.embedded = 0
        self._folder: Path | None = None
        if cache_dir is not None:
            key = self.fingerprint
            if key is None and name is None:
                raise ValueError(
                    f"The weights of this {type(encoder).__name__} cannot be read, so its vectors "
                    "cannot be told from another's on disk. Give it a `name` (and a new one "
                    "whenever it changes), or leave `cache_dir` out."
                )
            key = key or hashlib.sha256(f"name: {name}".encode()).hexdigest()
            self._folder = Path(cache_dir) / key[:32]
        self._memory: dict[str | None, _Role] = {}

    @functools.cached_property
    def fingerprint(self) -> str | None:
        """Hash of the encoder as it is when first asked; `None` if its weights cannot be read."""
        return fingerprint(self.encoder)

    def __call__(self, texts: Sequence[str], role: str | None = None) -> Vectors:
        """(n, d) float32 vectors of n texts."""
        checked = checks.texts(texts)
        role = self._role(role)
        if role not in self._memory:
            folder = None if self._folder is None else self._folder / (role or "default")
            self._memory[role] = _Role(folder)
        memory = self._memory[role]
        keys = [hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest() for text in checked]
        new = {key: text for key, text in zip(keys, checked, strict=True) if key not in memory.rows}
        if new:
            self._embed(new, role, memory)
        return memory.vectors([memory.rows[key] for key in keys])

    encode_text = __call__

    def _embed(self, new: dict[bytes, str], role: str | None, memory: _Role) -> None:
        start = time.perf_counter()
        # Longest first: little padding in a block, and what is too long fails at once.
        order = sorted(new, key=lambda key: -len(new[key]))
        size = BLOCK if self._folder is not None or self.on_progress else len(order)
        encoder = quiet(self.encoder) if self.on_progress else self.encoder
        for begin in range(0, len(order), size):
            keys = order[begin : begin + size]
            memory.add(keys, embed(encoder, [new[key] for key in keys], role))
            self.embedded += len(keys)
            if self.on_progress:
                self.on_progress(begin + len(keys), len(order), time.perf_counter() - start)

    def _role(self, role: str | None) -> str | None:
        """The role that an encoder makes of the one asked for, so that equal ones are shared."""
        function = getattr(self.encoder, "encode_text", None)
        if function is None or not _takes_role(function):
            return None
        roles = getattr(getattr(self.encoder, "preprocessor", None), "roles", None)
        if roles is not None and len(roles) == 1:
            return None
        return "document" if role is None and roles is not None and "document" in roles else role


class Quiet:
    """An embedder without its progress bar."""

    def __init__(self, embedder: Any, encode_text: Callable[..., Any]) -> None:
        self.preprocessor = getattr(embedder, "preprocessor", None)
        self.encode_text = encode_text


def quiet(encoder: Any) -> Any:
    """The encoder without its progress bar, if it has one to turn off."""
    function = getattr(encoder, "encode_text", None)
    if function is None or "verbose" not in inspect.signature(function).parameters:
        return encoder
    return Quiet(encoder, functools.partial(function, verbose=0))


class _Role:
    """Vectors of one role: in memory, and as files `<hash of the texts>.npz` in a folder."""

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        self.rows: dict[bytes, int] = {}
        self._blocks: list[Vectors] = []
        for path in sorted(folder.glob("*.npz")) if folder is not None and folder.is_dir() else ():
            content = _read(path)
            if content is None:
                with contextlib.suppress(OSError):
                    path.unlink()
            else:
                self._remember([bytes(key) for key in content[0]], content[1], path)

    def add(self, keys: list[bytes], vectors: Vectors) -> None:
        self._remember(keys, vectors, self.folder)
        if self.folder is not None:
            self.folder.mkdir(parents=True, exist_ok=True)
            name = hashlib.sha256(b"".join(sorted(keys))).hexdigest()[:32]
            _write(self.folder / f"{name}.npz", np.frombuffer(b"".join(keys), np.uint8), vectors)

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
    """Keys and vectors of a file; `None` if it is damaged."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as content:
            keys, vectors = content["keys"], content["vectors"]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None
    whole = vectors.ndim == 2 and vectors.dtype == np.float32 and np.isfinite(vectors).all()
    if not whole or keys.dtype != np.uint8 or keys.shape != (len(vectors) * 32,):
        return None
    return keys.reshape(-1, 32), vectors


def _write(path: Path, keys: NDArray[np.uint8], vectors: Vectors) -> None:
    with replacing(path) as file:
        np.savez(file, keys=keys, vectors=vectors)
