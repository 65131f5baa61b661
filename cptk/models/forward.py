"""The forward pass of an embedder: compiled, from many threads at once, on this process alone.

Keras's own `predict_on_batch` serves one thread alone on JAX: it gives the memory of the weights
away and takes it back after the call. It also goes on with the program of its first call after the
model has changed.
"""

from __future__ import annotations

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
from typing import TypeAlias

import keras
import numpy as np

from cptk.models.keras_hub_embedders import embed as embed_tokens
from cptk.types import Model, Tensor, TensorLike, Variable, Vectors

#: Seconds to wait for weights that a step on JAX has taken.
_LONGEST_WAIT = 60

Features: TypeAlias = Mapping[str, TensorLike]
"""The inputs of a model by name, of n rows each."""

Embed: TypeAlias = Callable[[Features], Vectors]
"""A compiled forward pass."""

_lock = threading.Lock()
#: Embedder → the models that train it.
_holders: weakref.WeakKeyDictionary[Model, weakref.WeakSet[Model]] = weakref.WeakKeyDictionary()
#: Whether this process has used the backend, and whether it was forked from one that had.
_process = {"used": False, "forked": False}


def forward(embedder: Model, features: Features) -> Vectors:
    """Embeddings of a batch of arrays, on this process alone whatever the distribution.

    Keras's `predict` under a strategy is no help here: on TensorFlow every replica embeds the whole
    batch and every process waits for the others, and on JAX it fails with several processes.

    Args:
        embedder: A Keras model.
        features: Its inputs, arrays of n rows.

    Returns:
        An array of n vectors.

    Raises:
        RuntimeError: In a process that was forked after the backend had started.
    """
    return compiled_forward(embedder)(features)


def compiled_forward(embedder: Model) -> Embed:
    """`vectors = embed(features)`, compiled anew if the model has changed since the last call."""
    check_not_forked()
    now = signature(embedder)
    with _lock:
        known: _Compiled | None = getattr(embedder, "_compiled_forward", None)
        if known is None or known.made_for != now:
            make = {"tensorflow": _on_tensorflow, "jax": _on_jax, "torch": _on_torch}
            embed = make[keras.config.backend()](embedder)
            known = embedder._compiled_forward = _Compiled(now, embed)
    return known.embed


def takes_any_shape(embedder: Model) -> bool:
    """Whether a batch of another shape costs no compiling."""
    backend = keras.config.backend()
    return backend != "jax" and not (embedder.jit_compile and not embedder.run_eagerly)


def on_one_cpu(embedder: Model) -> bool:
    """Whether batches are embedded on the processor, and on one device of it."""
    backend = keras.config.backend()
    if backend == "tensorflow":
        config = import_module("tensorflow").config
        return not config.list_logical_devices("GPU") and not _mirrored(embedder)
    if backend == "jax":
        jax = import_module("jax")
        return jax.default_backend() == "cpu" and keras.distribution.distribution() is None
    return not import_module("torch").cuda.is_available()


def for_threads() -> Callable[[], None]:
    """What each thread that embeds calls first: Keras keeps the distribution thread by thread."""
    current = keras.distribution.distribution()
    return lambda: keras.distribution.set_distribution(current)


class _Compiled:
    """A compiled function and the state of the model that it was compiled for.

    No tuple: Keras would keep track of the variables in a tuple that is set on a model.
    """

    def __init__(self, made_for: Signature, embed: Embed) -> None:
        self.made_for, self.embed = made_for, embed


class Signature:
    """All that a compiled function takes from a model once, when it is compiled.

    These are its layers, with their dtypes and settings, and its variables, which LoRA and
    quantisation replace. The objects themselves are held and not their ids: Python gives the id of
    an object that is gone to a new one, which would then pass for the old.
    """

    def __init__(self, settings: list[object], variables: list[Variable]) -> None:
        self.settings, self.variables = settings, variables

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Signature) or self.settings != other.settings:
            return False
        mine, theirs = self.variables, other.variables
        return len(mine) == len(theirs) and all(map(operator.is_, mine, theirs))

    __hash__ = None  # type: ignore[assignment]


def signature(model: Model) -> Signature:
    """What a function that is compiled now takes from `model`."""
    settings: list[object] = [model.run_eagerly, model.jit_compile]
    variables: list[Variable] = []
    for part in model.layers:
        if part is getattr(model, "preprocessor", None):
            continue
        for layer in part._flatten_layers():
            plain = [
                value
                for name, value in vars(layer).items()
                if name[0] != "_" and type(value) in _SETTING_TYPES
            ]
            settings.append((layer, layer.dtype_policy.name, plain))
            variables += layer._trainable_variables
            variables += layer._non_trainable_variables
    return Signature(settings, variables)


#: Types of a layer's settings: rates, sizes, names, activations.
_SETTING_TYPES = (bool, int, float, str, types.FunctionType)


def predict_on_jax(
    embedder: Model, state: object, batches: Iterator[object]
) -> tuple[Vectors, tuple[list[Tensor], list[Tensor]]]:
    """A step of Keras's `predict` that leaves the weights where they are.

    Args:
        embedder: A Keras model.
        state: The values of the variables, as Keras passes them to a step; not used.
        batches: The batches to come.

    Returns:
        The embeddings of the next `steps_per_execution` batches, and an empty state: Keras has no
        variable to write back.
    """
    vectors = [
        forward(embedder, keras.utils.unpack_x_y_sample_weight(batch)[0])
        for batch in itertools.islice(batches, embedder.steps_per_execution)
    ]
    if not vectors:
        raise StopIteration
    return np.concatenate(vectors), ([], [])


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


def _on_tensorflow(embedder: Model) -> Embed:
    tf = import_module("tensorflow")
    # Dimensions of any size, so that one trace serves all batches. It is made here, under the lock,
    # and not by the threads that call.
    specs = {
        name: tf.TensorSpec([None] * len(x.shape), x.dtype)
        for name, x in embedder.input.items()
        if name != "segment_ids"
    }

    def embed(features: Features) -> Tensor:
        return embed_tokens(embedder, features, training=False)

    call: Callable[[Features], Tensor] = embed
    if _mirrored(embedder):
        return _on_replicas(embedder, specs)
    if not embedder.run_eagerly:
        alone = embedder.distribute_strategy.num_replicas_in_sync == 1
        compiled = tf.function(
            embed,
            input_signature=[specs],
            autograph=False,
            jit_compile=bool(embedder.jit_compile and alone),
        )
        compiled.get_concrete_function()
        call = compiled
    dtypes = {name: spec.dtype.as_numpy_dtype for name, spec in specs.items()}
    return lambda features: np.asarray(
        call({name: np.asarray(array, dtypes[name]) for name, array in features.items()})
    )


def _mirrored(embedder: Model) -> bool:
    """Whether a strategy holds the weights on several devices of this process, and of no other."""
    strategy = embedder.distribute_strategy
    mirrored = import_module("tensorflow").distribute.MirroredStrategy
    return isinstance(strategy, mirrored) and strategy.num_replicas_in_sync > 1


def _on_replicas(embedder: Model, specs: Mapping[str, Tensor]) -> Embed:
    """Each replica embeds its rows of a batch, where its own copy of the weights is."""
    tf = import_module("tensorflow")
    strategy = embedder.distribute_strategy
    count = strategy.num_replicas_in_sync

    def embed(features: Features) -> Tensor:
        return embed_tokens(embedder, features, training=False)

    def step(features: Features) -> Tensor:
        return strategy.run(embed, args=(features,))

    if not embedder.run_eagerly:
        step = tf.function(step, autograph=False, reduce_retracing=True)
    dtypes = {name: spec.dtype.as_numpy_dtype for name, spec in specs.items()}

    def call(features: Features) -> Vectors:
        whole, rows = _filled_up(features, count)
        each = len(whole["token_ids"]) // count

        def part(context: Tensor) -> Features:
            start = context.replica_id_in_sync_group * each
            return {
                name: tf.constant(np.asarray(array[start : start + each], dtypes[name]))
                for name, array in whole.items()
            }

        shares = strategy.experimental_distribute_values_from_function(part)
        found = strategy.experimental_local_results(step(shares))
        return np.concatenate([np.asarray(share) for share in found])[:rows]

    return call


def _filled_up(features: Features, parts: int) -> tuple[dict[str, TensorLike], int]:
    """Rows that can be cut in equal parts, by repeating the first; and how many there were."""
    rows = len(features["token_ids"])
    missing = -rows % parts
    if not missing:
        return dict(features), rows
    return {
        name: np.concatenate([array := np.asarray(x), np.repeat(array[:1], missing, axis=0)])
        for name, x in features.items()
    }, rows


def _on_torch(embedder: Model) -> Embed:
    torch = import_module("torch")

    def embed(features: Features) -> Tensor:
        return embed_tokens(embedder, features, training=False)

    if embedder.jit_compile and not embedder.run_eagerly:
        embed = torch.compile(embed)

    def call(features: Features) -> Vectors:
        with torch.no_grad():
            return np.asarray(keras.ops.convert_to_numpy(embed(dict(features))))

    return call


def _on_jax(embedder: Model) -> Embed:
    jax = import_module("jax")
    variables = [*embedder.variables]

    def embed(values: list[Tensor], features: Features) -> Tensor:
        with keras.StatelessScope(state_mapping=list(zip(variables, values, strict=True))):
            return embed_tokens(embedder, features, training=False)

    if not embedder.run_eagerly:
        embed = jax.jit(embed)  # Nothing is donated: the weights stay.

    def call(features: Features) -> Vectors:
        start = time.monotonic()
        while True:
            values = _current_arrays(embedder, variables)
            try:
                return _embed_on_this_process(embed, values, dict(features))
            except (RuntimeError, ValueError):
                # A training step in another thread has taken the arrays and will give new ones.
                taken = any(value.is_deleted() for value in values)
                if not taken or time.monotonic() - start > _LONGEST_WAIT:
                    raise
            time.sleep(0.002)

    return call


def holds(model: Model, embedder: Model) -> None:
    """Remember that `model` trains `embedder`: on JAX its steps hold the newest weights."""
    _holders.setdefault(embedder, weakref.WeakSet()).add(model)


@contextlib.contextmanager
def kept(variables: Iterable[Variable]) -> Iterator[None]:
    """Give variables their arrays back after Keras's `_purge_model_variables`.

    Keras takes the arrays away for an epoch. A variable without an array reads, without a warning,
    as a new draw of its initializer, and after an epoch without a batch Keras gives nothing back.
    """
    arrays = [(variable, variable._value) for variable in variables]
    yield
    for variable, array in arrays:
        variable._value = array


def _current_arrays(embedder: Model, variables: list[Variable]) -> list[Tensor]:
    """The arrays of the variables, taken from a running `fit` where the variables have none."""
    values = [variable._value for variable in variables]
    if not any(value is None or value.is_deleted() for value in values):
        return values
    known: dict[int, Tensor] = {}
    for holder in (embedder, *_holders.get(embedder, ())):
        state = getattr(holder, "_jax_state", None) or {}
        for kind in ("trainable_variables", "non_trainable_variables"):
            arrays = state.get(kind) or ()
            pairs = zip(getattr(holder, kind), arrays, strict=False)
            known |= {id(variable): array for variable, array in pairs}
    values = [known.get(id(variable), variable._value) for variable in variables]
    if any(value is None for value in values):
        raise RuntimeError(
            "Another model than a cptk.ContrastiveTrainer is training this embedder: on JAX its "
            "`fit` holds the weights till the end of the epoch. Embed before or after it, or in "
            "`on_epoch_end` of a callback."
        )
    return values


def _embed_on_this_process(
    embed: Callable[[list[Tensor], Features], Tensor], values: list[Tensor], features: Features
) -> Vectors:
    """Run `embed`, under a distribution on the devices of this process alone."""
    jax = import_module("jax")
    current = keras.distribution.distribution()
    if current is None:
        return np.asarray(embed(values, features))
    if jax.process_count() == 1:
        layout, mesh = current.get_data_layout((1, 1)), current.device_mesh
        parts = mesh.shape[list(mesh.axis_names).index(current.batch_dim_name)]
        whole, rows = _filled_up(features, parts)
        whole = {k: jax.device_put(v, layout.backend_layout) for k, v in whole.items()}
        return np.asarray(embed(values, whole))[:rows]
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
