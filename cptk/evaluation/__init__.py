"""Evaluation of embedders; everything here needs only vectors, or something with `encode_text`."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from cptk.docstrings import strip_docstring
from cptk.encoders import embed
from cptk.evaluation.cache import CachedEncoder
from cptk.evaluation.comparison import Comparison, compare
from cptk.evaluation.metrics import (
    accuracy,
    bootstrap_interval,
    f1,
    item_score,
    mrr,
    paired_bootstrap,
    pearson,
    recall_at_k,
    retrieval_ranks,
    spearman,
)
from cptk.evaluation.probe import cross_validated_probe, linear_probe, pair_features
from cptk.evaluation.report import Report
from cptk.evaluation.runner import evaluate
from cptk.evaluation.tasks.code_search import code_search
from cptk.evaluation.tasks.knn import knn, knn_accuracies
from cptk.evaluation.tasks.registry import (
    Published,
    Task,
    TaskResult,
    find_tasks,
    list_groups,
    list_tasks,
    register_task,
)
from cptk.evaluation.tasks.retrieval import beir_task, bm25, retrieval
from cptk.evaluation.tasks.similarity import similarity, similarity_scores
from cptk.evaluation.tasks.zero_shot import zero_shot, zero_shot_vectors
from cptk.search import top_k

if TYPE_CHECKING:
    from cptk.evaluation.callback import EvaluationCallback as EvaluationCallback

__all__ = [
    "CachedEncoder",
    "Comparison",
    "EvaluationCallback",
    "Published",
    "Report",
    "Task",
    "TaskResult",
    "accuracy",
    "beir_task",
    "bm25",
    "bootstrap_interval",
    "code_search",
    "compare",
    "cross_validated_probe",
    "embed",
    "evaluate",
    "f1",
    "find_tasks",
    "item_score",
    "knn",
    "knn_accuracies",
    "linear_probe",
    "list_groups",
    "list_tasks",
    "mrr",
    "pair_features",
    "paired_bootstrap",
    "pearson",
    "recall_at_k",
    "register_task",
    "retrieval",
    "retrieval_ranks",
    "similarity",
    "similarity_scores",
    "spearman",
    "strip_docstring",
    "top_k",
    "zero_shot",
    "zero_shot_vectors",
]


def __getattr__(name: str) -> type[EvaluationCallback]:
    if name == "EvaluationCallback":  # a keras.callbacks.Callback: it imports Keras
        callback: type[EvaluationCallback]
        callback = import_module("cptk.evaluation.callback").EvaluationCallback
        return callback
    raise AttributeError(f"module 'cptk.evaluation' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
