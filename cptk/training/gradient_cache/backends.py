"""The module of the backend in use, which holds the loops."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

import keras


def backend() -> ModuleType:
    """`tensorflow.py`, `jax.py` or `torch.py` beside this one."""
    return import_module(f"cptk.training.gradient_cache.{keras.config.backend()}")
