"""A text and itself: what tells the two apart."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from cptk.data.batching import SIDES, PairDataset
from cptk.data.mixture import MixedBatches
from cptk.losses import Objective
from cptk.losses.by_source import BySource
from cptk.training.gradient_cache.options import seed_states
from cptk.types import Batches, Model


def check_views(objective: Objective, embedder: Model, data: Batches) -> None:
    """Refuse pairs in memory of a text and itself where no dropout makes two views of it.

    Raises:
        ValueError: The objective needs dropout, the embedder has none, and a text is its own pair.
    """
    if isinstance(data, MixedBatches):
        for name, part in data.parts.items():
            own = objective.objectives[name] if isinstance(objective, BySource) else objective
            check_views(own, embedder, part)
        return
    if not objective.needs_dropout or not isinstance(data, PairDataset) or seed_states(embedder):
        return
    if any(_equal_rows(*(data.pairs[side] for side in SIDES))):
        raise ValueError(
            f"{objective!r} makes two views of a text by dropout, and this embedder has none: both "
            "would be one vector. Make its backbone with `dropout=0.1`, or pass pairs of two texts."
        )


def _equal_rows(first: Any, second: Any) -> Any:
    """For each pair, whether its sides are equal."""
    if isinstance(first, Mapping) != isinstance(second, Mapping):
        return []
    if not isinstance(first, Mapping):
        return (a == b for a, b in zip(first, second, strict=True))
    if any(first[name].shape != second[name].shape for name in first):
        return []
    return np.all([np.all(first[name] == second[name], axis=1) for name in first], axis=0)
