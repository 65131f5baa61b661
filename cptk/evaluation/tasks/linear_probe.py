"""The seven linear-probe tasks of SentEval that the paper reports, by name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cptk import datasets
from cptk.datasets.records import LabeledPairs, LabeledTexts
from cptk.encoders import Embed
from cptk.evaluation.folds import check_sets
from cptk.evaluation.metrics import f1
from cptk.evaluation.probe import (
    ProbeResult,
    cross_validated_probe,
    linear_probe,
    pair_features,
)
from cptk.evaluation.tasks.published import SST2_PUBLISHED
from cptk.evaluation.tasks.registry import Task, TaskResult
from cptk.evaluation.tasks.splits import load_split

Order = NDArray[np.int64]

# The folds of SentEval's published figures, and the default of the probes.
FOLDS = 10


def _senteval_order(labels: Sequence[int], *sides: Sequence[str]) -> Order:
    """SentEval's order of the rows, on which its folds depend: by words, then by label."""
    words = [[len(text.split()) for text in side] for side in sides]
    return np.lexsort([np.asarray(labels), *map(np.asarray, reversed(words))])


def _cross_validated(name: str) -> Callable[[Embed, str | None], TaskResult]:
    def run(embed: Embed, split: str | None) -> TaskResult:
        data, chosen = load_split(LabeledTexts, name, split or "all")
        check_sets(data, folds=FOLDS)
        order = _senteval_order(data.labels, data.texts)
        labels = np.asarray(data.labels)
        probe = cross_validated_probe(embed(data.texts)[order], labels[order], allow_zeros=True)
        right = probe.predictions == labels[order]
        # The figure is the mean of the folds' accuracies. A row of a small fold counts for more:
        # with these weights the mean over the rows is the figure.
        sizes = np.bincount(probe.folds)
        shares = np.empty(len(data))
        shares[order] = right * (len(data) / (len(sizes) * sizes[probe.folds]))
        return _result(name, chosen, data, probe, shares, {"c": list(probe.chosen)})

    return run


def _trec(embed: Embed, split: str | None) -> TaskResult:
    train, _ = load_split(LabeledTexts, "trec", "train")
    data, chosen = load_split(LabeledTexts, "trec", split)
    check_sets(train, data, folds=FOLDS)
    order = _senteval_order(train.labels, train.texts)
    probe = linear_probe(
        embed(train.texts)[order],
        np.asarray(train.labels)[order],
        embed(data.texts),
        data.labels,
        allow_zeros=True,
    )
    return _result_on_test_set("trec", chosen, data, probe, "10 folds of the training set")


def _mrpc(embed: Embed, split: str | None) -> TaskResult:
    train, _ = load_split(LabeledPairs, "mrpc", "train")
    data, chosen = load_split(LabeledPairs, "mrpc", split)
    check_sets(train, data, folds=FOLDS)
    order = _senteval_order(train.labels, train.first, train.second)
    probe = linear_probe(
        pair_features(embed(train.first), embed(train.second))[order],
        np.asarray(train.labels)[order],
        pair_features(embed(data.first), embed(data.second)),
        data.labels,
        allow_zeros=True,
    )
    harmonic = f1(data.labels, probe.predictions)
    return _result_on_test_set(
        "mrpc", chosen, data, probe, "10 folds of the training set", f1=harmonic
    )


def _sst2(embed: Embed, split: str | None) -> TaskResult:
    train, _ = load_split(LabeledTexts, "sst2", "train")
    data, chosen = load_split(LabeledTexts, "sst2", split)
    given: dict[str, Any] = {}
    chosen_on = "10 folds of the training set"
    if chosen != "validation" and "validation" in datasets.available_splits("sst2"):
        validation, chosen_on = load_split(LabeledTexts, "sst2", "validation")
        check_sets(train, data, validation)
        given = {
            "validation_vectors": embed(validation.texts),
            "validation_labels": validation.labels,
        }
    else:
        check_sets(train, data, folds=FOLDS)
    probe = linear_probe(
        embed(train.texts),
        train.labels,
        embed(data.texts),
        data.labels,
        allow_zeros=True,
        **given,
    )
    return _result_on_test_set("sst2", chosen, data, probe, chosen_on)


def _result_on_test_set(
    name: str,
    split: str,
    data: LabeledTexts | LabeledPairs,
    probe: ProbeResult,
    chosen_on: str,
    **more: float,
) -> TaskResult:
    right = (probe.predictions == np.asarray(data.labels)).astype(float)
    details = {"c": probe.chosen[0], "c chosen on": chosen_on}
    return _result(name, split, data, probe, right, details, **more)


def _result(
    name: str,
    split: str,
    data: LabeledTexts | LabeledPairs,
    probe: ProbeResult,
    shares: NDArray[np.float64],
    details: dict[str, Any],
    **more: float,
) -> TaskResult:
    scores = {"accuracy": probe.accuracy, **more}
    if probe.selection_accuracy is not None:
        scores["selection_accuracy"] = probe.selection_accuracy
    return TaskResult(
        metric="accuracy",
        score=probe.accuracy,
        scores=scores,
        items={"correct": shares.tolist()},
        dataset=name,
        split=split,
        size=len(data),
        sha256=data.sha256,
        details={"protocol": "SentEval, scikit-learn's logistic regression", **details},
    )


_NESTED = {
    "mr": "MR, movie reviews",
    "cr": "CR, product reviews",
    "subj": "SUBJ, subjectivity",
    "mpqa": "MPQA, polarity of opinions",
}
_GROUPS = ("senteval", "linear_probe")

TASKS = (
    *(
        Task(
            f"{name}_linear_probe",
            _cross_validated(name),
            _GROUPS,
            f"{what}: accuracy, nested 10-fold cross-validation.",
        )
        for name, what in _NESTED.items()
    ),
    Task(
        "sst2_linear_probe",
        _sst2,
        (*_GROUPS, "sst2"),
        "SST-2, whole sentences: accuracy, C chosen on the validation set.",
        SST2_PUBLISHED,
    ),
    Task(
        "trec_linear_probe",
        _trec,
        _GROUPS,
        "TREC, question types: accuracy, C chosen by 10-fold cross-validation.",
    ),
    Task(
        "mrpc_linear_probe",
        _mrpc,
        _GROUPS,
        "MRPC, paraphrases from |u - v| and u * v: accuracy (and F1), C by 10-fold "
        "cross-validation.",
    ),
)
