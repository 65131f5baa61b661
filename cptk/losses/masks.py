"""Masks of known false negatives: entries that would punish a right answer."""

from __future__ import annotations

from keras import ops

from cptk.ops import as_tensor, dimension, off_diagonal, static_shape
from cptk.types import Tensor, TensorLike

LEFT_OUT = -1e30
"""A logit whose exponential is 0, and which is no infinity: that less itself would be NaN."""

TIE = 1e-6
"""Cosines that rounding alone may tell apart."""

_MIX = -1640531535
"""2**32 divided by the golden ratio, odd, as a signed integer of 32 bits (Knuth)."""


def same_text_mask(query_ids: TensorLike, document_ids: TensorLike) -> Tensor:
    """Marks the entries of a batch that repeat a positive pair's own text.

    With x_i, y_i the pair i, entry (i, j) is a false negative if the batch holds

        y_j = y_i  (the same document again: query i has it as its positive), or
        x_j = x_i  (the same query again, so that y_j answers query i too; j < n)

    and i != j. Queries are compared with queries and documents with documents, never
    across: the two sides may number or delimit their texts differently.

    Args:
        query_ids: (n,) integers, equal where the texts are; or (n, length) token ids,
            padded alike on every row. If the padding id is also a real token (GPT-2's 0
            is), pad with -1 here, or "a" and "a!" might count as equal.
        document_ids: (m,) or (m, other length), m >= n.

    Returns:
        (n, m) boolean, True at false negatives and False on the diagonal: the `mask` of
        `cptk.losses.info_nce` and `symmetric_info_nce`.

    Raises:
        ValueError: if a rank is neither 1 nor 2, or m < n.

    Example:

    ```pycon
    >>> import cptk
    >>> mask = cptk.losses.same_text_mask([7, 8, 7], [1, 2, 2, 1])
    >>> [[int(x) for x in row] for row in mask]
    [[0, 0, 1, 1], [0, 0, 1, 0], [1, 1, 0, 0]]

    ```

    References:
        Ours: the paper leaves duplicates in its batches as negatives.
    """
    query_ids, document_ids = as_tensor(query_ids), as_tensor(document_ids)
    query_shape, document_shape = static_shape(query_ids), static_shape(document_ids)
    for name, shape in (("query_ids", query_shape), ("document_ids", document_shape)):
        if len(shape) not in (1, 2):
            raise ValueError(
                f"same_text_mask expects `{name}` of shape (batch,) (one number per text) or "
                f"(batch, length) (token ids). Received: {name}.shape={shape}."
            )
    n, m = query_shape[0], document_shape[0]
    if n is not None and m is not None and m < n:
        raise ValueError(
            "same_text_mask expects at least as many documents as queries: document i is the "
            f"positive of query i. Received: query_ids.shape={query_shape}, "
            f"document_ids.shape={document_shape}."
        )
    rows, columns = dimension(query_ids, 0), dimension(document_ids, 0)
    if len(query_shape) == 2:
        query_ids = text_ids(query_ids)
    if len(document_shape) == 2:
        document_ids = text_ids(document_ids)
    same_document = equal_ids(document_ids[:rows], document_ids)
    same_query = ops.pad(equal_ids(query_ids, query_ids), [[0, 0], [0, columns - rows]])
    return ops.logical_and(ops.logical_or(same_document, same_query), off_diagonal(rows, columns))


def text_ids(tokens: TensorLike) -> Tensor:
    """Numbers texts, so that two have one number where all their tokens are equal.

    Texts are sorted by a hash of 32 bits, and neighbours are compared token by token: two texts
    of one number are equal without fail. (Equal ones could get two numbers if a third text of
    the same hash stood between them; with 12,288 texts that is one batch in many thousands.)

    Args:
        tokens: (n, length) integers, padded alike on every row, with -1 say if the padding id is
            also a real token.

    Returns:
        (n,) int32, for `same_text_mask` and the tiled losses.

    Example:

    ```pycon
    >>> import cptk
    >>> first, second, third = cptk.losses.text_ids([[5, 7], [5, 8], [5, 7]])
    >>> bool(first == third), bool(first == second)
    (True, False)

    ```
    """
    tokens = ops.cast(as_tensor(tokens), "int32")
    # One odd number a position, mixed so that no simple relation holds between them.
    factors = ops.arange(1, dimension(tokens, 1) + 1, dtype="int32") * _MIX
    factors = ops.bitwise_xor(factors, ops.right_shift(factors, 15)) * _MIX
    hashes = ops.sum(ops.multiply(tokens, ops.bitwise_or(factors, 1)), axis=1)
    order = ops.argsort(hashes)
    ordered = ops.take(tokens, order, axis=0)
    differ = ops.any(ops.not_equal(ordered[1:], ordered[:-1]), axis=1)
    numbers = ops.pad(ops.cumsum(ops.cast(differ, "int32")), [[1, 0]])
    return ops.take(numbers, ops.argsort(order), axis=0)


def equal_ids(first: Tensor, second: Tensor) -> Tensor:
    """(n,) and (m,) -> (n, m), True where the numbers are equal."""
    return ops.equal(ops.expand_dims(first, 1), ops.expand_dims(second, 0))
