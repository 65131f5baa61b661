"""Accuracy against k, learning curves, reliability, ROC and the confusion matrix."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cptk import checks
from cptk.visualization.axes import COLOURS, GREY, axes_or_new, draw_grid, look_of, numbers, series

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def accuracy_against_k(
    ks: Sequence[int], accuracies: ArrayLike | Mapping[str, ArrayLike], *, ax: Axes | None = None
) -> Axes:
    """Accuracy of k-NN against the number of neighbours.

    Args:
        ks: n numbers of neighbours.
        accuracies: n accuracies (fractions), or such lists by name.
        ax: Axes to draw on.

    Returns:
        The axes.

    Raises:
        ValueError: Lists of unequal length, or values that are not finite numbers.

    Example:

    ```pycon
    >>> import cptk
    >>> axes = cptk.visualization.accuracy_against_k(
    ...     [1, 16, 256], {"raw": [0.6, 0.7, 0.7], "trained": [0.7, 0.8, 0.8]}
    ... )
    >>> axes.get_xlabel(), axes.get_ylabel()
    ('neighbours k', 'accuracy (%)')
    >>> [text.get_text() for text in axes.get_legend().get_texts()]
    ['raw', 'trained']

    ```
    """
    return _curves(ks, accuracies, "neighbours k", "accuracy (%)", ax, scale=100.0)


def learning_curve(
    sizes: ArrayLike,
    scores: ArrayLike | Mapping[str, ArrayLike],
    *,
    xlabel: str = "labelled training examples",
    ylabel: str = "accuracy (%)",
    log: bool = True,
    ax: Axes | None = None,
) -> Axes:
    """Score against the number of examples or steps.

    The learning curve of a probe, for example, or how tasks move during training.

    Args:
        sizes: n numbers of examples.
        scores: n scores (fractions); or (repetitions, n), drawn as mean and range; or by name.
        xlabel: Of the horizontal axis.
        ylabel: Of the vertical axis.
        log: Whether the horizontal axis is logarithmic.
        ax: Axes to draw on.

    Returns:
        The axes.

    Raises:
        ValueError: Lists of unequal length, or values that are not finite numbers.

    Example:

    ```pycon
    >>> import cptk
    >>> axes = cptk.visualization.learning_curve([100, 1000, 6920], [0.70, 0.80, 0.86])
    >>> axes.get_xlabel()
    'labelled training examples'
    >>> axes.lines[0].get_ydata().round(1).tolist()
    [70.0, 80.0, 86.0]

    ```
    """
    return _curves(sizes, scores, xlabel, ylabel, ax, scale=100.0, log=log)


def _curves(
    x: ArrayLike,
    ys: ArrayLike | Mapping[str, ArrayLike],
    xlabel: str,
    ylabel: str,
    ax: Axes | None,
    scale: float,
    log: bool = True,
) -> Axes:
    places = numbers(x, "The horizontal values")
    if places.ndim != 1:
        raise ValueError(f"The horizontal values must be a flat list. Received: {places.shape}.")
    curves = series(ys, len(places))
    ax = axes_or_new(ax)
    order = np.argsort(places)
    for number, (name, curve) in enumerate(curves.items()):
        runs = scale * np.atleast_2d(curve)[:, order]
        look = look_of(number)
        ax.plot(places[order], runs.mean(axis=0), **look, markersize=4, label=name or None)
        if len(runs) > 1:
            ends = runs.min(axis=0), runs.max(axis=0)
            ax.fill_between(places[order], *ends, color=look["color"], alpha=0.15, linewidth=0)
    if log and places.min() > 0:
        ax.set_xscale("log")
        if len(places) <= 12:
            ax.set_xticks(places[order], [f"{place:,.6g}" for place in places[order]])
            ax.minorticks_off()
    draw_grid(ax)
    ax.set(xlabel=xlabel, ylabel=ylabel)
    if any(curves):
        ax.legend(frameon=False)
    return ax


def expected_calibration_error(confidences: ArrayLike, correct: ArrayLike, bins: int = 10) -> float:
    r"""How far confidence is from accuracy, on average.

    $$ \mathrm{ECE} = \sum_b \tfrac{n_b}{n} \lvert \mathrm{acc}_b - \mathrm{conf}_b \rvert $$

    over equal bins of confidence, the right end in the bin.

    Args:
        confidences: (n,) probabilities of the predicted classes.
        correct: (n,) whether the predictions are right.
        bins: Number of bins.

    Returns:
        A fraction.

    Raises:
        ValueError: Unequal lengths, or a confidence outside [0, 1].

    Example:

    ```pycon
    >>> import cptk
    >>> round(cptk.visualization.expected_calibration_error([0.9, 0.9], [True, False]), 4)
    0.4

    ```

    Guo et al. 2017, On Calibration of Modern Neural Networks, equation 3.
    """
    share, accuracy, confidence = _bins(confidences, correct, bins)
    return float(np.sum(share * np.abs(accuracy - confidence)))


def reliability(
    confidences: ArrayLike, correct: ArrayLike, *, bins: int = 10, ax: Axes | None = None
) -> Axes:
    """Accuracy against confidence: on the diagonal a classifier is as sure as it is right.

    Args:
        confidences: (n,) probabilities of the predicted classes; for zero-shot, for example, the
            softmax of the cosines over a temperature.
        correct: (n,) whether the predictions are right.
        bins: Number of equal bins of confidence.
        ax: Axes to draw on.

    Returns:
        The axes; the title has the expected calibration error.

    Raises:
        ValueError: As `expected_calibration_error`.

    Example:

    ```pycon
    >>> import cptk
    >>> axes = cptk.visualization.reliability([0.9, 0.8, 0.6], [True, True, False])
    >>> axes.get_title()  # (0.1 + 0.2 + 0.6) / 3
    'expected calibration error 30.0%'

    ```

    Guo et al. 2017, On Calibration of Modern Neural Networks, figure 1.
    """
    share, accuracy, confidence = _bins(confidences, correct, bins)
    ax = axes_or_new(ax, 4.5, 4.5)
    used = share > 0
    places = (np.arange(bins) + 0.5) / bins
    ax.bar(places[used], accuracy[used], 0.94 / bins, color=COLOURS[5], label="accuracy of the bin")
    ax.plot([0, 1], [0, 1], color=GREY, linestyle="--", linewidth=1, label="as sure as right")
    ax.scatter(
        confidence[used], accuracy[used], s=10 + 150 * share[used], color=COLOURS[0], zorder=3,
        label="mean confidence (area: share of texts)", clip_on=False,
    )  # fmt: skip
    ax.set(xlim=(0, 1), ylim=(0, 1), xlabel="confidence", ylabel="accuracy", aspect="equal")
    error = expected_calibration_error(confidences, correct, bins)
    ax.set_title(f"expected calibration error {100 * error:.1f}%", pad=10)
    ax.legend(frameon=False, fontsize="small", loc="upper center", bbox_to_anchor=(0.5, -0.14))
    return ax


def _bins(
    confidences: ArrayLike, correct: ArrayLike, bins: int
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Share, accuracy and mean confidence of each bin."""
    sure, right = numbers(confidences, "`confidences`"), numbers(correct, "`correct`")
    if sure.ndim != 1 or sure.shape != right.shape or not set(np.unique(right)) <= {0.0, 1.0}:
        raise ValueError(
            "`confidences` and `correct` must be flat lists of one length, `correct` of booleans. "
            f"Received shapes {sure.shape} and {right.shape}."
        )
    if sure.min() < 0 or sure.max() > 1:
        raise ValueError(
            f"`confidences` must be from 0 to 1. Received {sure.min()} to {sure.max()}; take the "
            "softmax of the scores first."
        )
    bins = checks.integer("bins", bins, 1)
    edges = np.linspace(0.0, 1.0, bins + 1)
    index = np.clip(np.searchsorted(edges, sure, side="left") - 1, 0, bins - 1)
    counts = np.bincount(index, minlength=bins)
    many = np.maximum(counts, 1)
    accuracy = np.bincount(index, right, bins) / many
    return counts / len(sure), accuracy, np.bincount(index, sure, bins) / many


def roc(
    labels: ArrayLike, scores: ArrayLike | Mapping[str, ArrayLike], *, ax: Axes | None = None
) -> Axes:
    """True against false positives, over all thresholds; the legend has the area under it.

    Args:
        labels: (n,) 1 for positive and 0 for negative.
        scores: (n,) scores, higher for positive, or such lists by name.
        ax: Axes to draw on.

    Returns:
        The axes.

    Raises:
        ValueError: Labels that are not both 0 and 1, or lists of unequal length.

    Example:

    ```pycon
    >>> import cptk
    >>> axes = cptk.visualization.roc([0, 0, 1, 1], {"zero-shot": [0.1, 0.4, 0.35, 0.8]})
    >>> axes.get_legend().get_texts()[0].get_text()
    'zero-shot: area 0.750'

    ```

    Fawcett 2006, An introduction to ROC analysis, algorithm 1.
    """
    gold = numbers(labels, "`labels`")
    if gold.ndim != 1 or set(np.unique(gold)) != {0.0, 1.0}:
        raise ValueError(
            "`labels` must be a flat list of 0 and 1, both of them. Received: "
            f"{np.unique(gold)[:5]}."
        )
    curves = series(scores, len(gold))
    ax = axes_or_new(ax, 4.5, 4.5)
    for number, (name, values) in enumerate(curves.items()):
        order = np.argsort(-values, kind="stable")
        # One point for each distinct score: equal scores fall under one threshold.
        last = np.append(np.flatnonzero(np.diff(values[order])), len(gold) - 1)
        true = np.append(0, np.cumsum(gold[order])[last]) / gold.sum()
        false = np.append(0, np.cumsum(1 - gold[order])[last]) / (1 - gold).sum()
        area = np.trapezoid(true, false)
        label = f"{name}: area {area:.3f}" if name else f"area {area:.3f}"
        dash = ("-", "--", "-.", ":")[number % 4]
        ax.plot(false, true, color=COLOURS[number % len(COLOURS)], linestyle=dash, label=label)
    ax.plot([0, 1], [0, 1], color=GREY, linestyle=":", linewidth=1)
    draw_grid(ax)
    ax.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), aspect="equal")
    ax.set(xlabel="false positive rate", ylabel="true positive rate")
    ax.legend(frameon=False, loc="lower right")
    return ax


def confusion_matrix(
    gold: ArrayLike,
    predicted: ArrayLike,
    *,
    names: Sequence[str] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Which classes are taken for which: counts, coloured by the share of the true class.

    Args:
        gold: (n,) labels.
        predicted: (n,) labels.
        names: Names of the classes, in the order of the sorted labels.
        ax: Axes to draw on.

    Returns:
        The axes.

    Raises:
        ValueError: Unequal lengths, or another number of names than of classes.

    Example:

    ```pycon
    >>> import cptk
    >>> axes = cptk.visualization.confusion_matrix(
    ...     [0, 1, 1], [0, 1, 0], names=["negative", "positive"]
    ... )
    >>> [text.get_text() for text in axes.texts]  # row by row
    ['1', '0', '1', '1']

    ```
    """
    true, taken = np.asarray(gold), np.asarray(predicted)
    if true.ndim != 1 or true.shape != taken.shape or not true.size:
        raise ValueError(
            "`gold` and `predicted` must be flat lists of one length, not empty. Received shapes: "
            f"{true.shape} and {taken.shape}."
        )
    classes, index = np.unique(np.concatenate([true, taken]), return_inverse=True)
    if names is not None:
        names = checks.items(names, "names", "names")
        if len(names) != len(classes):
            raise ValueError(
                f"`names` must name the {len(classes)} classes {checks.shown(classes.tolist())}. "
                f"Received: {checks.shown(names)}."
            )
    counts = np.zeros((len(classes), len(classes)), int)
    np.add.at(counts, (index[: len(true)], index[len(true) :]), 1)
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    ax = axes_or_new(ax, 2.2 + 0.9 * len(classes), 1.4 + 0.8 * len(classes))
    image = ax.imshow(share, cmap="Blues", vmin=0, vmax=1)
    for (row, column), count in np.ndenumerate(counts):
        colour = "white" if share[row, column] > 0.55 else "black"
        ax.text(column, row, f"{count:,}", ha="center", va="center", color=colour)
    labels = [str(name) for name in (classes if names is None else names)]
    ax.set_xticks(range(len(labels)), labels)
    if max(map(len, labels)) > 8:
        ax.tick_params("x", labelrotation=45)
        for text in ax.get_xticklabels():
            text.set(ha="right", rotation_mode="anchor")
    ax.set_yticks(range(len(labels)), labels)
    ax.set(xlabel="predicted class", ylabel="true class")
    ax.figure.colorbar(image, ax=ax, label="share of the true class", shrink=0.8)
    return ax
