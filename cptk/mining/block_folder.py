"""Long work kept in a folder, block by block, so that it goes on where it was killed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeAlias

import numpy as np
from numpy.typing import NDArray

from cptk import checks, files
from cptk.types import Path as AnyPath

ABOUT = "about.json"

Arrays: TypeAlias = dict[str, NDArray[Any]]


class BlockFolder:
    """The blocks of one piece of work: files of arrays, each written whole or not at all.

    The folder says what its work depends on, and is refused to any other. A block that is missing
    or damaged is to be made anew. While it is open, no other process may use it.

    Args:
        path: The folder; it is made where there is none. Left out, nothing is kept.
        about: What all blocks depend on, by name, in a few words each.

    Raises:
        ValueError: Something else stands there, the work in the folder differs in what it depends
            on, or another process is at it.
        OSError: The folder cannot be made or written.

    Example:

    ```pycon
    >>> from cptk.mining.block_folder import BlockFolder
    >>> with BlockFolder("squares", {"numbers": "1 to 3"}) as kept:
    ...     kept.save("block-0", {"squares": np.array([1, 4, 9])})
    >>> with BlockFolder("squares", {"numbers": "1 to 3"}) as kept:
    ...     kept.load("block-0", {"squares": (3,)})["squares"].tolist()
    [1, 4, 9]

    ```
    """

    def __init__(self, path: AnyPath | None, about: Mapping[str, str]) -> None:
        self.path = None if path is None else checks.path(path, "folder")
        self._lock: files.Lock | None = None
        if self.path is None:
            return
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError):
            raise ValueError(
                f"`folder` should be a folder. Received: {str(self.path)!r}, where a file stands. "
                "Choose another place."
            ) from None
        self._lock = files.sole_lock(
            self.path,
            f"Another process works in {str(self.path)!r}. Wait for it, or choose another "
            "`folder`.",
        )
        try:
            self._claim(self.path, dict(about))
        except BaseException:
            self.close()
            raise

    def load(self, name: str, shapes: Mapping[str, tuple[int | None, ...]]) -> Arrays | None:
        """The arrays of a block; None where it is missing, damaged or of another shape.

        Args:
            name: The block's.
            shapes: The arrays by name, with their shapes; None stands for any length.
        """
        if self.path is None:
            return None
        try:
            with (
                (self.path / f"{name}.npz").open("rb") as file,
                np.load(file, allow_pickle=False) as content,
            ):
                arrays = {each: content[each] for each in shapes}
        except (
            Exception
        ):  # zlib, zipfile and NumPy have a dozen kinds for bytes that are not theirs
            return None
        fits = all(_fits(arrays[each].shape, shape) for each, shape in shapes.items())
        return arrays if fits else None

    def save(self, name: str, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Keep the arrays of a block."""
        if self.path is not None:
            with files.replacing(self.path / f"{name}.npz") as file:
                np.savez(file, allow_pickle=False, **arrays)

    def close(self) -> None:
        """Leave the folder to others; a second call does nothing."""
        if self._lock is not None:
            self._lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _claim(self, folder: Path, about: dict[str, str]) -> None:
        """Take a folder that is new, or is of the same work."""
        files.clear_scratch(folder)
        path = folder / ABOUT
        if path.exists():
            there = files.read_json(path, "The folder's")
            there = there if isinstance(there, dict) else {}
            differences = [
                f"`{name}` was {there.get(name, 'not there')} and is {about.get(name, 'left out')}"
                for name in {**about, **there}
                if there.get(name) != about.get(name)
            ]
            if differences:
                raise ValueError(
                    f"The folder {str(folder)!r} holds the work of another call: "
                    f"{'; '.join(differences)}. Choose another `folder`, or delete this one."
                )
        elif any(folder.iterdir()):
            raise ValueError(
                f"`folder` should be new, or that of an earlier call. In {str(folder)!r} are other "
                "files: choose another place."
            )
        else:
            with files.replacing(path) as file:
                file.write(json.dumps(about, indent=1).encode())


def _fits(shape: tuple[int, ...], expected: tuple[int | None, ...]) -> bool:
    return len(shape) == len(expected) and all(
        want in (None, have) for have, want in zip(shape, expected, strict=True)
    )
