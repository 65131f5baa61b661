"""How vectors lie: similarities, alignment and uniformity."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cptk.visualization.axes import (
    COLOURS,
    GREY,
    axes_or_new,
    draw_grid,
    entries_of,
    look_of,
    numbers,
    shortened,
    unit_rows,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_BLOCK = 1024


def alignment(x: ArrayLike, y: ArrayLike, alpha: float = 2.0) -> float:
    r"""How near the two sides of positive pairs are; 0 is best.

    $$ \ell_{align} = \tfrac1n \sum_i \lVert x_i - y_i \rVert^\alpha $$

    with all vectors divided by their length.

    Args:
        x: (n, d) vectors.
        y: (n, d) vectors; row i belongs to row i of `x`.
        alpha: The exponent.

    Returns:
        The mean, in float64.

    Raises:
        ValueError: Unequal shapes, a zero vector, or a value that is not finite.

    Example:

    ```pycon
    >>> import cptk
    >>> round(cptk.visualization.alignment([[1.0, 0.0]], [[0.0, 1.0]]), 4)
    2.0

    ```

    Wang & Isola 2020, Understanding Contrastive Representation Learning through Alignment and
    Uniformity on the Hypersphere, equation 1.
    """
    first, second = unit_rows(x, "`x`"), unit_rows(y, "`y`")
    if first.shape != second.shape:
        raise ValueError(
            f"`x` and `y` must have one shape. Received: {first.shape} and {second.shape}."
        )
    return float(np.mean(np.linalg.norm(first - second, axis=1) ** alpha))


def uniformity(x: ArrayLike, t: float = 2.0) -> float:
    r"""How evenly vectors fill the sphere; the lower, the more evenly.

    $$ \ell_{uniform} = \log \frac{2}{n (n - 1)} \sum_{i < j} e^{-t \lVert x_i - x_j \rVert^2} $$

    with all vectors divided by their length.

    Args:
        x: (n, d) vectors, two or more.
        t: Sharpness of the kernel.

    Returns:
        The logarithm of the mean, in float64.

    Raises:
        ValueError: Fewer than two vectors, a zero vector, or a value that is not finite.

    Example:

    ```pycon
    >>> import cptk
    >>> round(cptk.visualization.uniformity([[1.0, 0.0], [0.0, 1.0]]), 4)
    -4.0

    ```

    Wang & Isola 2020, equation 2 and figure 5's code: over pairs of different vectors.
    """
    vectors = unit_rows(x, "`x`")
    count = len(vectors)
    if count < 2:
        raise ValueError(f"`x` must have two vectors or more. Received {count}.")
    total = 0.0
    for start in range(0, count, _BLOCK):
        block = vectors[start : start + _BLOCK]
        squares = np.maximum(0.0, 2 - 2 * block @ vectors[start:].T)
        later = np.arange(count - start)[None, :] > np.arange(len(block))[:, None]
        total += float(np.exp(-t * squares)[later].sum())
    return float(np.log(total) - np.log(count * (count - 1) / 2))


def alignment_uniformity(
    pairs: Mapping[str, tuple[ArrayLike, ArrayLike]], *, ax: Axes | None = None
) -> Axes:
    """Alignment against uniformity, a point for each embedder: lower left is better.

    Args:
        pairs: Name -> two sides of positive pairs, (n, d) each. Uniformity is over both sides.
        ax: Axes to draw on.

    Returns:
        The axes.

    Raises:
        ValueError: As `alignment` and `uniformity`.

    Example:

    ```pycon
    >>> import cptk
    >>> queries, documents = [[1.0, 0.0], [0.0, 1.0]], [[1.0, 0.9], [0.9, 1.0]]
    >>> nearer = [[1.0, 0.1], [0.1, 1.0]]
    >>> axes = cptk.visualization.alignment_uniformity(
    ...     {"raw": (queries, documents), "trained": (queries, nearer)}
    ... )
    >>> [text.get_text() for text in axes.texts]
    ['raw', 'trained']

    ```

    Wang & Isola 2020, figure 3; Gao et al. 2021, SimCSE, figure 3.
    """
    if not isinstance(pairs, Mapping) or not pairs:
        raise ValueError("`pairs` must be a mapping of names to two arrays. Received none.")
    points = {
        str(name): (uniformity(np.concatenate([x, y])), alignment(x, y))
        for name, (x, y) in pairs.items()
    }
    ax = axes_or_new(ax)
    for number, (name, point) in enumerate(points.items()):
        ax.scatter(*point, **look_of(number), s=50)
        ax.annotate(name, point, xytext=(6, 5), textcoords="offset points")
    ax.margins(x=0.35, y=0.2)
    draw_grid(ax)
    ax.set(xlabel="uniformity (lower: more even)", ylabel="alignment (lower: pairs nearer)")
    return ax


def similarity_heatmap(
    first: ArrayLike,
    second: ArrayLike | None = None,
    *,
    texts: Sequence[str] | None = None,
    second_texts: Sequence[str] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Cosine of each vector with each.

    Args:
        first: (n, d) vectors.
        second: (m, d) vectors; `first` by default.
        texts: n labels of the rows.
        second_texts: m labels of the columns; `texts` where there is no `second`.
        ax: Axes to draw on.

    Returns:
        The axes.

    Raises:
        ValueError: Vectors of unequal size, a zero vector, or another number of labels than
            of vectors.

    Example:

    ```pycon
    >>> import cptk
    >>> texts = ["a good film", "a fine film"]
    >>> axes = cptk.visualization.similarity_heatmap([[1.0, 0.0], [1.0, 1.0]], texts=texts)
    >>> [label.get_text() for label in axes.get_yticklabels()]
    ['a good film', 'a fine film']
    >>> [text.get_text() for text in axes.texts]  # row by row
    ['1.00', '0.71', '0.71', '1.00']

    ```
    """
    rows = unit_rows(first, "`first`")
    columns = rows if second is None else unit_rows(second, "`second`")
    if rows.shape[1] != columns.shape[1]:
        raise ValueError(
            "`first` and `second` must have vectors of one size. Received: "
            f"{rows.shape[1]} and {columns.shape[1]}."
        )
    if second is None and second_texts is None:
        second_texts = texts
    if texts is not None:
        texts = entries_of(texts, "texts", len(rows), "label")
    if second_texts is not None:
        second_texts = entries_of(second_texts, "second_texts", len(columns), "label")
    cosines = np.clip(rows @ columns.T, -1, 1)
    ax = axes_or_new(ax, min(12, 3.5 + 0.45 * len(columns)), min(12, 2.2 + 0.4 * len(rows)))
    lowest = min(0.0, float(cosines.min()))
    image = ax.imshow(cosines, cmap="cividis", vmin=lowest, vmax=1)
    if cosines.size <= 150:
        middle = (1 + lowest) / 2
        for (row, column), cosine in np.ndenumerate(cosines):
            colour = "black" if cosine > middle else "white"
            text = f"{cosine:.2f}"
            ax.text(column, row, text, ha="center", va="center", color=colour, fontsize=8)
    if texts is not None:
        ax.set_yticks(range(len(rows)), [shortened(text, 30) for text in texts])
    if second_texts is not None:
        labels = [shortened(text, 30) for text in second_texts]
        ax.set_xticks(range(len(columns)), labels, rotation=45, ha="right", rotation_mode="anchor")
    ax.figure.colorbar(image, ax=ax, label="cosine", shrink=0.8)
    return ax


def similarity_histogram(
    positives: ArrayLike, negatives: ArrayLike, *, bins: int = 50, ax: Axes | None = None
) -> Axes:
    """How far the cosines of pairs that belong together lie from those of pairs that do not.

    Args:
        positives: Cosines of pairs that belong together.
        negatives: Cosines of others.
        bins: Number of bins.
        ax: Axes to draw on.

    Returns:
        The axes.

    Raises:
        ValueError: A list is empty or not of finite numbers.

    Example:

    ```pycon
    >>> import cptk, numpy as np
    >>> queries = np.eye(3)
    >>> documents = np.array([[0.8, 0.6, 0.0], [0.0, 0.8, 0.6], [0.6, 0.0, 0.8]])
    >>> cosines = queries @ documents.T
    >>> axes = cptk.visualization.similarity_histogram(
    ...     np.diag(cosines), cosines[~np.eye(len(cosines), dtype=bool)]
    ... )
    >>> [text.get_text() for text in axes.get_legend().get_texts()]
    ['belong together (3), mean 0.80', 'do not (6), mean 0.30']

    ```
    """
    groups = {
        "belong together": numbers(positives, "`positives`").ravel(),
        "do not": numbers(negatives, "`negatives`").ravel(),
    }
    every = np.concatenate(list(groups.values()))
    edges = np.linspace(every.min(), max(every.max(), every.min() + 1e-6), bins + 1)
    ax = axes_or_new(ax)
    for (name, values), colour, hatch in zip(groups.items(), COLOURS, ("", "///"), strict=False):
        ax.hist(
            values, edges.tolist(), density=True, alpha=0.55, color=colour, edgecolor=colour,
            hatch=hatch, label=f"{name} ({len(values):,}), mean {values.mean():.2f}",
            histtype="stepfilled",
        )  # fmt: skip
        ax.axvline(values.mean(), color=colour, linestyle="--", linewidth=1)
    ax.set(xlabel="cosine", ylabel="density")
    ax.legend(frameon=False, loc="lower left", bbox_to_anchor=(0.0, 1.0))
    return ax


def score_margins(
    pairs: Mapping[str, tuple[ArrayLike, ArrayLike]], *, bins: int = 50, ax: Axes | None = None
) -> Axes:
    r"""How much nearer a query lies to its own document than to the nearest other, by embedder.

    $$ m_i = \cos(q_i, d_i) - \max_{j \ne i} \cos(q_i, d_j) $$

    Right of 0 the own document comes first; the farther, the surer.

    Args:
        pairs: Name -> queries and their documents, (n, d) each, two or more.
        bins: Number of bins.
        ax: Axes to draw on.

    Returns:
        The axes; the legend has the share right of 0.

    Raises:
        ValueError: Sides of unequal shape, fewer than two pairs, a zero vector, or a value that is
            not finite.

    Example:

    ```pycon
    >>> import cptk
    >>> queries, documents = [[1.0, 0.0], [0.0, 1.0]], [[1.0, 0.0], [1.0, 0.1]]
    >>> axes = cptk.visualization.score_margins({"raw": (queries, documents)})
    >>> axes.get_legend().get_texts()[0].get_text()
    'raw: 100% right of 0'

    ```
    """
    if not isinstance(pairs, Mapping) or not pairs:
        raise ValueError("`pairs` must be a mapping of names to two arrays. Received none.")
    margins = {str(name): _margins(*both) for name, both in pairs.items()}
    every = np.concatenate(list(margins.values()))
    edges = np.linspace(every.min(), max(every.max(), every.min() + 1e-6), bins + 1)
    ax = axes_or_new(ax)
    for number, (name, values) in enumerate(margins.items()):
        ax.hist(
            values, edges.tolist(), density=True, histtype="step", linewidth=1.5,
            color=COLOURS[number % len(COLOURS)], linestyle=("-", "--", "-.", ":")[number % 4],
            label=f"{name}: {(values > 0).mean():.0%} right of 0",
        )  # fmt: skip
    ax.axvline(0, color=GREY, linewidth=1)
    draw_grid(ax)
    ax.set(xlabel="cosine of the own document less the nearest other's", ylabel="density")
    ax.legend(frameon=False, loc="lower left", bbox_to_anchor=(0.0, 1.0))
    return ax


def _margins(queries: ArrayLike, documents: ArrayLike) -> NDArray[np.float64]:
    """(n,) margins, a block of queries at a time."""
    first, second = unit_rows(queries, "the queries"), unit_rows(documents, "the documents")
    if first.shape != second.shape or len(first) < 2:
        raise ValueError(
            "Queries and documents must have one shape, of two rows or more. Received: "
            f"{first.shape} and {second.shape}."
        )
    found = np.empty(len(first))
    for start in range(0, len(first), _BLOCK):
        cosines = first[start : start + _BLOCK] @ second.T
        rows = np.arange(len(cosines))
        own = cosines[rows, start + rows]
        cosines[rows, start + rows] = -np.inf
        found[start : start + _BLOCK] = own - cosines.max(axis=1)
    return found
