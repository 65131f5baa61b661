"""Every example of a docstring runs, and gives what it says.

An example is a `pycon` block, which doctest reads. Names that need a model or data are given to it
by the fixture `names`, on toys; nothing else is. A block that cannot run here is a `python` block
whose title says what it needs: ```python title="Needs the network".
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

import cptk

OPTIONS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
FENCE = re.compile(r"^ *```(?P<language>\w+)(?P<title>[^\n]*)$", re.MULTILINE)
NEEDS = re.compile(r' title="Needs [^"]+"')
#: What needs more than the package itself; its examples run where that is installed.
EXTRAS = {"cptk.integrations.mteb": "mteb"}


def modules() -> Iterator[ModuleType]:
    for found in pkgutil.walk_packages(cptk.__path__, "cptk."):
        if found.name.startswith("cptk.training.gradient_cache.") and found.name.endswith(
            ("tensorflow", "jax", "torch")
        ):
            continue  # Each is imported on its backend alone.
        yield importlib.import_module(found.name)


def examples() -> list[doctest.DocTest]:
    finder = doctest.DocTestFinder(exclude_empty=True)
    return [
        test
        for module in modules()
        for test in finder.find(module, module.__name__)
        if test.examples and inspect.getmodule(module) is module
    ]


@pytest.fixture(scope="module")
def names() -> dict[str, Any]:
    """What an example may use without saying where it comes from."""
    reader = cptk.models.GPT2TextEmbedderPreprocessor(toys.tokenizer(), 32)
    embedder = cptk.models.GPT2TextEmbedder(toys.backbone("GPT2", 1), reader)
    queries = ["read a file", "add two numbers", "sort a list", "open a socket", "parse a date"]
    documents = ["open(path).read()", "a + b", "sorted(xs)", "socket.socket()", "strptime(text)"]
    return {
        "cptk": cptk,
        "keras": keras,
        "np": np,
        "embedder": embedder,
        "queries": queries,
        "documents": documents,
    }


@pytest.mark.parametrize("example", examples(), ids=lambda test: test.name)
def test_example(
    example: doctest.DocTest, names: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for start, extra in EXTRAS.items():
        if example.name.startswith(start):
            pytest.importorskip(extra)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CPTK_CACHE_DIR", str(tmp_path / "cache"))
    example.globs = dict(names)
    output: list[str] = []
    doctest.DocTestRunner(optionflags=OPTIONS, verbose=False).run(example, out=output.append)
    assert not output, "".join(output)


def test_every_block_runs_or_says_what_it_needs() -> None:
    for file in sorted(Path(cptk.__path__[0]).rglob("*.py")):
        for fence in FENCE.finditer(file.read_text(encoding="utf-8")):
            if fence["language"] == "python":
                assert NEEDS.fullmatch(fence["title"]), f"{file}: a block that nobody runs"
