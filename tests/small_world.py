"""Where examples of docs and docstrings run: small data sets, no network, quick training."""

from __future__ import annotations

import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import keras
import matplotlib.pyplot as plt
import pytest

import cptk
from cptk.evaluation.tasks import registry

QUERIES = ["read a file", "add two numbers", "sort a list", "open a socket", "parse a date"]
DOCUMENTS = ["open(path).read()", "a + b", "sorted(values)", "socket.socket()", "strptime(text)"]


@contextmanager
def small_world(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """`folder` becomes the current one, with a small SST-2 and STS-B in it.

    Tasks that an example registers are gone after it, and its figures too.
    """
    monkeypatch.chdir(folder)
    data = folder / "data"
    (data / "SST-2").mkdir(parents=True)
    (data / "STS-B").mkdir()
    for index, split in enumerate(("train", "dev", "test")):
        rows = [f"film {index}{i} was {'bad' if i % 2 else 'good'}\t{1 - i % 2}" for i in range(24)]
        if split == "dev":  # begins as SST-2's does
            rows[0] = "one long string of cliches .\t0"
        (data / "SST-2" / f"{split}.tsv").write_text("sentence\tlabel\n" + "\n".join(rows) + "\n")
        rows = [f"A man is {i}.,A man {'is' if i % 3 else 'was'} {i}.,{i % 5}" for i in range(10)]
        (data / "STS-B" / f"{split}.csv").write_text("\n".join(rows) + "\n")
    monkeypatch.setenv("CPTK_DATA_DIR", str(data))
    monkeypatch.setenv("CPTK_CACHE_DIR", str(folder / "cache"))

    def offline(*_: Any, **__: Any) -> Any:
        raise urllib.error.URLError("no network in tests")

    monkeypatch.setattr(urllib.request, "urlopen", offline)
    monkeypatch.setattr(registry, "_TASKS", dict(registry._TASKS))
    trainer: Any = cptk.ContrastiveTrainer
    compiled = trainer.compile
    eager = keras.backend.backend() == "tensorflow"  # tracing is most of a toy's training
    monkeypatch.setattr(
        trainer, "compile", lambda *args, **kw: compiled(*args, **kw, run_eagerly=eager)
    )
    yield
    plt.close("all")
