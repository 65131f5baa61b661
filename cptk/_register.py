"""Makes KerasHub know cptk's classes, whichever of the two is imported first.

`keras_hub.models.TextEmbedder.from_preset(folder)` finds the class of a preset among those that
Keras has registered, and ours are registered when `cptk.models` is imported. That import costs
seconds, because it brings Keras and a backend, so `import cptk` alone must not do it. Instead it
waits for `keras_hub`, which has brought them already.

`keras.saving.load_model("trainer.keras")` needs no KerasHub to be imported, so Keras alone brings
nothing of ours: its look-up of a class is given a second try, which imports them.
"""

import functools
import sys
import warnings
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

_TARGET = "keras_hub"
_ROOM = "cptk.models"
_LOOK_UP = "keras.src.saving.object_registration"


class _AfterKerasHub(MetaPathFinder):
    """Finds `keras_hub` by the other finders and runs `_register` once it has been executed.

    So with Keras's look-up of registered classes, and `_extend`.
    """

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname not in (_TARGET, _LOOK_UP):
            return None
        # The list is copied and never changed: another thread may be walking through it.
        for finder in [finder for finder in sys.meta_path if finder is not self]:
            spec = finder.find_spec(fullname, path, target)
            if spec is not None:
                return _with_registration(spec)
        return None


def _with_registration(spec: ModuleSpec) -> ModuleSpec:
    loader = spec.loader
    if loader is None:
        return spec
    execute = loader.exec_module

    def execute_then_register(module: ModuleType) -> None:
        del loader.exec_module  # the loader's own method again, should the module be reloaded
        execute(module)
        _register() if module.__name__ == _TARGET else _extend(module)

    loader.exec_module = execute_then_register  # type: ignore[method-assign]
    return spec


def _register() -> None:
    try:
        import_module(_ROOM)
    except Exception as error:  # `import keras_hub` must not fail for a fault of ours
        warnings.warn(
            f"cptk could not register its classes with keras_hub, so "
            f"`keras_hub.models.TextEmbedder.from_preset` will not load cptk's presets: "
            f"{type(error).__name__}: {error}. `import {_ROOM}` shows where it fails.",
            RuntimeWarning,
            stacklevel=2,
        )


def _extend(module: ModuleType) -> None:
    """Have Keras import our classes when it meets the name of one in a file."""
    look_up = getattr(module, "get_registered_object", None)
    if look_up is None or hasattr(look_up, "__wrapped__"):
        return

    @functools.wraps(look_up)
    def with_ours(name: Any, *args: Any, **kwargs: Any) -> Any:
        found = look_up(name, *args, **kwargs)
        if found is None and isinstance(name, str) and name.startswith("cptk>"):
            import_module("cptk.training")
            found = look_up(name, *args, **kwargs)
        return found

    module.get_registered_object = with_ours  # type: ignore[attr-defined]


def register_with_keras_hub() -> None:
    """Imports `cptk.models` now where `keras_hub` is imported already, else right after it."""
    if _LOOK_UP in sys.modules:
        _extend(sys.modules[_LOOK_UP])
    if _TARGET in sys.modules:
        _register()
    elif not any(isinstance(finder, _AfterKerasHub) for finder in sys.meta_path):
        sys.meta_path.insert(0, _AfterKerasHub())
