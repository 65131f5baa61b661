"""What another embedder makes of the texts, for a loss that leaves out false negatives by it."""

from __future__ import annotations

from typing import Any

import numpy as np

from cptk import checks
from cptk.data.arrow import lists_of_vectors
from cptk.data.pairs import Pairs
from cptk.encoders import TextEncoder, check_encoder, embed_checked


def guide_vectors(guide: TextEncoder, pairs: object) -> Pairs:
    """Give each pair the vectors that a guide has of its texts.

    The guide is an embedder that is better than the one in training, or another, and stays as it
    is. `cptk.losses.InfoNCE(false_negative_margin=0.0, guide=True)` takes a text for a right answer
    that nobody has marked, and for no negative, where the guide finds it nearer to the query than
    the query's own document.

    Each different text is encoded once. The pairs hold 4 bytes for each number of a vector, once
    for each place where its text stands: of 100,000 pairs with 4 negatives and a guide of 384
    numbers 0.9 GB.

    Args:
        guide: Anything that embeds text (`cptk.evaluation.embed`). Queries and documents are
            embedded in their roles where it has them.
        pairs: Pairs in any form that `Pairs` takes, with the negatives of the training.

    Returns:
        The pairs with a column `guide`, in place of one that they have: lists of 2 + k vectors, of
        the query, the document and the pair's k negatives, as float32.

    Raises:
        ValueError: No pairs, an empty text, or vectors that are not finite.
        TypeError: Something that cannot embed.

    Example:

    ```pycon
    >>> import cptk
    >>> pairs = {"query": queries, "document": documents}
    >>> guided = cptk.mining.guide_vectors(embedder, pairs)
    >>> len(guided["guide"][0])
    2

    ```

    References:
        Solatorio 2024, GISTEmbed, arXiv 2402.16829, section 3. There the guide embeds each batch
        anew; that its vectors are a column is ours.
    """
    check_encoder(guide)
    data = pairs if isinstance(pairs, Pairs) else Pairs(pairs)
    sides = {"query": checks.texts(data["query"]), "document": checks.texts(data["document"])}
    negatives: list[Any] = [[] for _ in sides["query"]]
    if "negatives" in data.columns:
        negatives = data["negatives"]
    places: dict[tuple[str, str], int] = {}
    found = []
    for role, texts in sides.items():
        others = [text for some in negatives for text in some] if role == "document" else []
        different = list(dict.fromkeys([*texts, *others]))
        places |= {(role, text): i for i, text in enumerate(different, start=len(places))}
        found.append(embed_checked(guide, different, role).vectors)
    rows: list[int] = []
    for query, document, others in zip(*sides.values(), negatives, strict=True):
        rows.append(places["query", query])
        rows += [places["document", text] for text in (document, *others)]
    counts = np.array([2 + len(texts) for texts in negatives])
    table = data.to_arrow()
    if "guide" in data.columns:
        table = table.drop_columns("guide")
    vectors = np.concatenate(found)[rows]
    return Pairs(table.append_column("guide", lists_of_vectors(vectors, counts)))
