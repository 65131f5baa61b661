"""Backbones: shortened, and described in full."""

from __future__ import annotations

import inspect

import keras
import keras_hub

from cptk import checks
from cptk.models.configured_backbones import is_encoder
from cptk.types import Config


def keep_first_layers(
    backbone: keras_hub.models.Backbone, num_layers: int
) -> keras_hub.models.Backbone:
    """The first `num_layers` layers of a backbone, as one of the same class.

    A small decoder's middle layers often embed better than its last ones, and cost less. The
    final norm stays in place with the scale of a new layer: the trained scale belongs to the states
    after the last layer. An encoder such as BERT has none. (Ours; measured in the docs,
    "Concepts".)

    Args:
        backbone: A KerasHub backbone.
        num_layers: How many of its layers to keep, from 1 to all of them.

    Returns:
        A backbone with weights of its own; `backbone` itself where that has `num_layers` layers.

    Raises:
        ValueError: `num_layers` is out of range, or LoRA is already enabled.

    Example:

    ```pycon
    >>> import cptk, keras_hub
    >>> backbone = keras_hub.models.GPT2Backbone(
    ...     vocabulary_size=256, num_layers=3, num_heads=2, hidden_dim=16, intermediate_dim=32
    ... )
    >>> embedder = cptk.models.TextEmbedder(cptk.models.keep_first_layers(backbone, 2))
    >>> embedder.backbone.num_layers
    2

    ```
    """
    total = getattr(backbone, "num_layers", None)
    if not isinstance(total, int):
        raise ValueError(f"`backbone` should have layers. Received: {checks.shown(backbone)}.")
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
    # A decoder's last layer is its final norm. An encoder's norms are within its layers.
    copied = [layer for layer in short.layers if layer.weights]
    for layer in copied if is_encoder(backbone) else copied[:-1]:
        # Not strict: with tied embeddings the source may have one variable more, at its end.
        for target, source in zip(
            layer.weights, backbone.get_layer(layer.name).weights, strict=False
        ):
            # Without the copy the two would share one buffer on JAX, and the next training step of
            # either would delete it.
            target.assign(keras.ops.copy(source))
    return short


def complete_config(config: Config, backbone: keras_hub.models.Backbone) -> Config:
    """Add to `config`, in place, the constructor's arguments that `get_config` leaves out.

    In KerasHub 0.32 Llama's `get_config` leaves out `tie_word_embeddings`. Without it a tied
    backbone would be loaded untied, and its weights would not fit.
    """
    for name in inspect.signature(type(backbone).__init__).parameters:
        known = name in config or name in ("self", "kwargs", "dtype")
        if not known and hasattr(backbone, name):
            config[name] = getattr(backbone, name)
    return config
