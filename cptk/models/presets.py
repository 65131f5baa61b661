"""Loading and saving of embedders as KerasHub presets, and shortening of backbones.

Everything that leans on KerasHub's inner preset code is in this file.
"""

import inspect
import json
import os
import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py  # type: ignore[import-untyped]
import keras
import keras_hub
import numpy as np
from keras_hub.src.utils import preset_utils
from safetensors import SafetensorError, safe_open

from cptk.models import tokenization

#: What KerasHub writes into a preset folder.
_PRESET_FILE = re.compile(
    r"(config|tokenizer|preprocessor|task|metadata|model\.weights)\.json"
    r"|(model(_\d+)?|task)\.weights\.h5|assets"
)


def keep_first_layers(backbone: Any, num_layers: int) -> Any:
    """The first `num_layers` layers of a decoder, as a backbone of the same class.

    A small decoder's middle layers often embed better than its last ones, and cost less. The
    final norm stays in place but its scale is that of a new layer, not the trained one, which
    belongs to the states after the last layer. (Ours; measured in the docs, "Concepts".)

    Args:
        backbone: A KerasHub decoder backbone.
        num_layers: How many of its layers to keep, from 1 to all of them.

    Returns:
        A backbone with weights of its own; `backbone` itself where that has `num_layers` layers.

    Raises:
        ValueError: `num_layers` is out of range, or LoRA is already enabled.

    Example:

    ```python
    embedder = cptk.models.DecoderTextEmbedder(cptk.models.keep_first_layers(backbone, 2))
    ```
    """
    total = getattr(backbone, "num_layers", None)
    if not isinstance(total, int):
        raise ValueError(f"`backbone` should be a decoder with layers. Received: {backbone!r}.")
    if isinstance(num_layers, bool) or not isinstance(num_layers, int | np.integer):
        raise ValueError(f"`num_layers` should be an integer. Received: {num_layers!r}.")
    if not 1 <= num_layers <= total:
        raise ValueError(
            f"`num_layers` should be from 1 to {total}, the number of layers of this "
            f"{type(backbone).__name__}. Received: {num_layers}."
        )
    if num_layers == total:
        return backbone
    if any(getattr(layer, "lora_enabled", False) for layer in backbone._flatten_layers()):
        raise ValueError("Shorten the backbone first, then call `enable_lora` on the short one.")
    # Some backbones describe each layer in a list (SmolLM3's rotary layers).
    config = {
        key: value[:num_layers] if isinstance(value, list) and len(value) == total else value
        for key, value in complete_config(backbone.get_config(), backbone).items()
    }
    config["num_layers"] = int(num_layers)
    if "tie_word_embeddings" in config:
        config["tie_word_embeddings"] = True  # An embedder has no use for the output embedding.
    short = type(backbone).from_config(config)
    *copied, _final_norm = short.layers
    for layer in copied:
        # With tied embeddings the source may have one variable more, at its end.
        for target, source in zip(
            layer.weights, backbone.get_layer(layer.name).weights, strict=False
        ):
            # A copy: on JAX the two would share one buffer, which the next step of either deletes.
            target.assign(keras.ops.copy(source))
    return short


def complete_config(config: dict[str, Any], backbone: Any) -> dict[str, Any]:
    """Add, in place, what a backbone's `get_config` forgets of its constructor's arguments.

    Llama's forgets `tie_word_embeddings` in KerasHub 0.32: a tied backbone would come back untied
    and its weights would not load.
    """
    for name in inspect.signature(type(backbone).__init__).parameters:
        known = name in config or name in ("self", "kwargs", "dtype")
        if not known and hasattr(backbone, name):
            config[name] = getattr(backbone, name)
    return config


def load_embedder(
    cls: Any,
    preset: str,
    load_weights: bool,
    num_layers: int | None,
    sequence_length: int | None,
    roles: Any,
    **kwargs: Any,
) -> Any:
    """What `DecoderTextEmbedder.from_preset` does; see there."""
    preset = os.fspath(preset)
    folder = None
    if "://" not in preset and preset not in keras_hub.models.Backbone.presets:
        folder = Path(preset)
        _check_folder(folder)
    try:
        loader = preset_utils.get_preset_loader(preset)
        backbone_cls = loader.check_backbone_class()
        if cls.backbone_cls not in (None, backbone_cls):
            raise ValueError(
                f"{cls.__name__} is made for a {cls.backbone_cls.__name__}, and {preset!r} holds "
                f"a {backbone_cls.__name__}. Use cptk.models.DecoderTextEmbedder, which takes any "
                "decoder."
            )
        saved = _saved_class(preset)
        if saved is not None:
            embedder = loader.load_task(saved, load_weights, load_weights, **kwargs)
            return _changed(embedder, num_layers, sequence_length, roles)
        dtype = kwargs.pop("dtype", None)
        backbone = loader.load_backbone(backbone_cls, load_weights, dtype=dtype)
        spec = None
        if "model_type" in loader.config and preset_utils.check_file_exists(
            preset, "tokenizer.json"
        ):  # Hugging Face's layout.
            file = preset_utils.get_file(preset, "tokenizer.json")
            spec = tokenization.spec_from_tokenizer_json(file)
        tokenizer = keras_hub.tokenizers.Tokenizer.from_preset(preset)
    except FileNotFoundError:
        raise
    except (OSError, EOFError, KeyError, SafetensorError, json.JSONDecodeError) as error:
        damaged = _first_damaged(folder) if folder else None
        fault = f"{damaged} is damaged ({error})." if damaged else f"{error}"
        raise ValueError(
            f"Could not load preset {preset!r}: {fault} If it is a folder, a file in it is damaged "
            "or incomplete: copy or download it again. If it is a name or a handle, check the "
            "connection."
        ) from error
    if num_layers is not None:
        backbone = keep_first_layers(backbone, num_layers)
    if sequence_length is None:
        sequence_length = min(256, getattr(backbone, "max_sequence_length", None) or 256)
    preprocessor = cls.preprocessor_cls(tokenizer, sequence_length, roles, spec)
    return cls(backbone, preprocessor, **kwargs)


def _changed(embedder: Any, num_layers: int | None, sequence_length: int | None, roles: Any) -> Any:
    """A saved embedder with other layers, sequence length or roles, where these are given."""
    backbone, preprocessor = embedder.backbone, embedder.preprocessor
    if num_layers is None and sequence_length is None and roles is None:
        return embedder
    if num_layers is not None:
        backbone = keep_first_layers(backbone, num_layers)
    if sequence_length is not None or roles is not None:
        if preprocessor is None:
            raise ValueError(
                "This embedder was saved without a preprocessor: it has no roles and no sequence "
                "length. Leave `roles` and `sequence_length` out."
            )
        preprocessor = type(preprocessor)(
            preprocessor.tokenizer,
            preprocessor.sequence_length if sequence_length is None else sequence_length,
            preprocessor.roles if roles is None else roles,
            preprocessor.tokenizer_spec,
        )
    return type(embedder)(
        backbone, preprocessor, pooling=embedder.pooling, normalize=embedder.normalize
    )


def _saved_class(preset: str) -> Any:
    """The class of the embedder saved in a preset; `None` if it is not one of ours."""
    from cptk.models.text_embedder import DecoderTextEmbedder

    if not preset_utils.check_file_exists(preset, preset_utils.TASK_CONFIG_FILE):
        return None
    task = preset_utils.load_json(preset, preset_utils.TASK_CONFIG_FILE)
    saved = keras.saving.get_registered_object(task["registered_name"])
    return saved if isinstance(saved, type) and issubclass(saved, DecoderTextEmbedder) else None


def _check_folder(folder: Path) -> None:
    """Say at once what a local preset lacks."""
    if not folder.is_dir():
        raise FileNotFoundError(
            f"There is no preset {str(folder)!r}: it is neither a folder nor a built-in name. "
            "Pass a folder, a built-in name such as 'gpt2_base_en', or a kaggle:// or hf:// handle."
        )
    if "registered_name" not in _read_json(folder, "config.json"):
        return  # Hugging Face's layout, of which KerasHub itself names what is missing.
    sharded = any(folder.glob("model_*.weights.h5"))
    weights = (
        preset_utils.SHARDED_MODEL_WEIGHTS_CONFIG_FILE
        if sharded
        else preset_utils.MODEL_WEIGHTS_FILE
    )
    if not (folder / weights).exists():
        raise _incomplete(folder, weights)
    if (folder / "task.json").exists():
        task = _read_json(folder, "task.json")
        if task.get("config", {}).get("preprocessor", True) is None:
            return
        _read_json(folder, "preprocessor.json")
    elif (folder / "preprocessor.json").exists():
        name = _read_json(folder, "preprocessor.json").get("registered_name")
        if str(name).startswith("cptk>"):  # Without task.json its roles would be lost in silence.
            raise _incomplete(folder, "task.json")
    _read_json(folder, "tokenizer.json")


def _incomplete(folder: Path, name: str) -> FileNotFoundError:
    return FileNotFoundError(
        f"Preset folder {str(folder)!r} is incomplete: it has no {name}. Save or download it again."
    )


def _read_json(folder: Path, name: str) -> Any:
    path = folder / name
    if not path.exists():
        raise _incomplete(folder, name)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise ValueError("it holds no JSON object")
    except ValueError as error:
        raise ValueError(
            f"{name} in preset folder {str(folder)!r} is damaged ({error}). Save or download it "
            "again."
        ) from error
    return content


def _first_damaged(folder: Path) -> str | None:
    """Name of a file in a local preset that cannot be opened as what it should be."""
    for path in sorted(folder.rglob("*")):
        try:
            if path.suffix == ".json":
                json.loads(path.read_text(encoding="utf-8"))
            elif path.suffix == ".h5":
                h5py.File(path, "r").close()
            elif path.suffix == ".safetensors":
                with safe_open(path, framework="numpy"):
                    pass
        except (OSError, ValueError, SafetensorError):
            return path.name
    return None


def save_embedder(
    embedder: Any, save: Callable[..., None], preset_dir: str, max_shard_size: float
) -> None:
    """What `DecoderTextEmbedder.save_to_preset` does; `save` is KerasHub's own."""
    target = Path(preset_dir)
    _check_target(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent) as scratch:
        new, old = Path(scratch, "new"), Path(scratch, "old")
        save(str(new), max_shard_size=max_shard_size)
        config = json.loads((new / "config.json").read_text())
        complete_config(config["config"], embedder.backbone)
        policy = embedder.backbone.dtype_policy
        if policy.name.startswith("mixed_"):
            # KerasHub 0.32 cannot read a mixed policy here. A float one it replaces, on loading,
            # by the policy of the day, unless `dtype` is given.
            policy = keras.DTypePolicy(policy.variable_dtype)
            config["config"]["dtype"] = keras.saving.serialize_keras_object(policy)
        (new / "config.json").write_text(json.dumps(config, indent=4))
        if target.exists():
            target.rename(old)
        try:
            new.rename(target)
        except BaseException:
            if old.exists():
                old.rename(target)
            raise


def _check_target(target: Path) -> None:
    """Refuse to overwrite anything but an empty folder or a preset with nothing else in it."""
    if not target.name:
        raise ValueError(f"`preset_dir` should name a folder to write. Received: {str(target)!r}.")
    if not target.exists():
        return
    if target.is_dir():
        names = sorted(path.name for path in target.iterdir())
        others = [name for name in names if not _PRESET_FILE.fullmatch(name)]
        if not names or (not others and "metadata.json" in names):
            return
        if others:
            raise ValueError(
                f"{str(target)!r} exists and is not a preset folder, or not only that: it holds "
                f"{others[:5]}. Choose another place, so that nothing of yours is overwritten."
            )
    raise ValueError(
        f"{str(target)!r} exists and is not a preset folder. Choose another place, so that nothing "
        "of yours is overwritten."
    )


def register() -> None:
    """Let `keras_hub.models.TextEmbedder.from_preset` load every preset saved by cptk.

    KerasHub looks a task up by its backbone and takes some class registered for it. It has
    embedders of its own for Gemma 3 and Qwen 3, and ours is for any backbone, so for our presets
    the class named in `task.json` decides.
    """
    base = keras_hub.models.TextEmbedder
    if "from_preset" in vars(base):
        return

    def from_preset(cls: Any, preset: str, load_weights: bool = True, **kwargs: Any) -> Any:
        saved = _saved_class(preset) if cls is base else None
        loader: Any = super(base, cls) if saved is None else saved
        return loader.from_preset(preset, load_weights, **kwargs)

    from_preset.__doc__ = base.from_preset.__doc__
    base.from_preset = classmethod(from_preset)  # type: ignore[arg-type]
