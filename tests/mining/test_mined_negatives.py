"""Hard negatives against a full sort by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import cptk
from cptk.data import Pairs
from cptk.mining import hard_negatives


class Encoder:
    """Vectors by text, drawn once for each."""

    def __init__(self, dim: int = 4) -> None:
        self.dim, self.calls = dim, []  # type: int, list[list[str]]

    def encode_text(self, texts: list[str]) -> Any:
        self.calls.append(list(texts))
        seeds = [np.frombuffer(text.encode().ljust(8, b"."), np.uint8) for text in texts]
        return np.stack([np.random.default_rng(seed).normal(size=self.dim) for seed in seeds])


def unit(x: Any) -> Any:
    return x / np.linalg.norm(x, axis=1, keepdims=True)


PAIRS = {
    "query": ["q0", "q1", "q2", "q3", "q1", "q5"],
    "document": ["d0", "d1", "d2", "D0!", "d4", "d0"],
    "group": [0, 1, 2, 3, 1, 2],
}
CORPUS = [*PAIRS["document"], *(f"c{i}" for i in range(12)), "q2", "c3"]


def by_hand(k: int, first: int, last: int, margin: Any, ratio: Any) -> list[list[str]]:
    texts = list(dict.fromkeys(CORPUS))
    encode = Encoder().encode_text
    q, d, c = (unit(encode(x)) for x in (PAIRS["query"], PAIRS["document"], texts))
    found = []
    for row, query in enumerate(PAIRS["query"]):
        order = sorted(range(len(texts)), key=lambda j: (-np.float32(q[row] @ c[j]), j))
        own = q[row] @ d[row]
        same = [
            PAIRS["document"][j]
            for j in range(6)
            if PAIRS["query"][j] == query or PAIRS["group"][j] == PAIRS["group"][row]
        ]
        copies = {"d0", "D0!"} if PAIRS["document"][row] in ("d0", "D0!") else set()
        kept = [
            texts[j]
            for j in order[first:last]
            if texts[j] not in {*same, *copies, query}
            and (margin is None or q[row] @ c[j] <= own - margin)
            and (ratio is None or q[row] @ c[j] <= own * ratio)
        ]
        found.append(kept[:k])
    return found


@given(
    k=st.integers(1, 6),
    ranks=st.tuples(st.integers(0, 4), st.integers(8, 30)),
    limit=st.sampled_from([(None, None), (0.0, None), (0.3, None), (None, 0.9)]),
)
def test_the_nearest_that_are_left(k: int, ranks: tuple[int, int], limit: Any) -> None:
    margin, ratio = limit
    reports: list[Any] = []
    options = {"ranks": ranks, "margin": margin, "ratio": ratio, "report": reports.append}
    found, report = hard_negatives(Encoder(), PAIRS, CORPUS, k, **options), reports[0]
    expected = by_hand(k, *ranks, margin, ratio)
    assert found["negatives"] == expected
    assert report.kept == sum(map(len, expected)) == sum(report.histogram)
    assert report.looked_at == report.kept + sum(report.fell.values())
    assert sum(report.pairs.values()) == 6
    assert str(report).startswith(f"{report.kept} negatives from {report.looked_at} candidates")


def test_columns_stay_and_old_negatives_go() -> None:
    pairs = Pairs({**PAIRS, "negatives": [["old"]] * 6, "guide": np.ones((6, 3, 2))})
    found = hard_negatives(Encoder(), pairs, k=1)
    assert found.columns == [*PAIRS, "negatives"]
    assert found["group"] == PAIRS["group"]
    assert "old" not in {text for row in found["negatives"] for text in row}
    again = hard_negatives(Encoder(), found, k=1)
    assert again["negatives"] == found["negatives"]


def test_each_text_is_embedded_once() -> None:
    encoder = Encoder()
    hard_negatives(encoder, PAIRS, CORPUS)
    assert len(encoder.calls) == 2
    for texts in encoder.calls:
        assert len(texts) == len(set(texts))


class Roles:
    def __init__(self) -> None:
        self.preprocessor, self.asked = self, []  # type: ignore[var-annotated]
        self.roles = {"query": 0, "document": 1}

    def encode_text(self, texts: list[str], role: str | None = None) -> Any:
        self.asked.append(role)
        return Encoder().encode_text(texts)


def test_queries_and_documents_have_their_roles() -> None:
    encoder = Roles()
    hard_negatives(encoder, PAIRS)
    assert sorted(encoder.asked) == ["document", "query"]


BAD: dict[str, Any] = {
    "no embedder": (("x", PAIRS), {}, TypeError, "`embedder` should have a method `encode_text`"),
    "k": ((Encoder(), PAIRS), {"k": 0}, ValueError, "`k`"),
    "ranks": ((Encoder(), PAIRS), {"ranks": (5, 5)}, ValueError, "`ranks` should be the first"),
    "one rank": ((Encoder(), PAIRS), {"ranks": (5,)}, ValueError, "`ranks` should be two integers"),
    "both": ((Encoder(), PAIRS), {"margin": 0.1, "ratio": 0.9}, ValueError, "not both"),
    "margin": ((Encoder(), PAIRS), {"margin": -1}, ValueError, "`margin` should be"),
    "ratio": ((Encoder(), PAIRS), {"ratio": 1.5}, ValueError, "`ratio` should be"),
    "report": ((Encoder(), PAIRS), {"report": 1}, TypeError, "`report` should be callable"),
    "corpus": ((Encoder(), PAIRS, ["a", "a"]), {}, ValueError, "two different texts or more"),
    "an empty text": ((Encoder(), PAIRS, ["a", ""]), {}, ValueError, "corpus"),
    "nothing left": (
        (Encoder(), PAIRS, ["d0", "D0."]),
        {"margin": 1.99},
        ValueError,
        "No pair has",
    ),
    "no pairs": ((Encoder(), []), {}, (ValueError, TypeError), "pairs|rows|tuples"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input(name: str) -> None:
    arguments, options, kind, message = BAD[name]
    with pytest.raises(kind, match=message):
        hard_negatives(*arguments, **options)


def test_what_comes_out_goes_into_fit() -> None:
    found = hard_negatives(Encoder(), PAIRS, CORPUS, k=2)
    assert isinstance(found, Pairs)
    assert cptk.mining.hard_negatives is hard_negatives
