"""The records that a task scores, and the split that they are of."""

from typing import TypeVar

from cptk import datasets

Kind = TypeVar("Kind")


def load_split(kind: type[Kind], name: str, split: str | None) -> tuple[Kind, str]:
    """The records of a split of a data set, and the name of that split.

    Without a `split` the test split is taken, or the validation split where that one alone can be
    found here without a download. Where neither is found, `cptk.datasets.load` downloads the test
    split or says what is missing.

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
