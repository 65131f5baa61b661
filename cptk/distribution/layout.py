"""Where the weights of a decoder lie, when one device cannot hold them."""

from __future__ import annotations

import math
from typing import Any, TypeAlias

import keras

from cptk.types import Model

DeviceMesh: TypeAlias = Any
"""A `keras.distribution.DeviceMesh`."""

LayoutMap: TypeAlias = Any
"""A `keras.distribution.LayoutMap`."""


def layout_map(
    backbone: Model,
    device_mesh: DeviceMesh = None,
    *,
    batch_axis: str = "batch",
    model_axis: str = "model",
) -> LayoutMap:
    """Where the weights of a decoder lie on a mesh: heads and inner units are divided.

    After Megatron-LM: query, key and value projections and the first layers of the feed-forward
    part are divided by their outputs, the layers that follow by their inputs, and embeddings by
    their width. All other weights, LoRA's factors among them, lie on every device.

    Args:
        backbone: A KerasHub backbone, or its class, or an embedder: GPT-2, or one built like Llama
            (Llama 3 and SmolLM2, Mistral, Qwen, Gemma, Phi-3). Make the model itself after the
            distribution is set.
        device_mesh: A `keras.distribution.DeviceMesh` with the two axes; by default all devices
            on the model axis.
        batch_axis: Axis over which a batch is divided.
        model_axis: Axis over which the weights are divided. Its size must divide the numbers of
            heads, of key and value heads and of inner units, and the width. A class does not know
            them, and then JAX refuses when the model is made.

    Returns:
        A `keras.distribution.LayoutMap` for `keras.distribution.ModelParallel`.

    Raises:
        TypeError: Not a backbone that this knows.
        ValueError: The mesh lacks one of the axes, or its model axis divides the backbone badly.

    Example:

    ```pycon
    >>> import cptk, keras, keras_hub
    >>> devices = ["cpu:0", "cpu:1", "cpu:2", "cpu:3"]  # by default all there are
    >>> mesh = keras.distribution.DeviceMesh((2, 2), ["batch", "model"], devices)
    >>> layout = cptk.distribution.layout_map(keras_hub.models.GPT2Backbone, mesh)
    >>> layout["transformer_layer_0/self_attention/query/kernel"].axes  # divided by heads
    (None, 'model', None)
    >>> parallel = keras.distribution.ModelParallel(layout_map=layout, batch_dim_name="batch")
    >>> # Before the model is made: keras.distribution.set_distribution(parallel)

    ```

    References:
        - Shoeybi et al., Megatron-LM, arXiv:1909.08053, section 3.
    """
    backbone = getattr(backbone, "backbone", backbone)
    kind = backbone if isinstance(backbone, type) else type(backbone)
    if not any(known in kind.__name__ for known in _DIVIDED) or "Backbone" not in kind.__name__:
        raise TypeError(
            f"layout_map knows the backbones {sorted(_DIVIDED)}. Received: {kind.__name__}. Write "
            "a keras.distribution.LayoutMap for another one."
        )
    if device_mesh is None:
        devices = keras.distribution.list_devices()
        device_mesh = keras.distribution.DeviceMesh(
            (1, len(devices)), [batch_axis, model_axis], devices
        )
    if not {batch_axis, model_axis} <= set(device_mesh.axis_names):
        raise ValueError(
            f"`device_mesh` should have the axes {batch_axis!r} and {model_axis!r}. Received: "
            f"{list(device_mesh.axis_names)}."
        )
    size = device_mesh.shape[list(device_mesh.axis_names).index(model_axis)]
    found = {name: getattr(backbone, name, None) for name in _MUST_DIVIDE}
    sizes = {name: number for name, number in found.items() if isinstance(number, int)}
    for name, number in sizes.items():
        if number % size:
            fits = math.gcd(size, *sizes.values())
            raise ValueError(
                f"The model axis {model_axis!r} has {size} devices, which do not divide the "
                f"{kind.__name__}'s {name}={number}. Make a mesh whose model axis does: "
                f"keras.distribution.DeviceMesh(({device_mesh.devices.size // fits}, {fits}), "
                f"[{batch_axis!r}, {model_axis!r}])."
            )
    layout = keras.distribution.LayoutMap(device_mesh)
    # Keras matches the whole path of a weight.
    layout[r".*(token|position)_embedding/embeddings"] = (None, model_axis)
    layout[r".*token_embedding/reverse_embeddings"] = (model_axis, None)
    layout[r".*(query|key|value)/kernel"] = (None, model_axis, None)
    layout[r".*(query|key|value)/bias"] = (model_axis, None)
    layout[r".*attention_output/kernel"] = (model_axis, None, None)
    layout[r".*feedforward_(intermediate|gate)_dense/kernel"] = (None, model_axis)
    layout[r".*feedforward_(intermediate|gate)_dense/bias"] = (model_axis,)
    layout[r".*feedforward_output_dense/kernel"] = (model_axis, None)
    return layout


_DIVIDED = ("GPT2", "Llama", "Mistral", "Qwen", "Gemma", "Phi3")
_MUST_DIVIDE = (
    "num_heads",
    "num_query_heads",
    "num_key_value_heads",
    "intermediate_dim",
    "hidden_dim",
)
