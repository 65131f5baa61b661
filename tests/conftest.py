"""What every test shares. The backend is the caller's: KERAS_BACKEND=tensorflow|jax|torch."""

import gc
import os
import sys
import tempfile
from collections.abc import Iterator
from importlib.metadata import version

import pytest
from hypothesis import HealthCheck, settings
from tiers import FULL, LONG, NO_BACKEND, ONCE, listed

# Keras is imported in functions: the process that only hands out the tests needs no TensorFlow.

# No deadlines: a first example compiles. Every run draws the same examples, so that a red
# test is red again; HYPOTHESIS_PROFILE=explore draws new ones.
_COMMON = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}
settings.register_profile("fixed", derandomize=True, max_examples=25, **_COMMON)
settings.register_profile("explore", max_examples=500, **_COMMON)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "fixed"))


def _backend() -> str:
    named = os.environ.get("KERAS_BACKEND")
    if named:
        return named
    import keras

    return keras.backend.backend()


def pytest_configure() -> None:
    """On JAX most of the time goes into compiling toy models, and little into running them."""
    if _backend() == "jax":
        # Read when JAX runs its first operation. Both workers, and processes that tests start,
        # inherit them, and so share what is compiled.
        os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")
        os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", tempfile.mkdtemp(prefix="cptk-xla-"))
        os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
        os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Packed files are named by their length: gzip writes the second at which it packed.

    Workers that give one test two names, because they started a second apart, refuse to run.
    """
    return f"{argname}-{len(val)}-bytes" if isinstance(val, bytes) and len(val) > 20 else None


@pytest.hookimpl(tryfirst=True)  # before `-m` chooses
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Files that take longest first, so that no worker waits for the other at the end.

    Left out is what CI has no time for, and on JAX what is alike on both; slow there is also what
    costs most and tells little.
    """
    for item in items:  # Another one in each worker, which pytest-xdist refuses to run.
        assert " at 0x" not in item.nodeid, f"a test is named by an address: {item.nodeid}"
    items.sort(key=lambda item: not listed(item.path, LONG))
    files = NO_BACKEND + ONCE if _backend() == "jax" else []
    marks = [] if FULL else ["full", *(["once"] if _backend() != "tensorflow" else [])]
    left_out = {
        item
        for item in items
        if listed(item.path, files) or any(map(item.get_closest_marker, marks))
    }
    config.hook.pytest_deselected(items=list(left_out))
    items[:] = [item for item in items if item not in left_out]
    for item in items if _backend() == "jax" else []:
        if item.get_closest_marker("slow_on_jax"):
            item.add_marker(pytest.mark.slow)


def pytest_report_header() -> str:
    return f"keras {version('keras')} on {_backend()}"


@pytest.fixture(scope="module", autouse=True)
def _compiled_is_dropped() -> Iterator[None]:
    """What a file has compiled on JAX is unmapped after it.

    Each program is a few mappings of memory, of which Linux grants a process 65,530; XLA ends
    with a segmentation fault at the next.
    """
    yield
    if _backend() == "jax" and "jax" in sys.modules:
        gc.collect()
        sys.modules["jax"].clear_caches()


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """Python, NumPy and the backend start every test from the same seed."""
    import keras

    keras.utils.set_random_seed(1234)


@pytest.fixture(autouse=True)
def _no_backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that is declared to need no backend makes no variable on one."""
    if listed(request.path, NO_BACKEND):

        def refuse(*args: object, **kwargs: object) -> None:
            raise AssertionError(f"{request.path.name} is in NO_BACKEND and makes a variable")

        from keras.src.backend.common.variables import Variable

        monkeypatch.setattr(Variable, "__init__", refuse)
