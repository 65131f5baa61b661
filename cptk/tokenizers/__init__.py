"""Reference token ids for KerasHub tokenizers: those that the `tokenizers` library gives.

- `specs`: what stands around a vocabulary, for each family of models; `spec_bounds`: what a spec of
  a stranger's may hold.
- `reference`: texts to ids by a vocabulary and its spec.
- `tokenizer_json`: Hugging Face's file, made into a spec and a KerasHub tokenizer.
- `json_tokenizer`: that file kept whole, for tokenizers that are no byte-pair encoding.
- `llama`: a Llama 3 tokenizer that survives a preset.
"""

from cptk.tokenizers.json_tokenizer import JSONTokenizer
from cptk.tokenizers.llama import LlamaBPETokenizer
from cptk.tokenizers.reference import ReferenceTokenizer
from cptk.tokenizers.specs import (
    Family,
    TokenizerSpec,
    default_spec,
    family_spec,
    spec_from_tokenizer_json,
)

__all__ = [
    "Family",
    "JSONTokenizer",
    "LlamaBPETokenizer",
    "ReferenceTokenizer",
    "TokenizerSpec",
    "default_spec",
    "family_spec",
    "spec_from_tokenizer_json",
]
