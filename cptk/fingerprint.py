"""A hash of all that an encoder's vectors depend on, and a description of the encoder to print."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Iterable, Mapping
from importlib import metadata
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from cptk.encoders import TextEncoder, is_keras, trained_embedder
from cptk.types import Config, Layer, Model, Preprocessor, Tokenizer, TorchModule
from cptk.version import __version__

# Keys that end so say how the weights began. The weights themselves are hashed.
_ACCIDENTAL = ("initializer", "regularizer", "constraint")
PACKAGES = "cptk keras keras-hub tensorflow jax torch sentence-transformers scikit-learn numpy"


def fingerprint(encoder: TextEncoder, *, exact: bool = True) -> str | None:
    """SHA-256 of an encoder's configuration, weights and vocabulary.

    Of a Keras model: class, configuration of it and of each of its layers (roles, sequence length,
    types of numbers, the scale of LoRA in it), weights, vocabulary and backend; of a trainer those
    of its embedder. Of a torch model with `encode` (sentence-transformers): its printed form,
    options, weights and vocabulary. Anything else may have a string `fingerprint` of its own.

    Args:
        encoder: Anything that embeds text.
        exact: Whether encoders differ whose vectors differ by rounding alone: on another backend,
            or in another type of numbers with the same weights.

    Returns:
        64 hexadecimal digits; `None` where the weights cannot be read.

    Example:

    ```pycon
    >>> import cptk
    >>> from cptk.fingerprint import fingerprint
    >>> backbone, preprocessor = embedder.backbone, embedder.preprocessor
    >>> same = cptk.models.GPT2TextEmbedder(backbone, preprocessor, name="another_name")
    >>> fingerprint(same) == fingerprint(embedder)
    True
    >>> other = cptk.models.GPT2TextEmbedder(backbone, preprocessor, pooling="mean")
    >>> fingerprint(other) == fingerprint(embedder)
    False
    >>> fingerprint(lambda texts: [[len(text), 1] for text in texts]) is None
    True

    ```
    """
    encoder = trained_embedder(encoder)
    own = getattr(encoder, "fingerprint", None)
    if isinstance(own, str) and own:
        return hashlib.sha256(own.encode()).hexdigest()
    if is_keras(encoder):
        return _of_keras(encoder) if exact else _of_any_backend(encoder)
    if all(callable(getattr(encoder, method, None)) for method in ("encode", "state_dict")):
        return _of_torch(encoder)
    return None


def _of_keras(model: Model) -> str:
    import keras

    tokenizer = getattr(getattr(model, "preprocessor", None), "tokenizer", None)
    about = [
        keras.backend.backend(),
        [_layer(layer) for layer in model._flatten_layers()],
        *_tokenizer(tokenizer),
    ]
    return _hash(about, (keras.ops.convert_to_numpy(weight) for weight in model.weights))


def _of_any_backend(model: Model) -> str:
    import keras

    preprocessor = getattr(model, "preprocessor", None)
    tokenizer = getattr(preprocessor, "tokenizer", None)
    # Keras lists a preprocessor and its parts among the layers on some backends alone.
    parts = {id(part) for part in (preprocessor, tokenizer, getattr(preprocessor, "packer", None))}
    layers = [layer for layer in model._flatten_layers() if id(layer) not in parts]
    about = [
        [_layer(layer, exact=False) for layer in layers],
        None if preprocessor is None else _layer(preprocessor, exact=False),
        *_tokenizer(tokenizer, exact=False),
    ]
    return _hash(about, (keras.ops.convert_to_numpy(weight) for weight in model.weights))


def tokenizer_fingerprint(preprocessor: Preprocessor) -> str:
    """SHA-256 of what turns a text into token ids, roles and length left out.

    Args:
        preprocessor: Something that tokenises for an embedder.

    Returns:
        64 hexadecimal digits, the same on all backends.

    Example:

    ```pycon
    >>> from cptk.fingerprint import tokenizer_fingerprint
    >>> len(tokenizer_fingerprint(embedder.preprocessor))
    64

    ```
    """
    spec = getattr(preprocessor, "tokenizer_spec", None)
    return _hash([*_tokenizer(preprocessor.tokenizer), _essential(spec)], [])


def _tokenizer(tokenizer: Tokenizer | None, exact: bool = True) -> list[object]:
    """Class, configuration and vocabulary of a tokenizer, in JSON values."""
    return [
        None if tokenizer is None else _layer(tokenizer, exact),
        getattr(tokenizer, "vocabulary", None),
        getattr(tokenizer, "merges", None),
        str(getattr(tokenizer, "proto", None)),
        getattr(tokenizer, "content", None),
    ]


def _of_torch(model: TorchModule) -> str:
    tokenizer = getattr(model, "tokenizer", None)
    options = ("max_seq_length", "prompts", "default_prompt_name", "truncate_dim")
    about: list[object] = [repr(model), getattr(tokenizer, "get_vocab", dict)()]
    about += [str(getattr(model, option, None)) for option in options]
    about += [str(getattr(tokenizer, "padding_side", None))]
    state = model.state_dict()
    about += [[name, str(getattr(weight, "dtype", None))] for name, weight in state.items()]
    return _hash(about, (weight.float().cpu().numpy() for weight in state.values()))


def describe(encoder: TextEncoder) -> Config:
    """What an encoder is, in a few JSON values for a report."""
    known: Config = {"class": type(encoder).__name__}
    backbone = getattr(encoder, "backbone", None)
    preprocessor = getattr(encoder, "preprocessor", None)
    if backbone is not None:
        known["backbone"] = type(backbone).__name__
        known["dtype"] = getattr(getattr(backbone, "dtype_policy", None), "name", None)
    for owner, names in (
        (backbone, ("num_layers", "hidden_dim")),
        (encoder, ("pooling", "normalize", "attention", "max_seq_length")),
        (preprocessor, ("sequence_length", "roles")),
    ):
        for name in names:
            value = getattr(owner, name, None)
            if isinstance(value, int | str | bool | dict):
                known[name] = json.loads(json.dumps(value, default=str))
    if is_keras(encoder):
        known["parameters"] = int(encoder.count_params())
    if type(encoder).__name__ in ("function", "method"):
        known["class"] = getattr(encoder, "__qualname__", "function")
    return known


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that a figure may depend on."""
    found = {"python": platform.python_version()}
    for package in PACKAGES.split():
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            if package == "cptk":  # a checkout on the path that is not installed
                found[package] = __version__
    return found


def _layer(layer: Layer, exact: bool = True) -> list[object]:
    """Class, dtypes, LoRA and configuration of a layer, in JSON values; not its weights."""
    try:
        config = layer.get_config()
    except Exception:  # some layers of KerasHub's have none: what they were made with stands for it
        plain = int | float | str | bool
        config = {k: v for k, v in vars(layer).items() if k[0] != "_" and isinstance(v, plain)}
    policy = getattr(layer, "dtype_policy", None) if exact else None
    config = config if exact else _without_dtypes(config)
    lora = [getattr(layer, f"lora_{what}", None) for what in ("enabled", "rank", "alpha")]
    kind = f"{type(layer).__module__}.{type(layer).__qualname__}"
    return [kind, getattr(policy, "name", None), lora, _layer_config(config)]


def _without_dtypes(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _without_dtypes(v) for k, v in value.items() if k not in ("dtype", "backend")}
    if isinstance(value, list | tuple):
        return [_without_dtypes(each) for each in value]
    return value


def _layer_config(config: Mapping[str, object]) -> dict[str, object]:
    """A layer's configuration without what differs between two layers that compute the same."""
    kept = {k: v for k, v in _wired(config).items() if not k.endswith(_ACCIDENTAL)}
    # A name tells nothing: Keras numbers its layers as they are made.
    kept = {k: v for k, v in kept.items() if k not in ("name", "trainable")}
    # KerasHub makes the list from a set: its order is another in each process.
    tokens = kept.pop("unsplittable_tokens", None)
    unordered = set(tokens) if isinstance(tokens, Iterable) else set()
    return {k: _essential(v) for k, v in kept.items()} | {"unsplittable": _essential(unordered)}


def _wired(config: Mapping[str, object]) -> dict[str, object]:
    """A model's configuration with places in it for the names to which its wires lead."""
    layers = config.get("layers")
    if not isinstance(layers, list) or not all(isinstance(layer, dict) for layer in layers):
        return dict(config)
    places = {layer.get("name"): f"layer {place}" for place, layer in enumerate(layers)}

    def moved(value: object) -> object:
        if isinstance(value, dict):
            return {k: moved(v) for k, v in value.items()}
        if isinstance(value, list | tuple):
            return [moved(each) for each in value]
        return places.get(value, value) if isinstance(value, str) else value

    wires = ("inbound_nodes", "input_layers", "output_layers")
    found = [{k: moved(v) if k in wires else v for k, v in layer.items()} for layer in layers]
    return {k: moved(v) if k in wires else v for k, v in config.items()} | {"layers": found}


def _essential(value: object) -> object:
    """A value of a configuration as JSON: lists in their order, sets in none."""
    if isinstance(value, dict):
        inner = value.get("config")
        if isinstance(value.get("class_name"), str) and isinstance(inner, dict):  # Keras's form
            named = "trainable" in inner or value["class_name"] == "InputLayer"
            inner = _layer_config(inner) if named else _essential(inner)
            wires = _essential(value.get("inbound_nodes"))
            return [value.get("module"), value["class_name"], inner, wires]
        return {repr(k): _essential(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_essential(each) for each in value]
    if isinstance(value, set | frozenset):
        return sorted(map(repr, value))
    if value is None or isinstance(value, str | int | float | bool):
        return value
    if isinstance(value, bytes) or hasattr(value, "__array__"):
        return _hash(None, [np.frombuffer(value, np.uint8) if isinstance(value, bytes) else value])
    return getattr(value, "__qualname__", type(value).__qualname__)


def _hash(about: object, weights: Iterable[ArrayLike]) -> str:
    digest = hashlib.sha256(json.dumps(about, sort_keys=True, default=str).encode())
    for weight in weights:
        array = np.ascontiguousarray(weight)
        digest.update(f"{array.shape} {array.dtype}".encode())
        digest.update(array.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()
