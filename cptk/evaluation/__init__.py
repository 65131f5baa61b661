"""Evaluation of embedders; everything here needs only vectors, or something with `encode_text`."""

from cptk.evaluation.metrics import mrr, recall_at_k, retrieval_ranks

__all__ = ["mrr", "recall_at_k", "retrieval_ranks"]
