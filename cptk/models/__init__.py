"""Embedders on KerasHub backbones, and what turns text into their input.

- `text_embedder` on `keras_methods`: the embedder; `backbones`, `configured_backbones` and
  `attention`: what is under it.
- `principal_axes`: the first numbers of an embedding made to tell most.
- `preprocessor`: roles, and texts to token ids.
- `encode` with `encode_*`: many texts to vectors; `forward`: a batch, from any thread.
- `presets` with `preset_*`, `saving`, `registration`: folders read, checked, written, and found by
  KerasHub.
"""

from cptk.models.backbones import keep_first_layers
from cptk.models.keras_hub_embedders import text_reader
from cptk.models.precision import fastest_dtype
from cptk.models.preprocessor import (
    GPT2TextEmbedderPreprocessor,
    Role,
    TextEmbedderPreprocessor,
)
from cptk.models.principal_axes import rotate_to_principal_axes
from cptk.models.registration import register_with_text_embedder as _register
from cptk.models.text_embedder import GPT2TextEmbedder, TextEmbedder

_register()

__all__ = [
    "GPT2TextEmbedder",
    "GPT2TextEmbedderPreprocessor",
    "Role",
    "TextEmbedder",
    "TextEmbedderPreprocessor",
    "fastest_dtype",
    "keep_first_layers",
    "rotate_to_principal_axes",
    "text_reader",
]
