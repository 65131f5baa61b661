"""Where JAX keeps what it compiles."""

import keras
import pytest

from cptk.compilation_cache import keep_compiled_programs

pytestmark = pytest.mark.skipif(keras.backend.backend() != "jax", reason="a cache of JAX")
NAME = "jax_compilation_cache_dir"


@pytest.fixture
def config(monkeypatch, tmp_path):
    """JAX's, without a cache, and set back after."""
    import jax

    before = getattr(jax.config, NAME)
    jax.config.update(NAME, None)
    for name in ("CPTK_JAX_CACHE", "CPTK_CACHE_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    yield jax.config
    jax.config.update(NAME, before)
    from jax.experimental.compilation_cache import compilation_cache

    compilation_cache.reset_cache()


def test_the_users_cache_folder_by_default(config, tmp_path):
    keep_compiled_programs()
    assert getattr(config, NAME) == str(tmp_path / "cptk" / "jax")
    assert (tmp_path / "cptk" / "jax").is_dir()


@pytest.mark.parametrize(
    ("variable", "folder"), [("CPTK_JAX_CACHE", "here"), ("CPTK_CACHE_DIR", "here/jax")]
)
def test_another_folder(config, tmp_path, monkeypatch, variable, folder):
    monkeypatch.setenv(variable, str(tmp_path / "here"))
    keep_compiled_programs()
    assert getattr(config, NAME) == str(tmp_path / folder)


def test_a_folder_given_to_jax_stays(config, tmp_path):
    config.update(NAME, str(tmp_path))
    keep_compiled_programs()
    assert getattr(config, NAME) == str(tmp_path)


@pytest.mark.parametrize("value", ["0", "off"])
def test_switched_off(config, monkeypatch, value):
    monkeypatch.setenv("CPTK_JAX_CACHE", value)
    keep_compiled_programs()
    assert getattr(config, NAME) is None


def test_a_folder_that_cannot_be_made_is_left_alone(config, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("CPTK_JAX_CACHE", str(tmp_path / "file" / "cache"))
    keep_compiled_programs()
    assert getattr(config, NAME) is None
