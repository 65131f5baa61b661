"""The batching of `encode_text`, on a stand-in that counts shapes."""

import keras
import numpy as np
import pytest

from tests import toys


@pytest.fixture(scope="module")
def gpt2():
    return toys.gpt2_embedder(num_layers=1, sequence_length=32)


def test_one_string_is_a_batch_of_one(gpt2):
    alone = gpt2.encode_text("the thing", verbose=0)
    assert alone.shape == (1, toys.HIDDEN_DIM)
    np.testing.assert_array_equal(alone, gpt2.encode_text(["the thing"], verbose=0))
    np.testing.assert_array_equal(alone, gpt2.encode_text(np.array(["the thing"]), verbose=0))
    np.testing.assert_array_equal(alone, gpt2.encode_text(("the thing",), verbose=0))


def test_few_shapes_and_little_padding(gpt2, monkeypatch):
    shapes = []
    original = keras.Model.predict_on_batch

    def spy(self, x):
        shapes.append((x["token_ids"].shape, int(x["padding_mask"].sum())))
        return original(self, x)

    monkeypatch.setattr(keras.Model, "predict_on_batch", spy)
    texts = ["x" * (index % 60 + 1) for index in range(70)]
    gpt2.encode_text(texts, batch_size=8, verbose=0)
    assert {length for (_, length), _ in shapes} <= {16, 24, 32}
    # 70 texts are eight whole batches and six rows, filled up to eight.
    assert {rows for (rows, _), _ in shapes} == {8}
    lengths = [length for (_, length), _ in shapes]
    assert lengths == sorted(lengths, reverse=True)
    for (rows, length), real in shapes[:-1]:
        assert length == 16 or real > rows * length / 2


@pytest.mark.parametrize("count", [1, 3, 5, 9])
def test_uneven_tails(gpt2, count):
    texts = [f"text {index}" for index in range(count)]
    found = gpt2.encode_text(texts, batch_size=4, verbose=0)
    assert found.shape == (count, toys.HIDDEN_DIM)
    each = np.concatenate([gpt2.encode_text(text, verbose=0) for text in texts])
    np.testing.assert_allclose(found, each, atol=1e-6)


@pytest.mark.parametrize(
    ("count", "verbose", "shown"),
    [(3, "auto", False), (60, "auto", True), (60, 0, False), (60, False, False), (3, 1, True)],
)
def test_progress_bar(gpt2, capsys, count, verbose, shown):
    gpt2.encode_text(["x"] * count, batch_size=1, verbose=verbose)
    out = capsys.readouterr().out
    assert (f"{count}/{count}" in out) == shown


@pytest.mark.parametrize("size", [0, -1, 2.0, "8", None, True])
def test_bad_batch_size(gpt2, size):
    with pytest.raises(ValueError, match=f"`batch_size` should be a positive integer. .*{size!r}"):
        gpt2.encode_text(["x"], batch_size=size)


def test_numpy_batch_size(gpt2):
    assert gpt2.encode_text(["x"], batch_size=np.int64(2), verbose=0).shape == (1, 16)


@pytest.mark.parametrize("verbose", ["auto", 0])
def test_bad_input_is_refused_before_any_work(gpt2, verbose, monkeypatch):
    monkeypatch.setattr(keras.Model, "predict_on_batch", lambda *_: pytest.fail("computed"))
    for texts, error in [
        (None, TypeError),
        ("", ValueError),
        ([], ValueError),
        (["x", float("nan")], TypeError),
        (["x", "\ud800"], ValueError),
        ([b"x"], TypeError),
    ]:
        with pytest.raises(error):
            gpt2.encode_text(texts, verbose=verbose)
    with pytest.raises(ValueError, match="no role 'answer'"):
        gpt2.encode_text(["x"], role="answer")
