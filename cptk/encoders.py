"""What evaluation takes for an encoder, and the checks of the vectors that an encoder gives."""

from __future__ import annotations

import functools
import inspect
import warnings
from collections.abc import Callable, Collection, Sequence
from typing import Any, NamedTuple, Protocol, TypeAlias, TypeGuard, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from cptk import checks
from cptk.types import Encoder, Model, Preprocessor

Vectors: TypeAlias = NDArray[np.float32]
"""(n, d), a row for each text."""


class Embed(Protocol):
    """What a task embeds its texts with: an encoder bound to its checks and its cache."""

    def __call__(self, texts: Sequence[str], role: str | None = None) -> Vectors:
        """(n, d) float32 vectors of n texts in a role; in the default role if `None`."""


class SentenceModel(Protocol):
    """Something with `encode`, as a sentence-transformers model has it."""

    def encode(self, sentences: list[str], /) -> object:
        """An array, or a torch tensor, of a row for each sentence."""


class Vectorizer(Protocol):
    """Something with `transform`: a fitted scikit-learn vectoriser or pipeline."""

    def transform(self, texts: list[str], /) -> object:
        """An array, or a sparse matrix, of a row for each text."""


@runtime_checkable
class SparseMatrix(Protocol):
    """A matrix of SciPy's that holds what is not zero alone."""

    shape: tuple[int, ...]

    def toarray(self) -> NDArray[np.generic]:
        """The same as an array of NumPy."""


TextEncoder: TypeAlias = Encoder | SentenceModel | Vectorizer | Callable[[list[str]], object]
"""Anything that `embed` takes; `check_encoder` says at run time whether an object is one."""

# A sparse matrix that takes more bytes than this when made dense is refused: the machine would
# otherwise begin to swap.
LARGEST_DENSE = 4 << 30


def embed(encoder: TextEncoder, texts: Sequence[str], role: str | None = None) -> Vectors:
    """Vectors of texts from anything that embeds text.

    An encoder is, in this order of preference, something with

    - `encode_text(texts, role=...)` or `encode_text(texts)`: cptk's and KerasHub's embedders;
    - `encode(texts)`: a sentence-transformers model;
    - `transform(texts)`: a fitted scikit-learn vectoriser or pipeline (a sparse result is made
      dense);
    - or a function texts -> array.

    An embedder with one role only takes every role for that one. An embedder with several raises
    its own `ValueError` for a role that it does not have, and names those it has.

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

    A vector of zeros from any other encoder (a bag of words that knows none of the words) is taken
    with a warning, or without one where the result is sparse. Its cosine with everything counts as
    0.

    Example:

    ```pycon
    >>> from sklearn.feature_extraction.text import CountVectorizer
    >>> from cptk.evaluation import embed
    >>> vectorizer = CountVectorizer().fit(["a good film", "a bad film"])
    >>> embed(vectorizer, ["good film", "bad"]).tolist()  # counts of bad, film and good
    [[0.0, 1.0, 1.0], [1.0, 0.0, 0.0]]
    >>> embed(lambda texts: [[len(text), 1] for text in texts], ["good film", "bad"]).tolist()
    [[9.0, 1.0], [3.0, 1.0]]

    ```
    """
    if getattr(encoder, "is_embed", False):  # what `evaluate` gives to tasks: it checks by itself
        bound: Embed = encoder  # type: ignore[assignment]  # told by its mark, not by its type
        return bound(texts, role)
    checked = checks.texts(texts)
    vectors, is_sparse = embed_checked(encoder, checked, role)
    if not is_sparse:
        warn_of_zeros(vectors, checked, type(encoder).__name__)
    return vectors


class Embedded(NamedTuple):
    """Vectors, and whether the encoder gave them as a sparse matrix."""

    vectors: Vectors
    is_sparse: bool


def embed_checked(encoder: TextEncoder, texts: list[str], role: str | None) -> Embedded:
    """`embed` of texts that are checked already; it does not warn of vectors of zeros."""
    name, call = check_encoder(encoder, role)
    output = call(texts)
    is_sparse = isinstance(output, SparseMatrix)
    if isinstance(output, SparseMatrix):
        size = 4 * output.shape[0] * output.shape[1]
        if size > LARGEST_DENSE:
            raise ValueError(
                f"{name} gave a sparse matrix of shape {output.shape}, which takes "
                f"{size / 2**30:.1f} GiB when made dense. Fewer features, please: "
                "TfidfVectorizer(max_features=...) or a TruncatedSVD after it."
            )
        output = output.toarray()
    allow_zeros = not is_trained(encoder)
    vectors = check_vectors(output, len(texts), name, allow_zeros=allow_zeros, texts=texts)
    return Embedded(vectors, is_sparse)


def warn_of_zeros(vectors: Vectors, texts: Sequence[str], name: str) -> None:
    """A warning that names the first text with a vector of zeros, if there is one."""
    zero = np.logical_not(vectors.any(axis=1))
    if zero.any():
        warnings.warn(
            f"{name} gave zero vectors, whose cosine counts as 0 with all, for "
            f"{_which(zero, texts)}. A bag of words does so where it knows no word of a text.",
            stacklevel=3,
        )


def check_vectors(
    output: object,
    count: int,
    name: str = "The encoder",
    *,
    allow_zeros: bool = False,
    texts: Sequence[str] | None = None,
) -> Vectors:
    """What an encoder returned, as (count, d) float32, or an error that says what is wrong."""
    if hasattr(output, "detach"):  # a torch tensor, which NumPy refuses where it has a gradient
        output = output.detach().cpu()
    vectors: NDArray[np.generic] = np.asarray(output)
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
        checked: Vectors = np.ascontiguousarray(vectors, dtype=np.float32)
    bad = np.logical_not(np.isfinite(checked).all(axis=1))
    if bad.any():
        raise ValueError(
            f"{name} must give finite vectors. Received NaN or infinity for "
            f"{_which(bad, texts)}. Is it trained in float16, or was its loss NaN?"
        )
    zero = np.logical_not(checked.any(axis=1))
    if zero.any() and not allow_zeros:
        raise ValueError(
            f"{name} must not give zero vectors: their cosine is not defined. Received one for "
            f"{_which(zero, texts)}."
        )
    return checked


def is_keras(encoder: object) -> TypeGuard[Model]:
    """Whether an encoder is a Keras model."""
    return any(base.__module__.split(".")[0] == "keras" for base in type(encoder).__mro__)


def trained_embedder(encoder: Any) -> Any:
    """The embedder of a `ContrastiveTrainer`, which embeds by it; anything else as it is."""
    bases = type(encoder).__mro__
    is_trainer = any(base.__module__ == "cptk.training.trainer" for base in bases)
    return encoder.embedder if is_trainer else encoder


def is_trained(encoder: object) -> bool:
    """Whether an encoder has weights; a vector of zeros is a fault in one that has."""
    encoder = encoder.embedder if isinstance(encoder, Quiet) else encoder
    return is_keras(encoder) or callable(getattr(encoder, "state_dict", None))


EncodeText: TypeAlias = Callable[..., Vectors]
"""`encode_text(texts)`, of which some take a `role` and some options of their own."""


class Quiet:
    """An embedder without its progress bar."""

    def __init__(self, embedder: Encoder, encode_text: EncodeText) -> None:
        self.embedder = embedder
        self.preprocessor: Preprocessor | None = getattr(embedder, "preprocessor", None)
        self.encode_text = encode_text


def quiet(encoder: TextEncoder) -> TextEncoder:
    """The encoder without its progress bar, if it has one to turn off."""
    function = getattr(encoder, "encode_text", None)
    parameters = {} if function is None else inspect.signature(function).parameters
    # KerasHub's own hands `**kwargs` to `predict`.
    hands_on = is_keras(encoder) and any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    if function is None or not ("verbose" in parameters or hands_on):
        return encoder
    return Quiet(encoder, functools.partial(_fast(encoder), verbose=0))  # type: ignore[arg-type]


FASTER: dict[str, Callable[..., Vectors]] = {}
"""By library, `encode(embedder, texts, …)` that embeds as its embedders' own `encode_text`, and
faster. `cptk.models`, which is imported with KerasHub, puts its own here."""


def _fast(encoder: Any) -> Any:
    """The `encode_text` of an encoder; of KerasHub's own embedders cptk's, which pads far less."""
    function = encoder.encode_text
    library = getattr(function, "__module__", "").partition(".")[0]
    return functools.partial(FASTER[library], encoder) if library in FASTER else function


class Call(NamedTuple):
    """How an encoder embeds texts: the method's name for messages, and the method."""

    name: str
    function: Callable[[list[str]], object]


def check_encoder(encoder: object, role: str | None = None) -> Call:
    """How an encoder embeds texts in a role; `TypeError` if the object is no encoder."""
    name = f"{type(encoder).__name__}"
    if inspect.isclass(encoder):
        raise TypeError(f"Received the class {encoder.__name__}; give an instance of it.")
    if isinstance(encoder, str):  # which has a method `encode` of its own
        raise TypeError(
            f"An encoder is no string. Received: {checks.shown(encoder)}. Load it first: "
            "cptk.models.TextEmbedder.from_preset(…)."
        )
    function = getattr(encoder, "encode_text", None)
    if callable(function):
        options = {} if role is None or not takes_role(function) else {"role": role}
        roles = roles_of(encoder)
        if roles is not None and len(roles) <= 1 and role not in roles:
            options = {}
        fast = _fast(encoder)
        return Call(f"{name}.encode_text", lambda texts: fast(texts, **options))
    for method in ("encode", "transform"):
        other = getattr(encoder, method, None)
        if callable(other):
            return Call(f"{name}.{method}", other)
    if callable(encoder):
        return Call(getattr(encoder, "__name__", name), encoder)
    raise TypeError(
        "An encoder needs `encode_text(texts, role=...)`, `encode(texts)` or `transform(texts)`, "
        f"or must be a function texts -> array. Received: {name}."
    )


def roles_of(encoder: object) -> Collection[str] | None:
    """The roles that an encoder embeds texts in; None where it does not say.

    What stands around an embedder, as a trainer does, has the embedder's; none where the embedder
    takes none, as KerasHub's own.
    """
    owner = trained_embedder(encoder.embedder if isinstance(encoder, Quiet) else encoder)
    roles: Collection[str] | None = getattr(getattr(owner, "preprocessor", None), "roles", None)
    if (
        roles is None
        and owner is not encoder
        and not takes_role(getattr(owner, "encode_text", None))
    ):
        return ()
    return roles


def takes_role(function: Any) -> bool:
    """Whether a function has a parameter `role`."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return False
    # `**kwargs` does not count: KerasHub's `encode_text` hands them to `predict`, which knows no
    # role.
    return any(parameter.name == "role" for parameter in parameters)


def _which(rows: NDArray[np.bool_], texts: Sequence[str] | None) -> str:
    indices = np.flatnonzero(rows)
    text = "" if texts is None else f": {checks.shown(texts[indices[0]], 80)}"
    more = f" and {len(indices) - 1} more" if len(indices) > 1 else ""
    return f"text {indices[0]}{more}{text}"
