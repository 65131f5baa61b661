from typing import Any

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from cptk.evaluation import bootstrap_interval, item_score, paired_bootstrap


def slow_scores(columns: np.ndarray, metric: str, count: int, seed: int) -> np.ndarray:
    """The resamples one by one, by SciPy."""
    rng, size = np.random.default_rng(seed), columns.shape[1]
    scores = []
    for draw in rng.integers(size, size=(count, size)):
        if metric == "spearman":
            scores.append(scipy.stats.spearmanr(*columns[:, draw]).statistic)
        elif metric == "pearson":
            scores.append(scipy.stats.pearsonr(*columns[:, draw]).statistic)
        else:
            scores.append(columns[0, draw].mean())
    return np.array(scores)


@pytest.mark.parametrize("metric", ["accuracy", "spearman", "pearson"])
def test_interval_is_that_of_resamples_made_one_by_one(metric: str) -> None:
    rng = np.random.default_rng(3)
    columns = rng.normal(size=(1 if metric == "accuracy" else 2, 60))
    items = {f"column{i}": column.tolist() for i, column in enumerate(columns)}
    expected = np.quantile(slow_scores(columns, metric, 200, 7), [0.025, 0.975])
    np.testing.assert_allclose(bootstrap_interval(items, metric, 200, 7), expected, atol=1e-12)
    assert bootstrap_interval(items, metric, 200, 7) == bootstrap_interval(items, metric, 200, 7)
    assert bootstrap_interval(items, metric, 200, 8) != bootstrap_interval(items, metric, 200, 7)


def test_interval_of_a_share_is_about_the_binomial_one() -> None:
    low, high = bootstrap_interval({"correct": [1] * 800 + [0] * 200}, "accuracy", 4000)
    width = 1.96 * np.sqrt(0.8 * 0.2 / 1000)
    assert (low, high) == pytest.approx((0.8 - width, 0.8 + width), abs=0.003)


@given(st.lists(st.sampled_from([0.0, 1.0, 0.5, -2.0]), min_size=1, max_size=20), st.integers(0, 9))
def test_interval_lies_within_the_items(values: list[float], seed: int) -> None:
    low, high = bootstrap_interval({"x": values}, "mean", 50, seed)
    assert min(values) - 1e-12 <= low <= high <= max(values) + 1e-12


@given(
    st.lists(st.tuples(st.sampled_from([0, 1]), st.sampled_from([0, 1])), min_size=2, max_size=20)
)
def test_swapping_two_embedders_turns_the_difference_round(pairs: list[tuple[int, int]]) -> None:
    a, b = ({"correct": list(column)} for column in zip(*pairs, strict=True))
    there, back = paired_bootstrap(a, b, "accuracy", 99), paired_bootstrap(b, a, "accuracy", 99)
    assert there.value == pytest.approx(-back.value)
    assert (there.low, there.high) == pytest.approx((-back.high, -back.low))
    assert there.p_value == back.p_value
    assert 2 / 100 <= there.p_value <= 1


def test_p_value_is_uniform_where_nothing_differs_and_small_where_something_does() -> None:
    rng = np.random.default_rng(0)
    p_values = []
    for seed in range(200):
        a, b = rng.normal(size=(2, 100))
        p_values.append(paired_bootstrap({"x": a}, {"x": b}, "mean", 199, seed).p_value)
    assert scipy.stats.kstest(p_values, "uniform").pvalue > 0.01
    better = {"x": rng.normal(size=100) + 1}
    assert paired_bootstrap({"x": rng.normal(size=100)}, better, "mean", 199).p_value == 0.01
    assert paired_bootstrap(better, better, "mean", 99).p_value == 1.0


def test_a_constant_resample_has_no_correlation_and_is_left_out() -> None:
    low, high = bootstrap_interval({"a": [1, 2, 3], "b": [1, 3, 2]}, "spearman", 200)
    assert np.isfinite([low, high]).all()
    assert np.isnan(bootstrap_interval({"a": [1, 1], "b": [1, 2]}, "spearman", 20)).all()


def test_blocks_draw_what_one_block_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    items = {"x": np.random.default_rng(1).normal(size=50).tolist()}
    whole = bootstrap_interval(items, "mean", 100)
    monkeypatch.setattr("cptk.evaluation.metrics.bootstrap._BLOCK", 120)
    assert bootstrap_interval(items, "mean", 100) == whole


@pytest.mark.parametrize(
    ("items", "metric", "message"),
    [
        ({}, "accuracy", "one or two columns"),
        ({"x": []}, "accuracy", "not empty"),
        ({"a": [1], "b": [1], "c": [1]}, "accuracy", "one or two columns"),
        ({"a": [1.0, 2.0], "b": [1.0]}, "spearman", "as many in each"),
        ({"a": ["x", "y"]}, "accuracy", "must be numbers"),
        ({"a": [1.0, float("nan")]}, "accuracy", "finite"),
        ({"a": [1.0, 2.0], "b": [1.0, 2.0]}, "f1", r"one of \['pearson', 'spearman'\].*'f1'"),
    ],
)
def test_bad_items(items: Any, metric: str, message: str) -> None:
    for function in (item_score, bootstrap_interval):
        with pytest.raises(ValueError, match=message):
            function(items, metric)


def test_other_bad_arguments() -> None:
    for count in (0, 1.5, True):
        with pytest.raises((ValueError, TypeError), match="`n_bootstrap` should be an integer"):
            bootstrap_interval({"x": [1]}, "mean", count)
    with pytest.raises(ValueError, match=r"the same items.*\(1, 1\) and \(1, 2\)"):
        paired_bootstrap({"x": [1]}, {"x": [1, 2]}, "mean")
