"""Batches of several sources: functions of (seed, epoch, step), each of one source."""

from __future__ import annotations

from collections import Counter
from itertools import chain
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cptk.data import Mixture, PairDataset, Pairs
from cptk.data.mixture import MixedBatches, as_mixture, shares


def tokens(count: int, first: int) -> dict[str, Any]:
    """Pairs whose every id is the number of the pair."""
    ids = np.repeat(np.arange(first, first + count, dtype="int32")[:, None], 3, axis=1)
    side = {"token_ids": ids, "padding_mask": np.ones(ids.shape, bool)}
    return {"query": side, "document": side}


def mixed(
    sizes: list[int], batch_size: int = 4, alpha: float = 1.0, training: bool = True, **kw: Any
) -> MixedBatches:
    """Pairs of source s are numbered from 1,000 s on."""
    parts = {
        f"source {place}": PairDataset(
            tokens(size, 1000 * place), None, batch_size, training=training
        )
        for place, size in enumerate(sizes)
    }
    options = {"shuffle": True, "seed": 3, "steps_per_epoch": None, **kw}
    return MixedBatches(parts, alpha, training=training, **options)


def stream(data: MixedBatches, epochs: int) -> list[list[int]]:
    batches = []
    for data.epoch in range(epochs):
        batches += [data[step]["query"]["token_ids"][:, 0].tolist() for step in range(len(data))]
    return batches


several = st.lists(st.integers(2, 20), min_size=1, max_size=4)
alphas = st.sampled_from([0.0, 0.3, 1.0, 2.0])


@given(sizes=several, alpha=alphas, steps=st.none() | st.integers(1, 9), data=st.data())
def test_a_batch_depends_on_seed_epoch_and_step_alone(sizes, alpha, steps, data):
    def make() -> MixedBatches:
        return mixed(sizes, alpha=alpha, steps_per_epoch=steps)

    one, once = make(), stream(make(), 3)
    one.epoch, step = data.draw(st.integers(0, 2)), data.draw(st.integers(0, len(one) - 1))
    assert one[step]["query"]["token_ids"][:, 0].tolist() == once[one.epoch * len(one) + step]
    place = data.draw(st.integers(0, 50))
    assert one.batches_before(*one.place(place)) == place


@given(sizes=several, alpha=alphas)
def test_each_batch_is_of_one_source_and_a_source_is_passed_whole(sizes, alpha):
    data = mixed(sizes, alpha=alpha)
    batches = stream(data, 6)
    by_source: dict[int, list[list[int]]] = {}
    for batch in batches:
        [source] = {number // 1000 for number in batch}
        by_source.setdefault(source, []).append([number % 1000 for number in batch])
    assert sorted(by_source) == list(range(len(sizes)))
    for source, size in enumerate(sizes):
        per_pass = max(-(-size // 4) - (size % 4 == 1), 1)
        found = by_source[source]
        assert len(found) == 6 * data._counts[source]
        for start in range(0, len(found) - per_pass + 1, per_pass):
            one_pass = found[start : start + per_pass]
            assert sorted(chain.from_iterable(one_pass)) == list(range(size))
            assert all(len(batch) >= 2 for batch in one_pass)


def test_a_pass_of_alpha_1_is_one_over_each_source():
    batches = stream(mixed([9, 30, 2]), 1)
    seen = sorted(chain.from_iterable(batches))
    assert seen == [*range(9), *range(1000, 1030), 2000, 2001]


@given(sizes=st.lists(st.integers(1, 400), min_size=1, max_size=6), alpha=alphas)
def test_shares_are_proportional(sizes, alpha):
    found, total = shares(sizes, alpha), sum(sizes)
    assert sum(found) == total
    assert min(found) >= 1
    weights = [size**alpha for size in sizes]
    wanted = [total * weight / sum(weights) for weight in weights]
    raised = sum(max(1 - share, 0) for share in wanted)  # what the smallest are given
    for share, exact in zip(found, wanted, strict=True):
        assert exact - 1 - raised < share < max(exact, 1) + 1
    if alpha == 1:
        assert found == sizes


def test_sources_come_mixed_and_in_another_order_each_pass():
    data = mixed([40, 40])
    orders = np.array([batch[0] // 1000 for batch in stream(data, 4)]).reshape(4, -1)
    assert Counter(orders[0].tolist()) == {0: 10, 1: 10}
    assert len({tuple(order) for order in orders}) == 4
    assert not np.array_equal(orders[0], np.sort(orders[0]))
    other = mixed([40, 40], seed=4)
    assert stream(other, 1) != stream(mixed([40, 40]), 1)
    data.seed = 4
    assert stream(data, 1) == stream(other, 1)


def test_what_is_evaluated_comes_once_and_in_order():
    data = mixed([5, 1, 9], alpha=0.0, training=False, shuffle=False)
    found = stream(data, 1)
    for part in data.parts.values():
        part.shuffle = False
    found = stream(data, 1)
    assert list(chain.from_iterable(found)) == [*range(5), 1000, *range(2000, 2009)]


def test_digests_tell_mixtures_apart():
    plain = mixed([5, 9])
    assert plain.digest == mixed([5, 9]).digest
    assert len({x.digest for x in (plain, mixed([9, 5]), mixed([5, 9], alpha=0.5))}) == 3


PAIRS = {"query": ["a", "b"], "document": ["c", "d"]}
TOKENS = tokens(3, 0)


@pytest.mark.parametrize(
    "data",
    [
        PAIRS,
        TOKENS,
        {"anchor": ["a", "b"], "positive": ["c", "d"]},
        {"anchor": TOKENS["query"], "positive": TOKENS["document"]},
        [("a", "b")],
        Pairs(PAIRS),
        {},
        {"query": TOKENS["query"]},
        {"a": PAIRS, "source": PAIRS},
    ],
    ids=str,
)
def test_what_is_no_mixture(data: Any) -> None:
    assert as_mixture(data) is None


def test_what_is_a_mixture() -> None:
    sources = {"a": PAIRS, "b": Pairs(PAIRS), "c": [("a", "b")], "d": TOKENS}
    found = as_mixture(sources)
    assert dict(found) == sources
    assert found.alpha == 1.0
    half = Mixture(sources, alpha=0.5)
    assert as_mixture(half) is half
    assert list(Mixture({"only": {"query": ["a"]}})) == ["only"]


def test_a_table_with_a_column_source_is_cut() -> None:
    pairs = Pairs({"query": list("abcd"), "document": list("efgh"), "source": list("xyxy")})
    found = Mixture(pairs)
    assert {name: part["query"] for name, part in found.items()} == {
        "x": ["a", "c"],
        "y": ["b", "d"],
    }


@pytest.mark.parametrize(
    ("sources", "options", "error", "message"),
    [
        ({}, {}, ValueError, "needs sources.*an empty mapping"),
        (3, {}, TypeError, r"should be \{\"name\": pairs, …\}. Received: int"),
        (PAIRS, {}, TypeError, "Received: 'query': list"),
        (Pairs(PAIRS), {}, ValueError, "needs its column 'source'"),
        ({"a": ["x", "y"]}, {}, TypeError, "Received: 'a': list"),
        ({"a": PAIRS, 3: PAIRS}, {}, TypeError, "Received: 3: dict"),
        ({"a": PAIRS}, {"alpha": -1}, ValueError, "`alpha` should be a finite number of 0 or more"),
        ({"a": PAIRS}, {"alpha": "1"}, ValueError, "`alpha` should be.*Received: '1'"),
    ],
)
def test_wrong_mixtures_are_refused(sources, options, error, message) -> None:
    with pytest.raises(error, match=message):
        Mixture(sources, **options)
