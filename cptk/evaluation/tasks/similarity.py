"""Sentence similarity: how well the cosine of two sentences follows people's scores."""

from __future__ import annotations

import numbers
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cptk import checks
from cptk.datasets.records import ScoredPairs
from cptk.encoders import Embed, TextEncoder, check_vectors, embed
from cptk.evaluation.metrics import pearson, spearman
from cptk.evaluation.tasks.registry import Task, TaskResult
from cptk.evaluation.tasks.splits import load_split


def similarity(encoder: TextEncoder, data: ScoredPairs) -> dict[str, float]:
    """Spearman's and Pearson's correlation of the pairs' cosines with the gold scores.

    Both sides are embedded in the encoder's default role (each distinct sentence once): the task is
    symmetric.

    Args:
        encoder: Anything that embeds text (`cptk.evaluation.embed`).
        data: Pairs with a score each, from `cptk.datasets.load("stsb")` or your own.

    Returns:
        Figures by name, see `similarity_scores`.

    Raises:
        TypeError: If a sentence is no string, or a score no number.
        ValueError: If the lists differ in length, a sentence is blank, a score is not finite, or
            the whole or a subset has fewer than two pairs.

    Example:

    ```pycon
    >>> from cptk.datasets import ScoredPairs
    >>> from cptk.evaluation import similarity
    >>> def encode(texts):
    ...     return [[text.count("cat"), text.count("rain"), 1.0] for text in texts]
    >>> pairs = ScoredPairs(
    ...     ["a cat", "a cat", "rain"],
    ...     ["the cat", "a lorry", "my cat"],  # cosines 1, 0.71 and 0.5
    ...     [5.0, 1.0, 0.0],
    ...     ["mine", "mine", "mine"],
    ... )
    >>> scores = similarity(encode, pairs)
    >>> round(scores["spearman"], 4)
    1.0
    >>> round(scores["pearson"], 4)
    0.9726

    ```
    """
    checked = _checked(data)
    cosines = pair_cosines(*_side_vectors(encoder, checked))
    return similarity_scores(cosines, checked.scores, checked.subsets)


def similarity_scores(
    predicted: ArrayLike, gold: ArrayLike, subsets: Sequence[str] | None = None
) -> dict[str, float]:
    """The correlations of predicted with gold similarities, in every convention in use.

    - `spearman`, `pearson`: over all pairs, the subsets put together ("all"). SimCSE reports
      STS12-16 so (Gao et al. 2021, appendix B: Spearman, "all"), and so does mteb, which ships each
      year as one list.
    - `spearman_mean`, `pearson_mean`: the plain mean over the subsets (SentEval's `mean`).
    - `spearman_wmean`, `pearson_wmean`: the mean weighted by the subsets' sizes: SentEval's `wmean`
      and, with Pearson, SemEval's own ranking ("weighted mean", Agirre et al. 2012 to 2016).
    - `spearman/<subset>`, `pearson/<subset>`: of each subset.

    The last three only where there are two or more subsets. Correlations are not averaged in
    Fisher's z. A correlation with a constant is NaN, and so is a mean it enters.

    Args:
        predicted: (n,) similarities of the pairs.
        gold: (n,) scores by people; their scale does not matter.
        subsets: n names of the part that a pair belongs to; `None` for one part.

    Returns:
        Figures by name, between -1 and 1.

    Raises:
        ValueError: If the lists differ in length, a value is not finite, or the whole or a subset
            has fewer than two pairs.

    Example:

    ```pycon
    >>> from cptk.evaluation import similarity_scores
    >>> scores = similarity_scores([0.9, 0.1, 0.5], [5.0, 0.0, 2.0])
    >>> {name: round(score, 4) for name, score in scores.items()}
    {'spearman': 1.0, 'pearson': 0.9934}

    ```

    SentEval: facebookresearch/SentEval, `senteval/sts.py`, `STSEval.run`.
    """
    first, second = np.asarray(predicted), np.asarray(gold)
    scores = {"spearman": spearman(first, second), "pearson": pearson(first, second)}
    names = np.asarray(_subsets(len(first), subsets))
    parts = list(dict.fromkeys(names.tolist()))
    if len(parts) < 2:
        return scores
    sizes = [int(np.sum(names == part)) for part in parts]
    for metric, function in (("spearman", spearman), ("pearson", pearson)):
        values = [function(first[names == part], second[names == part]) for part in parts]
        scores[f"{metric}_mean"] = float(np.mean(values))
        scores[f"{metric}_wmean"] = float(np.average(values, weights=sizes))
        scores |= {f"{metric}/{part}": value for part, value in zip(parts, values, strict=True)}
    return scores


def pair_cosines(first: ArrayLike, second: ArrayLike) -> NDArray[np.float64]:
    """Cosine of each row of `first` with the same row of `second`, in double precision.

    A row of zeros (a bag of words that knows none of the words) has cosine 0, as SentEval has it.

    Args:
        first: (n, d) vectors.
        second: (n, d) vectors.

    Returns:
        (n,) cosines.

    Raises:
        TypeError: If they are not numbers.
        ValueError: If the shapes differ or a value is not finite.

    Example:

    ```pycon
    >>> from cptk.evaluation.tasks.similarity import pair_cosines
    >>> pair_cosines([[1.0, 0.0], [0.0, 2.0]], [[1.0, 1.0], [0.0, 1.0]]).round(4).tolist()
    [0.7071, 1.0]

    ```
    """
    u, v = np.asarray(first), np.asarray(second)
    if u.shape != v.shape:
        raise ValueError(
            f"`first` and `second` must have one shape. Received: {u.shape} and {v.shape}."
        )
    u, v = (
        check_vectors(side, len(side) if side.ndim else 0, name, allow_zeros=True).astype(
            np.float64
        )
        for side, name in ((u, "`first`"), (v, "`second`"))
    )
    lengths = np.linalg.norm(u, axis=1) * np.linalg.norm(v, axis=1)
    return np.asarray((u * v).sum(axis=1) / np.where(lengths == 0, 1.0, lengths))


def _subsets(count: int, subsets: Sequence[str] | None) -> list[str]:
    """The subset of each pair, checked; each of several has two pairs or more."""
    if subsets is None:
        return ["all"] * count
    names = checks.items(subsets, "subsets", "names")
    if len(names) != count:
        raise ValueError(
            f"`subsets` must name the subset of each of the {count} pairs. "
            f"Received {len(names)} names."
        )
    sizes = Counter(names)
    part, size = min(sizes.items(), key=lambda each: each[1])
    if len(sizes) > 1 and size < 2:
        raise ValueError(
            f"Each subset needs two or more pairs for a correlation. {part!r} has {size}."
        )
    return names


def _checked(data: object) -> ScoredPairs:
    """The pairs as lists, before anything is embedded."""
    if not isinstance(data, ScoredPairs):
        raise TypeError(
            f"`data` should be a cptk.datasets.ScoredPairs. Received: {checks.shown(data)}."
        )
    first, second = checks.texts(data.first, "first"), checks.texts(data.second, "second")
    scores = checks.items(data.scores, "scores", "numbers")
    subsets = checks.items(data.subsets, "subsets", "names")
    sizes = [len(first), len(second), len(scores), len(subsets)]
    if len(set(sizes)) > 1:
        raise ValueError(
            "A pair needs two sentences, a score and a subset. Received "
            f"{sizes[0]}, {sizes[1]}, {sizes[2]} and {sizes[3]}."
        )
    for score in scores:
        if not isinstance(score, numbers.Real):
            raise TypeError(f"A pair's score should be a number. Received: {checks.shown(score)}.")
    if not np.isfinite(scores).all():
        raise ValueError("A pair's score is not finite; leave unscored pairs out.")
    if len(scores) < 2:
        raise ValueError("A correlation needs two pairs or more. Received one.")
    return ScoredPairs(first, second, scores, _subsets(len(scores), subsets))


def _side_vectors(encoder: TextEncoder, data: ScoredPairs) -> tuple[NDArray[Any], NDArray[Any]]:
    rows = {text: row for row, text in enumerate(dict.fromkeys([*data.first, *data.second]))}
    vectors = embed(encoder, list(rows))
    return vectors[[rows[t] for t in data.first]], vectors[[rows[t] for t in data.second]]


def _task(name: str, what: str) -> Task:
    def run(embed: Embed, split: str | None) -> TaskResult:
        data, chosen = load_split(ScoredPairs, name, split)
        data = _checked(data)
        predicted = pair_cosines(*_side_vectors(embed, data))
        scores = similarity_scores(predicted, data.scores, data.subsets)
        subsets = list(dict.fromkeys(data.subsets))
        return TaskResult(
            metric="spearman",
            score=scores["spearman"],
            scores=scores,
            items={"predicted": predicted.tolist(), "gold": list(data.scores)},
            dataset=name,
            split=chosen,
            size=len(data),
            sha256=data.sha256,
            details={
                "convention": "Spearman over all pairs together, as SimCSE and mteb report it",
                "subsets": {part: data.subsets.count(part) for part in subsets},
            },
        )

    return Task(name, run, ("sts",), f"{what}: Spearman of the cosines.")


TASKS = (
    *(_task(f"sts{year}", f"SemEval STS 20{year}, all subsets together") for year in range(12, 17)),
    _task("stsb", "STS benchmark"),
    _task("sick", "SICK relatedness (SICK-R)"),
)
