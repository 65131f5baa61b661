"""Bridges to other libraries: each a leaf, each with an extra of its own.

A bridge is imported when its name is first read, and looks for its library when it is first used.
"""

from importlib import import_module
from types import ModuleType

_BRIDGES = ("gguf", "mteb", "sentence_transformers", "sklearn")

__all__ = ["gguf", "mteb", "sentence_transformers", "sklearn"]


def __getattr__(name: str) -> ModuleType:
    if name in _BRIDGES:
        return import_module(f"cptk.integrations.{name}")
    raise AttributeError(f"module 'cptk.integrations' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
