"""LoRA on all linear layers, and LoRA that survives saving in the middle of training.

Keras writes a LoRA layer's weight with the low-rank product merged into it and, on loading, sets
both factors to zero, where no gradient ever leaves zero again. That is right for a finished
model, and a dead end for one that should go on training.
"""

import re
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import keras
import keras_hub

from cptk.checks import is_integer
from cptk.types import Layer, Model, Tree, Variable

_READS_TEXT = keras_hub.models.Preprocessor | keras_hub.tokenizers.Tokenizer

_Factors = tuple[Any, Any, Any, Any]


def enable_lora(embedder: Model, rank: int = 16, alpha: float | None = None) -> None:
    """Freeze a backbone and put LoRA into every linear layer of it.

    A linear layer computes `x (W + alpha / rank * A B)`; `A`, `B` and, where it has one, its bias
    are trained. KerasHub's own `backbone.enable_lora(rank)` takes the query and value projections
    alone, at `alpha = rank`. Enabled after a `fit`, it needs `compile` again, with a new optimizer,
    since other weights are trained then. All linear layers learned more per pair in our
    measurements (docs, Evaluation; the choice is ours, as QLoRA's). Embedding layers are left as
    they are.

    Args:
        embedder: An embedder, or a KerasHub backbone.
        rank: Of the low-rank product; a positive integer.
        alpha: Scale of the product before it is divided by `rank`; `rank` if `None`.

    Raises:
        ValueError: `rank` or `alpha` is not positive, or LoRA is enabled already.
        TypeError: Neither an embedder nor a backbone.

    Example:

    ```pycon
    >>> import cptk
    >>> cptk.training.enable_lora(embedder, rank=2, alpha=4)
    >>> factors = [w for w in embedder.trainable_variables if "lora_kernel" in w.name]
    >>> len(factors)  # A and B of each of the six matrices of the one layer that it has
    12
    >>> trainer = cptk.ContrastiveTrainer(embedder)

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
    if not is_integer(rank) or rank < 1:
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
    # KerasHub leaves the layers around these frozen in name. `block.trainable = False` would then
    # be no news on TensorFlow, whose `__setattr__` drops what changes nothing, and freeze nothing.
    for layer in backbone._flatten_layers(include_self=False):
        if any(part.trainable for part in layer._flatten_layers(include_self=False)):
            layer._trainable = True


def layer_paths(model: Model) -> dict[str, Any]:
    """The layers inside a model by path, with the model's own name left out.

    Keras counts names up (`dropout_7`), and not in each process alike, so a layer is named by its
    place among the layers of its kind: "gpt2_backbone.0/transformer_layer.1/dropout.0". Neither
    name nor order of other layers matter: on torch, KerasHub hides preprocessors from Keras.
    """
    found: dict[str, Any] = {}
    seen = {id(model)}
    level = [("", model)]
    while level:  # Level by level: a layer that is shared has the shortest of its paths.
        below = []
        for prefix, parent in level:
            counts: Counter[str] = Counter()
            for layer in parent._layers:
                kind = _base_name(layer.name)
                path = f"{prefix}{kind}.{counts[kind]}"
                counts[kind] += 1
                if id(layer) not in seen:
                    seen.add(id(layer))
                    found[path] = layer
                    if not isinstance(layer, _READS_TEXT):  # it makes layers when it is first used
                        below.append((f"{path}/", layer))
        level = below
    return found


def variable_paths(model: Model) -> dict[str, Any]:
    """The variables of a model by path, as `layer_paths`; metrics' are left out."""
    metrics = set(map(id, model.metrics_variables))
    seen = set(metrics)
    found: dict[str, Any] = {}
    for path, layer in {**layer_paths(model), "": model}.items():
        counts: Counter[str] = Counter()
        seeds = [generator.state for generator in layer._seed_generators]
        for variable in [*layer._trainable_variables, *layer._non_trainable_variables, *seeds]:
            name = _base_name(variable.name)
            if id(variable) not in seen:
                found[f"{path}/{name}.{counts[name]}"] = variable
            seen.add(id(variable))
            counts[name] += 1
    return found


def _base_name(name: str) -> str:
    return re.sub(r"_\d+$", "", name)


def training_state(embedder: Model) -> dict[str, list[Any]]:
    """What a backbone's config lacks: `[trainable, LoRA rank, LoRA alpha]` by the layer's path."""
    return {
        path: [layer.trainable, layer.lora_rank, layer.lora_alpha]
        if getattr(layer, "lora_enabled", False)
        else [layer.trainable, None, None]
        for path, layer in _state_paths(embedder).items()
    }


def restore_training_state(embedder: Model, state: Mapping[str, list[Any]]) -> None:
    """Gives the layers of an embedder what `training_state` has found on one of the same kind."""
    flat: dict[Any, Any]
    if isinstance(state, list):  # As cptk wrote it before: for each layer in turn.
        flat = dict(enumerate(embedder._flatten_layers()))
        state = dict(enumerate(state))
    else:
        flat = {"": embedder, **layer_paths(embedder)}
    missing = [path for path in state if path not in flat]
    if missing:
        raise ValueError(
            f"The file is of another model: it has {len(missing)} layers that this embedder lacks "
            f"({', '.join(map(str, missing[:3]))}). Load it with the versions of cptk and KerasHub "
            "that saved it."
        )
    # All flags before any LoRA: a layer's flag is handed down to its layers and variables.
    for path, (trainable, _, _) in state.items():
        flat[path].trainable = trainable
    for path, (_, rank, alpha) in state.items():
        if rank is not None:
            flat[path].enable_lora(rank, lora_alpha=alpha)
            _widen(flat[path])


def _state_paths(embedder: Model) -> dict[str, Any]:
    """All layers but inputs and what reads text: these have nothing to train."""
    others = _READS_TEXT | keras.layers.InputLayer
    layers = {"": embedder, **layer_paths(embedder)}
    return {path: layer for path, layer in layers.items() if not isinstance(layer, others)}


def _widen(layer: Layer) -> None:
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

    def __init__(self, model: Callable[[], Any]) -> None:
        super().__init__(name="lora_state")
        # A function: Keras would track the model itself here too.
        self._factors: Callable[[], dict[str, _Factors]] = lambda: _lora_factors(model())
        self.built = True

    @property
    def in_use(self) -> bool:
        """Whether any layer has LoRA."""
        return bool(self._factors())

    def save_own_variables(self, store: Tree) -> None:
        for name, (layer, a, b, base) in self._factors().items():
            if not keras.backend.is_float_dtype(base.dtype):
                raise ValueError(
                    f"Layer {layer.path} is quantised to {base.dtype} and has LoRA: its factors "
                    "cannot be saved apart from it. Train LoRA on a model that is not quantised."
                )
            store[f"{name}_a"] = a
            store[f"{name}_b"] = b
            if _is_short(base):
                store[f"{name}_base"] = base

    def load_own_variables(self, store: Tree) -> None:
        found = set(store.keys())
        by_place = "0_a" in found  # As cptk named them before.
        for index, (name, (layer, a, b, base)) in enumerate(self._factors().items()):
            name = str(index) if by_place else name
            if f"{name}_a" not in found:
                a.assign(keras.initializers.HeUniform()(a.shape, dtype=a.dtype))
                continue
            a.assign(store[f"{name}_a"])
            b.assign(store[f"{name}_b"])
            if f"{name}_base" in found:
                base.assign(store[f"{name}_base"])
            else:
                merged = (layer.lora_alpha / layer.lora_rank) * keras.ops.matmul(a, b)
                base.assign(base - keras.ops.cast(merged, base.dtype))


def _lora_factors(model: Model) -> dict[str, _Factors]:
    """Each layer with LoRA, its two factors, and the frozen weight they are added to."""
    found = {}
    for path, layer in layer_paths(model).items():
        if getattr(layer, "lora_enabled", False):
            kind = "kernel" if hasattr(layer, "lora_kernel_a") else "embeddings"
            a, b = (getattr(layer, f"lora_{kind}_{factor}") for factor in "ab")
            found[path.replace("/", ":")] = layer, a, b, getattr(layer, f"_{kind}")
    return found


def _is_short(weight: Variable) -> bool:
    """Whether a weight has 16 bits, too few to take the low-rank product out of again."""
    return keras.backend.standardize_dtype(weight.dtype) in ("bfloat16", "float16")
