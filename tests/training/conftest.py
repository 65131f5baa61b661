"""One compiled trainer for all tests that only feed it, set back before each."""

from typing import Any

import keras
import numpy as np
import pytest
import training_toys as toys


@pytest.fixture(scope="session", autouse=True)
def _compile_once(tmp_path_factory: pytest.TempPathFactory) -> None:
    """On JAX, trainers of one shape share what is compiled; it takes most of the time there."""
    if keras.backend.backend() == "jax":
        import jax

        jax.config.update("jax_compilation_cache_dir", str(tmp_path_factory.mktemp("xla")))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
        jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


@pytest.fixture(scope="session")
def _shared() -> tuple[Any, list[np.ndarray]]:
    model = toys.trainer()
    return model, toys.state(model)


@pytest.fixture
def trainer(_shared: tuple[Any, list[np.ndarray]]) -> Any:
    model, start = _shared
    toys.restore(model, start)
    model.seed = 3
    model._initial_epoch = None
    return model
