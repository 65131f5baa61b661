"""Keras's step on torch, where not every weight has a gradient."""

from __future__ import annotations

import keras
import torch

from cptk.types import KerasBatch, Model, Tensor


def train_step(trainer: Model, data: KerasBatch) -> dict[str, Tensor]:
    """Keras's `train_step`, but for `apply_gradients`."""
    x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
    y_pred = trainer(x, training=True)
    trainer.zero_grad()
    # Keras's own name for `compute_loss`, with or without the argument `training`.
    loss = trainer._compute_loss(x, y, y_pred, sample_weight, training=True)
    trainer._loss_tracker.update_state(loss, sample_weight=len(keras.tree.flatten(x)[0]))
    trainer.optimizer.scale_loss(loss).backward()
    apply_gradients(trainer)
    logs: dict[str, Tensor] = trainer.compute_metrics(x, y, y_pred, sample_weight)
    return logs


def apply_gradients(trainer: Model) -> None:
    """One optimizer step of the weights that have a gradient, as on TensorFlow.

    Keras warns of the others at each step: of the temperature, which not every objective reads, and
    of BERT's pooler, which nothing reads.
    """
    variables = trainer.trainable_weights
    if not trainer.optimizer.built:
        trainer.optimizer.build(variables)
    gradients = [(variable.value.grad, variable) for variable in variables]
    with torch.no_grad():
        trainer.optimizer.apply_gradients([pair for pair in gradients if pair[0] is not None])
