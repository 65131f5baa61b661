"""The folder of an export: there whole or not at all, and never in the place of anything else."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from cptk import checks, files
from cptk.types import Config
from cptk.version import __version__

#: In every export: what it is, what was measured, and which files belong to it.
RECORD = "cptk_export.json"
CARD = "README.md"
_SCRATCH = ".cptk-export-"
#: Endings of files. A folder of such a name would be taken for the file in it.
_FILE_ENDINGS = (".gguf", ".onnx", ".safetensors", ".tflite", ".zip")


class Exported(NamedTuple):
    """What an export has written, and what was measured on it.

    Attributes:
        folder: Where it stands.
        files: Bytes of each file, by its path in the folder.
        difference: The largest absolute difference between a number of its vectors and the
            embedder's own, over `cptk.export`'s sample texts, or None where the export cannot be
            run here. With `quantize=` it is the difference that this makes.
        cosine: The smallest cosine of its vectors to the embedder's own, over the same texts.
        notes: What a user of the folder should know.

    Example:

    ```pycon
    >>> import cptk
    >>> exported = cptk.export.to_sentence_transformers(embedder, "st", roles=["query"])
    >>> "model.safetensors" in exported.files
    True

    ```
    """

    folder: Path
    files: dict[str, int]
    difference: float | None = None
    cosine: float | None = None
    notes: tuple[str, ...] = ()


def checked_folder(folder: object, overwrite: object) -> Path:
    """The folder that will be written, before any work.

    Raises:
        TypeError: No path.
        ValueError: It exists, and `overwrite` is not True; or it holds what no export wrote; or its
            parent is a file; or it has the name of a file, or one that is too long.
        PermissionError: Its parent cannot be written.
    """
    checks.switch("overwrite", overwrite)
    given = checks.path(folder, "folder")
    if given.suffix in _FILE_ENDINGS:
        raise ValueError(
            f"`folder` should name a folder: an export is the model, its tokenizer and a card. "
            f"Received: {checks.shown(str(given))}. Leave {given.suffix} out."
        )
    target = checks.folder_to_write(given, "folder")
    if os.path.lexists(target):
        _check_replaceable(target, bool(overwrite))
    return target


def _check_replaceable(target: Path, overwrite: bool) -> None:
    if not overwrite:
        raise ValueError(
            f"`folder` exists: {checks.shown(str(target))}. Choose another, or pass overwrite=True "
            "to replace an export that stands there."
        )
    strange = strangers(target) if target.is_dir() else [target.name]
    if strange:
        raise ValueError(
            f"`folder` is not replaced: {checks.shown(str(target))} holds what no export of cptk "
            f"wrote, {checks.shown(strange)}. Choose another folder, so that nothing of yours is "
            "lost."
        )


def strangers(folder: Path) -> list[str]:
    """The files of a folder that do not belong to an export."""
    found = {
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if not path.is_dir() or path.is_symlink()
    }
    try:
        record = files.read_json(folder / RECORD)
    except (OSError, ValueError):
        return sorted(found)
    known = record.get("files") if isinstance(record, dict) else None
    known = [*known, RECORD] if isinstance(known, list) else []
    return sorted(found - set(map(str, known)))


@contextlib.contextmanager
def writing(target: Path, overwrite: bool) -> Iterator[Path]:
    """A hidden folder that takes the place of `target` when the block ends, and else vanishes.

    Args:
        target: What `checked_folder` returned.
        overwrite: As there.
    """
    missing = [path for path in target.parents if not path.exists()]
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        with _scratch(target) as scratch:
            new, old = scratch / "new", scratch / "old"
            new.mkdir()
            yield new
            files.flush_to_disk(new)
            if os.path.lexists(target):  # also where it came to be during the work
                _check_replaceable(target, overwrite)
                if not files.exchange(new, target):  # for a moment nothing stands there
                    target.rename(old)
                    try:
                        new.rename(target)
                    except BaseException:
                        old.rename(target)
                        raise
            else:
                new.rename(target)
    except BaseException:
        for path in missing:
            with contextlib.suppress(OSError):
                path.rmdir()
        raise


@contextlib.contextmanager
def _scratch(target: Path) -> Iterator[Path]:
    """A locked hidden folder beside `target`, removed at the end."""
    _clear_left_behind(target.parent)
    lock: files.Lock | None = None
    scratch = target
    while lock is None:  # Another export may have removed the folder before it was locked.
        scratch = Path(tempfile.mkdtemp(prefix=_SCRATCH, dir=target.parent))
        try:
            lock = files.Lock(scratch)
        except (BlockingIOError, FileNotFoundError):
            continue
        except OSError:  # no locks on this system
            break
        if not scratch.exists():
            lock.release()
            lock = None
    try:
        (scratch / "name").write_bytes(os.fsencode(target.name))
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
        if lock is not None:
            lock.release()


def _clear_left_behind(parent: Path) -> None:
    """Remove the hidden folders of exports that were killed, and put back what they had moved."""
    for left in parent.glob(f"{_SCRATCH}*"):
        with contextlib.suppress(OSError):
            lock = files.Lock(left)
            with contextlib.suppress(OSError):
                target = parent / os.fsdecode((left / "name").read_bytes())
                if (left / "old").exists() and not os.path.lexists(target):
                    (left / "old").rename(target)
            shutil.rmtree(left, ignore_errors=True)
            lock.release()


def write_json(path: Path, content: object) -> None:
    """A JSON file in the folder of an export."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def finish(folder: Path, card: str, about: Mapping[str, object]) -> dict[str, int]:
    """Write the card and the record beside the model, and return the bytes of each file."""
    (folder / CARD).write_text(card, encoding="utf-8")
    names = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
    record: Config = {"cptk": __version__, **about, "files": names}
    write_json(folder / RECORD, record)
    return {name: (folder / name).stat().st_size for name in [*names, RECORD]}
