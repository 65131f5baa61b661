"""The files of weights of a preset: there, readable, within the folder, and of numbers."""

from __future__ import annotations

import re
from pathlib import Path

import h5py  # type: ignore[import-untyped]
import keras
from keras_hub.src.utils import preset_utils
from safetensors import SafetensorError, safe_open

from cptk.checks import shown
from cptk.files import read_json
from cptk.models.preset_reading import damaged_file, missing_file, read_object
from cptk.types import Model

#: Names that KerasHub and transformers give to the number of layers, the number of tokens, the
#: width, and the width within a layer.
_SIZE_NAMES = (
    ("num_layers", "num_hidden_layers", "n_layer"),
    ("vocabulary_size", "vocab_size"),
    ("hidden_dim", "hidden_size", "n_embd"),
    ("intermediate_dim", "intermediate_size", "n_inner"),
)
_FLOATS = ("float16", "bfloat16", "float32", "float64")


def weights_file(folder: Path) -> str:
    """The name of the file that leads to a local preset's weights."""
    if any(folder.glob("model_*.weights.h5")):
        return str(preset_utils.SHARDED_MODEL_WEIGHTS_CONFIG_FILE)
    return str(preset_utils.MODEL_WEIGHTS_FILE)


def check_weights(folder: Path) -> None:
    """Raise for a local preset whose files of weights are missing, damaged or outside of it."""
    name = weights_file(folder)
    if not (folder / name).exists():
        raise missing_file(folder, name)
    files = [folder / name]
    if name == preset_utils.SHARDED_MODEL_WEIGHTS_CONFIG_FILE:
        files = [folder / shard for shard in shards_of(folder, name, r"model_\d+\.weights\.h5")]
    for file in files:
        if not file.exists():
            raise missing_file(folder, file.name)
        if not file.is_file():
            raise damaged_file(folder, file.name, "it is no file")
        try:
            h5py.File(file, "r").close()
        except OSError as error:
            raise damaged_file(folder, file.name, str(error)) from error


def check_size(folder: Path, name: str, config: object) -> None:
    """Refuse a config that describes more weights than the files hold.

    A backbone of that size would be built for hours, or until memory ends.
    """
    files = [*folder.glob("*.weights.h5"), *folder.glob("*.safetensors")]
    if not isinstance(config, dict) or not files:
        return  # Other checks name these two faults.
    size = sum(file.stat().st_size for file in files)
    numbers = [next((config[n] for n in names if config.get(n)), 1) for names in _SIZE_NAMES]
    layers, tokens, width, inner = (n if isinstance(n, int) else 1 for n in numbers)
    # A layer has some weights, and no weight takes less than four bits.
    if max(64 * layers, tokens * width // 2, inner * width // 2) > size:
        fault = (
            f"it describes {layers:,} layers of width {width:,} and {inner:,} and {tokens:,} "
            f"tokens, and the weights have {size:,} bytes"
        )
        raise damaged_file(folder, name, fault)


def shards_of(folder: Path, name: str, pattern: str) -> list[str]:
    """The names of the files that an index of weights lists, each checked to be a plain name.

    Args:
        folder: The preset.
        name: The index.
        pattern: A regular expression that each name should match as a whole.
    """
    index = read_object(folder, name).get("weight_map")
    if not isinstance(index, dict):
        raise damaged_file(folder, name, f"its `weight_map` is {shown(index)}")
    lists = [value if isinstance(value, list) else [value] for value in index.values()]
    shards = [shard for value in lists for shard in value]
    for shard in shards:
        if not isinstance(shard, str) or not re.fullmatch(pattern, shard):
            raise damaged_file(folder, name, f"it names the file {shown(shard)}")
    return sorted(set(shards))


def check_finite(model: Model, file: str) -> None:
    """Raise `ValueError` for weights that are infinite or NaN: every embedding would be NaN.

    Args:
        model: A backbone or an embedder.
        file: Where its weights were read from, for the message.
    """
    for weight in model.weights:
        dtype = keras.backend.standardize_dtype(weight.dtype)
        if dtype in _FLOATS and not bool(keras.ops.all(keras.ops.isfinite(weight))):
            raise ValueError(
                f"{file} is damaged: {weight.path!r} holds values that are not finite, or not in "
                f"{weight.dtype}. Train again from an earlier state, or download it again."
            )


def first_damaged(folder: Path) -> str | None:
    """Name of the first file in a local preset that cannot be opened; `None` if all can be."""
    for path in sorted(folder.rglob("*")):
        if path.suffix in (".json", ".h5", ".safetensors") and not path.is_file():
            return path.name
        try:
            if path.suffix == ".json":
                read_json(path)
            elif path.suffix == ".h5":
                h5py.File(path, "r").close()
            elif path.suffix == ".safetensors":
                with safe_open(path, framework="numpy"):
                    pass
        except (OSError, ValueError, SafetensorError):
            return path.name
    return None
