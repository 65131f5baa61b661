"""A guide's vectors as a column of pairs, and what training makes of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cptk
from cptk.data import Mixture, PairDataset, Pairs
from cptk.data.mixture import MixedBatches
from cptk.mining import guide_vectors

PAIRS = {
    "query": ["q0", "q1", "q0"],
    "document": ["d0", "d1", "d2"],
    "negatives": [["n0", "d1"], [], ["n0"]],
}


class Guide:
    """Vectors by role and text."""

    roles = ("query", "document")

    def __init__(self) -> None:
        self.calls: list[list[str]] = []

    def encode_text(self, texts: list[str], role: str | None = None) -> Any:
        self.calls.append(list(texts))
        return np.stack([vector(role, text) for text in texts])


def vector(role: str | None, text: str) -> Any:
    return np.random.default_rng(list(f"{role} {text}".encode())).normal(size=5)


def expected(row: int) -> Any:
    texts = [PAIRS["document"][row], *PAIRS["negatives"][row]]
    own = [vector("query", str(PAIRS["query"][row]))]
    return np.array([*own, *(vector("document", text) for text in texts)], np.float32)


def tokenize(texts: Any, side: str) -> Any:
    ids = np.ones((len(texts), 2), np.int32)
    return {"token_ids": ids, "padding_mask": ids > 0}


def test_a_row_has_the_vectors_of_its_texts_each_encoded_once(tmp_path: Path) -> None:
    guide = Guide()
    found = guide_vectors(guide, guide_vectors(guide, PAIRS))
    assert found.columns == [*PAIRS, "guide"]
    for row in range(3):
        np.testing.assert_array_equal(np.array(found["guide"][row], np.float32), expected(row))
    assert guide.calls[:2] == [["q0", "q1"], ["d0", "d1", "d2", "n0"]]
    assert len(guide_vectors(guide, {k: PAIRS[k] for k in ("query", "document")})["guide"][0]) == 2
    found.to_parquet(tmp_path / "pairs.parquet")
    assert Pairs.from_parquet(tmp_path / "pairs.parquet") == found


def test_batches_have_zeros_where_there_is_no_negative() -> None:
    guided = guide_vectors(Guide(), PAIRS)
    parts = Pairs.concat([guided[2:], guided.sample(1, seed=0), guided[:2]])
    for pairs in (guided, parts):
        columns = ("guide", "negatives")
        data = PairDataset(pairs, tokenize, batch_size=len(pairs), shuffle=False, columns=columns)
        guide = data[0]["guide"]
        assert guide.dtype == np.float32
        assert guide.shape == (len(pairs), 4, 5)
        for row, document in enumerate(pairs["document"]):
            wanted = expected(PAIRS["document"].index(str(document)))
            np.testing.assert_array_equal(guide[row, : len(wanted)], wanted)
            assert not guide[row, len(wanted) :].any()
    assert PairDataset({**PAIRS, "guide": guide[:3]}, tokenize, columns=("guide",)).numbers


def test_sources_are_filled_up_alike() -> None:
    plain = {"query": ["a", "b"], "document": ["c", "d"]}
    sources = {"guided": guide_vectors(Guide(), plain), "hard": PAIRS}
    read = {"guided": ("guide",), "hard": ("negatives",)}
    parts = {
        name: PairDataset(pairs, tokenize, batch_size=2, columns=read[name])
        for name, pairs in Mixture(sources).items()
    }
    data = MixedBatches(parts, 1.0, True, 0, None)
    assert {data[i]["guide"].shape[1:] for i in range(len(data))} == {(4, 5)}


def pairs(guide: Any) -> dict[str, Any]:
    return {**PAIRS, "guide": guide}


@pytest.mark.parametrize(
    ("guide", "error", "message"),
    [
        ([[[1.0, 2.0]]] * 3, ValueError, "`guide` should hold two vectors or more. Item 0 has few"),
        (
            [[[1.0, 2.0], [1.0]]] * 3,
            ValueError,
            r"vectors of one size. Received the sizes \[2, 1\]",
        ),
        ([[[1.0], [2.0]]] * 2 + [[[1.0], [np.nan]]], ValueError, "One of item 2 is missing or not"),
        ([[[1.0], None]] * 3, ValueError, "vectors of one size"),
        ([1.0, 2.0, 3.0], TypeError, "a list of vectors for each pair.* type is double"),
        (np.ones((3, 2, 2), bool), TypeError, "a list of vectors for each pair.*bool"),
        (None, ValueError, "no column 'guide'.*Make it by cptk.mining.guide_vectors"),
        (np.ones((2, 4, 2)), ValueError, "one list of vectors a pair, 3. Received: 2"),
        (np.ones((3, 3, 2)), ValueError, "of each negative, 4 a pair. Received: 3. Make it again"),
    ],
)
def test_bad_vectors(guide: Any, error: type[Exception], message: str) -> None:
    data = PAIRS if guide is None else pairs(guide)
    with pytest.raises(error, match=message):
        PairDataset(data, tokenize, columns=("guide", "negatives"))
    if guide is not None and not isinstance(guide, np.ndarray):
        with pytest.raises(error, match=message):
            Pairs(data)


def test_bad_guides() -> None:
    class Broken(Guide):
        def encode_text(self, texts: list[str], role: str | None = None) -> Any:
            return np.full((len(texts), 2), np.nan)

    with pytest.raises(ValueError, match="must give finite vectors"):
        guide_vectors(Broken(), PAIRS)
    with pytest.raises(TypeError, match="An encoder is no string"):
        guide_vectors("x", PAIRS)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="Part 1 has no column 'guide'"):
        Pairs.concat([guide_vectors(Guide(), PAIRS), Pairs(PAIRS)])
    assert cptk.mining.guide_vectors is guide_vectors
