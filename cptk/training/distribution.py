"""Training on several devices and machines: the objective of one device, whatever there is.

In contrastive learning the negatives of a pair come from the whole global batch. JAX sees that
batch as one array, however many devices and processes hold it, so nothing is done there but to cut
the data. TensorFlow runs the step once a replica, each with its share: embeddings are gathered,
each replica scores its own rows, and gradients and sums are added up.

Everything here that works around Keras 3.15, TensorFlow 2.21 or JAX 0.10 is marked WORKAROUND, with
the public issue where there is one; `tests/training/test_workarounds.py` says when one is no longer
needed.
"""

from __future__ import annotations

import atexit
import contextlib
import math
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from importlib import import_module
from typing import Any, NamedTuple, TypeAlias

import keras
import numpy as np

from cptk.data.batching import share_rows
from cptk.processes import is_chief as is_chief
from cptk.processes import tf_process
from cptk.training.trainable import Trainable
from cptk.types import (
    Batches,
    KerasBatch,
    Model,
    Optimizer,
    Size,
    Strategy,
    Tensor,
    TokenBatch,
    Tree,
    Variable,
)

Context: TypeAlias = Any
"""What TensorFlow tells a replica, or a process that feeds replicas, of its place."""

Distribution: TypeAlias = Any
"""A `keras.distribution.Distribution`."""

DeviceMesh: TypeAlias = Any
"""A `keras.distribution.DeviceMesh`."""

LayoutMap: TypeAlias = Any
"""A `keras.distribution.LayoutMap`."""

LossAndGradients: TypeAlias = Callable[..., tuple[Tensor, list[Tensor], dict[str, Tensor]]]

LOST = (
    "A process of this training was lost or cannot be reached: {error}. Start all of them again "
    "with the same command; with ExactBackupAndRestore among the callbacks they go on where the "
    "last backup was made."
)


class Replicas(NamedTuple):
    """How the global batch is cut: into `total` shares, of which this process has `own`."""

    total: int = 1
    first: int = 0
    own: int = 1
    processes: int = 1


def replicas(model: Model = None) -> Replicas:
    """How the batches of a model are cut, or those of a model made here and now."""
    if keras.config.backend() == "jax":
        return _jax_replicas()
    if keras.config.backend() == "tensorflow":
        return _tf_replicas(model)
    return Replicas()


def from_parts(strategy: Strategy, parts: Callable[[int, int], Batches], steps: Size) -> Batches:
    """A dataset of the replicas' parts of batches, on TensorFlow, as the strategy takes it.

    WORKAROUND. It reports the number of parts where Keras asks for the number of steps.

    Args:
        strategy: The strategy.
        parts: Function from the first part and how many to a dataset of them. It is called once
            for each process, or for each host of a TPU slice, that this process feeds.
        steps: Number of batches.
    """

    def of_host(context: Context) -> Batches:
        own = strategy.num_replicas_in_sync // context.num_input_pipelines
        return parts(context.input_pipeline_id * own, own)

    data = strategy.distribute_datasets_from_function(of_host)
    data._cardinality = np.int64(steps)
    return data


def broadcast_from_chief(number: int, model: Model) -> int:
    """The first process's number, on all processes."""
    if replicas(model).processes == 1:
        return number
    if keras.config.backend() == "jax":
        utils = import_module("jax.experimental.multihost_utils")
        return int(utils.broadcast_one_to_all(np.int32(number)))
    import tensorflow as tf

    strategy = model.distribute_strategy

    def own() -> Tensor:
        first = tf.distribute.get_replica_context().replica_id_in_sync_group == 0
        return tf.where(first, tf.constant(number, tf.int64), tf.constant(0, tf.int64))

    return int(strategy.reduce(tf.distribute.ReduceOp.SUM, strategy.run(own), axis=None))


# === Inside the step ===


def gather(tree: Tree) -> Tree:
    """Tensors of all replicas, `(n of all, ...)`, the calling replica's own rows first.

    Gradients go through it: those of a replica's rows are summed over all that have used them.
    The tensors themselves, where the global batch is at hand already.
    """
    context = _tf_context()
    if context is None:
        return tree
    import tensorflow as tf

    def of_all(tensor: Tensor) -> Tensor:
        kept = tensor.dtype
        if kept in (tf.bool, tf.uint8, tf.int8, tf.uint16, tf.int16):
            tensor = tf.cast(tensor, tf.int32)  # WORKAROUND. The collectives know few dtypes.
        everything = _all_gather(context, tensor)
        offset = -context.replica_id_in_sync_group * tf.shape(tensor)[0]
        return tf.cast(tf.roll(everything, offset, axis=0), kept)

    return keras.tree.map_structure(of_all, tree)


def everywhere(model: Model, tree: Tree) -> Tree:
    """Tensors of the whole batch, in its order, as a step can return them to every process."""
    if keras.config.backend() == "jax":
        current = keras.distribution.distribution()
        if current is None:
            return tree

        def whole(tensor: Tensor) -> Tensor:
            layout = keras.distribution.TensorLayout([None] * tensor.ndim, current.device_mesh)
            return keras.distribution.distribute_tensor(tensor, layout)

        return keras.tree.map_structure(whole, tree)
    context = _tf_context()
    if context is None:
        return tree
    # Keras takes the mean of what replicas return: it is the same on each. Of several processes,
    # it takes the mean over an axis more.
    several = replicas(model).processes > 1

    def of_all(tensor: Tensor) -> Tensor:
        everything = _all_gather(context, tensor)
        return keras.ops.expand_dims(everything, 0) if several else everything

    return keras.tree.map_structure(of_all, tree)


def _all_gather(context: Context, tensor: Tensor) -> Tensor:
    import tensorflow as tf

    # WORKAROUND. Processes gather no tensor that lies on no device, as an input of a function does.
    return context.all_gather(tf.identity(tensor), axis=0)


def all_reduce_sum(tensor: Tensor) -> Tensor:
    """The sum of a tensor over replicas, without gradient; itself where the batch is global."""
    context = _tf_context()
    if context is None:
        return tensor
    import tensorflow as tf

    return context.all_reduce(tf.distribute.ReduceOp.SUM, tf.stop_gradient(tensor))


def replicas_in_sync() -> int:
    """How often a step is run at once, each time for a share of the batch.

    What is optimised is the mean of their losses: their gradients are summed, so each is divided.
    """
    context = _tf_context()
    return 1 if context is None else int(context.num_replicas_in_sync)


def is_pair(x: Mapping[str, TokenBatch]) -> Tensor:
    """Boolean `(n,)`, False where a row without a token fills a batch that could not be divided."""
    return keras.ops.any(keras.ops.cast(x["query"]["padding_mask"], "bool"), axis=1)


def count_pairs(trainer: Model, data: KerasBatch) -> Tensor:
    """Pairs in the global batch."""
    x, _, _ = keras.utils.unpack_x_y_sample_weight(data)
    if replicas(trainer).total == 1:
        return keras.ops.shape(x["query"]["token_ids"])[0]
    return all_reduce_sum(keras.ops.sum(keras.ops.cast(is_pair(x), "float32")))


def tf_train_step(
    trainer: Model, data: KerasBatch, loss_and_gradients: LossAndGradients | None = None
) -> dict[str, Tensor]:
    """Keras's `train_step` on TensorFlow, with gradients summed before the optimizer sees them.

    WORKAROUND (tensorflow #33929, of TensorFlow's own Keras). Keras clips each replica's gradients
    before it adds them up.

    WORKAROUND (tensorflow #28090, of another optimizer). It hands the rows of an embedding that
    occur twice in a batch to the optimizer twice, and Adam squares them apart.
    """
    import tensorflow as tf

    x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
    loss_and_gradients = loss_and_gradients or _tf_loss_and_gradients
    loss, gradients, y_pred = loss_and_gradients(trainer, x, y, sample_weight)
    trainer._loss_tracker.update_state(loss, sample_weight=tf.shape(keras.tree.flatten(x)[0])[0])
    with tf.control_dependencies([loss]):  # No weight decays in a step whose loss ends in an error.
        apply_gradients(trainer.optimizer, gradients, trainer.trainable_weights)
    return with_batch_axis(trainer, trainer.compute_metrics(x, y, y_pred, sample_weight))


def _tf_loss_and_gradients(
    trainer: Trainable, x: Mapping[str, TokenBatch], y: None, sample_weight: Tensor | None
) -> tuple[Tensor, list[Tensor], dict[str, Tensor]]:
    import tensorflow as tf

    with tf.GradientTape() as tape:
        y_pred = trainer(x, training=True)
        # Keras's own name for `compute_loss`, with or without the argument `training`.
        loss = trainer._compute_loss(x, y, y_pred, sample_weight, training=True)
        scaled = trainer.optimizer.scale_loss(loss / replicas_in_sync())
    return loss, tape.gradient(scaled, trainer.trainable_weights), y_pred


def tf_test_step(trainer: Model, data: KerasBatch) -> dict[str, Any]:
    """Keras's `test_step` on TensorFlow; there the loss is multiplied by the number of replicas."""
    import tensorflow as tf

    x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
    y_pred = trainer(x, training=False)
    loss = trainer._compute_loss(x, y, y_pred, sample_weight, training=False)
    trainer._loss_tracker.update_state(loss, sample_weight=tf.shape(keras.tree.flatten(x)[0])[0])
    return with_batch_axis(trainer, trainer.compute_metrics(x, y, y_pred, sample_weight))


def apply_gradients(
    optimizer: Optimizer, gradients: Sequence[Tensor], variables: Sequence[Variable]
) -> None:
    """One optimizer step with the gradients' sum over replicas, on TensorFlow."""
    import tensorflow as tf

    pairs = [
        (tf.convert_to_tensor(gradient), variable)
        for gradient, variable in zip(gradients, variables, strict=True)
        if gradient is not None
    ]
    context = _tf_context()
    if context is not None:
        # WORKAROUND. One call for each dtype: to other processes they are sent as one buffer.
        for dtype in {gradient.dtype for gradient, _ in pairs}:
            places = [i for i, (gradient, _) in enumerate(pairs) if gradient.dtype == dtype]
            values = [pairs[i][0] for i in places]
            summed = context.all_reduce(tf.distribute.ReduceOp.SUM, values)
            for i, gradient in zip(places, summed, strict=True):
                pairs[i] = (gradient, pairs[i][1])
    optimizer.apply_gradients(pairs)


def with_batch_axis(trainer: Model, logs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Logs as Keras can take their mean over axis 0, as it does with several processes.

    WORKAROUND (keras #20585, tensorflow #72388). They are scalars and have no axis 0.
    """
    if replicas(trainer).processes == 1:
        return logs
    return {name: keras.ops.reshape(value, (1,)) for name, value in logs.items()}


# === The doors of `fit` ===


def shard_batch(batch: Tree, model: Model) -> Tree:
    """A global batch of arrays, cut for a single step."""
    cut = replicas(model)
    if cut.total == 1:
        return batch
    if keras.config.backend() == "jax":
        return share_rows(batch, cut.total, cut.first, cut.own)

    def part(context: Context) -> Tree:
        return share_rows(batch, cut.total, context.replica_id_in_sync_group, 1)

    return model.distribute_strategy.experimental_distribute_values_from_function(part)


def check_compile(trainer: Model, optimizer: Optimizer, options: Mapping[str, Any]) -> None:
    """Refuse what cannot be exact on the replicas there are, and say what to do instead."""
    cut = replicas(trainer)
    if keras.config.backend() == "torch" and _torch_processes() > 1:
        raise ValueError(
            "Several torch processes train several models here: Keras 3.15 has no "
            "DistributedDataParallel, and its `fit` would neither gather the negatives nor add up "
            "the gradients. Use KERAS_BACKEND=jax with keras.distribution.DataParallel, or "
            "tensorflow with tf.distribute."
        )
    if keras.config.backend() != "tensorflow":
        return
    if options.get("jit_compile") is True and trainer.micro_batches is not None:
        raise ValueError(
            "`jit_compile=True` does not work with micro-batches on TensorFlow: XLA cannot compile "
            "a loop over micro-batches of different lengths. Leave it out, or use "
            "KERAS_BACKEND=jax, which compiles them."
        )
    if cut.total == 1:
        return
    name = type(trainer.distribute_strategy).__name__
    # keras issue 19005.
    if options.get("jit_compile") is True and "TPU" not in name:
        raise ValueError(
            f"`jit_compile=True` does not work under {name}: TensorFlow cannot compile a step "
            "whose variables lie on several devices. Leave it out."
        )
    if options.get("steps_per_execution", 1) != 1:
        raise ValueError(
            f"`steps_per_execution` above 1 does not work under {name} (keras issue 19246). Leave "
            "it out."
        )
    # keras issue 20582.
    for argument in ("gradient_accumulation_steps", "ema_overwrite_frequency"):
        if getattr(_innermost(optimizer), argument, None):
            raise ValueError(
                f"`{argument}` does not work under {name}: TensorFlow cannot update variables of "
                "several devices in one branch of a condition. Leave it out of the optimizer."
            )
    if isinstance(optimizer, keras.optimizers.Optimizer) and (
        _innermost(optimizer)._distribution_strategy is not trainer.distribute_strategy
    ):
        raise ValueError(
            "Make the optimizer in the scope that the trainer was made in, so that its variables "
            "lie beside the model's:\n    with strategy.scope():\n        "
            "trainer.compile(optimizer=keras.optimizers.AdamW(1e-4))"
        )


def take_over(trainer: Model) -> None:
    """Have the optimizer leave the adding up of gradients to the step.

    WORKAROUND (keras #19308). Keras 3 has no argument to ask for it, as Keras 2 had.
    """
    cut = replicas(trainer)
    if keras.config.backend() == "tensorflow" and cut.total > 1:
        _innermost(trainer.optimizer)._all_reduce_sum_gradients = list
    if keras.config.backend() == "jax" and cut.processes > 1:
        _compile_anew()


def build(trainer: Model) -> None:
    """Make the optimizer's variables where the model's are.

    WORKAROUND (keras #20585). Keras would take a batch from the data to build the model by, which
    fails with several processes, and where replicas get unequal numbers of rows.
    """
    if not trainer.optimizer.built:
        with scope(trainer):
            trainer.optimizer.build(trainer.trainable_variables)


def scope(model: Model) -> AbstractContextManager[object]:
    """The strategy's scope on TensorFlow; none elsewhere."""
    if keras.config.backend() == "tensorflow":
        return model.distribute_strategy.scope()  # type: ignore[no-any-return]
    return contextlib.nullcontext()


@contextlib.contextmanager
def running(trainer: Model) -> Iterator[None]:
    """Around `fit` and `evaluate`: data comes cut, and lost processes are named.

    WORKAROUND (keras #21430). On JAX, unless told that the data is cut, Keras would cut the shares
    once more, and refuses all but tf.data.
    """
    on_jax = keras.config.backend() == "jax"
    current: Distribution = keras.distribution.distribution() if on_jax else None
    sharding = getattr(current, "auto_shard_dataset", None)
    if sharding:
        current.auto_shard_dataset = False
    try:
        yield
    except Exception as error:
        said = _loss(error) if replicas(trainer).processes > 1 else None
        if said is None:
            raise
        _end_in_time()
        raise RuntimeError(LOST.format(error=said)) from error
    finally:
        if sharding:
            current.auto_shard_dataset = sharding


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
    >>> layout = cptk.training.distribution.layout_map(keras_hub.models.GPT2Backbone, mesh)
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


# === TensorFlow and JAX ===


def _tf_replicas(model: Model) -> Replicas:
    import tensorflow as tf

    strategy = getattr(model, "distribute_strategy", None) or tf.distribute.get_strategy()
    everyone = strategy.num_replicas_in_sync
    if everyone == 1:
        return Replicas()
    own = len(strategy.extended.worker_devices)
    processes = everyone // own
    first = own * tf_process(strategy) if processes > 1 else 0
    return Replicas(everyone, first, own, processes)


def _tf_context() -> Context:
    """The replica's context, if there are several replicas and this runs in one of them."""
    if keras.config.backend() != "tensorflow":
        return None
    import tensorflow as tf

    context = tf.distribute.get_replica_context()
    return context if context is not None and context.num_replicas_in_sync > 1 else None


def _jax_replicas() -> Replicas:
    current = keras.distribution.distribution()
    if current is None:
        return Replicas()
    mesh = current.device_mesh
    everyone = mesh.shape[list(mesh.axis_names).index(current.batch_dim_name)]
    jax = import_module("jax")
    processes = jax.process_count()
    if everyone % processes:
        raise ValueError(
            f"The batch is divided in {everyone} on the axis {current.batch_dim_name!r}, and there "
            f"are {processes} processes: each needs as many parts of the batch as the others, and "
            "at least one. Make the batch axis a multiple of the number of processes."
        )
    own = everyone // processes
    return Replicas(everyone, jax.process_index() * own, own, processes)


def _torch_processes() -> int:
    torch = import_module("torch.distributed")
    return torch.get_world_size() if torch.is_available() and torch.is_initialized() else 1


def _innermost(optimizer: Optimizer) -> Optimizer:
    """The optimizer itself, where loss scaling is wrapped around it."""
    return getattr(optimizer, "inner_optimizer", optimizer)


def _loss(error: Exception) -> str | None:
    """What an error says of another process that has gone; `None` where it says nothing of it."""
    signs = ("unavailable", "aborted", "connection reset", "connection closed", "gloo", "heartbeat")
    for line in f"{type(error).__name__}: {error}".splitlines():
        if any(sign in line.lower() for sign in signs):
            return line.strip()[:300]
    return None


def _compile_anew() -> None:
    """Have JAX compile its programs, and read none from its compilation cache, on CPUs.

    WORKAROUND. There the first process alone finds programs in the cache (the keys of the others
    differ), and such a program runs its collectives in another order than one just compiled: a
    training that was started again would wait for ever in its first steps. (No test tells when it
    no longer does: two processes have to be seen to wait.)
    """
    jax = import_module("jax")
    if jax.default_backend() == "cpu" and jax.config.jax_enable_compilation_cache:
        jax.config.update("jax_enable_compilation_cache", False)
        # It is asked whether there is a cache once.
        import_module("jax.experimental.compilation_cache.compilation_cache").reset_cache()


def _end_in_time(seconds: int = 10) -> None:
    """Have this process end, once it wants to.

    WORKAROUND. TensorFlow may wait for ever for the lost one when the interpreter shuts down, and
    JAX for the 100 seconds of a missed heartbeat. (No test tells when they no longer do: they have
    to be seen to wait.)
    """
    if hasattr(signal, "alarm"):
        atexit.register(signal.alarm, seconds)
