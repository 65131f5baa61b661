"""What a cached step reads of the trainer beside what every step does."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from cptk.training.gradient_cache.not_finite import Named, NotFinite
from cptk.training.trainable import Trainable
from cptk.types import Tensor, TokenBatch, Tree


class CachedTrainable(Trainable, Named, Protocol):
    """A trainer with micro-batches, or slices."""

    first_pass_dtype: str | None
    not_finite: NotFinite
    slices: int

    def stateless_compute_loss(self, *state: list[Tensor], **batch: Tree) -> tuple[Tensor, Tree]:
        """Keras's, on JAX."""

    def _update_metrics_variables(
        self,
        variables: list[Tensor],
        loss: Tensor,
        x: Mapping[str, TokenBatch],
        y: None,
        y_pred: Mapping[str, Tensor],
        sample_weight: Tensor | None,
    ) -> tuple[dict[str, Tensor], list[Tensor]]:
        """Keras's, on JAX."""

    def zero_grad(self) -> None:
        """Keras's, on torch."""
