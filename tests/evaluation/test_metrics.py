import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import label_ranking_average_precision_score, top_k_accuracy_score

from cptk.evaluation import mrr, recall_at_k, retrieval_ranks


def _slow_ranks(queries, documents, relevant):
    ranks = []
    for query, target in zip(queries, relevant, strict=True):
        scores = [sum(a * b for a, b in zip(query, row, strict=True)) for row in documents]
        ranks.append(sum(score >= scores[target] for score in scores))
    return ranks


@given(
    st.integers(1, 9), st.integers(1, 9), st.integers(1, 4), st.integers(1, 10), st.integers(0, 99)
)
def test_ranks_equal_a_slow_loop_whatever_the_block(n, m, size, block_size, seed):
    random = np.random.default_rng(seed)  # small whole numbers: exact, and many ties
    queries, documents = random.integers(-2, 3, (n, size)), random.integers(-2, 3, (m, size))
    relevant = random.integers(0, m, n)
    ranks = retrieval_ranks(queries, documents, relevant, block_size=block_size)
    assert ranks.dtype == np.int64
    assert ranks.tolist() == _slow_ranks(queries, documents, relevant)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_metrics_equal_scikit_learn(dtype):
    random = np.random.default_rng(0)
    queries = random.normal(size=(50, 8)).astype(dtype)
    documents = random.normal(size=(50, 8)).astype(dtype)
    scores = queries.astype("float64") @ documents.astype("float64").T
    ranks = retrieval_ranks(queries, documents, block_size=7)
    # With one relevant document a query, average precision is the reciprocal rank.
    expected = label_ranking_average_precision_score(np.eye(50), scores)
    assert mrr(ranks) == pytest.approx(expected, abs=1e-12)
    for k in (1, 10, 49):
        assert recall_at_k(ranks, k) == top_k_accuracy_score(np.arange(50), scores, k=k)


def test_values_by_hand():
    ranks = [1, 2, 4, 20]
    assert mrr(ranks) == pytest.approx((1 + 1 / 2 + 1 / 4 + 1 / 20) / 4)
    assert mrr(ranks, k=10) == pytest.approx((1 + 1 / 2 + 1 / 4) / 4)
    assert recall_at_k(ranks, 1) == 0.25
    assert recall_at_k(ranks, 4) == 0.75
    assert recall_at_k(ranks, 100) == 1.0


def test_ties_count_against_the_relevant_document():
    same = np.ones((5, 3), np.float32)
    assert retrieval_ranks(same, same).tolist() == [5] * 5


def test_a_document_always_finds_itself():
    vectors = np.random.default_rng(1).normal(size=(300, 65)).astype("float32")
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    assert (retrieval_ranks(vectors, vectors, block_size=64) == 1).all()


GOOD = np.eye(3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((None, GOOD), "`queries` must be a non-empty array of numbers"),
        (([], GOOD), "`queries` must be a non-empty array of numbers"),
        ((GOOD, np.ones(3)), r"`documents` must be .*shape=\(3,\)"),
        ((GOOD, np.full((3, 3), np.nan)), "`documents` must be finite"),
        ((GOOD, np.eye(4)), "vectors of one size"),
        ((GOOD, GOOD[:2]), "Received: 3 queries, 2 documents"),
        ((GOOD, GOOD, [0, 1]), "one whole number for each of the 3 queries"),
        ((GOOD, GOOD, [0.0, 1.0, 2.0]), "one whole number"),
        ((GOOD, GOOD, [0, 1, 3]), "indices of documents, 0 to 2"),
        ((GOOD, GOOD, [0, 1, -1]), "Received values from -1 to 1"),
    ],
)
def test_bad_vectors(arguments, message):
    with pytest.raises(ValueError, match=message):
        retrieval_ranks(*arguments)


@pytest.mark.parametrize("ranks", [None, [], [0, 1], [1.5], [[1]], "", [float("nan")]])
def test_bad_ranks(ranks):
    with pytest.raises(ValueError, match="`ranks` must be a non-empty, flat array"):
        mrr(ranks)


@pytest.mark.parametrize("k", [0, -1, 1.5, True, "1"])
def test_bad_cutoff(k):
    with pytest.raises((ValueError, TypeError), match="`k` should be an integer of 1 or more"):
        recall_at_k([1], k)
    with pytest.raises((ValueError, TypeError), match="`block_size` should be an integer of 1"):
        retrieval_ranks(GOOD, GOOD, block_size=k)
