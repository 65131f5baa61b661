"""The checks that every door shares. Pure Python: no backend."""

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cptk import checks

LETTERS = st.characters(exclude_categories=("Cs", "Z", "Cc"))


@given(values=st.lists(st.text(LETTERS, min_size=1), min_size=1))
def test_texts_come_back_as_they_are(values):
    for form in (values, tuple(values), iter(values), np.array(values, dtype=object)):
        found = checks.texts(form)
        assert found == values
        assert all(type(text) is str for text in found)


class Frame:
    """What pandas shows of a frame."""

    def __init__(self, **columns):
        self.columns = list(columns)
        self.shape = (1, len(columns))
        self.data = columns

    def __iter__(self):
        return iter(self.columns)  # the names, as pandas does

    def to_pydict(self):
        return self.data


def test_a_frame_of_one_column_is_taken_and_of_two_refused():
    assert checks.texts(Frame(question=["how?"])) == ["how?"]
    with pytest.raises(TypeError, match="2 columns"):
        checks.texts(Frame(question=["how?"], answer=["so"]))


@pytest.mark.parametrize(
    "values",
    [
        "text",
        b"text",
        bytearray(b"text"),
        {"a": "b"},
        {"a": "b"}.keys(),
        {"a": "b"}.values(),
        {"a": "b"}.items(),
        {"a", "b"},
        io.StringIO("a line\n"),
        np.array([["a"]]),
        np.array("a"),
        str,
        None,
        3,
        [None],
        [float("nan")],
        [b"bytes"],
        [["a"]],
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_is_no_sequence_of_texts_is_refused(values):
    with pytest.raises(TypeError, match="`questions` should"):
        checks.texts(values, "questions")


@pytest.mark.parametrize("values", [[], [""], ["a", " \n\t"], ["\u00a0"], ["a", "\ud800"]])
def test_texts_that_mean_nothing_are_refused(values):
    with pytest.raises(ValueError, match="`questions`"):
        checks.texts(values, "questions")


@pytest.mark.parametrize(
    "value",
    ["x" * 10**7, ["y" * 10**7] * 3, np.zeros(10**6), {"a": ["z" * 10**7]}, "a\nb"],
    ids=range(5),
)
def test_messages_are_cut_to_a_line(value):
    text = checks.shown(value)
    assert len(text) <= 100
    assert "\n" not in text


def test_integers():
    assert checks.integer("size", np.int64(3), 1) == 3
    for value in (True, 1.0, "1", None):
        with pytest.raises(TypeError, match="`size` should be an integer of 1 or more"):
            checks.integer("size", value, 1)
    with pytest.raises(ValueError, match="Received: 0"):
        checks.integer("size", 0, 1)


def test_positive_numbers():
    assert checks.positive("scale", np.float32(2)) == 2.0
    for value in (0, -1.0, float("nan"), float("inf"), True, "2", None):
        with pytest.raises(
            ValueError, match=r"`scale` should be a positive finite number, or \"x\""
        ):
            checks.positive("scale", value, ', or "x"')


def test_paths(monkeypatch):
    monkeypatch.setenv("HOME", "/home/ada")
    assert str(checks.path("~/models", "folder")) == "/home/ada/models"
    for value in ("", "a\0b"):
        with pytest.raises(ValueError, match="`folder` should be a path"):
            checks.path(value, "folder")
    for value in (None, 3, b"x"):
        with pytest.raises(TypeError, match="`folder` should be a path"):
            checks.path(value, "folder")


def test_blank_texts_are_taken_where_they_are_left_out_later():
    assert checks.texts(["a", "", " \n"], allow_blank=True) == ["a", "", " \n"]
    with pytest.raises(TypeError, match="strings only"):
        checks.texts(["a", None], allow_blank=True)


def test_items_of_any_kind_in_their_order():
    assert checks.items(Frame(label=[2, 1]), "labels", "labels") == [2, 1]
    with pytest.raises(TypeError, match="`labels` should be a sequence of labels"):
        checks.items({2, 1}, "labels", "labels")


@pytest.mark.parametrize("value", [True, np.True_, None, "1", [1], 1j])
def test_what_is_no_number(value):
    assert not checks.is_number(value)
    assert not checks.is_integer(value)


def test_what_is_one():
    assert all(map(checks.is_integer, (0, -1, np.int64(3), np.uint8(3))))
    assert all(map(checks.is_number, (0, 0.5, np.float32(0.5), np.int8(1), float("nan"))))
    assert not any(map(checks.is_integer, (1.0, np.float64(1))))


@pytest.mark.parametrize("value", ["max", "", None, 3, ["eos"], {}, np.array(["eos", "mean"])])
def test_a_choice_is_one_of_its_options(value):
    assert checks.choice("pooling", "eos", {"eos": 1, "mean": 2}) == "eos"
    with pytest.raises(ValueError, match=r"`pooling` should be one of \['eos', 'mean'\]. Received"):
        checks.choice("pooling", value, {"eos": 1, "mean": 2})
