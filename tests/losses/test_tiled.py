"""The loss in tiles against NumPy in float64 with the whole matrix: values, gradients, scores."""

import contextlib
import math

import keras
import numpy as np
import pytest
import references
from gradients import BACKEND, float64_allowed, to_numpy, value_and_gradients
from hypothesis import given, settings
from hypothesis import strategies as st
from tiers import FULL

from cptk.losses import (
    cosine_logits,
    info_nce,
    same_text_mask,
    symmetric_info_nce,
    tiled_info_nce,
    tiled_symmetric_info_nce,
)
from cptk.losses.scores import in_batch_scores
from cptk.losses.tiles import streamed_info_nce

LOSSES = {tiled_info_nce: info_nce, tiled_symmetric_info_nce: symmetric_info_nce}
each_loss = pytest.mark.parametrize("loss", LOSSES, ids=lambda f: f.__name__)
TOLERANCE = {"float32": (1e-6, 1e-5), "float64": (1e-12, 1e-12)}


# --- the reference --------------------------------------------------------------------------------


def unit(x):
    length = np.linalg.norm(x, axis=1, keepdims=True)
    return np.divide(x, length, out=np.zeros_like(x), where=length > 0)


def left_out_of(n, m, row_ids=(), column_ids=(), keep=None):
    """(n, m), True where a pair is no negative; the diagonal is not one here."""
    mask = np.zeros((n, m), bool)
    for rows, columns in zip(row_ids, column_ids, strict=True):
        mask |= rows[:, None] == columns[None, :]
    if keep is not None:
        mask |= ~keep[:n, None] | ~keep[None, :]
    mask[np.arange(n), np.arange(n)] = False
    return mask


def softmax(logits, mask, axis):
    """The softmax over what is kept, and its logarithm at the diagonal."""
    kept = np.where(mask, -np.inf, logits)
    shifted = kept - kept.max(axis=axis, keepdims=True)
    total = np.exp(shifted).sum(axis=axis, keepdims=True)
    return np.exp(shifted) / total, np.diagonal(shifted - np.log(total))


def smoothed(logits, mask, axis, smoothing):
    """Losses of rows (axis 1) or columns, and the gradient of each for its logits."""
    found, log_found = softmax(logits, mask, axis)
    target = np.where(mask, 0.0, smoothing / (~mask).sum(axis=axis, keepdims=True))
    n = min(logits.shape)
    target[np.arange(n), np.arange(n)] += 1 - smoothing
    # Cross-entropy with the smoothed target: log softmax is that of the diagonal plus a difference.
    positive = np.diagonal(logits)
    differences = logits - (positive[:, None] if axis == 1 else positive[None, :])
    return -log_found - (target * differences).sum(axis=axis), found - target


def reference(query, document, scale, mask, row_weights, column_weights, smoothing=0.0):
    """Losses of rows and columns; gradients of their sum, weighted, for query, document, scale."""
    n = len(query)
    cosine = query @ document.T
    rows, of_rows = smoothed(scale * cosine, mask, 1, smoothing)
    columns, of_columns = smoothed(scale * cosine[:, :n], mask[:, :n], 0, smoothing)
    gradient = row_weights[:, None] * of_rows
    gradient[:, :n] += column_weights[None, :] * of_columns
    return (
        (rows, columns),
        (
            scale * gradient @ document,
            scale * gradient.T @ query,
            np.sum(gradient * cosine),
        ),
    )


def draw_case(n, m, d, distinct, dtype, seed):
    """Unit vectors whose entries the dtype holds, ids of few texts, places without a pair."""
    rng = np.random.default_rng(seed)
    query, document = (unit(rng.normal(size=(size, d))).astype(dtype) for size in (n, m))
    return {
        "query": query.astype("float64"),
        "document": document.astype("float64"),
        "row_ids": tuple(rng.integers(0, distinct, n).astype("int32") for _ in range(2)),
        "column_ids": tuple(rng.integers(0, distinct, m).astype("int32") for _ in range(2)),
        "keep": rng.random(m) < 0.8,
        "weights": rng.normal(size=(2, n)).astype(dtype).astype("float64"),
    }


def close(actual, expected, tolerance):
    """Relative to the largest entry, or to 1 if that is less."""
    bound = tolerance * max(1.0, np.abs(expected).max(initial=0.0))
    np.testing.assert_allclose(actual, expected, rtol=0, atol=bound)


def compiled(function):
    """JAX compiles each loop for itself otherwise, which takes longer."""
    if BACKEND != "jax":
        return function
    import jax

    return jax.jit(function)


def check(case, scale, tile_size, dtype, symmetric=True, masks=("ids", "keep"), smoothing=0.0):
    query, document = case["query"], case["document"]
    n, m = len(query), len(document)
    ids = {name: case[name] for name in ("row_ids", "column_ids")} if "ids" in masks else {}
    keep = case["keep"] if "keep" in masks else None
    mask = left_out_of(n, m, **ids, keep=keep)
    counted = np.ones(n, bool) if keep is None else keep[:n]
    weights = case["weights"] * np.array([[1.0], [float(symmetric)]]) * counted
    losses, gradients = reference(query, document, scale, mask, *weights, smoothing)
    tensors = {
        name: tuple(keras.ops.convert_to_tensor(v) for v in vectors)
        for name, vectors in ids.items()
    }

    def streamed(query, document, scale):
        rows, columns, _, _ = streamed_info_nce(
            query,
            document,
            scale,
            **tensors,
            keep=None if keep is None else keras.ops.convert_to_tensor(keep),
            symmetric=symmetric,
            tile_size=tile_size,
            label_smoothing=smoothing,
        )
        assert (columns is None) != symmetric
        return keras.ops.stack([rows, columns] if symmetric else [rows])

    values, found = value_and_gradients(
        compiled(streamed),
        query,
        document,
        np.float64(scale),
        upstream=weights[: 1 + symmetric],
        dtype=dtype,
    )
    assert values.dtype == dtype
    assert np.isfinite(values).all()
    of_value, of_gradient = TOLERANCE[dtype]
    # A logit of size `scale` is rounded to scale * eps: nobody's float32 knows it better.
    logit = 4 * scale * np.finfo(dtype).eps
    expected = np.stack(losses)[: 1 + symmetric, counted]
    close(values[:, counted], expected, of_value + logit)
    for actual, gradient in zip(found, gradients, strict=True):
        close(actual, gradient, of_gradient + logit)


# --- values and gradients -------------------------------------------------------------------------

SHAPES = [(1, 1), (1, 4), (2, 2), (3, 5), (4, 4), (5, 5), (5, 9), (7, 8)]
OTHERS = {
    "d": st.integers(1, 4),
    "tile_size": st.integers(1, 9),
    "distinct": st.integers(1, 12),
    "scale": st.sampled_from([0.5, 2.0, 14.0, 50.0, 100.0]),
    "masks": st.sets(st.sampled_from(["ids", "keep"])),
    "symmetric": st.booleans(),
    "dtype": st.sampled_from(["float32", "float64"]),
    "smoothing": st.sampled_from([0.0, 0.2]),
    "seed": st.integers(0, 2**16),
}
cases = given(shape=st.sampled_from(SHAPES), **OTHERS)
any_shape = given(
    shape=st.tuples(st.integers(1, 40), st.integers(0, 20)).map(lambda s: (s[0], sum(s))),
    **{**OTHERS, "d": st.integers(1, 32), "tile_size": st.integers(4, 50)},
)


def check_any(shape, d, tile_size, distinct, scale, masks, symmetric, dtype, smoothing, seed):
    with float64_allowed() if dtype == "float64" else contextlib.nullcontext():
        case = draw_case(*shape, d, distinct, dtype, seed)
        check(case, scale, tile_size, dtype, symmetric, masks, smoothing)


@pytest.mark.slow
@pytest.mark.skipif(BACKEND == "jax", reason="each shape is compiled")
@cases
def test_equals_numpy_at_any_tile_size(**drawn):
    check_any(**drawn)


@pytest.mark.slow
@pytest.mark.skipif(
    BACKEND == "jax" and not FULL,
    reason="each shape is compiled: CPTK_FULL=1",
)
@any_shape
@settings(max_examples=200)
def test_equals_numpy_in_200_shapes(**drawn):
    check_any(**drawn)


@pytest.mark.slow_on_jax
@pytest.mark.parametrize(
    ("n", "m", "tile_size", "dtype", "smoothing"),
    [
        (5, 9, 3, "float32", 0.0),
        (5, 9, 3, "float64", 0.3),
        (6, 6, None, "float32", 0.0),
    ],
)
def test_equals_numpy(n, m, tile_size, dtype, smoothing):
    with float64_allowed() if dtype == "float64" else contextlib.nullcontext():
        case = draw_case(n, m, 4, 6, dtype, seed=0)
        check(case, 14.0, tile_size, dtype, smoothing=smoothing)


def plain_and_tiled(loss, dtype="float32", tile_size=3, d=4, sides=(5, 7)):
    """Values and gradients of both, with everything that a caller can give."""
    rng = np.random.default_rng(0)
    query, document = (rng.normal(size=(size, d)) for size in sides)
    query_ids, document_ids = rng.integers(-2, 2, sides[0]), rng.integers(0, 4, sides[1])
    weights = rng.random(sides[0]).astype(dtype)

    def plain(query, document, temperature):
        logits = cosine_logits(query, document, temperature)
        mask = same_text_mask(query_ids, document_ids)
        return LOSSES[loss](logits, mask, weights, label_smoothing=0.1)

    def tiled(query, document, temperature):
        return loss(
            query,
            document,
            temperature,
            query_ids=query_ids,
            document_ids=document_ids,
            sample_weight=weights,
            label_smoothing=0.1,
            tile_size=tile_size,
        )

    arrays = (query, document, np.float64(0.07))
    return [value_and_gradients(compiled(f), *arrays, dtype=dtype) for f in (plain, tiled)]


@pytest.mark.slow_on_jax
@each_loss
def test_equals_the_plain_loss(loss):
    with float64_allowed():
        (value, gradients), (found, found_gradients) = plain_and_tiled(loss, "float64")
    assert found.dtype == np.float64
    close(found, value, 1e-12)
    for actual, expected in zip(found_gradients, gradients, strict=True):
        close(actual, expected, 1e-12)


@pytest.mark.slow_on_jax
@each_loss
@pytest.mark.parametrize("tile_size", [1, 4, 100])
def test_float32_equals_the_plain_loss(loss, tile_size):
    (value, gradients), (found, found_gradients) = plain_and_tiled(loss, tile_size=tile_size)
    assert found.dtype == np.float32
    close(found, value, 1e-6)
    for actual, expected in zip(found_gradients, gradients, strict=True):
        close(actual, expected, 1e-5)


@pytest.mark.slow_on_jax
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_low_precision_is_summed_in_float32(dtype):
    # 700 equal logits: log(700) needs a sum that neither dtype holds to the last unit.
    def loss(query, document):
        losses = tiled_symmetric_info_nce(*(keras.ops.cast(x, dtype) for x in (query, document)))
        assert keras.backend.standardize_dtype(losses.dtype) == "float32"
        return losses

    ones = np.ones((700, 2))
    value, gradients = value_and_gradients(compiled(loss), ones, ones)
    np.testing.assert_allclose(value, math.log(700), rtol=1e-6)
    assert all(np.isfinite(gradient).all() for gradient in gradients)


@pytest.mark.slow_on_jax
def test_tiny_losses_keep_their_digits():
    # log(1 + 2 e^-20) = 4e-9, where log sum exp(l) - l_ii would give 0 in float32.
    eye = keras.ops.eye(3)
    rows, columns, _, _ = streamed_info_nce(eye, eye, 20.0, tile_size=2)
    for losses in (rows, columns):
        np.testing.assert_allclose(to_numpy(losses), math.log1p(2 * math.exp(-20)), rtol=1e-5)


@pytest.mark.parametrize("scale", [1.0, 100.0, 1000.0])
def test_opposite_and_zero_embeddings(scale):
    # Query 0 has its document opposite, 1 is the zero vector, 2 meets itself.
    query = np.array([[1.0, 0.0], [0.0, 0.0], [0.0, 1.0]])
    document = np.array([[-1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    mask = np.zeros((3, 3), bool)
    weights = np.ones((2, 3))
    losses, gradients = reference(query, document, scale, mask, *weights)

    def streamed(query, document, scale):
        return keras.ops.stack(streamed_info_nce(query, document, scale, tile_size=2)[:2])

    found, found_gradients = value_and_gradients(
        compiled(streamed), query, document, np.float64(scale)
    )
    close(found, np.stack(losses), 1e-6)
    for actual, expected in zip(found_gradients, gradients, strict=True):
        close(actual, expected, 1e-6)


def test_zero_vectors_get_no_gradient():
    def loss(query, document):
        return tiled_symmetric_info_nce(query, document, tile_size=2)

    value, gradients = value_and_gradients(compiled(loss), np.zeros((3, 2)), np.eye(3, 2))
    np.testing.assert_allclose(value, math.log(3), rtol=1e-6)
    assert not gradients[0].any()
    assert np.isfinite(gradients[1]).all()


# --- scores ---------------------------------------------------------------------------------------


@pytest.mark.slow_on_jax
@pytest.mark.parametrize(
    ("n", "m", "tile_size"),
    [(5, 8, 3), *(pytest.param(6, 6, t, marks=pytest.mark.slow_on_jax) for t in (1, 2, 4, 9))],
)
def test_scores_equal_the_metric_with_ties_and_masks(n, m, tile_size):
    # Small integers: their products are exact, and many are equal.
    rng = np.random.default_rng(0)
    query, document = (rng.integers(-1, 2, (size, 3)).astype("float32") for size in (n, m))
    document[:n] += query
    case = draw_case(n, m, 3, 8, "float32", seed=1)
    ids = {name: case[name] for name in ("row_ids", "column_ids")}
    mask = left_out_of(n, m, **ids, keep=case["keep"])
    kept = case["keep"][:n]

    def scores(query, document, keep, *ids):
        ids = {"row_ids": ids[:2], "column_ids": ids[2:]}
        return streamed_info_nce(query, document, 2.0, **ids, keep=keep, tile_size=tile_size)[2:]

    arguments = (query, document, case["keep"], *ids["row_ids"], *ids["column_ids"])
    rows, columns = compiled(scores)(*map(keras.ops.convert_to_tensor, arguments))
    logits = 2 * query @ document.T
    expected = to_numpy(in_batch_scores(keras.ops.convert_to_tensor(logits), mask))
    np.testing.assert_array_equal(to_numpy(rows)[kept], expected[kept])
    assert len(set(expected[kept])) > 1
    square = keras.ops.convert_to_tensor(logits[:, :n].T)
    expected = to_numpy(in_batch_scores(square, mask[:, :n].T))
    np.testing.assert_array_equal(to_numpy(columns)[kept], expected[kept])


@pytest.mark.parametrize("tile_size", [3, pytest.param(9, marks=pytest.mark.slow_on_jax)])
@pytest.mark.parametrize("symmetric", [True, False])
def test_equal_texts_tie_whatever_the_last_bit(tile_size, symmetric):
    rng = np.random.default_rng(1)
    n, m = (7, 7) if symmetric else (5, 8)
    ids = rng.integers(0, 3, m), rng.integers(0, 3, n)
    query, document = (
        (vectors[text] + rng.normal(size=(len(text), 3)) * 1e-6).astype("float32")
        for vectors, text in zip((np.eye(3), np.eye(3)[[0, 1, 1]]), ids[::-1], strict=True)
    )
    query[: n // 2] = document[: n // 2]

    def scores(query, document, *text_ids):
        found = streamed_info_nce(
            query, document, 14.0, symmetric=symmetric, tile_size=tile_size, text_ids=text_ids
        )
        return found[2:] if symmetric else found[2:3]

    given = [keras.ops.convert_to_tensor(i, dtype="int32") for i in ids[: 1 + symmetric]]
    found = compiled(scores)(*map(keras.ops.convert_to_tensor, (query, document)), *given)
    logits = 14.0 * query.astype("float64") @ document.astype("float64").T
    sides = ((logits, ids[0]), (logits.T, ids[1]))[: 1 + symmetric]
    for actual, side in zip(found, sides, strict=True):
        expected = references.in_batch_accuracy(*side)
        np.testing.assert_allclose(to_numpy(actual), expected, rtol=1e-6)
        assert len({*expected}) > 1


@pytest.mark.slow_on_jax
def test_collapsed_embeddings_score_chance():
    ones = keras.ops.ones((6, 1))
    _, _, rows, columns = streamed_info_nce(ones, ones, 20.0, tile_size=4)
    np.testing.assert_allclose(to_numpy(rows), 1 / 6, rtol=1e-6)
    np.testing.assert_allclose(to_numpy(columns), 1 / 6, rtol=1e-6)


@pytest.mark.slow_on_jax
def test_nan_scores_nothing():
    query = keras.ops.convert_to_tensor([[math.nan, 0.0], [0.0, 1.0]])
    losses, _, scores, _ = streamed_info_nce(query, keras.ops.eye(2), 20.0)
    np.testing.assert_array_equal(to_numpy(scores), [0.0, 1.0])
    np.testing.assert_array_equal(np.isnan(to_numpy(losses)), [True, False])


# --- how it runs ----------------------------------------------------------------------------------


def graph_gradient(jit):
    import tensorflow as tf

    @tf.function(
        input_signature=[
            tf.TensorSpec((None, None)),
            tf.TensorSpec((None, None)),
            tf.TensorSpec((None,), tf.int64),
            tf.TensorSpec((None,), tf.int64),
        ],
        jit_compile=jit,
        autograph=False,
    )
    def gradient(query, document, query_ids, document_ids):
        with tf.GradientTape() as tape:
            tape.watch((query, document))
            value = tiled_symmetric_info_nce(
                query, document, query_ids=query_ids, document_ids=document_ids, tile_size=2
            )
        return value, *tape.gradient(value, (query, document))

    return gradient


@pytest.mark.skipif(BACKEND != "tensorflow", reason="tf.function")
@pytest.mark.slow
@pytest.mark.parametrize("jit", [False, True])
def test_gradient_in_a_graph_of_unknown_shape(jit):
    gradient = graph_gradient(jit)
    rng = np.random.default_rng(0)
    for n, m in ((1, 1), (3, 5), (4, 4)):
        query, document = (rng.normal(size=(size, 3)).astype("float32") for size in (n, m))
        ids = rng.integers(0, 3, n), rng.integers(0, 3, m)

        def plain(query, document, ids=ids):
            return symmetric_info_nce(cosine_logits(query, document), same_text_mask(*ids))

        value, gradients = value_and_gradients(plain, query, document)
        for actual, expected in zip(
            gradient(query, document, *ids), (value, *gradients), strict=True
        ):
            close(actual.numpy(), expected, 2e-6)


@pytest.mark.skipif(BACKEND != "tensorflow", reason="a replica may get no pairs on TensorFlow")
def test_an_empty_batch_in_a_graph_has_no_losses():
    empty, ids = np.zeros((0, 3), "float32"), np.zeros(0, "int64")
    assert [x.shape[0] for x in graph_gradient(False)(empty, empty, ids, ids)] == [0, 0, 0]


def gradient_of_sum(query, document):
    """The gradient for the query, which itself can be differentiated, if anything lets it."""

    def total(query):
        return keras.ops.sum(tiled_symmetric_info_nce(query, document, tile_size=8))

    if BACKEND == "jax":
        import jax

        return jax.grad(total)(query)
    if BACKEND == "tensorflow":
        import tensorflow as tf

        with tf.GradientTape() as tape:
            tape.watch(query)
            value = total(query)
        return tape.gradient(value, query)
    import torch

    query = query if query.requires_grad else query.detach().requires_grad_(True)
    return torch.autograd.grad(total(query), query, create_graph=True)[0]


def test_no_array_as_large_as_the_matrix():
    n, m, d = 64, 65, 4
    query, document = keras.ops.ones((n, d)), keras.ops.ones((m, d))
    if BACKEND == "torch":
        from torch.utils._python_dispatch import TorchDispatchMode

        class Largest(TorchDispatchMode):
            numel = 0

            def __torch_dispatch__(self, function, types, args=(), kwargs=None):
                result = function(*args, **(kwargs or {}))
                for tensor in result if isinstance(result, tuple | list) else [result]:
                    self.numel = max(self.numel, getattr(tensor, "numel", int)())
                return result

        with Largest() as largest:
            gradient_of_sum(query, document)
        assert largest.numel == m * 5  # the running numbers of the columns
        return
    if BACKEND == "jax":
        import jax

        text = str(jax.make_jaxpr(gradient_of_sum)(query, document))
    else:
        import tensorflow as tf

        run = tf.function(gradient_of_sum, jit_compile=True, autograph=False)
        text = run.experimental_get_compiler_ir(query, document)(stage="hlo")
    assert "[8,8]" in text  # a tile
    assert f"[{n},{d}]" in text
    assert f"{n},{m}]" not in text
    assert f"{m},{n}]" not in text
    assert f"[{n * m}]" not in text
    assert f"[{n * m}," not in text


def second_derivative(query, document):
    if BACKEND == "jax":
        import jax

        jax.grad(lambda x: gradient_of_sum(x, document).sum())(query)
    elif BACKEND == "tensorflow":
        import tensorflow as tf

        with tf.GradientTape() as tape:
            tape.watch(query)
            gradient = gradient_of_sum(query, document)
        tape.gradient(gradient, query)
    else:
        gradient_of_sum(query.requires_grad_(True), document).sum().backward()


@pytest.mark.slow_on_jax
def test_a_second_derivative_is_refused():
    query, document = keras.ops.ones((3, 2)), keras.ops.ones((3, 2))
    message = "tiled InfoNCE can be differentiated once.*second derivative"
    with pytest.raises(NotImplementedError, match=message):
        second_derivative(query, document)


# --- refusals -------------------------------------------------------------------------------------


@each_loss
@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"query": np.ones(3)}, ValueError, r"`query` of shape \(batch, dim\).*\(3,\)"),
        ({"document": np.ones((4, 3))}, ValueError, r"of one width.*\(4, 3\)"),
        (
            {"document": np.ones((2, 2))},
            ValueError,
            r"as many documents as queries.*document.shape=\(2, 2\).*swap",
        ),
        ({"temperature": 0}, ValueError, "`temperature` above 0.*temperature=0"),
        ({"temperature": math.nan}, ValueError, "`temperature` above 0"),
        ({"temperature": np.ones(3)}, ValueError, r"scalar `temperature`.*\(3,\)"),
        ({"query_ids": [1, 2]}, ValueError, r"`query_ids` of shape \(3,\).*per query.*\(2,\)"),
        (
            {"document_ids": np.ones((4, 2), int)},
            ValueError,
            r"`document_ids` of shape \(4,\).*per document.*\(4, 2\)",
        ),
        ({"query_ids": [1.0, 2.0, 2.0]}, TypeError, "`query_ids` of integers.*float32"),
        ({"document_ids": [True] * 4}, TypeError, "`document_ids` of integers.*bool"),
        ({"sample_weight": [1.0]}, ValueError, r"`sample_weight` of shape \(3,\).*\(1,\)"),
        ({"tile_size": 0}, ValueError, "`tile_size` of 1 or more.*tile_size=0"),
        ({"tile_size": 2.0}, TypeError, "`tile_size` to be a positive int.*2.0"),
        ({"tile_size": True}, TypeError, "`tile_size` to be a positive int.*True"),
    ],
)
def test_refuses_what_does_not_fit(loss, changes, error, message):
    arguments = {"query": np.ones((3, 2)), "document": np.ones((4, 2)), **changes}
    with pytest.raises(error, match=f"{loss.__name__} expects .*{message}"):
        loss(**arguments)
