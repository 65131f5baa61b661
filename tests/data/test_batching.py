"""Batches as a function of (seed, epoch, step), and what is no pair."""

from concurrent.futures import ThreadPoolExecutor
from itertools import chain

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cptk.data import PairDataset
from cptk.data.batching import bucket_length, pad_tokens
from cptk.data.columns import digest


def tokens(count: int) -> dict:
    """Pairs whose every id is the number of the pair, plus 1,000 on the side of the document."""
    ids = np.repeat(np.arange(count, dtype="int32")[:, None], 3, axis=1)
    mask = np.ones(ids.shape, bool)
    return {
        "query": {"token_ids": ids, "padding_mask": mask},
        "document": {"token_ids": ids + 1000, "padding_mask": mask},
    }


def numbers(batch) -> list[int]:
    x = batch[0] if isinstance(batch, tuple) else batch
    found = x["query"]["token_ids"][:, 0]
    np.testing.assert_array_equal(x["document"]["token_ids"][:, 0], found + 1000)
    return found.tolist()


def stream(data: PairDataset, epochs: int) -> list[list[int]]:
    """All batches of the first epochs, as a run sees them."""
    batches = []
    for epoch in range(epochs):
        data.epoch = epoch
        batches += [numbers(data[step]) for step in range(len(data))]
    return batches


sizes = st.tuples(st.integers(2, 30), st.integers(2, 9))


@given(size=sizes, steps=st.none() | st.integers(1, 12), seed=st.integers(0, 99), data=st.data())
def test_a_batch_depends_on_seed_epoch_and_step_alone(size, steps, seed, data):
    def make():
        return PairDataset(tokens(size[0]), batch_size=size[1], seed=seed, steps_per_epoch=steps)

    expected, once = make(), stream(make(), 4)
    epoch, step = data.draw(st.integers(0, 3)), data.draw(st.integers(0, len(expected) - 1))
    expected.epoch = epoch
    assert numbers(expected[step]) == once[epoch * len(expected) + step]


@given(size=sizes, steps=st.none() | st.integers(1, 12))
def test_every_pass_holds_every_pair_once_whatever_the_epochs(size, steps):
    count, batch_size = size
    data = PairDataset(tokens(count), batch_size=batch_size, seed=3, steps_per_epoch=steps)
    whole = max(-(-count // batch_size) - (count % batch_size == 1), 1)
    assert data.batches_per_pass == whole
    assert len(data) == (whole if steps is None else steps)
    batches = stream(data, 5)
    for start in range(0, len(batches) - whole + 1, whole):
        one_pass = batches[start : start + whole]
        assert sorted(chain.from_iterable(one_pass)) == list(range(count))
        assert [len(batch) for batch in one_pass[:-1]] == [batch_size] * (whole - 1)
        assert 2 <= len(one_pass[-1]) <= batch_size + 1


def test_a_last_pair_alone_is_put_with_the_batch_before():
    data = PairDataset(tokens(9), batch_size=4, shuffle=False, sample_weight=np.arange(9))
    assert stream(data, 2) == [[0, 1, 2, 3], [4, 5, 6, 7, 8]] * 2
    assert data[1][2].tolist() == [4, 5, 6, 7, 8]
    assert stream(PairDataset(tokens(3), batch_size=2, shuffle=False), 1) == [[0, 1, 2]]


@pytest.mark.parametrize(("count", "batch_size"), [(1, 4), (1, 1), (3, 1), (5, 4)])
def test_pairs_that_need_no_negatives(count, batch_size):
    data = PairDataset(tokens(count), batch_size=batch_size, shuffle=False, training=False)
    assert list(chain.from_iterable(stream(data, 1))) == list(range(count))


@given(size=sizes, other=st.integers(2, 9), done=st.integers(0, 60))
def test_a_place_in_the_order_is_found_again(size, other, done):
    """At the same batch for the same size; for another one, no pair is passed over."""
    data = PairDataset(tokens(size[0]), batch_size=size[1])
    place = data.place(done)
    assert data.batches_before(*place) == done
    changed = PairDataset(tokens(size[0]), batch_size=other)
    passes, pairs = changed.place(changed.batches_before(*place))
    assert passes == place[0]
    assert place[1] - other < pairs + (pairs == changed.place(changed.batches_per_pass - 1)[1])
    assert pairs <= place[1]


def test_start_counts_batches_before_the_first_epoch():
    data = PairDataset(tokens(12), batch_size=4, seed=2, steps_per_epoch=2)
    expected = stream(data, 4)
    data.start = 2
    assert stream(data, 3) == expected[2:]


def test_reading_for_a_trainer_leaves_the_dataset_as_it_is():
    pairs = {"query": ["b", "a"], "document": ["d", "c"]}
    data = PairDataset(pairs, seed=1)
    data.epoch = 3
    first, second = (data.read_by(lambda t, s, i=i: {"token_ids": i}, True) for i in (1, 2))
    assert (first[0]["query"], second[0]["query"]) == ({"token_ids": 1}, {"token_ids": 2})
    assert data.tokenize is None
    assert (data.epoch, data.shuffle, first.epoch, first.shuffle) == (3, True, 0, False)


def test_a_digest_changes_with_every_text_token_and_order():
    rows = {"token_ids": np.array([[1, 2], [3, 0]]), "padding_mask": np.array([[1, 1], [1, 0]])}
    masked = {**rows, "padding_mask": np.array([[1, 1], [1, 1]])}
    flat = {"token_ids": np.ones((1, 4), int), "padding_mask": np.ones((1, 4), int)}
    two = ["ab", "c"]
    kinds = [(two, two), (["a", "bc"], two), (["c", "ab"], two), (["abc"], two), (two, ["ab", "é"])]
    kinds += [(rows, two), (rows, rows), (masked, rows), (rows, masked), (flat, rows)]
    found = [digest({"query": query, "document": document}) for query, document in kinds]
    assert len(set(found)) == len(kinds)
    assert found[0] == digest({"query": list(two), "document": list(two)})


def test_padding_is_moved_to_the_right():
    left = {"token_ids": np.array([[0, 7], [8, 9]]), "padding_mask": np.array([[0, 1], [1, 1]])}
    found = PairDataset({"query": left, "document": left}, shuffle=False)[0]["document"]
    assert found["token_ids"].tolist() == [[7, 0], [8, 9]]
    assert found["padding_mask"].tolist() == [[1, 0], [1, 1]]


def test_passes_and_seeds_differ():
    data = PairDataset(tokens(40), batch_size=40, seed=1)
    orders = stream(data, 3) + stream(PairDataset(tokens(40), batch_size=40, seed=2), 3)
    assert len({tuple(order) for order in orders}) == 6


def test_no_shuffle():
    data = PairDataset(tokens(5), batch_size=3, shuffle=False)
    assert stream(data, 2) == [[0, 1, 2], [3, 4]] * 2
    data = PairDataset(tokens(5), batch_size=3, shuffle=False, steps_per_epoch=3)
    assert stream(data, 2) == [[0, 1, 2], [3, 4], [0, 1, 2], [3, 4], [0, 1, 2], [3, 4]]


def test_threads_see_the_same_batches():
    data = PairDataset(tokens(64), batch_size=4, seed=5, steps_per_epoch=50)
    expected = [numbers(data[step]) for step in range(50)]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda step: numbers(data[step]), [*range(50)] * 4))
    assert found == expected * 4


def test_weights_go_with_their_pairs():
    weights = np.arange(11) / 10
    data = PairDataset(tokens(11), batch_size=4, sample_weight=weights, seed=2)
    for step in range(len(data)):
        x, y, weight = data[step]
        assert y is None
        assert weight.dtype == np.float32
        np.testing.assert_allclose(weight, np.array(numbers(x)) / 10, rtol=1e-6)


def test_strings_are_tokenised_batch_by_batch():
    calls = []

    def tokenize(texts, side):
        calls.append((side, texts))
        return pad_tokens([[len(text)] for text in texts], 4)

    pairs = {"query": ["a", "bb", "ccc"], "document": np.array(["d", "ee", "fff"])}
    data = PairDataset(pairs, tokenize, batch_size=8, shuffle=False)
    assert calls == []
    batch = data[0]
    assert calls == [("query", ["a", "bb", "ccc"]), ("document", ["d", "ee", "fff"])]
    assert batch["query"]["token_ids"][:, 0].tolist() == [1, 2, 3]
    with pytest.raises(ValueError, match="Pairs of strings need `tokenize`"):
        PairDataset(pairs)[0]


def test_index_out_of_range():
    data = PairDataset(tokens(6), batch_size=3)
    for index in (2, -1):
        with pytest.raises(IndexError, match=f"Batch {index} of 2"):
            data[index]


A = ["a", "b", "c"]


@pytest.mark.parametrize(
    ("pairs", "error", "message"),
    [
        (None, TypeError, "Received: NoneType"),
        ([A, A], TypeError, "Received: list"),
        ({"query": A}, ValueError, r"Received the keys \['query'\]"),
        ({"query": A, "document": A, "x": A}, ValueError, "Received the keys"),
        ({"query": A, "document": None}, TypeError, "`document` should be a sequence of strings"),
        ({"query": "abc", "document": A}, TypeError, "`query` should be a sequence of strings"),
        ({"query": A, "document": A[:2]}, ValueError, "'query': 3, 'document': 2"),
        ({"query": [], "document": []}, ValueError, "`query` is empty"),
        ({"query": ["a"], "document": ["b"]}, ValueError, "at least 2 pairs. Received: 1"),
        ({"query": A, "document": ["a", "", "c"]}, ValueError, "`document`.*Item 1 is empty"),
        ({"query": ["a", "\n ", "c"], "document": A}, ValueError, "`query`.*Item 1 is of white sp"),
        ({"query": ["a", None, "c"], "document": A}, TypeError, "`query`.*Item 1 is None"),
        ({"query": A, "document": [1.0, 2.0, 3.0]}, TypeError, "`document`.*Item 0 is 1.0"),
        (
            {"query": A, "document": {"token_ids": np.ones((3, 2))}},
            ValueError,
            r"Tokenised document should have token_ids and padding_mask. Received: \['token_ids'\]",
        ),
        (
            {
                "query": A,
                "document": {"token_ids": np.ones((3, 2)), "padding_mask": np.ones((3, 1))},
            },
            ValueError,
            r"document should have one shape, \(n, length\).*\(3, 2\), \(3, 1\)",
        ),
        (
            {"query": A, "document": {"token_ids": np.ones(3), "padding_mask": np.ones(3)}},
            ValueError,
            r"one shape, \(n, length\).*\(3,\)",
        ),
    ],
    ids=str,
)
def test_what_is_no_pairs(pairs, error, message):
    with pytest.raises(error, match=message):
        PairDataset(pairs, lambda texts, side: {})


@pytest.mark.parametrize(
    ("weight", "message"),
    [
        ([1.0, float("nan"), 1.0], "finite and not negative. Weight 1 is nan"),
        ([1.0, 1.0, float("inf")], "Weight 2 is inf"),
        ([-1.0, 1.0, 1.0], "Weight 0 is -1.0"),
        ([1.0, 1.0], r"shape \(3,\). Received: \(2,\)"),
        (np.ones((3, 1)), r"shape \(3,\). Received: \(3, 1\)"),
        (1.0, r"shape \(3,\). Received: \(\)"),
        ([None, 1.0, 1.0], "Weight 0 is nan"),
        (["a", 1.0, 1.0], "could not convert"),
    ],
    ids=str,
)
def test_bad_weights(weight, message):
    with pytest.raises(ValueError, match=message):
        PairDataset(tokens(3), batch_size=3, sample_weight=weight)


def test_bad_batch_size():
    for size in (1, 0, -4):
        with pytest.raises(ValueError, match=f"`batch_size` should be 2 or more.*Received: {size}"):
            PairDataset(tokens(6), batch_size=size)
    for size in (2.0, "2", None, True):
        with pytest.raises(TypeError, match="`batch_size` should be an integer"):
            PairDataset(tokens(6), batch_size=size)
    assert len(PairDataset(tokens(3), batch_size=np.int64(8))) == 1


@pytest.mark.parametrize("value", [0, -1, 1.5, "3", True])
def test_bad_steps_and_seeds(value):
    with pytest.raises(ValueError, match="`steps_per_epoch` should be an integer of 1 or more"):
        PairDataset(tokens(6), batch_size=3, steps_per_epoch=value)
    if value != 0:
        with pytest.raises(ValueError, match="`seed` should be an integer of 0 or more"):
            PairDataset(tokens(6), batch_size=3, seed=value)


ROWS = st.lists(st.lists(st.integers(0, 2**31 - 1), max_size=9), min_size=1, max_size=9)


@given(rows=ROWS, more=st.integers(0, 5))
def test_pad_tokens(rows, more):
    length = max(map(len, rows)) + more
    padded = pad_tokens(rows, length)
    assert padded["token_ids"].shape == padded["padding_mask"].shape == (len(rows), length)
    assert padded["token_ids"].dtype == np.int32
    assert padded["padding_mask"].dtype == bool
    for row, ids, mask in zip(rows, padded["token_ids"], padded["padding_mask"], strict=True):
        assert ids.tolist() == row + [0] * (length - len(row))
        assert mask.tolist() == [True] * len(row) + [False] * (length - len(row))


@given(length=st.integers(1, 5000), longest=st.integers(3, 5000))
def test_bucket_length(length, longest):
    length = min(length, longest)
    bucket = bucket_length(length, longest)
    assert length <= bucket <= longest
    assert bucket <= 16 or bucket == longest or 3 * (bucket - length) <= bucket
    assert bucket_length(bucket, longest) == bucket


def test_few_buckets():
    found = sorted({bucket_length(length, 10_000) for length in range(1, 513)})
    assert found == [16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512]
