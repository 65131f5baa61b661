"""Tokens first, padding after, wherever the padding stood."""

from __future__ import annotations

import keras
from keras import ops

from cptk.ops import dimension
from cptk.types import Shape, Tensor


@keras.saving.register_keras_serializable(package="cptk")
class RightPadding(keras.layers.Layer):  # type: ignore[misc]
    """Moves the real tokens of each row to its start, in their order.

    Other libraries pad on the left for decoders. GPT-2 and OPT count positions from the first
    column, so they would give every token of such a text a wrong position. The layer stands inside
    the model, where no tokens can go round it; `cptk.data.batching.right_padded` does the same to
    arrays.

    Call arguments:
        token_ids: (n, length).
        mask: (n, length), True (or 1) at real tokens.

    Returns:
        Both, moved; the mask is boolean.

    Example:

    ```pycon
    >>> import numpy as np
    >>> from cptk.layers.right_padding import RightPadding
    >>> ids, mask = RightPadding()(np.array([[0, 7, 8]]), np.array([[False, True, True]]))
    >>> [int(i) for i in ids[0]], [bool(i) for i in mask[0]]
    ([7, 8, 0], [True, True, False])

    ```
    """

    def call(self, token_ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        mask = ops.cast(mask, "bool")
        rows, length = dimension(mask, 0), dimension(mask, 1)
        positions = ops.expand_dims(ops.arange(length, dtype="int32"), 0)
        # No two keys of a row are equal, so every backend sorts them alike, stable or not.
        order = ops.argsort(ops.where(mask, positions, positions + length), axis=1)
        first = ops.expand_dims(ops.arange(rows, dtype="int32") * length, 1)
        moved = ops.take(ops.reshape(token_ids, (-1,)), first + ops.cast(order, "int32"), axis=0)
        count = ops.sum(ops.cast(mask, "int32"), axis=1, keepdims=True)
        return moved, ops.less(positions, count)

    def compute_output_spec(
        self, token_ids: Tensor, mask: Tensor
    ) -> tuple[keras.KerasTensor, keras.KerasTensor]:
        shape: Shape = tuple(token_ids.shape)
        return (
            keras.KerasTensor(shape, dtype=token_ids.dtype),
            keras.KerasTensor(shape, dtype="bool"),
        )
