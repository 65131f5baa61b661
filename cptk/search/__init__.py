"""Nearest neighbours among vectors, texts that share words, and an index of both."""

from cptk.search.bm25 import BM25
from cptk.search.exact import top_k
from cptk.search.fusion import reciprocal_rank_fusion
from cptk.search.hits import Hit, Hits
from cptk.search.index import Index

__all__ = ["BM25", "Hit", "Hits", "Index", "reciprocal_rank_fusion", "top_k"]
