"""Embedders on KerasHub decoders, and what turns text into their input."""

from cptk.models.backbones import keep_first_layers
from cptk.models.precision import fastest_dtype
from cptk.models.preprocessor import (
    DecoderTextEmbedderPreprocessor,
    GPT2TextEmbedderPreprocessor,
    Role,
)
from cptk.models.registration import register_with_text_embedder as _register
from cptk.models.text_embedder import DecoderTextEmbedder, GPT2TextEmbedder

_register()

__all__ = [
    "DecoderTextEmbedder",
    "DecoderTextEmbedderPreprocessor",
    "GPT2TextEmbedder",
    "GPT2TextEmbedderPreprocessor",
    "Role",
    "fastest_dtype",
    "keep_first_layers",
]
