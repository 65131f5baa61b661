"""Pairs in every form that people have them in, and what the others are told."""

from collections import namedtuple
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
import pytest

from cptk.data import PairDataset
from cptk.data.batching import check_pairs
from cptk.data.columns import as_columns, is_pairs
from cptk.data.pairs import Pairs
from cptk.datasets.records import CodePairs, ScoredPairs
from cptk.mining import mine_halves

Q, D = ["how?", "why?", "who?"], ["so.", "because.", "me."]
BOTH = {"query": Q, "document": D}


class Frame:
    """What pandas shows of a frame."""

    def __init__(self, **columns):
        self.columns = list(columns)
        self.shape = (3, len(columns))
        self.data = columns

    def __getitem__(self, name):
        return self.data[name]


class Table(Frame):
    """What Arrow and Hugging Face show of a table."""

    def __init__(self, **columns):
        super().__init__(**columns)
        self.column_names, self.columns = self.columns, list(columns.values())


class Long(NamedTuple):
    document: str
    query: str
    source: str


FORMS = {
    "mapping": BOTH,
    "tuples": list(zip(Q, D, strict=True)),
    "a tuple of tuples": tuple(zip(Q, D, strict=True)),
    "lists, as JSON has them": [list(pair) for pair in zip(Q, D, strict=True)],
    "mappings": [{"id": 1, "document": d, "query": q} for q, d in zip(Q, D, strict=True)],
    "named tuples": [Long(d, q, "web") for q, d in zip(Q, D, strict=True)],
    "pairs": Pairs(BOTH),
    "a mapping of more": {**BOTH, "score": [1.0, 2.0, 3.0], "source": ["web"] * 3},
    "a record of scores": ScoredPairs(Q, D, [1.0] * 3, ["x"] * 3),
    "a record of code": CodePairs(Q, D, "go"),
    "frame": Frame(document=np.array(D, object), id=[1, 2, 3], query=Q),
    "table": Table(document=D, query=Q, score=[1.0, 2.0, 3.0]),
    "array of two columns": np.array([Q, D]).T,
    "structured array": np.array(
        list(zip(D, Q, strict=True)), dtype=[("document", "U9"), ("query", "U9")]
    ),
}


@pytest.mark.parametrize("form", FORMS)
def test_form(form):
    assert is_pairs(FORMS[form])
    assert check_pairs(FORMS[form]) == BOTH


@pytest.mark.parametrize("library", ["pandas", "polars", "pyarrow"])
def test_frames_of_libraries(library):
    module = pytest.importorskip(library)
    make = module.table if library == "pyarrow" else module.DataFrame
    frame = make({"id": [1, 2, 3], "document": D, "query": Q})
    assert check_pairs(frame) == BOTH
    assert check_pairs({"query": frame["query"], "document": frame["document"]}) == BOTH
    with pytest.raises(ValueError, match=r'Pass \{"query": <anchor>, "document": <positive>\}'):
        check_pairs(make({"anchor": Q, "positive": D}))


def test_what_is_mined_trains_as_it_is():
    texts = [f"{word} is a word that stands in a sentence of nine" for word in "abc"]
    data = PairDataset(mine_halves(texts), lambda texts, side: {"token_ids": texts}, shuffle=False)
    pairs = mine_halves(texts)
    both = zip(pairs["query"], pairs["document"], strict=True)
    joined = {" ".join(sorted([*q.split(), *d.split()])) for q, d in both}
    found = data[0]["query"]["token_ids"], data[0]["document"]["token_ids"]
    assert {
        " ".join(sorted([*q.split(), *d.split()])) for q, d in zip(*found, strict=True)
    } == joined


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("anchor", "positive"),
        ("question", "answer"),
        ("text1", "text2"),
        ("sentence1", "sentence2"),
        ("query", "positive"),
        ("Query", "Document"),
    ],
)
def test_names_of_others_are_named(first, second):
    hint = rf'Pass \{{"query": <{first}>, "document": <{second}>\}}'
    one = namedtuple("Row", [first, second])
    for form in ({first: Q, second: D}, Frame(**{first: Q, second: D}), [one("a", "b")] * 3):
        with pytest.raises(ValueError, match=hint):
            check_pairs(form)


@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        (Q, TypeError, r"Received: list, \['how\?', 'why\?', 'who\?'\]"),
        ((Q, D), TypeError, "Received: tuple of two lists"),
        ([Q[:2], D[:2]], TypeError, "may be two pairs or two sides"),
        ([], ValueError, "Received: list of no rows"),
        ([("a", "b", "c")] * 3, TypeError, "row 0 is not two texts but a tuple of 3"),
        ([("a", "b"), ("c",)], TypeError, "row 1 is not two texts but a tuple of 1"),
        ([("a", "b"), ("c", None)], TypeError, "`document`.*Item 1 is None"),
        ([("a", "b"), ("c", " ")], ValueError, "`document`.*Item 1 is of white space"),
        ([{"query": "a", "document": "b"}, {"query": "a"}], ValueError, "row 1 is not 'query' and"),
        (np.array(Q), TypeError, r"Received: ndarray of shape \(3,\)"),
        (np.ones((3, 768)), TypeError, r"Received: ndarray of shape \(3, 768\)"),
        ("text", TypeError, "Received: str"),
        (3, TypeError, "Received: int"),
        (Frame(a=Q, b=D), ValueError, r"Received: Frame with \['a', 'b'\]\."),
        ({"query": BOTH.keys(), "document": D}, TypeError, "`query`.*a view of a mapping"),
        ({"query": b"abc", "document": D}, TypeError, "`query`.*Received bytes"),
        (
            {"query": Q, "document": SimpleNamespace(columns=["a", "b"], shape=(3, 2))},
            TypeError,
            "`document`.*of 2 columns",
        ),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_is_no_pairs(data, error, message):
    with pytest.raises(error, match=message):
        check_pairs(data)


def test_a_message_shows_a_line_of_what_is_long():
    long = "word " * 10_000
    wrong = [
        {f"key {index}": long for index in range(10_000)},
        [long] * 3,
        [(long, long, long)] * 3,
        [(long, 1)] * 3,
        {"query": [long, np.ones(768)], "document": Q},
        Frame(**{f"c{index}": Q for index in range(10_000)}),
    ]
    for data in wrong:
        with pytest.raises((TypeError, ValueError)) as caught:
            check_pairs(data)
        assert len(str(caught.value)) < 450


def test_batches_are_called_so():
    with pytest.raises(TypeError, match=r"^A batch should be"):
        as_columns(["a", "b"], "A batch")


def test_a_file_is_no_pairs(tmp_path):
    path = tmp_path / "pairs.txt"
    path.write_text("a\nb\n")
    with path.open() as file, pytest.raises(TypeError, match=r"`query`.*an open file"):
        check_pairs({"query": file, "document": Q})
