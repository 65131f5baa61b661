"""Matryoshka is its objective on embeddings that are cut by hand."""

import math

import keras
import numpy as np
import pytest
import references
from gradients import central_differences, float64_allowed, to_numpy, value_and_gradients
from keras import ops

import cptk
from cptk.losses import Batch, CoSENT, InfoNCE, Matryoshka, Objective, Sum

N, DIM = 5, 6
VECTORS = np.random.default_rng(0).normal(size=(2, N, DIM))

NO_NEGATIVES = Batch({}, {}, lambda q, d: q, scale=1.0)


def batch_of(query, document, tile_size=None, dtype=None, **columns):
    both = {"query": query, "document": document, **columns}
    head = cptk.layers.ContrastiveHead(0.5, dtype=dtype)
    return Batch(both, both, head, ops.exp(head.tau), tile_size=tile_size)


def reference(query, document, dims, weights):
    losses = np.zeros(len(query))
    for dim, weight in zip(dims, weights, strict=True):
        unit = [
            x[:, :dim] / np.linalg.norm(x[:, :dim], axis=1, keepdims=True)
            for x in (query, document)
        ]
        losses += weight * references.symmetric_info_nce(2 * unit[0] @ unit[1].T)
    return losses


@pytest.mark.slow_on_jax
@pytest.mark.parametrize("tile_size", [None, 2])
@pytest.mark.parametrize(
    ("dims", "weights"), [([6], None), ([6, 3, 1], None), ([2, 4], [0.5, 3]), ([4, 2], (1, 0))]
)
def test_equals_the_loops(dims, weights, tile_size):
    objective = Matryoshka(InfoNCE(), dims, weights)
    upstream = np.linspace(1, 2, N)
    with float64_allowed():
        values, gradients = value_and_gradients(
            lambda q, d: objective(batch_of(q, d, tile_size, "float64")).losses,
            *VECTORS, upstream=upstream, dtype="float64",
        )  # fmt: skip
    of_all = [1.0] * len(dims) if weights is None else weights
    np.testing.assert_allclose(values, reference(*VECTORS, dims, of_all), rtol=1e-6)
    expected = central_differences(
        lambda q, d: float(upstream @ reference(q, d, dims, of_all)), *VECTORS.copy()
    )
    for found, gradient in zip(gradients, expected, strict=True):
        np.testing.assert_allclose(found, gradient, rtol=1e-5, atol=1e-6)
        assert not found[:, max(dims) :].any()


def test_scores_are_those_of_the_largest_size():
    batch = batch_of(*VECTORS.astype("float32"))
    found = Matryoshka(InfoNCE(), [1, DIM, 2])(batch).scores
    for name, expected in InfoNCE()(batch).scores.items():
        np.testing.assert_array_equal(to_numpy(found[name]), to_numpy(expected))


class Looks(Objective):
    """Tells what it was given."""

    columns = ("score", "teacher")

    def call(self, batch):
        self.shapes = {name: tuple(x.shape) for name, x in batch.local.items()}
        self.is_whole = batch.local is batch.gathered
        return ops.zeros(N)


def test_all_that_is_cut_are_embeddings():
    looks, (query, document) = Looks(), VECTORS
    more = {"negatives": np.zeros((N, 2, DIM)), "score": np.zeros(N), "teacher": np.zeros((N, 4))}
    whole = batch_of(query, document, **more)
    objective = Matryoshka(looks, [3])
    objective(whole)
    assert looks.is_whole
    assert looks.shapes == {
        "query": (N, 3),
        "document": (N, 3),
        "negatives": (N, 2, 3),
        "score": (N,),
        "teacher": (N, 4),
    }
    objective(Batch({**whole.local}, whole.gathered, whole.head, whole.scale))
    assert not looks.is_whole
    assert objective.columns == looks.columns


def test_of_other_objectives():
    """A sum of CoSENT and tiles, on the first numbers."""
    inner = Sum([CoSENT(), InfoNCE(tile_size=2)])
    objective = Matryoshka(inner, [3])
    assert objective.columns == ("score",)
    assert objective.tile_size == 2
    assert objective.chance(NO_NEGATIVES, ops.convert_to_tensor(8.0)) is None
    score = ops.arange(N, dtype="float32")
    query, document = VECTORS.astype("float32")
    found = objective(batch_of(query, document, score=score)).losses
    expected = inner(batch_of(query[:, :3], document[:, :3], score=score)).losses
    np.testing.assert_allclose(to_numpy(found), to_numpy(expected), rtol=1e-6)


def test_chance_is_that_of_all_sizes():
    chance = Matryoshka(InfoNCE(), [2, 4], [1, 0.5]).chance(
        NO_NEGATIVES, ops.convert_to_tensor(8.0)
    )
    assert float(chance) == pytest.approx(1.5 * math.log(8))


def test_sizes_that_are_trained():
    """Of objectives around it too, and none of which the weight is 0."""
    small, large = Matryoshka("info_nce", [4, 2]), Matryoshka("info_nce", [6, 4, 1], [1, 1, 0])
    assert InfoNCE().trained_dims == ()
    assert small.trained_dims == (4, 2)
    assert large.trained_dims == (6, 4)
    assert Sum([CoSENT(), large, small]).trained_dims == (6, 4, 2)
    assert Sum([large, small], weights=[0, 1]).trained_dims == (4, 2)
    assert Matryoshka(small, [6, 5]).trained_dims == (4, 2)
    assert Matryoshka(Sum([small, large]), [6]).trained_dims == (4, 2, 6)
    by_source = cptk.losses.get({"faq": small, "graded": CoSENT(), "titles": large})
    assert by_source.trained_dims == (4, 2, 6)


def test_config_and_repr():
    loss = Matryoshka("info_nce", (4, 2))
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(loss))
    assert repr(again) == repr(loss)
    assert repr(loss) == f"Matryoshka(objective={InfoNCE()!r}, dims=[4, 2], weights=None)"


def test_sizes_above_that_of_the_embeddings_are_refused():
    with pytest.raises(ValueError, match=r"size of the embeddings, 6\. .*dims=\[8, 2\].*Leave 8"):
        Matryoshka(InfoNCE(), [8, 2])(batch_of(*VECTORS))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((InfoNCE(), []), ValueError, r"one size or more, each once. Received: \[\]"),
        ((InfoNCE(), [2, 2]), ValueError, r"each once. Received: \[2, 2\]"),
        ((InfoNCE(), [2, 0]), ValueError, r"`dims\[1\]` should be an integer of 1 or more"),
        ((InfoNCE(), [2.0]), TypeError, r"`dims\[0\]` should be an integer of 1 or more"),
        ((InfoNCE(), 2), TypeError, "`dims` should be a sequence of positive integers"),
        ((InfoNCE(), [2, 4], [1]), ValueError, "2 finite numbers.*each of `dims`.*Received 1"),
        ((3, [2]), TypeError, "Received: int"),
    ],
)
def test_arguments_are_checked(arguments, error, message):
    with pytest.raises(error, match=message):
        Matryoshka(*arguments)
