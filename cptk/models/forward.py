"""The forward pass of an embedder: compiled, from many threads at once, on this process alone.

Keras's own `predict_on_batch` serves one thread on JAX, where it gives the memory of the weights
away and takes it back after the call, and remembers the model of its first call.
"""

import contextlib
import itertools
import operator
import os
import threading
import time
import types
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib import import_module
from typing import Any

import keras
import numpy as np

#: Seconds to wait for weights that a step on JAX has taken.
PATIENCE = 60

Embed = Callable[[Mapping[str, Any]], np.ndarray]

_lock = threading.Lock()
_holders: "weakref.WeakKeyDictionary[Any, weakref.WeakSet[Any]]" = weakref.WeakKeyDictionary()
_process = {"used": False, "forked": False}


def forward(embedder: Any, features: Mapping[str, Any]) -> np.ndarray:
    """Embeddings of a batch of arrays, on this process alone whatever the distribution.

    Under a strategy, `predict` of Keras embeds the batch once a replica on TensorFlow, and waits
    for all processes; on JAX it fails with several.

    Args:
        embedder: A Keras model.
        features: Its inputs, arrays of n rows.

    Returns:
        An array of n vectors.

    Raises:
        RuntimeError: In a process that was forked after the backend had started.
    """
    return program(embedder)(features)


def program(embedder: Any) -> Embed:
    """`vectors = embed(features)`, made anew where the model has changed since it was compiled."""
    check_not_forked()
    key = signature(embedder)
    with _lock:
        known: _Program | None = getattr(embedder, "_program", None)
        if known is None or known.key != key:
            make = {"tensorflow": _on_tensorflow, "jax": _on_jax, "torch": _on_torch}
            embed = make[keras.config.backend()](embedder)
            known = embedder._program = _Program(key, embed)
    return known.embed


class _Program:
    """A compiled function and the model that it was compiled for."""

    def __init__(self, key: "Signature", embed: Embed) -> None:
        self.key, self.embed = key, embed


class Signature:
    """All that a compiled function takes from a model for good.

    That is its layers, with their dtypes and settings, and its variables, which LoRA and
    quantisation replace. They are kept, since the id of a collected one may be given to another.
    """

    def __init__(self, settings: list[Any], variables: list[Any]) -> None:
        self.settings, self.variables = settings, variables

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Signature) or self.settings != other.settings:
            return False
        mine, theirs = self.variables, other.variables
        return len(mine) == len(theirs) and all(map(operator.is_, mine, theirs))

    __hash__ = None  # type: ignore[assignment]


def signature(model: Any) -> Signature:
    """What a function that is compiled now will have taken from `model`."""
    settings: list[Any] = [model.run_eagerly, model.jit_compile]
    variables: list[Any] = []
    for part in model.layers:
        if part is getattr(model, "preprocessor", None):
            continue
        for layer in part._flatten_layers():
            own = [v for k, v in vars(layer).items() if k[0] != "_" and type(v) in _PLAIN]
            settings.append((layer, layer.dtype_policy.name, own))
            variables += layer._trainable_variables
            variables += layer._non_trainable_variables
    return Signature(settings, variables)


#: Settings of a layer: rates, sizes, activations.
_PLAIN = (bool, int, float, str, types.FunctionType)


def predict_on_jax(embedder: Any, state: Any, batches: Iterator[Any]) -> tuple[np.ndarray, Any]:
    """A step of Keras's `predict` that leaves the weights where they are."""
    vectors = [
        forward(embedder, keras.utils.unpack_x_y_sample_weight(batch)[0])
        for batch in itertools.islice(batches, embedder.steps_per_execution)
    ]
    if not vectors:
        raise StopIteration
    return np.concatenate(vectors), ([], [])  # no state for Keras to write back


# === Forking


def _note_fork() -> None:
    _process["forked"] = _process["used"]


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_note_fork)


def check_not_forked() -> None:
    """Raise `RuntimeError` in a process that was forked after its parent had used the backend."""
    if _process["forked"]:
        raise RuntimeError(
            "This process was forked after an embedder had been made, and a backend does not "
            "survive that: the call would wait for ever. Start processes with "
            'multiprocessing.get_context("spawn") (for concurrent.futures: '
            "ProcessPoolExecutor(mp_context=…)), or make the embedder in the child alone."
        )
    _process["used"] = True


# === One backend each


def _on_tensorflow(embedder: Any) -> Embed:
    tf = import_module("tensorflow")
    # Of any size, so that one trace, made here and not in the first thread, serves all batches.
    specs = {x.name: tf.TensorSpec([None] * len(x.shape), x.dtype) for x in embedder.inputs}

    def embed_eagerly(features: Any) -> Any:
        return embedder(features, training=False)

    embed: Any = embed_eagerly
    if not embedder.run_eagerly:
        alone = embedder.distribute_strategy.num_replicas_in_sync == 1
        embed = tf.function(
            embed_eagerly,
            input_signature=[specs],
            autograph=False,
            jit_compile=bool(embedder.jit_compile and alone),
        )
        embed.get_concrete_function()
    dtypes = {name: spec.dtype.as_numpy_dtype for name, spec in specs.items()}
    return lambda features: np.asarray(
        embed({name: np.asarray(array, dtypes[name]) for name, array in features.items()})
    )


def _on_torch(embedder: Any) -> Embed:
    torch = import_module("torch")

    def embed(features: Any) -> Any:
        return embedder(features, training=False)

    if embedder.jit_compile and not embedder.run_eagerly:
        embed = torch.compile(embed)

    def call(features: Any) -> np.ndarray:
        with torch.no_grad():
            return np.asarray(keras.ops.convert_to_numpy(embed(dict(features))))

    return call


def _on_jax(embedder: Any) -> Embed:
    jax = import_module("jax")
    variables = [*embedder.variables]

    def embed(values: Any, features: Any) -> Any:
        with keras.StatelessScope(state_mapping=list(zip(variables, values, strict=True))):
            return embedder(features, training=False)

    if not embedder.run_eagerly:
        embed = jax.jit(embed)  # and nothing donated

    def call(features: Any) -> np.ndarray:
        start = time.monotonic()
        while True:
            values = _values(embedder, variables)
            try:
                return np.asarray(_embed_here(embed, values, dict(features)))
            except (RuntimeError, ValueError):
                # A step in another thread has taken the arrays, and will give new ones.
                taken = any(value.is_deleted() for value in values)
                if not taken or time.monotonic() - start > PATIENCE:
                    raise
            time.sleep(0.002)

    return call


def holds(model: Any, embedder: Any) -> None:
    """Tell that `model` trains `embedder`: on JAX its steps take the weights with them."""
    _holders.setdefault(embedder, weakref.WeakSet()).add(model)


@contextlib.contextmanager
def kept(variables: Iterable[Any]) -> Iterator[None]:
    """Around Keras's `_purge_model_variables`, by which variables lose their arrays for an epoch.

    A variable without one reads as a new draw of its initializer, in silence, and an epoch without
    a batch gives nothing back.
    """
    arrays = [(variable, variable._value) for variable in variables]
    yield
    for variable, array in arrays:
        variable._value = array


def _values(embedder: Any, variables: list[Any]) -> list[Any]:
    """The arrays of the variables; those of the last step, where a `fit` holds them."""
    values = [variable._value for variable in variables]
    if not any(value is None or value.is_deleted() for value in values):
        return values
    known: dict[int, Any] = {}
    for holder in (embedder, *_holders.get(embedder, ())):
        state = getattr(holder, "_jax_state", None) or {}
        for kind in ("trainable_variables", "non_trainable_variables"):
            arrays = state.get(kind) or ()
            known |= {id(v): a for v, a in zip(getattr(holder, kind), arrays, strict=False)}
    values = [known.get(id(variable), variable._value) for variable in variables]
    if any(value is None for value in values):
        raise RuntimeError(
            "Another model than a cptk.ContrastiveTrainer is training this embedder: on JAX its "
            "`fit` holds the weights till the end of the epoch. Embed before or after it, or in "
            "`on_epoch_end` of a callback."
        )
    return values


def _embed_here(embed: Any, values: list[Any], features: dict[str, Any]) -> Any:
    """Under a distribution: by the devices of this process, without the others."""
    jax = import_module("jax")
    current: Any = keras.distribution.distribution()
    if current is None:
        return embed(values, features)
    if jax.process_count() == 1:
        layout, mesh = current.get_data_layout((1, 1)), current.device_mesh
        parts = mesh.shape[list(mesh.axis_names).index(current.batch_dim_name)]
        if len(features["token_ids"]) % parts == 0:
            features = {k: jax.device_put(v, layout.backend_layout) for k, v in features.items()}
        return np.asarray(embed(values, features))
    if not all(value.is_fully_replicated for value in values):
        raise ValueError(
            "The weights are divided between processes, so that no process can embed alone. "
            "Save the embedder and load it without a distribution."
        )
    keras.distribution.set_distribution(None)
    try:
        return np.asarray(embed([value.addressable_data(0) for value in values], features))
    finally:
        keras.distribution.set_distribution(current)
