"""Normalisation and cosine: exact at both ends of the range, silent about nothing."""

import keras
import numpy as np
import pytest
import references
from gradients import central_differences, float64_allowed, to_numpy, value_and_gradients
from hypothesis import given
from hypothesis import strategies as st

from cptk.ops import cosine_similarity, l2_normalize


def unit(x):
    return x / np.sqrt((x * x).sum(-1, keepdims=True))


def test_value_and_gradient_equal_float64():
    x, upstream = np.random.default_rng(0).normal(size=(2, 3, 4))
    value, (gradient,) = value_and_gradients(l2_normalize, x, upstream=upstream)
    np.testing.assert_allclose(value, unit(x), rtol=1e-5)
    (expected,) = central_differences(lambda t: float((unit(t) * upstream).sum()), x)
    np.testing.assert_allclose(gradient, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("size", [1e-29, 1e-22, 1.0, 1e19, 1e30])
def test_length_of_the_vector_costs_no_digits(size):
    x = np.random.default_rng(0).normal(size=(2, 4)).astype("float32")
    value, (gradient,) = value_and_gradients(l2_normalize, x * np.float32(size))
    np.testing.assert_allclose(value, unit(x.astype("float64")), rtol=1e-6)
    _, (expected,) = value_and_gradients(l2_normalize, x)
    np.testing.assert_allclose(gradient * size, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_low_precision_comes_out_in_float32_at_unit_length(dtype):
    # 3e4 squared is past float16's 65,504, 1e-6 squared below its smallest number.
    x = keras.ops.cast([[3e4, 3e4, 1e4], [1e-6, 2e-6, 0.0]], dtype)
    y = l2_normalize(x)
    assert keras.backend.standardize_dtype(y.dtype) == "float32"
    np.testing.assert_allclose((to_numpy(y) ** 2).sum(-1), 1.0, rtol=1e-6)


def test_float64_stays():
    with float64_allowed():
        x = np.random.default_rng(0).normal(size=(2, 4))
        y = l2_normalize(keras.ops.convert_to_tensor(x, dtype="float64"))
        np.testing.assert_allclose(to_numpy(y), unit(x), rtol=1e-14)


@pytest.mark.parametrize("zero", [0.0, 1e-31, 1e-45])
def test_zero_gives_zero_and_gradient_zero(zero):
    x = np.array([[zero, -zero], [3.0, 4.0]], "float32")
    value, (gradient,) = value_and_gradients(l2_normalize, x)
    np.testing.assert_allclose(value, [[0, 0], [0.6, 0.8]], rtol=1e-6)
    assert not gradient[0].any()
    assert np.isfinite(gradient).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_nan_and_infinity_are_not_hidden(bad):
    y = to_numpy(l2_normalize(np.array([[bad, 1.0], [3.0, 4.0]], "float32")))
    assert np.isnan(y[0]).any()
    assert np.isfinite(y[1]).all()


def test_axis_and_symbolic_input():
    x = np.random.default_rng(0).normal(size=(3, 2)).astype("float32")
    np.testing.assert_allclose(to_numpy(l2_normalize(x, axis=0)), unit(x.T).T, rtol=1e-6)
    inputs = keras.Input((2,))
    model = keras.Model(inputs, l2_normalize(inputs))
    np.testing.assert_allclose(model.predict(x, verbose=0), unit(x), rtol=1e-6)


@given(shape=st.sampled_from([(1, 1, 1), (3, 2, 4)]), seed=st.integers(0, 2**16))
def test_cosine_equals_the_loop_and_ignores_lengths(shape, seed):
    n, m, d = shape
    rng = np.random.default_rng(seed)
    query, document = rng.normal(size=(n, d)), rng.normal(size=(m, d))
    expected = [[references.cosine(q, x) for x in document] for q in query]
    scaled = query * np.exp(rng.normal(size=(n, 1)) * 5)
    for q in (query, scaled):
        found = to_numpy(cosine_similarity(q.astype("float32"), document.astype("float32")))
        np.testing.assert_allclose(found, expected, atol=1e-5)


def test_cosine_refuses_shapes_that_do_not_fit():
    with pytest.raises(ValueError, match=r"cosine_similarity expects .* of one width"):
        cosine_similarity(np.ones((2, 3)), np.ones((2, 4)))
    with pytest.raises(ValueError, match=r"cosine_similarity expects `query` of shape"):
        cosine_similarity(np.ones(3), np.ones((2, 3)))
