"""Pairs that share text with a test set fall, and the reason is on disk."""

import random

import pyarrow.parquet as parquet
import pytest

from cptk.data import Pairs
from cptk.mining import decontaminate

WORDS = [f"{a}{b}{c}" for a in "bdfgk" for b in "aeiou" for c in ("nt", "rm", "ls")]


def words_of(count, rng):
    return [rng.choice(WORDS) for _ in range(count)]


def test_planted_overlaps_fall_and_no_others(tmp_path):
    rng = random.Random(0)
    tests = [" ".join(words_of(40, rng)) for _ in range(20)]
    rows, expected = [], []
    for number in range(60):
        own = words_of(30, rng)
        run = {0: 13, 1: 12, 2: 0}[number % 3]
        source = tests[number % 20].split()
        begin = rng.randrange(27)
        # No word of the source happens to go on where the run ends.
        text = " ".join([*own[:9], "edge", *source[begin : begin + run], "edge", *own[9:]])
        rows.append((f"q{number}", text.upper().replace(" ", ",  ")))
        expected.append(run == 13)
    path = tmp_path / "dropped.parquet"
    kept = decontaminate(Pairs(rows), tests, dropped=path)
    assert kept["query"] == [q for (q, _), falls in zip(rows, expected, strict=True) if not falls]
    fallen = parquet.read_table(path)
    assert fallen["query"].to_pylist() == [f"q{n}" for n in range(0, 60, 3)]
    assert set(fallen["reason"].to_pylist()) == {"document: 13-gram"}
    for overlap, text in zip(fallen["overlap"], fallen["document"], strict=True):
        assert len(str(overlap).split()) == 13
        assert str(overlap) in " ".join(str(text).lower().replace(",", "").split())


def test_short_texts_fall_when_they_are_equal(tmp_path):
    pairs = Pairs({"query": ["Why, so?", "why so not"], "document": ["a", "b"], "line": [1, 2]})
    path = tmp_path / "dropped.parquet"
    assert decontaminate(pairs, ["why so"], dropped=path)["line"] == [2]
    (row,) = parquet.read_table(path).to_pylist()
    assert (row["reason"], row["overlap"], row["line"]) == ("query: exact match", "why so", 1)
    other = tmp_path / "none.parquet"
    assert decontaminate(pairs, ["something else"], dropped=other) == pairs
    assert not other.exists()


def test_bad_input():
    pairs = Pairs([("a", "b")])
    with pytest.raises(TypeError, match="should be Pairs"):
        decontaminate([("a", "b")], ["a"])
    with pytest.raises(ValueError):
        decontaminate(pairs, [])
    with pytest.raises(TypeError):
        decontaminate(pairs, "a text")
    with pytest.raises(ValueError, match="`n`"):
        decontaminate(pairs, ["a"], n=0)
