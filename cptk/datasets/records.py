"""What a data set is once it is read: lists of plain Python values, no framework.

Sets of pairs are `cptk.data.Pairs` too.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import warnings
from collections.abc import Mapping
from functools import cached_property
from typing import Any

import pyarrow as pa

from cptk.checks import shown
from cptk.data.arrow import check_lengths, texts
from cptk.data.columns import SIDES
from cptk.data.pairs import Pairs


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

    Example:

    ```pycon
    >>> import cptk
    >>> films = cptk.datasets.LabeledTexts(["so dull", "so fine"], [0, 1], ("negative", "positive"))
    >>> len(films), films.label_names[films.labels[1]]
    (2, 'positive')

    ```
    """

    texts: list[str]
    labels: list[int]
    label_names: tuple[str, ...] = ()


class _PairRecord(_Record, Pairs):
    """A record that is `Pairs` too; the table is made when it is first read.

    Texts stand in it as published, empty ones too: `filter` leaves them out.
    """

    def __init__(self) -> None:
        """A dataclass makes its own."""

    def _columns(self) -> dict[str, list[Any]]:
        """The record's lists by the names that they have in `Pairs`, the two sides first."""
        raise NotImplementedError

    @cached_property
    def _table(self) -> pa.Table:
        columns = self._columns()
        check_lengths({name: len(column) for name, column in columns.items()})
        sides = {side: texts(columns[side], side, allow_blank=True) for side in SIDES}
        return pa.table({**columns, **sides})


@dataclasses.dataclass(frozen=True, repr=False)
class LabeledPairs(_PairRecord):
    """Pairs of texts with a class each (MRPC); as `Pairs` they have a column `label`.

    Attributes:
        first: n texts.
        second: n texts.
        labels: n class numbers from 0.
        label_names: Name of each class, by number.

    Example:

    ```pycon
    >>> import cptk
    >>> pairs = cptk.datasets.LabeledPairs(["It rains."], ["Rain falls."], [1], ("other", "same"))
    >>> pairs.columns, pairs["label"]
    (['query', 'document', 'label'], [1])

    ```
    """

    first: list[str]
    second: list[str]
    labels: list[int]
    label_names: tuple[str, ...] = ()

    def _columns(self) -> dict[str, list[Any]]:
        return {"query": self.first, "document": self.second, "label": self.labels}


@dataclasses.dataclass(frozen=True, repr=False)
class ScoredPairs(_PairRecord):
    """Pairs of texts with a graded similarity each (STS 2012 to 2016, STS-B, SICK).

    As `Pairs` they have the columns `score` and `source`, the part that a pair belongs to.

    Attributes:
        first: n texts.
        second: n texts.
        scores: n similarities as published (0 to 5; SICK 1 to 5). Pairs that the publisher left
            unscored are not in it.
        subsets: n names of the part that a pair belongs to (`"headlines"`, `"images"`); the data
            set's own name where it has no parts.

    Example:

    ```pycon
    >>> import cptk
    >>> pairs = cptk.datasets.ScoredPairs(["It rains."], ["Rain falls."], [4.5], ["headlines"])
    >>> pairs.scores, pairs["source"]
    ([4.5], ['headlines'])

    ```
    """

    first: list[str]
    second: list[str]
    scores: list[float]
    subsets: list[str]

    def _columns(self) -> dict[str, list[Any]]:
        sides = {"query": self.first, "document": self.second}
        return {**sides, "score": [float(score) for score in self.scores], "source": self.subsets}


@dataclasses.dataclass(frozen=True)
class RetrievalData(_Record):
    """Queries, documents and judgements (BEIR sets, CoSQA).

    Attributes:
        queries: query id -> text; those that have a judgement in this split.
        corpus: document id -> text (title and text joined by a space, as BEIR does).
        qrels: query id -> document id -> relevance (0: judged and not relevant).

    Example:

    ```pycon
    >>> import cptk
    >>> data = cptk.datasets.RetrievalData(
    ...     queries={"q1": "add two numbers"},
    ...     corpus={"d1": "a + b", "d2": "sorted(xs)"},
    ...     qrels={"q1": {"d1": 1}},
    ... )
    >>> [data.corpus[document] for document in data.qrels["q1"]]
    ['a + b']

    ```
    """

    queries: Mapping[str, str]
    corpus: Mapping[str, str]
    qrels: Mapping[str, Mapping[str, int]]

    def to_pairs(self) -> Pairs:
        """Each query with each document that is judged relevant to it (above 0), to train on.

        Pairs with an empty text are left out, with a warning that counts them.

        Returns:
            n pairs with the columns `query`, `document`, `score` (the relevance) and `group` (the
            query's id).

        Raises:
            ValueError: No such pair, or a judgement of what does not exist.

        Example:

        ```pycon
        >>> import cptk
        >>> data = cptk.datasets.RetrievalData(
        ...     queries={"q1": "add"}, corpus={"d1": "a + b", "d2": "a"}, qrels={"q1": {"d1": 2}}
        ... )
        >>> data.to_pairs()
        Pairs(1 pair; query, document, score, group)
          query='add', document='a + b', score=2.0, group='q1'

        ```
        """
        rows: list[tuple[str, str, int, str]] = []
        empty = 0
        for query, judged in self.qrels.items():
            for document, relevance in judged.items():
                if relevance <= 0:
                    continue
                if query not in self.queries or document not in self.corpus:
                    raise ValueError(
                        f"A judgement names {shown(query)} and {shown(document)}, and one of them "
                        "is not there. Leave it out of `qrels`."
                    )
                sides = self.queries[query], self.corpus[document]
                if all(text.strip() for text in sides):
                    rows.append((*sides, relevance, query))
                else:
                    empty += 1
        if not rows:
            raise ValueError(
                "There is no query with a document judged above 0, so that there are no pairs. "
                "Check `qrels`, or load another split."
            )
        if empty:
            warnings.warn(f"{empty:,} pairs with an empty text are left out.", stacklevel=2)
        names = ("query", "document", "score", "group")
        return Pairs(dict(zip(names, map(list, zip(*rows, strict=True)), strict=True)))


@dataclasses.dataclass(frozen=True, repr=False)
class CodePairs(_PairRecord):
    """Docstrings and the functions they stand in (CodeSearchNet).

    As `Pairs` they are queries and documents with a column `language`. The functions hold their
    docstrings, as published: `cptk.evaluation.strip_docstring` takes one out.

    Attributes:
        docstrings: n docstrings.
        codes: n functions as published, docstring included.
        language: `"python"`, `"java"`, `"go"`, `"php"`, `"ruby"` or `"javascript"`.

    Example:

    ```pycon
    >>> import cptk
    >>> pairs = cptk.datasets.CodePairs(["Add two."], ["def add(a, b): return a + b"], "python")
    >>> len(pairs), pairs["query"], pairs["language"]
    (1, ['Add two.'], ['python'])

    ```
    """

    docstrings: list[str]
    codes: list[str]
    language: str

    def _columns(self) -> dict[str, list[Any]]:
        languages = [self.language] * len(self.codes)
        return {"query": self.docstrings, "document": self.codes, "language": languages}


Record = LabeledTexts | LabeledPairs | ScoredPairs | RetrievalData | CodePairs | Pairs


def as_dict(record: Record) -> dict[str, Any]:
    """A record's columns by name, for `pandas.DataFrame(...)` and the like.

    Example:

    ```pycon
    >>> import cptk
    >>> record = cptk.datasets.LabeledTexts(["so dull"], [0], ("negative", "positive"))
    >>> cptk.datasets.as_dict(record)
    {'texts': ['so dull'], 'labels': [0], 'label_names': ('negative', 'positive')}

    ```
    """
    if not dataclasses.is_dataclass(record):
        return {name: record[name] for name in record.columns}
    return {f.name: getattr(record, f.name) for f in dataclasses.fields(record)}
