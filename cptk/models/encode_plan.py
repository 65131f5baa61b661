"""Which texts are embedded together: full batches with little padding, in few shapes."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cptk.data.batching import bucket_length
from cptk.data.token_shards import Ragged
from cptk.types import TokenBatch

_WORTH_A_BATCH = 128
"""Tokens of padding that cost as much as one batch more, about: each batch reads all weights."""
_FEWER = 4
"""Rows of a batch that is not full are a fourth of a full one's, or a sixteenth, …."""


class Plan(NamedTuple):
    """How batches are cut. What a batch holds depends on it and on the texts' lengths alone."""

    longest: int
    """Tokens at which texts are cut."""
    tokens: int | None = None
    """Most tokens of a batch, its padding among them; a longer text is a batch of its own."""
    rows: int | None = None
    """Most texts of a batch."""
    any_shape: bool = False
    """Whether shapes cost nothing, so that a batch is as long as its longest text, and as wide as
    it has texts. If not, lengths are those of `bucket_length`."""

    def length(self, tokens: int) -> int:
        """The length to which a text of so many tokens is padded."""
        return tokens if self.any_shape else bucket_length(tokens, self.longest)

    def full(self, length: int) -> int:
        """Texts of a full batch of this length."""
        rows = self.rows or self.tokens or 1
        return rows if self.tokens is None else max(1, min(rows, self.tokens // length))

    def padded_rows(self, rows: int, length: int) -> int:
        """The rows of a batch of so many texts, with those that fill it up."""
        if self.any_shape:
            return rows
        shape = self.full(length)
        while -(-shape // _FEWER) >= rows and shape > 1:
            shape = -(-shape // _FEWER)
        return shape

    def batches(self, lengths: NDArray[np.int64], last: bool) -> list[slice]:
        """Cut texts that are sorted by length, the longest first.

        A batch ends where it is full, or where the texts that follow are so much shorter than its
        first that a batch of their own is less work.

        Args:
            lengths: (m,) tokens, descending.
            last: Whether no more texts follow; if some do, a batch at the end that is not full is
                left out, to be filled.
        """
        found = []
        start = 0
        while start < len(lengths):
            length = self.length(int(lengths[start]))
            stop = start + self.full(length)
            is_whole = stop <= len(lengths)
            stop = min(stop, len(lengths))
            shorter = start + int(
                np.searchsorted(-lengths[start:stop], -(length // 2), side="left")
            )
            if start < shorter < stop:
                saved = (stop - shorter) * (length - self.length(int(lengths[shorter])))
                if saved >= _WORTH_A_BATCH:
                    stop, is_whole = shorter, True
            if not is_whole and not last:
                break
            found.append(slice(start, stop))
            start = stop
        return found


def features(tokens: Ragged, rows: NDArray[np.int64], plan: Plan) -> TokenBatch:
    """Some texts padded on the right, and copies of the first that fill the batch up.

    Args:
        tokens: Ids of texts.
        rows: (m,) which of them, the longest first.
        plan: How batches are cut.
    """
    lengths = tokens.lengths(rows)
    length = plan.length(int(lengths[0]))
    height = plan.padded_rows(len(rows), length)
    mask = np.zeros((height, length), bool)
    mask[: len(rows)] = np.arange(length) < lengths[:, None]
    token_ids = np.zeros((height, length), np.int32)
    token_ids[mask] = tokens.take(rows)
    token_ids[len(rows) :], mask[len(rows) :] = token_ids[0], mask[0]
    return TokenBatch(token_ids=token_ids, padding_mask=mask)
