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


# These, and those of data sets, do not touch Keras: once is enough in the default run.
NUMPY_ALONE = {
    f"test_{name}.py"
    for name in (
        "bootstrap code_search docstrings evaluate_cli knn linear_probe metrics ranking retrieval "
        "scores_and_labels search similarity tasks_registry visualization zero_shot"
    ).split()
}


@pytest.hookimpl(tryfirst=True)  # before `-m` chooses
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave to the slow tier what costs most on JAX and tells little beside TensorFlow's run."""
    for item in items:
        only_numpy = item.path.parent.name == "datasets" or item.path.name in NUMPY_ALONE
        if keras.backend.backend() == "jax" and (
            only_numpy or item.get_closest_marker("slow_on_jax")
        ):
            item.add_marker(pytest.mark.slow)


def pytest_report_header() -> str:
    return f"keras {keras.__version__} on {keras.backend.backend()}"


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """Python, NumPy and the backend start every test from the same seed."""
    keras.utils.set_random_seed(1234)
