"""Loading of embedders from KerasHub presets, and shortening of backbones.

What leans on KerasHub's inner preset code is in this file, in `preset_*` and in `saving`.
"""

import contextlib
import inspect
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import keras
import keras_hub
from keras_hub.src.utils import preset_utils

from cptk import checks
from cptk.models import preset_files, preset_weights, tokenization, tokenizer_json
from cptk.models.preset_faults import read_object


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
    if not checks.is_integer(num_layers):
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
    preset, folder = _resolved(preset)
    if folder is not None:
        preset_files.check_folder(folder, load_weights)
    preset_files.check_configs(preset)
    keras.dtype_policies.get(kwargs.get("dtype"))  # A mistake here is not the preset's.
    with _blaming(preset, folder, "config.json"):
        loader = preset_utils.get_preset_loader(preset)
        backbone_cls = loader.check_backbone_class()
    if cls.backbone_cls not in (None, backbone_cls):
        raise ValueError(
            f"{cls.__name__} is made for a {cls.backbone_cls.__name__}, and {preset!r} holds "
            f"a {backbone_cls.__name__}. Use cptk.models.DecoderTextEmbedder, which takes any "
            "decoder."
        )
    weights = preset_weights.weights_file(folder) if folder else "The file of weights"
    saved = _saved_class(preset)
    _check_arguments(saved or cls, kwargs)
    if saved is not None:
        with _blaming(preset, folder, "task.json, or the tokenizer's assets"):
            embedder = loader.load_task(saved, False, False, **kwargs)
        preset_files.warn_of_differences(preset)
        if load_weights:
            with _blaming(preset, folder, weights):
                _load_weights(loader, embedder)
                preset_weights.check_finite(embedder, weights)
        return _changed(embedder, num_layers, sequence_length, roles)
    backbone, tokenizer, spec = _decoder(
        loader, folder, weights, load_weights, kwargs.pop("dtype", None)
    )
    if num_layers is not None:
        backbone = keep_first_layers(backbone, num_layers)
    if sequence_length is None:
        sequence_length = min(256, getattr(backbone, "max_sequence_length", None) or 256)
    preprocessor = cls.preprocessor_cls(tokenizer, sequence_length, roles, spec)
    return cls(backbone, preprocessor, **kwargs)


def _check_arguments(cls: Any, arguments: Mapping[str, Any]) -> None:
    """Refuse a misspelt argument: Keras would take it and do nothing with it."""
    known = {"dtype", "name", "trainable", "compile"}
    for base in cls.__mro__[: cls.__mro__.index(keras_hub.models.TextEmbedder)]:
        known |= set(inspect.signature(base.__init__).parameters)
    known -= {"self", "backbone", "preprocessor", "kwargs"}
    for name in arguments:
        if name not in known:
            raise TypeError(
                f"`from_preset` has no argument {name!r}. It takes num_layers, sequence_length, "
                f"roles, {', '.join(sorted(known))}."
            )


def _resolved(preset: Any) -> tuple[str, Path | None]:
    """A preset as KerasHub takes it, and its folder where it is one on this machine."""
    if not isinstance(preset, str | os.PathLike):
        raise TypeError(
            "`preset` should be a folder, a built-in name or a handle. Received: "
            f"{checks.shown(preset)} of type {type(preset).__name__}."
        )
    name = os.fspath(preset)
    if isinstance(name, str) and ("://" in name or name in keras_hub.models.Backbone.presets):
        return name, None
    folder = checks.path(preset, "preset")
    return str(folder), folder


@contextlib.contextmanager
def _blaming(preset: str, folder: Path | None, file: str) -> Iterator[None]:
    """Turn what Keras, KerasHub and h5py raise of a damaged file into a `ValueError` that names it.

    Args:
        preset: The preset, for the message.
        folder: Its folder where it is a local one.
        file: What is at fault where no file can be found that cannot be opened.
    """
    try:
        yield
    except (FileNotFoundError, ImportError, MemoryError):
        raise
    except Exception as error:
        damaged = (preset_weights.first_damaged(folder) if folder else None) or file
        raise ValueError(
            f"Could not load preset {preset!r}: {error} The fault is in {damaged}. If the preset "
            "is a folder, save, copy or download it again. If it is a name or a handle, check the "
            "connection."
        ) from error


def _load_weights(loader: Any, embedder: Any) -> None:
    """As KerasHub's `load_task` does, apart from it so that errors can name the file."""
    file = preset_utils.TASK_WEIGHTS_FILE
    if preset_utils.check_file_exists(loader.preset, file):
        preset_utils.jax_memory_cleanup(embedder)
        embedder.load_task_weights(preset_utils.get_file(loader.preset, file))
    else:
        preset_utils.jax_memory_cleanup(embedder.backbone)
    loader._load_backbone_weights(embedder.backbone)


def _decoder(
    loader: Any, folder: Path | None, weights: str, load_weights: bool, dtype: Any
) -> tuple[Any, Any, dict[str, Any] | None]:
    """Backbone, tokenizer and tokenizer spec of a preset without an embedder of ours."""
    preset, kind = loader.preset, loader.config.get("model_type")
    if kind is not None:  # Hugging Face's layout
        weights = "model.safetensors"
    vocabulary = " or ".join(["tokenizer.json", *tokenizer_json.old_files(kind)])
    with _blaming(preset, folder, vocabulary):
        tokenizer, spec = _tokenizer(preset, kind)
    with _blaming(preset, folder, f"config.json or {weights}"):
        backbone = loader.load_backbone(loader.check_backbone_class(), load_weights, dtype=dtype)
        if load_weights:
            preset_weights.check_finite(backbone, weights)
    with _blaming(preset, folder, vocabulary):
        rows = getattr(backbone, "vocabulary_size", None)
        tokenizer = tokenizer_json.within_embedding(tokenizer, rows)
        if spec is not None and isinstance(rows, int):
            spec["added_tokens"] = [token for token in spec["added_tokens"] if token["id"] < rows]
    return backbone, tokenizer, spec


def _tokenizer(preset: str, model_type: str | None) -> tuple[Any, dict[str, Any] | None]:
    """The tokenizer of a decoder's preset, and its spec where the layout is Hugging Face's."""
    if model_type is None or not preset_utils.check_file_exists(preset, "tokenizer.json"):
        return keras_hub.tokenizers.Tokenizer.from_preset(preset), None
    file = preset_utils.get_file(preset, "tokenizer.json")
    content = tokenizer_json.read_tokenizer_json(file)
    spec = tokenization.spec_of(content)
    old = tokenizer_json.old_files(model_type)
    if all(preset_utils.check_file_exists(preset, name) for name in old):
        return keras_hub.tokenizers.Tokenizer.from_preset(preset), spec
    return tokenizer_json.keras_tokenizer(content, model_type), spec


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
    file = Path(preset_utils.get_file(preset, preset_utils.TASK_CONFIG_FILE))
    task = read_object(file.parent, file.name)
    preset_files.check_objects(task, file.parent, file.name)
    saved = keras.saving.get_registered_object(task["registered_name"])
    return saved if isinstance(saved, type) and issubclass(saved, DecoderTextEmbedder) else None


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
        saved = None
        if cls is base:
            preset, _ = _resolved(preset)
            if os.path.isdir(preset) or "://" in preset:
                saved = _saved_class(preset)
        loader: Any = super(base, cls) if saved is None else saved
        return loader.from_preset(preset, load_weights, **kwargs)

    from_preset.__doc__ = base.from_preset.__doc__
    base.from_preset = classmethod(from_preset)  # type: ignore[arg-type]
