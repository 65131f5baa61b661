"""The one-sided loss of documents against slow loops."""

import numpy as np
import pytest
import references
from gradients import float64_allowed, to_numpy, value_and_gradients

import cptk

SCALE = 5.0


@pytest.mark.slow_on_jax
@pytest.mark.parametrize("tile_size", [None, 2])
def test_equals_the_loops_of_the_columns(tile_size):
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(2, 5, 3))
    objective = cptk.losses.DocumentToQuery()

    def losses(query, document):
        both = {"query": query, "document": document}
        head = cptk.layers.ContrastiveHead(1 / SCALE, dtype="float64")
        scale = head.temperature**-1
        batch = cptk.losses.Batch(both, both, head, scale, tile_size=tile_size)
        return objective(batch).losses

    with float64_allowed():
        values, gradients = value_and_gradients(losses, *vectors, dtype="float64")
    unit = vectors / np.linalg.norm(vectors, axis=2, keepdims=True)
    logits = SCALE * unit[0] @ unit[1].T
    np.testing.assert_allclose(values, references.info_nce(logits.T), rtol=1e-6)
    # Of the unit vectors, then of the vectors: what points along a vector does not turn it.
    of_logits = references.info_nce_gradient(logits.T).T * SCALE
    for side, of_unit in enumerate((of_logits @ unit[1], of_logits.T @ unit[0])):
        along = np.sum(of_unit * unit[side], axis=1, keepdims=True) * unit[side]
        length = np.linalg.norm(vectors[side], axis=1, keepdims=True)
        np.testing.assert_allclose(
            gradients[side], (of_unit - along) / length, rtol=1e-5, atol=1e-7
        )


def test_scores_are_those_of_the_columns():
    query = np.eye(3, dtype="float32")[[0, 0, 2]]
    both = {"query": query, "document": np.eye(3, dtype="float32")}
    batch = cptk.losses.Batch(both, both, cptk.layers.ContrastiveHead(0.5), 2.0)
    found = cptk.losses.DocumentToQuery()(batch).scores["document_accuracy"]
    assert to_numpy(found).tolist() == [0.5, pytest.approx(1 / 3), 1.0]
