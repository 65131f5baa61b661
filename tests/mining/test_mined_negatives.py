"""Hard negatives against a full sort by hand."""

from __future__ import annotations

import sys
import tracemalloc
from typing import Any

import numpy as np
import pytest
import references
from hypothesis import given
from hypothesis import strategies as st

import cptk
from cptk.data import Pairs
from cptk.mining import hard_negatives, nearest
from cptk.mining.hard_negatives import _of_group
from cptk.search import BM25


class Encoder:
    """Vectors by text, drawn once for each."""

    def __init__(self, dim: int = 4) -> None:
        self.dim, self.calls = dim, []  # type: int, list[list[str]]

    def encode_text(self, texts: list[str]) -> Any:
        self.calls.append(list(texts))
        seeds = [np.frombuffer(text.encode().ljust(8, b"."), np.uint8) for text in texts]
        return np.stack([np.random.default_rng(seed).normal(size=self.dim) for seed in seeds])


def unit(x: Any) -> Any:
    return x / np.linalg.norm(x, axis=1, keepdims=True)


PAIRS = {
    "query": ["q0", "q1", "q2", "q3", "q1", "q5"],
    "document": ["d0", "d1", "d2", "D0!", "d4", "d0"],
    "group": [0, 1, 2, 3, 1, 2],
}
CORPUS = [*PAIRS["document"], *(f"c{i}" for i in range(12)), "q2", "c3"]


def by_hand(k: int, first: int, last: int, margin: Any, ratio: Any) -> list[list[str]]:
    texts = list(dict.fromkeys(CORPUS))
    encode = Encoder().encode_text
    q, d, c = (unit(encode(x)) for x in (PAIRS["query"], PAIRS["document"], texts))
    found = []
    for row, query in enumerate(PAIRS["query"]):
        order = sorted(range(len(texts)), key=lambda j: (-np.float32(q[row] @ c[j]), j))
        own = q[row] @ d[row]
        same = [
            PAIRS["document"][j]
            for j in range(6)
            if PAIRS["query"][j] == query or PAIRS["group"][j] == PAIRS["group"][row]
        ]
        copies = {"d0", "D0!"} if PAIRS["document"][row] in ("d0", "D0!") else set()
        kept = [
            texts[j]
            for j in order[first:last]
            if texts[j] not in {*same, *copies, query}
            and (margin is None or q[row] @ c[j] <= own - margin)
            and (ratio is None or q[row] @ c[j] <= min(own, own * ratio))
        ]
        found.append(kept[:k])
    return found


@given(
    k=st.integers(1, 6),
    ranks=st.tuples(st.integers(0, 4), st.integers(8, 30)),
    limit=st.sampled_from([(None, None), (0.0, None), (0.3, None), (None, 0.9)]),
)
def test_the_nearest_that_are_left(k: int, ranks: tuple[int, int], limit: Any) -> None:
    margin, ratio = limit
    reports: list[Any] = []
    options = {"ranks": ranks, "margin": margin, "ratio": ratio, "report": reports.append}
    found, report = hard_negatives(Encoder(), PAIRS, CORPUS, k, **options), reports[0]
    expected = by_hand(k, *ranks, margin, ratio)
    assert found["negatives"] == expected
    assert report.kept == sum(map(len, expected)) == sum(report.margins.counts)
    assert report.kept == sum(report.scores.counts)
    assert report.looked_at == report.kept + sum(report.fell.values())
    assert sum(report.pairs.values()) == 6
    assert str(report).startswith(f"{report.kept} negatives from {report.looked_at} candidates")


def test_columns_stay_and_old_negatives_go() -> None:
    pairs = Pairs({**PAIRS, "negatives": [["old"]] * 6, "guide": np.ones((6, 3, 2))})
    found = hard_negatives(Encoder(), pairs, k=1)
    assert found.columns == [*PAIRS, "negatives"]
    assert found["group"] == PAIRS["group"]
    assert "old" not in {text for row in found["negatives"] for text in row}
    again = hard_negatives(Encoder(), found, k=1)
    assert again["negatives"] == found["negatives"]


def test_each_text_is_embedded_once() -> None:
    encoder = Encoder()
    hard_negatives(encoder, PAIRS, CORPUS)
    assert len(encoder.calls) == 2
    for texts in encoder.calls:
        assert len(texts) == len(set(texts))


class Roles:
    def __init__(self) -> None:
        self.preprocessor, self.asked = self, []  # type: ignore[var-annotated]
        self.roles = {"query": 0, "document": 1}

    def encode_text(self, texts: list[str], role: str | None = None) -> Any:
        self.asked.append(role)
        return Encoder().encode_text(texts)


def test_queries_and_documents_have_their_roles() -> None:
    encoder = Roles()
    hard_negatives(encoder, PAIRS)
    assert sorted(encoder.asked) == ["document", "query"]


BAD: dict[str, Any] = {
    "no embedder": (("x", PAIRS), {}, TypeError, "An encoder is no string. Received: 'x'"),
    "no encoder": ((3, PAIRS), {}, TypeError, "An encoder needs `encode_text"),
    "k": ((Encoder(), PAIRS), {"k": 0}, ValueError, "`k`"),
    "ranks": ((Encoder(), PAIRS), {"ranks": (5, 5)}, ValueError, "`ranks` should be the first"),
    "one rank": ((Encoder(), PAIRS), {"ranks": (5,)}, ValueError, "`ranks` should be two integers"),
    "both": ((Encoder(), PAIRS), {"margin": 0.1, "ratio": 0.9}, ValueError, "not both"),
    "margin": ((Encoder(), PAIRS), {"margin": -1}, ValueError, "`margin` should be"),
    "ratio": ((Encoder(), PAIRS), {"ratio": 1.5}, ValueError, "`ratio` should be"),
    "near copies": ((Encoder(), PAIRS), {"near_copies": 0}, ValueError, "`near_copies` should be"),
    "search": ((Encoder(), PAIRS), {"search": 3}, TypeError, "`search` should be 'exact'"),
    "words by FAISS": ((BM25(), PAIRS), {"search": "Flat"}, ValueError, "BM25 searches words"),
    "no words shared": ((BM25(), PAIRS), {}, ValueError, "No pair has a negative. Of 0 candidates"),
    "margin of BM25": ((BM25(), PAIRS), {"margin": -3}, ValueError, "a difference of scores of BM"),
    "two sizes": (
        (lambda texts: np.ones((len(texts), 3 + ("q0" in texts))), PAIRS),
        {},
        ValueError,
        "vectors of one size. Received 3 and then 4",
    ),
    "not a number": (
        (lambda texts: np.full((len(texts), 3), np.nan), PAIRS),
        {},
        ValueError,
        "finite vectors",
    ),
    "report": ((Encoder(), PAIRS), {"report": 1}, TypeError, "`report` should be callable"),
    "corpus": ((Encoder(), PAIRS, ["a", "a"]), {}, ValueError, "two different texts or more"),
    "an empty text": ((Encoder(), PAIRS, ["a", ""]), {}, ValueError, "corpus"),
    "nothing left": (
        (Encoder(), PAIRS, ["d0", "D0."]),
        {"margin": 1.99},
        ValueError,
        "No pair has",
    ),
    "no pairs": ((Encoder(), []), {}, (ValueError, TypeError), "pairs|rows|tuples"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input(name: str) -> None:
    arguments, options, kind, message = BAD[name]
    with pytest.raises(kind, match=message):
        hard_negatives(*arguments, **options)


def test_what_comes_out_goes_into_fit() -> None:
    found = hard_negatives(Encoder(), PAIRS, CORPUS, k=2)
    assert isinstance(found, Pairs)
    assert cptk.mining.hard_negatives is hard_negatives


# === Blocks ===


def small_blocks(monkeypatch: pytest.MonkeyPatch, texts: int = 3, queries: int = 6) -> None:
    monkeypatch.setattr(nearest, "TEXTS", texts)
    monkeypatch.setattr(nearest, "QUERIES", queries)


def many(count: int = 23) -> dict[str, Any]:
    """Pairs of which some share their query, and some their document."""
    return {
        "query": [f"q{i % (count - 4)}" for i in range(count)],
        "document": [f"d{i % (count - 2)}" for i in range(count)],
    }


@pytest.mark.parametrize("blocks", [(1, 4), (3, 6), (5, 5), (23, 46)])
@pytest.mark.parametrize("kind", ["vectors", "words"])
def test_blocks_of_any_size_find_the_same(
    blocks: tuple[int, int], kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    pairs = many()
    if kind == "words":
        pairs = {
            side: [" ".join(rng.choice(list("abcdef"), 4)) for _ in x] for side, x in pairs.items()
        }
    embedder: Any = Encoder() if kind == "vectors" else BM25()
    options: Any = {"k": 3, "ratio": 0.9, "near_copies": None}
    expected = hard_negatives(embedder, pairs, **options)["negatives"]
    small_blocks(monkeypatch, *blocks)
    assert hard_negatives(embedder, pairs, **options)["negatives"] == expected
    if kind == "vectors":
        embedder.calls.clear()
        hard_negatives(embedder, pairs, **options)
        assert max(map(len, embedder.calls)) <= blocks[0]
        texts = [text for call in embedder.calls for text in call]
        assert len(texts) == len(set(texts))


def test_equal_scores_come_in_the_order_of_the_corpus() -> None:
    def embed(texts: list[str]) -> Any:
        return np.array([[1.0, float(text in ("q", "d"))] for text in texts])

    corpus = (f"c{i}" for i in (3, 1, 2, 0))
    found = hard_negatives(embed, [("q", "d")], corpus, k=3)
    assert found["negatives"] == [["c3", "c1", "c2"]]


def test_progress(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    hard_negatives(Encoder(), many())
    assert not capsys.readouterr().out
    hard_negatives(Encoder(), many(), verbose=1)
    assert capsys.readouterr().out.endswith("40/40 texts\n")  # 21 documents, 19 queries
    small_blocks(monkeypatch)
    hard_negatives(Encoder(), many())
    assert capsys.readouterr().out.endswith("40/40 texts\n")
    hard_negatives(Encoder(), many(), verbose=0)
    assert not capsys.readouterr().out


@pytest.mark.slow
def test_memory_is_the_documents_and_a_block() -> None:
    """20,000 x 20,000 scores would be 1.6 GB; the vectors of the documents are 5 MB."""
    rng = np.random.default_rng(0)
    vectors = dict(
        zip(map(str, range(40000)), rng.normal(size=(40000, 64)).astype("f"), strict=True)
    )

    def embed(texts: list[str]) -> Any:
        return np.stack([vectors[text] for text in texts])

    pairs = Pairs({"query": list(map(str, range(20000))), "document": list(vectors)[20000:]})
    hard_negatives(embed, pairs[:100], k=1)  # what is imported and made once
    peaks = []
    for count in (10000, 20000):
        tracemalloc.start()
        found = hard_negatives(embed, pairs[:count], pairs["document"], k=2, near_copies=None)
        peaks.append(tracemalloc.get_traced_memory()[1] / 2**20)
        tracemalloc.stop()
    assert min(map(len, found["negatives"])) == 2
    assert peaks[1] < 300
    assert peaks[1] - peaks[0] < 20  # the pairs and their negatives themselves


# === By words ===


@given(
    limit=st.sampled_from([(None, None), (0.5, None), (None, 0.8)]),
    seed=st.integers(0, 1000),
    first=st.integers(0, 2),
)
def test_bm25_in_place_of_an_embedder(limit: Any, seed: int, first: int) -> None:
    rng = np.random.default_rng(seed)
    texts = [" ".join(rng.choice(list("abcdefgh"), 5)) for _ in range(30)]
    pairs = {"query": texts[:8], "document": texts[8:16]}
    corpus = list(dict.fromkeys(texts[12:]))  # not all documents are in it
    margin, ratio = limit
    words = [text.split() for text in corpus]
    scores = references.bm25([q.split() for q in pairs["query"]], words, 1.5, 0.75)
    model = BM25().fit(corpus)
    own = model.score(pairs["query"], pairs["document"])  # test_bm25.py holds it to the loop
    expected = []
    for row in range(8):
        order = sorted(
            np.flatnonzero(scores[row]), key=lambda j, s=scores[row]: (-round(s[j], 9), j)
        )
        most = {True: np.inf, margin is not None: own[row] - (margin or 0)}[True]
        most = most if ratio is None else own[row] * ratio
        kept = [
            corpus[j]
            for j in order[first:50]
            if corpus[j] not in (pairs["document"][row], pairs["query"][row])
            and scores[row, j] <= most + 1e-9
        ]
        expected.append(kept[:3])
    if not any(expected):
        return
    reports: list[Any] = []
    options = {"ranks": (first, 50), "margin": margin, "ratio": ratio, "near_copies": None}
    asked = BM25()
    for _ in range(2):  # the first call leaves nothing behind
        found = hard_negatives(asked, pairs, iter(corpus), 3, **options, report=reports.append)
        assert found["negatives"] == expected
    assert reports[0] == reports[1]
    assert "BM25 of the document less that of the negative" in str(reports[0])


# === Near copies ===


def negatives_of(document: str, candidates: list[str], **options: Any) -> list[str]:
    pairs = {"query": ["?"], "document": [document]}
    embed = lambda texts: np.ones((len(texts), 2))  # noqa: E731
    return hard_negatives(embed, pairs, [document, *candidates], k=9, **options)["negatives"][0]


def test_a_near_copy_of_the_document_is_no_negative() -> None:
    text = "It reads the whole file into memory, and gives back its lines as a list of strings."
    near = text.replace("whole", "entire")
    far = "It writes a list of strings into a file, a line each, and gives back their number."
    assert negatives_of(text, [near, far, text.upper()]) == [near, far]  # 0.80 of its shingles
    assert negatives_of(text, [near, far], near_copies=0.7) == [far]
    assert negatives_of(text, [near, far, text.upper() + "!"], near_copies=None) == [near, far]
    long = f"{text} " * 3 + near
    assert negatives_of(f"{text} " * 4, [long, far]) == [far]
    japanese = "これはファイル全体を読み込んで行のリストを返す関数です。とても便利です"
    assert negatives_of(japanese, [japanese[:-1], far]) == [far]


def test_order_of_words_and_signs_count() -> None:
    assert negatives_of("dog bites man", ["man bites dog"]) == ["man bites dog"]
    assert negatives_of("+", ["-", "*"]) == ["-", "*"]


def test_a_near_copy_of_another_document_of_the_query_falls() -> None:
    text = "the cat sat on the mat and looked at the door for a long while"
    pairs = {"query": ["q", "q"], "document": [text, "something else"]}
    embed = lambda texts: np.ones((len(texts), 2))  # noqa: E731
    reports: list[Any] = []
    found = hard_negatives(embed, pairs, [text + " then", "far"], report=reports.append)
    assert found["negatives"] == [["far"], ["far"]]
    assert reports[0].fell["near copy"] == 2


# === Embedders, searches, reports ===


def test_roles_within_what_caches() -> None:
    encoder = Roles()
    cached = cptk.evaluation.CachedEncoder(encoder)  # type: ignore[arg-type]
    hard_negatives(cached, PAIRS)
    assert sorted(encoder.asked) == ["document", "query"]


@pytest.mark.parametrize("form", ["list", "array", "column", "generator", "frame"])
def test_a_corpus_of_any_form(form: str) -> None:
    pandas = pytest.importorskip("pandas") if form in ("column", "frame") else None
    corpus: Any = {
        "list": lambda: CORPUS,
        "array": lambda: np.array(CORPUS),
        "column": lambda: pandas.Series(CORPUS, index=range(5, 5 + len(CORPUS))),  # type: ignore[union-attr]
        "frame": lambda: pandas.DataFrame({"text": CORPUS}),  # type: ignore[union-attr]
        "generator": lambda: (text for text in CORPUS),
    }[form]()
    expected = by_hand(2, 0, 100, None, None)
    assert hard_negatives(Encoder(), PAIRS, corpus, 2)["negatives"] == expected


def test_an_index_of_faiss() -> None:
    pytest.importorskip("faiss", reason="pip install cptk[faiss]")
    found = hard_negatives(Encoder(), PAIRS, CORPUS, 2, search="Flat", ranks=(1, 40))
    assert found["negatives"] == by_hand(2, 1, 40, None, None)


def test_without_faiss_nothing_else_is_searched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(ImportError, match=r"cptk\[faiss\]"):
        hard_negatives(Encoder(), PAIRS, CORPUS, 2, search="Flat")


def test_a_group_is_one_set_however_large() -> None:
    pairs = Pairs({**many(100), "group": [0] * 100})
    found = hard_negatives(Encoder(), pairs, [*pairs["document"], "c"], 1)
    assert {text for row in found["negatives"] for text in row} == {"c"}
    of_group = _of_group(pairs, list(pairs["document"]))
    assert of_group is not None  # a set for each pair would be quadratic
    assert len(set(map(id, of_group))) == 1


def test_the_report_in_markdown() -> None:
    reports: list[Any] = []
    pairs = {"query": ["a|b", "c"], "document": ["d\ne", "f"]}
    hard_negatives(Encoder(), pairs, ["g", "h", "d\ne"], 1, report=reports.append)
    text = reports[0].to_markdown()
    assert "2 negatives from" in text
    assert "Cosine of the negative:\n\n| from | to | negatives |" in text
    assert "'a\\|b'" in text
    assert "| other document of the query | 0 |" in text
    for table in text.split("\n\n"):
        if table.startswith("|"):
            assert len({line.replace("\\|", "").count("|") for line in table.splitlines()}) == 1
