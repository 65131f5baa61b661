"""Exact nearest neighbours by cosine or dot product, in blocks, in NumPy."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cptk import checks

Floats = NDArray[np.float32]
Integers = NDArray[np.int64]

# How many rows are normalised or checked at a time, and how many floats are gathered at a time to
# score single pairs: both bound the memory.
ROWS_AT_A_TIME = 8192
FLOATS_GATHERED = 1 << 20


def top_k(
    queries: ArrayLike,
    documents: ArrayLike,
    k: int,
    *,
    metric: Literal["cosine", "dot"] = "cosine",
    block_size: int = 2048,
) -> tuple[Floats, Integers]:
    """The k best documents of each query, exactly, whatever the sizes.

    `s(q, d) = <q, d>`, of vectors divided by their lengths for the cosine; a vector of zeros has
    cosine 0 with all. Documents are ordered by descending `s`, and of equal `s` the lower index
    comes first. `s` is the float32 dot product of the two vectors alone (`np.vecdot`): it depends
    on nothing else, so the result is the same at every block size and in every order of the work.

    Scores are multiplied a block of queries by a block of documents at a time, and only those that
    reach the query's k-th best so far are kept. A matrix product rounds differently from
    `np.vecdot`, by at most `2 * d * 2^-24 * |q| * |d|`; what lies within that of the k-th best
    is kept as well, so that nothing is lost. Memory beside the inputs and outputs is one unit copy
    of the documents (for the cosine) and, for each thread, blocks of about
    `16 * block_size * (block_size + k)` bytes. The threads are as many as NumPy's BLAS has.

    Args:
        queries: (n, d) vectors.
        documents: (m, d) vectors.
        k: How many documents to find for each query, 1 to m.
        metric: `"cosine"` or `"dot"`.
        block_size: Queries, and documents, multiplied at a time.

    Returns:
        Scores (n, k) float32, descending, and the documents' indices (n, k) int64.

    Raises:
        ValueError: If shapes do not fit, a value is not finite, `k` is not from 1 to m, or the
            metric is unknown.

    Example:

    ```pycon
    >>> from cptk.search import top_k
    >>> documents = [[0.0, 1.0], [2.0, 0.1], [1.0, 0.0]]
    >>> scores, indices = top_k([[1.0, 0.0]], documents, k=2)
    >>> indices.tolist()
    [[2, 1]]
    >>> top_k([[1.0, 0.0]], documents, k=2, metric="dot")[1].tolist()  # the longer one first
    [[1, 2]]

    ```

    The bound on rounding is Higham's (Accuracy and Stability of Numerical Algorithms, 2002,
    section 3.1). The selection by a threshold and the second scoring are ours.
    """
    query_matrix, document_matrix = _matrix(queries, "queries"), _matrix(documents, "documents")
    if query_matrix.shape[1] != document_matrix.shape[1]:
        raise ValueError(
            "`queries` and `documents` must have vectors of one size. Received shapes: "
            f"{query_matrix.shape} and {document_matrix.shape}."
        )
    k = checks.integer("k", k, 1)
    if k > len(document_matrix):
        raise ValueError(
            f"`k` must be at most the number of documents, {len(document_matrix)}. Received: {k}."
        )
    if metric not in ("cosine", "dot"):
        raise ValueError(f"`metric` must be 'cosine' or 'dot'. Received: {metric!r}.")
    size = checks.integer("block_size", block_size, 1)
    cosine = metric == "cosine"
    collection = Collection.of(_unit_in_blocks(document_matrix) if cosine else document_matrix)
    return nearest(query_matrix, collection, k, (size, size), cosine=cosine)


def nearest(
    queries: Floats,
    collection: Collection,
    k: int,
    sizes: tuple[int, int],
    *,
    rows: Integers | None = None,
    cosine: bool = False,
) -> tuple[Floats, Integers]:
    """What `top_k` gives, of arrays that are checked.

    Args:
        queries: (n, d).
        collection: The documents.
        k: From 1 to the number of documents.
        sizes: Queries, and documents, multiplied at a time.
        rows: Indices of the documents that may be found, ascending, at least k; None for all.
        cosine: Whether to make unit vectors of the queries.
    """
    scores = np.empty((len(queries), k), np.float32)
    indices = np.empty((len(queries), k), np.int64)

    def search(start: int) -> None:
        part = slice(start, start + sizes[0])
        block = unit_rows(queries[part]) if cosine else queries[part]
        scores[part], indices[part] = _search_block(block, collection, k, sizes[1], rows)

    starts = range(0, len(queries), sizes[0])
    if len(starts) == 1:
        search(0)
    else:
        with _one_blas_thread() as threads, ThreadPoolExecutor(threads) as pool:
            for _ in pool.map(search, starts):
                pass
    return scores, indices


def unit_rows(vectors: ArrayLike) -> Floats:
    """Rows divided by their length; a row of zeros stays zero."""
    lengths = np.linalg.norm(np.asarray(vectors, dtype=np.float64), axis=1, keepdims=True)
    return np.asarray(np.asarray(vectors) / np.where(lengths == 0, 1.0, lengths), dtype=np.float32)


class Collection(NamedTuple):
    """Documents, and what bounds the rounding of a product with them."""

    vectors: Floats
    longest: float
    nonzeros: int

    @classmethod
    def of(cls, vectors: Floats) -> Collection:
        extents = [_extent(vectors[i : i + ROWS_AT_A_TIME]) for i in _block_starts(vectors)]
        return cls(vectors, max(e[0] for e in extents), max(e[1] for e in extents))


class _Candidates(NamedTuple):
    """Candidates of a block of queries: the first `filled[i]` columns of row i."""

    scores: Floats
    indices: Integers
    filled: Integers


def _search_block(
    queries: Floats, collection: Collection, k: int, size: int, rows: Integers | None
) -> tuple[Floats, Integers]:
    documents, count = collection.vectors, len(queries)
    total = len(documents) if rows is None else len(rows)
    size = min(size, total)
    margin = _margin(queries, collection)
    width = k + size  # `_drop_hopeless` leaves k or fewer, so that a whole block always fits beside
    found = _Candidates(
        np.full((count, width), -np.inf, np.float32),
        np.empty((count, width), np.int64),
        np.zeros(count, np.int64),
    )
    threshold = np.full(count, -np.inf, np.float32)
    products, passed = np.empty(count * size, np.float32), np.empty(count * size, np.bool_)
    for start in range(0, total, size):
        part = slice(start, start + size)
        block = documents[part] if rows is None else documents[rows[part]]
        shape = (count, len(block))
        scores = products[: count * len(block)].reshape(shape)
        mask = passed[: count * len(block)].reshape(shape)
        np.matmul(queries, block.T, out=scores)
        if start == 0 and len(block) > 4 * k:
            threshold = _lower_bound(np.partition(scores, -k, axis=1)[:, -k], margin)
        np.greater_equal(scores, threshold[:, None], out=mask)
        places, of_query, arrived = _true_places(mask)
        crowded = (found.filled + arrived).max() > width
        if crowded or found.filled.sum() > 3 * k * count:
            least = _drop_hopeless(found, queries, documents, k, margin, arrived)
            threshold = np.maximum(threshold, least)
            np.greater_equal(scores, threshold[:, None], out=mask)
            places, of_query, arrived = _true_places(mask)
        indices = places - of_query * len(block) + start
        indices = indices if rows is None else rows[indices]
        _append(found, scores.reshape(-1)[places], indices, arrived)
    _drop_hopeless(found, queries, documents, k, margin, np.zeros(count, np.int64))
    _rescore_exactly(found, np.arange(count), queries, documents, k)
    return found.scores[:, :k], found.indices[:, :k]


def _drop_hopeless(
    found: _Candidates,
    queries: Floats,
    documents: Floats,
    k: int,
    margin: NDArray[np.float64],
    arriving: Integers,
) -> Floats:
    """Drop candidates that cannot be among the k best any more.

    Returns:
        For each query the score below which a document need not be looked at.
    """
    top = found.filled.max()
    threshold = np.full(len(queries), -np.inf, np.float32)
    if top <= k:
        return threshold
    best = np.partition(found.scores[:, :top], top - k, axis=1)[:, top - k]
    threshold = _lower_bound(best, margin)
    keep = found.scores[:, :top] >= threshold[:, None]
    keep &= np.arange(top) < found.filled[:, None]
    kept = _true_places(keep)[2]
    scores, indices = found.scores[:, :top][keep], found.indices[:, :top][keep]
    found.scores[:, :top] = -np.inf
    found.filled[:] = 0
    _append(found, scores, indices, kept)
    # Many documents alike lie within the margin, more than there is room for.
    full = np.flatnonzero(kept + arriving > found.scores.shape[1])
    if len(full):
        _rescore_exactly(found, full, queries, documents, k)
    return threshold


def _rescore_exactly(
    found: _Candidates, rows: Integers, queries: Floats, documents: Floats, k: int
) -> None:
    """Score the candidates of these rows again, each pair alone, and keep the k best in order."""
    top = found.filled[rows].max()
    step = max(1, FLOATS_GATHERED // (top * documents.shape[1]))
    for i in range(0, len(rows), step):
        part = rows[i : i + step]
        empty = np.arange(top) >= found.filled[part, None]
        indices = np.where(empty, len(documents), found.indices[part, :top])
        gathered = np.take(documents, indices, axis=0, mode="clip")
        scores = np.vecdot(gathered, queries[part, None, :])
        scores[empty] = -np.inf
        order = in_order(scores, indices)[:, :k]
        found.scores[part] = -np.inf
        found.scores[part, : order.shape[1]] = np.take_along_axis(scores, order, axis=1)
        found.indices[part, : order.shape[1]] = np.take_along_axis(indices, order, axis=1)
        found.filled[part] = np.minimum(found.filled[part], k)


def _true_places(mask: NDArray[np.bool_]) -> tuple[Integers, Integers, Integers]:
    """Flat indices of what is true, the row of each, and how many there are in each row."""
    places = np.flatnonzero(mask)
    counts = np.diff(np.searchsorted(places, np.arange(len(mask) + 1) * mask.shape[1]))
    return places, np.repeat(np.arange(len(mask)), counts), counts


def _append(found: _Candidates, scores: Floats, indices: Integers, counts: Integers) -> None:
    """Add to each row its `counts` next candidates."""
    width = found.scores.shape[1]
    first = np.arange(len(counts)) * width + found.filled - (np.cumsum(counts) - counts)
    places = np.arange(len(scores)) + np.repeat(first, counts)
    found.scores.reshape(-1)[places] = scores
    found.indices.reshape(-1)[places] = indices
    found.filled[:] += counts


def in_order(scores: Floats, indices: Integers) -> Integers:
    """The order of each row by score, of equal ones by index."""
    order = np.argsort(-scores, axis=1)
    ordered = np.take_along_axis(scores, order, axis=1)
    tied = np.flatnonzero((ordered[:, 1:] == ordered[:, :-1]).any(axis=1))
    order[tied] = np.lexsort((indices[tied], -scores[tied]), axis=1)
    return order


def _margin(queries: Floats, collection: Collection) -> NDArray[np.float64]:
    """How far a matrix product may lie from the dot product of the same pair, by query.

    Each is off by at most `gamma |q| |d|`, `gamma = n u / (1 - n u)`, of the n products that are
    not zero; the second term is for what is lost below the smallest float32.
    """
    longest, nonzeros = _extent(queries)
    if longest * collection.longest > float(np.finfo(np.float32).max):
        raise ValueError(
            "The scores must fit into float32. Received vectors of length up to "
            f"{longest:.3g} and {collection.longest:.3g}; scale them, or take metric='cosine'."
        )
    terms = min(nonzeros, collection.nonzeros) + 2
    gamma = terms * 2.0**-24 / (1 - terms * 2.0**-24)
    lengths = np.linalg.norm(queries.astype(np.float64), axis=1)
    return np.asarray(2 * (gamma * lengths * collection.longest + terms * 2.0**-149))


def _lower_bound(best: Floats, margin: NDArray[np.float64]) -> Floats:
    """The least product that a document among the k best may have; `best` is that of the k-th."""
    # The margin counts twice: the k-th best may in truth score less, the document may score more.
    # The bound is then rounded down to a float32.
    lowered = (best - 2 * margin).astype(np.float32)
    return np.nextafter(lowered, np.float32(-np.inf))


def _extent(vectors: Floats) -> tuple[float, int]:
    lengths = np.linalg.norm(vectors.astype(np.float64), axis=1)
    return float(lengths.max()), int(np.count_nonzero(vectors, axis=1).max())


def _unit_in_blocks(vectors: Floats) -> Floats:
    unit = np.empty_like(vectors)
    for i in _block_starts(vectors):
        unit[i : i + ROWS_AT_A_TIME] = unit_rows(vectors[i : i + ROWS_AT_A_TIME])
    return unit


def _block_starts(vectors: Floats) -> range:
    return range(0, len(vectors), ROWS_AT_A_TIME)


@contextlib.contextmanager
def _one_blas_thread() -> Iterator[int]:
    """Each matrix product in one thread; gives the number of threads that products had before."""
    import threadpoolctl

    pools = [pool for pool in threadpoolctl.threadpool_info() if pool["user_api"] == "blas"]
    with threadpoolctl.threadpool_limits(1, user_api="blas"):
        yield max((pool["num_threads"] for pool in pools), default=1)


def _matrix(values: ArrayLike, name: str) -> Floats:
    given = np.asarray(values)
    if given.ndim != 2 or not given.size or given.dtype.kind not in "fiu":
        raise ValueError(
            f"`{name}` must be a non-empty array of numbers of shape (number, size). "
            f"Received: shape={given.shape}, dtype={given.dtype}."
        )
    with np.errstate(over="ignore"):
        matrix = np.ascontiguousarray(given, dtype=np.float32)
    if not all(np.isfinite(matrix[i : i + ROWS_AT_A_TIME]).all() for i in _block_starts(matrix)):
        raise ValueError(
            f"`{name}` must be finite in float32. Received NaN or infinity among its values."
        )
    return matrix
