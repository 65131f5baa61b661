"""Texts into the vectors of an index: in their roles, and all by one embedder."""

from __future__ import annotations

import numpy as np

from cptk import checks
from cptk.encoders import TextEncoder, check_encoder, embed, quiet, roles_of, trained_embedder
from cptk.fingerprint import describe, fingerprint
from cptk.search.exact import Floats
from cptk.search.vectors import texts_or_array, unit_vectors
from cptk.types import Config


class OneEmbedder:
    """The embedder of an index, if it has one, and what is known of the one that made its rows.

    Args:
        embedder: Anything that embeds text, or None.

    Raises:
        TypeError: Something else.
    """

    def __init__(self, embedder: TextEncoder | None) -> None:
        if embedder is not None:
            check_encoder(embedder)
        self.embedder = embedder
        self.about: Config | None = None
        """Fingerprint and description of what the rows were embedded by."""

    def read(self, values: object, name: str, dim: int | None) -> list[str] | Floats:
        """Texts, or vectors of unit length.

        Raises:
            TypeError: Neither.
            ValueError: Bad ones; or texts, where there is no embedder.
        """
        values = texts_or_array(values)
        if isinstance(values, np.ndarray):
            return unit_vectors(values, name, dim)
        texts = checks.texts(values, name)
        if self.embedder is None:
            raise ValueError(
                f"`{name}` are texts, and this index has no embedder. Give one to Index(embedder) "
                "or Index.load(folder, embedder), or pass vectors."
            )
        return texts

    def embed(self, given: list[str] | Floats, role: str, dim: int | None) -> Floats:
        """Unit vectors of what `read` gave: of texts in their role, where the embedder has it."""
        if isinstance(given, np.ndarray):
            return given
        assert self.embedder is not None
        known = roles_of(self.embedder)
        has_role = known is None or role in known
        vectors = embed(quiet(self.embedder), given, role if has_role else None)
        return unit_vectors(vectors, "the embedder's vectors", dim)

    def check(self) -> Config | None:
        """What is known of the embedder, which must be the one that the rows are of.

        Raises:
            ValueError: They are of another one; the message says what differs.
        """
        if self.embedder is None:
            return self.about
        mine = fingerprint(self.embedder, exact=False)
        about = describe(trained_embedder(self.embedder))
        theirs = self.about
        if theirs is None:
            return {"fingerprint": mine, **about}
        if mine is None or theirs.get("fingerprint") in (None, mine):
            return theirs
        other = [
            f"{name} was {checks.shown(theirs.get(name), 60)} and is "
            f"{checks.shown(about.get(name), 60)}"
            for name in {**theirs, **about}
            if name not in ("fingerprint", "dtype") and theirs.get(name) != about.get(name)
        ]
        differs = "; ".join(other) or "its weights or its vocabulary; was it trained since?"
        raise ValueError(
            f"The rows of this index were embedded by another embedder. What differs: {differs}. "
            "Load the one that they are of, or embed the texts again into a new index."
        )
