"""InfoNCE against slow loops: values, gradients, extremes, symmetries, refusals."""

import math

import keras
import numpy as np
import pytest
import references
from gradients import BACKEND, float64_allowed, to_numpy, value_and_gradients
from hypothesis import given
from hypothesis import strategies as st

from cptk.losses import cosine_logits, info_nce, symmetric_info_nce

LOSSES = {
    info_nce: (references.info_nce, references.info_nce_gradient),
    symmetric_info_nce: (references.symmetric_info_nce, references.symmetric_info_nce_gradient),
}
each_loss = pytest.mark.parametrize("loss", LOSSES, ids=lambda f: f.__name__)


def batch(n, m, scale=5.0, seed=0):
    """Logits, a mask of about a third with True on the diagonal too, weights."""
    rng = np.random.default_rng(seed)
    mask = rng.random((n, m)) < 0.3
    mask[:, :n] |= np.eye(n, dtype=bool)
    weights = rng.random(n)
    weights[0] = 0.0
    # Multiples of 1/64: exact in float32, so that a loop over float64 sees the same logits.
    return np.round(rng.normal(size=(n, m)) * scale * 64) / 64, mask, weights


def check(loss, logits, mask=None, weights=None, rtol=1e-5):
    value_of, gradient_of = LOSSES[loss]

    def of_logits(x):
        keywords = {}
        if mask is not None:
            keywords["mask"] = keras.ops.convert_to_tensor(mask)
        if weights is not None:
            keywords["sample_weight"] = keras.ops.convert_to_tensor(weights, dtype="float32")
        return loss(x, **keywords)

    value, (gradient,) = value_and_gradients(of_logits, logits)
    assert value.dtype == np.float32
    np.testing.assert_allclose(value, value_of(logits, mask, weights), rtol=rtol, atol=1e-5)
    np.testing.assert_allclose(gradient, gradient_of(logits, mask, weights), rtol=rtol, atol=1e-5)


@each_loss
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(("n", "m"), [(1, 1), (4, 4), (3, 7)])
def test_value_and_gradient_equal_the_loops(loss, n, m, masked, weighted):
    logits, mask, weights = batch(n, m)
    check(loss, logits, mask if masked else None, weights if weighted else None)


@each_loss
@pytest.mark.parametrize("masked", [False, True])
def test_extreme_logits(loss, masked):
    logits, mask, _ = batch(4, 6)
    logits += np.random.default_rng(2).choice([-1e4, 1e4], size=(4, 6))
    check(loss, logits, mask if masked else None)


@each_loss
def test_large_logits_cost_no_digits(loss):
    # Shifting all logits changes no loss; log sum exp(l) - l_ii would round to 1e-3 here.
    logits, _, _ = batch(4, 4)
    np.testing.assert_allclose(
        to_numpy(loss((logits + 1e4).astype("float32"))),
        LOSSES[loss][0](logits),
        rtol=1e-5,
        atol=1e-6,
    )


@each_loss
def test_all_negatives_masked_leaves_loss_and_gradient_zero(loss):
    mask = keras.ops.ones((3, 5), dtype="bool")
    value, (gradient,) = value_and_gradients(lambda x: loss(x, mask), batch(3, 5)[0])
    np.testing.assert_allclose(value, 0, atol=1e-6)
    np.testing.assert_allclose(gradient, 0, atol=1e-6)


@each_loss
def test_masked_entries_change_nothing_and_get_no_gradient(loss):
    logits, mask, _ = batch(4, 6)
    off = mask & ~np.eye(4, 6, dtype=bool)
    tensor = keras.ops.convert_to_tensor(mask)
    value, (gradient,) = value_and_gradients(lambda x: loss(x, tensor), logits)
    for junk in (1e4, -1e4):
        other, (other_gradient,) = value_and_gradients(
            lambda x: loss(x, tensor), np.where(off, junk, logits)
        )
        np.testing.assert_array_equal(value, other)
        np.testing.assert_array_equal(gradient, other_gradient)
    assert not gradient[off].any()


@pytest.mark.slow_on_jax
@each_loss
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_low_precision_logits_are_summed_in_float32(loss, dtype):
    # 1,024 equal logits: log(1024) needs a sum that neither dtype can hold to the last unit.
    value, (gradient,) = value_and_gradients(
        lambda x: keras.ops.cast(loss(keras.ops.cast(x, dtype)), "float32"), np.zeros((8, 1024))
    )
    row = math.log(1024)
    expected = row if loss is info_nce else (row + math.log(8)) / 2
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    assert np.isfinite(gradient).all()
    result = loss(keras.ops.zeros((2, 2), dtype=dtype))
    assert keras.backend.standardize_dtype(result.dtype) == "float32"


@each_loss
def test_float64_stays(loss):
    with float64_allowed():
        logits, mask, weights = batch(4, 6)
        value = loss(keras.ops.convert_to_tensor(logits, dtype="float64"), mask, weights)
        assert keras.backend.standardize_dtype(value.dtype) == "float64"
        expected = LOSSES[loss][0](logits, mask, weights)
        np.testing.assert_allclose(to_numpy(value), expected, rtol=1e-12)


@each_loss
def test_takes_lists_integers_and_numpy_scalars(loss):
    expected = LOSSES[loss][0](np.array([[2.0, 1.0], [0.0, 1.0]]), None, np.array([1.0, 2.0]))
    value = loss([[2, 1], [0, 1]], mask=[[0, 0], [0, 0]], sample_weight=[1, np.float64(2)])
    np.testing.assert_allclose(to_numpy(value), expected, rtol=1e-6)
    assert keras.backend.standardize_dtype(value.dtype) == "float32"


@given(shape=st.sampled_from([(1, 1), (4, 4), (3, 5)]), seed=st.integers(0, 2**16))
def test_permuting_the_pairs_together_permutes_the_losses(shape, seed):
    n, extra = shape[0], shape[1] - shape[0]
    logits, mask, weights = batch(n, n + extra, seed=seed)
    order = np.random.default_rng(seed).permutation(n)
    columns = np.concatenate([order, n + np.random.default_rng(seed).permutation(extra)])
    columns = columns.astype(int)

    for loss in LOSSES:
        value = to_numpy(loss(logits.astype("float32"), mask, weights))
        permuted = to_numpy(
            loss(
                logits[order][:, columns].astype("float32"),
                mask[order][:, columns],
                weights[order],
            )
        )
        np.testing.assert_allclose(permuted, value[order], rtol=1e-5, atol=1e-6)


@given(n=st.sampled_from([1, 5]), seed=st.integers(0, 2**16))
def test_swapping_the_sides_changes_nothing(n, seed):
    logits, mask, weights = batch(n, n, seed=seed)
    logits = logits.astype("float32")
    value = to_numpy(symmetric_info_nce(logits, mask, weights))
    swapped = to_numpy(symmetric_info_nce(logits.T, mask.T, weights))
    np.testing.assert_allclose(swapped, value, rtol=1e-5, atol=1e-6)


@given(n=st.sampled_from([2, 5]), seed=st.integers(0, 2**16))
def test_masking_a_column_is_leaving_it_out(n, seed):
    logits, _, _ = batch(n, n + 2, seed=seed)
    mask = np.zeros((n, n + 2), bool)
    mask[:, n:] = True
    logits = logits.astype("float32")
    for loss in LOSSES:
        np.testing.assert_allclose(
            to_numpy(loss(logits, mask)), to_numpy(loss(logits[:, :n])), rtol=1e-5, atol=1e-6
        )


@pytest.mark.skipif(BACKEND != "tensorflow", reason="tf.function")
@each_loss
@pytest.mark.parametrize("jit", [False, True])
def test_gradient_in_a_graph_of_unknown_shape(loss, jit):
    import tensorflow as tf

    @tf.function(
        input_signature=[tf.TensorSpec((None, None)), tf.TensorSpec((None, None), tf.bool)],
        jit_compile=jit,
    )
    def gradient(logits, mask):
        with tf.GradientTape() as tape:
            tape.watch(logits)
            value = loss(logits * 1.0, mask)
        return tape.gradient(value, logits)

    logits, mask, _ = batch(3, 5)
    expected = LOSSES[loss][1](logits, mask)
    np.testing.assert_allclose(gradient(logits.astype("float32"), mask), expected, atol=1e-5)


def test_cosine_logits_equal_the_loops():
    rng = np.random.default_rng(0)
    query, document = rng.normal(size=(2, 3)), rng.normal(size=(4, 3))
    expected = references.head_logits(query, document, math.log(1 / 0.05))
    for temperature in (0.05, np.float64(0.05), keras.ops.convert_to_tensor(0.05)):
        logits = cosine_logits(query.astype("float32"), document.astype("float32"), temperature)
        assert keras.backend.standardize_dtype(logits.dtype) == "float32"
        np.testing.assert_allclose(to_numpy(logits), expected, rtol=1e-5, atol=1e-5)


@each_loss
@pytest.mark.parametrize(
    ("logits", "mask", "weight", "message"),
    [
        ((4,), None, None, r"`logits` of shape \(n, m\).*\(4,\)"),
        ((2, 2, 2), None, None, r"`logits` of shape \(n, m\)"),
        (
            (3, 2),
            None,
            None,
            r"`logits` with at least as many columns as rows.*\(3, 2\).*transpose",
        ),
        ((2, 3), (2, 2), None, r"`mask` of the shape of `logits`, \(2, 3\).*\(2, 2\)"),
        ((2, 3), (3,), None, r"`mask` of the shape of `logits`"),
        ((2, 3), None, (3,), r"`sample_weight` of shape \(2,\).*\(3,\)"),
        ((2, 3), None, (2, 1), r"`sample_weight` of shape \(2,\).*\(2, 1\)"),
    ],
)
def test_refuses_shapes_that_do_not_fit(loss, logits, mask, weight, message):
    mask = None if mask is None else np.zeros(mask, bool)
    weight = None if weight is None else np.ones(weight, "float32")
    with pytest.raises(ValueError, match=f"{loss.__name__} expects {message}"):
        loss(np.zeros(logits, "float32"), mask, weight)


@pytest.mark.parametrize("temperature", [0, -0.1, math.nan, np.float32(0)])
def test_refuses_a_temperature_that_is_not_positive(temperature):
    with pytest.raises(ValueError, match="`temperature` above 0"):
        cosine_logits([[1.0]], [[1.0]], temperature)


def test_refuses_a_temperature_per_row():
    with pytest.raises(ValueError, match=r"scalar `temperature`.*\(2,\)"):
        cosine_logits([[1.0], [1.0]], [[1.0], [1.0]], [0.1, 0.2])
