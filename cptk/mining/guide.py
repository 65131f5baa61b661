"""What another embedder makes of the texts, for a loss that leaves out false negatives by it."""

from __future__ import annotations

from itertools import chain
from typing import Any

import numpy as np

from cptk import checks
from cptk.data.arrow import lists_of_vectors
from cptk.data.pairs import Pairs
from cptk.mining.encoding import check_encoder, encode_each
from cptk.types import Encoder


def guide_vectors(guide: Encoder, pairs: object) -> Pairs:
    """Give each pair the vectors that a guide has of its texts.

    The guide is an embedder that is better than the one in training, or another, and stays as it
    is. `cptk.losses.InfoNCE(false_negative_margin=0.0, guide=True)` takes a text for a right answer
    that nobody has marked, and for no negative, where the guide finds it nearer to the query than
    the query's own document.

    Each different text is encoded once. The pairs hold 4 bytes for each number of a vector, once
    for each place where its text stands: of 100,000 pairs with 4 negatives and a guide of 384
    numbers 0.9 GB.

    Args:
        guide: Something with `encode_text`: an embedder, or
            `cptk.integrations.sentence_transformers.as_encoder(model)`. Queries and documents are
            given their roles where it has them.
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
    check_encoder(guide, "guide")
    data = pairs if isinstance(pairs, Pairs) else Pairs(pairs)
    queries, documents = checks.texts(data["query"]), checks.texts(data["document"])
    negatives: list[Any] = [[] for _ in queries]
    if "negatives" in data.columns:
        negatives = data["negatives"]
    of_queries = encode_each(guide, queries, "query")
    of_documents = encode_each(guide, chain(documents, *negatives), "document")
    vectors = np.concatenate([of_queries.vectors, of_documents.vectors])
    places: list[int] = []
    for query, document, others in zip(queries, documents, negatives, strict=True):
        places.append(of_queries.places[query])
        places += [len(of_queries.places) + of_documents.places[x] for x in (document, *others)]
    counts = np.array([2 + len(texts) for texts in negatives])
    table = data.to_arrow()
    if "guide" in data.columns:
        table = table.drop_columns("guide")
    return Pairs(table.append_column("guide", lists_of_vectors(vectors[places], counts)))
