"""Indices of FAISS's against exact search."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from cptk.search import top_k
from cptk.search.approximate import faiss_search
from cptk.search.exact import unit_rows

RNG = np.random.default_rng(0)
DOCUMENTS = unit_rows(RNG.normal(size=(700, 12)))
QUERIES = unit_rows(RNG.normal(size=(33, 12)))


def test_a_flat_index_is_exact() -> None:
    pytest.importorskip("faiss", reason="pip install cptk[faiss]")
    expected = top_k(QUERIES, DOCUMENTS, 9, metric="dot")
    for found, want in zip(faiss_search(DOCUMENTS, "Flat")(QUERIES, 9), expected, strict=True):
        np.testing.assert_array_equal(found, want)


@pytest.mark.parametrize("factory", ["HNSW16", "IVF8,Flat", "SQ8"])
def test_what_an_index_finds_is_scored_exactly(factory: str) -> None:
    pytest.importorskip("faiss", reason="pip install cptk[faiss]")
    scores, indices = faiss_search(DOCUMENTS, factory)(QUERIES, 9)
    exact = QUERIES.astype(np.float64) @ DOCUMENTS.T.astype(np.float64)
    found = indices >= 0
    np.testing.assert_allclose(
        scores[found], np.take_along_axis(exact, indices, 1)[found], atol=1e-6
    )
    assert (scores[~found] == -np.inf).all()
    assert (np.diff(np.where(found, scores, -9), axis=1) <= 0).all()
    best = top_k(QUERIES, DOCUMENTS, 9, metric="dot")[1]
    assert np.mean([np.isin(a, b).mean() for a, b in zip(indices, best, strict=True)]) > 0.3


def test_an_index_that_finds_fewer_than_k() -> None:
    pytest.importorskip("faiss", reason="pip install cptk[faiss]")
    scores, indices = faiss_search(DOCUMENTS[:40], "IVF8,Flat")(QUERIES, 30)
    rows = [row[: np.argmin(row)] if (row < 0).any() else row for row in indices]
    assert min(map(len, rows)) < 30  # eight cells, one of them looked into
    for row, kept, score in zip(indices, rows, scores, strict=True):
        assert (row[len(kept) :] == -1).all()
        assert np.isfinite(score[: len(kept)]).all()


def test_an_index_that_faiss_does_not_make() -> None:
    pytest.importorskip("faiss", reason="pip install cptk[faiss]")
    with pytest.raises(ValueError, match="FAISS makes no index 'Nonsense' of 700 vectors"):
        faiss_search(DOCUMENTS, "Nonsense")
    with pytest.raises(ValueError, match=r"FAISS makes no index 'IVF64,Flat' of 5 vectors.*64"):
        faiss_search(DOCUMENTS[:5], "IVF64,Flat")


def test_without_faiss(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(ImportError, match=r"pip install faiss-cpu.*cptk\[faiss\]"):
        faiss_search(DOCUMENTS, "Flat")
