"""What a traced step trains. It remembers the variables of its first call, whatever comes later.

LoRA enabled, a layer frozen, a model quantised, another head: a step that was traced before would
go on as if nothing had happened, on TensorFlow in silence. So the variables are compared wherever
a step is asked for, and an optimizer that was built for others is refused.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import Any

import keras

from cptk.types import Layer, Model, Optimizer, Tree, Variable

COMPILE_AGAIN = (
    "What is trained has changed since the optimizer was built: {count} ({names}). Call `compile` "
    "again, with a new optimizer, before training goes on."
)


class Traced:
    """The variables that the steps of a trainer were traced with.

    The variables themselves are held, and not their ids, which may be used again.
    """

    def __init__(self) -> None:
        self.flags: list[tuple[Any, bool]] | None = None
        #: On JAX: the variables whose values the state holds while `fit` runs.
        self.in_state: tuple[list[Any], list[Any]] = ([], [])

    def is_stale(self, variables: Iterable[Any]) -> bool:
        """Whether other variables, or other ones of them, are trained than when last asked."""
        before, self.flags = self.flags, [(v, v.trainable) for v in variables]
        if before is None:
            return False
        return len(before) != len(self.flags) or any(
            old is not new or was is not now
            for (old, was), (new, now) in zip(before, self.flags, strict=True)
        )

    def changed(self) -> list[Any]:
        """Variables frozen or unfrozen since. Cheap: it is asked before each step."""
        return [v for v, flag in self.flags or () if v.trainable is not flag]


def check_optimizer(optimizer: Optimizer, variables: list[Variable]) -> None:
    """Raise `ValueError` where an optimizer was built for other variables than these."""
    optimizer = getattr(optimizer, "inner_optimizer", optimizer)
    known = getattr(optimizer, "_trainable_variables_indices", None)
    if optimizer is None or not optimizer.built or known is None:
        return
    keys = {optimizer._var_key(variable): variable for variable in variables}
    if list(known) == list(keys):
        return
    new = [variable.path for key, variable in keys.items() if key not in known]
    gone = len(known.keys() - keys.keys())
    raise ValueError(_message(new, f"{len(new)} weights more, {gone} fewer"))


def guarded(function: Callable[..., Tree], trainer: Model, traced: Traced) -> Callable[..., Tree]:
    """A training step that refuses what a callback has frozen or unfrozen since it was made."""

    @functools.wraps(function)
    def step(*args: Tree) -> Tree:
        changed = traced.changed()
        if changed:
            if keras.config.backend() == "jax":
                trainer._jax_state = {
                    "optimizer_variables": args[0][2],
                    "metrics_variables": args[0][3],
                }
                assign_state(traced, *args[0][:2])
                trainer._jax_state_synced = False
            paths = [variable.path for variable in changed]
            raise ValueError(_message(paths, f"{len(paths)} weights frozen or unfrozen"))
        return function(*args)

    return step


def assign_state(traced: Traced, trainable: list[Any], others: list[Any]) -> None:
    """On JAX, give the values that the state holds to the variables that they were read from."""
    for variables, values in zip(traced.in_state, (trainable, others), strict=True):
        for variable, value in zip(variables, values, strict=True):
            variable.assign(value)


def replace_layer(model: Model, name: str, new: Layer) -> None:
    """Have Keras forget the layer that an attribute held: it would go on counting its weights."""
    old = getattr(model, name, None)
    if old is not None and old is not new:
        model._tracker.replace_tracked_value("layers", old, new)  # In its place: order is saved.


def _message(paths: list[str], count: str) -> str:
    names = ", ".join(paths[:3]) + (", …" if len(paths) > 3 else "")
    return COMPILE_AGAIN.format(count=count, names=names or "none new")
