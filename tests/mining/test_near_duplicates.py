"""Near duplicates against all comparisons, and the same survivors in any order."""

import hashlib
import random

import numpy as np
import pytest

from cptk.data import Pairs
from cptk.mining import drop_near_duplicates
from cptk.mining.copies import jaccard, shingles

WORDS = [f"{a}{b}{c}" for a in "bdfgk" for b in "aeiou" for c in ("nt", "rm", "ls")]


def planted(seed=0, originals=60, copies=3):
    """Texts and changed copies of them, from nearly equal to rather different."""
    rng = random.Random(seed)
    rows = []
    for number in range(originals):
        words = rng.choices(WORDS, k=60)
        for _ in range(copies + 1):
            changed = list(words)
            for place in rng.sample(range(60), rng.choice([0, 1, 1, 2, 3, 6])):
                changed[place] = rng.choice(WORDS)
            rows.append((f"query {number}", " ".join(changed)))
    rng.shuffle(rows)
    return rows


def by_all_comparisons(rows, similarity):
    """Which pairs stay, by the rule itself."""
    parts = [shingles(" ".join(document.lower().split())) for _, document in rows]
    ids = [(hashlib.blake2b("\0".join(row).encode()).digest(), i) for i, row in enumerate(rows)]
    return [
        not any(
            ids[j] < ids[i] and jaccard(parts[i], parts[j]) >= similarity
            for j in range(len(rows))
            if j != i
        )
        for i in range(len(rows))
    ]


@pytest.mark.parametrize("similarity", [0.8, 0.9])
def test_what_stays_is_what_all_comparisons_leave(similarity):
    rows = planted()
    expected = by_all_comparisons(rows, similarity)
    assert 0.2 < np.mean(expected) < 0.8
    kept = drop_near_duplicates(Pairs(rows), similarity=similarity)
    assert [tuple(row.values()) for row in kept] == [
        row for row, stays in zip(rows, expected, strict=True) if stays
    ]


def test_the_same_stay_in_any_order_and_in_parts_of_one_whole():
    rows = planted(seed=1)
    kept = {tuple(row.values()) for row in drop_near_duplicates(Pairs(rows))}
    for seed in range(3):
        order = random.Random(seed).sample(rows, len(rows))
        assert {tuple(row.values()) for row in drop_near_duplicates(Pairs(order))} == kept


def test_equal_pairs_leave_the_first_and_case_and_space_count_for_nothing():
    text = "The quick brown fox jumps over the lazy dog."
    pairs = Pairs({"query": ["a"] * 3, "document": [text] * 3, "number": [0, 1, 2]})
    assert drop_near_duplicates(pairs)["number"] == [0]
    other = Pairs([("a", text), ("b", text.upper().replace(" ", "\n  "))])
    assert len(drop_near_duplicates(other)) == 1


def test_each_side_and_both():
    long = "one two three four five six seven eight nine ten"
    pairs = Pairs([(long, "a text of its own"), (long + "s", "something else"), ("x", long)])
    assert len(drop_near_duplicates(pairs, by="query")) == 2
    assert len(drop_near_duplicates(pairs, by="document")) == 3
    assert len(drop_near_duplicates(pairs, by="pair")) == 3
    assert len(drop_near_duplicates(Pairs([("a", "b")]))) == 1


def test_bad_input():
    with pytest.raises(TypeError, match="should be Pairs"):
        drop_near_duplicates([("a", "b")])
    with pytest.raises(ValueError, match="by"):
        drop_near_duplicates(Pairs([("a", "b")]), by="both")
    for wrong in (0.4, 1.1, "0.8", float("nan"), None):
        with pytest.raises(ValueError, match=r"from 0\.5 to 1"):
            drop_near_duplicates(Pairs([("a", "b")]), similarity=wrong)
