"""Pairs of texts: mined from source code or from plain text, and in batches of token ids."""

from cptk.data.batching import PairDataset
from cptk.data.mining import mine_functions
from cptk.data.text_pairs import mine_halves

__all__ = ["PairDataset", "mine_functions", "mine_halves"]
