"""Nearest neighbours among vectors, and texts that share words."""

from cptk.search.bm25 import BM25
from cptk.search.exact import top_k

__all__ = ["BM25", "top_k"]
