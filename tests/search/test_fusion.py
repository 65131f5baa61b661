"""Reciprocal rank fusion against a loop of Python's."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from cptk.search import reciprocal_rank_fusion


def test_against_a_loop() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        sizes = rng.integers(1, 9, 3)
        rankings = [np.stack([rng.permutation(12)[:size] for _ in range(4)]) for size in sizes]
        scores, rows = reciprocal_rank_fusion(rankings, k=10, constant=7)
        for query in range(4):
            sums: dict[int, float] = {}
            for ranking in rankings:
                for rank, row in enumerate(ranking[query].tolist(), 1):
                    sums[row] = sums.get(row, 0.0) + 1 / (7 + rank)
            best = sorted(sums, key=lambda row: (-sums[row], row))[:10]
            assert rows[query][: len(best)].tolist() == best
            np.testing.assert_allclose(scores[query][: len(best)], [sums[row] for row in best])
            assert (rows[query][len(best) :] == -1).all()
            assert (scores[query][len(best) :] == -np.inf).all()


def test_ranks_that_are_not_there_count_as_ranks() -> None:
    scores, rows = reciprocal_rank_fusion([[5, -1, 3]])
    assert rows.tolist() == [5, 3, -1]
    np.testing.assert_allclose(scores[:2], [1 / 61, 1 / 63])


@pytest.mark.parametrize(
    ("rankings", "options", "error", "match"),
    [
        ([], {}, ValueError, "`rankings` is empty"),
        ([[0.5]], {}, TypeError, "rows of integers"),
        ([["a"]], {}, TypeError, "rows of integers"),
        ([[1, 1]], {}, ValueError, "each row once"),
        ([[1], [[1]]], {}, ValueError, "of as many queries each"),
        ([[[1], [2]], [[1]]], {}, ValueError, "of as many queries each"),
        ("ab", {}, TypeError, "Received a string"),
        ([[1]], {"k": 0}, ValueError, "`k` should be an integer of 1"),
        ([[1]], {"constant": -1}, ValueError, "`constant` should be a number of 0 or more"),
        ([[1]], {"constant": float("nan")}, ValueError, "`constant` should be"),
    ],
)
def test_bad_rankings(
    rankings: Any, options: dict[str, Any], error: type[Exception], match: str
) -> None:
    with pytest.raises(error, match=match):
        reciprocal_rank_fusion(rankings, **options)
