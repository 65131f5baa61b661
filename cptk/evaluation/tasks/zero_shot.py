"""Zero-shot classification: the label whose text lies nearest."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cptk import checks
from cptk.datasets.records import LabeledTexts
from cptk.encoders import Embed, TextEncoder, check_vectors, embed
from cptk.evaluation.labels import label_array
from cptk.evaluation.tasks.published import SST2_PUBLISHED
from cptk.evaluation.tasks.registry import Task, TaskResult
from cptk.evaluation.tasks.splits import load_split
from cptk.search.exact import unit_rows

SST2_LABELS = ("negative", "positive")
"""The paper's bare labels, by class number."""
SST2_PROMPTS = tuple(f"this is an example of a {label} movie review." for label in SST2_LABELS)
"""The paper's prompts, by class number."""

Scores = NDArray[np.float64]


@dataclasses.dataclass(frozen=True)
class ZeroShotResult:
    """What zero-shot classification gives.

    Attributes:
        accuracy: The plain figure: share of texts whose nearest label is their own.
        predictions: (n,) class numbers.
        scores: (n, classes) cosines.
        calibrated_accuracy: The figure after calibration; `None` without it.
        calibrated_predictions: (n,) class numbers after calibration; `None` without it.
        offsets: (classes,) what calibration subtracts from each class's cosines; `None` without it.
    """

    accuracy: float
    predictions: NDArray[np.int64]
    scores: Scores
    calibrated_accuracy: float | None = None
    calibrated_predictions: NDArray[np.int64] | None = None
    offsets: Scores | None = None


def zero_shot(
    encoder: TextEncoder,
    texts: Sequence[str],
    labels: Sequence[int],
    label_texts: Sequence[str | Sequence[str]],
    *,
    calibration_texts: Sequence[str] | None = None,
    role: str | None = None,
    label_role: str | None = None,
) -> ZeroShotResult:
    """Classify texts by the cosine with their labels' texts, without any training.

    `class(x) = argmax_c cos(x, l_c)`; of equal cosines the lowest class wins. Where a class has
    several texts (a prompt ensemble), `l_c` is the mean of their unit vectors.

    Calibration, if asked for, subtracts from each class's cosines their mean over unlabelled
    texts: a label's text that lies near to everything no longer attracts everything. It supposes
    that the classes are about equally frequent among those texts, and it is reported apart.

    Args:
        encoder: Anything that `cptk.evaluation.embed` takes.
        texts: n texts.
        labels: n class numbers, from 0.
        label_texts: For each class its text, or several.
        calibration_texts: Unlabelled texts to calibrate on; `texts` themselves may be given.
        role: Role in which the encoder embeds texts.
        label_role: Role in which it embeds the labels' texts.

    Returns:
        A `ZeroShotResult`.

    Raises:
        ValueError: If there are fewer than two classes, a class has no text, lengths do not agree,
            a label is not a class number, or the encoder gives bad vectors.
        TypeError: If texts are not strings or labels not whole numbers.

    Example:

    ```pycon
    >>> from cptk.evaluation import zero_shot
    >>> def encode(texts):
    ...     return [[text.count("good"), text.count("bad"), 1.0] for text in texts]
    >>> label_texts = ["bad", ["good", "very good"]]
    >>> result = zero_shot(encode, ["a good film", "so bad"], [1, 0], label_texts)
    >>> result.predictions.tolist()
    [1, 0]
    >>> result.accuracy
    1.0

    ```

    Neelakantan et al. (2022), arXiv 2201.10005, on SST-2, for labels and the prompt; Radford et
    al. (2021), CLIP, section 3.1.4, for ensembles of prompts. The calibration is ours.
    """
    groups = _texts_by_class(label_texts)
    texts, calibration_is_texts = checks.texts(texts), calibration_texts is texts
    classes = _class_numbers(labels, len(texts), len(groups))
    if calibration_texts is not None and not calibration_is_texts:
        calibration_texts = checks.texts(calibration_texts, "calibration_texts")
    flat = [text for group in groups for text in group]
    starts = np.cumsum([0, *map(len, groups)])
    vectors = embed(encoder, flat, label_role)
    by_class = [vectors[a:b] for a, b in itertools.pairwise(starts)]
    embedded = embed(encoder, texts, role)
    calibration = None
    if calibration_texts is not None:
        calibration = embedded if calibration_is_texts else embed(encoder, calibration_texts, role)
    return zero_shot_vectors(
        embedded,
        classes,
        by_class,
        calibration_vectors=calibration,
        allow_zeros=True,  # `embed` has refused those of a trained encoder
    )


def zero_shot_vectors(
    vectors: ArrayLike,
    labels: ArrayLike,
    label_vectors: Sequence[ArrayLike],
    *,
    calibration_vectors: ArrayLike | None = None,
    allow_zeros: bool = False,
) -> ZeroShotResult:
    """`zero_shot` on vectors that are there already.

    Args:
        vectors: (n, d).
        labels: (n,) class numbers, from 0.
        label_vectors: For each class (d,) or, for an ensemble, (prompts, d).
        calibration_vectors: (m, d) vectors of unlabelled texts, or `None`.
        allow_zeros: Take vectors of zeros, whose cosine counts as 0 with all; refused otherwise.

    Returns:
        A `ZeroShotResult`.

    Raises:
        ValueError: As for `zero_shot`.
        TypeError: As for `zero_shot`.

    Example:

    ```pycon
    >>> from cptk.evaluation import zero_shot_vectors
    >>> result = zero_shot_vectors([[1.0, 0.1]], [0], [[1.0, 0.0], [0.0, 1.0]])
    >>> result.scores.round(4).tolist()
    [[0.995, 0.0995]]
    >>> result.accuracy
    1.0

    ```
    """
    if len(label_vectors) < 2:
        raise ValueError(f"There must be two classes or more. Received: {len(label_vectors)}.")
    texts = _checked_vectors(vectors, "`vectors`", allow_zeros)
    prototypes = np.concatenate(
        [_prototype(each, c, allow_zeros) for c, each in enumerate(label_vectors)]
    )
    classes = _class_numbers(labels, len(texts), len(prototypes))
    scores = _cosines(texts, prototypes)
    predictions = scores.argmax(axis=1)
    plain = ZeroShotResult(float(np.mean(predictions == classes)), predictions, scores)
    if calibration_vectors is None:
        return plain
    unlabelled = _checked_vectors(calibration_vectors, "`calibration_vectors`", allow_zeros)
    offsets = _cosines(unlabelled, prototypes).mean(axis=0)
    calibrated = (scores - offsets).argmax(axis=1)
    return dataclasses.replace(
        plain,
        calibrated_accuracy=float(np.mean(calibrated == classes)),
        calibrated_predictions=calibrated,
        offsets=offsets,
    )


def _cosines(texts: NDArray[np.float32], prototypes: Scores) -> Scores:
    if texts.shape[1] != prototypes.shape[1]:
        raise ValueError(
            "Texts and labels must have vectors of one size. "
            f"Received: {texts.shape[1]} and {prototypes.shape[1]}."
        )
    # One label at a time: equal labels then have equal cosines. In one matrix product the last bit
    # would depend on the label's place.
    unit = unit_rows(texts).astype(np.float64)
    return np.stack([np.vecdot(unit, prototype) for prototype in prototypes], axis=1)


def _prototype(vectors: ArrayLike, number: int, allow_zeros: bool) -> Scores:
    name = f"`label_vectors[{number}]`"
    prompts = unit_rows(_checked_vectors(np.atleast_2d(np.asarray(vectors)), name, allow_zeros))
    mean = prompts.astype(np.float64).mean(axis=0)
    length = np.linalg.norm(mean)
    if length < 1e-6 and not allow_zeros:
        raise ValueError(f"{name}: the prompts' unit vectors cancel out; their mean is zero.")
    return np.asarray(mean / max(length, 1e-12))[None]


def _checked_vectors(vectors: ArrayLike, name: str, allow_zeros: bool) -> NDArray[np.float32]:
    array = np.asarray(vectors)
    if not array.size:
        raise ValueError(f"{name} must not be empty. Received: shape={array.shape}.")
    return check_vectors(array, len(array) if array.ndim else 0, name, allow_zeros=allow_zeros)


def _class_numbers(labels: object, count: int, classes: int) -> NDArray[Any]:
    """(count,) class numbers below `classes`."""
    numbers = label_array(labels, "labels", "class numbers")
    if numbers.shape != (count,):
        raise ValueError(
            f"`labels` must hold one class number for each of the {count} texts. "
            f"Received: shape={numbers.shape}."
        )
    if numbers.dtype.kind not in "iub":
        raise TypeError(f"`labels` must be class numbers. Received: {checks.shown(numbers[0])}.")
    if numbers.min() < 0 or numbers.max() >= classes:
        raise ValueError(
            f"`labels` must be from 0 to {classes - 1}, as there are {classes} "
            f"classes. Received: {numbers.min()} to {numbers.max()}."
        )
    return numbers


def _texts_by_class(label_texts: Sequence[str | Sequence[str]]) -> list[list[str]]:
    if isinstance(label_texts, str):
        raise TypeError(
            "`label_texts` must hold a text, or several, for each class. Received: "
            f"{checks.shown(label_texts)}."
        )
    each_class = checks.items(label_texts, "label_texts", "texts, or lists of texts, by class")
    groups = [[each] if isinstance(each, str) else each for each in each_class]
    if len(groups) < 2 or any(hasattr(group, "__len__") and not len(group) for group in groups):
        raise ValueError(
            "`label_texts` must have two classes or more, and a text for each. "
            f"Received: {checks.shown(label_texts)}."
        )
    return [checks.texts(group, f"label_texts[{c}]") for c, group in enumerate(groups)]


def _task(name: str, label_texts: tuple[str, ...], what: str) -> Task:
    def run(embed: Embed, split: str | None) -> TaskResult:
        data, chosen = load_split(LabeledTexts, "sst2", split)
        result = zero_shot(
            embed, data.texts, data.labels, label_texts, calibration_texts=data.texts
        )
        assert result.calibrated_accuracy is not None
        assert result.offsets is not None
        right = result.predictions == np.asarray(data.labels)
        return TaskResult(
            metric="accuracy",
            score=result.accuracy,
            scores={
                "accuracy": result.accuracy,
                "accuracy_calibrated": result.calibrated_accuracy,
            },
            items={"correct": right.astype(float).tolist()},
            dataset="sst2",
            split=chosen,
            size=len(data),
            sha256=data.sha256,
            details={
                "label_texts": list(label_texts),
                "calibration": "cosines less their mean by class, over the scored texts unlabelled",
                "offsets": result.offsets.tolist(),
            },
        )

    described = f"SST-2, {what}: accuracy of the nearest."
    return Task(name, run, ("sst2", "zero_shot"), described, SST2_PUBLISHED)


TASKS = (
    _task("sst2_zero_shot", SST2_LABELS, "bare labels as texts"),
    _task("sst2_zero_shot_prompt", SST2_PROMPTS, "the paper's prompt around the labels"),
)
