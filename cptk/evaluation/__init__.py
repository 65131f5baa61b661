"""Evaluation of embedders; everything here needs only vectors, or something with `encode_text`."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from cptk.evaluation import code_search as _code_search
from cptk.evaluation import knn as _knn
from cptk.evaluation import linear_probe_tasks as _linear_probe_tasks
from cptk.evaluation import retrieval as _retrieval
from cptk.evaluation import similarity as _similarity
from cptk.evaluation import zero_shot as _zero_shot
from cptk.evaluation.bootstrap import bootstrap_interval, item_score, paired_bootstrap
from cptk.evaluation.cache import CachedEncoder
from cptk.evaluation.code_search import code_search
from cptk.evaluation.comparison import Comparison, compare
from cptk.evaluation.docstrings import strip_docstring
from cptk.evaluation.encoders import embed
from cptk.evaluation.knn import knn, knn_accuracies
from cptk.evaluation.linear_probe import cross_validated_probe, linear_probe, pair_features
from cptk.evaluation.metrics import (
    accuracy,
    f1,
    mrr,
    pearson,
    recall_at_k,
    retrieval_ranks,
    spearman,
)
from cptk.evaluation.report import Report
from cptk.evaluation.retrieval import beir_task, bm25, retrieval
from cptk.evaluation.runner import evaluate
from cptk.evaluation.search import top_k
from cptk.evaluation.similarity import similarity, similarity_scores
from cptk.evaluation.tasks import (
    Published,
    Task,
    TaskResult,
    find_tasks,
    list_groups,
    list_tasks,
    register_task,
)
from cptk.evaluation.zero_shot import zero_shot, zero_shot_vectors

if TYPE_CHECKING:
    from cptk.evaluation.callback import EvaluationCallback as EvaluationCallback

for _module in (
    _linear_probe_tasks,
    _zero_shot,
    _knn,
    _similarity,
    _retrieval,
    _code_search,
):
    for _task in _module.TASKS:
        register_task(_task)

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


def __getattr__(name: str) -> Any:
    if name == "EvaluationCallback":  # a keras.callbacks.Callback: it imports Keras
        return import_module("cptk.evaluation.callback").EvaluationCallback
    raise AttributeError(f"module 'cptk.evaluation' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
