"""The objectives of `cptk.losses`, found by themselves, and one object of each."""

from __future__ import annotations

import inspect
from typing import Any

import cptk
from cptk.losses import DocumentToQuery, InfoNCE, Objective

FOUND = [
    kind
    for kind in vars(cptk.losses).values()
    if inspect.isclass(kind) and issubclass(kind, Objective) and kind is not Objective
]
#: Arguments that have to be given.
GIVEN: dict[str, Any] = {
    "objective": InfoNCE(),
    "objectives": [InfoNCE(), cptk.losses.CoSENT()],
    "dims": [2, 4],
}
#: Another value of some arguments, where the kind of their default does not tell one.
OTHERS: dict[str, Any] = {
    "objective": DocumentToQuery(),
    "objectives": [InfoNCE(), DocumentToQuery()],
    "dims": [4, 1],
    "weights": [0.5, 2.0],
    "mining": "hardest",
    "hard_negatives": "own",
    "false_negative_margin": 0.1,
}
#: What an argument needs beside it.
WITH: dict[str, dict[str, Any]] = {"guide": {"false_negative_margin": 0.1}}


def make(kind: type[Objective], **changed: Any) -> Objective:
    """An object of the class, made of no more than it needs."""
    given = {name: GIVEN[name] for name in inspect.signature(kind).parameters if name in GIVEN}
    return kind(**given | changed)


def variants(kind: type[Objective]) -> list[Objective]:
    """The plain object, and one for each of its arguments with this changed."""
    parameters = inspect.signature(kind).parameters.values()
    changed = [{p.name: _changed(p), **WITH.get(p.name, {})} for p in parameters]
    return [make(kind), *(make(kind, **arguments) for arguments in changed)]


def _changed(parameter: inspect.Parameter) -> Any:
    if parameter.name in OTHERS:
        return OTHERS[parameter.name]
    value = parameter.default
    if isinstance(value, bool):
        return not value
    return 3 if value is None else value + 0.25
