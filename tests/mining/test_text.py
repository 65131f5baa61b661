"""Halves of texts as pairs."""

import pytest

from cptk.mining import mine_halves
from tests.test_checks import Frame

TEXTS = [" ".join(f"w{i}{j}" for j in range(i)) for i in range(4, 60)]


def test_a_pair_is_one_text_cut_between_30_and_70_percent():
    pairs = mine_halves(TEXTS)
    whole = {text: len(text.split()) for text in TEXTS if 8 <= len(text.split()) <= 48}
    seen, first = set(), 0
    for query, document in zip(pairs["query"], pairs["document"], strict=True):
        forwards = f"{query} {document}"
        text = forwards if forwards in whole else f"{document} {query}"
        seen.add(text)
        head = query if text == forwards else document
        first += text == forwards
        share = len(head.split()) / whole[text]
        assert 0.3 - 0.5 / whole[text] <= share <= 0.7 + 0.5 / whole[text]
    assert seen == set(whole)
    assert len(pairs) == len(whole)
    assert 0.2 < first / len(pairs) < 0.8  # a coin


def test_same_pairs_for_any_order_and_other_pairs_for_another_seed():
    assert mine_halves(TEXTS) == mine_halves(TEXTS[::-1] + TEXTS) == mine_halves(iter(TEXTS))
    assert mine_halves(TEXTS, seed=1) != mine_halves(TEXTS)


def test_two_words_make_two_halves():
    assert sorted(mine_halves(["left right"], min_words=2)[0].values()) == ["left", "right"]


@pytest.mark.parametrize(
    ("texts", "options", "message"),
    [
        ([], {}, "is empty"),
        (["too short"], {}, "None of the 1 texts has 8 to 48 words"),
        (TEXTS, {"min_words": 1}, "2 <= min_words"),
        (TEXTS, {"min_words": 9, "max_words": 8}, "2 <= min_words"),
    ],
)
def test_bad_input(texts, options, message):
    with pytest.raises(ValueError, match=message):
        mine_halves(texts, **options)


@pytest.mark.parametrize(
    "texts",
    [
        ["a good film", None],
        "a good film",
        b"a good film",
        {"text": TEXTS},
        {"text": TEXTS}.keys(),
        set(TEXTS),
        Frame(text=TEXTS, label=TEXTS),
        None,
    ],
)
def test_not_strings(texts):
    with pytest.raises(TypeError, match="string"):
        mine_halves(texts)


def test_a_frame_of_one_column_is_its_texts():
    assert mine_halves(Frame(text=TEXTS)) == mine_halves(TEXTS)


@pytest.mark.parametrize("name", ["min_words", "max_words", "seed"])
@pytest.mark.parametrize("value", [True, 8.0, "8", None])
def test_not_integers(name, value):
    with pytest.raises(TypeError, match=f"`{name}` should be an integer"):
        mine_halves(TEXTS, **{name: value})
