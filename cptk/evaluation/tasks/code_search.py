"""Code search: from a docstring to the function that it was taken out of."""

from __future__ import annotations

import hashlib
import re
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cptk import checks, datasets
from cptk.datasets.records import CodePairs
from cptk.docstrings import LANGUAGES, strip_docstrings
from cptk.encoders import Embed, TextEncoder, embed
from cptk.evaluation.metrics import mrr, recall_at_k, retrieval_ranks
from cptk.evaluation.tasks.published import codesearchnet_published
from cptk.evaluation.tasks.registry import Task, TaskResult
from cptk.evaluation.tasks.retrieval import beir_task
from cptk.evaluation.tasks.splits import load_split
from cptk.search.exact import unit_rows

POOL = 1000
LARGE_POOL = 10_000
_MARKS = re.compile(r"^[ \t]*(?:/\*\*?|\*/|//+|\*(?!\*))[ \t]?|[ \t]*\*/[ \t]*$", re.M)


def code_search(encoder: TextEncoder, data: CodePairs) -> dict[str, float]:
    r"""CodeSearchNet's code search: the mean reciprocal rank of each docstring's own function.

    The published protocol (Husain et al. 2019, section 4.3; github/CodeSearchNet,
    `src/model_test.py`, lines 21 to 28 and 73 to 110): the pairs are shuffled with NumPy's seed 0
    and cut into pools of 1,000, an incomplete last one is left out, and each docstring is ranked
    against the functions of its own pool: 999 fixed distractors. Fewer than 1,000 pairs are one
    pool. A function that scores as high as the right one counts as ranked before it, so equal
    functions count against the encoder. The figures:

    - `mrr`: the above, a docstring looking for its function among 1,000 (the paper's Table 7).
    - `mrr_10000`: the same with one pool of all the pairs, the first 10,000 of the shuffled order
      at most (the harder setting, the paper's Table 8).
    - `mrr_reversed`: the pools of 1,000, a function looking for its docstring. CodeSearchNet's
      script ranks that way round, though its paper describes the other.
    - `recall@1`, `recall@10`: of the docstrings, in the pools of 1,000.

    The query is the docstring's summary, which is what CodeSearchNet makes its `docstring_tokens`
    from (`function_parser/parsers/commentutils.py`, `get_docstring_summary`); the function is
    embedded without its docstring (`strip_docstring`). A pair of which one side is then blank is
    left out. Queries are embedded in the role `"query"`, functions in the role `"document"`.

    Args:
        encoder: Anything that embeds text (`cptk.evaluation.embed`).
        data: Docstrings and functions of one language.

    Returns:
        Figures by name, between 0 and 1.

    Raises:
        TypeError: If a docstring or a function is no string.
        ValueError: If the lists differ in length, the language is unknown or no pair is left.
        ImportError: If tree-sitter or the language's grammar is not installed.

    Example:

    ```pycon
    >>> from cptk.datasets import CodePairs
    >>> from cptk.evaluation import code_search
    >>> def encode(texts):
    ...     return [[text.count("path"), text.count("+"), 1.0] for text in texts]
    >>> codes = [
    ...     'def read(path):\n    "Read a path."\n    return open(path).read()',
    ...     'def f(x):\n    "Add one: x + 1."\n    return x + 1',
    ... ]
    >>> data = CodePairs(["Read a path.", "Add one: x + 1."], codes, "python")
    >>> scores = code_search(encode, data)
    >>> scores["mrr"], scores["recall@1"]
    (1.0, 1.0)

    ```

    Neelakantan et al. 2022, Text and Code Embeddings by Contrastive Pre-Training, section 3.3.
    """
    return _search(encoder, data).scores


def summary(docstring: str) -> str:
    r"""The first paragraph of a docstring, or what stands before its first `@`.

    The rule is CodeSearchNet's (`get_docstring_summary`). Comment signs are taken off first, as in
    `strip_c_style_comment_delimiters`: published Go docstrings keep their `//`. Where nothing is
    left (a docstring that starts with `@param`), the summary is the whole docstring. (Ours.)

    Args:
        docstring: A docstring or documentation comment.

    Returns:
        Its summary.

    Example:

    ```pycon
    >>> from cptk.evaluation.tasks.code_search import summary
    >>> summary("Add one.\n\nArgs: x")
    'Add one.'
    >>> summary("// Add one. @param x")
    'Add one.'

    ```
    """
    text = _MARKS.sub("", docstring) if docstring.lstrip().startswith(("//", "/*")) else docstring
    text = text.strip()
    head = text.split("\n\n")[0] if "\n\n" in text else text.split("@")[0]
    return head.strip() or text


class _Found(NamedTuple):
    """What a search gave.

    Attributes:
        scores: Figures by name.
        reciprocal_ranks: For each docstring 1 / rank of its function; their mean is `mrr`.
        details: How many pairs there were, and what was done with them.
    """

    scores: dict[str, float]
    reciprocal_ranks: NDArray[np.float64]
    details: dict[str, int]


def _search(encoder: TextEncoder, data: CodePairs) -> _Found:
    if not isinstance(data, CodePairs):
        raise TypeError(
            f"`data` should be a cptk.datasets.CodePairs. Received: {checks.shown(data)}."
        )
    docstrings = checks.texts(data.docstrings, "docstrings", allow_blank=True)
    functions = checks.texts(data.codes, "codes", allow_blank=True)
    if len(docstrings) != len(functions):
        raise ValueError(
            "Code search needs one function for each docstring. Received "
            f"{len(docstrings)} docstrings and {len(functions)} functions."
        )
    codes = strip_docstrings(functions, data.language)
    pairs = [(summary(d), c) for d, c in zip(docstrings, codes.codes, strict=True)]
    kept = [(query, code) for query, code in pairs if query.strip() and code.strip()]
    if not kept:
        raise ValueError("No pair has both a docstring and code beside it: nothing to search.")
    order = np.arange(len(kept))
    np.random.RandomState(0).shuffle(order)
    queries, functions = (list(side) for side in zip(*(kept[i] for i in order), strict=True))
    query_vectors = _unit_vectors(encoder, queries, "query")
    code_vectors = _unit_vectors(encoder, functions, "document")
    size = min(POOL, len(kept))
    pools = [slice(start, start + size) for start in range(0, len(kept) - size + 1, size)]
    ranks = np.concatenate([retrieval_ranks(query_vectors[p], code_vectors[p]) for p in pools])
    reversed_ranks = np.concatenate(
        [retrieval_ranks(code_vectors[p], query_vectors[p]) for p in pools]
    )
    scores = {
        "mrr": mrr(ranks),
        "mrr_10000": mrr(retrieval_ranks(query_vectors[:LARGE_POOL], code_vectors[:LARGE_POOL])),
        "mrr_reversed": mrr(reversed_ranks),
        "recall@1": recall_at_k(ranks, 1),
        "recall@10": recall_at_k(ranks, 10),
    }
    details = {
        "pairs": len(data.codes),
        "blank_pairs": len(pairs) - len(kept),
        "pool": size,
        "pools": len(pools),
        "large_pool": min(LARGE_POOL, len(kept)),
        "docstrings_stripped": codes.stripped,
        "unparsed": codes.unparsed,
        "equal_docstrings": len(kept) - len(set(queries)),
        "equal_functions": len(kept) - len(set(functions)),
    }
    return _Found(scores, 1.0 / ranks, details)


def _unit_vectors(encoder: TextEncoder, texts: list[str], role: str) -> NDArray[np.float32]:
    """Unit vectors of texts; equal texts have the same vector, to the last bit."""
    rows = {text: row for row, text in enumerate(dict.fromkeys(texts))}
    return unit_rows(embed(encoder, list(rows), role=role))[[rows[text] for text in texts]]


def _language_task(language: str) -> Task:
    name = f"codesearchnet_{language}"

    def run(embed: Embed, split: str | None) -> TaskResult:
        data, chosen = load_split(CodePairs, name, split)
        found = _search(embed, data)
        return TaskResult(
            metric="mrr",
            score=found.scores["mrr"],
            scores=found.scores,
            items={"reciprocal_rank": found.reciprocal_ranks.tolist()},
            dataset=name,
            split=chosen,
            size=len(found.reciprocal_ranks),
            sha256=data.sha256,
            details=found.details,
        )

    described = f"CodeSearchNet, {language}: docstring to function among 1,000, MRR."
    return Task(name, run, ("code_search",), described, codesearchnet_published(language))


_LANGUAGE_TASKS = {language: _language_task(language) for language in LANGUAGES}


def _all_languages(embed: Embed, split: str | None) -> TaskResult:
    """The plain mean of the languages that are there; the details say which."""
    results = {}
    missing = None
    for language, task in _LANGUAGE_TASKS.items():
        if datasets.available_splits(task.name):
            results[language] = task.run(embed, split)
        else:
            missing = task
    if not results:
        assert missing is not None
        return missing.run(embed, split)  # downloads, or says what is missing
    # With these weights the mean over all items is the mean over the languages.
    total = sum(result.size for result in results.values())
    items = [
        value * total / (len(results) * result.size)
        for result in results.values()
        for value in result.items["reciprocal_rank"]
    ]
    names = next(iter(results.values())).scores
    scores = {n: float(np.mean([r.scores[n] for r in results.values()])) for n in names}
    splits = sorted({result.split for result in results.values()})
    hashes = "".join(result.sha256 for result in results.values())
    return TaskResult(
        metric="mrr",
        score=scores["mrr"],
        scores=scores | {f"mrr/{language}": r.score for language, r in results.items()},
        items={"reciprocal_rank": items},
        dataset="codesearchnet",
        split="+".join(splits),
        size=total,
        sha256=hashlib.sha256(hashes.encode()).hexdigest(),
        details={
            "languages": {language: dict(r.details) for language, r in results.items()},
            "languages_missing": [each for each in LANGUAGES if each not in results],
        },
    )


TASKS = (
    Task(
        "codesearchnet",
        _all_languages,
        ("code_search",),
        "CodeSearchNet: mean MRR of the languages that are there, 1,000 candidates.",
        codesearchnet_published(),
    ),
    *_LANGUAGE_TASKS.values(),
    # CoSQA as published: the functions keep their docstrings, and every function of the corpus is
    # a candidate. The rank of one beyond 1,000 counts as none, as in Microsoft's own script
    # (microsoft/CodeBERT, UniXcoder/downstream-tasks/code-search/run.py, `sort_id[:1000]`).
    beir_task(
        "cosqa",
        headline="mrr",
        groups=("code_search", "retrieval"),
        description="CoSQA: a web query to its Python function among all, MRR.",
    ),
)
