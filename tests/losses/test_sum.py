"""The sum of objectives is what its name says."""

import math

import keras
import numpy as np
import pytest
from gradients import to_numpy, value_and_gradients
from keras import ops

import cptk
from cptk.losses import Batch, CoSENT, DocumentToQuery, InfoNCE, Sum, TripletLoss

PARTS = [DocumentToQuery(), InfoNCE(label_smoothing=0.2), CoSENT()]

NO_NEGATIVES = Batch({}, {}, lambda q, d: q, scale=1.0)


def losses_of(objective, tile_size=None):
    def losses(query, document):
        both = {"query": query, "document": document, "score": ops.arange(5, dtype="float32")}
        head = cptk.layers.ContrastiveHead(0.5)
        return objective(Batch(both, both, head, ops.exp(head.tau), tile_size=tile_size)).losses

    return value_and_gradients(losses, *np.random.default_rng(0).normal(size=(2, 5, 3)))


@pytest.mark.slow_on_jax
@pytest.mark.parametrize("weights", [None, (0.5, 0, 3)])
@pytest.mark.parametrize("tile_size", [None, 2])
def test_equals_its_parts(weights, tile_size):
    found = losses_of(Sum(PARTS, weights), tile_size)
    parts = [losses_of(part, tile_size) for part in PARTS]
    for k, name in enumerate(["query", "document"]):
        expected = sum(w * x[1][k] for w, x in zip(weights or [1] * 3, parts, strict=True))
        np.testing.assert_allclose(found[1][k], expected, rtol=1e-5, atol=1e-6, err_msg=name)
    expected = sum(w * x[0] for w, x in zip(weights or [1] * 3, parts, strict=True))
    np.testing.assert_allclose(found[0], expected, rtol=1e-5)


def test_columns_scores_tiles_and_chance():
    loss = Sum([*PARTS, TripletLoss(), InfoNCE(tile_size=7), InfoNCE(tile_size=3)])
    assert loss.columns == ("score",)
    assert loss.metrics == ("document_accuracy", "query_accuracy", "violated")
    assert loss.tile_size == 3
    assert loss.chance(NO_NEGATIVES, ops.convert_to_tensor(8.0)) is None
    chance = Sum(PARTS[:2], [1, 0.5]).chance(NO_NEGATIVES, ops.convert_to_tensor(8.0))
    assert float(chance) == pytest.approx(1.5 * math.log(8))


def test_of_scores_of_one_name_the_first_is_shown():
    query = np.eye(3, dtype="float32")
    both = {"query": query, "document": query[[0, 0, 2]]}
    ids = {"query": ops.arange(3), "document": ops.convert_to_tensor([0, 0, 1])}
    batch = Batch(both, both, cptk.layers.ContrastiveHead(0.5), 2.0, ids)
    first, second = InfoNCE(), InfoNCE(mask_equal_texts=True)
    shown = Sum([first, second])(batch).scores
    for name, score in first(batch).scores.items():
        np.testing.assert_array_equal(to_numpy(shown[name]), to_numpy(score))


def test_config_and_repr():
    loss = Sum(["InfoNCE", CoSENT(5)], [1, 2])
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(loss))
    assert repr(again) == repr(loss)
    assert repr(loss).startswith("Sum(objectives=[InfoNCE(), CoSENT(")
    assert repr(loss).endswith(" CoSENT(scale=5.0)], weights=[1.0, 2.0])")


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (([],), ValueError, "`objectives` is empty"),
        ((InfoNCE(),), TypeError, "`objectives` should be a sequence of objectives"),
        (("InfoNCE",), TypeError, "`objectives` should be a sequence of objectives"),
        ((["mse"],), ValueError, "should be one of .*Received: 'mse'"),
        (([3],), TypeError, "Received: int"),
        ((PARTS, [1, 2]), ValueError, r"be 3 finite.*for each objective.*Received 2: \[1, 2\]"),
        ((PARTS, [1, -2, 1]), ValueError, "finite numbers of 0 or more"),
        ((PARTS, [1, math.inf, 1]), ValueError, "finite numbers of 0 or more"),
        ((PARTS, [0, 0, 0]), ValueError, "not all 0"),
        ((PARTS, ["1", 2, 3]), ValueError, "finite numbers of 0 or more"),
        ((PARTS, 1), TypeError, "`weights` should be a sequence of numbers"),
    ],
)
def test_arguments_are_checked(arguments, error, message):
    with pytest.raises(error, match=message):
        Sum(*arguments)
