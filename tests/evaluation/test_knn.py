import collections
import importlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.neighbors import KNeighborsClassifier

from cptk.datasets.records import LabeledTexts
from cptk.evaluation.tasks.knn import knn, knn_accuracies

module = importlib.import_module("cptk.evaluation.tasks.knn")


def _data(n, classes=3, size=5, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, size)), rng.permutation(np.arange(n) % classes)


@pytest.mark.parametrize(("weights", "theirs"), [("majority", "uniform"), ("distance", "distance")])
@pytest.mark.parametrize("k", [1, 2, 6, 17, 60])
def test_equals_scikit_learn(weights, theirs, k):
    """With 3 classes and an even k, votes tie often."""
    (x, y), (u, v) = _data(60), _data(80, seed=1)
    model = KNeighborsClassifier(k, metric="cosine", algorithm="brute", weights=theirs).fit(x, y)
    result = knn(x, y, u, v, k=k, weights=weights)
    np.testing.assert_array_equal(result.predictions, model.predict(u))
    assert result.accuracy == pytest.approx(model.score(u, v), abs=1e-12)
    assert result.k == k


def _slow(train, labels, query, k):
    """One query in plain Python: neighbours by cosine then index, votes, ties to the lowest."""
    unit = [row / (np.linalg.norm(row) or 1.0) for row in train.astype(float)]
    asked = query.astype(float) / (np.linalg.norm(query) or 1.0)
    cosines = [round(float(row @ asked), 6) for row in unit]
    near = sorted(range(len(train)), key=lambda i: (-cosines[i], i))[:k]
    votes = collections.Counter(labels[i] for i in near)
    return min(votes, key=lambda c: (-votes[c], c))


@settings(max_examples=80, deadline=None)
@given(st.data())
def test_ties_duplicates_and_zeros_against_a_slow_loop(data):
    values = st.sampled_from([-1.0, 0.0, 1.0, 2.0])
    n = data.draw(st.integers(2, 12))
    x = data.draw(hnp.arrays(np.float32, (n, 2), elements=values))
    y = np.array([0, 1, *data.draw(st.lists(st.integers(0, 2), min_size=n - 2, max_size=n - 2))])
    u = data.draw(hnp.arrays(np.float32, (5, 2), elements=values))
    k = data.draw(st.integers(1, n))
    result = knn(x, y, u, np.zeros(5, int), k=k, allow_zeros=True)
    assert result.predictions.tolist() == [_slow(x, y, row, k) for row in u]


@pytest.mark.parametrize("weights", ["majority", "distance"])
def test_many_k_in_one_pass_equal_one_at_a_time(weights):
    (x, y), (u, v) = _data(50), _data(40, seed=1)
    ks = [50, 1, 8, 3]
    found = knn_accuracies(x, y, u, v, ks, weights=weights)
    assert list(found) == ks
    assert found == {k: knn(x, y, u, v, k=k, weights=weights).accuracy for k in ks}


def test_coinciding_neighbours_vote_alone():
    x = np.array([[1.0, 0.3], [0.9, 0.3], [0.9, 0.31], [0.5, 1.0]])
    y = ["a", "b", "b", "b"]
    result = knn(x, y, [[2.0, 0.6]], ["a"], k=4, weights="distance")
    assert result.predictions.tolist() == ["a"]
    assert knn(x, y, [[2.0, 0.6]], ["a"], k=4).predictions.tolist() == ["b"]


def test_k_is_chosen_on_the_validation_set_the_smallest_of_equals():
    (x, y), (u, v), (p, q) = _data(50, 2), _data(40, 2, seed=1), _data(30, 2, seed=2)
    ks = [9, 1, 5, 21]
    result = knn(x, y, u, v, k=ks, validation_vectors=p, validation_labels=q)
    expected = knn_accuracies(x, y, p, q, ks)
    assert result.validation_accuracies == expected
    assert result.k == min(k for k in ks if expected[k] == max(expected.values()))
    assert result.accuracy == knn(x, y, u, v, k=result.k).accuracy
    assert knn(x, y, x, y, k=1).validation_accuracies is None


def test_bags_of_words_without_a_known_word():
    from sklearn.feature_extraction.text import TfidfVectorizer

    vectorizer = TfidfVectorizer().fit(["a good film", "a bad film"])
    train = vectorizer.transform(["bad film", "good film", "zzz"]).toarray()
    result = knn(train, [0, 1, 1], vectorizer.transform(["qqq"]).toarray(), [0], k=1,
                 allow_zeros=True)  # fmt: skip
    assert result.predictions.tolist() == [0]  # cosine 0 with all: the first row
    with pytest.raises(ValueError, match="1 vectors of zeros, the first in row 2"):
        knn(train, [0, 1, 1], train, [0, 1, 1], k=1)


X, Y = _data(12, 2)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"k": 13}, ValueError, "from 1 to the number of training vectors, 12. Received: 13"),
        ({"k": 0}, ValueError, "`k` should be an integer of 1 or more"),
        ({"k": True}, TypeError, "`k` should be an integer of 1 or more"),
        ({"k": 2.5}, TypeError, "Received: 2.5"),
        ({"k": [1, 3]}, ValueError, "Of several `k` the validation set chooses"),
        (
            {"k": [], "validation_vectors": X, "validation_labels": Y},
            ValueError,
            "at least one `k`",
        ),
        ({"weights": "uniform"}, ValueError, "'majority' or 'distance'. Received: 'uniform'"),
        ({"train_labels": Y * 0}, ValueError, "two or more classes"),
        ({"test_labels": Y[:3]}, ValueError, "one label for each of the 12 vectors"),
        ({"train_vectors": X * np.inf}, ValueError, "`train_vectors` must be finite"),
        ({"test_vectors": X[:, :2]}, ValueError, "the size of the training vectors, 5"),
        ({"test_vectors": X * 0}, ValueError, "12 vectors of zeros"),
    ],
)
@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
def test_bad_input(change, error, message):
    arguments = {
        "train_vectors": X, "train_labels": Y, "test_vectors": X, "test_labels": Y, "k": 3, **change
    }  # fmt: skip
    with pytest.raises(error, match=message):
        knn(**arguments)


def test_task(monkeypatch):
    texts = ["good", "bad", "good film", "bad film", "good good"]
    data = LabeledTexts(texts, [1, 0, 1, 0, 1])

    def embed(texts, role=None):
        return np.array([[t.count("good"), t.count("bad"), 0.1] for t in texts], np.float32)

    monkeypatch.setattr(module, "load_split", lambda kind, name, split: (data, split or "test"))
    monkeypatch.setattr(module, "PAPER_K", 1)
    result = module.TASKS[0].run(embed, "validation")
    assert result.scores == {"accuracy": 1.0, "accuracy_distance_weighted": 1.0}
    assert result.items == {"correct": [1.0] * 5}
    assert result.details["k"] == 1
    assert result.split == "validation"
