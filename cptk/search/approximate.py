"""Nearest neighbours by an index of FAISS's."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np

from cptk import optional
from cptk.search.exact import FLOATS_GATHERED, Floats, Integers, in_order

Search: TypeAlias = Callable[[Floats, int], tuple[Floats, Integers]]
"""`search(queries, k)` -> scores and indices of the best documents, (n, k) each."""


def faiss_search(documents: Floats, factory: str) -> Search:
    """A search by dot product in an index of FAISS's, for more documents than `top_k` has time for.

    What the index finds is scored anew, each pair alone, as `top_k` does: scores and order are
    exact, and only which documents are found is the index's choice. `"Flat"` finds the same as
    `top_k`, but for documents of equal score at the k-th place, in about the same time
    (docs, Benchmarks).

    Args:
        documents: (m, d) float32 vectors.
        factory: What `faiss.index_factory` takes: `"Flat"`, `"HNSW32"`, `"IVF4096,Flat"`, ….

    Returns:
        A function of queries (n, d) and k. Where the index finds fewer than k, the rest is `-inf`
        and -1.

    Raises:
        ImportError: FAISS is not installed.
        ValueError: FAISS does not know the index, or cannot train it on these documents.

    References:
        - Douze et al. 2024, The Faiss library, arXiv:2401.08281.
    """
    faiss = optional.load("faiss", "An index of FAISS's", "faiss-cpu", "faiss")
    try:
        index = faiss.index_factory(documents.shape[1], factory, faiss.METRIC_INNER_PRODUCT)
        if not index.is_trained:
            index.train(documents)
        index.add(documents)
    except RuntimeError as error:
        fault = str(error).rpartition("Error: ")[2] or str(error)
        raise ValueError(
            f"FAISS makes no index {factory!r} of {documents.shape[0]:,} vectors of "
            f"{documents.shape[1]} numbers: {' '.join(fault.split())}"
        ) from None

    def search(queries: Floats, k: int) -> tuple[Floats, Integers]:
        indices = np.asarray(index.search(queries, k)[1], np.int64)
        scores = np.empty(indices.shape, np.float32)
        step = max(1, FLOATS_GATHERED // (k * documents.shape[1]))
        for start in range(0, len(queries), step):
            rows = slice(start, start + step)
            gathered = np.take(documents, indices[rows], axis=0, mode="clip")
            scores[rows] = np.vecdot(gathered, queries[rows, None, :])
        scores[indices < 0] = -np.inf
        order = in_order(scores, indices)
        return np.take_along_axis(scores, order, 1), np.take_along_axis(indices, order, 1)

    return search
