"""Pairs: every form that people have them in, their methods against plain lists, bad input."""

import doctest
from collections import namedtuple
from importlib import import_module
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cptk.data import Pairs

Q, D = ["how?", "why?", "who?"], ["so.", "because.", "me."]
BOTH = {"query": Q, "document": D}
TEXT = st.text(st.characters(codec="utf-8"), min_size=1).filter(lambda text: bool(text.strip()))
ROWS = st.lists(st.tuples(TEXT, TEXT, st.integers(0, 9)), min_size=1, max_size=12)
Row = namedtuple("Row", ["document", "query"])


class Dataset:
    """What Hugging Face shows of a data set, with some rows of its table chosen."""

    column_names = ("query", "document")

    def with_format(self, name: str) -> Any:
        assert name == "arrow"
        return self

    def __getitem__(self, rows: slice) -> pa.Table:
        return pa.table(BOTH)[rows]


def dictionary(values: list[str]) -> pa.Array:
    return pa.array(values).dictionary_encode()


FORMS: dict[str, Any] = {
    "mapping": BOTH,
    "tuples": list(zip(Q, D, strict=True)),
    "named tuples": [Row(d, q) for q, d in zip(Q, D, strict=True)],
    "mappings": [{"document": d, "query": q} for q, d in zip(Q, D, strict=True)],
    "arrays": {side: np.array(texts) for side, texts in BOTH.items()},
    "array of two columns": np.array([Q, D]).T,
    "structured array": np.array(
        list(zip(D, Q, strict=True)), dtype=[("document", "U9"), ("query", "U9")]
    ),
    "pairs": Pairs(BOTH),
    "table": pa.table(BOTH),
    "record batch": pa.RecordBatch.from_pydict(BOTH),
    "a table of chunks": pa.concat_tables([pa.table(BOTH)[:1], pa.table(BOTH)[1:]]),
    "a slice with an offset": pa.table({"query": ["x", *Q], "document": ["x", *D]})[1:],
    "dictionaries": pa.table({side: dictionary(texts) for side, texts in BOTH.items()}),
    "large strings": pa.table({side: pa.array(v, pa.large_string()) for side, v in BOTH.items()}),
    "views": pa.table({side: pa.array(v, pa.string_view()) for side, v in BOTH.items()}),
    "a slice of a dictionary": pa.table(
        {"query": dictionary(["x", *Q])[1:], "document": dictionary(["y", *D])[1:]}
    ),
    "a data set": Dataset(),
}


@pytest.mark.parametrize("form", FORMS)
def test_form(form: str) -> None:
    pairs = Pairs(FORMS[form])
    assert {name: pairs[name] for name in pairs.columns} == BOTH
    assert pairs.columns == ["query", "document"]


@pytest.mark.parametrize("library", ["pandas", "polars", "datasets"])
def test_frames_of_libraries(library: str) -> None:
    module: Any = pytest.importorskip(library)
    if not hasattr(module, "Dataset") and not hasattr(module, "DataFrame"):
        pytest.skip("tests/datasets, and not the library")
    make = module.Dataset.from_dict if library == "datasets" else module.DataFrame
    pairs = Pairs(make({"id": [1, 2, 3], "anchor": Q, "positive": D, "negative": ["a", "b", None]}),
                  query="anchor", document="positive", negatives="negative")  # fmt: skip
    assert (pairs["query"], pairs["document"], pairs["id"]) == (Q, D, [1, 2, 3])
    assert pairs["negatives"] == [["a"], ["b"], []]
    assert Pairs({"query": make(BOTH)["query"], "document": D}) == Pairs(BOTH)
    with pytest.raises(TypeError, match=r"`query` should hold strings only. Item 1 is"):
        Pairs(make({"query": ["a", None, "b"], "document": D}))


def test_every_role_and_what_is_known_besides() -> None:
    data = {
        "document": D, "query": Q, "score": [1, 2, 3], "weight": [0.5, 1, 2],
        "teacher": [[1, 2], [3], []], "group": ["a", "b", "a"], "source": ["web", None, "x"],
        "negatives": [["a", "b"], [], "c"], "line": [1, 2, None],
    }  # fmt: skip
    pairs = Pairs(data)
    assert pairs.columns[:2] == ["query", "document"]
    assert pairs["negatives"] == [["a", "b"], [], ["c"]]
    assert pairs["score"] == [1.0, 2.0, 3.0]
    assert pairs["teacher"] == [[1.0, 2.0], [3.0], []]
    assert [pairs[name] for name in ("group", "source", "line")] == [
        data["group"], data["source"], data["line"]
    ]  # fmt: skip
    assert Pairs({**BOTH, "teacher": [1, 2, 3]})["teacher"] == [1.0, 2.0, 3.0]
    assert Pairs({**BOTH, "group": pa.array([5, 6, 5]).dictionary_encode()})["group"] == [5, 6, 5]


def test_names_are_given_by_argument() -> None:
    data = {
        "q": Q,
        "a": D,
        "n1": ["x", None, "y"],
        "n2": [None, None, "z"],
        "score": Q,
        "s": [1, 2, 3],
    }
    pairs = Pairs(data, query="q", document="a", negatives=["n1", "n2"], score="s")
    assert pairs.columns == ["query", "document", "negatives", "score"]  # the other score gave way
    assert pairs["negatives"] == [["x"], [], ["y", "z"]]
    assert pairs["score"] == [1.0, 2.0, 3.0]
    chunks = pa.concat_tables([pa.table({k: data[k] for k in ("q", "a", "n1", "n2")})] * 2)
    many = Pairs(chunks[1:], query="q", document="a", negatives=["n1", "n2"])
    assert many["negatives"] == [[], ["y", "z"], ["x"], [], ["y", "z"]]


@pytest.mark.parametrize(
    ("columns", "call"),
    [
        (["anchor", "positive"], 'Pairs(data, query="anchor", document="positive")'),
        (["question", "answer"], 'Pairs(data, query="question", document="answer")'),
        (["text1", "text2"], 'Pairs(data, query="text1", document="text2")'),
        (["query", "positive"], 'Pairs(data, document="positive")'),
        (
            ["anchor", "positive", "negative"],
            'Pairs(data, query="anchor", document="positive", negatives="negative")',
        ),
        (
            ["anchor", "positive", "negative_1", "negative_2"],
            'Pairs(data, query="anchor", document="positive", '
            "negatives=['negative_1', 'negative_2'])",
        ),
        (
            ["sentence1", "sentence2", "similarity"],
            'Pairs(data, query="sentence1", document="sentence2", score="similarity")',
        ),
        (["a", "b"], 'Pairs(data, query="…", document="…")'),
    ],
)
def test_an_error_shows_the_call_that_works(columns: list[str], call: str) -> None:
    data = {name: ["a", "b"] for name in columns}
    data |= {"similarity": [1, 2]} if "similarity" in columns else {}
    with pytest.raises(ValueError, match="columns 'query' and 'document'") as caught:
        Pairs(data)
    assert str(caught.value).endswith(f"Say which they are: {call}.")
    assert all(repr(name) in str(caught.value) for name in columns)
    if "…" not in call:
        assert len(eval(call, {"Pairs": Pairs, "data": data})) == 2  # noqa: S307


# === Methods, against lists ===


@given(ROWS, st.data())
def test_parts_are_those_of_a_list(rows: list[tuple[str, str, int]], data: Any) -> None:
    expected = [{"query": q, "document": d, "line": n} for q, d, n in rows]
    cut = data.draw(st.integers(0, len(rows)))
    whole = Pairs(expected)
    pairs = Pairs.concat([whole[:cut], whole[cut:]])  # chunks, one of them perhaps empty
    assert list(pairs) == expected
    assert len(pairs) == len(rows)
    part = data.draw(st.slices(len(rows)))
    assert list(pairs[part]) == expected[part]
    index = data.draw(st.integers(-len(rows), len(rows) - 1))
    assert pairs[index] == expected[index]
    keep = [row["line"] > 4 for row in expected]
    kept = [row for row in expected if row["line"] > 4]
    assert list(pairs.filter(lambda row: row["line"] > 4)) == kept
    for mask in (keep, np.array(keep), pa.array(keep)):
        assert list(pairs.filter(mask)) == kept
    drawn = pairs.sample(data.draw(st.integers(1, len(rows))), seed=3)
    assert all(row in expected for row in drawn)
    table = pairs.to_arrow()
    assert Pairs(table) == Pairs(table.combine_chunks()) == whole


@given(st.integers(2, 40), st.integers(0, 5), st.data())
def test_a_split_parts_the_rows(count: int, seed: int, data: Any) -> None:
    pairs = Pairs([(f"q{i}", f"d{i}") for i in range(count)])
    number = data.draw(st.integers(1, count - 1))
    drawn, others = pairs.split(number, seed)
    assert len(drawn) == number
    numbers = [[int(q[1:]) for q in part["query"]] for part in (drawn, others)]
    assert sorted(numbers[0] + numbers[1]) == list(range(count))
    assert numbers == [sorted(part) for part in numbers]
    assert (drawn, others) == pairs.split(number, seed)
    share = data.draw(st.floats(0.001, 0.999))
    size = len(pairs.split(share)[0])
    assert 1 <= size <= count - 1
    assert abs(size - share * count) <= 1


def test_another_seed_draws_others() -> None:
    pairs = Pairs([(f"q{i}", f"d{i}") for i in range(50)])
    assert pairs.split(25, 0) != pairs.split(25, 1)
    assert pairs.sample(25, 0) != pairs.sample(25, 1)
    assert len(set(pairs.sample(50)["query"])) == 50
    assert pairs.sample(50)["query"] != pairs["query"]


def test_parts_without_a_column_have_gaps() -> None:
    found = Pairs.concat([Pairs({**BOTH, "path": ["a", "b", "c"]}), Pairs(BOTH)])
    assert found["path"] == ["a", "b", "c", None, None, None]
    found = Pairs.concat([Pairs(BOTH), Pairs({**BOTH, "negatives": [["a"]] * 3})])
    assert found["negatives"] == [[]] * 3 + [["a"]] * 3
    large = Pairs(pa.table({side: pa.array(v, pa.large_string()) for side, v in BOTH.items()}))
    assert Pairs.concat([Pairs(BOTH), large])["query"] == Q * 2
    with pytest.raises(ValueError, match="Part 1 has no column 'score'"):
        Pairs.concat([Pairs({**BOTH, "score": [1, 2, 3]}), Pairs(BOTH)])
    with pytest.raises(TypeError, match="one kind of values"):
        Pairs.concat([Pairs({**BOTH, "line": [1, 2, 3]}), Pairs({**BOTH, "line": Q})])
    with pytest.raises(ValueError, match="`parts` is empty"):
        Pairs.concat([])
    with pytest.raises(TypeError, match="`parts` should be Pairs"):
        Pairs.concat([BOTH])


def test_arrow_is_not_copied() -> None:
    table = pa.table({"query": Q, "document": pa.array(D, pa.large_string()), "id": [1, 2, 3]})
    pairs = Pairs(table)

    def addresses(table: pa.Table) -> list[int]:
        buffers = [b for column in table.columns for c in column.chunks for b in c.buffers() if b]
        return [buffer.address for buffer in buffers]

    assert addresses(pairs.to_arrow()) == addresses(table) == addresses(pairs[:].to_arrow())
    assert set(addresses(Pairs.concat([pairs, pairs]).to_arrow())) == set(addresses(table))


def test_what_is_shown() -> None:
    pairs = Pairs({**BOTH, "query": ["long " * 1000, *Q[1:]]})
    lines = repr(pairs).splitlines()
    assert lines[0] == "Pairs(3 pairs; query, document)"
    assert len(lines) == 3
    assert all(len(line) < 160 for line in lines)
    assert "document='so.'" in lines[1]
    assert repr(pairs[:0]) == "Pairs(0 pairs; query, document)"


def test_description() -> None:
    texts = ["a", "bb", "bb", "é" * 9]
    summary = Pairs({"query": texts, "document": ["x", "y", "y", "y"],
                     "negatives": [["n"], [], ["n", "nnn"], []]}).describe()  # fmt: skip
    assert summary.duplicates == {"query": 1, "document": 2, "pair": 1}
    expected = np.quantile([1, 2, 2, 9], [0, 0.05, 0.25, 0.5, 0.75, 0.95, 1])
    np.testing.assert_allclose(list(summary.lengths["query"].values()), expected)
    assert summary.lengths["negatives"]["max"] == 3
    assert summary.negatives == 0.75
    shown = str(summary)
    assert shown.startswith("4 pairs; query, document, negatives\n")
    assert "Duplicates: query 1, document 2, pair 1." in shown
    assert "Negatives: 0.8 a pair." in shown
    assert "Duplicates" in str(Pairs(BOTH)[:0].describe())


def test_the_figure_holds_every_text() -> None:
    from matplotlib import pyplot

    summary = Pairs({"query": ["a", "b" * 10, "c" * 5000], "document": D}).describe()
    ax = summary.plot()
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["query", "document"]
    counts = [np.histogram(c, np.geomspace(1, 5000, 41))[0].sum() for c in ([1, 10, 5000], [3])]
    assert counts == [3, 1]
    assert summary.plot(ax) is ax
    pyplot.close("all")
    with pytest.raises(TypeError, match=r"a matplotlib Axes. Received: str"):
        summary.plot("ax")
    with pytest.raises(ValueError, match="no pairs to draw"):
        Pairs(BOTH)[:0].describe().plot()


# === Bad input ===

BAD: dict[str, tuple[Any, type[Exception], str]] = {
    "nothing": (None, TypeError, "Pairs are made of a mapping.*Received: None of type NoneType"),
    "a string": ("text", TypeError, "Received: 'text' of type str"),
    "a number": (3, TypeError, "Received: 3 of type int"),
    "a generator": ((x for x in "ab"), TypeError, "of type generator"),
    "texts": (Q, TypeError, "Received: list"),
    "no rows": ([], ValueError, "list of no rows"),
    "no rows in columns": ({"query": [], "document": []}, ValueError, "`query` is empty"),
    "an empty table": (pa.table(BOTH)[:0], ValueError, "There are no pairs in these data"),
    "rows of three": ([("a", "b", "c")], TypeError, "row 0 is not two texts"),
    "rows of unequal length": ([("a", "b"), ("c",)], TypeError, "row 1 is not two texts"),
    "a row that lacks a side": (
        [{"query": "a", "document": "b"}, {"query": "c"}], TypeError, "`document`.*Item 1 is None",
    ),
    "None": ({"query": ["a", None], "document": ["b", "c"]}, TypeError, "`query`.*Item 1 is None"),
    "NaN": (
        {"query": ["a", "b"], "document": ["b", float("nan")]}, TypeError, "Item 1 is nan of type",
    ),
    "a number among texts": ({**BOTH, "query": ["a", 3, "c"]}, TypeError, "Item 1 is 3 of type"),
    "bytes": ({**BOTH, "query": ["a", b"b", "c"]}, TypeError, "Item 1 is b'b' of type bytes"),
    "an empty text": ({**BOTH, "query": ["a", "", "c"]}, ValueError, "Item 1 is empty"),
    "white space": ({**BOTH, "query": ["a", " \t\n", "c"]}, ValueError, "Item 1 is of white space"),
    "a lone surrogate": ({**BOTH, "query": ["a", "\ud800", "c"]}, ValueError, "lone surrogate"),
    "a set": ({**BOTH, "query": set(Q)}, TypeError, "`query`.*Received a set"),
    "unequal columns": (
        {"query": Q, "document": D[:2]}, ValueError, "unequal length: {'document': 2, 'query': 3}",
    ),
    "unequal scores": ({**BOTH, "score": [1]}, ValueError, "unequal length.*'score': 1"),
    "Arrow's null": (
        pa.table({"query": ["a", None, "c"], "document": D}), TypeError, "Item 1 is None",
    ),
    "Arrow's null in a chunk": (
        {"query": pa.chunked_array([["a"], ["b", None]]), "document": D}, TypeError, "Item 2 is",
    ),
    "nulls alone": (pa.table({"query": [None], "document": ["a"]}), TypeError, "Item 0 is None"),
    "Arrow's white space": (
        pa.table({"query": ["a", "b", "\u2003\n"], "document": D}), ValueError,
        "Item 2 is empty or of white space",
    ),
    "Arrow's numbers": (
        pa.table({"query": [1, 2, 3], "document": D}), TypeError, "Its Arrow type is int64",
    ),
    "invalid UTF-8": (
        {"query": pa.Array.from_buffers(pa.string(), 1, pa.array([b"\xff"]).buffers()),
         "document": ["a"]},
        ValueError, "`query` should hold texts in UTF-8",
    ),
    "names twice": (
        pa.Table.from_arrays([pa.array(Q)] * 3, ["query", "document", "query"]), ValueError,
        "Several are called 'query'",
    ),
    "a name that is none": ({**BOTH, 3: Q}, TypeError, "Names of columns should be strings"),
    "a score of text": ({**BOTH, "score": Q}, TypeError, "`score` should hold one number a pair"),
    "a score of booleans": ({**BOTH, "score": [True] * 3}, TypeError, "Arrow type is bool"),
    "a missing score": ({**BOTH, "score": [1, None, 2]}, ValueError, "`score`.*Item 1 is missing"),
    "a score of NaN": (
        {**BOTH, "score": [1, 2, float("nan")]}, ValueError, "`score`.*Item 2 is missing or not",
    ),
    "an infinite score": ({**BOTH, "score": [1, 2, np.inf]}, ValueError, "Item 2 is missing"),
    "a negative weight": ({**BOTH, "weight": [1, -1, 2]}, ValueError, "Item 1 is negative"),
    "a gap in a group": ({**BOTH, "group": ["a", None, "b"]}, ValueError, "`group`.*Item 1"),
    "a group of floats": ({**BOTH, "group": [0.5, 1, 2]}, TypeError, "integers or strings"),
    "a gap in a teacher": ({**BOTH, "teacher": [[1.0], None, [2.0]]}, ValueError, "Item 1 is"),
    "NaN of a teacher": ({**BOTH, "teacher": [[1.0], [np.nan], [2]]}, ValueError, "not finite"),
    "sources": ({**BOTH, "source": [1, 2, 3]}, TypeError, "`source` should hold strings only"),
    "negatives of numbers": ({**BOTH, "negatives": [[1]] * 3}, TypeError, r"`negatives\[0\]`"),
    "a number for negatives": ({**BOTH, "negatives": [["a"], 1, []]}, TypeError, "Item 1 is 1 of"),
    "a blank negative": ({**BOTH, "negatives": [["a"], [" "], []]}, ValueError, r"negatives\[1\]"),
    "Arrow's null negative": (
        pa.table({**BOTH, "negatives": [["a"], [None], []]}), TypeError, "`negatives`.*is None",
    ),
    "values of several kinds": ({**BOTH, "line": [1, "a", 2]}, TypeError, "`line`.*values of one"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_data(case: str) -> None:
    data, error, message = BAD[case]
    with pytest.raises(error, match=message) as caught:
        Pairs(data)
    assert len(str(caught.value)) < 450
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda p: Pairs(BOTH, query="qery"), ValueError, r"='qery'\) names.*Near: 'query'"),
        (lambda p: Pairs(BOTH, query=3), TypeError, "`query` should be the name of a column"),
        (lambda p: Pairs(BOTH, negatives=[]), TypeError, "a name, or a list of names, of a column"),
        (lambda p: Pairs(BOTH, query=["query"]), TypeError, "`query` should be the name"),
        (lambda p: p["answer"], KeyError, "no column 'answer'"),
        (lambda p: p[3], IndexError, "Pair 3 of 3"),
        (lambda p: p[-4], IndexError, "Pair -4 of 3"),
        (lambda p: p[True], TypeError, "name of a column, a slice, or the number"),
        (lambda p: p[1.0], TypeError, "Received: 1.0"),
        (lambda p: p.split(3), ValueError, "`size` should be 1 to 2 of the 3 pairs"),
        (lambda p: p.split(0), ValueError, "Received: 0"),
        (lambda p: p.split(1.0), ValueError, "Received: 1.0"),
        (lambda p: p.split(float("nan")), ValueError, "Received: nan"),
        (lambda p: p.split(True), TypeError, "`size` should be a number of pairs"),
        (lambda p: p.split("1"), TypeError, "Received: '1'"),
        (lambda p: p.split(1, seed=-1), ValueError, "`seed` should be an integer of 0"),
        (lambda p: p[:1].split(0.5), ValueError, "of the 1 pairs"),
        (lambda p: p.sample(4), ValueError, "`n` should be at most the number of pairs, 3"),
        (lambda p: p.sample(0), ValueError, "`n` should be an integer of 1"),
        (lambda p: p.filter([True]), ValueError, "one boolean a pair, 3. Received: 1"),
        (lambda p: p.filter([1, 0, 1]), TypeError, "`keep` should be a function"),
        (lambda p: p.filter(None), TypeError, "`keep` should be a sequence of booleans"),
    ],
)  # fmt: skip
def test_bad_calls(call: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call(Pairs(BOTH))


def test_pairs_have_no_hash_and_are_equal_by_what_they_hold() -> None:
    assert Pairs(BOTH) == Pairs(list(zip(Q, D, strict=True)))
    assert Pairs(BOTH) != Pairs({**BOTH, "line": [1, 2, 3]})
    assert Pairs(BOTH) != BOTH
    with pytest.raises(TypeError, match="unhashable"):
        hash(Pairs(BOTH))


@pytest.mark.parametrize(
    "name",
    [
        *("data.arrow", "data.columns", "data.numbers", "data.pairs", "data.reading"),
        *("data.summary", "data.tables", "mining.code", "mining.copies", "mining.text"),
    ],
)
def test_examples_in_docstrings_run(name: str) -> None:
    from matplotlib import pyplot

    module = import_module(f"cptk.{name}")
    assert doctest.testmod(module).failed == 0
    pyplot.close("all")
