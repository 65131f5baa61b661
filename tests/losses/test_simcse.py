"""SimCSE: a text and itself, against loops in float64 and in training."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from gradients import to_numpy
from keras import ops

import cptk
from cptk.losses import Batch, Matryoshka, SimCSE, Sum

N, DIM, TEMPERATURE = 5, 4, 0.05
IDS = np.array([0, 1, 0, 3, 4])
"""Texts 0 and 2 are one."""


def by_loops(loss: SimCSE, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    first, second = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (first, second))

    def one(i: int, own: np.ndarray, theirs: np.ndarray) -> float:
        kept = [j for j in range(N) if j == i or not loss.mask_equal_texts or IDS[j] != IDS[i]]
        logits = np.array([own[i] @ theirs[j] for j in kept]) / TEMPERATURE
        return float(np.log(np.exp(logits - logits[kept.index(i)]).sum()))

    rows = np.array([one(i, first, second) for i in range(N)])
    if not loss.symmetric:
        return rows
    return (rows + np.array([one(i, second, first) for i in range(N)])) / 2


@pytest.mark.parametrize("options", [{}, {"symmetric": True}, {"mask_equal_texts": False}], ids=str)
@pytest.mark.parametrize("tile_size", [None, 2])
def test_values_are_those_of_the_loops(options: dict[str, Any], tile_size: int | None) -> None:
    rng = np.random.default_rng(0)
    clean = rng.normal(size=(N, DIM))[IDS]
    views = [clean + 0.1 * rng.normal(size=(N, DIM)) for _ in range(2)]
    tensors = [ops.convert_to_tensor(view.astype("float32")) for view in views]
    vectors = dict(zip(("query", "document"), tensors, strict=True))
    ids = ops.convert_to_tensor(IDS.astype("int32"))
    batch = Batch(
        vectors,
        vectors,
        cptk.layers.ContrastiveHead(TEMPERATURE),
        ops.convert_to_tensor(1 / TEMPERATURE),
        {"query": ids, "document": ids},
        tile_size=tile_size,
    )
    found = to_numpy(SimCSE(**options)(batch).losses)
    np.testing.assert_allclose(found, by_loops(SimCSE(**options), *views), rtol=2e-5, atol=1e-5)


def test_what_is_around_it_needs_dropout_too() -> None:
    assert SimCSE().needs_dropout
    assert Matryoshka(SimCSE(), [2]).needs_dropout
    assert Sum([cptk.losses.CoSENT(), SimCSE()]).needs_dropout
    assert not Sum([cptk.losses.InfoNCE()]).needs_dropout
    assert isinstance(cptk.losses.get("simcse"), SimCSE)
