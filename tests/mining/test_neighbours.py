"""Neighbouring pieces of text: consecutive, apart, in one document, drawn by its content alone."""

import itertools
import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cptk.mining import Document, neighbouring_text

WORDS = "snow rain wind river lake hill stone leaf field cloud".split()


def document(number, sentences=20):
    rng = random.Random(number)
    made = [
        f"{' '.join(rng.choices(WORDS, k=6)).capitalize()} word{chr(97 + number)}{chr(97 + k)}."
        for k in range(sentences)
    ]
    parts = [" ".join(made[k : k + 4]) for k in range(0, sentences, 4)]
    return f"doc{number}.txt", "\n\n".join(parts)


@pytest.mark.parametrize("unit", ["sentence", "paragraph"])
def test_pieces_are_consecutive_and_apart(unit):
    path, text = document(3)
    (pairs,) = neighbouring_text([(path, text)], unit=unit, pieces=(1, 2))
    flat = " ".join(text.split())
    end = 0
    for row in pairs:
        begin = flat.index(row["query"])
        assert begin >= end  # nothing is in two pairs
        assert flat[begin:].startswith(f"{row['query']} {row['document']}")
        end = begin + len(row["query"]) + 1 + len(row["document"])
        assert text.split("\n")[row["line"] - 1].startswith(row["query"][:20]) or unit == "sentence"
    assert len(pairs) >= (4 if unit == "sentence" else 1)


def test_lengths_are_drawn_from_the_range():
    found = itertools.chain(*neighbouring_text(map(document, range(9)), pieces=(1, 3)))
    lengths = Counter(side.count(".") for row in found for side in (row["query"], row["document"]))
    assert set(lengths) == {1, 2, 3}
    assert min(lengths.values()) > 10


def test_a_document_gives_the_same_whatever_comes_before():
    documents = [document(number) for number in range(5)]
    alone = {path: next(neighbouring_text([(path, text)])) for path, text in documents}
    for pairs in neighbouring_text(reversed(documents)):
        assert pairs == alone[pairs[0]["path"]]
    other = next(neighbouring_text(documents[:1], seed=1))
    assert other != alone["doc0.txt"]


@given(st.lists(st.text(alphabet="ab .\n", max_size=80), max_size=4))
def test_any_text_is_read_and_no_words_are_made_up(texts):
    counts = Counter()
    files = [(str(number), text) for number, text in enumerate(texts)]
    for unit in ("sentence", "paragraph"):
        for pairs in neighbouring_text(files, unit=unit, min_words=1, counts=counts):
            for row in pairs:
                own = "".join(texts[int(row["path"])].split())
                assert "".join((row["query"] + row["document"]).split()) in own


def test_each_rule_is_counted():
    counts = Counter()
    paragraphs = [
        "One two three four five six.", "Seven eight nine ten eleven twelve.",
        "Short.", "This one is long enough to stand here.",
        "1 2 3 4 5 6 7 8 9 10 11 12", "Here are words and no numbers at all.",
        "The same text stands here twice.", "The same text stands here twice.",
        "word " * 300, "And a last one of some words.",
    ]  # fmt: skip
    found = neighbouring_text(
        [("a", "\n\n".join(paragraphs))], unit="paragraph", pieces=(1, 1), counts=counts
    )
    assert [row["line"] for pairs in found for row in pairs] == [1]
    assert counts == {
        "taken": 1, "too short": 1, "not prose": 1, "same text": 1, "too long": 1,
    }  # fmt: skip


def test_bad_input():
    for wrong in ({"unit": "word"}, {"pieces": (3, 1)}, {"pieces": 2}, {"pieces": (0, 1)},
                  {"min_words": 9, "max_words": 3}, {"seed": -1}):  # fmt: skip
        with pytest.raises(ValueError):
            neighbouring_text([("a", "b")], **wrong)
    with pytest.raises(TypeError, match="a path and a text"):
        list(neighbouring_text(["only text"]))
    with pytest.raises(TypeError):
        list(neighbouring_text("only text"))
    assert list(neighbouring_text([])) == []


def test_pairs_say_where_they_come_from():
    text = "The first one says this.\nAnd that.\n\nThe second one says more.\nOn two lines."
    document = Document("a.txt", text, source="notes", license="MIT")
    options = {"unit": "paragraph", "pieces": (1, 1), "min_words": 3}
    (pairs,) = neighbouring_text([document], **options)
    names = ("path", "source", "license", "line", "end_line")
    assert [pairs[0][name] for name in names] == ["a.txt", "notes", "MIT", 1, 5]
