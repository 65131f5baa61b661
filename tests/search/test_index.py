"""`Index` against sorting all cosines in float64, and what it refuses."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from cptk.search import Index, finders, selection

RNG = np.random.default_rng(0)
VECTORS = RNG.normal(size=(400, 24)) * RNG.uniform(0.1, 9, size=(400, 1))
QUERIES = RNG.normal(size=(20, 24))
KINDS: list[dict[str, Any]] = [
    {}, {"dtype": "int8"}, {"dtype": "binary"}, {"factory": "Flat"}, {"factory": "HNSW16"},
    {"factory": "IVF4,Flat", "search_parameters": "nprobe=4"},
]  # fmt: skip
EXACT = [{}, {"factory": "Flat"}]


class Letters:
    """Counts letters; a query counts another one too."""

    preprocessor = None
    fingerprint = "letters"

    def __init__(self, letters: str = "abcdefgh") -> None:
        self.letters = letters
        self.seen: list[tuple[tuple[str, ...], str | None]] = []

    def encode_text(self, texts: Sequence[str], role: str | None = None) -> Any:
        self.seen.append((tuple(texts), role))
        return np.array([[t.count(x) + 0.1 for x in self.letters] for t in texts])


def skip_without_faiss(kind: dict[str, Any]) -> None:
    if "factory" in kind:
        pytest.importorskip("faiss", reason="pip install cptk[faiss]")


def reference(queries: Any, vectors: Any, k: int, rows: Any = None) -> list[list[int]]:
    """Sorts every row by its cosine; of equal ones the lower first."""
    found = []
    for query in np.asarray(queries, np.float64):
        scores = []
        for row, vector in enumerate(np.asarray(vectors, np.float64)):
            if rows is None or row in rows:
                length = np.sqrt(sum(vector**2)) * np.sqrt(sum(query**2))
                scores.append((-float(np.dot(query, vector)) / length, row))
        found.append([row for _, row in sorted(scores)[:k]])
    return found


def ids(found: Any) -> list[list[Any]]:
    return [hits.ids for hits in found]


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_finds_what_sorting_all_cosines_finds(kind: dict[str, Any]) -> None:
    skip_without_faiss(kind)
    index = Index(**kind).add(VECTORS[:150]).add(VECTORS[150:])
    found = index.search(QUERIES, 7, oversample=1 if kind in EXACT else 50)
    expected = reference(QUERIES, VECTORS, 7)
    assert np.mean([len(set(a) & set(b)) for a, b in zip(ids(found), expected, strict=True)]) > 6.7
    if kind in EXACT:
        assert ids(found) == expected
    unit = VECTORS / np.linalg.norm(VECTORS, axis=1, keepdims=True)
    for hits, query in zip(found, QUERIES / np.linalg.norm(QUERIES, axis=1)[:, None], strict=True):
        np.testing.assert_allclose(hits.scores, unit[hits.ids] @ query, atol=1e-6)
        assert (np.diff(hits.scores) <= 0).all()


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_deleted_and_filtered_rows_are_never_found(
    kind: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    skip_without_faiss(kind)
    monkeypatch.setattr(finders, "EXACT_BELOW", 0)  # FAISS itself leaves rows out
    index = Index(**kind).add(VECTORS, metadata={"year": [None, *range(1, 400)]})
    gone = reference(QUERIES, VECTORS, 2)
    gone_ids = sorted({row for rows in gone for row in rows} - {120, 121})
    index.delete(gone_ids)
    assert len(index) == 400 - len(gone_ids)
    allowed = set(range(100, 300)) - set(gone_ids)
    condition = (pc.field("year") >= 100) & (pc.field("year") < 300)
    expected = reference(QUERIES, VECTORS, 5, allowed)
    found = index.search(QUERIES, 5, filter=condition, oversample=80)
    same = [len(set(a) & set(b)) for a, b in zip(ids(found), expected, strict=True)]
    assert all(set(row) <= allowed for row in ids(found))
    assert np.mean(same) > 4.9
    assert len(index.search(QUERIES[0], 9, filter=pc.field("year") > 1000)) == 0
    late = index.search(QUERIES[0], 999)  # more than there are
    assert sorted(late.ids) == sorted(set(range(400)) - set(gone_ids)) or "factory" in kind


@pytest.mark.parametrize("kind", KINDS[:4], ids=str)
def test_of_equal_rows_the_first_are_found(kind: dict[str, Any]) -> None:
    skip_without_faiss(kind)
    index = Index(**kind).add(np.tile(VECTORS[:2], (30, 1))).add(np.tile(VECTORS[:2], (10, 1)))
    assert index.search(VECTORS[1], 3, oversample=1).ids == [1, 3, 5] or "factory" in kind
    assert ids(index.search(np.tile(VECTORS[:2], (9, 1)), 45))[3][:40] == [*range(1, 80, 2)]


def test_many_threads_and_blocks_find_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = np.concatenate([VECTORS, VECTORS])  # each twice: ties at every place
    for kind in KINDS[:3]:
        whole = ids(Index(**kind).add(vectors).search(QUERIES[:3], 30))
        with monkeypatch.context() as patch:
            patch.setattr(selection, "_ROWS_OF_A_THREAD", 60)
            patch.setattr(selection, "_cores", lambda: 3)
            for name, size in (("finders._ROWS_OF_FEW", 7), ("codes._INT8_ROWS", 11)):
                patch.setattr(f"cptk.search.{name}", size)
            patch.setattr("cptk.search.codes._BINARY_ROWS", 13)
            assert ids(Index(**kind).add(vectors).search(QUERIES[:3], 30)) == whole


def test_one_query_and_many_find_the_same() -> None:
    index = Index().add(VECTORS)
    together = index.search(QUERIES, 12)
    for query, hits in zip(QUERIES, together, strict=True):
        alone = index.search(query, 12)
        assert alone.ids == hits.ids
        np.testing.assert_array_equal(alone.scores, hits.scores)


def test_int8_steps_widen_as_rows_come() -> None:
    index = Index(dtype="int8").add(VECTORS[:1])
    index.search(QUERIES[0], 1)  # steps of one vector
    for start in range(1, 400, 57):
        index.add(VECTORS[start : start + 57])
        index.search(QUERIES[0], 1)
    found = ids(index.search(QUERIES, 5, oversample=2))
    assert found == reference(QUERIES, VECTORS, 5)


def test_int8_steps_widen_where_later_rows_lie_outside() -> None:
    narrow = VECTORS * 0.02 + np.eye(24)[0]  # all of one direction
    narrow = np.concatenate([narrow, narrow])
    index = Index(dtype="int8").add(narrow)
    index.search(QUERIES[0], 1)
    index.add(VECTORS)  # fewer than there are
    found = ids(index.search(QUERIES, 10, oversample=2))
    assert found == reference(QUERIES, np.concatenate([narrow, VECTORS]), 10)
    inside = Index(dtype="int8").add(VECTORS)
    inside.search(QUERIES[0], 1)
    before = inside._contents.finder.calibration  # type: ignore[union-attr]
    inside.add(VECTORS[:30] + 1e-4).search(QUERIES[0], 1)
    assert inside._contents.finder.calibration is before  # type: ignore[union-attr]


def test_faiss_finds_as_many_as_there_are() -> None:
    pytest.importorskip("faiss", reason="pip install cptk[faiss]")
    index = Index(factory="IVF16,Flat").add(VECTORS, metadata={"n": range(400)})
    assert min(map(len, index.search(QUERIES, 100))) == 100  # one cell has some 25
    found = index.search(QUERIES[0], 400)
    assert found.ids == reference(QUERIES[:1], VECTORS, 400)[0]
    assert (index.nearest(QUERIES, 100)[1] < 0).any()  # as it says


def test_where_rows_are_left_out_too(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("faiss", reason="pip install cptk[faiss]")
    monkeypatch.setattr(finders, "EXACT_BELOW", 0)
    index = Index(factory="IVF16,Flat").add(VECTORS, metadata={"n": range(400)})
    found = index.search(QUERIES, 40, filter=pc.field("n") < 200, oversample=1)
    assert {len(hits) for hits in found} == {40}
    assert all(max(hits.ids) < 200 for hits in found)


def test_of_too_few_rows_to_train_on_the_search_is_exact() -> None:
    pytest.importorskip("faiss", reason="pip install cptk[faiss]")
    index = Index(factory="IVF64,Flat").add(VECTORS[:5])
    assert ids(index.search(QUERIES, 3)) == reference(QUERIES, VECTORS[:5], 3)
    index.add(VECTORS[5:]).search(QUERIES, 3)
    assert index._contents.finder.index.ntotal == 400  # type: ignore[union-attr]


def test_a_fault_of_faiss_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    faiss = pytest.importorskip("faiss", reason="pip install cptk[faiss]")
    index = Index(factory="HNSW8").add(VECTORS)
    index.search(QUERIES, 3)

    def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError("Error: out of luck")

    monkeypatch.setattr(faiss.IndexHNSWFlat, "search", broken)
    with pytest.raises(ValueError, match="cannot be searched: out of luck"):
        index.search(QUERIES, 3)


# === Ids, texts, metadata ===


def test_texts_go_in_their_roles_and_come_back() -> None:
    encoder = Letters()
    index = Index(encoder).add(["aab", "bb", "ccc"], ids=["x", "y", "z"])
    hits = index.search("b", k=2)
    assert [role for _, role in encoder.seen] == ["document", "query"]
    assert hits.ids == ["y", "x"]
    assert hits.texts == ["bb", "aab"]
    assert hits[0].text == "bb"
    assert [hit.id for hit in hits[1:]] == ["x"]
    assert "y   bb" in repr(hits)
    assert "<td>bb</td>" in hits._repr_html_()
    assert hits.to_arrow().column_names == ["score", "id", "text"]
    assert index.search(["b", "c"], k=1)[1].ids == ["z"]
    assert index.search(iter(["b", "c"]), k=1)[1].ids == ["z"]
    assert index.search(np.array(["b", "c"]), k=1)[1].ids == ["z"]
    assert index.search(pd.Series(["b", "c"]), k=1)[1].ids == ["z"]


def test_a_role_that_the_embedder_has_not_got_is_left_out() -> None:
    class Preprocessor:
        roles = ("text", "other")

    encoder = Letters()
    encoder.preprocessor = Preprocessor()  # type: ignore[assignment]
    Index(encoder).add(["a"]).search("a")
    assert [role for _, role in encoder.seen] == [None, None]


def test_ids_count_on_and_are_never_given_twice() -> None:
    index = Index().add(VECTORS[:3]).add(VECTORS[3:5], ids=[10, 7])
    index.delete([10]).add(VECTORS[5:6])
    assert index.rows["id"].to_pylist() == [0, 1, 2, 7, 11]
    assert 7 in index
    assert 10 not in index
    assert "7" not in index


def test_no_id_is_left() -> None:
    index = Index().add(VECTORS[:1], ids=[2**63 - 1])
    with pytest.raises(ValueError, match=r"`ids` should be given: they count on from .*807"):
        index.add(VECTORS[1:2])
    assert len(index.add(VECTORS[1:2], ids=[5])) == 2


def test_a_missing_value_passes_is_null_alone() -> None:
    index = Index().add(VECTORS[:2], metadata={"n": [1, None]})
    assert index.search(VECTORS[1], filter=pc.field("n") < 9).ids == [0]
    assert index.search(VECTORS[0], filter=pc.field("n").is_null()).ids == [1]


def test_replaced_rows() -> None:
    index = Index().add(VECTORS[:3], ids=["a", "b", "c"], metadata={"n": [1, 2, 3]})
    index.add(VECTORS[3:5], ids=["b", "d"], metadata=[{"n": 4}, {"n": 5}], replace=True)
    assert index.rows.to_pydict() == {"id": ["a", "c", "b", "d"], "n": [1, 3, 4, 5]}
    assert index.search(VECTORS[3], 1).ids == ["b"]
    assert index.search(VECTORS[1], 1).scores[0] < 0.999


@pytest.mark.parametrize(
    "metadata",
    [
        {"n": [1, None], "s": ["x", "y"]},
        [{"n": 1, "s": "x"}, {"s": "y", "n": None}],
        pa.table({"n": [1, None], "s": ["x", "y"]}),
        pd.DataFrame({"n": pd.array([1, None], "Int64"), "s": ["x", "y"]}, index=[5, 9]),
        {"n": pa.array([1, None]), "s": np.array(["x", "y"])},
        {"n": (each for each in (1, None)), "s": pd.Series(["x", "y"])},
    ],
    ids=["columns", "dictionaries", "arrow", "pandas", "arrays", "generators"],
)
def test_metadata_in_any_form(metadata: Any) -> None:
    index = Index().add(VECTORS[:2], metadata=metadata)
    assert index.rows.to_pydict() == {"id": [0, 1], "n": [1, None], "s": ["x", "y"]}
    assert index.search(VECTORS[0], 1)[0].metadata == {"n": 1, "s": "x"}


def test_a_column_of_nothing_takes_its_type_from_later_rows() -> None:
    index = Index().add(VECTORS[:1], metadata={"n": [None]}).add(VECTORS[1:2], metadata={"n": [3]})
    assert index.rows["n"].to_pylist() == [None, 3]
    index.add(VECTORS[2:3], metadata={"n": [None]})
    assert index.search(VECTORS[1], filter=pc.field("n") == 3).ids == [1]


def test_hybrid_fuses_by_ranks() -> None:
    texts = ["aaa zebra", "abc", "bcd other", "zebra", "hhh"]
    index = Index(Letters()).add(texts)
    dense = index.search("a zebra", 5).ids
    words = [0, 3]  # BM25: the same word, and the shorter text second: "a" is no word of "aaa"
    scores = {row: 1 / (61 + dense.index(row)) for row in range(5)}
    first, second = sorted(words, key=lambda row: len(texts[row]))
    scores[first] += 1 / 61
    scores[second] += 1 / 62
    hits = index.search("a zebra", 5, hybrid=True)
    assert hits.ids == sorted(scores, key=lambda row: (-scores[row], row))
    np.testing.assert_allclose(hits.scores, sorted(scores.values(), reverse=True), rtol=1e-6)
    index.delete([3]).add(["a zebra of its own"])
    assert set(index.search("zebra", 2, hybrid=True).ids) == {0, 5}
    assert index.search("zebra", 1, hybrid=True, filter=pc.field("id") == 5).ids == [5]
    assert index.search("qqq", 1, hybrid=True).ids == index.search("qqq", 1).ids  # no such word


def test_hybrid_where_no_text_has_a_word_or_all_are_asked_for() -> None:
    index = Index(Letters()).add(["!!", "??"])
    assert index.search("a", hybrid=True).ids == index.search("a").ids
    index.add(["a b"])
    assert len(index.search("a", 10**13, hybrid=True)) == 3


def test_categories_of_frames_may_grow_and_are_filtered_as_texts() -> None:
    index = Index()
    for number in range(130):
        names = pd.Categorical([f"n{number}", f"n{number + 1}"])
        index.add(np.eye(2), metadata=pd.DataFrame({"name": names}))
    assert index.search([1.0, 0.0], filter=pc.field("name") == "n129").ids == [258, 257]
    views = pa.table({"name": pa.array(["x", "y"], pa.string_view())})
    index = Index().add(np.eye(2), metadata=views)
    assert index.search([1.0, 0.0], filter=pc.field("name") == "y").ids == [1]


def test_texts_beside_vectors_are_searched_by_words() -> None:
    index = Index(Letters()).add(np.eye(8), metadata={"text": list("abcdefgh")})
    assert index.search("g", 1, hybrid=True)[0].text == "g"


# === What is refused ===


def full() -> Index:
    return Index(Letters()).add(["aab", "bb"], ids=["x", "y"], metadata={"n": [1, 2]})


@pytest.mark.parametrize(
    ("arguments", "error", "match"),
    [
        (("aab",), TypeError, "`documents` should be a sequence of strings. Received a string"),
        ((None,), TypeError, "`documents` should be a sequence"),
        (([],), ValueError, "`documents` is empty"),
        ((["a", " "],), ValueError, "Item 1 is of white space"),
        ((["a", None],), TypeError, "Item 1 is None"),
        (([[1.0] * 8, [np.nan] * 8],), ValueError, "Vector 1 has NaN or infinity"),
        (([[np.inf] * 8],), ValueError, "Vector 0 has NaN"),
        (([[1.0] * 7],), ValueError, "vectors of 8 numbers, as this index has. Received .* 7"),
        (([[1.0] * 8, [1.0]],), TypeError, "`documents` should be texts, or vectors"),
        ((np.ones(8),), ValueError, r"shape \(n, d\). Received shape \(8,\)"),
        ((np.ones((0, 8)),), ValueError, r"Received shape \(0, 8\)"),
        ((np.ones((1, 8), bool),), TypeError, "array of real numbers"),
        ((["a"],), ValueError, "`ids` should be given: those of the rows in this index are str"),
        ((["a"], [3]), TypeError, "`ids` should be strings, as those in this index are"),
        ((["a"], ["x", "z"]), ValueError, "an id for each of the 1 documents. Received 2"),
        ((["a", "b"], ["z", "z"]), ValueError, "Received 'z' twice"),
        ((["a", "b"], ["z", 1]), TypeError, "all strings or all integers. Item 0 .* item 1 is 1"),
        ((["a"], [None]), TypeError, "Item 0 is None"),
        ((["a"], [True]), TypeError, "Item 0 is True"),
        ((["a"], "z"), TypeError, "Received a string"),
        ((["a"], [" "]), ValueError, "Item 0 is of white space"),
        ((["a"], ["x"], {"n": [1]}), ValueError, r"1 are there already: \['x'\]. Pass replace=Tru"),
        ((["a"], ["z"]), ValueError, r"columns \['id', 'text', 'n'\], and these would have"),
        ((["a"], ["z"], {"n": [1, 2]}), ValueError, "a row for each of the 1 vectors. Received 2"),
        ((["a"], ["z"], {"m": [1]}), ValueError, "Give every row the same ones"),
        ((["a"], ["z"], {"n": ["one"]}), ValueError, "column 'n' of this index holds int64"),
        ((["a"], ["z"], {"n": [1], "id": [2]}), ValueError, "no column 'id'"),
        ((["a"], ["z"], {"n": [1], "text": ["b"]}), ValueError, "no column 'text'"),
        ((["a"], ["z"], {"n": "1"}), TypeError, "the column 'n' of metadata` should be a sequence"),
        ((["a"], ["z"], {"n": [object()]}), ValueError, "values of one type"),
        ((["a"], ["z"], {"n": [1], "score": [2]}), ValueError, "no column 'score'"),
        ((["a"], ["z"], {"n": ["\ud800"]}), ValueError, "text that UTF-8 can write"),
        ((["a"], ["z"], pa.table([[1], [2]], ["n", "n"])), ValueError, "Received 'n' twice"),
        ((["a"], ["z"], ["n"]), TypeError, "Item 0 is 'n'"),
        ((["a"], ["z"], 5), TypeError, "`metadata` should be columns by name"),
        ((["a", "b"], ["z", "w"], [{"n": 1}, {"m": 1}]), ValueError, "same names in each row"),
        ((np.eye(8)[:1], ["z"], {"n": [1]}), ValueError, "these would have"),
    ],
)
def test_bad_rows_are_refused_and_change_nothing(
    arguments: tuple[Any, ...], error: type[Exception], match: str
) -> None:
    index = full()
    with pytest.raises(error, match=match):
        index.add(*arguments)
    assert index.rows.to_pydict() == {"id": ["x", "y"], "text": ["aab", "bb"], "n": [1, 2]}
    assert index.search("b", 1).ids == ["y"]
    index.add(["c"], ids=["z"], metadata={"n": [3]})


def test_bad_ids_are_refused_before_anything_is_embedded() -> None:
    encoder = Letters()
    for metadata, ids_given in ((None, ["x", "x"]), ({"n": [1]}, ["x", "y"])):
        with pytest.raises(ValueError, match=r"`ids`|`metadata`"):
            Index(encoder).add(["a", "b"], ids=ids_given, metadata=metadata)
    assert encoder.seen == []


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"k": 0}, ValueError, "`k` should be an integer of 1 or more. Received: 0"),
        ({"k": 2.0}, TypeError, "`k` should be an integer"),
        ({"k": True}, TypeError, "`k` should be an integer"),
        ({"oversample": 0}, ValueError, "`oversample`"),
        ({"filter": pc.field("m") > 1}, ValueError, r"Name\(m\).*It has: id .*, n \(int64\)"),
        ({"filter": pc.field("n") > "1"}, ValueError, "does not fit the columns"),
        ({"filter": pc.field("n")}, ValueError, "does not fit the columns"),
        ({"filter": "n > 1"}, TypeError, "an expression of pyarrow.compute"),
        ({"filter": {"n": 1}}, TypeError, "an expression of pyarrow.compute"),
        ({"hybrid": 1}, TypeError, "`hybrid` should be True or False"),
    ],
)
def test_bad_searches(options: dict[str, Any], error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        full().search("b", **options)


@pytest.mark.parametrize(
    ("queries", "error", "match"),
    [
        ("", ValueError, "Item 0 is empty"),
        ([], ValueError, "`queries` is empty"),
        ([1.0, np.nan, *[0.0] * 6], ValueError, "Vector 0 has NaN"),
        ([1.0, 2.0], ValueError, "vectors of 8 numbers"),
        (None, TypeError, "`queries` should be a sequence"),
        (5, TypeError, "`queries` should be a sequence"),
        (np.array("a"), TypeError, r"array of shape \(\)"),
        ({"a": 1}, TypeError, "Received a mapping"),
    ],
)
def test_bad_queries(queries: Any, error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        full().search(queries)


def test_an_empty_index_and_one_without_an_embedder() -> None:
    with pytest.raises(ValueError, match=r"This index is empty\. Add rows"):
        Index(dim=3).search([1.0, 0.0, 0.0])
    with pytest.raises(ValueError, match="This index is empty"):
        full().delete(["x", "y"]).search("b")
    with pytest.raises(ValueError, match="`documents` are texts, and this index has no embedder"):
        Index().add(["a"])
    with pytest.raises(ValueError, match="`queries` are texts, and this index has no embedder"):
        Index().add(VECTORS).search("a")
    with pytest.raises(ValueError, match="the rows of this index are vectors alone"):
        Index(Letters()).add(np.eye(8)).search("a", hybrid=True)
    with pytest.raises(ValueError, match="the queries are vectors alone"):
        full().search(np.ones(8), hybrid=True)


def test_deleting_what_is_not_there() -> None:
    index = full()
    for bad, error, match in (
        (["x", "q"], ValueError, r"1 are not: \['q'\]"),
        (["x", "x"], ValueError, "'x' twice"),
        ("x", TypeError, "Received a string"),
        ([0], ValueError, r"1 are not: \[0\]"),
    ):
        with pytest.raises(error, match=match):
            index.delete(bad)
        assert len(index) == 2


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"dtype": "int4"}, ValueError, "`dtype` should be one of"),
        ({"dtype": "float16"}, ValueError, "`dtype` should be one of"),
        ({"dim": 0}, ValueError, "`dim` should be an integer of 1"),
        ({"dim": "384"}, TypeError, "`dim` should be an integer of 1"),
        ({"embedder": "minilm"}, TypeError, "An encoder is no string"),
        ({"embedder": Letters}, TypeError, "Received the class Letters"),
        ({"search_parameters": "nprobe=2"}, ValueError, "give a `factory` too"),
        ({"factory": 32}, TypeError, "`factory` should be a string"),
        ({"factory": "Flat", "dtype": "int8"}, ValueError, "`dtype` should be left out"),
    ],
)
def test_bad_settings(options: dict[str, Any], error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        Index(**options)


def test_what_faiss_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("faiss", reason="pip install cptk[faiss]")
    with pytest.raises(ValueError, match=r"`factory` should be what faiss\.index_factory takes"):
        Index(factory="Nonsense", dim=24)
    with pytest.raises(ValueError, match="FAISS's index takes no 'nprobe=2'"):
        Index(factory="Flat", search_parameters="nprobe=2").add(VECTORS)
    with pytest.raises(ValueError, match="FAISS's index takes no 'efSearch=2'"):
        Index(factory="IVF4,Flat", search_parameters="efSearch=2", dim=24)
    for wrong in ("Nonsense", "IDMap,Flat", "PQ5"):
        encoder = Letters()
        with pytest.raises(ValueError, match=r"IDMap|`factory` should be what"):
            Index(encoder, factory=wrong).add(["a", "b", "c"])
        assert encoder.seen == [(("a",), "document")]  # one, whose numbers are counted
    index = Index(factory="IVF4,Flat", search_parameters="nprobe=2").add(VECTORS)
    with pytest.raises(ValueError, match="FAISS's index takes no 'efSearch=2'"):
        index.search_parameters = "efSearch=2"
    with pytest.raises(TypeError, match="`search_parameters` should be a string"):
        index.search_parameters = None  # type: ignore[assignment]
    assert index.search_parameters == "nprobe=2"
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(ImportError, match=r"pip install faiss-cpu.*cptk\[faiss\]"):
        Index(factory="HNSW32")


def test_search_parameters_may_be_set_anew() -> None:
    pytest.importorskip("faiss", reason="pip install cptk[faiss]")
    index = Index(factory="IVF16,Flat", search_parameters="nprobe=1").add(VECTORS)
    expected = reference(QUERIES, VECTORS, 5)
    few = ids(index.search(QUERIES, 5, oversample=1))
    index.search_parameters = "nprobe=16"
    assert ids(index.search(QUERIES, 5, oversample=1)) == expected != few


def test_an_embedder_that_has_changed_is_refused() -> None:
    encoder = Letters()
    index = Index(encoder).add(["a"])
    encoder.fingerprint = "trained on"
    with pytest.raises(ValueError, match=r"another embedder\. What differs: its weights"):
        index.add(["b"])
    assert len(index) == 1


def test_arrays_of_places() -> None:
    index = Index().add(VECTORS[:50], ids=[f"i{i}" for i in range(50)]).delete(["i0", "i20"])
    scores, places = index.nearest(QUERIES * 5, 60)
    assert scores.shape == places.shape == (20, 48)
    names = index.rows["id"].to_pylist()
    for row, hits in zip(places, index.search(QUERIES, 60), strict=True):
        assert [names[place] for place in row] == hits.ids
    with pytest.raises(ValueError, match="`k` should be an integer of 1"):
        index.nearest(QUERIES, 0)
    with pytest.raises(ValueError, match=r"shape \(n, d\)"):
        index.nearest(QUERIES[0], 1)
    with pytest.raises(ValueError, match="This index is empty"):
        Index().nearest(QUERIES, 1)


def test_many_small_additions() -> None:
    index = Index()
    for row in range(250):
        index.add(VECTORS[row : row + 1], metadata={"n": [row]})
    assert index.rows["n"].num_chunks < 200
    assert index.rows["n"].to_pylist() == [*range(250)]
    assert ids(index.search(QUERIES, 5)) == reference(QUERIES, VECTORS[:250], 5)
