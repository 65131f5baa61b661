"""What the figures share: axes, colours, and checks of what is drawn."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cptk import checks

#: Okabe & Ito 2008, Color Universal Design; black last.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = "os^DvP*X"
GREY = "#777777"


def make(ax: Any, width: float = 5.0, height: float = 4.0) -> Any:
    """The axes given, untouched by pyplot, or new ones."""
    if ax is None:
        from matplotlib import pyplot

        ax = pyplot.subplots(figsize=(width, height), layout="constrained")[1]
    elif not hasattr(ax, "scatter"):
        raise TypeError(f"`ax` must be a matplotlib Axes. Received: {type(ax).__name__}.")
    ax.set_axisbelow(True)
    return ax


def style(number: int) -> dict[str, Any]:
    """Colour and marker of the n-th series, told apart in grey too."""
    return {"color": COLOURS[number % len(COLOURS)], "marker": MARKERS[number % len(MARKERS)]}


def grid(ax: Any) -> None:
    """Thin lines behind what is drawn."""
    ax.grid(color="#dddddd", linewidth=0.6)


def series(values: ArrayLike | Mapping[str, ArrayLike], size: int) -> dict[str, NDArray[Any]]:
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


def unit(values: ArrayLike, name: str) -> NDArray[np.float64]:
    """Vectors of unit length."""
    array = matrix(values, name)
    lengths = np.linalg.norm(array, axis=1, keepdims=True)
    if not lengths.all():
        raise ValueError(f"{name} must hold no zero vector. Received one in row "
                         f"{int(np.argmin(lengths))}.")  # fmt: skip
    return np.asarray(array / lengths)


def named(values: Any, name: str, count: int, of: str = "entry") -> list[Any]:
    """Labels or texts as a list of `count`: by their places, whatever index a column has."""
    entries = checks.items(values, name, "labels")
    if len(entries) != count:
        raise ValueError(
            f"`{name}` must have one {of} for each of the {count} vectors. Received {len(entries)}."
        )
    return entries


def short(text: str, width: int = 40) -> str:
    """A text that fits beside a point, dollars and newlines taken literally."""
    return textwrap.shorten(" ".join(str(text).split()), width, placeholder=" …").replace(
        "$", r"\$"
    )
