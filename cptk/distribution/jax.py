"""JAX sees the global batch as one array, however many devices hold it: the data alone is cut."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from importlib import import_module
from typing import Any, TypeAlias

import jax
import keras
import numpy as np

from cptk.data.batching import share_rows
from cptk.distribution.one_device import OneDevice
from cptk.distribution.replicas import Replicas
from cptk.types import Model, Tensor, Tree

Distribution: TypeAlias = Any
"""A `keras.distribution.Distribution`."""


class OneArray(OneDevice):
    """The whole batch, in an array that may lie on many devices."""

    def replicas(self, model: Model = None) -> Replicas:
        """Those of the distribution that is set."""
        current: Distribution = keras.distribution.distribution()
        if current is None:
            return Replicas()
        mesh = current.device_mesh
        everyone = mesh.shape[list(mesh.axis_names).index(current.batch_dim_name)]
        processes = jax.process_count()
        if everyone % processes:
            raise ValueError(
                f"The batch is divided in {everyone} on the axis {current.batch_dim_name!r}, and "
                f"there are {processes} processes: each needs as many parts of the batch as the "
                "others, and at least one. Make the batch axis a multiple of the number of "
                "processes."
            )
        own = everyone // processes
        return Replicas(everyone, jax.process_index() * own, own, processes)

    def shard_batch(self, batch: Tree, model: Model) -> Tree:
        """This process's rows."""
        cut = self.replicas(model)
        return batch if cut.total == 1 else share_rows(batch, cut.total, cut.first, cut.own)

    def broadcast_from_chief(self, number: int, model: Model) -> int:
        """By JAX's own broadcast."""
        if self.replicas(model).processes == 1:
            return number
        utils = import_module("jax.experimental.multihost_utils")
        return int(utils.broadcast_one_to_all(np.int32(number)))

    def take_over(self, model: Model) -> None:
        """The step adds up by itself; of several processes, each has to compile it."""
        if self.replicas(model).processes > 1:
            _compile_anew()

    @contextlib.contextmanager
    def data_comes_cut(self) -> Iterator[None]:
        """As the distribution has to be told.

        WORKAROUND (keras #21430). Unless told that the data is cut, Keras would cut the shares once
        more, and refuses all but tf.data.
        """
        current: Distribution = keras.distribution.distribution()
        sharding = getattr(current, "auto_shard_dataset", None)
        if sharding:
            current.auto_shard_dataset = False
        try:
            yield
        finally:
            if sharding:
                current.auto_shard_dataset = sharding

    def everywhere(self, model: Model, tree: Tree) -> Tree:
        """Copied to every device."""
        current: Distribution = keras.distribution.distribution()
        if current is None:
            return tree

        def whole(tensor: Tensor) -> Tensor:
            layout = keras.distribution.TensorLayout([None] * tensor.ndim, current.device_mesh)
            return keras.distribution.distribute_tensor(tensor, layout)

        return keras.tree.map_structure(whole, tree)


def _compile_anew() -> None:
    """Have JAX compile its programs, and read none from its compilation cache, on CPUs.

    WORKAROUND. There the first process alone finds programs in the cache (the keys of the others
    differ), and such a program runs its collectives in another order than one just compiled: a
    training that was started again would wait for ever in its first steps. (No test tells when it
    no longer does: two processes have to be seen to wait.)
    """
    if jax.default_backend() == "cpu" and jax.config.jax_enable_compilation_cache:
        jax.config.update("jax_enable_compilation_cache", False)
        # It is asked whether there is a cache once.
        import_module("jax.experimental.compilation_cache.compilation_cache").reset_cache()
