"""A random order of any number of rows that is computed, not stored."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

ROUNDS = 6
"""Of the Feistel network; ours. Four are indistinguishable from random in theory (Luby and Rackoff
1988), given a perfect round function."""


def permuted(places: NDArray[np.int64], size: int, key: tuple[int, ...]) -> NDArray[np.int64]:
    """Where each place of a shuffled order is found: distinct places give distinct rows.

    A Feistel network permutes the numbers below a power of two; those that fall on `size` or above
    go through it again until they are below (Black and Rogaway 2002, "cycle walking"). So any part
    of an order of a billion rows costs what the part costs, and no memory.

    Args:
        places: (n,) places, 0 to `size` - 1.
        size: Number of rows.
        key: Integers of 0 or more that choose the order: seed and pass, say.

    Returns:
        (n,) rows, 0 to `size` - 1.

    Example:

    ```pycon
    >>> import numpy as np
    >>> from cptk.data.permutation import permuted
    >>> order = permuted(np.arange(1000), 1000, key=(0, 3))
    >>> order.tolist() == list(range(1000)), sorted(order.tolist()) == list(range(1000))
    (False, True)
    >>> bool((permuted(np.arange(500, 600), 1000, key=(0, 3)) == order[500:600]).all())
    True

    ```

    References:
        Luby & Rackoff 1988, How to Construct Pseudorandom Permutations from Pseudorandom
        Functions. The round function is SplitMix64's finaliser (Steele et al. 2014).
    """
    bits = max(2, int(size - 1).bit_length())
    left_bits, right_bits = bits // 2, bits - bits // 2
    keys = np.random.SeedSequence(key).generate_state(ROUNDS, np.uint64).astype(np.uint64)
    found = places.astype(np.uint64)
    walking = np.arange(len(found))
    while len(walking):
        found[walking] = _network(found[walking], left_bits, right_bits, keys)
        walking = walking[found[walking] >= size]
    return found.astype(np.int64)


def _network(
    values: NDArray[np.uint64], left_bits: int, right_bits: int, keys: NDArray[np.uint64]
) -> NDArray[np.uint64]:
    """One pass; halves of unequal size change their places with their sizes."""
    left = values >> np.uint64(right_bits)
    right = values & np.uint64((1 << right_bits) - 1)
    for key in keys:
        left = left ^ (_mixed(right + key) & np.uint64((1 << left_bits) - 1))
        left, right, left_bits, right_bits = right, left, right_bits, left_bits
    return (left << np.uint64(right_bits)) | right


def _mixed(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """SplitMix64's finaliser: each bit of the input turns half of the output's."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
