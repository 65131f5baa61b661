"""Retrieval: queries, a corpus and judgements in BEIR's form, scored by trec_eval."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Mapping
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike

from cptk import checks, datasets, optional
from cptk.datasets.records import RetrievalData
from cptk.encoders import Embed, TextEncoder, Vectors, embed
from cptk.evaluation.metrics.trec_eval import checked_qrels
from cptk.evaluation.tasks.registry import Published, Task, TaskResult
from cptk.evaluation.tasks.splits import load_split
from cptk.evaluation.tasks.through_index import IndexSearch, NewIndex
from cptk.evaluation.tasks.trec_scores import MEASURES, trec_scores
from cptk.search import top_k

Search: TypeAlias = Callable[[Vectors, Vectors, int], tuple[ArrayLike, ArrayLike]]
"""`search(queries, documents, k)` -> scores and indices of the best documents, (n, k) each."""


def retrieval(
    encoder: TextEncoder,
    data: RetrievalData | str | os.PathLike[str],
    *,
    depth: int = 1000,
    ignore_identical_ids: bool = True,
    search: Search = top_k,
    index: NewIndex | None = None,
) -> dict[str, float]:
    """How well an encoder finds the judged documents: exact search by cosine, trec_eval's measures.

    Queries are embedded in the role `"query"`, documents in the role `"document"`; the `depth` best
    documents of each query are its ranking, as in BEIR.

    Args:
        encoder: Anything that embeds text (`cptk.evaluation.embed`).
        data: Queries, corpus and judgements; or a BEIR folder or a set's name, to be loaded.
        depth: Documents ranked for each query; BEIR's 1,000. MAP and MRR know no others.
        ignore_identical_ids: Leave the document out whose id is the query's own, as BEIR does
            (beir-cellar/beir, `retrieval/evaluation.py`): in ArguAna and Quora it is the query
            itself. Turn it off where the two kinds of id only happen to be numbered alike.
        search: `search(queries, documents, k)` -> scores and indices, (n, k) each: a library of
            your own, say.
        index: What to search through in place of that: a factory of FAISS's ("HNSW32"), or a
            function that makes an empty index (`lambda: cptk.search.Index(dtype="binary")`).

    Returns:
        `ndcg@10`, `map`, `mrr`, `mrr@10`, `recall@{1,10,100}` and `success@{1,5,10}`: the means
        over the judged queries. With `index` also what it missed: `index_recall@{10,100}`, the
        share of the documents that exact search has among its best 10 and 100.

    Raises:
        TypeError: If an id or a text is no string, or a relevance no number.
        ValueError: If a judgement names no document or no query of the set, nothing is judged, a
            relevance is not whole, a query is blank, every document is, or `depth` is below 1; or
            both `search` and `index` are given.
        FileNotFoundError: If `data` names a set that cannot be found.

    Example:

    ```pycon
    >>> from cptk.datasets import RetrievalData
    >>> from cptk.evaluation import retrieval
    >>> def encode(texts):
    ...     return [[text.count("sort"), text.count("open"), 1.0] for text in texts]
    >>> data = RetrievalData(
    ...     {"q": "how to sort", "r": "open and sort"},
    ...     {"a": "sorted(values)", "b": "open(path)", "c": "sorted(open(path))"},
    ...     {"q": {"a": 1}, "r": {"b": 1}},
    ... )
    >>> scores = retrieval(encode, data)
    >>> scores["recall@1"]  # "r" finds "c" first
    0.5
    >>> scores["recall@10"]
    1.0

    ```

    Thakur et al. 2021, BEIR, section 3.
    """
    through = None if index is None else IndexSearch(index)
    if through is not None and search is not top_k:
        raise ValueError("`search` should be left out where there is an `index` to search through.")
    data = _loaded(data)
    run = dense_run(
        encoder, data, depth=depth, ignore_identical_ids=ignore_identical_ids,
        search=search if through is None else through,
    )  # fmt: skip
    missed = {} if through is None else through.recall
    return {**_means(trec_scores(data.qrels, run)), **missed}


def bm25(
    data: RetrievalData | str | os.PathLike[str],
    *,
    depth: int = 1000,
    ignore_identical_ids: bool = True,
    k1: float = 1.5,
    b: float = 0.75,
) -> dict[str, float]:
    """The same figures for BM25, the yardstick that an embedder should be held against.

    Lucene's BM25 as the `bm25s` library computes it, over lower-cased words of two characters or
    more without English stop words, not stemmed. A document that shares no word with the query is
    not ranked. BEIR's own figures stem (Elasticsearch's English analyser): expect a point or two
    of difference in prose.

    Args:
        data: As for `retrieval`.
        depth: As for `retrieval`.
        ignore_identical_ids: As for `retrieval`.
        k1: Saturation of a word's count; `bm25s`'s default.
        b: Strength of the division by a document's length; `bm25s`'s default.

    Returns:
        The figures that `retrieval` returns.

    Raises:
        ValueError, ImportError: As for `retrieval`; if `bm25s` is not installed.

    Example:

    ```pycon
    >>> from cptk.datasets import RetrievalData
    >>> from cptk.evaluation import bm25
    >>> data = RetrievalData(
    ...     {"q": "sort values"},
    ...     {"a": "sort the values", "b": "open the path"},
    ...     {"q": {"a": 1}},
    ... )
    >>> bm25(data)["map"]
    1.0

    ```

    Robertson & Zaragoza 2009, The Probabilistic Relevance Framework; Lù 2024, BM25S.
    """
    data = _loaded(data)
    run = bm25_run(data, depth=depth, ignore_identical_ids=ignore_identical_ids, k1=k1, b=b)
    return _means(trec_scores(data.qrels, run))


def dense_run(
    encoder: TextEncoder,
    data: RetrievalData,
    *,
    depth: int = 1000,
    ignore_identical_ids: bool = True,
    search: Search = top_k,
) -> dict[str, dict[str, float]]:
    """The `depth` best documents of each judged query and their cosines; see `retrieval`.

    A blank document (Cranfield has two) cannot be embedded and is never found. Of documents with
    one score, those of the higher ids are kept at the cut, which is trec_eval's order of equal
    ones: the figures do not depend on the corpus's order. (A `search` of your own cuts as it does.)
    """
    depth = checks.integer("depth", depth, 1)
    data = _checked(data)
    queries, documents = list(data.qrels), [d for d, text in data.corpus.items() if text.strip()]
    if not documents:
        raise ValueError("Every document of the corpus is blank: there is nothing to find.")
    if search is top_k or isinstance(search, IndexSearch):  # which keep the first of equal scores
        documents.sort(reverse=True)
    asked = checks.texts([data.queries[query] for query in queries], "queries")
    found = [data.corpus[document] for document in documents]
    if not all(map(str.isascii, found)):
        checks.texts(found, "corpus")
    wanted = min(depth + bool(ignore_identical_ids), len(documents))
    vectors = embed(encoder, asked, role="query")
    if isinstance(search, IndexSearch):
        search.check(vectors.shape[1])
    scores, indices = search(vectors, embed(encoder, found, role="document"), wanted)
    return _as_run(queries, documents, scores, indices, depth, ignore_identical_ids)


def bm25_run(
    data: RetrievalData,
    *,
    depth: int = 1000,
    ignore_identical_ids: bool = True,
    k1: float = 1.5,
    b: float = 0.75,
) -> dict[str, dict[str, float]]:
    """BM25's ranking of each judged query; see `bm25`."""
    bm25s = optional.load("bm25s", "BM25", "bm25s", "eval")
    depth = checks.integer("depth", depth, 1)
    for name, value in (("k1", k1), ("b", b)):
        if not isinstance(value, int | float) or not 0 <= value < math.inf:
            raise ValueError(f"`{name}` should be a number of 0 or more. Received: {value!r}.")
    data = _checked(data)
    queries, documents = list(data.qrels), sorted(data.corpus, reverse=True)  # as `dense_run`
    quiet = {"show_progress": False}
    texts = [data.corpus[document] for document in documents]
    words = bm25s.tokenize(texts, stopwords="en", **quiet)
    if not words.vocab:
        return {query: {} for query in queries}
    index = bm25s.BM25(method="lucene", k1=k1, b=b)
    index.index(words, **quiet)
    asked = bm25s.tokenize(
        [data.queries[query] for query in queries], stopwords="en", return_ids=False, **quiet
    )
    wanted = min(depth + bool(ignore_identical_ids), len(documents))
    run: dict[str, dict[str, float]] = {}
    for query, tokens in zip(queries, asked, strict=True):
        scores = index.get_scores(tokens) if tokens else np.zeros(len(documents))
        best = np.argsort(-scores, kind="stable")[:wanted]
        best = best[scores[best] > 0]
        run |= _as_run([query], documents, [scores[best]], [best], depth, ignore_identical_ids)
    return run


def beir_task(
    data: str | os.PathLike[str],
    name: str | None = None,
    *,
    headline: str = "ndcg@10",
    groups: tuple[str, ...] = ("retrieval",),
    description: str | None = None,
    published: tuple[Published, ...] = (),
    ignore_identical_ids: bool = True,
    index: NewIndex | None = None,
) -> Task:
    r"""A task out of any set in BEIR's form, for `evaluate` and `register_task`.

    Args:
        data: The folder, or the name of a set that `cptk.datasets.load` knows.
        name: The task's name; the folder's if `None`, and with an `index` that of both
            ("scifact_HNSW32"; "scifact_index" where it is a function).
        headline: Which figure of `retrieval` is the task's score.
        groups: As for `Task`.
        description: As for `Task`.
        published: As for `Task`.
        ignore_identical_ids: As for `retrieval`.
        index: As for `retrieval`. What it missed is in `scores`.

    Returns:
        The task. Its details carry BM25's figures on the same split, where `bm25s` is installed.

    Raises:
        ValueError: If there is no such figure.

    Example:

    ```pycon
    >>> import pathlib, tempfile
    >>> from cptk.evaluation import beir_task, evaluate
    >>> folder = pathlib.Path(tempfile.mkdtemp())
    >>> documents = '{"_id": "a", "text": "sorted(x)"}\n{"_id": "b", "text": "open(x)"}\n'
    >>> (folder / "qrels").mkdir()
    >>> for name, text in {
    ...     "corpus.jsonl": documents,
    ...     "queries.jsonl": '{"_id": "q", "text": "how to sort"}\n',
    ...     "qrels/test.tsv": "query-id\tcorpus-id\tscore\nq\ta\t1\n",
    ... }.items():
    ...     size = (folder / name).write_text(text)
    >>> def encode(texts):
    ...     return [[text.count("sort"), text.count("open"), 1.0] for text in texts]
    >>> report = evaluate(encode, beir_task(folder, name="mine"))
    >>> report["mine"].metric, report["mine"].score
    ('ndcg@10', 1.0)

    ```
    """
    checks.choice("headline", headline, MEASURES)
    where = os.path.expanduser(os.fspath(data))
    given, name = name, name or os.path.basename(where.rstrip("/\\"))
    if index is not None:
        IndexSearch(index)  # a bad one is refused here
        if not given:  # another task than the exact one, beside which it may be asked for
            how = index if isinstance(index, str) else "index"
            name = f"{name}_{re.sub(r'[^0-9A-Za-z]+', '_', how)}"

    def run(embed: Embed, split: str | None) -> TaskResult:
        loaded, chosen = load_split(RetrievalData, where, split)
        through = None if index is None else IndexSearch(index)
        search: Search = top_k if through is None else through
        found = dense_run(embed, loaded, ignore_identical_ids=ignore_identical_ids, search=search)
        scores = trec_scores(loaded.qrels, found)
        return TaskResult(
            metric=headline,
            score=_means(scores)[headline],
            scores={**_means(scores), **({} if through is None else through.recall)},
            items={headline: list(scores[headline].values())},
            dataset=name,
            split=chosen,
            size=len(scores[headline]),
            sha256=loaded.sha256,
            details={
                "ignore_identical_ids": ignore_identical_ids,
                "documents": len(loaded.corpus),
                "blank_documents": sum(not text.strip() for text in loaded.corpus.values()),
                "bm25": _bm25_figures(loaded, ignore_identical_ids),
            },
        )

    how = "exact search by cosine"
    if index is not None:
        how = f"search through {index if isinstance(index, str) else 'an index'}"
    described = description or f"{name}: retrieval, {how}, {headline}."
    return Task(name, run, groups, described, published)


_BM25: dict[tuple[str, bool], dict[str, float]] = {}


def _bm25_figures(data: RetrievalData, ignore_identical_ids: bool) -> dict[str, float] | None:
    """BM25's figures on the same data, computed once in a process; `None` without `bm25s`."""
    key = (data.sha256, ignore_identical_ids)
    try:
        if key not in _BM25:
            _BM25[key] = bm25(data, ignore_identical_ids=ignore_identical_ids)
    except ImportError:
        return None
    return _BM25[key]


def _as_run(
    queries: list[str],
    documents: list[str],
    scores: ArrayLike,
    indices: ArrayLike,
    depth: int,
    ignore: bool,
) -> dict[str, dict[str, float]]:
    run: dict[str, dict[str, float]] = {}
    scores, indices = np.asarray(scores), np.asarray(indices)
    shapes = {scores.shape, indices.shape}
    if len(shapes) > 1 or scores.ndim != 2 or len(scores) != len(queries):
        raise ValueError(
            f"`search` should give scores and indices of one shape, ({len(queries)}, k). Received: "
            f"{scores.shape} and {indices.shape}."
        )
    if indices.size and (indices.dtype.kind not in "iu" or indices.max() >= len(documents)):
        raise ValueError(
            f"`search` should give indices below {len(documents)}. Received: dtype "
            f"{indices.dtype}, up to {indices.max()}."
        )
    for query, row, columns in zip(queries, scores.tolist(), indices.tolist(), strict=True):
        pairs = zip(columns, row, strict=True)
        kept = [
            (documents[i], s) for i, s in pairs if i >= 0 and not (ignore and documents[i] == query)
        ]
        run[query] = dict(kept[:depth])
    return run


def _means(scores: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    return {name: float(np.mean(list(values.values()))) for name, values in scores.items()}


def _loaded(data: object) -> RetrievalData:
    if isinstance(data, str | os.PathLike):
        data = datasets.load(os.path.expanduser(data))
    if not isinstance(data, RetrievalData):
        raise TypeError(
            "Retrieval needs a cptk.datasets.RetrievalData or a BEIR folder. "
            f"Received: {type(data).__name__}."
        )
    return data


def _checked(data: RetrievalData) -> RetrievalData:
    """The data as trec_eval takes it, with the judged queries alone, in the order of `queries`."""
    for name, texts in (("queries", data.queries), ("corpus", data.corpus)):
        if not isinstance(texts, Mapping):
            raise TypeError(
                f"`{name}` should map ids to texts. Received: {checks.shown(texts)} of type "
                f"{type(texts).__name__}."
            )
        for kind, values in (("ids", texts), ("texts", texts.values())):
            if set(map(type, values)) - {str}:
                checks.texts(list(values), f"the {kind} of {name}", allow_blank=True)
    qrels = checked_qrels(data.qrels)
    for query, judged in qrels.items():
        if query not in data.queries:
            raise ValueError(f"The judgements name query {query!r}, which has no text.")
        for document in judged:
            if document not in data.corpus:
                raise ValueError(
                    f"The judgements of query {query!r} name document {document!r}, which is "
                    f"not in the corpus of {len(data.corpus)}. Add the document or remove the line."
                )
    ordered = {query: qrels[query] for query in data.queries if query in qrels}
    return RetrievalData(data.queries, data.corpus, ordered)


TASKS = (
    # Its queries and its documents are numbered independently: query 225 and document 225 have
    # nothing to do with each other, and the one is judged relevant to the other.
    beir_task(
        "cranfield",
        description="Cranfield: 225 questions, 1,400 abstracts, exact search by cosine, nDCG@10.",
        ignore_identical_ids=False,
    ),
)
