"""InfoNCE as pure functions: logits in, one value per anchor out.

They know nothing of models, ranks or reductions. This is the plain reference, which holds
the whole (n, m) matrix in memory.
"""

from __future__ import annotations

import keras
import numpy as np
from keras import ops

from cptk.checks import is_number, shown
from cptk.losses.masks import LEFT_OUT
from cptk.ops import (
    as_tensor,
    cosine_similarity,
    dimension,
    float32_or_higher,
    is_known_mismatch,
    off_diagonal,
    static_shape,
)
from cptk.types import Tensor, TensorLike


def info_nce(
    logits: TensorLike,
    mask: TensorLike | None = None,
    sample_weight: TensorLike | None = None,
    label_smoothing: float = 0.0,
) -> Tensor:
    """Cross-entropy of each row against its diagonal entry.

        loss_i = -log( exp(l_ii) / sum_{j kept} exp(l_ij) )
               = log sum_{j kept} exp(l_ij - l_ii)

    where j runs over all m columns but the masked ones. The second form is what is
    computed: differences first, so that logits of size 1e4 cost no digits.

    Args:
        logits: (n, m) with m >= n. The positive of row i is column i; the columns from n
            on are extra negatives. Computed in float32 if they come in less.
        mask: (n, m) boolean, True at a known false negative, which is left out of the
            denominator, with gradient 0. The diagonal never is, whatever the mask says.
            See `cptk.losses.same_text_mask`.
        sample_weight: (n,), multiplies each anchor's loss. A text of weight 0 still serves
            the other rows as a negative: use the mask to take it out there.
        label_smoothing: e, of 0 or more and below 1. The target is 1 - e + e / k at the positive
            and e / k at each other of the k columns that are kept.

    Returns:
        (n,) in float32 (float64 if the logits are). Not reduced: take the mean yourself.

    Raises:
        ValueError: if a rank or a known dimension does not fit, or of another label smoothing.

    Example:

    ```pycon
    >>> import cptk
    >>> loss = cptk.losses.info_nce([[2.0, 2.0], [0.0, 50.0]])
    >>> [round(float(x), 4) for x in loss]  # log 2: one negative as high as the positive
    [0.6931, 0.0]

    ```

    References:
        van den Oord et al. 2018, arXiv 1807.03748, equation 4.
    """
    logits, mask, sample_weight = _checked("info_nce", logits, mask, sample_weight)
    label_smoothing = check_label_smoothing("info_nce", label_smoothing)
    return _weighted(_rows(logits, mask, label_smoothing), sample_weight)


def symmetric_info_nce(
    logits: TensorLike,
    mask: TensorLike | None = None,
    sample_weight: TensorLike | None = None,
    label_smoothing: float = 0.0,
) -> Tensor:
    """The mean of the row-wise and the column-wise InfoNCE of each pair: the paper's loss.

        loss_i = 1/2 ( -log softmax(l_i.)_i  -  log softmax(l_.i)_i )

    Over rows, query i looks for its document among all m; over columns, document i looks
    for its query among all n. Extra negatives (columns from n on) have no query of their
    own and so count in the rows alone.

    Args:
        logits: (n, m) with m >= n, positives on the diagonal.
        mask: (n, m) boolean, True at known false negatives, left out of both denominators.
            The diagonal never is.
        sample_weight: (n,), multiplies each pair's loss.
        label_smoothing: as in `info_nce`, over rows and over columns.

    Returns:
        (n,) in float32 (float64 if the logits are). Not reduced.

    Raises:
        ValueError: if a rank or a known dimension does not fit, or of another label smoothing.

    Example:

    ```pycon
    >>> import cptk
    >>> query, document = [[1.0, 0.0], [0.0, 1.0]], [[2.0, 0.0], [0.0, 2.0]]
    >>> logits = cptk.losses.cosine_logits(query, document, temperature=0.5)
    >>> [round(float(x), 4) for x in cptk.losses.symmetric_info_nce(logits)]
    [0.1269, 0.1269]

    ```

    References:
        Neelakantan et al. 2022, arXiv 2201.10005, section 2; the extra negatives and the
        mask are ours.
    """
    logits, mask, sample_weight = _checked("symmetric_info_nce", logits, mask, sample_weight)
    columns = ops.transpose(logits[:, : dimension(logits, 0)])
    column_mask = None if mask is None else ops.transpose(mask[:, : dimension(mask, 0)])
    label_smoothing = check_label_smoothing("symmetric_info_nce", label_smoothing)
    losses = ops.add(
        _rows(logits, mask, label_smoothing), _rows(columns, column_mask, label_smoothing)
    )
    return _weighted(ops.multiply(losses, 0.5), sample_weight)


def cosine_logits(
    query: TensorLike, document: TensorLike, temperature: TensorLike = 0.07
) -> Tensor:
    """Embeddings in, logits out: cos(q_i, d_j) / temperature.

    What `cptk.layers.ContrastiveHead` does, for a temperature that is given, not trained.

    Args:
        query: (n, d), of any length.
        document: (m, d).
        temperature: a positive number or a scalar tensor.

    Returns:
        logits (n, m), in float32 (float64 if the embeddings are).

    Raises:
        ValueError: if a shape does not fit or the temperature is a number not above 0.

    Example:

    ```pycon
    >>> import cptk
    >>> logits = cptk.losses.cosine_logits([[1.0, 0.0]], [[3.0, 0.0]], temperature=0.5)
    >>> float(logits[0, 0])
    2.0

    ```
    """
    temperature = check_temperature("cosine_logits", temperature)
    cosine = cosine_similarity(query, document)
    return ops.divide(cosine, ops.cast(temperature, cosine.dtype))


def check_temperature(caller: str, temperature: TensorLike) -> Tensor:
    """A scalar tensor; a number that is not above 0 is refused."""
    if isinstance(temperature, int | float | np.number) and not temperature > 0:
        raise ValueError(
            f"{caller} expects a `temperature` above 0. "
            f"Received: temperature={temperature!r}. Usual values lie from 0.01 to 0.1."
        )
    temperature = as_tensor(temperature)
    if static_shape(temperature) != ():
        raise ValueError(
            f"{caller} expects a scalar `temperature`. Received: temperature.shape="
            f"{static_shape(temperature)}."
        )
    return temperature


def _rows(logits: Tensor, mask: Tensor | None, label_smoothing: float) -> Tensor:
    differences = ops.subtract(logits, ops.expand_dims(ops.diagonal(logits), 1))
    if mask is not None:
        negative = off_diagonal(dimension(logits, 0), dimension(logits, 1))
        differences = ops.where(ops.logical_and(mask, negative), LEFT_OUT, differences)
    # Not `ops.logsumexp`: torch's gradient of it, exp(x - result), is off by 1e-3 where the
    # result is 1e4. Here the largest is taken off first, as a constant, in both directions.
    top = ops.stop_gradient(ops.max(differences, axis=-1, keepdims=True))
    total = ops.sum(ops.exp(ops.subtract(differences, top)), axis=-1)
    losses = ops.add(ops.log(total), ops.squeeze(top, axis=-1))
    if label_smoothing == 0:
        return losses
    kept = ops.greater(differences, LEFT_OUT / 2)
    count = ops.sum(ops.cast(kept, differences.dtype), axis=-1)
    mean = ops.sum(ops.where(kept, differences, 0.0), axis=-1) / count
    return ops.subtract(losses, label_smoothing * mean)


def check_label_smoothing(caller: str, label_smoothing: object) -> float:
    """A number of 0 or more and below 1, or an error."""
    if not is_number(label_smoothing) or not 0 <= label_smoothing < 1:
        raise ValueError(
            f"{caller} expects a `label_smoothing` of 0 or more and below 1. "
            f"Received: label_smoothing={shown(label_smoothing)}."
        )
    return float(label_smoothing)


def _weighted(losses: Tensor, sample_weight: Tensor | None) -> Tensor:
    return losses if sample_weight is None else ops.multiply(losses, sample_weight)


def _checked(
    caller: str,
    logits: TensorLike,
    mask: TensorLike | None,
    sample_weight: TensorLike | None,
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """The three as tensors of the right dtypes, refused where a known shape is wrong."""
    logits = float32_or_higher(logits)
    shape = check_logits(caller, logits)
    if mask is not None:
        mask = as_tensor(mask)
        mask_shape = static_shape(mask)
        if len(mask_shape) != 2 or any(map(is_known_mismatch, mask_shape, shape)):
            raise ValueError(
                f"{caller} expects `mask` of the shape of `logits`, {shape}, True at known "
                f"false negatives. Received: mask.shape={mask_shape}."
            )
        mask = ops.cast(mask, "bool")
    if sample_weight is not None:
        sample_weight = as_tensor(sample_weight)
        weight_shape = static_shape(sample_weight)
        if len(weight_shape) != 1 or is_known_mismatch(weight_shape[0], shape[0]):
            raise ValueError(
                f"{caller} expects `sample_weight` of shape ({shape[0]},), one weight per "
                f"row of `logits`. Received: sample_weight.shape={weight_shape}."
            )
        sample_weight = ops.cast(sample_weight, keras.backend.standardize_dtype(logits.dtype))
    return logits, mask, sample_weight


def check_logits(caller: str, logits: Tensor, name: str = "logits") -> tuple[int | None, ...]:
    """The static shape, refused unless it is (n, m) with m >= n where known."""
    shape = static_shape(logits)
    if len(shape) != 2:
        raise ValueError(
            f"{caller} expects `{name}` of shape (n, m): row i for query i, column j for "
            f"document j. Received: {name}.shape={shape}."
        )
    rows, columns = shape
    if rows is not None and columns is not None and columns < rows:
        raise ValueError(
            f"{caller} expects `{name}` with at least as many columns as rows: the positive "
            f"of row i is column i, further columns are extra negatives. Received: "
            f"{name}.shape={shape}. Did you transpose it?"
        )
    return shape
