"""Named public data sets: found, fetched and checked, read into plain lists."""

from cptk.datasets.load import available_splits, load
from cptk.datasets.load import list_datasets as list  # noqa: A004 (cptk.datasets.list())
from cptk.datasets.overlap import exclude_overlap, overlap
from cptk.datasets.records import (
    CodePairs,
    LabeledPairs,
    LabeledTexts,
    Record,
    RetrievalData,
    ScoredPairs,
    as_dict,
)

__all__ = [
    "CodePairs",
    "LabeledPairs",
    "LabeledTexts",
    "Record",
    "RetrievalData",
    "ScoredPairs",
    "as_dict",
    "available_splits",
    "exclude_overlap",
    "list",
    "load",
    "overlap",
]
