"""Registers cptk's classes with KerasHub and Keras, whichever library is imported first.

`keras_hub.models.TextEmbedder.from_preset(folder)` finds the class of a preset among the classes
that are registered with Keras, and importing `cptk.models` registers ours. That import takes
seconds, because it brings Keras and a backend, so `import cptk` alone must not do it. Instead cptk
waits until somebody imports `keras_hub`, which brings both anyway.

`keras.saving.load_model("trainer.keras")` needs Keras alone, so that wait would never end. Where
Keras does not find a class of ours, its look-up imports `cptk.training` and tries again.
"""

import functools
import sys
import warnings
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

_KERAS_HUB = "keras_hub"
_OUR_CLASSES = "cptk.models"
_LOOK_UP = "keras.src.saving.object_registration"


class _AfterKerasHub(MetaPathFinder):
    """Has `_register` run right after `keras_hub` is imported, and `_extend` after Keras's look-up.

    The other finders find the modules; this one only adds a call after they have been executed.
    """

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname not in (_KERAS_HUB, _LOOK_UP):
            return None
        # The list is copied and never changed: another thread may be walking through it.
        for finder in [finder for finder in sys.meta_path if finder is not self]:
            spec = finder.find_spec(fullname, path, target)
            if spec is not None:
                return _with_registration(spec)
        return None


def _with_registration(spec: ModuleSpec) -> ModuleSpec:
    """The spec of one of the two modules, whose loader also registers."""
    loader = spec.loader
    if loader is None:
        return spec
    execute = loader.exec_module

    def execute_then_register(module: ModuleType) -> None:
        del loader.exec_module  # the loader's own method again, should the module be reloaded
        execute(module)
        _register() if module.__name__ == _KERAS_HUB else _extend(module)

    loader.exec_module = execute_then_register  # type: ignore[method-assign]
    return spec


def _register() -> None:
    """Import our classes, and warn where that fails: `import keras_hub` must not fail for us."""
    try:
        import_module(_OUR_CLASSES)
    except Exception as error:
        warnings.warn(
            f"cptk could not register its classes with keras_hub, so "
            f"`keras_hub.models.TextEmbedder.from_preset` will not load cptk's presets: "
            f"{type(error).__name__}: {error}. `import {_OUR_CLASSES}` shows where it fails.",
            RuntimeWarning,
            stacklevel=2,
        )


def _extend(module: ModuleType) -> None:
    """Have Keras's look-up of classes import ours when it meets the name of one in a file."""
    look_up = getattr(module, "get_registered_object", None)
    if look_up is None or hasattr(look_up, "__wrapped__"):
        return

    @functools.wraps(look_up)
    def with_ours(name: object, *args: object, **kwargs: object) -> object:
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
    if _KERAS_HUB in sys.modules:
        _register()
    elif not any(isinstance(finder, _AfterKerasHub) for finder in sys.meta_path):
        sys.meta_path.insert(0, _AfterKerasHub())
