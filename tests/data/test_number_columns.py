"""Number columns of pairs in batches, and weights that pairs bring along."""

from collections import namedtuple
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from cptk.data import PairDataset, Pairs

N = 7
Q, D = [f"q{i}" for i in range(N)], [f"d{i}" for i in range(N)]
SCORE = np.arange(N) / 2
BOTH = {"query": Q, "document": D}
SCORED: dict[str, Any] = {**BOTH, "score": SCORE.tolist()}
Row = namedtuple("Row", ["query", "document", "score"])
FORMS: dict[str, Any] = {
    "mapping": SCORED,
    "pairs": Pairs(SCORED),
    "table": pa.table(SCORED),
    "mappings": list(Pairs(SCORED)),
    "named tuples": [Row(*row) for row in zip(Q, D, SCORE, strict=True)],
}


def tokenize(texts: Any, side: str) -> Any:
    ids = np.array([[int(text[1:]) + 1] for text in texts], np.int32)
    return {"token_ids": ids, "padding_mask": ids > 0}


@pytest.mark.parametrize("form", FORMS)
def test_numbers_go_with_their_pairs(form: str) -> None:
    data = PairDataset(FORMS[form], tokenize, batch_size=3, seed=5, columns=("score",))
    plain = PairDataset(BOTH, tokenize, batch_size=3, seed=5)
    for epoch in (0, 1):
        data.epoch = plain.epoch = epoch
        for index in range(len(data)):
            batch, other = data[index], plain[index]
            assert list(batch) == ["query", "document", "score"]
            assert list(other) == ["query", "document"]
            assert batch["score"].dtype == np.float32
            rows = other["query"]["token_ids"][:, 0] - 1
            np.testing.assert_array_equal(batch["query"]["token_ids"][:, 0] - 1, rows)
            np.testing.assert_array_equal(batch["score"], SCORE[rows])


def test_every_number_column() -> None:
    pairs = Pairs({**SCORED, "group": list("abacbaa"), "weight": [1, 2] * 3 + [0],
                   "teacher": [[i, -i] for i in range(N)]})  # fmt: skip
    names = ("score", "teacher", "group", "weight")
    data = PairDataset(pairs, tokenize, batch_size=N, shuffle=False, columns=names)
    x, y, weight = data[0]
    assert y is None
    assert x["group"].tolist() == [0, 1, 0, 2, 1, 0, 0]
    assert x["teacher"].tolist() == [[i, -i] for i in range(N)]
    assert x["weight"].tolist() == weight.tolist() == [1, 2, 1, 2, 1, 2, 0]
    again = {**BOTH, "group": [10**12 + i % 2 for i in range(N)]}  # float32 could not tell them
    x = PairDataset(again, tokenize, batch_size=N, shuffle=False, columns=("group",))[0]
    assert x["group"].tolist() == [0, 1, 0, 1, 0, 1, 0]


def test_a_weight_of_the_pairs_is_theirs_unless_another_is_given() -> None:
    own = list(range(N))
    for data in ({**BOTH, "weight": own}, Pairs({**BOTH, "weight": own})):
        assert PairDataset(data, tokenize).sample_weight.tolist() == own
        given = PairDataset(data, tokenize, sample_weight=[1] * N).sample_weight
        assert given.tolist() == [1] * N
    assert PairDataset(Pairs(BOTH), tokenize).sample_weight is None
    with pytest.raises(ValueError, match="finite and not negative"):
        PairDataset({**BOTH, "weight": [-1] * N}, tokenize)


def test_the_digest_knows_the_numbers_that_are_read() -> None:
    def found(score: list[float], *columns: str) -> str:
        return PairDataset({**BOTH, "score": score}, tokenize, columns=columns).digest

    other = [*SCORE[1:], 0.0]
    plain = PairDataset(BOTH, tokenize).digest
    assert found(SCORE.tolist()) == found(other) == plain
    assert len({plain, found(SCORE.tolist(), "score"), found(other, "score")}) == 3


@pytest.mark.parametrize(
    ("data", "columns", "error", "message"),
    [
        (BOTH, ("score",), ValueError, "no column 'score', which the loss reads"),
        (list(zip(Q, D, strict=True)), ("score",), ValueError, "no column 'score'"),
        (SCORED, "score", TypeError, r"`columns` should be a tuple of names. Received: 'score'"),
        (SCORED, ("negatives",), ValueError, "no column 'negatives', which the loss reads"),
        (
            SCORED,
            ("source",),
            ValueError,
            "`columns` should name 'negatives' or number columns.*'source'",
        ),
        (SCORED, (3,), ValueError, "Received: 3"),
        ({**BOTH, "score": [1.0]}, ("score",), ValueError, "one number a pair, 7. Received: 1"),
        ({**BOTH, "score": [None] * N}, ("score",), ValueError, "`score` should hold"),
        ({**BOTH, "score": [np.nan] * N}, ("score",), ValueError, "finite numbers. Item 0 is"),
        ({**BOTH, "score": Q}, ("score",), ValueError, "Received: <U2 of shape"),
        ({**BOTH, "score": [True] * N}, ("score",), ValueError, "Received: bool"),
        ({**BOTH, "teacher": [[1.0]] * 6 + [[1, 2]]}, ("teacher",), ValueError, "as many for each"),
        ({**BOTH, "group": [1.5] * N}, ("group",), ValueError, "Item 0 is 1.5"),
        ({**BOTH, "group": [None] * N}, ("group",), ValueError, "Item 0 is None"),
    ],
)
def test_bad_columns(data: Any, columns: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        PairDataset(data, tokenize, columns=columns)
