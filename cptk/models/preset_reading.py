"""The files of a preset: found, read, and the errors for one that is missing or damaged."""

from __future__ import annotations

from pathlib import Path

from keras_hub.src.utils import preset_utils

from cptk.files import read_json
from cptk.types import Config


class Refused(ValueError):
    """A preset that is whole, and holds what KerasHub's classes would not compute as its model."""


def read_object(folder: Path, name: str) -> Config:
    """The content of a JSON file of a preset, which should be an object."""
    path = folder / name
    if not path.exists():
        raise missing_file(folder, name)
    if not path.is_file():
        raise damaged_file(folder, name, "it is no file")
    try:
        content = read_json(path)
    except ValueError as error:
        raise damaged_file(folder, name, str(error)) from error
    if not isinstance(content, dict):
        raise damaged_file(folder, name, "it holds no JSON object")
    return content


def find_file(preset: str, name: str) -> Path | None:
    """Where a file of a preset is on this machine; `None` if the preset has no such file.

    A file of a hub's preset is downloaded first.
    """
    try:
        return Path(preset_utils.get_file(preset, name))
    except FileNotFoundError:
        return None


def missing_file(folder: Path, name: str) -> FileNotFoundError:
    """The error for a file that is missing."""
    return FileNotFoundError(
        f"Preset folder {str(folder)!r} is incomplete: it has no {name}. Save or download it again."
    )


def damaged_file(folder: Path, name: str, fault: str) -> ValueError:
    """The error for a file that holds something else than it should."""
    return ValueError(
        f"{name} in preset folder {str(folder)!r} is damaged ({fault}). Save or download it again."
    )
