"""Embeddings in the plane."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cptk import checks, optional
from cptk.visualization.axes import GREY, axes_or_new, entries_of, look_of, matrix, shortened

if TYPE_CHECKING:
    from matplotlib.axes import Axes

METHODS = ("pca", "umap")


def embedding_map(
    vectors: ArrayLike,
    labels: ArrayLike | None = None,
    *,
    names: Sequence[str] | None = None,
    texts: Sequence[str] | None = None,
    mistakes: ArrayLike | None = None,
    most_texts: int = 8,
    method: Literal["pca", "umap"] = "pca",
    seed: int = 0,
    ax: Axes | None = None,
) -> Axes:
    """A two-dimensional map of embeddings, mistakes ringed and labelled by their text.

    PCA keeps directions and is the same each time; the axes say how much of the variance they
    hold. UMAP keeps neighbourhoods, and its distances mean little.

    Args:
        vectors: (n, d) vectors.
        labels: (n,) classes, which give the points their colours.
        names: Names of the classes, in the order of the sorted labels.
        texts: n texts.
        mistakes: (n,) booleans or indices of the points to ring; some are labelled by their texts.
        most_texts: How many texts are written at most: those whose points lie farthest apart.
        method: `"pca"`, or `"umap"` (an extra).
        seed: Of UMAP.
        ax: Axes to draw on.

    Returns:
        The axes.

    Raises:
        ValueError: An unknown method, fewer than three vectors or two dimensions, or lists of
            unequal length.
        ImportError: UMAP is not installed.

    Example:

    ```pycon
    >>> import cptk
    >>> axes = cptk.visualization.embedding_map(
    ...     [[0.0, 1.0], [1.0, 1.5], [4.0, 0.0], [5.0, 0.5]],
    ...     [0, 0, 1, 1],
    ...     names=["negative", "positive"],
    ...     texts=["dull", "not bad", "good", "a joy"],
    ...     mistakes=[False, True, False, False],
    ... )
    >>> [text.get_text() for text in axes.get_legend().get_texts()]
    ['negative', 'positive', 'mistakes (1)']
    >>> [text.get_text() for text in axes.texts]
    ['not bad']

    ```

    McInnes et al. 2018, UMAP, arXiv:1802.03426.
    """
    points, axis_names = _plane(matrix(vectors, "`vectors`"), method, seed)
    count = len(points)
    if texts is not None:
        texts = entries_of(texts, "texts", count)
    classes = np.asarray([0] * count if labels is None else entries_of(labels, "labels", count))
    kinds = np.unique(classes)
    if names is not None:
        names = checks.items(names, "names", "names")
        if len(names) != len(kinds):
            raise ValueError(
                f"`names` must name the {len(kinds)} classes. Received: {checks.shown(names)}."
            )
    ringed = _indices(mistakes, len(points))
    ax = axes_or_new(ax, 6.5, 5.5)
    size = float(np.clip(3000 / len(points), 9, 40))
    for number, kind in enumerate(kinds):
        chosen = points[classes == kind]
        label = None if labels is None else str(kind if names is None else names[number])
        ax.scatter(
            chosen[:, 0], chosen[:, 1], **look_of(number), s=size, alpha=0.75, linewidths=0,
            label=label, rasterized=len(points) > 5000,
        )  # fmt: skip
    if len(ringed):
        ax.scatter(
            points[ringed, 0], points[ringed, 1], s=2.5 * size + 12, facecolors="none",
            edgecolors="black", linewidths=0.8 if len(ringed) < 100 else 0.4, zorder=3,
            label=f"mistakes ({len(ringed):,})",
        )  # fmt: skip
    if texts is not None and len(ringed):
        _write_texts(ax, points, _apart(points, ringed, most_texts), texts)
    if labels is not None or len(ringed):
        ax.legend(frameon=True, framealpha=0.85, edgecolor="none")
    ax.set(xlabel=axis_names[0], ylabel=axis_names[1], xticks=[], yticks=[])
    return ax


def _plane(
    vectors: NDArray[np.float64], method: str, seed: int
) -> tuple[NDArray[np.float64], tuple[str, str]]:
    checks.choice("method", method, METHODS)
    if vectors.shape[0] < 3 or vectors.shape[1] < 2:
        raise ValueError(
            "A map needs three vectors or more, of two dimensions or more. Received shape "
            f"{vectors.shape}."
        )
    if method == "umap":
        umap = optional.load(
            "umap", 'method="umap"', "umap-learn", "umap", 'method="pca" needs none.'
        )
        reducer = umap.UMAP(
            n_neighbors=min(15, len(vectors) - 1), metric="cosine", random_state=seed
        )
        return np.asarray(reducer.fit_transform(vectors)), ("UMAP 1", "UMAP 2")
    centred = vectors - vectors.mean(axis=0)
    # Eigenvectors of the d x d matrix: d is some hundreds, where n may be many thousands.
    values, directions = np.linalg.eigh(centred.T @ centred)
    directions = directions[:, [-1, -2]]
    largest = np.abs(directions).argmax(axis=0)
    directions = directions * np.where(directions[largest, [0, 1]] < 0, -1, 1)
    total = max(float(values.sum()), np.finfo(float).tiny)
    first, second = (
        f"principal component {i} ({max(0.0, values[-i]) / total:.0%} of the variance)"
        for i in (1, 2)
    )
    return centred @ directions, (first, second)


def _indices(mistakes: ArrayLike | None, count: int) -> NDArray[np.int64]:
    if mistakes is None:
        return np.empty(0, np.int64)
    chosen = np.asarray(mistakes)
    if chosen.dtype == bool:
        if chosen.shape != (count,):
            raise ValueError(
                f"`mistakes` must be {count} booleans, or indices. Received shape {chosen.shape}."
            )
        return np.flatnonzero(chosen)
    chosen = chosen.reshape(-1).astype(np.int64)
    if chosen.size and not (chosen.min() >= 0 and chosen.max() < count):
        raise ValueError(f"`mistakes` must be indices from 0 to {count - 1}.")
    return chosen


def _apart(points: NDArray[np.float64], among: NDArray[np.int64], most: int) -> list[int]:
    """Points far from each other: the outermost, then each time the one farthest from those."""
    scaled = (points - points.mean(axis=0)) / np.maximum(points.std(axis=0), 1e-12)
    candidates = scaled[among]
    chosen: list[int] = []
    distance = np.linalg.norm(candidates, axis=1)
    while len(chosen) < min(most, len(among)):
        best = int(distance.argmax())
        chosen.append(int(among[best]))
        to_best = np.linalg.norm(candidates - candidates[best], axis=1)
        distance = to_best if len(chosen) == 1 else np.minimum(distance, to_best)
        distance[best] = -1
    return chosen


def _write_texts(
    ax: Axes, points: NDArray[np.float64], chosen: list[int], texts: Sequence[str]
) -> None:
    """Texts in a column beside the map, in the order of their points' height, with thin lines."""
    chosen = sorted(chosen, key=lambda i: -points[i, 1])
    line = {"arrowstyle": "-", "color": GREY, "linewidth": 0.6, "shrinkA": 0, "relpos": (0, 0.5)}
    for place, index in zip(np.linspace(0.97, 0.03, len(chosen)), chosen, strict=True):
        ax.annotate(
            shortened(texts[index], 44), points[index], xytext=(1.03, place),
            textcoords="axes fraction", va="center", fontsize=8, annotation_clip=False,
            arrowprops=line,
        )  # fmt: skip
