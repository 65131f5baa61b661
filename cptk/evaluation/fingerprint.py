"""What an encoder is: a hash of all that its vectors depend on, and a description to print."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Iterable
from importlib import metadata
from typing import Any

import numpy as np

# Keras numbers its layers as they are made: their names tell nothing of the vectors.
_ACCIDENTAL = {"name", "trainable", "build_config", "compile_config", "shared_object_id"}
PACKAGES = "cptk keras keras-hub tensorflow jax torch sentence-transformers scikit-learn numpy"


def fingerprint(encoder: Any) -> str | None:
    """SHA-256 of an encoder's configuration, weights and vocabulary.

    Of a Keras model: class, configuration (roles and sequence length in it), weights, vocabulary
    and backend. Of a torch model with `encode` (sentence-transformers): its printed form, options,
    weights and vocabulary. Anything else may have a string `fingerprint` of its own.

    Args:
        encoder: Anything that embeds text.

    Returns:
        64 hexadecimal digits; `None` where the weights cannot be read.

    Example:

    ```python
    fingerprint(embedder) == fingerprint(from_the_same_preset)  # True
    ```
    """
    own = getattr(encoder, "fingerprint", None)
    if isinstance(own, str) and own:
        return hashlib.sha256(own.encode()).hexdigest()
    if _is_keras(encoder):
        import keras

        tokenizer: Any = getattr(getattr(encoder, "preprocessor", None), "tokenizer", None)
        about = [
            f"{type(encoder).__module__}.{type(encoder).__qualname__}",
            keras.backend.backend(),
            _essential(encoder.get_config()),
            _essential(tokenizer.get_config()) if hasattr(tokenizer, "get_config") else None,
            getattr(tokenizer, "vocabulary", None),
            getattr(tokenizer, "merges", None),
            str(getattr(tokenizer, "proto", None)),
        ]
        return _hash(about, (keras.ops.convert_to_numpy(w) for w in encoder.weights))
    if callable(getattr(encoder, "encode", None)) and callable(
        getattr(encoder, "state_dict", None)
    ):
        vocabulary: Any = getattr(getattr(encoder, "tokenizer", None), "get_vocab", dict)()
        options = ("max_seq_length", "prompts", "default_prompt_name", "truncate_dim")
        about = [repr(encoder), vocabulary, *(str(getattr(encoder, o, None)) for o in options)]
        state = encoder.state_dict()
        return _hash([*about, list(state)], (w.float().cpu().numpy() for w in state.values()))
    return None


def describe(encoder: Any) -> dict[str, Any]:
    """What an encoder is, in a few JSON values for a report."""
    known: dict[str, Any] = {"class": type(encoder).__name__}
    backbone = getattr(encoder, "backbone", None)
    preprocessor = getattr(encoder, "preprocessor", None)
    if backbone is not None:
        known["backbone"] = type(backbone).__name__
        known["dtype"] = getattr(getattr(backbone, "dtype_policy", None), "name", None)
    for owner, names in (
        (backbone, ("num_layers", "hidden_dim")),
        (encoder, ("pooling", "normalize", "max_seq_length")),
        (preprocessor, ("sequence_length", "roles")),
    ):
        for name in names:
            value = getattr(owner, name, None)
            if isinstance(value, int | str | bool | dict):
                known[name] = json.loads(json.dumps(value, default=str))
    if _is_keras(encoder):
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
            if package == "cptk":
                import cptk

                found[package] = cptk.__version__
    return found


def _is_keras(encoder: Any) -> bool:
    return any(base.__module__.split(".")[0] == "keras" for base in type(encoder).__mro__)


def _essential(config: Any) -> Any:
    """A configuration without what differs between two equal models."""
    if isinstance(config, dict):
        return {k: _essential(v) for k, v in sorted(config.items()) if k not in _ACCIDENTAL}
    if isinstance(config, list | tuple | set):
        # KerasHub keeps special tokens in a set: their order is another in each process.
        names = all(isinstance(value, str) for value in config)
        return sorted(config) if names else [_essential(value) for value in config]
    plain = config is None or isinstance(config, str | int | float | bool)
    return config if plain else type(config).__name__


def _hash(about: Any, weights: Iterable[Any]) -> str:
    digest = hashlib.sha256(json.dumps(about, sort_keys=True, default=str).encode())
    for weight in weights:
        array = np.ascontiguousarray(weight)
        digest.update(f"{array.shape} {array.dtype}".encode())
        digest.update(array.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()
