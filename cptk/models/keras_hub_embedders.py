"""KerasHub's own embedders as training and encoding need them: unpadded ids in, vectors out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import keras
import keras_hub
import numpy as np
from keras import ops

from cptk.models.preprocessor import TextEmbedderPreprocessor
from cptk.types import Layer, Model, Preprocessor, Tensor, Tokenizer

TEXTS_AT_ONCE = 256
"""Each is padded to `sequence_length` before its padding is taken off again."""


def is_keras_hubs_own(layer: Layer) -> bool:
    """Whether a layer is a preprocessor of KerasHub's, which makes its packer when it is built."""
    preprocessor = isinstance(layer, keras_hub.models.TextEmbedderPreprocessor)
    return preprocessor and not isinstance(layer, TextEmbedderPreprocessor)


def text_reader(embedder: Model) -> Preprocessor | None:
    """What turns texts into token ids for an embedder: its own preprocessor, behind one face.

    Args:
        embedder: An embedder of cptk or a `keras_hub.models.TextEmbedder`.

    Returns:
        The preprocessor, or a `KerasHubReader` around it; None where the embedder has none.

    Example:

    ```pycon
    >>> import cptk
    >>> reader = cptk.models.text_reader(embedder)
    >>> reader.tokenize(["a"], reader.resolve_role("query"))
    [[58, 64, 60]]

    ```
    """
    preprocessor = getattr(embedder, "preprocessor", None)
    if preprocessor is None or isinstance(preprocessor, TextEmbedderPreprocessor):
        return preprocessor
    return KerasHubReader(preprocessor)


def embed(embedder: Model, tokens: Mapping[str, object], training: bool | None = None) -> Tensor:
    """Embeddings `(n, dim)` of tokens `(n, length)`: the one call of an embedder that there is.

    KerasHub's own embedders are given what else they take: the segments of BERT, all 0, since a
    text is one segment. Rows without a token, which fill a batch up, attend to their first place
    there: KerasHub divides by the number of tokens and by the length of the vector.
    """
    if not isinstance(embedder, keras_hub.models.TextEmbedder) or hasattr(
        embedder, "takes_any_mask"
    ):
        return embedder(tokens, training=training)
    inputs = embedder.input
    token_ids: Tensor = tokens["token_ids"]
    mask = ops.cast(tokens["padding_mask"], "bool")
    first = ops.equal(ops.arange(ops.shape(mask)[1]), 0)
    empty = ops.logical_not(ops.any(mask, axis=1, keepdims=True))
    mask = ops.logical_or(mask, ops.logical_and(empty, ops.expand_dims(first, 0)))
    given = {"token_ids": token_ids, "padding_mask": ops.cast(mask, inputs["padding_mask"].dtype)}
    if "segment_ids" in inputs:
        given["segment_ids"] = ops.zeros_like(token_ids)
    return embedder(given, training=training)


class KerasHubReader:
    """A `keras_hub.models.TextEmbedderPreprocessor` that returns rows without padding.

    It has one role, "text": what stands around a text is what its packer puts there.
    """

    def __init__(self, preprocessor: keras_hub.models.TextEmbedderPreprocessor) -> None:
        self.preprocessor = preprocessor
        if preprocessor.packer is None:  # made when the vocabulary is there
            preprocessor.build(None)
            for layer in preprocessor._flatten_layers():
                layer.built = True

    @property
    def sequence_length(self) -> int:
        """Length at which texts are cut."""
        return int(self.preprocessor.sequence_length)

    @property
    def tokenizer(self) -> Tokenizer:
        """KerasHub's."""
        return self.preprocessor.tokenizer  # type: ignore[no-any-return]

    @property
    def roles(self) -> Mapping[str, object]:
        """One."""
        return {"text": ("", "")}

    def resolve_role(self, role: str | None) -> str:
        """The only role there is.

        Raises:
            ValueError: Another one is asked for.
        """
        if role not in (None, "text"):
            raise ValueError(
                f"There is no role {role!r}: KerasHub's {type(self.preprocessor).__name__} reads "
                "all texts alike. Leave `role` out, or put the prompt into the texts."
            )
        return "text"

    def tokenize(self, texts: Sequence[str], role: str | None = None) -> list[Sequence[int]]:
        """The ids of each text, as the preprocessor gives them, up to its last token."""
        self.resolve_role(role)
        rows: list[Sequence[int]] = []
        for start in range(0, len(texts), TEXTS_AT_ONCE):
            features = self.preprocessor(list(texts[start : start + TEXTS_AT_ONCE]))
            token_ids, mask = (
                np.asarray(keras.ops.convert_to_numpy(features[name]))
                for name in ("token_ids", "padding_mask")
            )
            ends = mask.shape[1] - np.argmax(mask[:, ::-1].astype(bool), axis=1)
            rows += [row[:end].tolist() for row, end in zip(token_ids, ends, strict=True)]
        return rows
