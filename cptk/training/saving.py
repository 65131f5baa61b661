"""A trainer on disk: whole or not at all."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from os import PathLike

import keras

from cptk.checks import path
from cptk.files import check_free_space, replacing
from cptk.types import Variable

#: For what Keras writes beside the variables.
_CONFIG = 2**20


def write_whole(
    save: Callable[..., None],
    suffix: str,
    filepath: str | PathLike[str],
    overwrite: bool,
    options: dict[str, object],
    variables: Sequence[Variable],
) -> None:
    """Have Keras write a file that is renamed when it is whole.

    A bucket, a folder, several files, and a file to ask about are left to Keras alone.

    Args:
        save: Keras's own method.
        suffix: Of the file that it writes.
        filepath: Where the file goes.
        overwrite: Whether a file that is there is replaced without asking.
        options: Further arguments of `save`.
        variables: What is saved, for the room that it takes.

    Raises:
        OSError: There is not the room.
    """
    if "://" in str(filepath):
        save(filepath, overwrite=overwrite, **options)
        return
    target = path(filepath, "filepath")
    size = int(sum(math.prod(v.shape) * _itemsize(v) for v in variables))
    check_free_space(target.parent, size + _CONFIG, "The trainer")
    asks = target.exists() and not (overwrite and target.is_file())
    if options or asks or not str(target).endswith(suffix) or not target.parent.is_dir():
        save(target, overwrite=overwrite, **options)
        return
    with replacing(target, suffix) as file:
        save(file.name, overwrite=True)


def _itemsize(variable: Variable) -> float:
    bits = re.search(r"\d+", keras.backend.standardize_dtype(variable.dtype))
    return int(bits[0]) / 8 if bits else 1
