"""Pairs of texts: mined from source code or from plain text, and in batches of token ids.

Mining needs no Keras: `PairDataset`, which does, is imported when it is first read.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from cptk.data.mining import mine_functions
from cptk.data.text_pairs import mine_halves

if TYPE_CHECKING:
    from cptk.data.batching import PairDataset

__all__ = ["PairDataset", "mine_functions", "mine_halves"]


def __getattr__(name: str) -> Any:
    if name == "batching":
        return import_module("cptk.data.batching")
    if name == "PairDataset":
        return import_module("cptk.data.batching").PairDataset
    raise AttributeError(f"module 'cptk.data' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
