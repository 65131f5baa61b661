"""Nearest neighbours by an index of FAISS's."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from cptk import checks, optional
from cptk.search.exact import FLOATS_GATHERED, Floats, Integers, in_order

Search: TypeAlias = Callable[[Floats, int], tuple[Floats, Integers]]
"""`search(queries, k)` -> scores and indices of the best documents, (n, k) each."""

FaissIndex: TypeAlias = Any
"""A `faiss.Index`: FAISS carries no types."""

# Vectors that are given to FAISS together.
_ADDED_AT_A_TIME = 65_536


class TooFewRowsError(ValueError):
    """An index cannot be trained: it has more cells than there are vectors."""


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
    index = made_index(factory, documents)
    add_to(index, documents)

    def search(queries: Floats, k: int) -> tuple[Floats, Integers]:
        found = np.asarray(index.search(queries, k)[1], np.int64)
        return rescored(queries, lambda rows: np.take(documents, rows, axis=0, mode="clip"), found)

    return search


def rescored(
    queries: Floats, gather: Callable[[Integers], Floats], found: Integers, k: int | None = None
) -> tuple[Floats, Integers]:
    """Candidates scored each alone, as `top_k` does, the best first.

    Args:
        queries: (n, d) float32.
        gather: A function from indices, of any shape, to their vectors; -1 may give any.
        found: (n, c) candidates of each query, -1 for none.
        k: How many of them to keep; all by default.

    Returns:
        Scores (n, k), descending, and indices (n, k); `-inf` and -1 where there are fewer.
    """
    k = found.shape[1] if k is None else min(k, found.shape[1])
    scores = np.full((len(queries), k), -np.inf, np.float32)
    indices = np.full((len(queries), k), -1, np.int64)
    step = max(1, FLOATS_GATHERED // max(1, found.shape[1] * queries.shape[1]))
    for start in range(0, len(queries) if k else 0, step):
        part = slice(start, start + step)
        candidates = found[part]
        products = np.vecdot(gather(candidates), queries[part, None, :])
        products[candidates < 0] = -np.inf
        order = in_order(products, candidates)[:, :k]
        scores[part] = np.take_along_axis(products, order, 1)
        indices[part] = np.take_along_axis(candidates, order, 1)
    return scores, indices


def made_index(factory: str, vectors: Floats) -> FaissIndex:
    """An index of FAISS's, trained where it needs training, with nothing in it.

    Args:
        factory: What `faiss.index_factory` takes.
        vectors: (m, d) float32 to train on.

    Raises:
        ImportError: FAISS is not installed.
        ValueError: FAISS does not know the index, or cannot train it on these vectors.
    """
    try:
        index = _new_index(factory, vectors.shape[1])
        if not index.is_trained:
            index.train(vectors)
    except RuntimeError as error:
        # "Number of training points (5) should be at least as large as number of clusters (64)"
        few = "training points" in str(error)
        raise (TooFewRowsError if few else ValueError)(
            f"FAISS makes no index {factory!r} of {vectors.shape[0]:,} vectors of "
            f"{vectors.shape[1]} numbers: {_fault(error)}"
        ) from None
    return index


def needs_training(factory: str, dim: int) -> bool:
    """Whether an index is trained on vectors before it takes any.

    Raises:
        ImportError: FAISS is not installed.
        ValueError: FAISS does not know the index.
    """
    try:
        return not _new_index(factory, dim).is_trained
    except RuntimeError as error:
        raise ValueError(
            f"`factory` should be what faiss.index_factory takes for {dim} numbers: 'HNSW32', "
            f"'IVF1024,Flat', …. Received {checks.shown(factory)}: {_fault(error)}"
        ) from None


def check_factory(factory: str, dim: int, parameters: str | None = None) -> None:
    """Refuse what FAISS would refuse later, of a factory and of what a search depends on.

    Raises:
        ImportError: FAISS is not installed.
        ValueError: FAISS does not know the index or the parameters, or it takes no rows without
            ids of its own ("IDMap,Flat").
    """
    if not needs_training(factory, dim):
        add_to(_new_index(factory, dim), np.zeros((1, dim), np.float32))
    if parameters is not None:
        set_parameters(_new_index(factory, dim), parameters)


def _new_index(factory: str, dim: int) -> FaissIndex:
    faiss = load_faiss()
    return faiss.index_factory(dim, factory, faiss.METRIC_INNER_PRODUCT)


def add_to(index: FaissIndex, vectors: Floats) -> None:
    """Add vectors after those that are there; `ValueError` where FAISS takes none so."""
    try:
        for start in range(0, len(vectors), _ADDED_AT_A_TIME):
            index.add(np.ascontiguousarray(vectors[start : start + _ADDED_AT_A_TIME]))
    except RuntimeError as error:
        raise ValueError(
            f"FAISS's {type(index).__name__} takes no vectors: {_fault(error)} Name a `factory` "
            "without 'IDMap'; the index keeps ids itself."
        ) from None


def search_among(
    index: FaissIndex, queries: Floats, k: int, mask: NDArray[np.bool_] | None
) -> Integers | None:
    """What an index finds among some of its rows.

    Args:
        index: Of FAISS's.
        queries: (n, d) float32.
        k: How many to find.
        mask: (m,) which rows may be found; None for all.

    Returns:
        (n, k), -1 where it finds fewer; None where the index cannot leave rows out.
    """
    faiss = load_faiss()
    inner = faiss.downcast_index(index)
    options = {}
    if mask is not None:
        bits = np.packbits(mask, bitorder="little")
        options["sel"] = faiss.IDSelectorBitmap(bits)
    # What is given here stands in place of what the index was set to.
    if isinstance(inner, faiss.IndexHNSW):
        # It walks no further than `efSearch`, and would give k of which the last ones are poor.
        wide = max(inner.hnsw.efSearch, k)
        parameters = faiss.SearchParametersHNSW(efSearch=wide, **options)
    elif mask is None:
        parameters = None
    elif isinstance(inner, faiss.IndexIVF):
        parameters = faiss.SearchParametersIVF(nprobe=inner.nprobe, **options)
    elif isinstance(inner, faiss.IndexFlat):
        parameters = faiss.SearchParameters(**options)
    else:
        return None
    try:
        return np.asarray(index.search(queries, k, params=parameters)[1], np.int64)
    except RuntimeError as error:
        if mask is None:
            raise ValueError(f"FAISS's index cannot be searched: {_fault(error)}") from None
        return None


def set_parameters(index: FaissIndex, parameters: str) -> None:
    """Set what a search of FAISS's depends on: `"nprobe=32"`, `"efSearch=128"`.

    Raises:
        ValueError: The index has no such parameter.
    """
    try:
        load_faiss().ParameterSpace().set_index_parameters(index, parameters)
    except RuntimeError as error:
        raise ValueError(
            f"FAISS's index takes no {parameters!r}: {_fault(error)} An index 'IVF…' has 'nprobe', "
            "an index 'HNSW…' 'efSearch'."
        ) from None


def write_index(index: FaissIndex, path: str) -> None:
    """Write an index into a file; `OSError` where the disk is full."""
    try:
        load_faiss().write_index(index, path)
    except RuntimeError as error:
        raise OSError(_fault(error)) from None


def read_index(path: Path, rows: int, dim: int) -> FaissIndex:
    """An index out of a file.

    Raises:
        ImportError: FAISS is not installed.
        ValueError: The file is damaged, or holds an index of something else.
    """
    faiss = load_faiss()
    try:
        index = faiss.read_index(str(path))
    except RuntimeError as error:
        raise ValueError(f"{str(path)!r} is no index that FAISS reads: {_fault(error)}") from None
    if (index.ntotal, index.d) != (rows, dim):
        raise ValueError(
            f"{str(path)!r} should be an index of {rows} vectors of {dim} numbers. It has "
            f"{index.ntotal} of {index.d}."
        )
    return index


def load_faiss() -> Any:
    """The library."""
    return optional.load("faiss", "An index of FAISS's", "faiss-cpu", "faiss")


def _fault(error: RuntimeError) -> str:
    return " ".join((str(error).rpartition("Error: ")[2] or str(error)).split())
