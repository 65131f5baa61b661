"""The head against slow loops, and the temperature's constraint on its way through `fit`."""

import math

import keras
import numpy as np
import pytest
import references
from gradients import central_differences, to_numpy, value_and_gradients, weight_gradient

from cptk.layers import ContrastiveHead


def embeddings(n, m, d=4, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, d)), rng.normal(size=(m, d))


@pytest.mark.slow_on_jax
@pytest.mark.parametrize("m", [3, 5])
def test_value_and_gradients_equal_the_loops(m):
    query, document = embeddings(3, m)
    upstream = np.random.default_rng(1).normal(size=(3, m))
    head = ContrastiveHead()
    tau = math.log(1 / 0.07)

    def reference(q, d):
        return float((references.head_logits(q, d, tau) * upstream).sum())

    value, gradients = value_and_gradients(head, query, document, upstream=upstream)

    expected_logits = references.head_logits(query, document, tau)
    np.testing.assert_allclose(value, expected_logits, rtol=1e-5, atol=1e-5)
    for found, expected in zip(
        gradients, central_differences(reference, query, document), strict=True
    ):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.slow_on_jax
def test_gradient_of_tau_equals_the_loops():
    query, document = embeddings(3, 3)
    head = ContrastiveHead(temperature=0.5)
    reference = references.head_logits(query, document, math.log(2))
    found = weight_gradient(
        lambda: keras.ops.sum(head(query.astype("float32"), document.astype("float32"))), head.tau
    )
    # d (cos * exp(tau)) / d tau is the logit itself.
    assert found == pytest.approx(reference.sum(), rel=1e-5, abs=1e-5)


def test_starts_at_the_temperature_asked_for():
    assert to_numpy(ContrastiveHead().tau).item() == pytest.approx(math.log(1 / 0.07), rel=1e-6)
    head = ContrastiveHead(temperature=0.05)
    assert to_numpy(head.temperature).item() == pytest.approx(0.05, rel=1e-6)
    assert [w.path.rsplit("/")[-1] for w in head.trainable_variables] == ["tau"]
    assert not ContrastiveHead(trainable=False).trainable_variables


class Pull(keras.Model):
    """Trains tau alone, to make the logits of equal vectors large (sign 1) or small (-1)."""

    def __init__(self, head, sign):
        super().__init__()
        self.head, self.sign = head, sign

    def call(self, x):
        return self.head(x, x)

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        return -self.sign * keras.ops.mean(y_pred)


@pytest.mark.parametrize("policy", ["float32", "mixed_float16"])
def test_the_scale_stops_at_its_limit_and_leaves_it_at_once(policy):
    head = ContrastiveHead(temperature=0.011, dtype=policy)
    x = np.ones((4, 3), "float32")
    for sign in (1.0, -1.0):
        model = Pull(head, sign)
        model.compile(optimizer=keras.optimizers.SGD(0.01), jit_compile=False)
        model.fit(x, x, batch_size=4, epochs=1 if sign < 0 else 3, verbose=0)
        scale = math.exp(to_numpy(head.tau).item())
        if sign > 0:
            assert scale == pytest.approx(100.0, rel=1e-5)
    # One SGD step of 0.01 * d mean(logits) / d tau = 0.01 * 100 from log(100): the whole
    # gradient, not the zero that a clip in the forward pass would leave.
    assert math.log(scale) == pytest.approx(math.log(100) - 1.0, rel=1e-4)


def test_the_scale_has_a_floor_too():
    head = ContrastiveHead(temperature=0.5)
    x = np.ones((4, 3), "float32")
    model = Pull(head, -1.0)
    model.compile(optimizer=keras.optimizers.SGD(5.0), jit_compile=False)
    model.fit(x, x, batch_size=4, epochs=2, verbose=0)
    assert to_numpy(head.temperature).item() == pytest.approx(1.0, rel=1e-6)


def test_a_first_temperature_above_one_is_its_own_floor():
    head = ContrastiveHead(temperature=2.0)
    assert head.min_scale == pytest.approx(0.5)
    assert ContrastiveHead.from_config(head.get_config()).min_scale == head.min_scale
    with pytest.raises(ValueError, match=r"must not be below min_scale.*2\.0.*0\.5.*min_scale=1"):
        ContrastiveHead(temperature=2.0, min_scale=1.0)


def test_the_limit_is_only_applied_after_a_step():
    head = ContrastiveHead()
    head.tau.assign(math.log(200))
    logits = to_numpy(head(np.ones((1, 2), "float32"), np.ones((1, 2), "float32")))
    assert logits.item() == pytest.approx(200, rel=1e-4)


@pytest.mark.slow_on_jax
def test_a_zero_vector_has_cosine_zero_and_a_finite_gradient():
    query, document = embeddings(2, 2)
    query[0] = 0
    value, gradients = value_and_gradients(ContrastiveHead(), query, document)
    assert not value[0].any()
    assert all(np.isfinite(gradient).all() for gradient in gradients)


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16", "bfloat16", "float16"])
def test_logits_and_tau_are_float32_under_lower_precision(policy):
    query, document = embeddings(3, 3)
    head = ContrastiveHead(dtype=policy)
    logits = head(query.astype("float32"), document.astype("float32"))
    assert keras.backend.standardize_dtype(logits.dtype) == "float32"
    assert head.tau.dtype == "float32"
    # Not merely cast to float32 at the end: as exact as under float32.
    expected = references.head_logits(query, document, math.log(1 / 0.07))
    np.testing.assert_allclose(to_numpy(logits), expected, rtol=1e-5, atol=1e-5)


def test_symbolic_logits_have_the_shape_and_dtype_of_real_ones():
    query, document = keras.Input((4,), batch_size=3), keras.Input((4,), batch_size=5)
    logits = ContrastiveHead(dtype="mixed_bfloat16")(query, document)
    assert logits.shape == (3, 5)
    assert logits.dtype == "float32"


def test_one_side_may_be_numpy_in_another_precision():
    query, document = embeddings(2, 2)
    logits = ContrastiveHead()(query, keras.ops.convert_to_tensor(document.astype("float32")))
    assert keras.backend.standardize_dtype(logits.dtype) == "float32"


@pytest.mark.parametrize("name", ["temperature", "max_scale"])
@pytest.mark.parametrize("value", [0, -1.0, math.nan, math.inf, "0.1", None, True])
def test_refuses_what_is_not_a_positive_number(name, value):
    with pytest.raises(ValueError, match=f"`{name}` to be a positive finite number.*Received"):
        ContrastiveHead(**{name: value})


def test_refuses_to_start_above_its_limit():
    with pytest.raises(ValueError, match=r"must not be above max_scale.*0\.001.*50"):
        ContrastiveHead(temperature=0.001, max_scale=50)


def test_may_start_at_its_limit():
    assert ContrastiveHead(temperature=0.01, max_scale=100)


@pytest.mark.parametrize(
    ("query", "document", "message"),
    [
        ((2, 3), (2, 4), r"of one width.*\(2, 3\).*\(2, 4\)"),
        ((2, 5, 3), (2, 3), r"expects `query` of shape \(batch, dim\).*\(2, 5, 3\).*Pool"),
        ((2, 3), (3,), r"expects `document` of shape \(batch, dim\)"),
    ],
)
def test_refuses_shapes_that_do_not_fit(query, document, message):
    with pytest.raises(ValueError, match=message):
        ContrastiveHead()(np.ones(query, "float32"), np.ones(document, "float32"))
