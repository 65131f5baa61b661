"""The yardstick: what one would write by hand on Keras, with nothing of cptk in it."""

import math
import time

import keras
from keras import ops


class PlainContrastive(keras.Model):
    """A backbone, the state at the last token, unit length, and a symmetric cross-entropy.

    It is written to be fast: it keeps no metric but the loss, checks nothing, and assumes
    padding on the right. A slow yardstick would flatter what is measured with it.

    Args:
        backbone: A KerasHub decoder backbone.
    """

    def __init__(self, backbone):
        super().__init__()
        self.backbone = backbone
        start = keras.initializers.Constant(math.log(1 / 0.07))
        self.tau = self.add_weight(shape=(), initializer=start, name="tau")

    def _embed(self, tokens, training):
        states = self.backbone(tokens, training=training)
        batch, length, dim = ops.shape(states)
        last = ops.sum(ops.cast(tokens["padding_mask"], "int32"), axis=1) - 1
        rows = ops.take(ops.reshape(states, (-1, dim)), ops.arange(batch) * length + last, axis=0)
        return rows / ops.sqrt(ops.sum(ops.square(rows), axis=1, keepdims=True))

    def call(self, inputs, training=None):
        return [self._embed(inputs[side], training) for side in ("query", "document")]

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        query, document = y_pred
        logits = ops.matmul(query, ops.transpose(document)) * ops.exp(self.tau)
        labels = ops.arange(ops.shape(logits)[0])
        rows, columns = (
            ops.sparse_categorical_crossentropy(labels, scores, from_logits=True)
            for scores in (logits, ops.transpose(logits))
        )
        return ops.mean(rows + columns) / 2


class StepClock(keras.callbacks.Callback):
    """Wall and CPU `seconds` from the first step of an epoch of `fit` to the end of its last."""

    def on_train_batch_begin(self, batch, logs=None):
        if batch == 0:
            self.start = time.perf_counter(), time.process_time()

    def on_train_batch_end(self, batch, logs=None):
        if batch == self.params["steps"] - 1:
            float(logs["loss"])  # Waits for a backend that computes in the background.
            end = time.perf_counter(), time.process_time()
            self.seconds = tuple(b - a for a, b in zip(self.start, end, strict=True))
