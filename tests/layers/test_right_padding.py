"""`RightPadding` against `right_padded` of arrays, which has a test of its own."""

import keras
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from cptk.data.batching import right_padded
from cptk.layers.right_padding import RightPadding


@given(mask=st.lists(st.lists(st.booleans(), min_size=5, max_size=5), min_size=3, max_size=3))
def test_layer_equals_arrays(mask):
    ids = np.arange(15, dtype="int32").reshape(3, 5) + 1
    found_ids, found_mask = map(keras.ops.convert_to_numpy, RightPadding()(ids, np.array(mask)))
    expected = right_padded({"token_ids": ids, "padding_mask": np.array(mask)})
    np.testing.assert_array_equal(found_mask, expected["padding_mask"])
    real = expected["padding_mask"]
    np.testing.assert_array_equal(found_ids[real], expected["token_ids"][real])


def test_symbolic():
    ids, mask = (keras.Input((None,), dtype=dtype) for dtype in ("int32", "bool"))
    moved, moved_mask = RightPadding()(ids, mask)
    assert (moved.shape, moved.dtype) == ((None, None), "int32")
    assert (moved_mask.shape, moved_mask.dtype) == ((None, None), "bool")
