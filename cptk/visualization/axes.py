"""What all figures use: axes, colours, and checks of what is drawn."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypedDict

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cptk import checks

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: Okabe & Ito 2008, Color Universal Design; black last.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = "os^DvP*X"
GREY = "#777777"


def axes_or_new(ax: Axes | None, width: float = 5.0, height: float = 4.0) -> Axes:
    """The axes given, or new ones of `pyplot`'s, of which it shows the figure."""
    if ax is None:
        from matplotlib import pyplot

        ax = pyplot.subplots(figsize=(width, height), layout="constrained")[1]
    elif not hasattr(ax, "scatter"):
        raise TypeError(f"`ax` must be a matplotlib Axes. Received: {type(ax).__name__}.")
    ax.set_axisbelow(True)
    return ax


class Look(TypedDict):
    """Keywords of matplotlib's functions that draw a series."""

    color: str
    marker: str


def look_of(number: int) -> Look:
    """Colour and marker of the n-th series; printed in grey, the markers still differ."""
    return {"color": COLOURS[number % len(COLOURS)], "marker": MARKERS[number % len(MARKERS)]}


def draw_grid(ax: Axes) -> None:
    """Thin lines behind what is drawn."""
    ax.grid(color="#dddddd", linewidth=0.6)


def series(
    values: ArrayLike | Mapping[str, ArrayLike], size: int
) -> dict[str, NDArray[np.float64]]:
    """One curve or several by name, each of `size` finite numbers."""
    named = values if isinstance(values, Mapping) else {"": values}
    if not named:
        raise ValueError("There is no curve to draw.")
    checked = {}
    for name, curve in named.items():
        array = numbers(curve, f"the curve {name!r}" if name else "the curve")
        if array.shape[-1:] != (size,) or array.ndim > 2:
            raise ValueError(
                f"{f'The curve {name!r}' if name else 'The curve'} must have one value for each of "
                f"the {size} points. Received shape {array.shape}."
            )
        checked[str(name)] = array
    return checked


def numbers(values: ArrayLike, name: str) -> NDArray[np.float64]:
    """Finite numbers as float64."""
    try:
        array = np.asarray(values)
    except ValueError as error:  # rows of unequal length
        raise ValueError(f"{name} must be numbers, as many in each row. {error}") from None
    if array.dtype.kind not in "fiub" or not array.size:
        raise ValueError(
            f"{name} must be numbers. Received dtype {array.dtype}, shape {array.shape}."
        )
    array = array.astype(np.float64)
    if not np.isfinite(array).all():
        raise ValueError(f"{name} must be finite. Received NaN or infinity.")
    return array


def matrix(values: ArrayLike, name: str) -> NDArray[np.float64]:
    """Vectors as a matrix (n, d)."""
    array = numbers(values, name)
    if array.ndim != 2:
        raise ValueError(f"{name} must be vectors: shape (n, d). Received shape {array.shape}.")
    return array


def unit_rows(values: ArrayLike, name: str) -> NDArray[np.float64]:
    """Vectors of unit length."""
    array = matrix(values, name)
    lengths = np.linalg.norm(array, axis=1, keepdims=True)
    if not lengths.all():
        raise ValueError(f"{name} must hold no zero vector. Received one in row "
                         f"{int(np.argmin(lengths))}.")  # fmt: skip
    return np.asarray(array / lengths)


def entries_of(values: object, name: str, count: int, of: str = "entry") -> list[Any]:
    """Labels or texts as a list of `count`, in their order; a column's index is passed over."""
    entries = checks.items(values, name, "labels")
    if len(entries) != count:
        raise ValueError(
            f"`{name}` must have one {of} for each of the {count} vectors. Received {len(entries)}."
        )
    return entries


def shortened(text: str, width: int = 40) -> str:
    """A text of one short line; matplotlib would take what stands between dollars for a formula."""
    return textwrap.shorten(" ".join(str(text).split()), width, placeholder=" …").replace(
        "$", r"\$"
    )
