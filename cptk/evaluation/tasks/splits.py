"""Which split a task scores, and its records."""

from typing import TypeVar

from cptk import datasets

Kind = TypeVar("Kind")


def load_split(kind: type[Kind], name: str, split: str | None) -> tuple[Kind, str]:
    """The records of the split asked for, else of the test split, else of validation; and its name.

    The test split is taken if it can be found here without a download, else the validation split.
    Where neither is found it is the test split again, and `cptk.datasets.load` downloads it or says
    what is missing.

    Raises:
        TypeError: If the set is of another kind than the task scores.
    """
    if split is None:
        found = datasets.available_splits(name)
        split = next((each for each in ("test", "validation") if each in found), "test")
    split = {"dev": "validation"}.get(split, split)
    data: object = datasets.load(name, split)
    if not isinstance(data, kind):
        raise TypeError(
            f"This task needs a data set of {kind.__name__}. {name!r} is one of "
            f"{type(data).__name__}."
        )
    return data, split
