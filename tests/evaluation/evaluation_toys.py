"""Encoders and tasks that cost nothing, for the tests of `evaluate` and what is around it."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np

from cptk.evaluation import Published, Task, TaskResult

TEXTS = [f"sentence {i}" for i in range(40)]


def vector(text: str) -> np.ndarray:
    seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")
    return np.random.default_rng(seed).normal(size=6).astype(np.float32)


class Counter:
    """An encoder that remembers what it was asked for."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str | None]] = []

    def encode_text(self, texts: list[str], role: str | None = None) -> np.ndarray:
        self.asked += [(text, role) for text in texts]
        return np.stack([vector(f"{role} {text}") for text in texts])


def function(texts: list[str]) -> np.ndarray:
    return np.stack([vector(text) for text in texts])


def result(
    items: dict[str, Any], metric: str = "accuracy", score: Any = None, **fields: Any
) -> Any:
    if score is None:
        score = float(np.mean(next(iter(items.values()))))
    known = {"dataset": "toy", "split": "test", "sha256": "0" * 64, "scores": {metric: score}}
    size = len(next(iter(items.values())))
    return TaskResult(metric=metric, score=score, items=items, size=size, **{**known, **fields})


def signs(
    name: str = "signs", texts: list[str] = TEXTS, role: str | None = None, **kw: Any
) -> Task:
    """A task: is the first number of a text's vector positive?"""

    def run(embed: Any, split: str | None) -> TaskResult:
        vectors = embed(texts, role=role)
        return result(
            {"correct": (vectors[:, 0] > 0).astype(float).tolist()}, split=split or "test"
        )

    return Task(name, run, **kw)


def missing(name: str = "lost", error: Exception | None = None) -> Task:
    def run(embed: Any, split: str | None) -> TaskResult:
        raise error or FileNotFoundError(f"{name}.tsv is not there; set CPTK_DATA_DIR")

    return Task(name, run)


PAPER = (
    Published("cpt-text S", 0.936, "Paper | table 1"),
    Published("cpt-text XL", 0.954, "Paper | table 1"),
)
