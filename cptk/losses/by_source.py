"""An objective for each source of the pairs."""

from __future__ import annotations

import functools
from collections.abc import Mapping

import keras
import numpy as np
from keras import ops

from cptk.checks import shown
from cptk.losses import objective
from cptk.losses.objective import Batch, Objective, PerAnchor
from cptk.types import Config, Tensor


@keras.saving.register_keras_serializable(package="cptk")
class BySource(Objective):
    """Each batch is of one source, and its loss that of this source's objective.

    What `compile(loss={"nli": InfoNCE(), "sts": CoSENT()})` makes. It reads the number of the
    source, the same in all rows, in the column "source". Its scores are the loss of each source,
    `nli_loss`, and all that the objectives show; they are NaN, so that they do not count, where a
    batch is of another source or its objective does not show them.

    Args:
        objectives: Objectives, or their names, by source.

    Raises:
        ValueError: No objectives, or an unknown name.
        TypeError: Not a mapping, or an item that is no objective.
    """

    def __init__(self, objectives: Mapping[str, Objective | str | Config]) -> None:
        if not isinstance(objectives, Mapping) or not objectives:
            raise ValueError(
                "A `loss` for each source should be {'name': objective, …}. Received: "
                f"{shown(objectives)}."
            )
        self.objectives = {name: _get(name, given) for name, given in objectives.items()}
        every = self.objectives.values()
        names = {name: None for one in every for name in one.columns}
        self.columns = ("source", *names)
        self.optional_columns = tuple({x: None for one in every for x in one.optional_columns})
        shared = {name: None for one in every for name in one.metrics}
        self.metrics = (*(f"{name}_loss" for name in self.objectives), *shared)
        sizes = [one.tile_size for one in every if one.tile_size is not None]
        self.tile_size = min(sizes, default=None)
        self.needs_dropout = any(one.needs_dropout for one in every)
        self.trained_dims = tuple({x: None for one in every for x in one.trained_dims})

    def call(self, batch: Batch) -> PerAnchor:
        branches = [functools.partial(self._of, name, batch) for name in self.objectives]
        found = ops.unstack(ops.switch(_number(batch), branches), num=1 + len(self.metrics))
        return PerAnchor(found[0], dict(zip(self.metrics, found[1:], strict=True)))

    def _of(self, name: str, batch: Batch) -> Tensor:
        """Losses and scores `(1 + len(metrics), n)` by the objective of one source."""
        losses, scores = self.objectives[name](batch)
        scores = {**scores, f"{name}_loss": ops.stop_gradient(losses)}
        none = ops.full_like(losses, np.nan)
        rows = [ops.cast(scores.get(metric, none), losses.dtype) for metric in self.metrics]
        return ops.stack([losses, *rows])

    def chance(self, batch: Batch, pairs: Tensor) -> Tensor | None:
        found = [one.chance(batch, pairs) for one in self.objectives.values()]
        if any(chance is None for chance in found):
            return None
        return ops.stack([ops.cast(chance, "float32") for chance in found])[_number(batch)]

    def get_config(self) -> Config:
        serialize = keras.saving.serialize_keras_object
        return {"objectives": {name: serialize(one) for name, one in self.objectives.items()}}

    def __repr__(self) -> str:
        return f"BySource({self.objectives!r})"


def get(identifier: object) -> Objective:
    """An objective by its name or config, or as it is; `InfoNCE` of None.

    Args:
        identifier: An `Objective`; the name of one of `cptk.losses` or of a class of your own that
            is registered with Keras, "InfoNCE" or "info_nce"; its config; a mapping of any of
            these by the names of sources; or None.

    Raises:
        ValueError: An unknown name, or that of a class whose arguments have to be given.
        TypeError: Something else.

    Example:

    ```pycon
    >>> import cptk
    >>> cptk.losses.get("info_nce")
    InfoNCE()
    >>> cptk.losses.get({"nli": "info_nce", "sts": cptk.losses.CoSENT()}).metrics
    ('nli_loss', 'sts_loss', 'query_accuracy', 'document_accuracy')

    ```
    """
    if isinstance(identifier, Mapping) and "class_name" not in identifier:
        return BySource(identifier)
    return objective.get(identifier)


def _get(name: object, given: object) -> Objective:
    if not isinstance(name, str):
        raise TypeError(f"Names of sources should be strings. Received: {shown(name)}.")
    try:
        return objective.get(given)
    except (TypeError, ValueError) as error:
        raise type(error)(f"Source {name!r}: {error}") from None


def _number(batch: Batch) -> Tensor:
    """The number of the batch's source: rows that only fill it up have a 0."""
    return ops.cast(ops.max(batch.gathered["source"]), "int32")
