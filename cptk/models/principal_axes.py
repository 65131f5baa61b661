"""Embeddings turned so that their first numbers tell most."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from cptk import checks
from cptk.models.preset_sentence_transformers import get_projection, set_projection
from cptk.models.text_embedder import TextEmbedder


def rotate_to_principal_axes(embedder: TextEmbedder, vectors: ArrayLike) -> TextEmbedder:
    """The embedder with one more projection: onto the principal axes of its own vectors.

    That is a rotation: cosines stay as they are, and of all rotations it is the one after which
    the first d numbers hold the most of the vectors' length, for each d. So embeddings may be cut
    with less loss, and `cptk.losses.Matryoshka` has a better beginning: do it before training.

    Args:
        embedder: A `TextEmbedder`, before LoRA. Its backbone and preprocessor are shared.
        vectors: (n, dim) vectors that it has made, of texts such as it will meet, in all of its
            roles; n is at least dim, and a few times as many are better.

    Returns:
        An embedder of the same class. Its `trained_dims` are empty.

    Raises:
        TypeError: No `TextEmbedder`: KerasHub's own embedders have no projection.
        ValueError: Vectors of another shape, fewer than dim, or not finite.

    Example:

    ```pycon
    >>> import cptk
    >>> texts = [f"{word} {number}" for word in ("sort", "open") for number in range(8)]
    >>> turned = cptk.models.rotate_to_principal_axes(embedder, embedder.encode_text(texts))
    >>> turned.encode_text(texts, truncate_dim=4).shape
    (16, 4)

    ```

    References:
        Jolliffe 2002, Principal Component Analysis, section 2.1; not centred here, since a cosine
        has its origin at 0.
    """
    if not isinstance(embedder, TextEmbedder):
        raise TypeError(
            "`embedder` should be a `cptk.models.TextEmbedder`, which has projections. Received: "
            f"{checks.shown(embedder)}. Load a folder of BERT, say, by "
            "`cptk.models.TextEmbedder.from_preset(folder, pooling='mean')`."
        )
    found, dim = np.asarray(vectors), embedder.output_shape[-1]
    if found.dtype.kind != "f" or found.ndim != 2 or found.shape[1] != dim or len(found) < dim:
        raise ValueError(
            f"`vectors` should be of the shape (n, {dim}), floats, with n of {dim} or more. "
            f"Received: {checks.shown(vectors)}, of shape {found.shape} and dtype {found.dtype}."
        )
    if not np.isfinite(found).all():
        raise ValueError("`vectors` should be finite. Received some that are NaN or infinite.")
    _, _, axes = np.linalg.svd(found.astype("float64"), full_matrices=False)
    rotated = type(embedder)(
        embedder.backbone,
        embedder.preprocessor,
        pooling=embedder.pooling,
        normalize=embedder.normalize,
        projection=[*embedder.projection, {"units": dim, "use_bias": False}],
        attention=embedder.attention,
    )
    set_projection(rotated, [*get_projection(embedder), [axes.T]])
    return rotated
