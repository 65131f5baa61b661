"""The tokenizer of a GGUF file, as one of KerasHub's."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from cptk.checks import shown
from cptk.integrations.gguf_file import GGUFFile
from cptk.tokenizers import LlamaBPETokenizer, family_spec
from cptk.types import Config

#: `tokenizer.ggml.pre` → family of `cptk.tokenizers.family_spec`.
_PRE_TOKENIZERS = {
    "gpt-2": "gpt2",
    "llama-bpe": "llama3",
    "llama-v3": "llama3",
    "llama3": "llama3",
    "qwen2": "qwen2",
    "smollm": "smollm",
}
_CONTROL, _USER_DEFINED = 3, 4  # Values of `tokenizer.ggml.token_type`.


class LoadedTokenizer(NamedTuple):
    """A KerasHub tokenizer, and the tokenizer spec that a preprocessor takes beside it."""

    tokenizer: LlamaBPETokenizer
    spec: Config


def read_tokenizer(file: GGUFFile) -> LoadedTokenizer:
    """The byte-pair tokenizer of an open file.

    Raises:
        ValueError: A tokenizer of another kind, an unknown pre-tokenizer, or a damaged vocabulary.
    """
    model = file.get("tokenizer.ggml.model")
    if model != "gpt2":
        file.fail(
            f"has a tokenizer of the kind {shown(model)}",
            "cptk reads byte-pair ones ('gpt2'). Load the weights by `load_backbone` and the "
            "tokenizer from the model's Hugging Face folder",
        )
    pre = file.get("tokenizer.ggml.pre", None)
    if not isinstance(pre, str) or pre not in _PRE_TOKENIZERS:
        file.fail(
            f"has the pre-tokenizer {shown(pre)}",
            f"cptk knows {sorted(_PRE_TOKENIZERS)}. Load the tokenizer from the model's Hugging "
            "Face folder, or convert the model again with a current llama.cpp",
        )
    tokens, merges = file.texts("tokenizer.ggml.tokens"), file.texts("tokenizer.ggml.merges")
    types = np.asarray(file.get("tokenizer.ggml.token_type", [1] * len(tokens)))
    vocabulary = {token: index for index, token in enumerate(tokens)}
    repeated = len(vocabulary) != len(tokens) or "" in vocabulary
    if repeated or types.shape != (len(tokens),) or types.dtype.kind not in "iu":
        file.fail(
            "has a damaged vocabulary (repeated or empty tokens, or not a type for each)",
            "Convert it again",
        )
    embedding = file.tensors.get("token_embd.weight")
    if embedding is not None and len(tokens) > embedding.shape[0]:
        file.fail(
            f"has {len(tokens):,} tokens and embeddings of {embedding.shape[0]:,}",
            "Convert it again",
        )
    for merge in merges:
        first, _, second = merge.partition(" ")
        if not {first, second, first + second} <= vocabulary.keys():
            file.fail(
                f"merges {shown(merge)}, of which the parts or the whole are no tokens",
                "Convert it again",
            )
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    added = [
        {"id": index, "content": token, "special": kind == _CONTROL, **flags}
        for index, (token, kind) in enumerate(zip(tokens, types.tolist(), strict=True))
        if kind in (_CONTROL, _USER_DEFINED)
    ]
    end = file.integer("tokenizer.ggml.eos_token_id", 0, len(tokens) - 1)
    start = file.integer("tokenizer.ggml.bos_token_id", 0, len(tokens) - 1, default=end)
    reserved = "<|reserved_special_token_"  # 247 of Llama 3; KerasHub leaves them out as well.
    special = [token["content"] for token in added if not token["content"].startswith(reserved)]
    tokenizer = LlamaBPETokenizer(
        vocabulary=vocabulary,
        merges=merges,
        bos_token=tokens[start],
        eos_token=tokens[end],
        misc_special_tokens=special,
    )
    return LoadedTokenizer(tokenizer, {**family_spec(_PRE_TOKENIZERS[pre]), "added_tokens": added})
