"""Hard negatives: 0 to k texts a pair, as rectangular batches of tokens."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from cptk import checks
from cptk.data.columns import column
from cptk.types import TokenBatch

Negatives: TypeAlias = list[list[str]] | TokenBatch
"""Lists of texts, or tokens `(n, k, length)`."""

EXPECTED = (
    "`negatives` should hold a list of texts for each pair, [] where there are none, or tokens of "
    "shape (n, k, length)."
)


def check_negatives(
    data: object, documents: Sequence[str] | TokenBatch, size: int, least: int = 1
) -> Negatives:
    """The column "negatives" of pairs of any form.

    Args:
        data: The pairs, as `cptk.data.columns.as_columns` takes them.
        documents: The positives, as checked.
        size: Number of pairs.
        least: Negatives that there should be, in all: a batch may have none.

    Raises:
        ValueError: No such column, one of another length or of other things than texts, no negative
            at all, or one that is its pair's own document.
    """
    values = column(data, "negatives")
    if values is None:
        raise ValueError(
            "The pairs have no column 'negatives', which the loss reads: a list of texts for each "
            "pair. Mine some, or choose another loss."
        )
    if isinstance(values, Mapping):
        return _check_tokens(values, size)
    rows = checks.items(values, "negatives", "lists of texts")
    if len(rows) != size:
        raise ValueError(f"{EXPECTED} Received: {len(rows)} for {size} pairs.")
    found: list[list[str]] = []
    for index, row in enumerate(rows):
        if row is None or isinstance(row, str | bytes | Mapping):
            raise ValueError(f"{EXPECTED} Item {index} is {checks.shown(row)}.")
        texts = list(row)
        found.append(checks.texts(texts, f"negatives of pair {index}") if texts else [])
    if sum(map(len, found)) < least:
        raise ValueError(
            "`negatives` holds no text at all. Leave the column out, or take a loss that does not "
            "read it: cptk.losses.InfoNCE(hard_negatives=None)."
        )
    for index, (texts, document) in enumerate(zip(found, documents, strict=False)):
        if isinstance(document, str) and document in texts:
            raise ValueError(
                f"Pair {index} has its own document among its negatives: "
                f"{checks.shown(document)}. Take it out there."
            )
    return found


def _check_tokens(tokens: Mapping[str, Any], size: int) -> TokenBatch:
    if set(tokens) != {"token_ids", "padding_mask"}:
        raise ValueError(f"{EXPECTED} Received: {checks.shown(sorted(map(str, tokens)))}.")
    arrays = {name: np.asarray(values) for name, values in tokens.items()}
    shapes = [array.shape for array in arrays.values()]
    if len(set(shapes)) != 1 or len(shapes[0]) != 3 or shapes[0][0] != size:
        raise ValueError(f"{EXPECTED} Received: {shapes} for {size} pairs.")
    mask = arrays["padding_mask"].astype(bool)
    return TokenBatch(token_ids=arrays["token_ids"].astype(np.int32), padding_mask=mask)


def width(negatives: Negatives) -> int:
    """The most that a pair has, and 1 where none has any."""
    if isinstance(negatives, Mapping):
        return int(negatives["token_ids"].shape[1])
    return max(1, *map(len, negatives))


def negative_tokens(
    negatives: Negatives,
    rows: Sequence[int],
    count: int,
    tokenize: Callable[[Sequence[str]], TokenBatch],
) -> TokenBatch:
    """Tokens `(len(rows), count, length)` of the negatives of some pairs.

    Where a pair has fewer than `count`, there are rows without a token.
    """
    if isinstance(negatives, Mapping):
        taken = np.asarray(rows)
        return TokenBatch(
            token_ids=negatives["token_ids"][taken], padding_mask=negatives["padding_mask"][taken]
        )
    texts = [text for row in rows for text in negatives[row]]
    places = [place for place, row in enumerate(rows) for _ in negatives[row]]
    within = [index for row in rows for index in range(len(negatives[row]))]
    # A batch without any is as long as the shortest bucket: the rows hold no token.
    tokens = tokenize(texts) if texts else None
    length = 16 if tokens is None else tokens["token_ids"].shape[1]
    token_ids = np.zeros((len(rows), count, length), np.int32)
    mask = np.zeros(token_ids.shape, bool)
    if tokens is not None:
        token_ids[places, within] = tokens["token_ids"]
        mask[places, within] = tokens["padding_mask"]
    return TokenBatch(token_ids=token_ids, padding_mask=mask)
