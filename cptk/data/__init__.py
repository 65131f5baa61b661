"""Pairs of texts, and batches of them as token ids.

Each name is imported when it is first read: `PairDataset` needs Keras, `Pairs` does not. Mining
lives in `cptk.mining`; its two functions that make pairs can be had from here too.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cptk.data.batching import PairDataset
    from cptk.data.formats.msmarco import read_msmarco
    from cptk.data.formats.nli import read_nli
    from cptk.data.formats.passages import read_dpr, read_tevatron
    from cptk.data.mixture import Mixture
    from cptk.data.pairs import Pairs
    from cptk.data.tensorflow import tf_dataset
    from cptk.data.token_store import TokenStore
    from cptk.mining import mine_functions, mine_halves

__all__ = [
    "Mixture",
    "PairDataset",
    "Pairs",
    "TokenStore",
    "mine_functions",
    "mine_halves",
    "read_dpr",
    "read_msmarco",
    "read_nli",
    "read_tevatron",
    "tf_dataset",
]

_HOMES = {
    "Mixture": "cptk.data.mixture",
    "PairDataset": "cptk.data.batching",
    "Pairs": "cptk.data.pairs",
    "TokenStore": "cptk.data.token_store",
    "mine_functions": "cptk.mining",
    "mine_halves": "cptk.mining",
    "read_dpr": "cptk.data.formats.passages",
    "read_msmarco": "cptk.data.formats.msmarco",
    "read_nli": "cptk.data.formats.nli",
    "read_tevatron": "cptk.data.formats.passages",
    "tf_dataset": "cptk.data.tensorflow",
}


def __getattr__(name: str) -> object:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    if name == "batching":
        return import_module("cptk.data.batching")
    raise AttributeError(f"module 'cptk.data' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
