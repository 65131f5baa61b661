"""Embedders on KerasHub decoders, and what turns text into their input."""

from cptk.models import presets as _presets
from cptk.models.precision import fastest_dtype
from cptk.models.preprocessor import (
    DecoderTextEmbedderPreprocessor,
    GPT2TextEmbedderPreprocessor,
    Role,
)
from cptk.models.presets import keep_first_layers
from cptk.models.text_embedder import DecoderTextEmbedder, GPT2TextEmbedder

_presets.register()

__all__ = [
    "DecoderTextEmbedder",
    "DecoderTextEmbedderPreprocessor",
    "GPT2TextEmbedder",
    "GPT2TextEmbedderPreprocessor",
    "Role",
    "fastest_dtype",
    "keep_first_layers",
]
