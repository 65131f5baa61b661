"""An embedder as a scikit-learn transformer: texts in, features out."""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from typing import Self

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils import Tags
from sklearn.utils.validation import check_is_fitted

from cptk import checks
from cptk.encoders import TextEncoder, embed, quiet
from cptk.types import Path, Vectors


class TextEmbedderTransformer(TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """Embeds texts inside a scikit-learn `Pipeline`, and lets `GridSearchCV` choose role and size.

    It learns nothing: `fit` looks at the embedder and the arguments. A clone has the same embedder,
    not a copy of it. With `n_jobs` above 1, give the folder of a preset, which each process loads.

    Args:
        embedder: Anything with `encode_text`: a `cptk.models.TextEmbedder`, one of KerasHub's, or
            what `cptk.integrations.sentence_transformers.as_encoder` returns; or the folder of a
            preset.
        role: The role of the texts; the embedder's default by None.
        dims: How many numbers of each vector to keep, the first ones, brought to unit length again;
            all by None.

    Attributes:
        n_features_out_: Numbers of a vector.

    Example:

    ```pycon
    >>> from sklearn.linear_model import LogisticRegression
    >>> from sklearn.model_selection import GridSearchCV
    >>> from sklearn.pipeline import make_pipeline
    >>> from cptk.integrations.sklearn import TextEmbedderTransformer
    >>> pipeline = make_pipeline(TextEmbedderTransformer(embedder), LogisticRegression())
    >>> choices = {"role": ["query", "document"], "dims": [8, None]}
    >>> grid = {f"textembeddertransformer__{name}": each for name, each in choices.items()}
    >>> search = GridSearchCV(pipeline, grid, cv=2)
    >>> texts = ["sort a list", "sort rows", "open a file", "open the door"]
    >>> search.fit(texts, [0, 0, 1, 1]).predict(["sort"]).shape
    (1,)

    ```
    """

    def __init__(
        self, embedder: object = None, role: str | None = None, dims: int | None = None
    ) -> None:
        self.embedder = embedder
        self.role = role
        self.dims = dims

    def fit(self, X: Sequence[str], y: object = None) -> Self:  # noqa: N803
        """Check the arguments; find out how many features there are.

        Args:
            X: n texts: a list, an array, a column of a frame.
            y: Not used.

        Raises:
            ValueError: No embedder, an unknown role, `dims` above the size of a vector, no texts.
            TypeError: Something that embeds no texts, or is no text.
        """
        self._embed(checks.texts(X, "X")[:1])
        return self

    def transform(self, X: Sequence[str]) -> Vectors:  # noqa: N803
        """The vectors of n texts, `(n, n_features_out_)` float32.

        Raises:
            sklearn.exceptions.NotFittedError: Before `fit`.
            TypeError, ValueError: As for `fit`.
        """
        check_is_fitted(self)
        return self._embed(checks.texts(X, "X"))

    def fit_transform(self, X: Sequence[str], y: object = None, **kwargs: object) -> Vectors:  # noqa: N803
        """`fit(X).transform(X)`, with one pass over the texts."""
        return self._embed(checks.texts(X, "X"))

    def get_feature_names_out(self, input_features: object = None) -> NDArray[np.object_]:
        """Names for the features: "textembeddertransformer0", "…1", and so on.

        Args:
            input_features: Not used: a text is one column.
        """
        check_is_fitted(self)
        name = type(self).__name__.lower()
        return np.array([f"{name}{index}" for index in range(self.n_features_out_)], dtype=object)

    def _embed(self, texts: list[str]) -> Vectors:
        if self.role is not None and not isinstance(self.role, str):
            raise TypeError(
                "`role` should be the name of a role, or None. Received: "
                f"{checks.shown(self.role)}."
            )
        vectors = embed(quiet(self._encoder()), texts, self.role)
        if self.dims is not None:
            dims = checks.integer("dims", self.dims, 1, ", or None")
            if dims > vectors.shape[1]:
                raise ValueError(
                    f"`dims` should be at most the size of a vector, {vectors.shape[1]}. Received: "
                    f"{dims}."
                )
            vectors = vectors[:, :dims]
            lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
            vectors = np.asarray(vectors / np.where(lengths == 0, 1, lengths), np.float32)
        self.n_features_out_ = int(vectors.shape[1])
        return vectors

    def _encoder(self) -> TextEncoder:
        """The embedder; that of a folder is loaded once."""
        given = self.embedder
        if given is None:
            raise ValueError(
                "`embedder` is None. Pass an embedder, or the folder of a preset: "
                "TextEmbedderTransformer(embedder)."
            )
        if not isinstance(given, str | PathLike):
            return given  # type: ignore[return-value]  # `embed` looks at it
        place = checks.path(given, "embedder")
        loaded: tuple[Path, TextEncoder] | None = self.__dict__.get("_loaded")
        if loaded is None or loaded[0] != place:
            from cptk.models import TextEmbedder

            loaded = self._loaded = (place, TextEmbedder.from_preset(place))
        return loaded[1]

    def __getstate__(self) -> dict[str, object]:
        # A process that gets the folder loads it: the model itself need not travel.
        state: dict[str, object] = super().__getstate__()
        return {name: value for name, value in state.items() if name != "_loaded"}

    def __sklearn_clone__(self) -> Self:
        # scikit-learn would copy the embedder, weights and all, for each candidate and fold.
        return type(self)(self.embedder, self.role, self.dims)

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "n_features_out_")

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.string = True
        tags.input_tags.two_d_array = False
        tags.input_tags.one_d_array = True
        tags.no_validation = False
        tags.transformer_tags.preserves_dtype = []
        return tags
