"""Embedders for other people's tools: each target one function, one folder, one file of code.

A target is imported when its name is first read, and looks for its libraries when it is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cptk.export.card import model_card as model_card
    from cptk.export.gguf import to_gguf as to_gguf
    from cptk.export.hub import Upload as Upload
    from cptk.export.hub import upload as upload
    from cptk.export.litert import to_litert as to_litert
    from cptk.export.onnx import to_onnx as to_onnx
    from cptk.export.saved_model import to_saved_model as to_saved_model
    from cptk.export.sentence_transformers import (
        to_sentence_transformers as to_sentence_transformers,
    )
    from cptk.export.target import Exported as Exported

_PLACES = {
    "Exported": "target",
    "Upload": "hub",
    "model_card": "card",
    "to_gguf": "gguf",
    "to_litert": "litert",
    "to_onnx": "onnx",
    "to_saved_model": "saved_model",
    "to_sentence_transformers": "sentence_transformers",
    "upload": "hub",
}

__all__ = [
    "Exported",
    "Upload",
    "model_card",
    "to_gguf",
    "to_litert",
    "to_onnx",
    "to_saved_model",
    "to_sentence_transformers",
    "upload",
]


def __getattr__(name: str) -> Any:
    if name in _PLACES:
        found = getattr(import_module(f"cptk.export.{_PLACES[name]}"), name)
        globals()[name] = found
        return found
    raise AttributeError(f"module 'cptk.export' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
