"""From one hidden state per token to one vector per text.

Every layer here looks at the mask and never at a token id: GPT-2's padding id 0 is a real
token. Padding may stand left, right or anywhere, and may hold anything, NaN included.
"""

from __future__ import annotations

import keras
from keras import ops

from cptk.ops import dimension, float32_or_higher, is_known_mismatch, static_shape
from cptk.types import Shape, Tensor


class _Pooling(keras.layers.Layer):  # type: ignore[misc]
    """What the poolings share: checks, shapes, and that the mask goes no further."""

    def __init__(self, **kwargs: object) -> None:
        super().__init__(**kwargs)
        self.supports_masking = True

    def call(self, inputs: Tensor, mask: Tensor | None = None) -> Tensor:
        self._check(static_shape(inputs), None if mask is None else static_shape(mask))
        if mask is not None:
            mask = ops.cast(mask, "bool")
        return self.pool(inputs, mask)

    def pool(self, inputs: Tensor, mask: Tensor | None) -> Tensor:
        raise NotImplementedError

    def _check(self, shape: Shape, mask_shape: Shape | None = None) -> None:
        name = type(self).__name__
        if len(shape) != 3:
            raise ValueError(
                f"{name} expects `inputs` of shape (batch, length, dim), the hidden states of "
                f"a backbone. Received: inputs.shape={shape}."
            )
        if shape[1] == 0:
            raise ValueError(
                f"{name} expects at least one position. Received: inputs.shape={shape}."
            )
        if mask_shape is None:
            return
        if len(mask_shape) != 2 or any(map(is_known_mismatch, mask_shape, shape)):
            raise ValueError(
                f"{name} expects `mask` of shape (batch, length), True at real tokens, as in "
                f"inputs.shape={shape}. Received: mask.shape={mask_shape}."
            )

    def compute_mask(self, inputs: Tensor, previous_mask: Tensor | None = None) -> None:
        """None: the sequence axis is gone, and the mask with it."""

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        self._check(tuple(input_shape))
        return (input_shape[0], input_shape[2])

    def _weighted_sum(self, inputs: Tensor, weights: Tensor) -> Tensor:
        """sum_i weights_i h_i / sum_i weights_i, positions of weight 0 left out wholly."""
        weights = ops.expand_dims(weights, -1)
        # `where`, not a product: 0 * NaN is NaN, and padding may hold NaN.
        states = ops.where(ops.greater(weights, 0), float32_or_higher(inputs), 0.0)
        weights = ops.cast(weights, states.dtype)
        total = ops.sum(weights, axis=1)
        total = ops.where(ops.equal(total, 0), 1.0, total)
        pooled = ops.divide(ops.sum(ops.multiply(states, weights), axis=1), total)
        return ops.cast(pooled, self.compute_dtype)


@keras.saving.register_keras_serializable(package="cptk")
class EOSPooling(_Pooling):
    """The hidden state at the last unmasked position.

    A causal decoder has read the whole text only there; with cptk's preprocessors that
    position holds the closing delimiter, the paper's [EOS] token:

        e = h[max {i : mask_i}],  and 0 if no position is unmasked.

    It costs a gather of one position per text, and no arithmetic at all.

    Call arguments:
        inputs: (batch, length, dim) hidden states.
        mask: (batch, length), True (or 1) at real tokens. None means that all are. An
            implicit Keras mask on `inputs` is taken if the argument is left out.

    Returns:
        (batch, dim) in the layer's compute dtype.

    Raises:
        ValueError: if a rank or a known dimension of inputs or mask is wrong.

    Example:

    ```pycon
    >>> import cptk, numpy as np
    >>> states = np.array([[[0.0, 1.0], [2.0, 3.0], [4.0, 5.0]]], "float32")
    >>> pooled = cptk.layers.EOSPooling()(states, mask=np.array([[True, True, False]]))
    >>> [float(x) for x in pooled[0]]
    [2.0, 3.0]

    ```

    References:
        Neelakantan et al. 2022, Text and Code Embeddings by Contrastive Pre-Training,
        arXiv 2201.10005, section 2.1. That an all-masked row gives zeros is ours.
    """

    def pool(self, inputs: Tensor, mask: Tensor | None) -> Tensor:
        if mask is None:
            return inputs[:, -1, :]
        batch, length, dim = (dimension(inputs, axis) for axis in range(3))
        # 0 at masked positions and i + 1 elsewhere; the largest is the last real one.
        order = ops.where(mask, ops.expand_dims(ops.arange(1, length + 1, dtype="int32"), 0), 0)
        last = ops.max(order, axis=1)
        # One row of the flattened states per text. `take_along_axis` would first copy the
        # whole (batch, length, dim) block into another memory order on TensorFlow.
        rows = ops.arange(batch, dtype="int32") * length + ops.maximum(last - 1, 0)
        pooled = ops.take(ops.reshape(inputs, (-1, dim)), rows, axis=0)
        return ops.where(ops.expand_dims(ops.greater(last, 0), -1), pooled, 0.0)


@keras.saving.register_keras_serializable(package="cptk")
class CLSPooling(_Pooling):
    """The hidden state at the first unmasked position: an encoder's [CLS] token.

        e = h[min {i : mask_i}],  and 0 if no position is unmasked.

    Call arguments:
        inputs: (batch, length, dim) hidden states.
        mask: (batch, length), True (or 1) at real tokens. None means that all are. An
            implicit Keras mask on `inputs` is taken if the argument is left out.

    Returns:
        (batch, dim) in the layer's compute dtype.

    Raises:
        ValueError: if a rank or a known dimension of inputs or mask is wrong.

    Example:

    ```pycon
    >>> import cptk, numpy as np
    >>> states = np.array([[[0.0, 1.0], [2.0, 3.0], [4.0, 5.0]]], "float32")
    >>> pooled = cptk.layers.CLSPooling()(states, mask=np.array([[False, True, True]]))
    >>> [float(x) for x in pooled[0]]
    [2.0, 3.0]

    ```

    References:
        Devlin et al. 2019, BERT, arXiv 1810.04805, section 3. That the first unmasked position
        counts, and an all-masked row gives zeros, is ours.
    """

    def pool(self, inputs: Tensor, mask: Tensor | None) -> Tensor:
        if mask is None:
            return inputs[:, 0, :]
        batch, length, dim = (dimension(inputs, axis) for axis in range(3))
        first = ops.argmax(ops.cast(mask, "int32"), axis=1)
        rows = ops.arange(batch, dtype="int32") * length + ops.cast(first, "int32")
        pooled = ops.take(ops.reshape(inputs, (-1, dim)), rows, axis=0)
        return ops.where(ops.any(mask, axis=1, keepdims=True), pooled, 0.0)


@keras.saving.register_keras_serializable(package="cptk")
class MaxPooling(_Pooling):
    """The largest value of each dimension over the unmasked positions.

        e_j = max {h_ij : mask_i},  and 0 if no position is unmasked.

    Call arguments:
        inputs: (batch, length, dim) hidden states.
        mask: (batch, length), True (or 1) at real tokens. None means that all are. An
            implicit Keras mask on `inputs` is taken if the argument is left out.

    Returns:
        (batch, dim) in the layer's compute dtype.

    Raises:
        ValueError: if a rank or a known dimension of inputs or mask is wrong.

    Example:

    ```pycon
    >>> import cptk, numpy as np
    >>> states = np.array([[[0.0, 9.0], [2.0, 3.0], [4.0, 5.0]]], "float32")
    >>> pooled = cptk.layers.MaxPooling()(states, mask=np.array([[True, True, False]]))
    >>> [float(x) for x in pooled[0]]
    [2.0, 9.0]

    ```

    References:
        Reimers and Gurevych 2019, Sentence-BERT, arXiv 1908.10084, section 3.
    """

    def pool(self, inputs: Tensor, mask: Tensor | None) -> Tensor:
        if mask is None:
            return ops.max(inputs, axis=1)
        pooled = ops.max(ops.where(ops.expand_dims(mask, -1), inputs, -float("inf")), axis=1)
        return ops.where(ops.any(mask, axis=1, keepdims=True), pooled, 0.0)


@keras.saving.register_keras_serializable(package="cptk")
class MeanPooling(_Pooling):
    """The mean of the hidden states at the unmasked positions.

        e = sum_i mask_i h_i / sum_i mask_i,  and 0 if no position is unmasked.

    Summed in float32 whatever the compute dtype: in bfloat16 a running sum stops growing
    after some 256 equal terms.

    Call arguments:
        inputs: (batch, length, dim) hidden states.
        mask: (batch, length), True (or 1) at real tokens. None means that all are. An
            implicit Keras mask on `inputs` is taken if the argument is left out.

    Returns:
        (batch, dim) in the layer's compute dtype.

    Raises:
        ValueError: if a rank or a known dimension of inputs or mask is wrong.

    Example:

    ```pycon
    >>> import cptk, numpy as np
    >>> states = np.array([[[0.0, 1.0], [2.0, 3.0], [4.0, 5.0]]], "float32")
    >>> pooled = cptk.layers.MeanPooling()(states, mask=np.array([[True, True, False]]))
    >>> [float(x) for x in pooled[0]]
    [1.0, 2.0]

    ```

    References:
        Reimers and Gurevych 2019, Sentence-BERT, arXiv 1908.10084, section 3.
    """

    def pool(self, inputs: Tensor, mask: Tensor | None) -> Tensor:
        if mask is None:
            # Not `ops.mean`, which computes float64 in float32 on JAX and torch (Keras 3.15).
            states = float32_or_higher(inputs)
            pooled = ops.sum(states, axis=1) / ops.cast(dimension(states, 1), states.dtype)
            return ops.cast(pooled, self.compute_dtype)
        return self._weighted_sum(inputs, ops.cast(mask, "int32"))


@keras.saving.register_keras_serializable(package="cptk")
class WeightedMeanPooling(_Pooling):
    """The mean of the hidden states weighted by position: later tokens have read more.

        e = sum_i w_i h_i / sum_i w_i,  w_i = the rank of position i among the unmasked ones

    that is 1 for the first real token and k for the last of k, so that padding on the left
    changes nothing; 0 if no position is unmasked. Summed in float32.

    Call arguments:
        inputs: (batch, length, dim) hidden states.
        mask: (batch, length), True (or 1) at real tokens. None means that all are. An
            implicit Keras mask on `inputs` is taken if the argument is left out.

    Returns:
        (batch, dim) in the layer's compute dtype.

    Raises:
        ValueError: if a rank or a known dimension of inputs or mask is wrong.

    Example:

    ```pycon
    >>> import cptk, numpy as np
    >>> states = np.array([[[3.0], [6.0], [9.0]]], "float32")
    >>> pooled = cptk.layers.WeightedMeanPooling()(states, mask=np.array([[1, 1, 0]]))
    >>> float(pooled[0, 0])  # (1 * 3 + 2 * 6) / (1 + 2)
    5.0

    ```

    References:
        Muennighoff 2022, SGPT: GPT Sentence Embeddings for Semantic Search,
        arXiv 2202.08904, section 3.1. Counting ranks among real tokens alone is ours: the
        paper pads on the right, where it makes no difference.
    """

    def pool(self, inputs: Tensor, mask: Tensor | None) -> Tensor:
        if mask is None:
            ranks = ops.expand_dims(ops.arange(1, dimension(inputs, 1) + 1), 0)
        else:
            real = ops.cast(mask, "int32")
            ranks = ops.multiply(ops.cumsum(real, axis=1), real)
        return self._weighted_sum(inputs, ranks)
