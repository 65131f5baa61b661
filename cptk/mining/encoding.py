"""Texts of pairs as vectors, each different text once."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np

from cptk import checks
from cptk.types import Encoder, Vectors


class EncodedTexts(NamedTuple):
    """Vectors of different texts."""

    vectors: Vectors
    places: dict[str, int]

    def of(self, texts: Iterable[str]) -> Vectors:
        """A row for each text."""
        return self.vectors[[self.places[text] for text in texts]]


def encode_each(embedder: Encoder, texts: Iterable[str], role: str) -> EncodedTexts:
    """Each text embedded once, in its role where the embedder has roles.

    Args:
        embedder: An embedder, a trainer of one, or something else with `encode_text`.
        texts: One or more.
        role: "query" or "document".

    Raises:
        ValueError: Something else than a vector for each text.
    """
    encode: Any = embedder.encode_text
    different = list(dict.fromkeys(texts))
    options: dict[str, Any] = {}
    parameters = inspect.signature(encode).parameters
    reader = getattr(getattr(embedder, "embedder", embedder), "preprocessor", embedder)
    if "role" in parameters and role in (getattr(reader, "roles", None) or ()):
        options["role"] = role
    vectors = np.asarray(encode(different, **options), np.float32)
    if vectors.ndim != 2 or len(vectors) != len(different):
        raise ValueError(
            f"`encode_text` should return a vector for each text, ({len(different)}, dim). "
            f"Received: {vectors.shape}."
        )
    return EncodedTexts(vectors, {text: place for place, text in enumerate(different)})


def check_encoder(embedder: object, name: str = "embedder") -> None:
    """Refuses what cannot embed."""
    if not callable(getattr(embedder, "encode_text", None)) or inspect.isclass(embedder):
        raise TypeError(
            f"`{name}` should have a method `encode_text`, as an embedder or a trainer has. "
            f"Received: {checks.shown(embedder)}."
        )
