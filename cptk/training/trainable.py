"""What a training step reads of `ContrastiveTrainer`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Protocol

from cptk.types import Layer, Model, Optimizer, Strategy, Tensor, TokenBatch, Variable


class Steps(Protocol):
    """The loss of the steps so far."""

    def update_state(self, values: Tensor, sample_weight: Tensor = None) -> None:
        """Add a step."""

    def weighed(self, pairs: Callable[[], Tensor]) -> AbstractContextManager[None]:
        """Within it, a step counts by its pairs."""


class Trainable(Protocol):
    """A compiled model of an embedder and a head, seen by the modules that take its steps."""

    embedder: Model
    head: Layer
    optimizer: Optimizer
    distribute_strategy: Strategy  # On TensorFlow; of no use elsewhere.
    trainable_variables: Sequence[Variable]
    trainable_weights: Sequence[Variable]
    non_trainable_variables: Sequence[Variable]
    _loss_tracker: Steps

    def __call__(self, inputs: Mapping[str, TokenBatch], training: bool) -> dict[str, Tensor]:
        """Embeddings `(n, dim)` of each side."""

    def _compute_loss(
        self,
        x: Mapping[str, TokenBatch],
        y: None,
        y_pred: Mapping[str, Tensor],
        sample_weight: Tensor | None,
        training: bool,
    ) -> Tensor:
        """Keras's own name for `compute_loss`, with or without the argument `training`."""

    def compute_metrics(
        self,
        x: Mapping[str, TokenBatch],
        y: None,
        y_pred: Mapping[str, Tensor],
        sample_weight: Tensor | None,
    ) -> dict[str, Tensor]:
        """What is shown after the step."""
