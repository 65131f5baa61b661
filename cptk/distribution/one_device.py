"""What every backend answers, where one device holds the whole batch."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any

from cptk.distribution.replicas import Replicas
from cptk.types import Batches, Model, Optimizer, Size, Strategy, Tensor, Tree


class OneDevice:
    """The whole batch is here. A backend with several devices says where it is not."""

    # === Before and after the step ===

    def replicas(self, model: Model = None) -> Replicas:
        """How the batches of a model are cut, or those of a model made here and now."""
        return Replicas()

    def shard_batch(self, batch: Tree, model: Model) -> Tree:
        """A global batch of arrays, cut for a single step."""
        return batch

    def from_parts(
        self, strategy: Strategy, parts: Callable[[int, int], Batches], steps: Size
    ) -> Batches:
        """A dataset of the replicas' parts of batches, on TensorFlow, as the strategy takes it.

        Args:
            strategy: The strategy.
            parts: Function from the first part and how many to a dataset of them. It is called
                once for each process, or for each host of a TPU slice, that this process feeds.
            steps: Number of batches.
        """
        raise NotImplementedError("Only TensorFlow has strategies.")

    def broadcast_from_chief(self, number: int, model: Model) -> int:
        """The first process's number, on all processes."""
        return number

    def check_compile(self, model: Model, optimizer: Optimizer, options: Mapping[str, Any]) -> None:
        """Refuse what cannot be exact on the replicas there are, and say what to do instead."""

    def take_over(self, model: Model) -> None:
        """Have the optimizer leave the adding up of gradients to the step."""

    def scope(self, model: Model) -> AbstractContextManager[object]:
        """Where variables are made that belong to a model: the strategy's scope on TensorFlow."""
        return contextlib.nullcontext()

    def data_comes_cut(self) -> AbstractContextManager[object]:
        """Around `fit` and `evaluate`: Keras takes each process's data for its share."""
        return contextlib.nullcontext()

    # === Inside the step ===

    def gather(self, tree: Tree) -> Tree:
        """Tensors of all replicas, `(n of all, ...)`, the calling replica's own rows first.

        Gradients go through it: those of a replica's rows are summed over all that have used them.
        The tensors themselves, where the global batch is at hand already: on one device, and on
        JAX, which sees it as one array however many devices and processes hold it.

        Example:

        ```pycon
        >>> import cptk, keras
        >>> cptk.distribution.gather({"query": keras.ops.ones((2, 8))})["query"].shape == (2, 8)
        True

        ```
        """
        return tree

    def everywhere(self, model: Model, tree: Tree) -> Tree:
        """Tensors of the whole batch, in its order, as a step can return them to every process."""
        return tree

    def all_reduce_sum(self, tensor: Tensor) -> Tensor:
        """The sum of a tensor over replicas, without gradient; itself where the batch is whole.

        Example:

        ```pycon
        >>> import cptk, keras
        >>> float(cptk.distribution.all_reduce_sum(keras.ops.convert_to_tensor(2.0)))
        2.0

        ```
        """
        return tensor

    def replicas_in_sync(self) -> int:
        """How often a step is run at once, each time for a share of the batch.

        What is optimised is the mean of their losses: their gradients are summed, so each is
        divided.
        """
        return 1
