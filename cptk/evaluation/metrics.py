"""Metrics over vectors, ranks, labels and scores, in NumPy alone.

Those over rankings with judgements (nDCG, MAP and their like) are in `ranking.py`.
"""

from typing import Any

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
    ```python
    ranks = retrieval_ranks([[1.0, 0.0], [0.0, 1.0]], [[0.9, 0.1], [0.8, 0.2]])
    ranks.tolist()  # [1, 1]
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
    # Equal vectors share a column: a matrix product may give two equal columns different last bits,
    # and a tie would be decided by that.
    document_matrix, column, copies = _distinct_rows(document_matrix)
    targets = column[targets]
    ranks = np.empty(len(query_matrix), np.int64)
    for start in range(0, len(query_matrix), block_size):
        rows = slice(start, start + block_size)
        scores = query_matrix[rows] @ document_matrix.T
        # The threshold is read from the same product: computed apart, it could differ in its last
        # bit and lose the document its own place.
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
    ```python
    mrr([1, 2, 4])  # (1 + 1/2 + 1/4) / 3
    ```
    """
    checked = _ranks(ranks)
    found = np.ones(checked.shape, bool) if k is None else checked <= _cutoff(k)
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
    ```python
    recall_at_k([1, 2, 40], k=10)  # 2 / 3
    ```
    """
    return float(np.mean(_ranks(ranks) <= _cutoff(k)))


def pearson(x: ArrayLike, y: ArrayLike) -> float:
    """Pearson's correlation of two lists of scores.

    `r = sum((x - mean x)(y - mean y)) / (|x - mean x| |y - mean y|)`

    A list of which all values are equal has no correlation with anything: NaN, as SciPy gives.

    Args:
        x: (n,) scores, at least two.
        y: (n,) scores.

    Returns:
        A float between -1 and 1, or NaN.

    Raises:
        ValueError: if the shapes differ, there are fewer than two, or a score is not finite.

    Example:
    ```python
    pearson([1.0, 2.0, 3.0], [2.0, 4.0, 6.0])  # 1.0
    ```
    """
    return _correlation(*_pair(x, y))


def spearman(x: ArrayLike, y: ArrayLike) -> float:
    """Spearman's rank correlation: Pearson's of the ranks, equal scores sharing their mean rank.

    A list of which all values are equal has no correlation with anything: NaN, as SciPy gives.
    Arguments, result and errors are those of `pearson`.

    Example:
    ```python
    spearman([1.0, 2.0, 3.0], [1.0, 10.0, 100.0])  # 1.0
    ```
    """
    first, second = _pair(x, y)
    return _correlation(_average_ranks(first), _average_ranks(second))


def accuracy(gold: ArrayLike, predicted: ArrayLike) -> float:
    """Share of the predictions that equal the gold label.

    Args:
        gold: (n,) labels, numbers or strings.
        predicted: (n,) labels.

    Returns:
        A float between 0 and 1.

    Raises:
        ValueError: if the shapes differ or there is no label.

    Example:
    ```python
    accuracy([0, 1, 1, 0], [0, 1, 0, 0])  # 0.75
    ```
    """
    return float(np.mean(np.equal(*_labels(gold, predicted))))


def f1(gold: ArrayLike, predicted: ArrayLike, positive: Any = 1) -> float:
    """Harmonic mean of precision and recall of one class: `2 tp / (2 tp + fp + fn)`.

    0 where the class is neither in `gold` nor in `predicted`, as scikit-learn has it.

    Args:
        gold: (n,) labels, numbers or strings.
        predicted: (n,) labels.
        positive: the class that counts as found.

    Returns:
        A float between 0 and 1.

    Raises:
        ValueError: if the shapes differ or there is no label.

    Example:
    ```python
    f1([0, 1, 1, 0], [0, 1, 0, 0])  # 2 / 3
    ```
    """
    is_gold, is_predicted = (labels == positive for labels in _labels(gold, predicted))
    found = 2 * int(np.sum(is_gold & is_predicted))
    return found / max(int(np.sum(is_gold)) + int(np.sum(is_predicted)), 1)


def _correlation(x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    if (x == x[0]).all() or (y == y[0]).all():
        return float("nan")
    x, y = (v - v.mean() for v in (x, y))
    x, y = (v / np.abs(v).max() for v in (x, y))  # no square overflows or vanishes
    return float(np.clip((x / np.linalg.norm(x)) @ (y / np.linalg.norm(y)), -1.0, 1.0))


def _average_ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    return np.asarray(np.cumsum(counts) - (counts - 1) / 2)[inverse]


def _pair(x: ArrayLike, y: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    first, second = np.asarray(x), np.asarray(y)
    kinds = first.dtype.kind + second.dtype.kind
    if first.ndim != 1 or first.shape != second.shape or first.size < 2 or set(kinds) - set("fiub"):
        raise ValueError(
            "A correlation needs two flat lists of numbers of one length, at least two each. "
            f"Received: {first.shape}, {first.dtype} and {second.shape}, {second.dtype}."
        )
    if not (np.isfinite(first).all() and np.isfinite(second).all()):
        raise ValueError("Scores must be finite. Received NaN or infinity among them.")
    return first.astype(np.float64), second.astype(np.float64)


def _labels(gold: Any, predicted: Any) -> tuple[NDArray[Any], NDArray[Any]]:
    first, second = (
        np.asarray(each if isinstance(each, np.ndarray) else checks.items(each, name, "labels"))
        for each, name in ((gold, "gold"), (predicted, "predicted"))
    )
    if first.ndim != 1 or first.shape != second.shape or not first.size:
        raise ValueError(
            "`gold` and `predicted` must be flat lists of labels of one length, not empty. "
            f"Received shapes: {first.shape} and {second.shape}."
        )
    texts = [labels.dtype.kind in "US" for labels in (first, second)]
    if texts[0] != texts[1]:
        raise ValueError(
            "`gold` and `predicted` must be labels of one kind. Received: "
            f"{first.dtype} and {second.dtype}; are they coded alike?"
        )
    if any(labels.dtype.kind == "f" and np.isnan(labels).any() for labels in (first, second)):
        raise ValueError("`gold` and `predicted` must be labels. Received NaN among them.")
    return first, second


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


def _cutoff(k: int) -> int:
    return checks.integer("k", k, 1)
