"""TensorFlow runs the step once a replica, each with its share of the global batch.

Embeddings are gathered, each replica scores its own rows, and gradients and sums are added up.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any, TypeAlias

import keras
import numpy as np
import tensorflow as tf

from cptk.data.batching import share_rows
from cptk.distribution.one_device import OneDevice
from cptk.distribution.replicas import Replicas
from cptk.processes import tf_process
from cptk.types import Batches, Model, Optimizer, Size, Strategy, Tensor, Tree

Context: TypeAlias = Any
"""What TensorFlow tells a replica, or a process that feeds replicas, of its place."""


class ManyReplicas(OneDevice):
    """A share of the batch, where a strategy has several replicas."""

    def replicas(self, model: Model = None) -> Replicas:
        """Those of the model's strategy, or of the one in scope."""
        strategy = getattr(model, "distribute_strategy", None) or tf.distribute.get_strategy()
        everyone = strategy.num_replicas_in_sync
        if everyone == 1:
            return Replicas()
        own = len(strategy.extended.worker_devices)
        processes = everyone // own
        first = own * tf_process(strategy) if processes > 1 else 0
        return Replicas(everyone, first, own, processes)

    def shard_batch(self, batch: Tree, model: Model) -> Tree:
        """A value of each replica's rows."""
        cut = self.replicas(model)
        if cut.total == 1:
            return batch

        def part(context: Context) -> Tree:
            return share_rows(batch, cut.total, context.replica_id_in_sync_group, 1)

        return model.distribute_strategy.experimental_distribute_values_from_function(part)

    def from_parts(
        self, strategy: Strategy, parts: Callable[[int, int], Batches], steps: Size
    ) -> Batches:
        """Made by the strategy, for each host.

        WORKAROUND. It reports the number of parts where Keras asks for the number of steps.
        """

        def of_host(context: Context) -> Batches:
            own = strategy.num_replicas_in_sync // context.num_input_pipelines
            return parts(context.input_pipeline_id * own, own)

        data = strategy.distribute_datasets_from_function(of_host)
        data._cardinality = np.int64(steps)
        return data

    def broadcast_from_chief(self, number: int, model: Model) -> int:
        """By a sum to which the others add 0."""
        if self.replicas(model).processes == 1:
            return number
        strategy = model.distribute_strategy

        def own() -> Tensor:
            first = tf.distribute.get_replica_context().replica_id_in_sync_group == 0
            return tf.where(first, tf.constant(number, tf.int64), tf.constant(0, tf.int64))

        return int(strategy.reduce(tf.distribute.ReduceOp.SUM, strategy.run(own), axis=None))

    def check_compile(self, model: Model, optimizer: Optimizer, options: Mapping[str, Any]) -> None:
        """What a strategy cannot do."""
        if self.replicas(model).total == 1:
            return
        name = type(model.distribute_strategy).__name__
        # keras issue 19005.
        if options.get("jit_compile") is True and "TPU" not in name:
            raise ValueError(
                f"`jit_compile=True` does not work under {name}: TensorFlow cannot compile a step "
                "whose variables lie on several devices. Leave it out."
            )
        if options.get("steps_per_execution", 1) != 1:
            raise ValueError(
                f"`steps_per_execution` above 1 does not work under {name} (keras issue 19246). "
                "Leave it out."
            )
        # keras issue 20582.
        for argument in ("gradient_accumulation_steps", "ema_overwrite_frequency"):
            if getattr(_innermost(optimizer), argument, None):
                raise ValueError(
                    f"`{argument}` does not work under {name}: TensorFlow cannot update variables "
                    "of several devices in one branch of a condition. Leave it out of the "
                    "optimizer."
                )
        if isinstance(optimizer, keras.optimizers.Optimizer) and (
            _innermost(optimizer)._distribution_strategy is not model.distribute_strategy
        ):
            raise ValueError(
                "Make the optimizer in the scope that the trainer was made in, so that its "
                "variables lie beside the model's:\n    with strategy.scope():\n        "
                "trainer.compile(optimizer=keras.optimizers.AdamW(1e-4))"
            )

    def take_over(self, model: Model) -> None:
        """As its own method for it is replaced.

        WORKAROUND (keras #19308). Keras 3 has no argument to ask for it, as Keras 2 had.
        """
        if self.replicas(model).total > 1:
            _innermost(model.optimizer)._all_reduce_sum_gradients = list

    def scope(self, model: Model) -> AbstractContextManager[object]:
        """The strategy's."""
        return model.distribute_strategy.scope()  # type: ignore[no-any-return]

    def gather(self, tree: Tree) -> Tree:
        """By a collective, and rolled so that the own rows come first."""
        context = replica_context()
        if context is None:
            return tree

        def of_all(tensor: Tensor) -> Tensor:
            kept = tensor.dtype
            if kept in (tf.bool, tf.uint8, tf.int8, tf.uint16, tf.int16):
                tensor = tf.cast(tensor, tf.int32)  # WORKAROUND. Collectives know few dtypes.
            everything = _all_gather(context, tensor)
            offset = -context.replica_id_in_sync_group * tf.shape(tensor)[0]
            return tf.cast(tf.roll(everything, offset, axis=0), kept)

        return keras.tree.map_structure(of_all, tree)

    def everywhere(self, model: Model, tree: Tree) -> Tree:
        """Gathered; Keras takes the mean of what replicas return, and it is the same on each."""
        context = replica_context()
        if context is None:
            return tree
        # Of several processes, it takes the mean over an axis more.
        several = self.replicas(model).processes > 1

        def of_all(tensor: Tensor) -> Tensor:
            everything = _all_gather(context, tensor)
            return keras.ops.expand_dims(everything, 0) if several else everything

        return keras.tree.map_structure(of_all, tree)

    def all_reduce_sum(self, tensor: Tensor) -> Tensor:
        """By a collective."""
        context = replica_context()
        if context is None:
            return tensor
        return context.all_reduce(tf.distribute.ReduceOp.SUM, tf.stop_gradient(tensor))

    def replicas_in_sync(self) -> int:
        """As the strategy says."""
        context = replica_context()
        return 1 if context is None else int(context.num_replicas_in_sync)


def replica_context() -> Context:
    """The replica's context, if there are several replicas and this runs in one of them."""
    context = tf.distribute.get_replica_context()
    return context if context is not None and context.num_replicas_in_sync > 1 else None


def _all_gather(context: Context, tensor: Tensor) -> Tensor:
    # WORKAROUND. Processes gather no tensor that lies on no device, as an input of a function does.
    return context.all_gather(tf.identity(tensor), axis=0)


def _innermost(optimizer: Optimizer) -> Optimizer:
    """The optimizer itself, where loss scaling is wrapped around it."""
    return getattr(optimizer, "inner_optimizer", optimizer)
