"""Cached steps against plain ones on two devices; `test_gradient_cache.py` starts it."""

import contextlib
import os
import sys
from typing import Any

os.environ["XLA_FLAGS"] = (
    "--xla_force_host_platform_device_count=2 --xla_backend_optimization_level=0"
)

import keras
import numpy as np
import training_toys as toys

import cptk

PAIRS = {side: texts[:8] for side, texts in toys.PAIRS.items()}
CASES = {"float64-SGD": 1e-9, "float64-AdamW": 1e-9, "float32-SGD": 1e-5}
CASES["float64-SGD-SimCSE"] = 1e-9


def two_devices() -> Any:
    """The scope of a strategy on TensorFlow; on JAX the distribution is set."""
    if toys.BACKEND == "jax":
        import jax

        jax.config.update("jax_enable_x64", True)
        keras.distribution.set_distribution(keras.distribution.DataParallel())
        return contextlib.nullcontext
    import tensorflow as tf

    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    return tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]).scope


def train(
    scope: Any, size: int | None, dtype: str, optimizer: str, loss: str = "InfoNCE"
) -> list[Any]:
    """Weights after five steps, and the losses shown; of SimCSE, on texts that are their pairs."""
    pairs = dict.fromkeys(PAIRS, PAIRS["query"]) if loss == "SimCSE" else PAIRS
    keras.config.set_floatx(dtype)
    keras.config.set_dtype_policy(dtype)
    keras.utils.set_random_seed(1)
    with scope():
        trainer = cptk.ContrastiveTrainer(toys.embedder(0.1), seed=3, micro_batch_size=size)
        trainer.compile(getattr(keras.optimizers, optimizer)(0.01), loss)
    losses = toys.fit(trainer, pairs, batch_size=8, epochs=5)["loss"]
    return [*toys.weights(trainer), np.array(losses)]


def main() -> None:
    scope = two_devices()
    for case, tolerance in CASES.items():
        # All of a replica's texts at once: dropout is drawn by micro-batch.
        plain, cached = (train(scope, size, *case.split("-")) for size in (None, 8))
        difference = toys.difference(plain, cached)
        print(case, difference, flush=True)
        if not difference <= tolerance:
            sys.exit(f"{case} differs by {difference}")


if __name__ == "__main__":
    main()
