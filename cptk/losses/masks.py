"""Masks of known false negatives: entries that would punish a right answer."""

from __future__ import annotations

from keras import ops

from cptk.ops import as_tensor, dimension, off_diagonal, static_shape
from cptk.types import Tensor, TensorLike


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
        `cptk.losses.info_nce` and `symmetric_info_nce`. Token rows take length steps over
        (n, m) booleans; group ids are cheaper, take them where batches are large.

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
    same_document = equal_texts(document_ids[:rows], document_ids)
    same_query = ops.pad(equal_texts(query_ids, query_ids), [[0, 0], [0, columns - rows]])
    return ops.logical_and(ops.logical_or(same_document, same_query), off_diagonal(rows, columns))


def equal_texts(first: Tensor, second: Tensor) -> Tensor:
    """(n,) and (m,), or (n, length) and (m, length) -> (n, m), True where all is equal."""
    if len(first.shape) == 1:
        return ops.equal(ops.expand_dims(first, 1), ops.expand_dims(second, 0))
    first, second = ops.transpose(first), ops.transpose(second)

    def compare_position(position: Tensor, equal: Tensor) -> Tensor:
        return ops.logical_and(equal, equal_texts(first[position], second[position]))

    # One position at a time: the broadcast comparison would hold n * m * length booleans.
    all_equal = ops.ones((dimension(first, 1), dimension(second, 1)), dtype="bool")
    return ops.fori_loop(0, dimension(first, 0), compare_position, all_equal)
