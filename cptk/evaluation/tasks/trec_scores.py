"""BEIR's measures of a run: by trec_eval where its binding is installed, in NumPy elsewhere."""

from collections.abc import Callable

from cptk.evaluation.metrics import trec_eval
from cptk.evaluation.metrics.trec_eval import Qrels, Run

# Our name of a measure -> trec_eval's name, and the function that computes it in NumPy.
_OF_TREC_EVAL: dict[str, tuple[str, Callable[[Qrels, Run], dict[str, float]]]] = {
    "ndcg@10": ("ndcg_cut.10", lambda q, r: trec_eval.ndcg_at_k(q, r, 10)),
    "map": ("map", trec_eval.average_precision),
    "mrr": ("recip_rank", trec_eval.reciprocal_rank),
    "recall@1": ("recall.1", lambda q, r: trec_eval.recall(q, r, 1)),
    "recall@10": ("recall.10", lambda q, r: trec_eval.recall(q, r, 10)),
    "recall@100": ("recall.100", lambda q, r: trec_eval.recall(q, r, 100)),
    "success@1": ("success.1", lambda q, r: trec_eval.success(q, r, 1)),
    "success@5": ("success.5", lambda q, r: trec_eval.success(q, r, 5)),
    "success@10": ("success.10", lambda q, r: trec_eval.success(q, r, 10)),
}

MEASURES = (*_OF_TREC_EVAL, "mrr@10")


def trec_scores(qrels: Qrels, run: Run) -> dict[str, dict[str, float]]:
    """Each measure of each judged query, by trec_eval itself.

    The binding is `pytrec_eval-terrier`: it compiles NIST's C code, is kept by the makers of
    PyTerrier and ir-measures (which calls it in turn), is what mteb uses, and needs only NumPy and
    SciPy; ranx is an implementation of its own with a dozen dependencies. Where it is not
    installed, `cptk.evaluation.metrics.trec_eval` computes the same numbers in NumPy. MRR@10, which
    trec_eval does not have, is its `recip_rank` of the first ten documents.

    Args:
        qrels: query id -> document id -> relevance.
        run: query id -> document id -> score; a judged query that is not in it scores 0.

    Returns:
        measure -> query id -> value.

    Raises:
        TypeError: If an id is no string, or a relevance or score no number.
        ValueError: If there is no judgement, a relevance is not whole or a score is not finite.

    Example:

    ```pycon
    >>> from cptk.evaluation.tasks.trec_scores import trec_scores
    >>> scores = trec_scores({"q": {"a": 1}}, {"q": {"a": 0.5, "b": 0.9}})
    >>> scores["mrr"]
    {'q': 0.5}
    >>> scores["recall@1"], scores["recall@10"]
    ({'q': 0.0}, {'q': 1.0})

    ```
    """
    judged = trec_eval.checked_qrels(qrels)
    full = trec_eval.checked_run(run, judged)
    first = {q: {d: scores[d] for d in trec_eval.ranked(scores)[:10]} for q, scores in full.items()}
    try:
        import pytrec_eval
    except ImportError:
        values = {name: numpy(judged, full) for name, (_, numpy) in _OF_TREC_EVAL.items()}
        return values | {"mrr@10": trec_eval.reciprocal_rank(judged, first)}
    names = {name: theirs.replace(".", "_") for name, (theirs, _) in _OF_TREC_EVAL.items()}
    evaluator = pytrec_eval.RelevanceEvaluator(
        judged, {theirs for theirs, _ in _OF_TREC_EVAL.values()}
    )
    scored = evaluator.evaluate(full)
    tens = pytrec_eval.RelevanceEvaluator(judged, {"recip_rank"}).evaluate(first)
    values = {name: {q: scored[q][theirs] for q in judged} for name, theirs in names.items()}
    return values | {"mrr@10": {q: tens[q]["recip_rank"] for q in judged}}
