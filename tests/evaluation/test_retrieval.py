import json
import os
import sys
from importlib import import_module

import numpy as np
import pytest
import pytrec_eval
from hypothesis import given, settings
from hypothesis import strategies as st

from cptk import datasets
from cptk.datasets.records import LabeledTexts, RetrievalData
from cptk.evaluation import evaluate
from cptk.evaluation.metrics.trec_eval import ranked
from cptk.evaluation.tasks.registry import find_tasks
from cptk.evaluation.tasks.retrieval import TASKS, beir_task, bm25, bm25_run, dense_run, retrieval
from cptk.evaluation.tasks.through_index import IndexSearch
from cptk.search import Index


def _words(texts):
    """A bag of letters: texts that share letters are near."""
    return np.array([[t.lower().count(c) for c in "abcdefghijklmnop"] for t in texts], "float32")


def _toy(seed=0, queries=8, documents=40):
    random = np.random.default_rng(seed)
    text = lambda: " ".join("".join(random.choice(list("abcdefghijklmnop"), 4)) for _ in range(3))  # noqa: E731
    corpus = {f"d{i}": text() for i in range(documents)}
    asked = {f"q{i}": text() for i in range(queries)}
    qrels = {
        q: {f"d{d}": int(random.integers(0, 3)) for d in random.permutation(documents)[:5]}
        for q in asked
    }
    return RetrievalData(asked, corpus, qrels)


def _roles(seen):
    def encode(texts, role):
        seen.append(role)
        return _words(texts)

    return type("Encoder", (), {"encode_text": staticmethod(encode)})()


def test_retrieval_equals_trec_eval_on_the_whole_ranking():
    data = _toy()
    seen = []
    scores = retrieval(_roles(seen), data)
    assert seen == ["query", "document"]
    u, v = (
        m / np.linalg.norm(m, axis=1, keepdims=True)
        for m in map(_words, (list(data.queries.values()), list(data.corpus.values())))
    )
    run = {
        q: dict(zip(data.corpus, map(float, row), strict=True))
        for q, row in zip(data.queries, np.vecdot(u[:, None], v[None]), strict=True)
    }
    theirs = pytrec_eval.RelevanceEvaluator(
        data.qrels, {"ndcg_cut.10", "map", "recip_rank", "recall.1,10,100", "success.1,5,10"}
    ).evaluate(run)
    for ours, name in (
        ("ndcg@10", "ndcg_cut_10"),
        ("map", "map"),
        ("mrr", "recip_rank"),
        ("recall@1", "recall_1"),
        ("recall@10", "recall_10"),
        ("recall@100", "recall_100"),
        ("success@1", "success_1"),
        ("success@5", "success_5"),
        ("success@10", "success_10"),
    ):
        assert scores[ours] == pytest.approx(np.mean([t[name] for t in theirs.values()]), abs=1e-6)


def test_depth_cuts_the_ranking_and_search_may_be_ones_own():
    data = _toy()
    run = dense_run(_words, data, depth=3)
    assert {len(ranking) for ranking in run.values()} == {3}
    asked = []

    def search(queries, documents, k):
        asked.append(k)
        return np.tile([0.9, 0.1], (len(queries), 1)), np.tile([7, -1], (len(queries), 1))

    run = dense_run(_words, data, depth=5, search=search)
    assert asked == [6]  # one more, in case the query itself is found
    assert run["q0"] == {"d7": 0.9}  # -1 is how FAISS says that there is none


def _letters(texts):
    return np.array([[t.count("a"), t.count("b")] for t in texts], "float32")


@settings(max_examples=15)
@given(
    st.dictionaries(
        st.text("xyz", min_size=1), st.sampled_from(["a", "aa", "b", "ab"]), min_size=2
    ),
    st.randoms(use_true_random=False),
    st.integers(1, 6),
)
def test_the_order_of_the_corpus_changes_nothing(corpus, random, depth):
    """Many documents tie: a cut that kept others than the ranking would show in the figures."""
    judged = {document: random.randint(0, 2) for document in corpus}
    shuffled = list(corpus)
    random.shuffle(shuffled)
    orders = [corpus, {d: corpus[d] for d in shuffled}, {d: corpus[d] for d in sorted(corpus)}]
    data = [RetrievalData({"q": "aab"}, order, {"q": judged}) for order in orders]
    for run in (lambda each: dense_run(_letters, each, depth=depth),
                lambda each: bm25_run(each, depth=depth)):  # fmt: skip
        first, *others = [run(each) for each in data]
        assert all(other == first for other in others)
    whole = dense_run(_letters, data[0], depth=len(corpus))["q"]
    assert list(dense_run(_letters, data[1], depth=depth)["q"]) == ranked(whole)[:depth]
    figures = [retrieval(_letters, each, depth=depth) for each in data]
    assert figures[0] == figures[1] == figures[2]


def test_a_search_of_ones_own_is_checked_and_gets_the_corpus_in_its_order():
    data = _toy()
    for found, message in (
        ((np.ones((8, 2)), np.zeros((8, 3), int)), r"one shape, \(8, k\).*\(8, 2\) and \(8, 3\)"),
        ((np.ones((7, 2)), np.zeros((7, 2), int)), r"one shape, \(8, k\)"),
        ((np.ones((8, 1)), np.full((8, 1), 40)), "indices below 40"),
        ((np.ones((8, 1)), np.ones((8, 1))), "indices below 40"),
    ):
        with pytest.raises(ValueError, match=message):
            retrieval(_words, data, search=lambda *_, found=found: found)


def test_a_document_with_the_querys_id_is_left_out_if_asked():
    data = RetrievalData(
        {"1": "abc", "2": "def"}, {"1": "abc", "2": "def"}, {"1": {"1": 1}, "2": {"1": 1}}
    )
    assert retrieval(_words, data)["recall@1"] == 0.5  # BEIR's rule: query 1 cannot find itself
    assert retrieval(_words, data, ignore_identical_ids=False)["success@1"] == 0.5
    assert "1" not in dense_run(_words, data)["1"]
    assert "1" not in bm25_run(data)["1"]


def test_blank_documents_are_never_found_and_unjudged_queries_not_asked():
    data = RetrievalData(
        {"q": "abc", "unjudged": "zz"}, {"a": "abc", "blank": "  "}, {"q": {"blank": 1, "a": 0}}
    )
    assert dense_run(_words, data) == {"q": {"a": pytest.approx(1.0)}}
    assert retrieval(_words, data)["map"] == 0.0


def test_bm25_finds_the_document_that_shares_the_rare_word():
    corpus = {"a": "the cat sat", "b": "the zebra sat", "c": "the dog and the dog", "d": "cat dog"}
    data = RetrievalData(
        {"q": "a zebra", "none": "xyzzy", "stop": "the"},
        corpus,
        {"q": {"b": 1}, "none": {"a": 1}, "stop": {"a": 1}},
    )
    run = bm25_run(data)
    assert list(run["q"]) == ["b"]
    assert run["none"] == run["stop"] == {}  # no word in common: nothing is ranked
    assert bm25(data)["success@1"] == pytest.approx(1 / 3)
    empty = RetrievalData({"q": "the"}, {"a": "the of"}, {"q": {"a": 1}})
    assert bm25(empty)["map"] == 0.0


def test_bm25_is_lucenes_formula():
    corpus = {f"d{i}": t for i, t in enumerate(["xx yy zz", "xx xx yy", "ww", "yy ww ww zz"])}
    data = RetrievalData({"q": "xx zz"}, corpus, {"q": {"d0": 1}})
    words = {d: t.split() for d, t in corpus.items()}
    mean, k1, b = np.mean([len(w) for w in words.values()]), 1.5, 0.75
    for document, score in bm25_run(data)["q"].items():
        expected = 0.0
        for word in ("xx", "zz"):
            df = sum(word in w for w in words.values())
            tf = words[document].count(word)
            idf = np.log(1 + (len(words) - df + 0.5) / (df + 0.5))
            expected += idf * tf / (tf + k1 * (1 - b + b * len(words[document]) / mean))
        assert score == pytest.approx(expected, rel=1e-5)


def test_bm25_without_its_library(monkeypatch):
    monkeypatch.setitem(sys.modules, "bm25s", None)
    with pytest.raises(ImportError, match=r"cptk\[eval\]"):
        bm25(_toy())


@pytest.mark.parametrize(
    ("queries", "corpus", "qrels", "message"),
    [
        (
            {"q": "a"},
            {"a": "a"},
            {"q": {"gone": 1}},
            "document 'gone', which is not in the corpus of 1",
        ),
        ({"q": "a"}, {"a": "a"}, {"other": {"a": 1}}, "query 'other', which has no text"),
        ({"q": "a"}, {"a": "a"}, {}, "no judgement"),
        ({"q": "a"}, {"a": "a"}, {"q": {}}, "no judgement"),
    ],
)
def test_judgements_must_fit(queries, corpus, qrels, message):
    for function in (lambda data: retrieval(_words, data), bm25):
        with pytest.raises(ValueError, match=message):
            function(RetrievalData(queries, corpus, qrels))


def test_other_data_is_refused(monkeypatch):
    with pytest.raises(TypeError, match="Received: dict"):
        retrieval(_words, {"queries": {}})
    monkeypatch.setattr(datasets, "load", lambda name, split=None: LabeledTexts(["a"], [0]))
    monkeypatch.setattr(datasets, "available_splits", lambda name: ["test"])
    with pytest.raises(TypeError, match=r"RetrievalData.*'x' is one of LabeledTexts"):
        beir_task("x").run(_words, None)
    with pytest.raises(ValueError, match=r"ndcg@10.*Received: 'ndcg@7'"):
        beir_task("x", headline="ndcg@7")


def test_a_beir_folder_is_a_task(monkeypatch):
    data = _toy(seed=3)
    monkeypatch.setattr(datasets, "load", lambda name, split=None: data)
    monkeypatch.setattr(datasets, "available_splits", lambda name: ["validation", "test"])
    task = beir_task("some/where/scifact")
    result = task.run(lambda texts, role=None: _words(texts), None)
    assert (task.name, result.dataset, result.split, result.size) == (
        "scifact",
        "scifact",
        "test",
        8,
    )
    assert (
        result.score == result.scores["ndcg@10"] == pytest.approx(np.mean(result.items["ndcg@10"]))
    )
    assert result.scores == retrieval(_words, "some/where/scifact")
    assert result.details["bm25"] == bm25(data)
    monkeypatch.setattr(import_module("cptk.evaluation.tasks.retrieval"), "_BM25", {})
    monkeypatch.setitem(sys.modules, "bm25s", None)
    assert task.run(lambda texts, role=None: _words(texts), "dev").details["bm25"] is None
    assert [t.name for t in TASKS] == ["cranfield"]


@pytest.mark.slow
@pytest.mark.skipif("CPTK_DATA_DIR" not in os.environ, reason="needs CPTK_DATA_DIR with cranfield")
def test_bm25_on_cranfield():
    data = datasets.load("cranfield", "test")
    assert (len(data.queries), len(data.corpus)) == (225, 1400)
    task = TASKS[0].run(lambda texts, role=None: _words(texts) + 1e-3, "test")
    # BM25 without stemming; query 225 and document 225 share a number and nothing else.
    assert task.details["bm25"]["ndcg@10"] == pytest.approx(0.369, abs=0.005)
    assert (task.details["ignore_identical_ids"], task.details["blank_documents"]) == (False, 2)


# === Through an index ===


def test_an_exact_index_changes_nothing_and_a_coarse_one_says_what_it_missed():
    data = _toy(documents=120)
    exact = retrieval(_words, data)
    through = retrieval(_words, data, index=Index)
    assert through == {**exact, "index_recall@10": 1.0, "index_recall@100": 1.0}
    coarse = retrieval(_words, data, depth=10, index=lambda: Index(dtype="binary"))
    assert coarse["index_recall@10"] < 1
    assert "index_recall@100" not in coarse  # the ranking is not so deep
    unit = [
        m / np.linalg.norm(m, axis=1, keepdims=True)
        for m in map(_words, (list(data.queries.values()), list(data.corpus.values())))
    ]
    cosines = unit[0].astype(np.float64) @ unit[1].astype(np.float64).T
    run = dense_run(_words, data, depth=10, search=IndexSearch(lambda: Index(dtype="binary")))
    shares = []
    for row, query in zip(cosines, data.queries, strict=True):
        least = np.sort(row)[-10] - 1e-6
        shares.append(np.mean([row[list(data.corpus).index(d)] >= least for d in run[query]]))
    assert coarse["index_recall@10"] == pytest.approx(np.mean(shares), abs=0.02)


def test_an_index_of_faiss_and_a_task_through_it(tmp_path):
    pytest.importorskip("faiss", reason="pip install cptk[faiss]")
    data = _toy(documents=300)
    scores = retrieval(_words, data, index="IVF16,Flat")
    assert scores["index_recall@100"] < 0.9  # one cell of sixteen is looked into
    assert retrieval(_words, data, index="Flat")["index_recall@100"] == 1
    (tmp_path / "qrels").mkdir()
    for name, texts in (("corpus", data.corpus), ("queries", data.queries)):
        lines = [json.dumps({"_id": key, "text": text}) for key, text in texts.items()]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines))
    judged = [f"{q}\t{d}\t{r}" for q, ds in data.qrels.items() for d, r in ds.items()]
    (tmp_path / "qrels" / "test.tsv").write_text("\n".join(["query-id\tcorpus-id\tscore", *judged]))
    task = beir_task(tmp_path, "toy", index="IVF16,Flat")
    assert "search through IVF16,Flat" in task.description
    report = evaluate(_words, task)
    assert report["toy"].scores["index_recall@100"] == scores["index_recall@100"]


def test_a_factory_is_checked_for_the_embedders_numbers():
    pytest.importorskip("faiss", reason="pip install cptk[faiss]")
    seen = []
    IndexSearch("PQ48")  # 64 numbers would not do
    IndexSearch("IVF256,PQ48").check(384)
    with pytest.raises(ValueError, match="`factory` should be what faiss"):
        retrieval(_roles(seen), _toy(), index="PQ48")
    assert len(seen) == 1  # the queries, whose numbers are counted


def test_tasks_through_an_index_have_names_of_their_own():
    pytest.importorskip("faiss", reason="pip install cptk[faiss]")
    tasks = [beir_task("toy"), beir_task("toy", index="IVF16,Flat"), beir_task("toy", index=Index)]
    assert [task.name for task in find_tasks(tasks)] == ["toy", "toy_IVF16_Flat", "toy_index"]
    assert beir_task("toy", "mine", index="Flat").name == "mine"
    with pytest.raises(ValueError, match="Two tasks are named 'toy_index'"):
        find_tasks([tasks[2], beir_task("toy", index=lambda: Index(dtype="int8"))])


def test_bad_indices_are_refused_before_anything_is_embedded():
    seen = []
    for index, error, match in (
        (5, TypeError, "`index` should be a factory of FAISS's"),
        (lambda: 5, TypeError, "should make an empty cptk.search.Index"),
        (lambda: Index().add(np.eye(16)), TypeError, "should make an empty"),
    ):
        with pytest.raises(error, match=match):
            retrieval(_words, _toy(), index=index)
    pytest.importorskip("faiss", reason="pip install cptk[faiss]")
    with pytest.raises(ValueError, match="`factory` should be what faiss"):
        retrieval(_roles(seen), _toy(), index="Nonsense")
    with pytest.raises(ValueError, match="`search` should be left out"):
        retrieval(_roles(seen), _toy(), index="Flat", search=lambda *_: None)
    with pytest.raises(ValueError, match="`factory` should be what faiss"):
        beir_task("somewhere", index="Nonsense")
    assert seen == []
