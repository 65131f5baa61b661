"""The batching of `encode_text`, on a stand-in that counts shapes."""

import io
import os
import signal

import keras
import numpy as np
import pytest

from cptk.models import encode
from tests import toys


class Frame:
    """What pandas shows of a frame: iterating it gives the names of its columns."""

    def __init__(self, columns, values):
        self.columns, self.values = columns, values
        self.shape = (len(values[0]), len(columns))

    def __iter__(self):
        return iter(self.columns)

    @property
    def iloc(self):
        return self

    def __getitem__(self, key):
        return self.values[key[1]]


@pytest.fixture(scope="module")
def gpt2():
    return toys.gpt2_embedder(num_layers=1, sequence_length=32)


def test_one_string_is_a_batch_of_one(gpt2):
    alone = gpt2.encode_text("the thing", verbose=0)
    assert alone.shape == (1, toys.HIDDEN_DIM)
    np.testing.assert_array_equal(alone, gpt2.encode_text(["the thing"], verbose=0))
    np.testing.assert_array_equal(alone, gpt2.encode_text(np.array(["the thing"]), verbose=0))
    np.testing.assert_array_equal(alone, gpt2.encode_text(("the thing",), verbose=0))


@pytest.mark.parametrize("any_shape", [False, True])
def test_few_shapes_and_little_padding(gpt2, monkeypatch, any_shape):
    shapes = []

    def spy(x):
        shapes.append((x["token_ids"].shape, int(x["padding_mask"].sum())))
        return np.zeros((len(x["token_ids"]), 2))

    monkeypatch.setattr(encode, "compiled_forward", lambda _: spy)
    monkeypatch.setattr(encode, "takes_any_shape", lambda _: any_shape)
    monkeypatch.setattr(encode, "_IN_FLIGHT", {keras.config.backend(): 1})
    texts = [f"{index:02}" + "x" * (index % 60 + 1) for index in range(70)]
    gpt2.encode_text(texts, batch_size=8, verbose=0)
    lengths = [length for (_, length), _ in shapes]
    assert lengths == sorted(lengths, reverse=True)
    if any_shape:
        assert sum(rows for (rows, _), _ in shapes) == 70
        # Each batch is as long as its longest text.
        assert all(real > (rows - 1) * (length - 8) for (rows, length), real in shapes)
        return
    # 70 texts are eight whole batches and six rows, filled up to eight.
    assert set(lengths) <= {16, 24, 32}
    assert {rows for (rows, _), _ in shapes} == {8}
    for (rows, length), real in shapes[:-1]:
        assert length == 16 or real > rows * length / 2


@pytest.mark.parametrize("count", [1, 3, 5, 9])
def test_uneven_tails(gpt2, count):
    texts = [f"text {index}" for index in range(count)]
    found = gpt2.encode_text(texts, batch_size=4, verbose=0)
    assert found.shape == (count, toys.HIDDEN_DIM)
    each = np.concatenate([gpt2.encode_text(text, verbose=0) for text in texts])
    np.testing.assert_allclose(found, each, atol=1e-6)


SHOWN = [(3, "auto", False), (1700, "auto", True), (60, 0, False), (60, False, False), (3, 1, True)]


@pytest.mark.parametrize(("count", "verbose", "shown"), SHOWN)
def test_progress_in_a_terminal(gpt2, capsys, monkeypatch, count, verbose, shown):
    monkeypatch.setattr("cptk.progress.is_terminal", lambda: True)
    gpt2.encode_text(["x"] * count, batch_size=1, verbose=verbose)
    out = capsys.readouterr().out
    assert (f"{count}/{count}" in out) == shown
    assert ("\x1b" in out) == shown


@pytest.mark.parametrize(("count", "verbose", "shown"), SHOWN)
def test_progress_in_a_file_is_a_few_lines(gpt2, capsys, count, verbose, shown):
    gpt2.encode_text(["x"] * count, batch_size=1, verbose=verbose)
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1:] == ([f"{count:,}/{count:,} texts"] if shown else [])
    assert len(lines) <= 10
    assert all(line.isprintable() for line in lines)


@pytest.mark.parametrize("name", ["batch_size", "batch_tokens"])
@pytest.mark.parametrize("size", [0, -1, 2.0, "8", True])
def test_bad_batch_size(gpt2, name, size):
    with pytest.raises((ValueError, TypeError), match=f"`{name}` should be an integer of 1 or"):
        gpt2.encode_text(["x"], **{name: size})


def test_numpy_batch_size(gpt2):
    assert gpt2.encode_text(["x"], batch_size=np.int64(2), verbose=0).shape == (1, 16)


@pytest.mark.parametrize("verbose", ["auto", 0])
def test_bad_input_is_refused_before_any_work(gpt2, verbose, monkeypatch):
    monkeypatch.setattr(
        "cptk.models.encode.compiled_forward", lambda _: lambda _: pytest.fail("computed")
    )
    for texts, error in [
        (None, TypeError),
        ("", ValueError),
        ([], ValueError),
        (["x", float("nan")], TypeError),
        (["x", "\ud800"], ValueError),
        ([b"x"], TypeError),
        (["x", " \n"], ValueError),
        ({"x": 1}, TypeError),
        ({"x": 1}.keys(), TypeError),
        ({"x"}, TypeError),
        (b"x", TypeError),
        (np.array([["x"]]), TypeError),
        (io.StringIO("x"), TypeError),
        (Frame(["question", "answer"], [["x"], ["y"]]), TypeError),
    ]:
        with pytest.raises(error):
            gpt2.encode_text(texts, verbose=verbose)
    with pytest.raises(ValueError, match="no role 'answer'"):
        gpt2.encode_text(["x"], role="answer")


def test_a_frame_of_one_column_is_its_texts_and_not_its_name(gpt2):
    texts = ["the thing", "x"]
    expected = gpt2.encode_text(texts, verbose=0)
    for door in (gpt2.encode_text, gpt2.predict_on_batch):
        np.testing.assert_allclose(door(Frame(["question"], [texts])), expected, atol=1e-6)
    ids = gpt2.preprocessor(Frame(["question"], [texts]))["token_ids"]
    np.testing.assert_array_equal(ids, gpt2.preprocessor(texts)["token_ids"])


def test_a_vector_that_is_not_finite_is_refused_by_its_text():
    embedder = toys.gpt2_embedder(1)
    table = np.array(embedder.backbone.token_embedding.embeddings)
    table[toys.vocabulary()["z"]] = np.nan
    embedder.backbone.token_embedding.embeddings.assign(table)
    assert np.isfinite(embedder.encode_text(["good"], verbose=0)).all()
    with pytest.raises(ValueError, match="text 1, 'a zoo', is not finite"):
        embedder.encode_text(["good", "a zoo", "zzz"], verbose=0)


class _Lost:
    """An interruption in a `__del__`, whose errors Python prints and drops."""

    def __del__(self):
        os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("in_flight", [1, 2])
def test_ctrl_c_that_a_callback_swallows_is_raised_all_the_same(gpt2, monkeypatch, in_flight):
    before = signal.default_int_handler
    found = signal.signal(signal.SIGINT, before)  # Ignored where tests run in the background.
    calls = []

    def embed(features):
        calls.append(1)
        _Lost()  # dies at once
        return np.zeros((len(features["token_ids"]), 2))

    monkeypatch.setattr(encode, "compiled_forward", lambda _: embed)
    monkeypatch.setattr(encode, "_IN_FLIGHT", {keras.config.backend(): in_flight})
    try:
        with pytest.raises(KeyboardInterrupt):
            gpt2.encode_text([f"x{number}" for number in range(30)], batch_size=1, verbose=0)
        assert len(calls) <= 3 * in_flight - 2
        assert signal.getsignal(signal.SIGINT) is before
    finally:
        signal.signal(signal.SIGINT, found)


@pytest.mark.parametrize("normalize", [True, False])
def test_the_first_numbers_at_unit_length(normalize):
    embedder = toys.gpt2_embedder(1, normalize=normalize)
    whole = embedder.encode_text(TRUNCATED, verbose=0)
    cut = embedder.encode_text(TRUNCATED, verbose=0, truncate_dim=5)
    expected = whole[:, :5].astype("float64")
    if normalize:
        expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    assert cut.dtype == np.float32
    np.testing.assert_allclose(cut, expected, rtol=0, atol=1e-6)
    all_of_them = embedder.encode_text(TRUNCATED, truncate_dim=16)
    np.testing.assert_allclose(all_of_them, whole, rtol=0, atol=1e-6)


@pytest.mark.parametrize("dim", [0, 17, 2.5, True, "8"])
def test_sizes_that_there_are_not(dim):
    with pytest.raises((ValueError, TypeError), match="`truncate_dim` should be"):
        toys.gpt2_embedder(1).encode_text(TRUNCATED, truncate_dim=dim)


def test_sizes_outside_of_those_trained():
    """A warning of the caller's line; sizes between come along with those trained."""
    embedder = toys.gpt2_embedder(1, trained_dims=[8, 4])
    for dim in (4, 6, 8, None):
        embedder.encode_text(TRUNCATED, truncate_dim=dim)
    for dim in (3, 16):
        with pytest.warns(UserWarning, match=rf"={dim} is outside .*\[8, 4\].*4 to 8") as found:
            embedder.encode_text(TRUNCATED, truncate_dim=dim)
        assert found[0].filename == __file__


@pytest.mark.parametrize("dims", [[0], [2.5], 4, "4"])
def test_trained_sizes_are_checked(dims):
    with pytest.raises((ValueError, TypeError), match="`trained_dims"):
        toys.gpt2_embedder(1, trained_dims=dims)


TRUNCATED = ["a", "the thing", "def f(x): return x"]
