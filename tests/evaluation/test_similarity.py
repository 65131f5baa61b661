import numpy as np
import pytest
from scipy import stats

from cptk import datasets
from cptk.datasets.records import ScoredPairs
from cptk.evaluation.tasks import similarity as module
from cptk.evaluation.tasks.similarity import TASKS, pair_cosines, similarity, similarity_scores


def _toy(n=12, seed=0):
    random = np.random.default_rng(seed)
    first, second = [f"first {i}" for i in range(n)], [f"second {i}" for i in range(n)]
    gold = random.integers(0, 6, n).astype(float).tolist()
    data = ScoredPairs(first, second, gold, ["a"] * (n // 3) + ["b"] * (n - n // 3))
    table = {text: random.normal(size=5).astype("float32") for text in [*first, *second]}
    return data, lambda texts: np.stack([table[text] for text in texts])


def test_similarity_is_scipys_correlation_of_the_cosines():
    data, encoder = _toy()
    u, v = encoder(data.first), encoder(data.second)
    cosines = (u * v).sum(1) / np.linalg.norm(u, axis=1) / np.linalg.norm(v, axis=1)
    scores = similarity(encoder, data)
    assert scores["spearman"] == pytest.approx(stats.spearmanr(cosines, data.scores)[0], abs=1e-9)
    assert scores["pearson"] == pytest.approx(stats.pearsonr(cosines, data.scores)[0], abs=1e-6)
    parts = [(cosines[:4], data.scores[:4]), (cosines[4:], data.scores[4:])]
    # SentEval's formulas (senteval/sts.py): np.average, plain and by the number of pairs.
    for name, function in (("spearman", stats.spearmanr), ("pearson", stats.pearsonr)):
        values = [function(*part)[0] for part in parts]
        assert scores[f"{name}_mean"] == pytest.approx(np.average(values), abs=1e-6)
        expected = np.average(values, weights=[4, 8])
        assert scores[f"{name}_wmean"] == pytest.approx(expected, abs=1e-6)
        assert scores[f"{name}/b"] == pytest.approx(values[1], abs=1e-6)


def test_one_part_has_no_means():
    assert set(similarity_scores([0.1, 0.2, 0.4], [1, 2, 3])) == {"spearman", "pearson"}


def test_an_encoder_that_collapsed_has_no_correlation():
    data, _ = _toy()
    scores = similarity(lambda texts: np.ones((len(texts), 4), "float32"), data)
    assert np.isnan(scores["spearman"])
    assert np.isnan(scores["pearson_mean"])


def test_cosines_of_zeros_are_zero():
    assert pair_cosines([[0.0, 0.0], [3.0, 4.0]], [[1.0, 0.0], [1.0, 0.0]]).tolist() == [0.0, 0.6]


def test_bad_input():
    data, encoder = _toy()
    with pytest.raises(ValueError, match="11 names"):
        similarity_scores([0.0] * 12, [1.0] * 12, ["a"] * 11)
    with pytest.raises(ValueError, match="'lonely' has 1"):
        similarity_scores([0.1, 0.2, 0.4], [1, 2, 3], ["a", "a", "lonely"])
    with pytest.raises(ValueError, match="one shape"):
        pair_cosines(np.ones((2, 3)), np.ones((2, 4)))
    with pytest.raises(ValueError, match="12, 11, 12 and 12"):
        similarity(encoder, ScoredPairs(data.first, data.second[:-1], data.scores, data.subsets))
    blank = [float("nan"), *data.scores[1:]]
    with pytest.raises(ValueError, match="leave unscored pairs out"):
        similarity(encoder, ScoredPairs(data.first, data.second, blank, data.subsets))
    with pytest.raises(ValueError, match="one vector for each"):
        similarity(lambda texts: np.ones((3, 2)), data)


def test_a_task_scores_the_split_that_is_there(monkeypatch):
    data, encoder = _toy()
    asked = []
    monkeypatch.setattr(datasets, "available_splits", lambda name: ["train", "validation"])
    monkeypatch.setattr(datasets, "load", lambda name, split: asked.append((name, split)) or data)
    task = next(task for task in TASKS if task.name == "sts15")
    result = task.run(lambda texts, role=None: encoder(texts), None)
    assert asked == [("sts15", "validation")]
    assert (result.split, result.size, result.metric) == ("validation", 12, "spearman")
    assert stats.spearmanr(result.items["predicted"], result.items["gold"])[0] == pytest.approx(
        result.score, abs=1e-9
    )
    assert result.details["subsets"] == {"a": 4, "b": 8}
    assert task.run(lambda texts, role=None: encoder(texts), "test").split == "test"


def test_the_tasks():
    names = [task.name for task in TASKS]
    assert names == ["sts12", "sts13", "sts14", "sts15", "sts16", "stsb", "sick"]
    assert all(task.groups == ("sts",) for task in TASKS)
    assert module.__doc__
