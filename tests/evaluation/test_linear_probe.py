"""The probe beside SentEval's three classifiers, written again from its description."""

import functools
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score
from sklearn.model_selection import StratifiedKFold

from cptk.datasets.records import LabeledPairs, LabeledTexts
from cptk.evaluation.probe import cross_validated_probe, linear_probe, pair_features
from cptk.evaluation.tasks import linear_probe as linear_probe_tasks


def _data(rows, classes=2, size=6, seed=0, dtype=np.float64):
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(rows) % classes)
    vectors = rng.normal(size=(rows, size))
    vectors[np.arange(rows), labels] += 0.8
    return vectors.astype(dtype), labels


def _score(train, test, c, seed=1111, **options):
    probe = LogisticRegression(C=c, random_state=seed, **{"max_iter": 1000, **options})
    probe.fit(*train)
    return accuracy_score(test[1], probe.predict(test[0]))


def _folds(labels, k):
    return StratifiedKFold(n_splits=k, shuffle=True, random_state=1111).split(labels, labels)


def _cross_validation(x, y, grid, k):
    means = []
    for c in grid:
        scores = [_score((x[a], y[a]), (x[b], y[b]), c) for a, b in _folds(y, k)]
        means.append(round(100 * np.mean(scores), 2))
    return grid[int(np.argmax(means))], max(means)


@pytest.mark.parametrize("dtype", [np.float32, pytest.param(np.float64, marks=pytest.mark.slow)])
def test_nested_cross_validation_is_senteval_s(dtype):
    x, y = _data(90, dtype=dtype)
    grid, figures, chosen, selected = [2**t for t in range(-2, 4)], [], [], []
    for train, test in _folds(y, 3):
        c, score = _cross_validation(x[train], y[train], grid, 3)
        chosen.append(c)
        selected.append(score)
        figures.append(_score((x[train], y[train]), (x[test], y[test]), c))
    result = cross_validated_probe(x, y, folds=3)
    assert result.chosen == tuple(chosen)
    assert result.accuracy == pytest.approx(np.mean(figures), abs=1e-9)
    assert result.selection_accuracy == pytest.approx(np.mean(selected) / 100, abs=1e-9)
    assert round(100 * result.accuracy, 1) == round(
        np.mean([round(100 * f, 2) for f in figures]), 1
    )
    right = result.predictions == y
    means = [right[result.folds == fold].mean() for fold in range(3)]
    assert result.accuracy == pytest.approx(np.mean(means))


@pytest.mark.parametrize("classes", [2, pytest.param(5, marks=pytest.mark.slow)])
def test_c_by_folds_of_the_training_set_is_senteval_s(classes):
    (x, y), (u, v) = _data(80, classes), _data(40, classes, seed=1)
    c, score = _cross_validation(x, y, [2**t for t in range(-1, 6)], 4)
    result = linear_probe(x, y, u, v, folds=4)
    assert result.chosen == (c,)
    assert result.selection_accuracy == pytest.approx(score / 100)
    assert result.accuracy == pytest.approx(_score((x, y), (u, v), c), abs=1e-12)


def test_c_by_a_validation_set_is_senteval_s():
    (x, y), (u, v), (p, q) = _data(80), _data(40, seed=1), _data(30, seed=2)
    grid = [2**t for t in range(-2, 4)]
    scores = [round(100 * _score((x, y), (p, q), c), 2) for c in grid]
    result = linear_probe(x, y, u, v, validation_vectors=p, validation_labels=q)
    assert result.chosen == (grid[int(np.argmax(scores))],)
    assert result.selection_accuracy == pytest.approx(max(scores) / 100)
    assert result.accuracy == pytest.approx(_score((x, y), (u, v), result.chosen[0]))


def test_equally_good_values_give_the_smallest():
    x = np.repeat([[-5.0], [5.0]], 20, axis=0)
    y = np.repeat([0, 1], 20)
    assert linear_probe(x, y, x, y, folds=2).chosen == (0.5,)
    assert set(cross_validated_probe(x, y, folds=2).chosen) == {0.25}


def test_the_quick_forms_take_the_given_c():
    (x, y), (u, v) = _data(60), _data(30, seed=1)
    result = linear_probe(x, y, u, v, c=0.3)
    assert (result.chosen, result.selection_accuracy) == ((0.3,), None)
    assert result.accuracy == pytest.approx(_score((x, y), (u, v), 0.3))
    result = cross_validated_probe(x, y, c=0.3, folds=3)
    figures = [_score((x[a], y[a]), (x[b], y[b]), 0.3) for a, b in _folds(y, 3)]
    assert result.chosen == (0.3,) * 3
    assert result.accuracy == pytest.approx(np.mean(figures), abs=1e-12)


@pytest.mark.parametrize("classes", [2, 3])
def test_liblinear_is_one_class_against_the_rest(classes):
    (x, y), (u, v) = _data(90, classes), _data(60, classes, seed=1)
    result = linear_probe(x, y, u, v, c=1.0, solver="liblinear")
    planes = []
    for label in range(classes):
        probe = LogisticRegression(C=1.0, solver="liblinear", random_state=1111)
        planes.append(probe.fit(x, y == label).decision_function(u))
    np.testing.assert_array_equal(result.predictions, np.argmax(planes, axis=0))
    assert result.accuracy == pytest.approx(np.mean(result.predictions == v))


@settings(max_examples=4, deadline=None)
@given(st.integers(0, 1000), st.sampled_from([2, 3, -1]))
def test_the_number_of_jobs_changes_nothing(seed, jobs):
    x, y = _data(40, classes=3, seed=seed)
    serial, parallel = (cross_validated_probe(x, y, folds=2, n_jobs=n) for n in (1, jobs))
    np.testing.assert_array_equal(serial.predictions, parallel.predictions)
    assert serial.chosen == parallel.chosen


def test_names_as_labels():
    x, y = _data(60)
    names = np.array(["bad", "good"])[y]
    numbers, named = linear_probe(x, y, x, y, c=1.0), linear_probe(x, names, x, names, c=1.0)
    assert named.accuracy == numbers.accuracy
    assert set(named.predictions) == {"bad", "good"}


def test_fits_that_do_not_converge_are_reported_once():
    x, y = _data(60)
    # 7 values of C in 2 folds, then the chosen one.
    with pytest.warns(ConvergenceWarning) as warned:
        linear_probe(x * 100, y, x, y, folds=2, max_iter=1)
    assert [str(each.message)[:56] for each in warned] == [
        "14 logistic regressions (of 14 probes) did not converge ",
        "1 logistic regressions (of 1 probes) did not converge in",
    ]


def test_a_fit_that_converges_is_silent():
    x, y = _data(60)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        linear_probe(x, y, x, y, folds=2)


def test_pair_features():
    u, v = [[1.0, 2.0], [0.0, -1.0]], [[3.0, 1.0], [0.5, 2.0]]
    assert pair_features(u, v).tolist() == [[2.0, 1.0, 3.0, 2.0], [0.5, 3.0, 0.0, -2.0]]
    np.testing.assert_array_equal(pair_features(u, v), pair_features(v, u))
    with pytest.raises(ValueError, match=r"one shape, \(number, size\). Received: \(1, 2\)"):
        pair_features([[1.0, 2.0]], [1.0, 2.0])


X, Y = _data(20)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"train_labels": Y * 0}, ValueError, "two or more classes. Received only 0"),
        ({"train_labels": Y[:-1]}, ValueError, "one label for each of the 20 vectors"),
        ({"train_labels": Y * 0.5}, TypeError, "whole numbers or strings. Received: dtype=float64"),
        ({"test_labels": Y + 7}, ValueError, "None of `test_labels` occurs among the training"),
        (
            {"test_vectors": X[:, :3]},
            ValueError,
            "the size of the training vectors, 6. Received: 3",
        ),
        ({"train_vectors": X * np.nan}, ValueError, "`train_vectors` must be finite"),
        ({"test_vectors": X * (Y == 1)[:, None]}, ValueError, "10 vectors of zeros, the first in"),
        ({"train_vectors": X[0]}, ValueError, r"shape \(number, size\). Received: shape=\(6,\)"),
        ({"folds": 11}, ValueError, "each of the 11 folds. Received 10 of class 0"),
        ({"folds": 1}, ValueError, "`folds` should be an integer of 2 or more"),
        ({"c": 0.0}, ValueError, "`c` must be a positive number. Received: 0.0"),
        ({"c": "one"}, ValueError, "`c` must be a positive number. Received: 'one'"),
        ({"solver": "saga"}, ValueError, "'lbfgs' or 'liblinear'. Received: 'saga'"),
        ({"max_iter": 0}, ValueError, "`max_iter` should be an integer of 1 or more. Received: 0"),
        (
            {"n_jobs": 0},
            ValueError,
            "of 1 or more, or -1 for one a core. Received: 0",
        ),
        ({"validation_vectors": X}, ValueError, "both `validation_vectors` and"),
    ],
)
def test_bad_input(change, error, message):
    arguments = {
        "train_vectors": X, "train_labels": Y, "test_vectors": X, "test_labels": Y, **change
    }  # fmt: skip
    with pytest.raises(error, match=message):
        linear_probe(**arguments)


def test_zero_vectors_are_taken_where_they_are_meant():
    x = X * (np.arange(20) > 1)[:, None]
    assert 0 <= linear_probe(x, Y, x, Y, c=1.0, allow_zeros=True).accuracy <= 1


def _embed(texts, role=None):
    """A vector that knows whether a text says "good", and its length."""
    return np.array([["good" in t, len(t) % 7, 1.0] for t in texts], np.float32)


def _texts(count, seed):
    rng = np.random.default_rng(seed)
    labels = (np.arange(count) % 2).tolist()
    words = ["a " * int(n) for n in rng.integers(1, 6, count)]
    return LabeledTexts(
        [
            w + ("good" if y else "bad") + f" {i}"
            for i, (w, y) in enumerate(zip(words, labels, strict=True))
        ],
        labels,
    )


@pytest.fixture
def sets(monkeypatch):
    """Data sets in memory."""
    texts = {split: _texts(60, i) for i, split in enumerate(("train", "validation", "test"))}
    pairs = {
        split: LabeledPairs(each.texts, each.texts[::-1], each.labels)
        for split, each in texts.items()
    }

    def load(kind, name, split):
        split = split or "test"
        if name == "mrpc":
            return pairs[split], split
        return (_texts(60, 9) if split == "all" else texts[split]), split

    monkeypatch.setattr(linear_probe_tasks, "load_split", load)
    monkeypatch.setattr(linear_probe_tasks.datasets, "available_splits", lambda name: [*texts])
    quick = functools.partial(cross_validated_probe, c=1.0, n_jobs=1)
    monkeypatch.setattr(linear_probe_tasks, "cross_validated_probe", quick)
    quick = functools.partial(linear_probe, folds=2, n_jobs=1)
    monkeypatch.setattr(linear_probe_tasks, "linear_probe", quick)
    return texts


@pytest.mark.parametrize("task", linear_probe_tasks.TASKS, ids=lambda task: task.name)
def test_tasks_give_a_headline_that_their_items_average_to(task, sets):
    result = task.run(_embed, None)
    assert result.metric == "accuracy"
    assert (
        result.score == result.scores["accuracy"] == pytest.approx(np.mean(result.items["correct"]))
    )
    assert len(result.items["correct"]) == result.size == 60
    assert result.score > 0.9 or task.name == "mrpc_linear_probe"
    assert result.split == ("all" if "c" in result.details and isinstance(result.details["c"], list)
                            else "test")  # fmt: skip
    assert {"senteval", "linear_probe"} <= set(task.groups)


def test_sst2_never_chooses_c_on_what_it_scores(sets):
    task = next(t for t in linear_probe_tasks.TASKS if t.name == "sst2_linear_probe")
    assert task.run(_embed, None).details["c chosen on"] == "validation"
    assert task.run(_embed, "validation").details["c chosen on"] == "10 folds of the training set"


def test_nested_tasks_take_senteval_s_order(sets, monkeypatch):
    seen = {}

    def probe(vectors, labels, **options):
        seen.update(vectors=vectors, labels=labels)
        return cross_validated_probe(vectors, labels, folds=2, c=1.0, **options)

    monkeypatch.setattr(linear_probe_tasks, "cross_validated_probe", probe)
    task = next(t for t in linear_probe_tasks.TASKS if t.name == "mr_linear_probe")
    task.run(_embed, None)
    data = _texts(60, 9)
    rows = sorted(range(60), key=lambda i: (len(data.texts[i].split()), data.labels[i]))
    np.testing.assert_array_equal(seen["labels"], np.array(data.labels)[rows])
    np.testing.assert_array_equal(seen["vectors"], _embed([data.texts[i] for i in rows]))
