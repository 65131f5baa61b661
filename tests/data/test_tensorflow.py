"""Pairs in `tf.data`: the same tokens as outside it."""

import numpy as np
import pytest

tf = pytest.importorskip("tensorflow", reason="tests of tf.data need TensorFlow")

from cptk.data import PairDataset  # noqa: E402
from cptk.data.feeding import Feed  # noqa: E402
from cptk.data.tensorflow import from_batches, is_dataset, prepare_dataset  # noqa: E402
from tests import toys  # noqa: E402

ROLES = {"query": "query", "document": "document"}
PAIRS = {"query": ["the", "x\n\ny", "é", "12"], "document": ["in", "b" * 40, "-", "z"]}


@pytest.fixture(scope="module")
def reader():
    return toys.preprocessor()


def check(batches, reader):
    """Batches against the preprocessor called on the lists."""
    batches = list(batches)
    for side in ROLES:
        expected = reader(PAIRS[side], role=side)
        for name in expected:
            found = np.concatenate([batch[side][name] for batch in batches])
            np.testing.assert_array_equal(found, expected[name])


def test_strings_single_and_batched(reader):
    single = tf.data.Dataset.from_tensor_slices(PAIRS)
    prepared = prepare_dataset(single, reader, ROLES, 2)
    assert prepared.element_spec["query"]["token_ids"].shape.as_list() == [None, 24]
    check(prepared.as_numpy_iterator(), reader)
    check(prepare_dataset(single.batch(2), reader, ROLES, None).as_numpy_iterator(), reader)


def test_roles_may_be_shared():
    reader = toys.preprocessor(roles={"text": ("(", ")")})
    data = tf.data.Dataset.from_tensor_slices(PAIRS).batch(4)
    prepared = prepare_dataset(data, reader, dict.fromkeys(ROLES, "text"), None)
    (batch,) = prepared.as_numpy_iterator()
    np.testing.assert_array_equal(batch["query"]["token_ids"], reader(PAIRS["query"])["token_ids"])


def test_weights_stay_with_their_pairs(reader):
    def weighted(x):
        return x, None, tf.strings.length(x["document"])

    data = tf.data.Dataset.from_tensor_slices(PAIRS).map(weighted)
    prepared = list(prepare_dataset(data, reader, ROLES, 2))
    weights = np.concatenate([weight for _, _, weight in prepared])
    assert weights.tolist() == [2, 40, 1, 1]
    check([x for x, _, _ in prepared], reader)


def test_tokenised_pairs(reader):
    tokens = {side: reader(PAIRS[side], role=side) for side in ROLES}
    data = tf.data.Dataset.from_tensor_slices(tokens)
    check(prepare_dataset(data, reader, ROLES, 2).as_numpy_iterator(), reader)
    check(prepare_dataset(data.batch(2), None, ROLES, None).as_numpy_iterator(), reader)


def test_bad_datasets(reader):
    single = tf.data.Dataset.from_tensor_slices(PAIRS)
    with pytest.raises(ValueError, match=r"holds single pairs\. Pass `batch_size=`"):
        prepare_dataset(single, reader, ROLES, None)
    with pytest.raises(ValueError, match=r"is batched already\. Leave `batch_size` out"):
        prepare_dataset(single.batch(2), reader, ROLES, 2)
    for data in (single.map(lambda x: x["query"]), single.map(lambda x: {"query": x["query"]})):
        with pytest.raises(ValueError, match=r'Elements of the dataset should be \{"query"'):
            prepare_dataset(data, reader, ROLES, 2)


@pytest.mark.parametrize("weighted", [False, True])
def test_from_batches_with_a_length_that_changes(weighted):
    lengths = iter([4, 4, 6, 5])

    def tokenize(texts, side):
        length = 4 if side == "query" else next(lengths)
        return {
            "token_ids": np.full((len(texts), length), 7, "int32"),
            "padding_mask": np.ones((len(texts), length), bool),
        }

    pairs = {"query": list("abcdef"), "document": list("uvwxyz")}
    weight = np.arange(6.0) if weighted else None
    batches = PairDataset(pairs, tokenize, 2, weight, shuffle=False)
    data = from_batches(Feed(batches, threads=0))
    assert is_dataset(data)
    assert not is_dataset(batches)
    assert int(data.cardinality()) == len(batches)
    found = list(data)
    if weighted:
        assert [weight.numpy().tolist() for _, _, weight in found] == [[0, 1], [2, 3], [4, 5]]
        assert all(y is None for _, y, _ in found)
        found = [x for x, _, _ in found]
    # The first batch is read twice: once for its signature.
    assert [x["document"]["token_ids"].shape[1] for x in found] == [4, 6, 5]
    assert [x["query"]["token_ids"].shape.as_list() for x in found] == [[2, 4]] * 3
