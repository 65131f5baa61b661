"""One compiled trainer for all tests that only feed it, set back before each."""

from typing import Any

import numpy as np
import pytest
import training_toys as toys
from recorder import SEEN, make


@pytest.fixture(scope="session")
def _shared() -> tuple[Any, list[np.ndarray]]:
    model = toys.trainer(run_eagerly=False)
    return model, toys.state(model)


@pytest.fixture
def trainer(_shared: tuple[Any, list[np.ndarray]]) -> Any:
    model, start = _shared
    toys.restore(model, start)
    model.seed = 3
    model._initial_epoch = None
    return model


@pytest.fixture(scope="module")
def _recorder() -> Any:
    return make()


@pytest.fixture
def recorder(_recorder: Any) -> Any:
    """A trainer that writes down its batches, as if new: nothing was seen."""
    SEEN.clear()
    _recorder.data_order, _recorder.seed = type(_recorder.data_order)(), 3
    return _recorder
