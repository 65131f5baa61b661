"""Triplets against slow loops: values, gradients, ties, masks, refusals."""

import math

import numpy as np
import pytest
from gradients import central_differences, float64_allowed, to_numpy, value_and_gradients
from hypothesis import given
from hypothesis import strategies as st
from keras import ops

import cptk
from cptk.losses import Batch, TripletLoss

each_mining = pytest.mark.parametrize("mining", ["all", "hardest"])


def reference(query, document, left_out, margin, mining):
    """Losses and shares of violated triplets of the queries, of which there may be fewer."""
    losses, shares = [], []
    for i, q in enumerate(query):
        distances = [1 - (q @ d) / math.sqrt((q @ q) * (d @ d)) for d in document]
        negatives = [x for j, x in enumerate(distances) if j != i and not left_out[i][j]]
        if mining == "hardest":
            negatives = [x for x in negatives if x <= min(negatives) + 1e-6]
        terms = [max(0.0, distances[i] - x + margin) for x in negatives]
        losses.append(sum(terms) / max(1, len(terms)))
        shares.append(sum(term > 0 for term in terms) / max(1, len(terms)))
    return losses, shares


def of_batch(objective, rows=None, is_pair=None, ids=None):
    """The losses and shares as a function of all embeddings."""

    def outcome(query, document):
        gathered = {"query": query, "document": document}
        local = gathered if rows is None else {k: x[:rows] for k, x in gathered.items()}
        kept = None if is_pair is None else ops.convert_to_tensor(is_pair)
        numbers = {k: ops.convert_to_tensor(x) for k, x in (ids or {}).items()}
        head = cptk.layers.ContrastiveHead()
        found = objective(Batch(local, gathered, head, 1.0, numbers, kept))
        return ops.stack([found.losses, found.scores["violated"]])

    return outcome


def check(objective, query, document, left_out, rows=None, **options):
    """Values and gradients; only losses have a gradient, each another."""
    rows = len(query) if rows is None else rows
    weights = np.linspace(1, 2, rows)
    with float64_allowed():
        values, gradients = value_and_gradients(
            of_batch(objective, rows, **options),
            query, document, upstream=[weights, 0 * weights], dtype="float64",
        )  # fmt: skip
    arguments = (left_out, objective.margin, objective.mining)
    expected = reference(query[:rows], document, *arguments)
    np.testing.assert_allclose(values, expected, rtol=1e-12, atol=1e-12)
    slopes = central_differences(
        lambda q, d: float(weights @ reference(q[:rows], d, *arguments)[0]),
        query.copy(), document.copy(), step=1e-7,
    )  # fmt: skip
    for found, gradient in zip(gradients, slopes, strict=True):
        np.testing.assert_allclose(found, gradient, rtol=1e-5, atol=1e-6)
    return values, gradients


@pytest.mark.slow_on_jax
@each_mining
@given(n=st.integers(1, 6), seed=st.integers(0, 2**16))
def test_equals_the_loops(mining, n, seed):
    vectors = np.random.default_rng(seed).normal(size=(2, n, 3))
    check(TripletLoss(0.3, mining), *vectors, np.zeros((n, n), bool))


@each_mining
def test_a_device_sees_the_batch_and_no_fillers(mining):
    vectors = np.random.default_rng(1).normal(size=(2, 6, 3))
    vectors[:, 4:] = 1e3
    left_out = np.tile(np.arange(6) >= 4, (3, 1))
    _, gradients = check(TripletLoss(0.5, mining), *vectors, left_out, 3, is_pair=~left_out[0])
    assert not gradients[1][4:].any()


@each_mining
def test_equal_texts_are_left_out_where_asked(mining):
    query, document = np.random.default_rng(2).normal(size=(2, 5, 3))
    ids = {"query": np.array([0, 1, 2, 3, 0]), "document": np.array([0, 1, 1, 3, 4])}
    query, document = query[ids["query"]], document[ids["document"]]
    left_out = sum(numbers[:, None] == numbers[None] for numbers in ids.values()) > 0
    objective = TripletLoss(0.4, mining, mask_equal_texts=True)
    (losses, _), _ = check(objective, query, document, left_out, ids=ids)
    plain = to_numpy(of_batch(TripletLoss(0.4, mining), ids=ids)(query, document))[0]
    assert not np.allclose(plain, losses)


def test_negatives_that_are_equally_near_share_the_gradient():
    query = np.array([[1.0, 0], [0, 1], [0, 1]])
    document = np.array([[1.0, 1], [2, 1], [4, 2]])
    _, (_, gradient) = value_and_gradients(
        of_batch(TripletLoss(0.1, "hardest")), query, document, upstream=[[1, 0, 0], [0, 0, 0]]
    )
    assert gradient[1].any()
    np.testing.assert_allclose(gradient[1], 2 * gradient[2], rtol=1e-5)


@each_mining
def test_one_pair_has_no_loss(mining):
    values, gradients = value_and_gradients(of_batch(TripletLoss(1.0, mining)), *np.ones((2, 1, 3)))
    assert not values.any()
    assert not np.any(gradients)


@each_mining
def test_a_nan_is_not_hidden(mining):
    query, document = np.random.default_rng(0).normal(size=(2, 3, 3))
    document[1] = np.nan
    assert np.isnan(to_numpy(of_batch(TripletLoss(0.1, mining))(query, document))[0]).all()


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"margin": 0}, ValueError, "`margin` should be a positive finite number"),
        ({"margin": math.nan}, ValueError, "Received: nan"),
        ({"margin": "0.1"}, ValueError, "Received: '0.1'"),
        ({"mining": "semi-hard"}, ValueError, r"`mining` should be one of \['all', 'hardest'\]"),
        ({"mask_equal_texts": 1}, TypeError, "`mask_equal_texts` should be True or False"),
    ],
)
def test_options_are_checked(options, error, message):
    with pytest.raises(error, match=message):
        TripletLoss(**options)
