"""CoSENT against slow loops: values, gradients, ties, fillers, extremes, refusals."""

import math

import numpy as np
import pytest
from gradients import central_differences, float64_allowed, to_numpy, value_and_gradients
from hypothesis import given
from hypothesis import strategies as st
from keras import ops

import cptk
from cptk.losses import Batch, CoSENT


def reference(query, document, score, scale=20.0):
    cosines = [
        float(q @ d) / math.sqrt(float(q @ q) * float(d @ d))
        for q, d in zip(query, document, strict=True)
    ]
    total = 1.0
    for i in range(len(score)):
        for j in range(len(score)):
            if score[i] > score[j]:
                total += math.exp(scale * (cosines[j] - cosines[i]))
    return math.log(total)


def of_batch(objective, score, rows=None, is_pair=None, temperature=0.5):
    """The losses as a function of all embeddings."""
    head = cptk.layers.ContrastiveHead(temperature)

    def losses(query, document):
        gathered = {"query": query, "document": document, "score": ops.convert_to_tensor(score)}
        local = gathered if rows is None else {k: x[:rows] for k, x in gathered.items()}
        kept = None if is_pair is None else ops.convert_to_tensor(is_pair)
        return objective(Batch(local, gathered, head, 1 / temperature, is_pair=kept)).losses

    return losses


def draw(n, seed=0):
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(2, n, 3))
    return vectors, rng.integers(0, 3, size=n).astype("float32")  # Of 4 some are equal.


@pytest.mark.slow_on_jax
@given(n=st.integers(1, 6), seed=st.integers(0, 2**16))
def test_equals_the_loops(n, seed):
    vectors, score = draw(n, seed)
    with float64_allowed():
        values, gradients = value_and_gradients(
            of_batch(CoSENT(), score), *vectors, upstream=1 / n, dtype="float64"
        )
    assert values.dtype == np.float64
    np.testing.assert_allclose(values, [reference(*vectors, score)] * n, rtol=1e-12, atol=1e-12)
    expected = central_differences(lambda *x: reference(*x, score), *vectors)
    for found, gradient in zip(gradients, expected, strict=True):
        np.testing.assert_allclose(found, gradient, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("objective", "scale"), [(CoSENT(7), 7.0), (CoSENT(None), 2.0)])
def test_the_scale_is_given_or_that_of_the_head(objective, scale):
    vectors, score = draw(5)
    found = of_batch(objective, score)(*(ops.convert_to_tensor(x) for x in vectors))
    np.testing.assert_allclose(to_numpy(found), [reference(*vectors, score, scale)] * 5, rtol=1e-5)


@pytest.mark.parametrize("score", [[0.5], [0.5, 0.5, 0.5]])
def test_where_no_two_scores_differ_the_loss_is_0(score):
    vectors = np.random.default_rng(0).normal(size=(2, len(score), 3))
    values, gradients = value_and_gradients(
        of_batch(CoSENT(), np.array(score, "float32")), *vectors
    )
    assert not values.any()
    assert not np.any(gradients)


def test_only_the_order_of_scores_counts():
    vectors, score = draw(6)
    tensors = [ops.convert_to_tensor(x) for x in vectors]
    first, second = (
        to_numpy(of_batch(CoSENT(), x)(*tensors)) for x in (score, np.exp(score) - 100)
    )
    np.testing.assert_array_equal(first, second)


def test_devices_add_up_to_the_batch_and_fillers_are_left_out():
    """Three devices of two rows: the second has one filler, the third nothing else."""
    (query, document), score = draw(3)
    pad = [(0, 3), (0, 0)]
    query, document = (np.pad(x, pad, constant_values=1e3) for x in (query, document))
    score, is_pair = np.pad(score, (0, 3), constant_values=9), np.arange(6) < 3
    total, sums = 0.0, [np.zeros((6, 3)), np.zeros((6, 3))]
    with float64_allowed():
        for first in (0, 2, 4):
            order = np.roll(np.arange(6), -first)
            upstream = is_pair[order[:2]] / 3  # As the trainer does.
            values, gradients = value_and_gradients(
                of_batch(CoSENT(), score[order], rows=2, is_pair=is_pair[order]),
                query[order], document[order], upstream=upstream, dtype="float64",
            )  # fmt: skip
            total += values @ upstream
            for sum_, gradient in zip(sums, gradients, strict=True):
                sum_ += gradient[np.argsort(order)]
    pairs = query[:3].copy(), document[:3].copy()
    assert total == pytest.approx(reference(*pairs, score[:3]), rel=1e-12)
    expected = central_differences(lambda *x: reference(*x, score[:3]), *pairs)
    for found, gradient in zip(sums, expected, strict=True):
        np.testing.assert_allclose(found[:3], gradient, rtol=1e-5, atol=1e-6)
        assert not found[3:].any()


def test_large_scales_do_not_overflow():
    vectors = np.array([[[1.0, 0], [1, 0]], [[-1, 0], [1, 0]]])
    values, gradients = value_and_gradients(
        of_batch(CoSENT(1e4), np.array([1.0, 0.0], "float32")), *vectors
    )
    np.testing.assert_allclose(values, [2e4, 2e4], rtol=1e-6)
    assert np.isfinite(gradients).all()


def test_a_nan_is_not_hidden():
    vectors, _ = draw(4)
    vectors[0, 1] = np.nan
    found = of_batch(CoSENT(), np.arange(4.0))(*(ops.convert_to_tensor(x) for x in vectors))
    assert np.isnan(to_numpy(found)).all()


@pytest.mark.parametrize("scale", [0, -1.0, math.inf, math.nan, True, "20"])
def test_other_scales_are_refused(scale):
    with pytest.raises(ValueError, match="`scale` should be a positive finite number, or None"):
        CoSENT(scale)


def test_several_scores_a_pair_are_refused():
    vectors, _ = draw(4)
    with pytest.raises(ValueError, match=r"one score a pair.*Received: \(4, 2\)"):
        of_batch(CoSENT(), np.zeros((4, 2)))(*map(ops.convert_to_tensor, vectors))
