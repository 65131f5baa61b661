"""What a data set is once it is read: lists of plain Python values, no framework."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from typing import Any


class _Record:
    """What the records share: a length and a fingerprint."""

    def __len__(self) -> int:
        """Number of rows."""
        first = getattr(self, dataclasses.fields(self)[0].name)  # type: ignore[arg-type]
        return len(first)

    @property
    def sha256(self) -> str:
        """SHA-256 of the content (not of the file): equal for equal rows in equal order."""
        content = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}  # type: ignore[arg-type]
        text = json.dumps(content, ensure_ascii=True, separators=(",", ":"))
        return hashlib.sha256(text.encode("ascii")).hexdigest()


@dataclasses.dataclass(frozen=True)
class LabeledTexts(_Record):
    """Texts with a class each (SST-2, MR, CR, SUBJ, MPQA, TREC).

    Attributes:
        texts: n texts.
        labels: n class numbers from 0.
        label_names: Name of each class, by number.
    """

    texts: list[str]
    labels: list[int]
    label_names: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class LabeledPairs(_Record):
    """Pairs of texts with a class each (MRPC).

    Attributes:
        first: n texts.
        second: n texts.
        labels: n class numbers from 0.
        label_names: Name of each class, by number.
    """

    first: list[str]
    second: list[str]
    labels: list[int]
    label_names: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class ScoredPairs(_Record):
    """Pairs of texts with a graded similarity each (STS 2012 to 2016, STS-B, SICK).

    Attributes:
        first: n texts.
        second: n texts.
        scores: n similarities as published (0 to 5; SICK 1 to 5). Pairs that the publisher left
            unscored are not in it.
        subsets: n names of the part that a pair belongs to (`"headlines"`, `"images"`); the data
            set's own name where it has no parts.
    """

    first: list[str]
    second: list[str]
    scores: list[float]
    subsets: list[str]


@dataclasses.dataclass(frozen=True)
class RetrievalData(_Record):
    """Queries, documents and judgements (BEIR sets, CoSQA).

    Attributes:
        queries: query id -> text; those that have a judgement in this split.
        corpus: document id -> text (title and text joined by a space, as BEIR does).
        qrels: query id -> document id -> relevance (0: judged and not relevant).
    """

    queries: Mapping[str, str]
    corpus: Mapping[str, str]
    qrels: Mapping[str, Mapping[str, int]]


@dataclasses.dataclass(frozen=True)
class CodePairs(_Record):
    """Docstrings and the functions they stand in (CodeSearchNet).

    Attributes:
        docstrings: n docstrings.
        codes: n functions as published, docstring included.
        language: `"python"`, `"java"`, `"go"`, `"php"`, `"ruby"` or `"javascript"`.
    """

    docstrings: list[str]
    codes: list[str]
    language: str


Record = LabeledTexts | LabeledPairs | ScoredPairs | RetrievalData | CodePairs


def as_dict(record: Record) -> dict[str, Any]:
    """A record's columns by name, for `pandas.DataFrame(...)` and the like."""
    return {f.name: getattr(record, f.name) for f in dataclasses.fields(record)}
