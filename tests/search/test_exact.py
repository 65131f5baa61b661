import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from cptk.search import exact as search
from cptk.search import top_k


def _reference(queries, documents, k, metric):
    """Every pair alone, in float32 as documented, and a full sort."""
    q, d = np.asarray(queries, np.float32), np.asarray(documents, np.float32)
    if metric == "cosine":
        q, d = search.unit_rows(q), search.unit_rows(d)
    scores = np.array([[np.vecdot(a, b) for b in d] for a in q], np.float32)
    order = np.array([sorted(range(len(d)), key=lambda j: (-row[j], j))[:k] for row in scores])
    return np.take_along_axis(scores, order, axis=1), order


@st.composite
def _cases(draw):
    size = draw(st.integers(1, 5))
    few = st.sampled_from([-1.0, 0.0, 1.0, 0.5, 1e-3, 3.0, 1 / 3, 1 + 2.0**-23])
    shape = st.integers(1, 40)
    queries = draw(hnp.arrays(np.float32, (draw(st.integers(1, 7)), size), elements=few))
    documents = draw(hnp.arrays(np.float32, (draw(shape), size), elements=few))
    return queries, documents, draw(st.integers(1, len(documents)))


@settings(max_examples=100, deadline=None)
@given(_cases(), st.sampled_from(["cosine", "dot"]), st.integers(1, 50))
def test_equals_a_full_sort_at_any_block_size_with_ties_duplicates_and_zeros(case, metric, size):
    queries, documents, k = case
    scores, indices = top_k(queries, documents, k, metric=metric, block_size=size)
    expected_scores, expected = _reference(queries, documents, k, metric)
    np.testing.assert_array_equal(indices, expected)
    np.testing.assert_array_equal(scores, expected_scores)


@pytest.mark.parametrize("metric", ["cosine", "dot"])
def test_duplicates_keep_their_order_whatever_the_block_size(metric):
    """A matrix product gives equal documents scores that differ in the last bit by their place."""
    rng = np.random.default_rng(0)
    kinds = rng.normal(size=(30, 37)).astype(np.float32)
    documents = kinds[rng.integers(0, 30, 700)]
    queries = rng.normal(size=(50, 37)).astype(np.float32)
    expected = top_k(queries, documents, 60, metric=metric)
    for size in (64, 333, 699, 5000):
        found = top_k(queries, documents, 60, metric=metric, block_size=size)
        np.testing.assert_array_equal(found[1], expected[1])
        np.testing.assert_array_equal(found[0], expected[0])
    np.testing.assert_array_equal(expected[1], _reference(queries, documents, 60, metric)[1])


def test_documents_all_alike_come_in_their_order():
    documents = np.ones((500, 11), np.float32)
    for size in (50, 1000):
        _, indices = top_k(documents[:20], documents, 33, block_size=size)
        np.testing.assert_array_equal(indices, np.tile(np.arange(33), (20, 1)))


def test_the_same_array_on_both_sides_and_many_blocks():
    """NumPy multiplies an array by its own transpose with another routine."""
    vectors = np.random.default_rng(1).normal(size=(600, 24)).astype(np.float32)
    scores, indices = top_k(vectors, vectors, 5, block_size=128)
    expected_scores, expected = _reference(vectors[:40], vectors, 5, "cosine")
    np.testing.assert_array_equal(indices[:40], expected)
    np.testing.assert_array_equal(scores[:40], expected_scores)
    np.testing.assert_array_equal(indices[:, 0], np.arange(600))


def test_agrees_with_scikit_learn():
    from sklearn.neighbors import NearestNeighbors

    rng = np.random.default_rng(2)
    queries, documents = rng.normal(size=(90, 16)), rng.normal(size=(800, 16))
    scores, indices = top_k(queries, documents, 25, block_size=100)
    index = NearestNeighbors(n_neighbors=25, metric="cosine", algorithm="brute").fit(documents)
    distances, expected = index.kneighbors(queries)
    np.testing.assert_array_equal(indices, expected)
    np.testing.assert_allclose(scores, 1 - distances, atol=1e-6)
    assert scores.dtype == np.float32
    assert indices.dtype == np.int64


def test_sparse_vectors_without_a_common_word():
    documents = np.zeros((300, 50), np.float32)
    documents[np.arange(300), np.arange(300) % 40] = 1.0
    documents[17] = 0.0
    query = np.zeros((1, 50), np.float32)
    query[0, 3] = 2.0
    scores, indices = top_k(query, documents, 20, block_size=32)
    assert indices[0].tolist() == [*range(3, 300, 40), *[i for i in range(13) if i != 3]]
    assert scores[0].tolist() == [1.0] * 8 + [0.0] * 12
    scores, indices = top_k(np.zeros((1, 50)), documents, 3)
    assert (scores[0].tolist(), indices[0].tolist()) == ([0.0] * 3, [0, 1, 2])


@pytest.mark.parametrize("scale", [1e-25, 1e-15, 1e15])
def test_very_small_and_very_large_vectors(scale):
    rng = np.random.default_rng(3)
    queries, documents = rng.normal(size=(4, 8)), rng.normal(size=(60, 8)) * scale
    for metric in ("cosine", "dot"):
        found = top_k(queries, documents, 9, metric=metric, block_size=16)
        expected = _reference(queries, documents, 9, metric)
        np.testing.assert_array_equal(found[1], expected[1])


def test_float16_and_integers_are_taken():
    documents = np.eye(3, dtype=np.int64)
    assert top_k(np.eye(3, dtype=np.float16), documents, 1)[1].ravel().tolist() == [0, 1, 2]


def test_blocks_bound_the_memory(monkeypatch):
    """No product larger than a block is ever asked for."""
    shapes, lock = [], threading.Lock()
    multiply = np.matmul

    def spy(a, b, **options):
        with lock:
            shapes.append((a.shape[0], b.shape[1]))
        return multiply(a, b, **options)

    monkeypatch.setattr(search.np, "matmul", spy)
    rng = np.random.default_rng(4)
    top_k(rng.normal(size=(130, 4)), rng.normal(size=(210, 4)), 7, block_size=50)
    assert len(shapes) == 3 * 5
    assert max(max(shape) for shape in shapes) == 50


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"k": 4}, "at most the number of documents, 3. Received: 4"),
        ({"k": 0}, "`k` should be an integer of 1 or more. Received: 0"),
        ({"block_size": 0}, "`block_size` should be an integer of 1 or more"),
        ({"metric": "euclid"}, "'cosine' or 'dot'. Received: 'euclid'"),
        ({"queries": [[1.0, 2.0, 3.0]]}, r"vectors of one size. Received shapes: \(1, 3\)"),
        ({"queries": [[np.nan, 1.0]]}, "`queries` must be finite"),
        ({"documents": [[np.inf, 1.0]], "k": 1}, "`documents` must be finite"),
        ({"documents": [[1e300, 1.0]], "k": 1}, "`documents` must be finite in float32"),
        ({"documents": [1.0, 2.0]}, "`documents` must be a non-empty array"),
        ({"documents": np.zeros((0, 2))}, "`documents` must be a non-empty array"),
        ({"documents": [["a", "b"]]}, "`documents` must be a non-empty array of numbers"),
        (
            {"queries": [[1e30, 0.0]], "documents": [[1e30, 0.0]], "metric": "dot", "k": 1},
            "scores must fit into float32",
        ),
    ],
)
def test_bad_input(change, message):
    arguments = {"queries": [[1.0, 0.0]], "documents": [[1.0, 0.0]] * 3, "k": 2, **change}
    with pytest.raises(ValueError, match=message):
        top_k(**arguments)
