"""What an embedder consists of, as other tools want to know it: cptk's or KerasHub's own."""

from __future__ import annotations

from typing import NamedTuple

import keras
import keras_hub
import numpy as np

from cptk import checks
from cptk.models import TextEmbedder
from cptk.models.attention import own_attention
from cptk.models.preset_sentence_transformers import get_projection
from cptk.types import Config, Layer, Model, Tensor, Vectors

#: KerasHub's `pooling_mode` → ours.
_POOLINGS = {"cls": "cls", "last": "eos", "max": "max", "mean": "mean"}


class Parts(NamedTuple):
    """An embedder taken apart."""

    embedder: Model
    backbone: Model
    pooling: str
    normalize: bool
    projection: tuple[Config, ...]
    kernels: list[list[Vectors]]
    """The weights of each layer of the projection, as Keras has them."""
    bidirectional: bool
    """Whether a token sees those behind it."""


def check_embedder(embedder: object) -> Model:
    """The embedder, which should be cptk's or KerasHub's.

    Raises:
        TypeError: Something else.
    """
    if not isinstance(embedder, keras_hub.models.TextEmbedder):
        trainer = " Pass trainer.embedder." if hasattr(embedder, "embedder") else ""
        raise TypeError(
            "`embedder` should be a `cptk.models.TextEmbedder` or a "
            f"`keras_hub.models.TextEmbedder`. Received: {checks.shown(embedder)} of type "
            f"{type(embedder).__name__}.{trainer}"
        )
    return embedder


def take_apart(embedder: Model) -> Parts:
    """The parts of an embedder.

    Raises:
        ValueError: One of KerasHub's own with a pooling that is not known.
    """
    backbone = embedder.backbone
    if isinstance(embedder, TextEmbedder):
        return Parts(
            embedder,
            backbone,
            embedder.pooling,
            embedder.normalize,
            tuple(embedder.projection),
            get_projection(embedder),
            embedder.attention == "bidirectional",
        )
    mode = getattr(embedder, "pooling_mode", None)
    if mode not in _POOLINGS:
        raise ValueError(
            f"{type(embedder).__name__} has the pooling {checks.shown(mode)}, and "
            f"{sorted(_POOLINGS)} are known. Make a cptk.models.TextEmbedder of its backbone."
        )
    both_ways = own_attention(backbone) == "bidirectional"
    normalize = bool(getattr(embedder, "normalize", True))
    return Parts(embedder, backbone, _POOLINGS[mode], normalize, (), [], both_ways)


def check_float(embedder: Model, target: str) -> None:
    """Raise `ValueError` where weights have been quantised by Keras, which `target` cannot hold."""
    for layer in embedder.backbone._flatten_layers():
        if getattr(layer, "quantization_mode", None) is not None:
            raise ValueError(
                f"This embedder's weights are quantised ({layer.quantization_mode}), and {target} "
                "is written from float weights. Export the embedder from before `quantize`, with "
                "quantize='int8' where the target has it."
            )


def check_float32(embedder: Model, target: str) -> None:
    """Raise `ValueError` where the embedder computes in 16 bits, which `target` does not."""
    kept = embedder.backbone.compute_dtype
    if kept != "float32":
        raise ValueError(
            f"This embedder computes in {kept}, and {target} is written in float32. Save it and "
            'load it with dtype="float32": TextEmbedder.from_preset(folder, dtype="float32").'
        )


def array(weight: Tensor) -> Vectors:
    """A weight as a float32 array of its own, whatever it is kept in."""
    return np.array(keras.ops.convert_to_numpy(weight)).astype(np.float32)


def kernel(layer: Layer) -> Vectors:
    """The kernel of a linear layer; LoRA's product is merged into it, as Keras computes with it."""
    return array(layer.kernel)


def linear(name: str, layer: Layer, inputs: int) -> dict[str, Vectors]:
    """A linear layer as torch has it, `(out, in)`; the first `inputs` axes here are summed over."""
    weight = kernel(layer)
    size = int(np.prod(weight.shape[:inputs]))
    found = {f"{name}.weight": np.ascontiguousarray(weight.reshape(size, -1).T)}
    if getattr(layer, "bias", None) is not None:
        found[f"{name}.bias"] = array(layer.bias).reshape(-1)
    return found
