"""JAX's compiled programs, kept between runs."""

from __future__ import annotations

import contextlib
import os
from importlib import import_module
from pathlib import Path

import keras

SWITCH = "CPTK_JAX_CACHE"
"""Environment variable: a folder to use instead, or "0" for none."""


def keep_compiled_programs() -> None:
    """Have JAX keep what it compiles in the user's cache folder, and find it in the next run.

    Called where cptk first has JAX compile something. A folder that the user has given JAX stays
    (`jax_compilation_cache_dir`, `JAX_COMPILATION_CACHE_DIR`). One that cannot be written is left
    alone: programs are compiled anew then, as they would be without it.
    """
    if keras.config.backend() != "jax" or os.environ.get(SWITCH, "").lower() in ("0", "off"):
        return
    jax = import_module("jax")
    if jax.config.jax_compilation_cache_dir is not None:
        return
    with contextlib.suppress(OSError, RuntimeError):  # No home, no room, no right to write.
        folder = _folder()
        folder.mkdir(parents=True, exist_ok=True)
        if os.access(folder, os.W_OK | os.X_OK):
            jax.config.update("jax_compilation_cache_dir", str(folder))
            # JAX asks whether there is a cache once, and may have done so.
            import_module("jax.experimental.compilation_cache.compilation_cache").reset_cache()


def _folder() -> Path:
    chosen = os.environ.get(SWITCH)
    if chosen:
        return Path(chosen).expanduser()
    cache = os.environ.get("CPTK_CACHE_DIR")
    if cache:
        return Path(cache).expanduser() / "jax"
    return (
        Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache").expanduser() / "cptk/jax"
    )
