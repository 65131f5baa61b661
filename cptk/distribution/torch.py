"""Torch: one device. Keras has no distribution there."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any

from cptk.distribution.one_device import OneDevice
from cptk.types import Model, Optimizer


class OneProcess(OneDevice):
    """The whole batch, unless several processes were started, which is refused."""

    def check_compile(self, model: Model, optimizer: Optimizer, options: Mapping[str, Any]) -> None:
        """Refuse what would train several models side by side."""
        if processes() > 1:
            raise ValueError(
                "Several torch processes train several models here: Keras 3.15 has no "
                "DistributedDataParallel, and its `fit` would neither gather the negatives nor add "
                "up the gradients. Use KERAS_BACKEND=jax with keras.distribution.DataParallel, or "
                "tensorflow with tf.distribute."
            )


def processes() -> int:
    """How many torch knows of."""
    distributed = import_module("torch.distributed")
    known = distributed.is_available() and distributed.is_initialized()
    return distributed.get_world_size() if known else 1
