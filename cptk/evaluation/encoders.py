"""What counts as an embedder here, and the vectors it gives, checked."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from cptk import checks

Vectors: TypeAlias = NDArray[np.float32]
Embed: TypeAlias = Callable[..., Vectors]
"""`embed(texts, role=None)` -> (n, d) float32: an encoder bound to its checks and its cache."""

# A dense matrix beyond this is refused rather than swapped to disk.
LARGEST_DENSE = 4 << 30


def embed(encoder: Any, texts: Sequence[str], role: str | None = None) -> Vectors:
    """Vectors of texts from anything that embeds text.

    An encoder is, in this order of preference, something with

    - `encode_text(texts, role=...)` or `encode_text(texts)`: cptk's and KerasHub's embedders;
    - `encode(texts)`: a sentence-transformers model;
    - `transform(texts)`: a fitted scikit-learn vectoriser or pipeline (a sparse result is made
      dense);
    - or a function texts -> array.

    A role that the embedder does not have is passed over when it has one role only; otherwise its
    own `ValueError` names those it has.

    Args:
        encoder: See above.
        texts: n strings, none of them empty.
        role: `"query"`, `"document"`, ...; `None` for the encoder's own default.

    Returns:
        (n, d) float32, in the order of `texts`, as the encoder gave them: not normalised.

    Raises:
        TypeError: If `encoder` is none of the above, `texts` is not a sequence of strings, or the
            result is not an array of real numbers.
        ValueError: If `texts` is empty or holds a blank one, or the result has the wrong shape,
            NaN, infinity, or (unless it was sparse) a row of zeros.

    Example:

    ```python
    from sklearn.feature_extraction.text import TfidfVectorizer

    vectorizer = TfidfVectorizer().fit(["a good film", "a bad film"])
    embed(vectorizer, ["good", "bad"]).shape  # (2, 3)
    ```
    """
    if getattr(encoder, "is_embed", False):  # what `evaluate` gives to tasks: it checks by itself
        return encoder(texts, role)  # type: ignore[no-any-return]
    checked = checks.texts(texts)
    name, call = _caller(encoder, role)
    output = call(checked)
    sparse = hasattr(output, "toarray")
    if sparse:
        size = 4 * output.shape[0] * output.shape[1]
        if size > LARGEST_DENSE:
            raise ValueError(
                f"{name} gave a sparse matrix of shape {output.shape}, which takes "
                f"{size / 2**30:.1f} GiB when made dense. Fewer features, please: "
                "TfidfVectorizer(max_features=...) or a TruncatedSVD after it."
            )
        output = output.toarray()
    return check_vectors(output, len(checked), name, allow_zeros=sparse, texts=checked)


def check_vectors(
    output: Any,
    count: int,
    name: str = "The encoder",
    *,
    allow_zeros: bool = False,
    texts: Sequence[str] | None = None,
) -> Vectors:
    """What an encoder returned, as (count, d) float32, or an error that says what is wrong."""
    if hasattr(output, "detach"):  # a torch tensor that requires its gradient
        output = output.detach().cpu()
    vectors = np.asarray(output)
    if vectors.dtype.kind == "V" and vectors.dtype.itemsize == 2:  # bfloat16 from ml_dtypes
        vectors = vectors.astype(np.float32)
    if vectors.dtype.kind not in "fiu":
        raise TypeError(
            f"{name} must give an array of real numbers. Received dtype {vectors.dtype}."
        )
    if vectors.ndim != 2 or len(vectors) != count or not vectors.shape[1]:
        raise ValueError(
            f"{name} must give one vector for each of the {count} texts: shape ({count}, d). "
            f"Received shape {vectors.shape}."
        )
    with np.errstate(over="ignore"):
        vectors = np.ascontiguousarray(vectors, dtype=np.float32)
    bad = ~np.isfinite(vectors).all(axis=1)
    if bad.any():
        raise ValueError(
            f"{name} must give finite vectors. Received NaN or infinity for "
            f"{_which(bad, texts)}. Is it trained in float16, or was its loss NaN?"
        )
    zero = ~vectors.any(axis=1)
    if zero.any() and not allow_zeros:
        raise ValueError(
            f"{name} must not give zero vectors: their cosine is not defined. Received one for "
            f"{_which(zero, texts)}."
        )
    return vectors


def unit_rows(vectors: Any) -> Vectors:
    """Rows divided by their length; a row of zeros stays zero."""
    lengths = np.linalg.norm(np.asarray(vectors, dtype=np.float64), axis=1, keepdims=True)
    return np.asarray(vectors / np.where(lengths == 0, 1.0, lengths), dtype=np.float32)


def _caller(encoder: Any, role: str | None) -> tuple[str, Callable[[list[str]], Any]]:
    name = f"{type(encoder).__name__}"
    if callable(getattr(encoder, "encode_text", None)):
        function = encoder.encode_text
        options = {} if role is None or not _takes_role(function) else {"role": role}
        roles = getattr(getattr(encoder, "preprocessor", None), "roles", None)
        if roles is not None and len(roles) == 1 and role not in roles:
            options = {}
        return f"{name}.encode_text", lambda texts: function(texts, **options)
    if inspect.isclass(encoder):
        raise TypeError(f"Received the class {encoder.__name__}; give an instance of it.")
    if callable(getattr(encoder, "encode", None)):
        return f"{name}.encode", encoder.encode
    if callable(getattr(encoder, "transform", None)):
        return f"{name}.transform", encoder.transform
    if callable(encoder):
        return getattr(encoder, "__name__", name), encoder
    raise TypeError(
        "An encoder needs `encode_text(texts, role=...)`, `encode(texts)` or `transform(texts)`, "
        f"or must be a function texts -> array. Received: {name}."
    )


def _takes_role(function: Any) -> bool:
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return False
    # Not `**kwargs`: KerasHub's `encode_text` hands them to `predict`, which knows no role.
    return any(parameter.name == "role" for parameter in parameters)


def _which(rows: Any, texts: Sequence[str] | None) -> str:
    indices = np.flatnonzero(rows)
    text = "" if texts is None else f": {texts[indices[0]]!r:.80}"
    more = f" and {len(indices) - 1} more" if len(indices) > 1 else ""
    return f"text {indices[0]}{more}{text}"
