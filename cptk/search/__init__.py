"""Nearest neighbours among vectors."""

from cptk.search.exact import top_k

__all__ = ["top_k"]
