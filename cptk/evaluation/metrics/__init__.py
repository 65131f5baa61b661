"""Metrics over ranks, labels and scores, and their intervals; all in NumPy alone."""

from cptk.evaluation.metrics.bootstrap import bootstrap_interval, item_score, paired_bootstrap
from cptk.evaluation.metrics.classification import accuracy, f1
from cptk.evaluation.metrics.correlation import pearson, spearman
from cptk.evaluation.metrics.ranks import mrr, recall_at_k, retrieval_ranks

__all__ = [
    "accuracy",
    "bootstrap_interval",
    "f1",
    "item_score",
    "mrr",
    "paired_bootstrap",
    "pearson",
    "recall_at_k",
    "retrieval_ranks",
    "spearman",
]
