"""What every test shares. The backend is the caller's: KERAS_BACKEND=tensorflow|jax|torch."""

import os

import keras
import pytest
from hypothesis import HealthCheck, settings

# No deadlines: a first example compiles. Every run draws the same examples, so that a red
# test is red again; HYPOTHESIS_PROFILE=explore draws new ones.
_COMMON = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}
settings.register_profile("fixed", derandomize=True, max_examples=25, **_COMMON)
settings.register_profile("explore", max_examples=500, **_COMMON)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "fixed"))


def pytest_configure() -> None:
    """On JAX most of the time goes into compiling toy models, and little into running them."""
    if keras.backend.backend() == "jax":
        # Read when JAX runs its first operation; processes that tests start inherit it.
        os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")


# These, and those of data sets and benchmarks, do not depend on the backend (benchmarks are started
# in processes of their own): they run on TensorFlow.
OF_NO_BACKEND = {
    f"test_{name}.py"
    for name in (
        "batch_size_study bootstrap code_search docstrings evaluate_cli knn linear_probe "
        "metrics ranking retrieval scores_and_labels search similarity tasks_registry "
        "visualization zero_shot"
    ).split()
}


@pytest.hookimpl(tryfirst=True)  # before `-m` chooses
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """On JAX: run once what is alike on both, and later what costs most and tells little."""
    if keras.backend.backend() != "jax":
        return
    alike = [
        item
        for item in items
        if item.path.parent.name in ("datasets", "benchmarks") or item.path.name in OF_NO_BACKEND
    ]
    config.hook.pytest_deselected(items=alike)
    items[:] = [item for item in items if item not in set(alike)]
    for item in items:
        if item.get_closest_marker("slow_on_jax"):
            item.add_marker(pytest.mark.slow)


def pytest_report_header() -> str:
    return f"keras {keras.__version__} on {keras.backend.backend()}"


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """Python, NumPy and the backend start every test from the same seed."""
    keras.utils.set_random_seed(1234)
