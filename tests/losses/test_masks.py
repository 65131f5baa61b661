"""The mask of equal texts against a loop over texts."""

import numpy as np
import pytest
import references
from gradients import BACKEND, to_numpy
from hypothesis import given
from hypothesis import strategies as st

from cptk.losses import same_text_mask, text_ids


@pytest.mark.slow_on_jax
@given(shape=st.sampled_from([(1, 1), (4, 4), (3, 5)]), seed=st.integers(0, 2**16))
def test_group_ids_and_token_rows_equal_the_loop(shape, seed):
    rng = np.random.default_rng(seed)
    query, document = rng.integers(0, 2, (shape[0], 2)), rng.integers(0, 2, (shape[1], 3))
    expected = references.same_text_mask(query, document)

    rows = to_numpy(same_text_mask(query, document))
    groups = to_numpy(
        same_text_mask(query @ np.array([1, 2]), (document @ np.array([1, 2, 4])).tolist())
    )

    assert rows.dtype == bool
    np.testing.assert_array_equal(rows, expected)
    np.testing.assert_array_equal(groups, expected)


def test_sides_may_be_given_in_different_forms():
    mask = to_numpy(same_text_mask([1, 1], [[5, 6], [5, 7]]))
    assert mask.tolist() == [[False, True], [True, False]]


def test_a_query_equal_to_a_document_is_no_false_negative():
    assert not to_numpy(same_text_mask([1, 2], [2, 1])).any()


@pytest.mark.skipif(BACKEND != "tensorflow", reason="tf.function")
@pytest.mark.parametrize("jit", [False, True])
def test_in_a_graph_of_unknown_shape(jit):
    import tensorflow as tf

    specs = [tf.TensorSpec((None, None), tf.int32)] * 2
    graph = tf.function(same_text_mask, input_signature=specs, jit_compile=jit)
    query, document = np.array([[1, 2], [1, 2]]), np.array([[1], [2], [1]])
    expected = references.same_text_mask(query, document)
    np.testing.assert_array_equal(graph(query.astype("int32"), document.astype("int32")), expected)


@pytest.mark.parametrize(
    ("query", "document", "message"),
    [
        ((2, 3, 4), (2,), r"`query_ids` of shape.*\(2, 3, 4\)"),
        ((2,), (), r"`document_ids` of shape"),
        ((3,), (2,), r"as many documents as queries.*\(3,\).*\(2,\)"),
    ],
)
def test_refuses_shapes_that_do_not_fit(query, document, message):
    with pytest.raises(ValueError, match=message):
        same_text_mask(np.zeros(query, int), np.zeros(document, int))


@pytest.mark.parametrize("length", [1, 40])
def test_text_ids_are_equal_where_the_texts_are(length):
    rng = np.random.default_rng(length)
    tokens = rng.integers(-1, 50257, (60, length))[rng.integers(0, 60, 200)]
    tokens[7], tokens[8] = np.sort(tokens[9]), np.sort(tokens[9])[::-1]
    ids = to_numpy(text_ids(tokens))
    expected = (tokens[:, None] == tokens[None]).all(-1)
    np.testing.assert_array_equal(ids[:, None] == ids[None], expected)
