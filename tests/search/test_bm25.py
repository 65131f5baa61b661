"""BM25 against the slow loop of references.py and against the library `bm25s`."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import references
from hypothesis import given
from hypothesis import strategies as st

from cptk.search import BM25, bm25

TEXTS = st.lists(
    st.lists(st.sampled_from("a b c d e f".split()), min_size=1, max_size=9).map(" ".join),
    min_size=1,
    max_size=12,
)


def ranked(scores: Any, k: int) -> list[list[int]]:
    """The documents with a score, best first, of equal ones the first; -1 behind the last.

    Equal are scores that differ by rounding alone: words come in another order here and there.
    """
    rounded = np.round(scores, 9)
    rows = [sorted(np.flatnonzero(row), key=lambda j, row=row: (-row[j], j)) for row in rounded]
    return [[*row[:k], *[-1] * (k - len(row))] for row in rows]


@given(TEXTS, TEXTS, st.integers(1, 12), st.sampled_from([(1.5, 0.75), (0, 0.5), (1.2, 0), (2, 1)]))
def test_is_the_slow_loop(queries: Any, documents: Any, k: int, constants: Any) -> None:
    k = min(k, len(documents))
    model = BM25(*constants).fit(documents)
    expected = references.bm25(
        [q.split() for q in queries], [d.split() for d in documents], *constants
    )
    scores, indices = model.top_k(queries, k)
    assert indices.tolist() == ranked(expected, k)
    found = indices >= 0
    best = np.take_along_axis(expected, np.maximum(indices, 0), axis=1)
    np.testing.assert_allclose(scores[found], best[found], rtol=1e-12, atol=1e-12)
    assert np.all(scores[~found] == -np.inf)
    pairs = [(i, j) for i in range(len(queries)) for j in range(len(documents))]
    own = model.score([queries[i] for i, _ in pairs], [documents[j] for _, j in pairs])
    np.testing.assert_allclose(own, expected.reshape(-1), rtol=1e-12, atol=1e-12)


def test_blocks_of_any_size_find_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    texts = [" ".join(rng.choice(list("abcdefghij"), 6)) for _ in range(57)]
    model = BM25().fit(texts)
    expected, own = model.top_k(texts[:23], 5), model.score(texts, texts[::-1])
    for size in (1, 57 * 4, 57 * 23):  # a query, four, all of them at a time
        monkeypatch.setattr(bm25, "SCORES_AT_A_TIME", size)
        for found, want in zip(model.top_k(texts[:23], 5), expected, strict=True):
            np.testing.assert_array_equal(found, want)
        np.testing.assert_array_equal(model.score(texts, texts[::-1]), own)


def test_is_bm25s() -> None:
    library = pytest.importorskip("bm25s", reason="pip install cptk[eval]")
    rng = np.random.default_rng(1)
    texts = [" ".join(rng.choice([f"w{i}" for i in range(30)], 12)) for _ in range(40)]
    words = [text.split() for text in texts]
    theirs = library.BM25(method="lucene", k1=1.2, b=0.6)
    theirs.index(words, show_progress=False)
    expected = np.stack([theirs.get_scores(query) for query in words[:7]])
    scores, indices = BM25(k1=1.2, b=0.6).fit(texts).top_k(texts[:7], 40)
    found = indices >= 0
    best = np.take_along_axis(expected, np.maximum(indices, 0), axis=1)
    np.testing.assert_allclose(scores[found], best[found], rtol=1e-5)
    assert found.sum() == np.count_nonzero(expected)


def test_words_and_a_tokenizer_of_ones_own() -> None:
    texts = ["Running FAST", "ran_slowly", "été"]
    assert BM25().fit(texts).top_k(["fast", "RAN_SLOWLY", "Été", "ran"], 1)[1].tolist() == [
        [0], [1], [2], [-1]
    ]  # fmt: skip
    letters = BM25(tokenize=lambda text: iter(text[:2].lower()))
    assert letters.fit(texts).top_k(["rust"], 3)[1].tolist() == [[0, 1, -1]]


def test_fitted_again_it_forgets() -> None:
    model = BM25().fit(["a b", "c"])
    model.fit(iter(["c", "c d", "d"]))
    assert model.top_k(["a", "d"], 3)[1].tolist() == [[-1, -1, -1], [2, 1, -1]]


BAD: dict[str, Any] = {
    "k1": (lambda: BM25(k1=-1), ValueError, "`k1` should be a number of 0 or more. Rec"),
    "infinite": (lambda: BM25(k1=float("inf")), ValueError, "`k1` should be"),
    "b": (lambda: BM25(b=1.5), ValueError, "`b` should be a number of 0 or more, at most 1"),
    "tokenize": (lambda: BM25(tokenize="x"), TypeError, "`tokenize` should be a function"),
    "not fitted": (lambda: BM25().top_k(["a"], 1), ValueError, "Call `fit"),
    "a string": (lambda: BM25().fit("text"), TypeError, "`documents` should be a sequence"),
    "no words": (lambda: BM25().fit(["?!", "."]), ValueError, "None of the 2 documents has a word"),
    "k": (lambda: BM25().fit(["a"]).top_k(["a"], 2), ValueError, "`k` must be at most"),
    "blank": (lambda: BM25().fit(["a"]).top_k([" "], 1), ValueError, "`queries` should hold no"),
    "pairs": (lambda: BM25().fit(["a"]).score(["a"], ["a", "b"]), ValueError, "one text for each"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input(name: str) -> None:
    call, kind, message = BAD[name]
    with pytest.raises(kind, match=message):
        call()


def test_the_same_weights_of_other_words_are_a_tie() -> None:
    """Whatever the order in which they are added up: the lower index comes first."""
    rng = np.random.default_rng(0)
    words = [f"w{number}" for number in range(12)]
    documents = [" ".join(rng.permutation(words)[:7]) for _ in range(40)]
    documents += [" ".join(words)] * 3  # each word stands in several
    bm25 = BM25().fit(documents)
    for _ in range(20):
        query = " ".join(rng.permutation(words))
        scores, indices = bm25.top_k([query], k=len(documents))
        exact = [round(float(score), 9) for score in scores[0]]
        assert indices[0].tolist() == [
            index for _, index in sorted(zip([-x for x in exact], indices[0], strict=True))
        ]


def test_best_among_some_of_the_documents() -> None:
    texts = [f"word{i % 5} word{i % 7} rest" for i in range(60)]
    fitted = BM25().fit(texts)
    allowed = np.arange(60) % 3 == 1
    scores, rows = fitted.top_k(["word1 word2", "none"], 60)
    kept = [row for row in rows[0] if row >= 0 and allowed[row]]
    some_scores, some_rows = fitted.best(["word1 word2", "none"], 60, allowed)
    assert [row for row in some_rows[0] if row >= 0] == kept
    assert (some_rows[1] == -1).all()
    np.testing.assert_array_equal(some_scores[0][: len(kept)], scores[0][np.isin(rows[0], kept)])
