"""Padding is moved to the right, wherever it stands."""

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cptk.data.batching import right_padded


@given(mask=st.lists(st.lists(st.booleans(), min_size=5, max_size=5), min_size=1, max_size=4))
def test_rows_keep_their_tokens_in_order(mask):
    ids = np.arange(5 * len(mask), dtype="int32").reshape(len(mask), 5) + 1
    found = right_padded({"token_ids": ids, "padding_mask": mask, "segment_ids": -ids})
    for row in range(len(mask)):
        real = [int(i) for i, keep in zip(ids[row], mask[row], strict=True) if keep]
        assert found["token_ids"][row][: len(real)].tolist() == real
        assert list(found["padding_mask"][row]) == [True] * len(real) + [False] * (5 - len(real))
        assert (-found["segment_ids"][row]).tolist() == found["token_ids"][row].tolist()


def test_what_is_right_is_left_as_it_is():
    ids = keras.ops.convert_to_tensor([[1, 2, 0]])
    for mask in ([[1, 1, 0]], [[0, 0, 0]], [[True, True, True]]):
        assert right_padded({"token_ids": ids, "padding_mask": mask})["token_ids"] is ids


def test_tensors_of_the_backend_and_whole_numbers():
    tensors = {
        "token_ids": keras.ops.convert_to_tensor([[0, 7, 8]]),
        "padding_mask": keras.ops.convert_to_tensor([[0.0, 1.0, 1.0]]),
    }
    assert right_padded(tensors)["token_ids"].tolist() == [[7, 8, 0]]


@pytest.mark.parametrize("bad", [2, -1e9, float("nan"), 0.5])
def test_other_values_are_no_mask(bad):
    with pytest.raises(ValueError, match="queries: `padding_mask` should hold 1"):
        right_padded({"token_ids": [[5, 7]], "padding_mask": [[1, bad]]}, "queries")
