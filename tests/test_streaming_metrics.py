"""Keras metrics of training: against loops, over batches, ties, weights, refusals."""

import keras
import numpy as np
import pytest
import references
from gradients import to_numpy
from hypothesis import given
from hypothesis import strategies as st

from cptk.metrics import InBatchAccuracy, NegativeCosine, PositiveCosine, Temperature

DIRECTIONS = ["query_to_document", "document_to_query"]


def result(metric):
    return to_numpy(metric.result()).item()


def seen_from(direction, matrix):
    return matrix if direction == "query_to_document" else matrix[:, : len(matrix)].T


@pytest.mark.slow_on_jax
@pytest.mark.parametrize("direction", DIRECTIONS)
@given(shape=st.sampled_from([(1, 1), (4, 4), (3, 5)]), seed=st.integers(0, 2**16))
def test_accuracy_equals_the_loop_over_batches_with_ties_and_weights(direction, shape, seed):
    rng = np.random.default_rng(seed)
    metric, scores, weights = InBatchAccuracy(direction), [], []
    for _ in range(2):
        logits, weight = rng.integers(0, 3, shape).astype("float32"), rng.random(shape[0])
        metric.update_state(logits, sample_weight=weight)
        scores += references.in_batch_accuracy(seen_from(direction, logits))
        weights += list(weight)
    assert result(metric) == pytest.approx(np.average(scores, weights=weights), abs=1e-5)


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_a_collapsed_embedder_scores_chance(direction):
    metric = InBatchAccuracy(direction)
    metric.update_state(np.ones((4, 4), "float32"))
    assert result(metric) == pytest.approx(0.25)


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_equal_texts_tie_whatever_the_last_bit(direction):
    rng, metric = np.random.default_rng(0), InBatchAccuracy(direction)
    ids = np.array([0, 1, 0, 2, 1, 0, 3])[: 5 if direction == "document_to_query" else 7]
    logits = rng.integers(0, 3, (5, 7)).astype("float32")
    for row, column in np.ndindex(logits.shape):
        if direction == "query_to_document":
            logits[row, column] = logits[row, list(ids).index(ids[column])]
        else:
            logits[row, column % 5] = logits[list(ids).index(ids[row]), column % 5]
    logits += np.float32(1e-6) * rng.choice([-1, 0, 1], logits.shape).astype("float32")
    metric.update_state(logits, ids=ids)
    expected = references.in_batch_accuracy(seen_from(direction, logits.astype("float64")), ids)
    assert result(metric) == pytest.approx(np.mean(expected), abs=1e-6)
    assert np.mean(expected) > 0
    with pytest.raises(ValueError, match=r"`ids` of shape .* one number per candidate.*\(2,\)"):
        metric.update_state(logits, ids=[1, 2])


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_nan_scores_nothing(direction):
    metric = InBatchAccuracy(direction)
    metric.update_state(np.full((2, 2), np.nan, "float32"))
    assert result(metric) == 0


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_masked_candidates_do_not_compete(direction):
    metric = InBatchAccuracy(direction)
    logits = np.array([[1.0, 5.0], [1.0, 2.0]], "float32")
    mask = np.array([[1, 1], [0, 1]], bool)  # on the diagonal it is ignored
    metric.update_state(logits, mask=mask)
    # Rows: 1 against nothing, 2 against 1. Columns: 1 against 1 (a tie), 2 against nothing.
    assert result(metric) == pytest.approx({"query_to_document": 1.0}.get(direction, 0.75))


def test_cosines_over_batches_with_weights():
    positive, negative = PositiveCosine(), NegativeCosine()
    cosine = np.array([[0.9, 0.1, 0.3], [0.5, 0.7, -0.1]], "float32")
    for metric in (positive, negative):
        metric.update_state(cosine)
        metric.update_state(cosine, sample_weight=np.array([3.0, 0.0]))
    assert result(positive) == pytest.approx((0.9 + 0.7 + 3 * 0.9) / 5)
    assert result(negative) == pytest.approx((0.2 + 0.2 + 3 * 0.2) / 5)


def test_negative_cosine_leaves_out_masked_entries_and_rows_without_negatives():
    metric = NegativeCosine()
    metric.update_state(np.ones((1, 1), "float32"))
    assert result(metric) == 0
    mask = np.array([[0, 1, 0], [1, 0, 1]], bool)
    metric.update_state(np.array([[1.0, 0.9, 0.3], [0.5, 1.0, 0.5]], "float32"), mask=mask)
    assert result(metric) == pytest.approx(0.3)


def test_temperature_is_the_last_value_until_reset():
    metric = Temperature()
    for value in (0.07, np.float64(0.06), keras.ops.convert_to_tensor(0.05)):
        metric.update_state(value)
    assert result(metric) == pytest.approx(0.05)
    metric.reset_state()
    assert result(metric) == 0


def test_low_precision_is_counted_in_float32():
    # 1,000 anchors: a float16 or bfloat16 sum would be off in the third digit.
    cosine = keras.ops.cast(keras.ops.eye(1000), "bfloat16")
    for metric in (PositiveCosine(), InBatchAccuracy()):
        metric.update_state(cosine)
        assert result(metric) == pytest.approx(1.0, abs=1e-6)


def test_names_on_the_progress_bar():
    assert [InBatchAccuracy(d).name for d in DIRECTIONS] == [f"{d}_accuracy" for d in DIRECTIONS]
    assert [m().name for m in (PositiveCosine, NegativeCosine, Temperature)] == [
        "positive_cosine",
        "negative_cosine",
        "temperature",
    ]


def test_refusals():
    with pytest.raises(ValueError, match=r"`direction` should be one of .*Received: .*'sideways'"):
        InBatchAccuracy("sideways")
    with pytest.raises(ValueError, match=r"Temperature expects a scalar.*\(2,\)"):
        Temperature().update_state([0.1, 0.2])


@pytest.mark.parametrize("metric", [InBatchAccuracy, PositiveCosine, NegativeCosine])
def test_refuses_shapes_that_do_not_fit(metric):
    for shape in ((3,), (3, 2)):
        with pytest.raises(ValueError, match=rf"{metric.__name__} expects"):
            metric().update_state(np.zeros(shape, "float32"))
    with pytest.raises(ValueError, match=r"`sample_weight` of shape \(2,\).*\(2, 1\)"):
        metric().update_state(np.zeros((2, 2), "float32"), sample_weight=np.ones((2, 1)))
    with pytest.raises(ValueError, match=r"`sample_weight` of shape \(2,\).*\(3,\)"):
        metric().update_state(np.zeros((2, 2), "float32"), sample_weight=np.ones(3))
