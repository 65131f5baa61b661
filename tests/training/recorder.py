"""A trainer that writes down the batches that `fit` brings, and trains on none."""

from __future__ import annotations

import keras
import numpy as np
import training_toys as toys

import cptk

SEEN: list[list[int]] = []
"""The first token of each query, batch by batch."""


@keras.saving.register_keras_serializable(package="tests")
class Recorder(cptk.ContrastiveTrainer):
    def train_step(self, *args):
        x = args[-1][0] if isinstance(args[-1], tuple) else args[-1]
        SEEN.append(np.array(x["query"]["token_ids"])[:, 0].tolist())
        return self.test_step(*args)

    def test_step(self, *args):
        logs = {"loss": keras.ops.convert_to_tensor(0.0)}
        return (logs, args[0]) if toys.BACKEND == "jax" else logs


def pairs(size: int, first: int = 0, length: int = 2) -> dict:
    """Tokenised pairs whose every id is the number of the pair."""
    ids = np.repeat(np.arange(first, first + size, dtype="int32")[:, None], length, axis=1)
    side = {"token_ids": ids, "padding_mask": np.ones(ids.shape, bool)}
    return {"query": side, "document": side}


def make() -> Recorder:
    model = Recorder(toys.embedder(), seed=3)
    model.compile("sgd", run_eagerly=True)
    return model
