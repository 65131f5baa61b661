"""Folders that sentence-transformers wrote: what stands around the transformer in them."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple, TypeGuard

import keras_hub
import numpy as np
from safetensors import safe_open

from cptk import files
from cptk.checks import is_integer, shown
from cptk.models.preprocessor import Role
from cptk.models.preset_reading import damaged_file, find_file, missing_file, read_object
from cptk.types import Config, Vectors

MODULES = "modules.json"
_SETTINGS = "sentence_bert_config.json"
_PROMPTS = "config_sentence_transformers.json"
#: sentence-transformers' names of poolings → ours.
_POOLINGS = {
    "cls": "cls",
    "lasttoken": "eos",
    "max": "max",
    "mean": "mean",
    "weightedmean": "weighted_mean",
}
#: The switches that they were before version 6.
_SWITCHES = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
#: The last part of an activation's name in torch → its name in Keras.
_ACTIVATIONS = {
    "GELU": "gelu",
    "Identity": "linear",
    "ReLU": "relu",
    "SiLU": "silu",
    "Sigmoid": "sigmoid",
    "Tanh": "tanh",
}


class Modules(NamedTuple):
    """What a sentence-transformers folder says beside its transformer."""

    transformer: str
    """The folder of the transformer, in Hugging Face's layout."""

    pooling: str
    projection: list[Config]
    kernels: list[list[Vectors]]
    """The weights of each layer of the projection."""

    normalize: bool
    prompts: dict[str, str]
    """By role: "text", "query", "document", and each prompt of another name."""

    sequence_length: int | None
    """None: the tokenizer's or the model's own."""

    lower_case: bool


def is_sentence_transformers(preset: str) -> bool:
    """Whether a preset was written by sentence-transformers."""
    return find_file(preset, MODULES) is not None


def read_modules(preset: str, load_weights: bool) -> Modules:
    """Read the modules of a sentence-transformers folder.

    Args:
        preset: The folder, or a `hf://` handle.
        load_weights: Whether to read the weights of Dense modules.

    Raises:
        FileNotFoundError: A file of a module is missing.
        ValueError: A module, or an option of one, that has no counterpart here; a damaged file.
    """
    steps = _steps(preset)
    kinds = [kind for kind, _, _ in steps]
    if kinds[:2] != ["Transformer", "Pooling"]:
        raise _unknown(MODULES, f"begins with {kinds[:2]}", "a Transformer and a Pooling")
    after = kinds[2:]
    if "Normalize" in after[:-1] or "Transformer" in after or "Pooling" in after:
        raise _unknown(MODULES, f"has {kinds}", "Dense modules, and Normalize at the end")
    where = steps[0][1]
    transformer = preset if where in ("", ".") else str(Path(preset) / where)
    settings = _read(transformer, _SETTINGS) or {}
    _check_transformer(settings)
    side = (_read(transformer, "tokenizer_config.json") or {}).get("truncation_side", "right")
    if side != "right":
        raise _unknown("tokenizer_config.json", f"has truncation_side = {side!r}", "'right'")
    projection, kernels = [], []
    for kind, path, _ in steps[2:]:
        if kind == "Dense":
            layer, weights = _dense(preset, path, load_weights)
            projection.append(layer)
            kernels.append(weights)
        else:
            _check_feature(_read(preset, f"{path}/config.json") or {}, f"{path}/config.json")
    about = _read(preset, _PROMPTS) or {}
    prompts = _prompts(about)
    pooling = _pooling(_read(preset, f"{steps[1][1]}/config.json"), steps[1][1], prompts)
    return Modules(
        transformer,
        pooling,
        projection,
        kernels,
        "Normalize" in after,
        prompts,
        _sequence_length(settings),
        bool(settings.get("do_lower_case", False)),
    )


def roles(prompts: dict[str, str], prefix: list[int], suffix: list[int]) -> dict[str, Role]:
    """A role for each prompt, with the tokens that the tokenizer puts around every text."""
    return {name: Role(prefix, suffix, prompt) for name, prompt in prompts.items()}


def own_length(transformer: str, config: Config) -> int | None:
    """The length at which the tokenizer cuts where sentence-transformers sets none."""
    longest = (_read(transformer, "tokenizer_config.json") or {}).get("model_max_length")
    names = ("max_position_embeddings", "n_positions")
    lengths = [longest, *(config.get(name) for name in names)]
    return min((x for x in lengths if _is_length(x)), default=None)


def get_projection(embedder: keras_hub.models.TextEmbedder) -> list[list[Vectors]]:
    """The weights of each layer of the projection, as `set_projection` takes them."""
    layers = (f"projection_{index}" for index in range(len(embedder.projection)))
    return [embedder.get_layer(name).get_weights() for name in layers]


def set_projection(embedder: keras_hub.models.TextEmbedder, kernels: list[list[Vectors]]) -> None:
    """Give the layers of the projection their weights.

    Raises:
        ValueError: Weights of another shape.
    """
    for index, weights in enumerate(kernels):
        layer = embedder.get_layer(f"projection_{index}")
        shapes = [tuple(weight.shape) for weight in layer.weights]
        if shapes != [weight.shape for weight in weights]:
            raise ValueError(
                f"The weights of projection {index} have the shapes "
                f"{[weight.shape for weight in weights]}, and {shapes} are needed. Save or "
                "download the folder again."
            )
        layer.set_weights(weights)


def _steps(preset: str) -> list[tuple[str, str, str]]:
    """Kind, folder and full name of each module, in order; `ValueError` for an unknown one."""
    path = find_file(preset, MODULES)
    if path is None:
        raise missing_file(Path(preset), MODULES)
    try:
        content = files.read_json(path)
    except ValueError as error:
        raise damaged_file(path.parent, MODULES, str(error)) from error
    if not isinstance(content, list) or not content:
        raise damaged_file(path.parent, MODULES, "it holds no list of modules")
    steps = []
    for module in content:
        name = module.get("type") if isinstance(module, dict) else None
        where = module.get("path", "") if isinstance(module, dict) else None
        if not isinstance(name, str) or not isinstance(where, str) or ".." in Path(where).parts:
            raise damaged_file(path.parent, MODULES, f"it has the module {shown(module)}")
        if Path(where).is_absolute():
            raise damaged_file(path.parent, MODULES, f"it leads to {shown(where)}")
        kind = name.rpartition(".")[2]
        known = ("Transformer", "Pooling", "Dense", "Normalize")
        if not name.startswith("sentence_transformers.") or kind not in known:
            raise ValueError(
                f"The sentence-transformers folder has the module {shown(name)}, which has no "
                f"counterpart in cptk: there are {', '.join(known)}. Load it by "
                "cptk.integrations.sentence_transformers.as_encoder."
            )
        steps.append((kind, where, name))
    return steps


def _read(preset: str, name: str) -> Config | None:
    """The content of a JSON file of the preset; None if there is no such file."""
    path = find_file(preset, name)
    return None if path is None else read_object(path.parent, path.name)


def _unknown(file: str, found: str, expected: str) -> ValueError:
    return ValueError(
        f"The sentence-transformers folder has no counterpart in cptk: its {file} {found}; "
        f"expected {expected}. Load it by cptk.integrations.sentence_transformers.as_encoder."
    )


def _check_transformer(settings: Config) -> None:
    task = settings.get("transformer_task", "feature-extraction")
    if task != "feature-extraction":
        raise _unknown(_SETTINGS, f"has transformer_task = {task!r}", "'feature-extraction'")
    for name in ("query_expansion", "query_length", "document_length", "processing_kwargs"):
        if settings.get(name):
            raise _unknown(_SETTINGS, f"has {name} = {shown(settings[name])}", "none")
    output = settings.get("module_output_name") or "token_embeddings"
    if output != "token_embeddings":
        raise _unknown(_SETTINGS, f"has module_output_name = {output!r}", "'token_embeddings'")
    modalities = settings.get("modality_config") or {}
    text = modalities.get("text") if isinstance(modalities, dict) else None
    if modalities and not (
        isinstance(text, dict)
        and text.get("method") == "forward"
        and text.get("method_output_name") == "last_hidden_state"
    ):
        raise _unknown(_SETTINGS, f"has modality_config = {shown(modalities)}", "that of text")
    if "message" in modalities:  # then every text is read within the tokenizer's chat template
        found = "has 'message' in its modality_config, so that texts are read as a chat's messages"
        raise _unknown(_SETTINGS, found, "that of text alone")


def _sequence_length(settings: Config) -> int | None:
    length = settings.get("max_seq_length")
    if length is None:
        return None
    if not _is_length(length):
        raise ValueError(
            f"{_SETTINGS} has max_seq_length = {shown(length)}; expected a whole number above 2."
        )
    return int(length)


def _is_length(value: object) -> TypeGuard[int]:
    # A tokenizer without a limit has 1e30 for it.
    return is_integer(value) and 2 < value < 1_000_000_000


def _pooling(config: Config | None, path: str, prompts: dict[str, str]) -> str:
    file = f"{path}/config.json"
    if config is None:
        raise FileNotFoundError(
            f"The sentence-transformers folder is incomplete: it has no {file}. Save or download "
            "it again."
        )
    modes = config.get("pooling_mode")
    if modes is None:
        modes = [mode for switch, mode in _SWITCHES.items() if config.get(switch)] or ["mean"]
    modes = [modes] if isinstance(modes, str) else modes
    if not isinstance(modes, list) or len(modes) != 1 or modes[0] not in _POOLINGS:
        raise _unknown(file, f"has the pooling {shown(modes)}", f"one of {sorted(_POOLINGS)}")
    if config.get("include_prompt") is False and any(prompts.values()):
        raise _unknown(file, "leaves prompts out of the pooling", "include_prompt = true")
    return _POOLINGS[modes[0]]


def _check_feature(config: Config, file: str) -> None:
    """A module that reads or writes anything but the embedding has no counterpart."""
    for name in ("module_input_name", "module_output_name"):
        feature = config.get(name) or "sentence_embedding"
        if feature != "sentence_embedding":
            raise _unknown(file, f"has {name} = {shown(feature)}", "'sentence_embedding'")


def _dense(preset: str, path: str, load_weights: bool) -> tuple[Config, list[Vectors]]:
    """The arguments of a Dense module in Keras, and its weights."""
    file = f"{path}/config.json"
    config = _read(preset, file)
    if config is None:
        raise FileNotFoundError(
            f"The sentence-transformers folder is incomplete: it has no {file}. Save or download "
            "it again."
        )
    _check_feature(config, file)
    if config.get("use_residual"):
        raise _unknown(file, "has use_residual = true", "none")
    name = config.get("activation_function") or "torch.nn.modules.activation.Tanh"
    module, _, kind = str(name).rpartition(".")
    if not module.startswith("torch.nn") or kind not in _ACTIVATIONS:
        raise _unknown(
            file, f"has activation_function = {shown(name)}", f"one of {sorted(_ACTIVATIONS)}"
        )
    units, bias = config.get("out_features"), config.get("bias", True)
    if not is_integer(units) or units < 1:
        raise ValueError(f"{file} has out_features = {shown(units)}; expected a number of units.")
    layer: Config = {"units": int(units), "activation": _ACTIVATIONS[kind], "use_bias": bool(bias)}
    return layer, _dense_weights(preset, path, bool(bias)) if load_weights else []


def _dense_weights(preset: str, path: str, bias: bool) -> list[Vectors]:
    file = find_file(preset, f"{path}/model.safetensors")
    if file is None:
        raise FileNotFoundError(
            f"The sentence-transformers folder has no {path}/model.safetensors. Weights in "
            "pytorch_model.bin are pickled, which can run code, and are not read: save the model "
            "again by sentence-transformers 5 or newer."
        )
    names = ["linear.weight", "linear.bias"][: 1 + bias]
    try:
        with safe_open(file, framework="np") as weights:
            found = [np.asarray(weights.get_tensor(name), np.float32) for name in names]
    except Exception as error:  # safetensors raises errors of several kinds
        raise ValueError(
            f"{path}/model.safetensors is damaged ({error}). Save or download it again."
        ) from error
    return [found[0].T.copy(), *found[1:]]


def _prompts(about: Config) -> dict[str, str]:
    """Prompt by role: "text" for `encode`, "query" and "document" for the other two, and more."""
    given = about.get("prompts") or {}
    if not isinstance(given, dict) or not all(
        isinstance(prompt, str | None) for prompt in given.values()
    ):
        raise ValueError(f"{_PROMPTS} has prompts = {shown(given)}; expected strings by name.")
    named = {name: prompt or "" for name, prompt in given.items()}
    default = about.get("default_prompt_name")
    if default is not None and default not in named:
        raise ValueError(
            f"{_PROMPTS} has default_prompt_name = {shown(default)}, which is none of its prompts, "
            f"{sorted(named)}."
        )
    plain = named.get(default, "") if default is not None else ""
    # sentence-transformers 6 adds both, empty, where a folder has them not; so `encode_document`
    # puts nothing before a text where there is a "passage" alone.
    return {"text": plain, "query": "", "document": "", **named}
