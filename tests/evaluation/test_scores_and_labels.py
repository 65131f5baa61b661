import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import accuracy_score, f1_score

from cptk.evaluation.metrics import accuracy, f1, pearson, retrieval_ranks, spearman

# Few distinct values: ties and constant lists are common.
COARSE = st.integers(-2, 2).map(lambda i: i / 3)
PAIRS = st.lists(st.tuples(COARSE, COARSE), min_size=2, max_size=40)
LABELS = st.lists(st.tuples(st.integers(0, 1), st.integers(0, 1)), min_size=1, max_size=30)


def _close(ours, theirs):
    assert ours == pytest.approx(theirs, abs=1e-9, nan_ok=True)


@given(PAIRS)
def test_correlations_equal_scipy_with_ties_and_constants(pairs):
    x, y = np.array(pairs).T
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # SciPy warns of constant input
        _close(pearson(x, y), stats.pearsonr(x, y).statistic)
        _close(spearman(x, y), stats.spearmanr(x, y).statistic)


@given(st.integers(2, 200), st.integers(0, 99), st.sampled_from([1e-200, 1.0, 1e200]))
def test_correlations_equal_scipy_at_every_scale(n, seed, scale):
    random = np.random.default_rng(seed)
    x = random.normal(size=n)
    y = random.normal(size=n) + x
    _close(pearson(x * scale, y), stats.pearsonr(x, y).statistic)
    _close(spearman(x * scale, y), stats.spearmanr(x, y).statistic)


def test_a_constant_has_no_correlation():
    assert np.isnan(pearson([0.1, 0.1, 0.1], [1, 2, 3]))
    assert np.isnan(spearman([1, 2, 3], [0.1, 0.1, 0.1]))


@given(LABELS, st.integers(0, 1))
def test_labels_equal_scikit_learn(pairs, positive):
    gold, predicted = map(list, zip(*pairs, strict=True))
    assert accuracy(gold, predicted) == pytest.approx(accuracy_score(gold, predicted), abs=1e-12)
    expected = f1_score(
        np.equal(gold, positive), np.equal(predicted, positive), pos_label=True, zero_division=0
    )
    assert f1(gold, predicted, positive) == pytest.approx(expected, abs=1e-12)


def test_labels_may_be_strings():
    assert accuracy(["a", "b"], ["a", "a"]) == 0.5
    assert f1(["a", "b"], ["a", "a"], positive="a") == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        ([1.0], [1.0], "at least two"),
        ([1.0, 2.0], [1.0, 2.0, 3.0], r"\(2,\), float64 and \(3,\)"),
        ([[1.0, 2.0]], [[1.0, 2.0]], "flat"),
        ([1.0, float("nan")], [1.0, 2.0], "finite"),
        (["a", "b"], [1.0, 2.0], "numbers"),
    ],
)
def test_correlations_refuse_what_is_no_pair_of_scores(x, y, message):
    for function in (pearson, spearman):
        with pytest.raises(ValueError, match=message):
            function(x, y)


def test_labels_refuse_unequal_lengths():
    for function in (accuracy, f1):
        with pytest.raises(ValueError, match="one length"):
            function([0, 1], [0])
        with pytest.raises(ValueError, match="not empty"):
            function([], [])


def test_equal_documents_tie_to_the_last_bit():
    """A matrix product may give equal columns different last bits; the rank must not see it."""
    random = np.random.default_rng(0)
    documents = random.normal(size=(333, 17)).astype("float32")
    documents[[40, 166, 332]] = documents[0]
    queries = np.repeat(documents[:1], 999, axis=0) + random.normal(size=(999, 17)) / 10
    ranks = retrieval_ranks(queries.astype("float32"), documents, np.zeros(999, int))
    assert ranks.min() == 4
    assert (retrieval_ranks(queries, np.ones((333, 17)), np.zeros(999, int)) == 333).all()
