"""The rank of one relevant document for each query, and what is made of ranks.

For rankings with judgements of many documents (nDCG, MAP and their like) see `trec_eval.py`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cptk import checks


def retrieval_ranks(
    queries: ArrayLike,
    documents: ArrayLike,
    relevant: ArrayLike | None = None,
    *,
    block_size: int = 1024,
) -> NDArray[np.int64]:
    """Rank, from 1, of each query's relevant document among all documents by dot product.

    `rank(i) = #{j : <q_i, d_j> >= <q_i, d_r(i)>}`, the relevant document `r(i)` itself included.
    A document that ties with the relevant one is counted as ranked before it: an embedder that
    gives all texts the same vector gets the worst rank, not the best.

    The scores are computed a block of queries at a time, so that memory is
    `block_size * num_documents` and not the square.

    Args:
        queries: (n, d) vectors; of unit length where the score is to be the cosine.
        documents: (m, d) vectors.
        relevant: (n,) index of each query's relevant document; the query's own index if `None`.
        block_size: number of queries scored at a time.

    Returns:
        (n,) int64 ranks from 1 to m.

    Raises:
        ValueError: if shapes do not fit, a vector is not finite, or an index is out of range.

    Example:

    ```pycon
    >>> from cptk.evaluation import retrieval_ranks
    >>> queries, documents = [[1.0, 0.0], [0.0, 1.0]], [[0.9, 0.1], [0.8, 0.2]]
    >>> retrieval_ranks(queries, documents).tolist()
    [1, 1]
    >>> retrieval_ranks(queries, documents, relevant=[0, 0]).tolist()
    [1, 2]

    ```
    """
    query_matrix, document_matrix = _matrix(queries, "queries"), _matrix(documents, "documents")
    if query_matrix.shape[1] != document_matrix.shape[1]:
        raise ValueError(
            "`queries` and `documents` must have vectors of one size. Received shapes: "
            f"{query_matrix.shape} and {document_matrix.shape}."
        )
    block_size = checks.integer("block_size", block_size, 1)
    targets = _targets(relevant, len(query_matrix), len(document_matrix))
    # Equal vectors share a column. In two columns a matrix product may give them different last
    # bits, and those would decide the tie.
    document_matrix, column, copies = _distinct_rows(document_matrix)
    targets = column[targets]
    ranks = np.empty(len(query_matrix), np.int64)
    for start in range(0, len(query_matrix), block_size):
        rows = slice(start, start + block_size)
        scores = query_matrix[rows] @ document_matrix.T
        # The threshold is read from the same product. Computed apart, it could differ in the last
        # bit, and the relevant document would not reach its own threshold.
        threshold = np.take_along_axis(scores, targets[rows, None], axis=1)
        ranks[rows] = (scores >= threshold) @ copies
    return ranks


def mrr(ranks: ArrayLike, k: int | None = None) -> float:
    """Mean reciprocal rank: `mean(1 / rank)`; with `k`, a rank beyond `k` counts as zero (MRR@k).

    Args:
        ranks: (n,) ranks from 1.
        k: cut-off, or `None` for all ranks.

    Returns:
        A float between 0 and 1.

    Raises:
        ValueError: if `ranks` is empty or holds anything but whole numbers from 1, or `k` < 1.

    Example:

    ```pycon
    >>> from cptk.evaluation import mrr
    >>> round(mrr([1, 2, 4]), 4)  # (1 + 1/2 + 1/4) / 3
    0.5833
    >>> mrr([1, 2, 4], k=2)  # (1 + 1/2 + 0) / 3
    0.5

    ```
    """
    checked = _ranks(ranks)
    found = np.ones(checked.shape, bool) if k is None else checked <= cutoff(k)
    return float(np.mean(found / checked))


def recall_at_k(ranks: ArrayLike, k: int) -> float:
    """Share of the queries of which the relevant document is among the first `k`.

    Args:
        ranks: (n,) ranks from 1.
        k: cut-off.

    Returns:
        A float between 0 and 1.

    Raises:
        ValueError: if `ranks` is empty or holds anything but whole numbers from 1, or `k` < 1.

    Example:

    ```pycon
    >>> from cptk.evaluation import recall_at_k
    >>> round(recall_at_k([1, 2, 40], k=10), 4)  # two of three
    0.6667

    ```
    """
    return float(np.mean(_ranks(ranks) <= cutoff(k)))


def _distinct_rows(
    matrix: NDArray[np.floating],
) -> tuple[NDArray[np.floating], NDArray[np.int64], NDArray[np.int64]]:
    """The distinct rows, the number of the one that each row equals, and how often each occurs."""
    first: dict[bytes, int] = {}
    column = np.array([first.setdefault((row + 0.0).tobytes(), len(first)) for row in matrix])
    copies = np.bincount(column)
    if len(first) < len(matrix):
        matrix = matrix[np.unique(column, return_index=True)[1]]
    return matrix, column, copies


def _matrix(values: ArrayLike, name: str) -> NDArray[np.floating]:
    matrix = np.asarray(values)
    if matrix.ndim != 2 or not matrix.size or matrix.dtype.kind not in "fiub":
        raise ValueError(
            f"`{name}` must be a non-empty array of numbers of shape (number, size). "
            f"Received: shape={matrix.shape}, dtype={matrix.dtype}."
        )
    if matrix.dtype not in (np.float32, np.float64):
        matrix = matrix.astype(np.float32 if matrix.dtype == np.float16 else np.float64)
    if not np.isfinite(matrix).all():
        raise ValueError(f"`{name}` must be finite. Received NaN or infinity among its values.")
    return matrix


def _targets(relevant: ArrayLike | None, queries: int, documents: int) -> NDArray[np.int64]:
    if relevant is None:
        if queries > documents:
            raise ValueError(
                "Without `relevant`, query i belongs to document i, so there must be at least as "
                f"many documents as queries. Received: {queries} queries, {documents} documents."
            )
        return np.arange(queries)
    targets = np.asarray(relevant)
    if targets.shape != (queries,) or targets.dtype.kind not in "iu":
        raise ValueError(
            f"`relevant` must hold one whole number for each of the {queries} queries. "
            f"Received: shape={targets.shape}, dtype={targets.dtype}."
        )
    if targets.min() < 0 or targets.max() >= documents:
        raise ValueError(
            f"`relevant` must hold indices of documents, 0 to {documents - 1}. "
            f"Received values from {targets.min()} to {targets.max()}."
        )
    return targets.astype(np.int64)


def _ranks(ranks: ArrayLike) -> NDArray[np.int64]:
    checked = np.asarray(ranks)
    if checked.ndim != 1 or not checked.size or checked.dtype.kind not in "iu" or checked.min() < 1:
        raise ValueError(
            "`ranks` must be a non-empty, flat array of whole numbers from 1. "
            f"Received: {checks.shown(ranks)}."
        )
    return checked.astype(np.int64)


def cutoff(k: int) -> int:
    """`k`, checked: how many of the first documents count."""
    return checks.integer("k", k, 1)
