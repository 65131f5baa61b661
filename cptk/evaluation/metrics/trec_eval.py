"""Measures of a ranking against judgements, by trec_eval's rules, in NumPy alone.

A run is query id -> document id -> score; judgements (qrels) are query id -> document id ->
relevance. The rules are trec_eval's (NIST, 9.0; `trec_eval.c`, `form_res_rels.c`, `m_*.c`):

- documents are ranked by falling score, and equal scores by falling document id; the scores are
  single precision there, so two that differ by less are equal;
- a document is relevant from relevance 1; one without a judgement is not relevant;
- a query without a relevant document scores 0 and counts in the mean;
- the gain of nDCG is the relevance itself (linear), not `2^relevance - 1`.

A judged query that the run leaves out scores 0 here (trec_eval's option `-c`); a query of the run
without judgements is passed over.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable, Iterable, Mapping
from typing import cast

import numpy as np
from numpy.typing import NDArray

from cptk import checks
from cptk.evaluation.metrics.ranks import cutoff

Qrels = Mapping[str, Mapping[str, int]]
Run = Mapping[str, Mapping[str, float]]
Gains = NDArray[np.float64]

# trec_eval keeps a counter for each level up to the highest.
HIGHEST_RELEVANCE = 1_000_000


def ndcg_at_k(qrels: Qrels, run: Run, k: int) -> dict[str, float]:
    """Normalised discounted cumulative gain of each judged query (trec_eval's `ndcg_cut`).

    `nDCG@k = sum_{i<=k} g_i / log2(i + 1)` over the same sum of the best possible ranking, with
    `g_i` the relevance of the i-th document, and 0 for what is not relevant.

    Args:
        qrels: query id -> document id -> relevance.
        run: query id -> document id -> score.
        k: number of documents that count.

    Returns:
        query id -> a float between 0 and 1.

    Raises:
        ValueError: if there is no judgement, a score is not finite, or `k` < 1.

    Example:

    ```pycon
    >>> from cptk.evaluation.metrics.trec_eval import ndcg_at_k
    >>> values = ndcg_at_k({"q": {"a": 2, "b": 1}}, {"q": {"b": 0.9, "a": 0.1}}, k=10)
    >>> round(values["q"], 4)  # (1 + 2 / log2(3)) / (2 + 1 / log2(3))
    0.8597

    ```

    Järvelin & Kekäläinen, 2002, Cumulated gain-based evaluation of IR techniques.
    """
    cut = cutoff(k)

    def measure(gains: Gains, ideal: Gains) -> float:
        return _dcg(gains[:cut]) / _dcg(ideal[:cut])

    return _per_query(qrels, run, measure)


def average_precision(qrels: Qrels, run: Run) -> dict[str, float]:
    """Average precision of each judged query; its mean over the queries is MAP (`map`).

    `AP = 1/R sum_{i: relevant} precision@i`, with R the number of relevant documents, ranked or
    not.

    Args:
        qrels: query id -> document id -> relevance.
        run: query id -> document id -> score.

    Returns:
        query id -> a float between 0 and 1.

    Raises:
        ValueError: if there is no judgement or a score is not finite.

    Example:

    ```pycon
    >>> from cptk.evaluation.metrics.trec_eval import average_precision
    >>> qrels, run = {"q": {"a": 1, "b": 1}}, {"q": {"a": 0.9, "c": 0.5, "b": 0.1}}
    >>> round(average_precision(qrels, run)["q"], 4)  # (1/1 + 2/3) / 2
    0.8333

    ```
    """

    def measure(gains: Gains, ideal: Gains) -> float:
        relevant = gains > 0
        precision = np.cumsum(relevant) / np.arange(1, len(gains) + 1)
        return float(precision[relevant].sum()) / len(ideal)

    return _per_query(qrels, run, measure)


def reciprocal_rank(qrels: Qrels, run: Run, k: int | None = None) -> dict[str, float]:
    """One over the rank of the first relevant document of each judged query, 0 if none is there.

    trec_eval's `recip_rank`; with `k`, of the first `k` documents, and its mean is MRR@k.

    Args:
        qrels: query id -> document id -> relevance.
        run: query id -> document id -> score.
        k: number of documents that count; `None` for all.

    Returns:
        query id -> a float between 0 and 1.

    Raises:
        ValueError: if there is no judgement, a score is not finite, or `k` < 1.

    Example:

    ```pycon
    >>> from cptk.evaluation.metrics.trec_eval import reciprocal_rank
    >>> qrels, run = {"q": {"a": 1}}, {"q": {"b": 0.9, "a": 0.1}}
    >>> reciprocal_rank(qrels, run)
    {'q': 0.5}
    >>> reciprocal_rank(qrels, run, k=1)
    {'q': 0.0}

    ```
    """
    cut = None if k is None else cutoff(k)

    def measure(gains: Gains, ideal: Gains) -> float:
        found = np.flatnonzero(gains[:cut] > 0)
        return 1.0 / float(found[0] + 1) if len(found) else 0.0

    return _per_query(qrels, run, measure)


def recall(qrels: Qrels, run: Run, k: int) -> dict[str, float]:
    """Share of each judged query's relevant documents that are among its first `k` (`recall`).

    Args:
        qrels: query id -> document id -> relevance.
        run: query id -> document id -> score.
        k: number of documents that count.

    Returns:
        query id -> a float between 0 and 1.

    Raises:
        ValueError: if there is no judgement, a score is not finite, or `k` < 1.

    Example:

    ```pycon
    >>> from cptk.evaluation.metrics.trec_eval import recall
    >>> recall({"q": {"a": 1, "b": 1}}, {"q": {"a": 0.9}}, k=10)
    {'q': 0.5}

    ```
    """
    cut = cutoff(k)
    return _per_query(qrels, run, lambda gains, ideal: float(np.sum(gains[:cut] > 0)) / len(ideal))


def success(qrels: Qrels, run: Run, k: int) -> dict[str, float]:
    """1 for each judged query that has a relevant document among its first `k`, else 0 (`success`).

    Args:
        qrels: query id -> document id -> relevance.
        run: query id -> document id -> score.
        k: number of documents that count.

    Returns:
        query id -> 0.0 or 1.0.

    Raises:
        ValueError: if there is no judgement, a score is not finite, or `k` < 1.

    Example:

    ```pycon
    >>> from cptk.evaluation.metrics.trec_eval import success
    >>> success({"q": {"a": 1, "b": 1}}, {"q": {"a": 0.9}}, k=1)
    {'q': 1.0}

    ```
    """
    cut = cutoff(k)
    return _per_query(qrels, run, lambda gains, ideal: float((gains[:cut] > 0).any()))


def ranked(scores: Mapping[str, float]) -> list[str]:
    """Document ids in trec_eval's order: by falling score, equal scores by falling id.

    A ranking that is cut is cut by the same rule: `retrieval` searches documents in falling order
    of their ids, as `top_k` keeps the first of equal ones.
    """
    return sorted(scores, key=lambda document: (np.float32(scores[document]), document))[::-1]


def checked_qrels(qrels: object) -> dict[str, dict[str, int]]:
    """Judgements as trec_eval takes them: ids are strings, relevances whole numbers.

    A relevance of `1.0`, as some BEIR folders have it, is taken for 1. Queries without a judgement
    are left out.

    Raises:
        TypeError: Not a mapping of mappings, an id that is no string, a relevance that is no
            number.
        ValueError: No judgement, or a relevance that is not whole or beyond a million.
    """
    checked = {}
    for query, judged in _mapping(qrels, "The judgements (qrels)").items():
        where = f"The judgements of query {checks.shown(query)}"
        levels = {
            _id(document, where): _relevance(relevance, where, document)
            for document, relevance in _mapping(judged, where).items()
        }
        if levels:
            checked[_id(query, "The judgements (qrels)")] = levels
    if not checked:
        raise ValueError("There is no judgement: nothing can be scored, as `qrels` is empty.")
    return checked


def checked_run(run: object, queries: Iterable[str]) -> dict[str, dict[str, float]]:
    """The ranking of each of these queries, its scores as floats; empty where it is not there.

    Raises:
        TypeError: Not a mapping of mappings, an id that is no string, a score that is no number.
        ValueError: A score that is not finite.
    """
    rankings = _mapping(run, "The run")
    checked = {}
    for query in queries:
        where = f"The ranking of query {query!r}"
        scores = cast(dict[str, float], dict(_mapping(rankings.get(query, {}), where)))
        if set(map(type, scores)) - {str} or set(map(type, scores.values())) - {float}:
            scores = {_id(d, where): _score(score, where) for d, score in scores.items()}
        # The sum takes a tenth of the time. Where it is finite, all the scores are.
        if not math.isfinite(sum(scores.values())) and not np.isfinite(list(scores.values())).all():
            raise ValueError(f"The scores of query {query!r} must be finite; some are not.")
        checked[query] = scores
    return checked


def _mapping(value: object, where: str) -> Mapping[object, object]:
    if not isinstance(value, Mapping):
        raise TypeError(
            f"{where} should be a mapping of ids. Received: {checks.shown(value)} of type "
            f"{type(value).__name__}."
        )
    return value


def _id(value: object, where: str) -> str:
    if not isinstance(value, str):
        raise TypeError(
            f"{where}: ids should be strings, as trec_eval has them. Received: "
            f"{checks.shown(value)} of type {type(value).__name__}. Take str(id) everywhere: in "
            "queries, corpus and judgements."
        )
    return str(value)


def _score(value: object, where: str) -> float:
    if not isinstance(value, numbers.Real):
        raise TypeError(f"{where} should hold numbers. Received: {checks.shown(value)}.")
    return float(value)


def _relevance(value: object, where: str, document: object) -> int:
    if not isinstance(value, numbers.Real):
        raise TypeError(
            f"{where}: a relevance should be a whole number. Received for document "
            f"{checks.shown(document)}: {checks.shown(value)} of type {type(value).__name__}."
        )
    level = float(value)
    if not level.is_integer() or abs(level) > HIGHEST_RELEVANCE:
        raise ValueError(
            f"{where}: a relevance should be a whole number of a million at most. Received for "
            f"document {checks.shown(document)}: {value}. Graded relevance is 0, 1, 2, ...: scale "
            "yours and round it."
        )
    return int(level)


def _per_query(
    qrels: Qrels, run: Run, measure: Callable[[Gains, Gains], float]
) -> dict[str, float]:
    values = {}
    judgements = checked_qrels(qrels)
    rankings = checked_run(run, judgements)
    for query, judged in judgements.items():
        scores = rankings[query]
        gains = np.array([max(judged.get(d, 0), 0) for d in ranked(scores)], dtype=np.float64)
        ideal = np.sort([r for r in judged.values() if r > 0])[::-1].astype(np.float64)
        values[query] = measure(gains, ideal) if len(ideal) else 0.0
    return values


def _dcg(gains: Gains) -> float:
    return float((gains / np.log2(np.arange(2, len(gains) + 2))).sum())
