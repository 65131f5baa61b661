"""Numerical helpers that layers, losses and metrics share, in `keras.ops` alone."""

from __future__ import annotations

from typing import cast

import keras
from keras import ops

from cptk.types import Shape, Tensor, TensorLike

SMALLEST_NORM = 1e-30
"""Below this a vector counts as zero in `l2_normalize`: the gradient, which grows like
1 / norm, would leave the range of float32 once multiplied by exp(tau). Ours."""


def as_tensor(x: TensorLike) -> Tensor:
    """Converts lists and NumPy arrays to tensors, and lets symbolic tensors through."""
    return x if keras.utils.is_keras_tensor(x) else ops.convert_to_tensor(x)


def static_shape(x: Tensor) -> Shape:
    """The shape as a tuple of ints, with None where it is not known before run time."""
    return tuple(x.shape)


def is_known_mismatch(first: int | None, second: int | None) -> bool:
    """Whether two dimensions are both known and differ."""
    return first is not None and second is not None and first != second


def float32_or_higher(x: TensorLike) -> Tensor:
    """Casts to float32, except float64, which stays.

    Sums over a sequence and softmax over a batch lose too much in bfloat16 (8 bits) and
    float16 (11 bits, largest number 65,504), so cptk does them in float32.
    """
    x = as_tensor(x)
    if keras.backend.standardize_dtype(x.dtype) == "float64":
        return x
    return ops.cast(x, "float32")


def off_diagonal(rows: Tensor, columns: Tensor) -> Tensor:
    """Boolean (rows, columns) matrix, False on the diagonal; sizes may be dynamic."""
    return ops.not_equal(
        ops.expand_dims(ops.arange(rows), 1), ops.expand_dims(ops.arange(columns), 0)
    )


def l2_normalize(x: TensorLike, axis: int = -1) -> Tensor:
    """Scales vectors to unit length; a zero vector stays zero and its gradient is zero.

    y = x / ||x||, computed as (x / s) / ||x / s|| with s = max |x_k|, so that no square
    overflows or vanishes: vectors of length 1e-25 and 1e+25 come out as exact as any
    other. y does not depend on s, so s is taken as a constant in the gradient, which
    stays exact. The vectors that count as zero (largest entry below 1e-30) are replaced
    *before* the division as well as after it: masking the result alone would leave
    0 * inf = NaN in the gradient. NaN in gives NaN out: nothing is hidden.

    Args:
        x: float tensor, list or array, any shape.
        axis: the axis along which the length is taken.

    Returns:
        Tensor of the shape of `x`, in float32 (float64 if `x` is float64): an embedding
        rounded to float16 after normalisation would no longer have unit length.

    Example:

    ```pycon
    >>> from cptk.ops import l2_normalize
    >>> [[round(float(x), 4) for x in row] for row in l2_normalize([[3.0, 4.0], [0.0, 0.0]])]
    [[0.6, 0.8], [0.0, 0.0]]

    ```
    """
    x = float32_or_higher(x)
    scale = ops.stop_gradient(ops.max(ops.abs(x), axis=axis, keepdims=True))
    is_zero = ops.less(scale, SMALLEST_NORM)
    scaled = ops.where(is_zero, 1.0, ops.divide(x, ops.where(is_zero, 1.0, scale)))
    norm = ops.sqrt(ops.sum(ops.square(scaled), axis=axis, keepdims=True))
    return ops.where(is_zero, 0.0, ops.divide(scaled, norm))


def cosine_similarity(query: TensorLike, document: TensorLike) -> Tensor:
    """Cosine of every query with every document.

    Args:
        query: (n, d).
        document: (m, d).

    Returns:
        (n, m), in float32 or float64, as `l2_normalize` gives. A zero vector has cosine 0
        with everything.

    Raises:
        ValueError: if a rank is not 2 or the widths differ.

    Example:

    ```pycon
    >>> from cptk.ops import cosine_similarity
    >>> [float(x) for x in cosine_similarity([[2.0, 0.0]], [[1.0, 0.0], [0.0, 5.0]])[0]]
    [1.0, 0.0]

    ```
    """
    query, document = as_tensor(query), as_tensor(document)
    check_embeddings(static_shape(query), static_shape(document), "cosine_similarity")
    query, document = l2_normalize(query), l2_normalize(document)
    # `@` and not `ops.matmul`, which computes float64 in float32 on torch (Keras 3.15).
    return query @ ops.transpose(document)


def check_embeddings(query_shape: Shape, document_shape: Shape, caller: str) -> None:
    """Refuses anything but (n, d) and (m, d), whose widths are equal where known."""
    for name, shape in (("query", query_shape), ("document", document_shape)):
        if len(shape) != 2:
            raise ValueError(
                f"{caller} expects `{name}` of shape (batch, dim), one vector per text. "
                f"Received: {name}.shape={shape}. Pool token states first, for instance "
                "with cptk.layers.EOSPooling."
            )
    if is_known_mismatch(query_shape[1], document_shape[1]):
        raise ValueError(
            f"{caller} expects `query` and `document` of one width. Received: "
            f"query.shape={query_shape}, document.shape={document_shape}. "
            "Both must come from the same embedder (or be projected to the same dim)."
        )


def dimension(x: Tensor, axis: int) -> int:
    """The size along an axis: an int where it is known, else the backend's scalar tensor."""
    return cast(int, ops.shape(x)[axis])
