"""Every example of a docstring runs, and gives what it says.

An example is a `pycon` block, which doctest reads. Names that need a model or data are given to it
by the fixture `names`, on toys; nothing else is, but a small SST-2 in `CPTK_DATA_DIR`. A block that
cannot run here is a `python` block whose title says so: ```python title="Needs the network". Every
public name has one or the other, and stands in the API reference.
"""

from __future__ import annotations

import doctest
import importlib
import inspect
import pkgutil
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import keras
import numpy as np
import pytest
import toys
from small_world import DOCUMENTS, QUERIES, small_world

import cptk

OPTIONS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
FENCE = re.compile(r"^ *```(?P<language>\w+)(?P<title>[^\n]*)$", re.MULTILINE)
NEEDS = re.compile(r' title="Needs [^"]+"')
ROOMS = [
    getattr(cptk, name) for name in cptk.__all__ if isinstance(getattr(cptk, name), ModuleType)
]
API = Path(__file__).parents[1] / "docs" / "api"
ENTRY = re.compile(
    r"^::: (?P<name>[\w.]+)$(?:\n    options:\n      members: \[(?P<members>[^\]]*)\])?",
    re.MULTILINE,
)


def modules() -> Iterator[ModuleType]:
    for found in pkgutil.walk_packages(cptk.__path__, "cptk."):
        of_backend = re.search(r"\.(tensorflow|jax|torch)(_step)?$", found.name)
        if of_backend and of_backend[1] != keras.backend.backend():
            continue
        yield importlib.import_module(found.name)


def examples() -> list[doctest.DocTest]:
    finder = doctest.DocTestFinder(exclude_empty=True)
    return [
        test
        for module in modules()
        for test in finder.find(module, module.__name__)
        if test.examples and inspect.getmodule(module) is module
    ]


@pytest.fixture
def names(example: doctest.DocTest) -> dict[str, Any]:
    """What an example may use without saying where it comes from. Some train it: it is new."""
    given = {
        "cptk": cptk,
        "keras": keras,
        "np": np,
        "queries": list(QUERIES),
        "documents": list(DOCUMENTS),
    }
    if any("embedder" in line.source for line in example.examples):
        reader = cptk.models.GPT2TextEmbedderPreprocessor(toys.tokenizer(), 32)
        given["embedder"] = cptk.models.GPT2TextEmbedder(toys.backbone("GPT2", 1), reader)
    return given


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with small_world(tmp_path, monkeypatch):
        yield


@pytest.mark.slow
@pytest.mark.parametrize("example", examples(), ids=lambda test: test.name)
def test_example(example: doctest.DocTest, names: dict[str, Any], elsewhere: None) -> None:
    example.globs = dict(names)
    output: list[str] = []
    doctest.DocTestRunner(optionflags=OPTIONS, verbose=False).run(example, out=output.append)
    assert not output, "".join(output)


def test_every_block_runs_or_says_what_it_needs() -> None:
    for file in sorted(Path(cptk.__path__[0]).rglob("*.py")):
        for fence in FENCE.finditer(file.read_text(encoding="utf-8")):
            if fence["language"] == "python":
                assert NEEDS.fullmatch(fence["title"]), f"{file}: a block that nobody runs"


# === What is public ===


def own_functions(module: ModuleType) -> dict[str, Any]:
    """The public functions that a module makes itself."""
    found = inspect.getmembers(module, inspect.isfunction)
    return {n: f for n, f in found if f.__module__ == module.__name__ and not n.startswith("_")}


def public() -> Iterator[tuple[str, Any]]:
    """Classes and functions of every room; of a bridge, which is a module, its functions."""
    for room in ROOMS:
        for name in room.__all__:
            thing = getattr(room, name)
            if inspect.ismodule(thing):
                for inner, function in own_functions(thing).items():
                    yield f"{thing.__name__}.{inner}", function
            elif inspect.isclass(thing) or inspect.isfunction(thing):
                yield f"{room.__name__}.{name}", thing


PUBLIC = dict(public())
each_public = pytest.mark.parametrize("name", PUBLIC)


def has_an_example(docstring: str) -> bool:
    """Whether an example runs, or says what it needs."""
    titles = (
        fence["title"] for fence in FENCE.finditer(docstring) if fence["language"] == "python"
    )
    return bool(doctest.DocTestParser().get_examples(docstring)) or any(
        NEEDS.fullmatch(title) for title in titles
    )


def in_the_reference() -> list[Any]:
    """What the pages of the API show: a name, the public names of a module, or its `members`."""
    found: list[Any] = []
    for page in sorted(API.glob("*.md")):
        for entry in ENTRY.finditer(page.read_text(encoding="utf-8")):
            thing = pkgutil.resolve_name(entry["name"])
            if entry["members"] is not None:
                found += [getattr(thing, name) for name in entry["members"].split(", ")]
            elif not inspect.ismodule(thing):
                found.append(thing)
            elif hasattr(thing, "__all__"):
                found += [getattr(thing, name) for name in thing.__all__]
            else:
                found += own_functions(thing).values()
    return found


REFERENCE = in_the_reference()


@each_public
def test_every_public_name_has_an_example(name: str) -> None:
    assert has_an_example(PUBLIC[name].__doc__ or "")


@each_public
def test_every_public_name_stands_in_the_reference(name: str) -> None:
    assert any(thing is PUBLIC[name] for thing in REFERENCE), f"add `::: {name}` to docs/api"
