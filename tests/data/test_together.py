"""Pairs that hang together are drawn together, however many they are."""

import numpy as np

from cptk.data import together


def test_a_group_that_does_not_fit_is_not_copied():
    rows = np.arange(5)
    texts = np.stack([np.zeros(5, np.int64), 1 + rows], axis=1)  # one text in each pair
    groups = together._Together(rows, texts)
    assert groups.of(2, 4) is None
    assert groups.of(2, 5).tolist() == [0, 1, 2, 3, 4]
    assert groups.of(9, 1).tolist() == [9]
    drawn = together.draw([3, 5, 0, 6], 2, 7, rows, texts)
    assert np.flatnonzero(drawn).tolist() == [5, 6]
