"""Finding and reading the files of a preset, and the two things that may be wrong with one."""

from pathlib import Path
from typing import Any

from keras_hub.src.utils import preset_utils

from cptk.files import read_json


def read_object(folder: Path, name: str) -> dict[str, Any]:
    """The content of a JSON file of a preset, which should be an object."""
    path = folder / name
    if not path.exists():
        raise incomplete(folder, name)
    if not path.is_file():
        raise damaged(folder, name, "it is no file")
    try:
        content = read_json(path)
    except ValueError as error:
        raise damaged(folder, name, str(error)) from error
    if not isinstance(content, dict):
        raise damaged(folder, name, "it holds no JSON object")
    return content


def find(preset: str, name: str) -> Path | None:
    """A file of a preset on this machine, downloaded if it is a hub's; `None` without one."""
    try:
        return Path(preset_utils.get_file(preset, name))
    except FileNotFoundError:
        return None


def incomplete(folder: Path, name: str) -> FileNotFoundError:
    """The error for a file that is missing."""
    return FileNotFoundError(
        f"Preset folder {str(folder)!r} is incomplete: it has no {name}. Save or download it again."
    )


def damaged(folder: Path, name: str, fault: str) -> ValueError:
    """The error for a file that holds what it should not."""
    return ValueError(
        f"{name} in preset folder {str(folder)!r} is damaged ({fault}). Save or download it again."
    )
