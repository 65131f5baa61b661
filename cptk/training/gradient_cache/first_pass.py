"""The first of the two passes in 16 bits."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import keras

from cptk.types import Model


@contextlib.contextmanager
def first_pass(embedder: Model, dtype: str | None) -> Iterator[None]:
    """Within, the backbone computes in this dtype, where it is not None; its weights stay."""
    if dtype is None:
        yield
        return
    layers = [
        layer
        for layer in embedder.backbone._flatten_layers()
        if layer.compute_dtype == "float32" and layer.quantization_mode is None
    ]
    # Not by `dtype_policy`, which edits a map of policies that many layers may share.
    before = [layer._dtype_policy for layer in layers]
    low = keras.DTypePolicy(f"mixed_{dtype}")
    try:
        for layer in layers:
            layer._dtype_policy = low
        yield
    finally:
        for layer, policy in zip(layers, before, strict=True):
            layer._dtype_policy = policy
