"""Pairs out of what is there without labels: source code, and plain text."""

from cptk.mining.code import functions_in_source, mine_functions
from cptk.mining.copies import deduplicate, exclude_copies, split_by_module
from cptk.mining.text import mine_halves

__all__ = [
    "deduplicate",
    "exclude_copies",
    "functions_in_source",
    "mine_functions",
    "mine_halves",
    "split_by_module",
]
