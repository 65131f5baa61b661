"""What counts as an embedder here, and the vectors it gives, checked."""

from __future__ import annotations

import functools
import inspect
import warnings
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
            NaN, infinity, or a row of zeros from a trained embedder (a Keras or torch model).

    A vector of zeros from anything else (a bag of words that knows none of the words) is taken with
    a warning, without one where the result is sparse: its cosine counts as 0 with all.

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
    vectors, is_sparse = embed_checked(encoder, checked, role)
    if not is_sparse:
        warn_of_zeros(vectors, checked, type(encoder).__name__)
    return vectors


def embed_checked(encoder: Any, texts: list[str], role: str | None) -> tuple[Vectors, bool]:
    """`embed` of texts that are checked, without a word on zeros; and whether they were sparse."""
    name, call = check_encoder(encoder, role)
    output = call(texts)
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
    allow_zeros = not is_trained(encoder)
    return check_vectors(output, len(texts), name, allow_zeros=allow_zeros, texts=texts), sparse


def warn_of_zeros(vectors: Vectors, texts: Sequence[str], name: str) -> None:
    """A warning that names the first text with a vector of zeros, if there is one."""
    zero = ~vectors.any(axis=1)
    if zero.any():
        warnings.warn(
            f"{name} gave zero vectors, whose cosine counts as 0 with all, for "
            f"{_which(zero, texts)}. A bag of words does so where it knows no word of a text.",
            stacklevel=3,
        )


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


def is_keras(encoder: Any) -> bool:
    """Whether an encoder is a Keras model."""
    return any(base.__module__.split(".")[0] == "keras" for base in type(encoder).__mro__)


def is_trained(encoder: Any) -> bool:
    """Whether an encoder has weights: of such a one a vector of zeros is a fault."""
    encoder = encoder.embedder if isinstance(encoder, Quiet) else encoder
    return is_keras(encoder) or callable(getattr(encoder, "state_dict", None))


class Quiet:
    """An embedder without its progress bar."""

    def __init__(self, embedder: Any, encode_text: Callable[..., Any]) -> None:
        self.embedder = embedder
        self.preprocessor = getattr(embedder, "preprocessor", None)
        self.encode_text = encode_text


def quiet(encoder: Any) -> Any:
    """The encoder without its progress bar, if it has one to turn off."""
    function = getattr(encoder, "encode_text", None)
    if function is None or "verbose" not in inspect.signature(function).parameters:
        return encoder
    return Quiet(encoder, functools.partial(function, verbose=0))


def check_encoder(encoder: Any, role: str | None = None) -> tuple[str, Callable[[list[str]], Any]]:
    """What an encoder is called, and how it is called; `TypeError` if it is none."""
    name = f"{type(encoder).__name__}"
    if inspect.isclass(encoder):
        raise TypeError(f"Received the class {encoder.__name__}; give an instance of it.")
    if callable(getattr(encoder, "encode_text", None)):
        function = encoder.encode_text
        options = {} if role is None or not takes_role(function) else {"role": role}
        roles = getattr(getattr(encoder, "preprocessor", None), "roles", None)
        if roles is not None and len(roles) == 1 and role not in roles:
            options = {}
        return f"{name}.encode_text", lambda texts: function(texts, **options)
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


def takes_role(function: Any) -> bool:
    """Whether a function has a parameter `role`."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return False
    # Not `**kwargs`: KerasHub's `encode_text` hands them to `predict`, which knows no role.
    return any(parameter.name == "role" for parameter in parameters)


def _which(rows: Any, texts: Sequence[str] | None) -> str:
    indices = np.flatnonzero(rows)
    text = "" if texts is None else f": {checks.shown(texts[indices[0]], 80)}"
    more = f" and {len(indices) - 1} more" if len(indices) > 1 else ""
    return f"text {indices[0]}{more}{text}"
