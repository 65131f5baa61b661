"""InfoNCE in tiles, as public functions: arguments checked, embeddings normalised."""

from __future__ import annotations

import keras
from keras import ops

from cptk.checks import is_integer
from cptk.losses.matrix import check_label_smoothing, check_temperature
from cptk.losses.tiles import DEFAULT_TILE_SIZE, streamed_info_nce
from cptk.ops import (
    as_tensor,
    check_embeddings,
    dimension,
    is_known_mismatch,
    l2_normalize,
    static_shape,
)
from cptk.types import Shape, Tensor, TensorLike


def tiled_symmetric_info_nce(
    query: TensorLike,
    document: TensorLike,
    temperature: TensorLike = 0.07,
    *,
    query_ids: TensorLike | None = None,
    document_ids: TensorLike | None = None,
    sample_weight: TensorLike | None = None,
    label_smoothing: float = 0.0,
    tile_size: int | None = None,
) -> Tensor:
    """The paper's loss of batches whose (n, m) matrix of logits would not fit in memory.

    Equal to

        symmetric_info_nce(
            cosine_logits(query, document, temperature),
            same_text_mask(query_ids, document_ids),
            sample_weight,
            label_smoothing,
        )

    in value and gradient, in memory that grows with n + m instead of n * m. It takes the time
    of four products of (n, d) with (d, m), and little more. On TensorFlow call it in a
    `tf.function` and on JAX under `jax.jit`, as `fit` does: outside, every call builds its
    loops anew.

    Args:
        query: (n, d), of any length: embeddings are normalised here.
        document: (m, d) with m >= n. The positive of query i is document i; the documents from
            n on are extra negatives of every query.
        temperature: a positive number or a scalar tensor, with a gradient.
        query_ids: (n,) integers, equal where the texts are. Query i then leaves out document j
            if query j is the same text.
        document_ids: (m,) integers. Query i leaves out document j if it is document i again.
        sample_weight: (n,), multiplies each pair's loss.
        label_smoothing: as in `info_nce`, over rows and over columns.
        tile_size: rows and columns of a tile, 1,024 by default. It changes no result but for
            the order of sums.

    Returns:
        (n,) in float32 (float64 if the embeddings are). Not reduced: take the mean yourself.

    Raises:
        ValueError: if a rank or a known dimension does not fit, or the temperature or the tile
            size is not above 0.
        TypeError: if ids or the tile size are not integers.
        NotImplementedError: if the gradient is differentiated again.

    Example:

    ```pycon
    >>> import cptk
    >>> query, document = [[1.0, 0.0], [0.0, 1.0]], [[2.0, 0.0], [0.0, 2.0]]
    >>> loss = cptk.losses.tiled_symmetric_info_nce(query, document, temperature=0.5)
    >>> [round(float(x), 4) for x in loss]
    [0.1269, 0.1269]

    ```

    References:
        Neelakantan et al. 2022, arXiv 2201.10005, section 2: the loss. Milakov and Gimelshein
        2018, arXiv 1805.02867: sums of exponentials in one pass with a running maximum. Gao et
        al. 2021, arXiv 2101.06983: why the loss, and not the encoder, bounds the batch. The
        tiles of rows and columns at once are ours.
    """
    return _tiled(
        "tiled_symmetric_info_nce",
        True,
        query,
        document,
        temperature,
        query_ids,
        document_ids,
        sample_weight,
        label_smoothing,
        tile_size,
    )


def tiled_info_nce(
    query: TensorLike,
    document: TensorLike,
    temperature: TensorLike = 0.07,
    *,
    query_ids: TensorLike | None = None,
    document_ids: TensorLike | None = None,
    sample_weight: TensorLike | None = None,
    label_smoothing: float = 0.0,
    tile_size: int | None = None,
) -> Tensor:
    """`info_nce` in tiles: the cross-entropy of each query against its document, rows alone.

    Args:
        query: (n, d), of any length.
        document: (m, d) with m >= n.
        temperature: as in `tiled_symmetric_info_nce`, and so are all further arguments.
        query_ids: (n,) integers.
        document_ids: (m,) integers.
        sample_weight: (n,).
        label_smoothing: as in `info_nce`.
        tile_size: rows and columns of a tile.

    Returns:
        (n,) in float32 (float64 if the embeddings are). Not reduced.

    Raises:
        ValueError: as `tiled_symmetric_info_nce` does, and so for the other errors.

    Example:

    ```pycon
    >>> import cptk
    >>> loss = cptk.losses.tiled_info_nce([[1.0, 0.0]], [[1.0, 0.0], [3.0, 0.0]])
    >>> round(float(loss[0]), 4)  # log 2: one negative as near as the positive
    0.6931

    ```

    References:
        van den Oord et al. 2018, arXiv 1807.03748, equation 4.
    """
    return _tiled(
        "tiled_info_nce",
        False,
        query,
        document,
        temperature,
        query_ids,
        document_ids,
        sample_weight,
        label_smoothing,
        tile_size,
    )


def _tiled(
    caller: str,
    symmetric: bool,
    query: TensorLike,
    document: TensorLike,
    temperature: TensorLike,
    query_ids: TensorLike | None,
    document_ids: TensorLike | None,
    sample_weight: TensorLike | None,
    label_smoothing: float,
    tile_size: int | None,
) -> Tensor:
    """The two public functions: arguments checked, embeddings normalised, losses weighted."""
    temperature = check_temperature(caller, temperature)
    check_tile_size(caller, tile_size)
    query, document = l2_normalize(query), l2_normalize(document)
    n, m = _check_batch(caller, static_shape(query), static_shape(document))
    query_ids = _vector(caller, "query_ids", query_ids, n, integers=True)
    document_ids = _vector(caller, "document_ids", document_ids, m, integers=True)
    sample_weight = _vector(caller, "sample_weight", sample_weight, n)

    rows, columns = dimension(query, 0), dimension(document, 0)
    ids = []
    if document_ids is not None:
        ids.append((document_ids[:rows], document_ids))
    if query_ids is not None:
        # Numbered from 0, so that -1, for the extra negatives, is no query's id.
        query_ids = ops.searchsorted(ops.sort(query_ids), query_ids)
        extra = [[0, columns - rows]]
        ids.append((query_ids, ops.pad(query_ids, extra, constant_values=-1)))
    row_losses, column_losses, _, _ = streamed_info_nce(
        query,
        document,
        1.0 / ops.cast(temperature, query.dtype),
        row_ids=tuple(first for first, _ in ids),
        column_ids=tuple(second for _, second in ids),
        symmetric=symmetric,
        tile_size=tile_size,
        label_smoothing=check_label_smoothing(caller, label_smoothing),
    )
    losses = row_losses if column_losses is None else (row_losses + column_losses) * 0.5
    return losses if sample_weight is None else losses * ops.cast(sample_weight, losses.dtype)


def check_tile_size(caller: str, tile_size: object) -> None:
    """Refuses anything but a positive int or None."""
    if tile_size is None:
        return
    if not is_integer(tile_size):
        raise TypeError(
            f"{caller} expects `tile_size` to be a positive int or None. "
            f"Received: tile_size={tile_size!r}."
        )
    if tile_size < 1:
        raise ValueError(
            f"{caller} expects `tile_size` of 1 or more. Received: tile_size={tile_size}. "
            f"None takes {DEFAULT_TILE_SIZE:,}."
        )


def _check_batch(caller: str, query: Shape, document: Shape) -> tuple[int | None, int | None]:
    """The sizes n and m, where known, refused unless m >= n."""
    check_embeddings(query, document, caller)
    n, m = query[0], document[0]
    if n is not None and m is not None and m < n:
        raise ValueError(
            f"{caller} expects at least as many documents as queries: the positive of query i "
            "is document i, further documents are extra negatives. Received: "
            f"query.shape={query}, document.shape={document}. Did you swap them?"
        )
    return n, m


def _vector(
    caller: str, name: str, values: TensorLike | None, size: int | None, integers: bool = False
) -> Tensor | None:
    if values is None:
        return None
    values = as_tensor(values)
    shape, dtype = static_shape(values), keras.backend.standardize_dtype(values.dtype)
    if len(shape) != 1 or is_known_mismatch(shape[0], size):
        side = "document" if name == "document_ids" else "query"
        raise ValueError(
            f"{caller} expects `{name}` of shape ({size},), one number per {side}. "
            f"Received: {name}.shape={shape}."
            + (" Number the texts first, equal texts alike." if integers else "")
        )
    if integers and not dtype.startswith(("int", "uint")):
        raise TypeError(
            f"{caller} expects `{name}` of integers, equal where the texts are. "
            f"Received: {name}.dtype={dtype}. Number the texts first."
        )
    return values
