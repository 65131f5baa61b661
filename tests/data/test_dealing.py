"""Pairs with repeated texts in batches: none twice in one, and as many full ones as can be."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cptk.data.colour_chains import Chains, exchanged
from cptk.data.dealing import Dealing, dealt, split_up

SEEDS = range(3)


def deal(ends, single, size, seed=0):
    """A dealing, checked for what holds of all of them."""
    ends = np.array(ends, np.int64).reshape(-1, 2)
    found = dealt(ends, single, size, np.random.default_rng(seed))
    sizes = found.sizes
    assert sizes.sum() == len(ends) + single
    assert sizes.min() > 0
    assert (np.diff(np.minimum(sizes, size)) <= 0).all()
    assert sizes.max() <= size + (size == 2)
    for batch in range(len(sizes)):
        texts = ends[found.into == batch].ravel()
        assert len(np.unique(texts)) == len(texts)
    assert (found.singles >= 0).all()
    return sizes.tolist()


def drawn(count, texts, seed=0):
    """Pairs of texts drawn again and again, those of the two sides apart."""
    return np.random.default_rng(seed).integers(texts, size=(count, 2)) + np.array([0, texts])


def most_pairs(ends, limit):
    """As many pairs as there can be with at most `limit` of each text: paths, one after another."""
    chosen = [False] * len(ends)
    load: dict[int, int] = {}

    def path(text, seen):
        """Free a place of a document text, or make one by taking another pair of its query."""
        for row, (query, document) in enumerate(ends):
            if query == text and not chosen[row] and document not in seen:
                seen.add(document)
                if load.get(document, 0) < limit:
                    chosen[row] = True
                    load[document] = load.get(document, 0) + 1
                    return True
                for other, (its_query, its_document) in enumerate(ends):
                    if chosen[other] and its_document == document and path(its_query, seen):
                        chosen[other], chosen[row] = False, True
                        return True
        return False

    return sum(path(text, set()) for text in {q for q, _ in ends} for _ in range(limit))


# === Stores that are hard ===


@pytest.mark.parametrize("seed", SEEDS)
def test_all_distinct(seed):
    assert deal([], 100, 32, seed) == [32, 32, 32, 4]
    assert deal([], 97, 32, seed) == [32, 32, 31, 2]  # the last pair is not alone
    assert deal([], 5, 2, seed) == [2, 3]


@pytest.mark.parametrize("seed", SEEDS)
def test_one_text_in_every_pair(seed):
    star = [(0, number) for number in range(1, 101)]
    assert deal(star, 0, 32, seed) == [1] * 100
    assert deal(star, 100, 32, seed) == [2] * 100
    sizes = deal(star, 1000, 32, seed)  # all of the star have company
    assert len(sizes) == 100
    assert sizes[-1] == 2
    assert sizes.count(32) >= 29  # 900 pairs are left for 32 a batch


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(("k", "size"), [(2, 2), (16, 16), (31, 31), (31, 64), (24, 10), (7, 5)])
def test_all_pairs_of_k_queries_and_k_documents(seed, k, size):
    sizes = deal([(i, k + j) for i in range(k) for j in range(k)], 0, size, seed)
    if size >= k:  # a Latin square: each batch has each text once
        assert sizes == [k] * k
    else:
        assert sizes[: k * k // size - 1] == [size] * (k * k // size - 1)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("count", [2048, 2500, 3001])
def test_every_text_twice(seed, count):
    rng = np.random.default_rng(seed)
    twice = np.repeat(np.arange(count // 2), 2)
    ends = np.stack([rng.permutation(twice), count + rng.permutation(twice)], axis=1)
    sizes = deal(ends, count % 2, 1024, seed)
    full = count // 1024
    assert sizes[:full] == [1024] * full
    assert len(sizes) <= full + 2


@pytest.mark.parametrize("seed", SEEDS)
def test_a_text_of_both_sides_counts_as_one(seed):
    """A chain: each document is the next pair's query."""
    chain = [(number, number + 1) for number in range(1000)]
    assert deal(chain, 0, 500, seed) == [500, 500]
    three = np.arange(600).reshape(-1, 3)
    triangles = np.concatenate([three[:, [0, 1]], three[:, [1, 2]], three[:, [2, 0]]])
    assert deal(triangles, 0, 200, seed) == [200] * 3
    shared = np.random.default_rng(seed).integers(800, size=(1000, 2))
    sizes = deal(shared[shared[:, 0] != shared[:, 1]], 0, 250, seed)
    assert sizes[:3] == [250] * 3


def test_the_same_pair_again_and_again():
    assert deal([(0, 1)] * 6 + [(2, 3)] * 6, 0, 8) == [2] * 6


# === Full batches ===


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(("texts", "size"), [(2000, 1228), (2000, 600), (1500, 1100)])
def test_random_repeats_fill_the_first_batches(seed, texts, size):
    ends = drawn(3000, texts, seed)
    full = deal(ends, 0, size, seed).count(size)
    # With `limit` of each text, no more pairs can be had than this: the bound is of counts alone.
    counts = [np.bincount(side) for side in ends.T]
    bound = [min(int(np.minimum(c, k).sum()) for c in counts) // k for k in range(1, 6)]
    assert full <= sum(1 for k, most in enumerate(bound, 1) if most >= size and k * size <= 3000)
    assert full >= {(2000, 1228): 1, (2000, 600): 4, (1500, 1100): 1}[texts, size]


@settings(deadline=None, max_examples=150)
@given(
    st.lists(st.tuples(st.integers(0, 7), st.integers(8, 15)), max_size=24),
    st.integers(0, 9),
    st.integers(3, 9),
    st.integers(0, 9),
)
def test_as_many_are_full_as_can_be(ends, single, size, seed):
    if not ends and not single:
        return
    total = len(ends) + single
    best = max(
        (k for k in range(1, total // size + 1) if most_pairs(ends, k) + single >= k * size),
        default=0,
    )
    sizes = deal(ends, single, size, seed)
    given_away = sizes.count(2)  # each may have one from a batch that was full
    assert best - given_away <= sizes.count(size) <= best


def test_chains_that_two_batches_share():
    # A path of five: the middle batch has three of its pairs after the exchange.
    ends = np.array([[number, number + 1] for number in range(5)])
    batches = [np.array([1, 3]), np.array([0, 2, 4])]
    exchanged(batches, ends, 0, 1, 9, np.random.default_rng(0))
    assert [sorted(rows.tolist()) for rows in batches] == [[0, 2, 4], [1, 3]]
    into = np.array([0, -1, 1, 0, -1])
    chains = Chains(ends, into, 2, 9)
    assert all(chains.insert(row, np.random.default_rng(0)) for row in (1, 4))
    assert into[1] != into[0]
    assert [*(into[1:] == into[:-1])] == [False] * 4


# === Passes ===


def test_another_number_of_batches():
    found = dealt(drawn(50, 100), 7, 8, np.random.default_rng(0))
    more = split_up(found, len(found.singles) + 5)
    assert more.sizes.sum() == 57
    assert len(more.sizes) == len(found.sizes) + 5
    assert more.sizes.min() >= 2
    assert split_up(found, len(found.singles)).sizes.tolist() == found.sizes.tolist()
    assert split_up(found, len(found.singles) - 1) is None
    assert split_up(found, 40) is None


def test_batches_that_are_halved_stay_in_descending_order():
    found = Dealing(np.repeat([0, 1], [5, 3]), np.array([3, 0]))
    more = split_up(found, 3)
    assert more.sizes.tolist() == [4, 4, 3]
    assert more.singles.sum() == 3
    (three,) = {*more.into[5:].tolist()}
    assert three == 2


def test_orders_differ_by_their_random_numbers_alone():
    ends = drawn(300, 200)
    one, same, other = (dealt(ends, 10, 64, np.random.default_rng(seed)).into for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, same)
    assert (one != other).mean() > 0.5


@pytest.mark.slow
def test_time_grows_about_as_the_number_of_pairs():
    """Ten times the pairs in less than thirty times the time, of this process alone."""
    seconds = []
    for count in (30_000, 300_000):
        ends = drawn(count, count * 2 // 3)
        start = time.process_time()
        deal_only = dealt(ends, 0, 12_288, np.random.default_rng(0))
        seconds.append(time.process_time() - start)
    assert (deal_only.sizes[:20] == 12_288).all()
    assert seconds[1] < 30 * seconds[0]
