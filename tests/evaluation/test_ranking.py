import math

import numpy as np
import pytest
import pytrec_eval
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import ndcg_score

from cptk.evaluation.metrics import trec_eval
from cptk.evaluation.tasks import trec_scores as trec

DOCUMENTS = ("d1", "d10", "d2", "é", "Z", "zz", "d3")
# Scores that tie outright, and some that tie only in trec_eval's single precision.
SCORES = st.sampled_from([0.0, 0.5, 0.5 + 1e-9, -1.0, 1e-45, 0.1])
QRELS = st.dictionaries(
    st.sampled_from(["q1", "q2", "q3"]),
    st.dictionaries(st.sampled_from(DOCUMENTS), st.integers(-1, 3), min_size=1),
    min_size=1,
)
RUNS = st.dictionaries(
    st.sampled_from(["q1", "q2", "q3", "q4"]),
    st.dictionaries(st.sampled_from(DOCUMENTS), SCORES),  # an empty ranking among them
)


def _trec(qrels, run, measure):
    full = {query: run.get(query, {}) for query in qrels}
    scored = pytrec_eval.RelevanceEvaluator(qrels, {measure}).evaluate(full)
    return {query: scored[query][measure.replace(".", "_")] for query in qrels}


@given(QRELS, RUNS, st.sampled_from([1, 2, 3, 5, 10]))
def test_every_measure_equals_trec_eval(qrels, run, k):
    for ours, theirs in (
        (trec_eval.ndcg_at_k(qrels, run, k), f"ndcg_cut.{k}"),
        (trec_eval.average_precision(qrels, run), "map"),
        (trec_eval.reciprocal_rank(qrels, run), "recip_rank"),
        (trec_eval.recall(qrels, run, k), f"recall.{k}"),
        (trec_eval.success(qrels, run, k), f"success.{k}"),
    ):
        assert ours == pytest.approx(_trec(qrels, run, theirs), abs=1e-9)


@given(QRELS, RUNS)
def test_the_binding_and_the_numpy_form_agree(qrels, run):
    with pytest.MonkeyPatch.context() as patch:
        bound = trec.trec_scores(qrels, run)
        patch.setitem(__import__("sys").modules, "pytrec_eval", None)
        plain = trec.trec_scores(qrels, run)
    assert set(bound) == set(plain) == set(trec.MEASURES)
    for measure in bound:
        assert bound[measure] == pytest.approx(plain[measure], abs=1e-9)
    cut = {q: dict(sorted(r.items())[:0]) for q, r in run.items()}
    assert set(trec.trec_scores(qrels, cut)["mrr@10"].values()) == {0.0}


@pytest.mark.parametrize("seed", range(5))
def test_long_graded_rankings(seed):
    random = np.random.default_rng(seed)
    names = [f"d{i}" for i in range(300)]
    qrels = {
        f"q{i}": {n: int(random.integers(0, 4)) for n in random.permutation(names)[:30].tolist()}
        for i in range(20)
    }
    run = {
        q: dict(zip(names, random.normal(size=300).round(2).tolist(), strict=True)) for q in qrels
    }
    scores = trec.trec_scores(qrels, run)
    assert scores["ndcg@10"] == pytest.approx(trec_eval.ndcg_at_k(qrels, run, 10), abs=1e-9)
    assert scores["map"] == pytest.approx(trec_eval.average_precision(qrels, run), abs=1e-9)
    assert scores["mrr@10"] == pytest.approx(trec_eval.reciprocal_rank(qrels, run, 10), abs=1e-9)
    assert scores["recall@100"] == pytest.approx(trec_eval.recall(qrels, run, 100), abs=1e-9)


def test_the_gain_is_linear_as_scikit_learn_has_it():
    random = np.random.default_rng(0)
    gains, scores = random.integers(0, 4, (1, 20)), random.normal(size=(1, 20))
    qrels = {"q": {f"d{i}": int(g) for i, g in enumerate(gains[0])}}
    run = {"q": {f"d{i}": float(s) for i, s in enumerate(scores[0])}}
    expected = ndcg_score(gains, scores, k=10)
    assert trec_eval.ndcg_at_k(qrels, run, 10)["q"] == pytest.approx(expected, abs=1e-12)


def test_worked_by_hand():
    qrels, run = {"q": {"a": 2, "b": 1, "gone": 1}}, {"q": {"b": 3.0, "x": 2.0, "a": 1.0}}
    best = 2 + 1 / math.log2(3) + 1 / 2
    assert trec_eval.ndcg_at_k(qrels, run, 10)["q"] == pytest.approx((1 + 2 / 2) / best)
    assert trec_eval.average_precision(qrels, run)["q"] == pytest.approx((1 + 2 / 3) / 3)
    assert trec_eval.recall(qrels, run, 2)["q"] == pytest.approx(1 / 3)
    assert trec_eval.reciprocal_rank(qrels, {"q": {"x": 2.0, "a": 1.0}}, 1)["q"] == 0.0
    assert trec_eval.ranked({"a": 1.0, "b": 1.0, "c": 2.0}) == ["c", "b", "a"]


def test_bad_input():
    with pytest.raises(ValueError, match="no judgement"):
        trec_eval.average_precision({}, {})
    with pytest.raises(ValueError, match="'q' must be finite"):
        trec_eval.recall({"q": {"a": 1}}, {"q": {"a": float("nan")}}, 1)
    with pytest.raises(ValueError, match="'q' must be finite"):
        trec.trec_scores({"q": {"a": 1}}, {"q": {"a": float("inf")}})
    with pytest.raises(ValueError, match="`k` should be an integer of 1 or more"):
        trec_eval.ndcg_at_k({"q": {"a": 1}}, {}, 0)
