"""MarginMSE and KLDivergence against loops in float64, ragged negatives among them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from gradients import to_numpy, value_and_gradients
from hypothesis import given
from hypothesis import strategies as st
from keras import ops

import cptk
from cptk.losses import Batch, KLDivergence, MarginMSE

N, K, DIM, SCALE = 4, 3, 5, 6.0
NAMES = ("query", "document", "negatives")


def draw(seed: int) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    shapes = {"query": (N, DIM), "document": (N, DIM), "negatives": (N, K, DIM)}
    vectors = {name: rng.normal(size=shape) for name, shape in shapes.items()}
    has = rng.random((N, K)) > 0.4
    has[0], has[1] = True, False
    return vectors, rng.normal(size=(N, 1 + K)) * 3, has


def by_loops(loss: Any, vectors: Any, teacher: np.ndarray, has: np.ndarray) -> np.ndarray:
    found = []
    for i in range(N):
        texts = [vectors["document"][i], *vectors["negatives"][i][has[i]]]
        q = vectors["query"][i] / np.linalg.norm(vectors["query"][i])
        c = np.array([q @ x / np.linalg.norm(x) for x in texts])
        t = np.concatenate([teacher[i, :1], teacher[i, 1:][has[i]]])
        if isinstance(loss, MarginMSE):
            errors = [(loss.scale * (c[0] - c[j]) - (t[0] - t[j])) ** 2 for j in range(1, len(c))]
            found.append(np.mean(errors) if errors else 0.0)
        else:
            p, q = (np.exp(x) / np.exp(x).sum() for x in (t / loss.teacher_temperature, SCALE * c))
            found.append(loss.teacher_temperature**2 * np.sum(p * np.log(p / q)))
    return np.array(found)


def batch_of(query: Any, document: Any, negatives: Any, teacher: Any, has: Any) -> Batch:
    columns = dict(zip(NAMES, (query, document, negatives), strict=True))
    columns["teacher"] = ops.convert_to_tensor(teacher, "float32")
    head = cptk.layers.ContrastiveHead(1 / SCALE)
    return Batch(columns, columns, head, ops.convert_to_tensor(SCALE), has_negative=has)


LOSSES = [MarginMSE(), MarginMSE(7.0), KLDivergence(), KLDivergence(2.0)]
each = pytest.mark.parametrize("loss", LOSSES, ids=repr)


@each
@given(seed=st.integers(0, 1000))
def test_values_and_slopes_are_those_of_the_loops(loss: Any, seed: int) -> None:
    vectors, teacher, has = draw(seed)
    arrays = [vectors[name].astype("float32") for name in NAMES]
    known = ops.convert_to_tensor(has)
    values, gradients = value_and_gradients(
        lambda *x: loss(batch_of(*x, teacher, known)).losses, *arrays
    )
    expected = by_loops(loss, vectors, teacher, has)
    np.testing.assert_allclose(values, expected, rtol=1e-4, atol=1e-5)
    rng = np.random.default_rng(seed)
    along = {name: rng.normal(size=x.shape) for name, x in vectors.items()}
    moved = [
        by_loops(loss, {n: x + h * along[n] for n, x in vectors.items()}, teacher, has).sum()
        for h in (1e-5, -1e-5)
    ]
    slope = sum(np.sum(g * along[name]) for name, g in zip(NAMES, gradients, strict=True))
    assert slope == pytest.approx((moved[0] - moved[1]) / 2e-5, rel=2e-3, abs=2e-2)


@each
def test_what_fills_up_scores_and_negatives_counts_for_nothing(loss: Any) -> None:
    vectors, teacher, has = draw(0)
    known = ops.convert_to_tensor(has)
    tensors = [ops.convert_to_tensor(vectors[name], "float32") for name in NAMES]
    plain = to_numpy(loss(batch_of(*tensors, teacher, known)).losses)
    teacher[:, 1:][~has], vectors["negatives"][~has] = 9.0, -3.0
    tensors[2] = ops.convert_to_tensor(vectors["negatives"], "float32")
    np.testing.assert_array_equal(to_numpy(loss(batch_of(*tensors, teacher, known)).losses), plain)


@each
def test_other_numbers_of_scores_are_refused(loss: Any) -> None:
    vectors, teacher, has = draw(0)
    tensors = [ops.convert_to_tensor(vectors[name], "float32") for name in NAMES]
    for scores, received in ((teacher[:, 1:], 3), (teacher[:, 0], 1)):
        batch = batch_of(*tensors, scores, ops.convert_to_tensor(has))
        with pytest.raises(ValueError, match=f"'teacher' .* 4 a pair. Received: {received}"):
            loss(batch)


@pytest.mark.parametrize("value", [0, -1.0, float("nan"), "1", True])
def test_scales_are_positive_numbers(value: Any) -> None:
    for kind in (MarginMSE, KLDivergence):
        with pytest.raises(ValueError, match=r"`.*` should be a positive finite number"):
            kind(value)
