"""LoRA on all linear layers, and LoRA that survives saving in the middle of training.

Keras writes a LoRA layer's weight with the low-rank product merged into it and, on loading, sets
both factors to zero, where no gradient ever leaves zero again. That is right for a finished
model, and a dead end for one that should go on training.
"""

from collections.abc import Callable, Iterator
from typing import Any

import keras
import keras_hub

_Factors = tuple[Any, Any, Any, Any]


def enable_lora(embedder: Any, rank: int = 16, alpha: float | None = None) -> None:
    """Freeze a backbone and put LoRA into every linear layer of it.

    A linear layer computes `x (W + alpha / rank * A B)`; only `A` and `B` are trained. KerasHub's
    own `backbone.enable_lora(rank)` takes the query and value projections alone, at `alpha = rank`.
    All linear layers learned more per pair in our measurements (docs, Evaluation; the choice is
    ours, as QLoRA's). Embedding layers are left as they are.

    Args:
        embedder: An embedder, or a KerasHub backbone.
        rank: Of the low-rank product; a positive integer.
        alpha: Scale of the product before it is divided by `rank`; `rank` if `None`.

    Raises:
        ValueError: `rank` or `alpha` is not positive, or LoRA is enabled already.
        TypeError: Neither an embedder nor a backbone.

    Example:

    ```python
    cptk.training.enable_lora(embedder, rank=16, alpha=32)
    trainer = cptk.ContrastiveTrainer(embedder)
    ```

    References:
        - Hu et al., LoRA: Low-Rank Adaptation of Large Language Models, arXiv:2106.09685.
        - Dettmers et al., QLoRA, arXiv:2305.14314, section 4: on all linear layers.
    """
    backbone = getattr(embedder, "backbone", embedder)
    if not isinstance(backbone, keras_hub.models.Backbone):
        raise TypeError(
            "`embedder` should be an embedder or a KerasHub backbone. Received: "
            f"{type(embedder).__name__}."
        )
    if isinstance(rank, bool) or not isinstance(rank, int) or rank < 1:
        raise ValueError(f"`rank` should be a positive integer. Received: {rank!r}.")
    if alpha is not None and not alpha > 0:
        raise ValueError(f"`alpha` should be positive. Received: {alpha!r}.")
    linear = [
        layer
        for layer in backbone._flatten_layers(include_self=False)
        if isinstance(layer, keras.layers.Dense | keras.layers.EinsumDense)
    ]
    if any(layer.lora_enabled for layer in linear):
        raise ValueError("LoRA is enabled on this backbone already: call `enable_lora` once.")
    backbone.enable_lora(rank, target_layer_names=sorted({layer.name for layer in linear}))
    for layer in linear:
        layer.lora_alpha = rank if alpha is None else alpha
        _widen(layer)


def training_state(embedder: Any) -> list[list[Any]]:
    """What a backbone's config lacks, for each layer: `[trainable, LoRA rank, LoRA alpha]`."""
    return [
        [layer.trainable, layer.lora_rank, layer.lora_alpha]
        if getattr(layer, "lora_enabled", False)
        else [layer.trainable, None, None]
        for layer in embedder._flatten_layers()
    ]


def restore_training_state(embedder: Any, state: list[list[Any]]) -> None:
    """Gives the layers of an embedder what `training_state` has found on one of the same kind."""
    layers = embedder._flatten_layers()
    # All flags before any LoRA: a layer's flag is handed down to its layers and variables.
    for layer, (trainable, _, _) in zip(layers, state, strict=True):
        layer.trainable = trainable
    for layer, (_, rank, alpha) in zip(layers, state, strict=True):
        if rank is not None:
            layer.enable_lora(rank, lora_alpha=alpha)
            _widen(layer)


def _widen(layer: Any) -> None:
    """In a layer of float64, make the factors float64 too: Keras makes them float32 always."""
    if layer.variable_dtype != "float64" or not hasattr(layer, "lora_kernel_a"):
        return
    layer._tracker.unlock()
    for name in ("lora_kernel_a", "lora_kernel_b"):
        old = getattr(layer, name)
        value = keras.ops.convert_to_numpy(old.value)
        layer._untrack_variable(old)
        new = layer.add_weight(
            name=name, shape=old.shape, dtype="float64", regularizer=layer.kernel_regularizer
        )
        new.assign(value)
        setattr(layer, name, new)
    layer._tracker.lock()


class LoraState(keras.layers.Layer):  # type: ignore[misc]
    """Saves the LoRA factors of a model beside Keras's own files, and puts them back after it.

    Keras saves and loads the layers of a model in order; this one should come after the model's.
    From a file that was written without LoRA, the factors start as `enable_lora` starts them.
    """

    def __init__(self, model: Any) -> None:
        super().__init__(name="lora_state")
        # Not the model itself, which Keras would then track here too.
        self._factors: Callable[[], Iterator[_Factors]] = lambda: _lora_factors(model)
        self.built = True

    def save_own_variables(self, store: Any) -> None:
        for index, (layer, a, b, base) in enumerate(self._factors()):
            if not keras.backend.is_float_dtype(base.dtype):
                raise ValueError(
                    f"Layer {layer.path} is quantised to {base.dtype} and has LoRA: its factors "
                    "cannot be saved apart from it. Train LoRA on a model that is not quantised."
                )
            store[f"{index}_a"] = a
            store[f"{index}_b"] = b
            if _is_short(base):
                store[f"{index}_base"] = base

    def load_own_variables(self, store: Any) -> None:
        found = set(store.keys())
        for index, (layer, a, b, base) in enumerate(self._factors()):
            if f"{index}_a" not in found:
                a.assign(keras.initializers.HeUniform()(a.shape, dtype=a.dtype))
                continue
            a.assign(store[f"{index}_a"])
            b.assign(store[f"{index}_b"])
            if f"{index}_base" in found:
                base.assign(store[f"{index}_base"])
            else:
                merged = (layer.lora_alpha / layer.lora_rank) * keras.ops.matmul(a, b)
                base.assign(base - keras.ops.cast(merged, base.dtype))


def _lora_factors(model: Any) -> Iterator[_Factors]:
    """Each layer with LoRA, its two factors, and the frozen weight they are added to."""
    for layer in model._flatten_layers():
        if getattr(layer, "lora_enabled", False):
            kind = "kernel" if hasattr(layer, "lora_kernel_a") else "embeddings"
            a, b = (getattr(layer, f"lora_{kind}_{factor}") for factor in "ab")
            yield layer, a, b, getattr(layer, f"_{kind}")


def _is_short(weight: Any) -> bool:
    """Whether a weight has 16 bits, too few to take the low-rank product out of again."""
    return keras.backend.standardize_dtype(weight.dtype) in ("bfloat16", "float16")
