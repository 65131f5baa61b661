"""Keras's steps on TensorFlow, with gradients and logs that are right on replicas."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import keras
import tensorflow as tf

from cptk import distribution
from cptk.distribution.tensorflow import replica_context
from cptk.types import KerasBatch, Model, Optimizer, Tensor, TokenBatch, Variable

LossAndGradients: TypeAlias = Callable[..., tuple[Tensor, list[Tensor], dict[str, Tensor]]]


def train_step(
    trainer: Model, data: KerasBatch, loss_and_gradients: LossAndGradients | None = None
) -> dict[str, Tensor]:
    """Keras's `train_step`, with gradients summed before the optimizer sees them.

    WORKAROUND (tensorflow #33929, of TensorFlow's own Keras). Keras clips each replica's gradients
    before it adds them up.

    WORKAROUND (tensorflow #28090, of another optimizer). It hands the rows of an embedding that
    occur twice in a batch to the optimizer twice, and Adam squares them apart.
    """
    x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
    loss_and_gradients = loss_and_gradients or _loss_and_gradients
    loss, gradients, y_pred = loss_and_gradients(trainer, x, y, sample_weight)
    trainer._loss_tracker.update_state(loss, sample_weight=tf.shape(keras.tree.flatten(x)[0])[0])
    with tf.control_dependencies([loss]):  # No weight decays in a step whose loss ends in an error.
        apply_gradients(trainer.optimizer, gradients, trainer.trainable_weights)
    return with_batch_axis(trainer, trainer.compute_metrics(x, y, y_pred, sample_weight))


def test_step(trainer: Model, data: KerasBatch) -> dict[str, Any]:
    """Keras's `test_step`, whose loss is multiplied by the number of replicas."""
    x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
    y_pred = trainer(x, training=False)
    loss = trainer._compute_loss(x, y, y_pred, sample_weight, training=False)
    trainer._loss_tracker.update_state(loss, sample_weight=tf.shape(keras.tree.flatten(x)[0])[0])
    return with_batch_axis(trainer, trainer.compute_metrics(x, y, y_pred, sample_weight))


def _loss_and_gradients(
    trainer: Model, x: Mapping[str, TokenBatch], y: None, sample_weight: Tensor | None
) -> tuple[Tensor, list[Tensor], dict[str, Tensor]]:
    with tf.GradientTape() as tape:
        y_pred = trainer(x, training=True)
        # Keras's own name for `compute_loss`, with or without the argument `training`.
        loss = trainer._compute_loss(x, y, y_pred, sample_weight, training=True)
        scaled = trainer.optimizer.scale_loss(loss / distribution.replicas_in_sync())
    return loss, tape.gradient(scaled, trainer.trainable_weights), y_pred


def apply_gradients(
    optimizer: Optimizer, gradients: Sequence[Tensor], variables: Sequence[Variable]
) -> None:
    """One optimizer step with the gradients' sum over replicas."""
    pairs = [
        (tf.convert_to_tensor(gradient), variable)
        for gradient, variable in zip(gradients, variables, strict=True)
        if gradient is not None
    ]
    context = replica_context()
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
    if distribution.replicas(trainer).processes == 1:
        return logs
    return {name: keras.ops.reshape(value, (1,)) for name, value in logs.items()}
