"""Saving of embedders as presets: whole or not at all, and never over what is not a preset.

A preset is written into a hidden folder beside its place. Then the two change places in one step.
The hidden folder is locked while its process lives, so that a later save can tell which folders a
killed save left behind.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import keras
import keras_hub
from keras_hub.src.utils.tensor_utils import get_tensor_size_in_bits

from cptk import checks, files
from cptk.files import exchange as _exchange
from cptk.models.backbones import complete_config
from cptk.tokenizers.config_file import check_config_file
from cptk.types import Layer

#: What KerasHub writes into a preset folder, by path.
_PRESET_FILE = re.compile(
    r"(config|tokenizer|preprocessor|task|metadata|model\.weights)\.json"
    r"|(model(_\d+)?|task)\.weights\.h5"
    r"|assets|assets/tokenizer|assets/tokenizer/(vocabulary\.(json|txt|spm)|merges\.txt|tokenizer\.json)"
)
#: How the names of hidden folders begin. The preset's name, which may be as long as the system
#: allows, stands in a file within.
_SCRATCH = ".cptk-saving-"
#: In a hidden folder: the preset that stood there, the new one, and the name that both have.
_OLD, _NEW, _NAME = "old", "new", "name"


def save_embedder(
    embedder: keras_hub.models.TextEmbedder,
    save: Callable[..., None],
    preset_dir: object,
    max_shard_size: float | None,
) -> None:
    """What `TextEmbedder.save_to_preset` does; see there.

    Args:
        embedder: What is saved.
        save: KerasHub's own `save_to_preset` of the embedder.
        preset_dir, max_shard_size: As for `TextEmbedder.save_to_preset`.
    """
    shards = max_shard_size
    if shards is not None and not (checks.is_number(shards) and shards > 0):
        raise ValueError(
            "`max_shard_size` should be a positive number of GB, or None. Received: "
            f"{checks.shown(max_shard_size)}."
        )
    target = checks.folder_to_write(preset_dir, "preset_dir")
    own = _own_files(embedder.preprocessor)
    _check_content(target, own)
    files.check_free_space(target, _size(embedder), f"The preset {str(target)!r}")
    missing = [path for path in target.parents if not path.exists()]
    target.parent.mkdir(parents=True, exist_ok=True)
    _clear_left_behind(target.parent)
    try:
        with _scratch(target) as scratch:
            new = scratch / _NEW
            save(str(new), max_shard_size=max_shard_size)
            _complete_config_file(new / "config.json", embedder.backbone)
            files.flush_to_disk(new)
            _put_in_place(new, target, scratch / _OLD, own)
    except BaseException:
        for path in missing:
            with contextlib.suppress(OSError):
                path.rmdir()
        raise


def _own_files(preprocessor: Layer | None) -> set[str]:
    """Paths in the preset that the preprocessor's own choice of names adds to KerasHub's.

    Raises:
        ValueError: A name that leads out of the preset.
    """
    found: set[str] = set()
    if preprocessor is None:
        return found
    for layer in preprocessor._flatten_layers(include_self=True):
        name = getattr(layer, "config_file", None)
        if name is None:
            continue
        check_config_file(name)
        folder = f"assets/{name.split('.')[0]}"
        found |= {name, folder, *(f"{folder}/{a}" for a in getattr(layer, "file_assets", ()) or ())}
    return found


def _check_content(target: Path, own: set[str]) -> None:
    """Refuse to overwrite anything but an empty folder or a preset with nothing else in it."""
    if not target.exists():
        return
    advice = "Choose another place, so that nothing of yours is overwritten."
    if not target.is_dir():
        raise ValueError(f"{str(target)!r} exists and is not a preset folder. {advice}")
    names = sorted(path.relative_to(target).as_posix() for path in target.rglob("*"))
    others = [name for name in names if not _PRESET_FILE.fullmatch(name) and name not in own]
    if others:
        raise ValueError(
            f"{str(target)!r} exists and is not a preset folder, or not only that: it holds "
            f"{checks.shown(others, 300)}. {advice}"
        )
    if names and not _is_metadata(target / "metadata.json"):
        raise ValueError(f"{str(target)!r} exists and is not a preset folder. {advice}")


def _is_metadata(path: Path) -> bool:
    """Whether KerasHub wrote the file: other programs have files of the same names."""
    try:
        content = files.read_json(path)
    except (OSError, ValueError):
        return False
    return isinstance(content, dict) and "keras_version" in content


def _size(embedder: keras_hub.models.TextEmbedder) -> int:
    """Bytes that a preset takes at most: the weights, what HDF5 adds to each, the vocabulary."""
    weights = {id(weight): weight for weight in embedder.weights}.values()
    bits = sum(get_tensor_size_in_bits(weight.shape, weight.dtype) for weight in weights)
    tokens = 0
    if embedder.preprocessor is not None:
        with contextlib.suppress(NotImplementedError):  # a tokenizer of somebody's own
            tokens = embedder.preprocessor.tokenizer.vocabulary_size()
    return int(bits // 8 + 4096 * len(weights) + 64 * tokens + 65536)


def _complete_config_file(path: Path, backbone: keras_hub.models.Backbone) -> None:
    """Write into `config.json` what KerasHub leaves out, and a dtype that it can read."""
    config = json.loads(path.read_text(encoding="utf-8"))
    complete_config(config["config"], backbone)
    policy = backbone.dtype_policy
    if policy.name.startswith("mixed_"):
        # KerasHub 0.32 cannot read a mixed policy here. It can read a plain float policy, and uses
        # the policy of the session in its place unless `dtype` is given on loading.
        policy = keras.DTypePolicy(policy.variable_dtype)
        config["config"]["dtype"] = keras.saving.serialize_keras_object(policy)
    path.write_text(json.dumps(config, indent=4), encoding="utf-8")


# --- The hidden folder


@contextlib.contextmanager
def _scratch(target: Path) -> Iterator[Path]:
    """A locked hidden folder beside `target`, removed at the end."""
    lock = None
    # Again where another save has removed the folder: until it is locked, it looks left behind.
    while lock is None:
        scratch = Path(tempfile.mkdtemp(prefix=_SCRATCH, dir=target.parent))
        try:
            lock = _lock(scratch)
        except OSError:  # No locks on this system: nobody clears up after a killed save.
            break
    try:
        (scratch / _NAME).write_bytes(os.fsencode(target.name))
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
        if lock is not None:
            lock.release()


def _lock(scratch: Path) -> files.Lock | None:
    """The lock of a hidden folder; `None` where a living process holds it, or the folder is gone.

    Raises:
        OSError: The system or the file system has no locks.
    """
    try:
        lock = files.Lock(scratch)
    except (FileNotFoundError, BlockingIOError):
        return None
    if not scratch.exists():
        lock.release()
        return None
    return lock


def _clear_left_behind(parent: Path) -> None:
    """Remove the hidden folders of saves that were killed, and put back what they had moved."""
    for scratch in parent.glob(f"{_SCRATCH}*"):
        try:
            lock = _lock(scratch)
        except OSError:
            continue
        if lock is None:
            continue
        old, name = scratch / _OLD, scratch / _NAME
        with contextlib.suppress(OSError):
            target = parent / os.fsdecode(name.read_bytes())
            if old.exists() and not target.exists():
                old.rename(target)
        shutil.rmtree(scratch, ignore_errors=True)
        lock.release()


def _put_in_place(new: Path, target: Path, old: Path, own: set[str]) -> None:
    """Move `new` to `target`, and what stood at `target` to `old`."""
    _check_content(target, own)  # Something may have been put there during the save.
    if not target.exists():
        new.rename(target)
    elif _exchange(new, target):
        try:
            new.rename(old)
            _check_content(old, own)
        except BaseException:
            _exchange(old if old.exists() else new, target)
            raise
    else:  # A file system without exchange: for a moment nothing stands at `target`.
        target.rename(old)
        try:
            new.rename(target)
        except BaseException:
            old.rename(target)
            raise
