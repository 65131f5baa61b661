"""Pooling against slow loops, and what padding, masks and precision may not do to it."""

import keras
import numpy as np
import pytest
import references
from gradients import BACKEND, to_numpy, value_and_gradients
from hypothesis import given
from hypothesis import strategies as st

from cptk.layers import CLSPooling, EOSPooling, MaxPooling, MeanPooling, WeightedMeanPooling

REFERENCES = {
    EOSPooling: references.eos_pooling,
    CLSPooling: references.cls_pooling,
    MaxPooling: references.max_pooling,
    MeanPooling: references.mean_pooling,
    WeightedMeanPooling: references.weighted_mean_pooling,
}
MASKS = {
    "right padding": [[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]],
    "left padding": [[0, 0, 1, 1, 1], [0, 0, 0, 0, 1]],
    "holes": [[0, 1, 0, 1, 0], [1, 0, 0, 0, 1]],
    "an empty row": [[0, 0, 0, 0, 0], [1, 1, 0, 0, 0]],
}
each_pooling = pytest.mark.parametrize("pooling", REFERENCES, ids=lambda c: c.__name__)


def states_of(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


@each_pooling
@pytest.mark.parametrize("name", MASKS)
def test_value_and_gradient_equal_the_loops(pooling, name):
    states, mask = states_of(2, 5, 3), np.array(MASKS[name], bool)
    upstream = states_of(2, 3, seed=1)
    layer = pooling()

    def pooled(x):
        return layer(x, mask=keras.ops.convert_to_tensor(mask))

    value, (gradient,) = value_and_gradients(pooled, states, upstream=upstream)

    np.testing.assert_allclose(value, REFERENCES[pooling](states, mask), atol=1e-5)
    if pooling is MaxPooling:
        largest = np.where(mask[..., None], states, -np.inf).argmax(axis=1)
        expected = np.zeros_like(states)
        for row, k in np.ndindex(2, 3):
            expected[row, largest[row, k], k] = upstream[row, k] * mask[row].any()
        np.testing.assert_allclose(gradient, expected, atol=1e-6)
        return
    # The others are linear in the states: each gradient is the pooling of a one-hot state.
    for row, position, k in np.ndindex(*states.shape):
        one_hot = np.zeros_like(states)
        one_hot[row, position, k] = 1.0
        expected = (REFERENCES[pooling](one_hot, mask) * upstream).sum()
        assert gradient[row, position, k] == pytest.approx(expected, abs=1e-5)


@each_pooling
def test_no_mask_means_that_all_positions_are_real(pooling):
    states = states_of(2, 4, 3).astype("float32")
    expected = REFERENCES[pooling](states.astype("float64"), np.ones((2, 4), bool))
    np.testing.assert_allclose(to_numpy(pooling()(states)), expected, atol=1e-6)


@each_pooling
def test_a_row_without_tokens_gives_zeros_and_a_finite_gradient(pooling):
    mask = keras.ops.zeros((2, 4), dtype="bool")
    value, (gradient,) = value_and_gradients(lambda x: pooling()(x, mask=mask), states_of(2, 4, 3))
    assert not value.any()
    assert not gradient.any()


@each_pooling
@pytest.mark.parametrize("junk", [np.nan, np.inf, 1e30])
def test_padding_may_hold_anything(pooling, junk):
    states, mask = states_of(2, 5, 3), np.array(MASKS["holes"], bool)
    layer = pooling()

    def pooled(x):
        return layer(x, mask=keras.ops.convert_to_tensor(mask))

    clean, (clean_gradient,) = value_and_gradients(pooled, states)
    states[~mask] = junk
    value, (gradient,) = value_and_gradients(pooled, states)
    np.testing.assert_array_equal(value, clean)
    np.testing.assert_array_equal(gradient, clean_gradient)


@pytest.mark.slow_on_jax
@each_pooling
@given(
    length=st.sampled_from([1, 4]),
    left=st.sampled_from([0, 3]),
    right=st.sampled_from([0, 2]),
    seed=st.integers(0, 2**16),
)
def test_the_amount_the_side_and_the_contents_of_padding_do_not_matter(
    pooling, length, left, right, seed
):
    states = states_of(1, length, 3, seed=seed).astype("float32")
    around = np.pad(np.ones((1, length), bool), [(0, 0), (left, right)])
    padded = states_of(1, left + length + right, 3, seed=seed + 1).astype("float32") * 100
    padded[:, left : left + length] = states

    bare, wrapped = to_numpy(pooling()(states)), to_numpy(pooling()(padded, mask=around))

    np.testing.assert_allclose(wrapped, bare, rtol=1e-5, atol=1e-6)


@each_pooling
@pytest.mark.parametrize("kind", ["bool", "int32", "float32"])
def test_mask_may_be_booleans_or_zeros_and_ones(pooling, kind):
    states, mask = states_of(2, 5, 3).astype("float32"), np.array(MASKS["left padding"])
    expected = REFERENCES[pooling](states.astype("float64"), mask)
    np.testing.assert_allclose(
        to_numpy(pooling()(states, mask=mask.astype(kind))), expected, atol=1e-6
    )


@each_pooling
def test_takes_the_implicit_mask_of_an_embedding_and_ends_it(pooling):
    ids = np.array([[3, 1, 2, 0, 0], [4, 0, 0, 0, 0]])
    tokens = keras.Input((None,), dtype="int32")
    embedding = keras.layers.Embedding(5, 3, mask_zero=True)
    model = keras.Model(tokens, pooling()(embedding(tokens)))

    expected = REFERENCES[pooling](to_numpy(embedding(ids)).astype("float64"), ids != 0)

    np.testing.assert_allclose(model.predict(ids, verbose=0), expected, atol=1e-6)
    assert model.outputs[0].shape == (None, 3)
    assert getattr(pooling()(embedding(ids)), "_keras_mask", None) is None


@each_pooling
def test_explicit_mask_in_a_functional_model_of_unknown_length(pooling):
    states, mask = keras.Input((None, 3)), keras.Input((None,), dtype="bool")
    model = keras.Model([states, mask], pooling()(states, mask=mask))
    for length in (2, 5):
        x, real = states_of(2, length, 3).astype("float32"), np.tri(2, length) > 0
        expected = REFERENCES[pooling](x.astype("float64"), real)
        np.testing.assert_allclose(model.predict([x, real], verbose=0), expected, atol=1e-6)


@pytest.mark.skipif(BACKEND != "tensorflow", reason="tf.function")
@each_pooling
def test_gradient_in_a_graph_with_all_dimensions_unknown_but_the_last(pooling):
    import tensorflow as tf

    layer = pooling()

    @tf.function(
        input_signature=[tf.TensorSpec((None, None, 3)), tf.TensorSpec((None, None), bool)]
    )
    def gradient(states, mask):
        with tf.GradientTape() as tape:
            tape.watch(states)
            # Squared, so that the gradient passes through an operation before the pooling:
            # there TensorFlow warns where it has to turn IndexedSlices dense blindly.
            loss = tf.reduce_sum(layer(states * states, mask=mask))
        return tape.gradient(loss, states)

    states, mask = states_of(2, 5, 3), np.array(MASKS["holes"], bool)
    _, (linear,) = value_and_gradients(
        lambda x: layer(x, mask=keras.ops.convert_to_tensor(mask)), states * states
    )
    found = gradient(states.astype("float32"), mask)
    np.testing.assert_allclose(found, 2 * states * linear, rtol=1e-5)


@pytest.mark.parametrize("pooling", [MeanPooling, WeightedMeanPooling])
@pytest.mark.parametrize("masked", [False, True])
def test_rounds_once_under_mixed_precision(pooling, masked):
    if pooling is MeanPooling and not masked:
        pytest.skip("backends add a plain mean up in float32 by themselves")
    states = keras.ops.cast(states_of(1, 100, 256), "bfloat16")
    exact = REFERENCES[pooling](to_numpy(states).astype("float64"), np.ones((1, 100), bool))
    mask = keras.ops.ones((1, 100), dtype="bool") if masked else None

    pooled = pooling(dtype="mixed_bfloat16")(states, mask=mask)

    assert keras.backend.standardize_dtype(pooled.dtype) == "bfloat16"
    # Summed in float32, all but a tie or two are the bfloat16 nearest to the exact mean;
    # a sum or a product rounded to bfloat16 on the way would move a third of them.
    nearest = to_numpy(keras.ops.cast(exact.astype("float32"), "bfloat16"))
    assert np.mean(to_numpy(pooled) != nearest) < 0.02


def test_eos_pooling_of_one_dtype_returns_the_very_numbers():
    states = states_of(2, 5, 3).astype("float32")
    mask = np.array(MASKS["right padding"], bool)
    pooled = to_numpy(EOSPooling()(states, mask=mask))
    np.testing.assert_array_equal(pooled, states[[0, 1], [2, 4]])


@each_pooling
@pytest.mark.parametrize(
    ("shape", "mask_shape", "message"),
    [
        ((2, 3), None, r"expects `inputs` of shape \(batch, length, dim\).*\(2, 3\)"),
        ((2, 0, 3), None, r"at least one position.*\(2, 0, 3\)"),
        ((2, 3, 4), (2, 4), r"expects `mask` of shape \(batch, length\).*\(2, 4\)"),
        ((2, 3, 4), (3, 3), r"expects `mask`.*\(3, 3\)"),
        ((2, 3, 4), (2, 3, 1), r"expects `mask`.*\(2, 3, 1\)"),
    ],
)
def test_refuses_shapes_that_do_not_fit(pooling, shape, mask_shape, message):
    mask = None if mask_shape is None else np.ones(mask_shape, bool)
    with pytest.raises(ValueError, match=message):
        pooling()(np.zeros(shape, "float32"), mask=mask)


@each_pooling
def test_refuses_a_wrong_rank_when_asked_for_the_output_shape(pooling):
    assert pooling().compute_output_shape((None, None, 8)) == (None, 8)
    with pytest.raises(ValueError, match="expects `inputs` of shape"):
        pooling().compute_output_shape((None, 8))
