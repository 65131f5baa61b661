"""Loading of embedders from KerasHub presets.

Only this module, `preset_*`, `saving` and `registration` use KerasHub's private preset code.
"""

from __future__ import annotations

import contextlib
import inspect
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import keras
import keras_hub
from keras_hub.src.utils import preset_utils

from cptk import checks
from cptk.models import preset_checks, preset_hugging_face, preset_weights
from cptk.models import preset_sentence_transformers as preset_modules
from cptk.models.backbones import keep_first_layers
from cptk.models.configured_backbones import is_encoder
from cptk.models.preprocessor import PAPER_ROLES, Role, RolesLike
from cptk.models.preset_reading import Refused, read_object
from cptk.tokenizers import JSONTokenizer, TokenizerSpec, tokenizer_json
from cptk.tokenizers.json_tokenizer import lower_cased, tokens_around
from cptk.tokenizers.specs import spec_from_content
from cptk.types import Config, DType


class Overrides(NamedTuple):
    """What a caller of `from_preset` wants otherwise than the preset has it; None leaves it."""

    num_layers: int | None = None
    sequence_length: int | None = None
    roles: RolesLike | None = None


class _Tokenizer(NamedTuple):
    """The tokenizer of a preset, and what its `tokenizer.json` says beside."""

    tokenizer: keras_hub.tokenizers.Tokenizer
    spec: TokenizerSpec | None = None
    around: tuple[list[int], list[int]] | None = None
    """The ids that it puts before and after every text."""


def load_embedder(
    cls: type[keras_hub.models.TextEmbedder],
    preset: str | os.PathLike[str],
    base: type[keras_hub.models.TextEmbedder],
    load_weights: bool,
    overrides: Overrides,
    **kwargs: object,
) -> keras_hub.models.TextEmbedder:
    """What `TextEmbedder.from_preset` does; see there.

    Args:
        cls: The class that was asked for the preset.
        preset: As the user gave it.
        base: `TextEmbedder`, of which a saved embedder is an instance.
        load_weights: Whether to load the weights or leave them at random.
        overrides: What shall differ from the preset.
        **kwargs: `pooling`, `normalize`, `dtype`, and what a subclass takes.
    """
    name, folder = resolve_preset(preset)
    modules = None
    has_modules = folder.is_dir() if folder is not None else name.startswith("hf://")
    if has_modules and preset_modules.is_sentence_transformers(name):
        modules = preset_modules.read_modules(name, load_weights)
        folder = None if folder is None else Path(modules.transformer)
        name = modules.transformer
    if folder is not None:
        preset_checks.check_folder(folder, load_weights)
    preset_checks.check_configs(name)
    # A bad `dtype` raises here, before `_errors_that_name_a_file` would put it down to the preset.
    keras.dtype_policies.get(kwargs.get("dtype"))
    with _errors_that_name_a_file(name, folder, "config.json"):
        loader = preset_utils.get_preset_loader(name)
        backbone_cls = loader.check_backbone_class()
    if cls.backbone_cls is not None and not issubclass(backbone_cls, cls.backbone_cls):
        raise ValueError(
            f"{cls.__name__} is made for a {cls.backbone_cls.__name__}, and {name!r} holds "
            f"a {backbone_cls.__name__}. Use cptk.models.TextEmbedder, which takes any "
            "backbone."
        )
    weights = preset_weights.weights_file(folder) if folder else "The file of weights"
    saved = find_saved_class(name, base)
    _check_arguments(saved or cls, kwargs)
    if saved is not None:
        if "projection" in kwargs:
            raise ValueError(
                "The projection of a saved embedder has weights and cannot be replaced on loading. "
                "Load it, and make another: "
                "type(embedder)(embedder.backbone, embedder.preprocessor, projection=…)."
            )
        with _errors_that_name_a_file(name, folder, "task.json, or the tokenizer's assets"):
            embedder = loader.load_task(saved, False, False, **kwargs)
        preset_checks.warn_of_differences(name)
        if load_weights:
            with _errors_that_name_a_file(name, folder, weights):
                _load_weights(loader, embedder)
                preset_weights.check_finite(embedder, weights)
        return _with_overrides(embedder, overrides)
    dtype = kwargs.pop("dtype", None)
    return _new_embedder(
        cls, loader, folder, weights, load_weights, overrides, modules, dtype, kwargs
    )


def _new_embedder(
    cls: type[keras_hub.models.TextEmbedder],
    loader: preset_utils.PresetLoader,
    folder: Path | None,
    weights: str,
    load_weights: bool,
    overrides: Overrides,
    modules: preset_modules.Modules | None,
    dtype: DType | None,
    arguments: dict[str, object],
) -> keras_hub.models.TextEmbedder:
    """An embedder on the backbone of a preset that holds no embedder of ours."""
    backbone, read = _load_parts(loader, folder, weights, load_weights, dtype, modules)
    if not loader.config.get("is_causal", True):
        preset_hugging_face.check_bidirectional(backbone)
        arguments = {"attention": "bidirectional", **arguments}
    length, roles = overrides.sequence_length, overrides.roles
    if is_encoder(backbone):
        own_arguments, own_length = _read_keras_hub_embedder(loader.preset)
        arguments = {**own_arguments, **arguments}
        length = own_length if length is None else length
    longest = getattr(backbone, "max_sequence_length", None)
    if overrides.num_layers is not None:
        backbone = keep_first_layers(backbone, overrides.num_layers)
    prefix, suffix = read.around or ([], [])
    kernels = []
    if modules is not None:
        if roles is None:
            roles = preset_modules.roles(modules.prompts, prefix, suffix)
        own = modules.sequence_length
        own = preset_modules.own_length(loader.preset, loader.config) if own is None else own
        if length is None and own is not None:
            # More positions than there are fail in sentence-transformers, for a text so long.
            length = own if longest is None else min(own, longest)
        kernels = modules.kernels if "projection" not in arguments else []
        arguments = {
            "pooling": modules.pooling,
            "normalize": modules.normalize,
            "projection": modules.projection,
            **arguments,
        }
    elif roles is None and read.around is not None and is_encoder(backbone):
        roles = {name: Role(prefix, suffix) for name in PAPER_ROLES}
    if length is None:
        length = min(256, longest or 256)
    preprocessor = cls.preprocessor_cls(read.tokenizer, length, roles, read.spec)
    embedder = cls(backbone, preprocessor, **arguments)
    preset_modules.set_projection(embedder, kernels if load_weights else [])
    return embedder


def _read_task(preset: str) -> Config | None:
    """What a preset says of the task that was saved; `None` where it holds a backbone alone."""
    if not preset_utils.check_file_exists(preset, preset_utils.TASK_CONFIG_FILE):
        return None
    file = Path(preset_utils.get_file(preset, preset_utils.TASK_CONFIG_FILE))
    task = read_object(file.parent, file.name)
    preset_checks.check_objects(task, file.parent, file.name)
    return task


def _read_keras_hub_embedder(preset: str) -> tuple[dict[str, object], int | None]:
    """How an encoder pools, and how long its texts are, where KerasHub's own embedder was saved."""
    config = (_read_task(preset) or {"config": {}})["config"]
    if "pooling_mode" not in config:
        return {}, None
    arguments = {"pooling": config["pooling_mode"], "normalize": config["normalize"]}
    preprocessor = config["preprocessor"] or {}
    return arguments, preprocessor.get("config", {}).get("sequence_length")


def find_saved_class(
    preset: str, base: type[keras_hub.models.TextEmbedder]
) -> type[keras_hub.models.TextEmbedder] | None:
    """The class of the embedder saved in a preset; `None` if it is no subclass of `base`."""
    task = _read_task(preset)
    if task is None:
        return None
    saved = keras.saving.get_registered_object(task["registered_name"])
    return saved if isinstance(saved, type) and issubclass(saved, base) else None


def resolve_preset(preset: object) -> tuple[str, Path | None]:
    """A preset as KerasHub takes it, and its folder if it is one on this machine."""
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


def _check_arguments(
    cls: type[keras_hub.models.TextEmbedder], arguments: Mapping[str, object]
) -> None:
    """Refuse a misspelt argument: Keras would take it and do nothing with it."""
    known = {"dtype", "name", "trainable", "compile"}
    for base in cls.__mro__[: cls.__mro__.index(keras_hub.models.TextEmbedder)]:
        if "__init__" in vars(base):
            known |= set(inspect.signature(vars(base)["__init__"]).parameters)
    known -= {"self", "backbone", "preprocessor", "kwargs"}
    for name in arguments:
        if name not in known:
            raise TypeError(
                f"`from_preset` has no argument {name!r}. It takes num_layers, sequence_length, "
                f"roles, {', '.join(sorted(known))}."
            )


@contextlib.contextmanager
def _errors_that_name_a_file(preset: str, folder: Path | None, file: str) -> Iterator[None]:
    """Turn what Keras, KerasHub and h5py raise into a `ValueError` that names the damaged file.

    Args:
        preset: The preset, for the message.
        folder: Its folder if it is one on this machine.
        file: The file to name where every file of the folder can be opened.
    """
    try:
        yield
    except (FileNotFoundError, ImportError, MemoryError, Refused):
        raise
    except Exception as error:
        damaged = (preset_weights.first_damaged(folder) if folder else None) or file
        raise ValueError(
            f"Could not load preset {preset!r}: {error} The fault is in {damaged}. If the preset "
            "is a folder, save, copy or download it again. If it is a name or a handle, check the "
            "connection."
        ) from error


def _load_weights(
    loader: preset_utils.PresetLoader, embedder: keras_hub.models.TextEmbedder
) -> None:
    """Load the weights as KerasHub's `load_task` does.

    They are loaded apart from the task, so that an error can say whether the fault is in the
    weights or in `task.json`.
    """
    file = preset_utils.TASK_WEIGHTS_FILE
    if preset_utils.check_file_exists(loader.preset, file):
        preset_utils.jax_memory_cleanup(embedder)
        embedder.load_task_weights(preset_utils.get_file(loader.preset, file))
    else:
        preset_utils.jax_memory_cleanup(embedder.backbone)
    loader._load_backbone_weights(embedder.backbone)


def _load_parts(
    loader: preset_utils.PresetLoader,
    folder: Path | None,
    weights: str,
    load_weights: bool,
    dtype: DType | None,
    modules: preset_modules.Modules | None,
) -> tuple[keras_hub.models.Backbone, _Tokenizer]:
    """Backbone and tokenizer of a preset without an embedder of ours."""
    preset, model_type = loader.preset, loader.config.get("model_type")
    known = model_type is not None and preset_hugging_face.is_known(loader.config)
    if model_type is not None:  # Hugging Face's layout
        weights = "model.safetensors"
        preset_hugging_face.check_settings(loader.config)
    vocabulary = " or ".join(["tokenizer.json", *tokenizer_json.converter_files(model_type)])
    with _errors_that_name_a_file(preset, folder, vocabulary):
        read = _load_tokenizer(preset, model_type, modules)
    with _errors_that_name_a_file(preset, folder, f"config.json or {weights}"):
        if known:
            backbone = preset_hugging_face.load_backbone(loader, load_weights, dtype)
        else:
            cls = loader.check_backbone_class()
            backbone = loader.load_backbone(cls, load_weights, dtype=dtype)
        if load_weights:
            preset_weights.check_finite(backbone, weights)
    with _errors_that_name_a_file(preset, folder, vocabulary):
        rows, spec = getattr(backbone, "vocabulary_size", None), read.spec
        if isinstance(read.tokenizer, JSONTokenizer):
            tokenizer = read.tokenizer.without_tokens_beyond(int(rows or 2**31))
        else:
            tokenizer = tokenizer_json.without_tokens_beyond(read.tokenizer, rows)
        if spec is not None and isinstance(rows, int):
            added = spec["added_tokens"] or []
            spec["added_tokens"] = [token for token in added if token["id"] < rows]
    return backbone, _Tokenizer(tokenizer, spec, read.around)


def _load_tokenizer(
    preset: str, model_type: str | None, modules: preset_modules.Modules | None
) -> _Tokenizer:
    """The tokenizer of a preset without an embedder of ours."""
    if model_type is None or not preset_utils.check_file_exists(preset, "tokenizer.json"):
        if modules is not None:
            raise FileNotFoundError(
                f"Preset folder {preset!r} is incomplete: it has no tokenizer.json. Save the "
                "tokenizer into it: tokenizer.save_pretrained(folder)."
            )
        return _Tokenizer(keras_hub.tokenizers.Tokenizer.from_preset(preset))
    file = preset_utils.get_file(preset, "tokenizer.json")
    content = tokenizer_json.read_tokenizer_json(file)
    if modules is not None and modules.lower_case:
        content = lower_cased(content)
    if modules is not None or "merges" not in content["model"]:
        return _Tokenizer(JSONTokenizer(content), None, tokens_around(content))
    around = tokens_around(content) if model_type == "roberta" else None
    spec = spec_from_content(content)
    needed = tokenizer_json.converter_files(model_type)
    if all(preset_utils.check_file_exists(preset, name) for name in needed):
        return _Tokenizer(keras_hub.tokenizers.Tokenizer.from_preset(preset), spec, around)
    return _Tokenizer(tokenizer_json.tokenizer_from_content(content, model_type), spec, around)


def _with_overrides(
    embedder: keras_hub.models.TextEmbedder, overrides: Overrides
) -> keras_hub.models.TextEmbedder:
    """A saved embedder with other layers, sequence length or roles, where these are given."""
    num_layers, sequence_length, roles = overrides
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
    other = type(embedder)(
        backbone,
        preprocessor,
        pooling=embedder.pooling,
        normalize=embedder.normalize,
        projection=embedder.projection,
        attention=embedder.attention,
        trained_dims=embedder.trained_dims if num_layers is None else (),
    )
    preset_modules.set_projection(other, preset_modules.get_projection(embedder))
    return other
