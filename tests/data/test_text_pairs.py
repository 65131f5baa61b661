"""Halves of texts as pairs."""

import pytest

from cptk.data import mine_halves

TEXTS = [" ".join(f"w{i}{j}" for j in range(i)) for i in range(4, 60)]


def test_a_pair_is_one_text_cut_between_30_and_70_percent():
    pairs = mine_halves(TEXTS)
    whole = {text: len(text.split()) for text in TEXTS if 8 <= len(text.split()) <= 48}
    seen, first = set(), 0
    for query, document in pairs:
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
    assert sorted(mine_halves(["left right"], min_words=2)[0]) == ["left", "right"]


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


def test_not_strings():
    with pytest.raises(TypeError, match="string"):
        mine_halves(["a good film", None])
