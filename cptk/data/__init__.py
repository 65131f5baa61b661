"""Pairs of texts: mined from source code, and in batches of token ids."""

from cptk.data.batching import PairDataset
from cptk.data.mining import mine_functions

__all__ = ["PairDataset", "mine_functions"]
