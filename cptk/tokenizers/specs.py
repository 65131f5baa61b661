r"""Tokenizer specs: the pipeline around a vocabulary, as the `tokenizers` library runs it.

A KerasHub byte-pair tokenizer owns a vocabulary and merges but not the pipeline around them, and
its own pipeline differs from the model's: "a\n\nb" is three tokens there and four in GPT-2. A
*tokenizer spec* is that missing part: a `tokenizer.json` without its vocabulary and merges, small
and JSON-able, so that a preset can carry it.
"""

from __future__ import annotations

from typing import Literal, TypeAlias, TypedDict

import keras_hub

from cptk import checks
from cptk.tokenizers.spec_bounds import check_spec
from cptk.tokenizers.tokenizer_json import read_tokenizer_json
from cptk.types import Config, Path

Family: TypeAlias = Literal["gpt2", "llama3", "qwen2", "qwen3.5", "smollm"]
"""Models whose tokenizers share one pipeline."""

_LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_QWEN2 = _LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
#: Qwen 3.5 keeps combining marks with their letters.
_QWEN35 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}"
    r"| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_BPE = {
    "type": "BPE",
    "dropout": None,
    "unk_token": None,
    "continuing_subword_prefix": None,
    "end_of_word_suffix": None,
    "fuse_unk": False,
    "byte_fallback": False,
    "ignore_merges": False,
}
#: Name of a KerasHub class → family. `default_spec` looks at the bases too, so subclasses count.
_FAMILIES: dict[str, Family] = {
    "GPT2Tokenizer": "gpt2",
    "OPTTokenizer": "gpt2",
    "RobertaTokenizer": "gpt2",
    "BartTokenizer": "gpt2",
    "Llama3Tokenizer": "llama3",
    "QwenTokenizer": "qwen2",
    "QwenMoeTokenizer": "qwen2",
    "Qwen3Tokenizer": "qwen2",
    "Qwen3MoeTokenizer": "qwen2",
    "Qwen3_5Tokenizer": "qwen3.5",
    "SmolLM3Tokenizer": "llama3",
}


class TokenizerSpec(TypedDict):
    """A `tokenizer.json` without its vocabulary and merges. Each step is a dictionary."""

    normalizer: Config | None
    pre_tokenizer: Config | None
    decoder: Config | None
    model: Config
    added_tokens: list[Config] | None
    """Tokens that are never split. None: those that the KerasHub tokenizer never splits."""


def family_spec(family: Family | str, add_prefix_space: bool = False) -> TokenizerSpec:
    """The tokenizer spec of a family of models.

    Args:
        family: `"gpt2"`, `"llama3"` (Llama 3, SmolLM3), `"qwen2"` (Qwen 2 and 3), `"qwen3.5"` or
            `"smollm"` (SmolLM 1 and 2: GPT-2's with every digit on its own).
        add_prefix_space: Whether a text gets a space before it, where the family can have one.

    Returns:
        The spec. Its `added_tokens` is `None`: those that the KerasHub tokenizer never splits.

    Raises:
        ValueError: An unknown family.
    """
    byte_level = {"type": "ByteLevel", "add_prefix_space": add_prefix_space, "trim_offsets": True}
    with_regex = {**byte_level, "use_regex": True}
    without = {**byte_level, "use_regex": False}
    steps: dict[str, list[Config]] = {
        "gpt2": [with_regex],
        "smollm": [{"type": "Digits", "individual_digits": True}, with_regex],
        "llama3": [_split(_LLAMA3), without],
        "qwen2": [_split(_QWEN2), without],
        "qwen3.5": [_split(_QWEN35), without],
    }
    checks.choice("family", family, sorted(steps))
    return {
        "normalizer": {"type": "NFC"} if family.startswith("qwen") else None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": steps[family]},
        "decoder": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True},
        # Llama 3 takes a whole word that is in the vocabulary, whatever the merges say.
        "model": {**_BPE, "ignore_merges": family == "llama3"},
        "added_tokens": None,
    }


def _split(pattern: str) -> Config:
    """The step that makes each match of a regular expression a piece of its own."""
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}


def default_spec(tokenizer: keras_hub.tokenizers.Tokenizer) -> TokenizerSpec | None:
    """The tokenizer spec of a KerasHub tokenizer's class.

    Args:
        tokenizer: A KerasHub tokenizer, with or without its vocabulary.

    Returns:
        The spec, or `None` for a tokenizer whose pipeline cptk does not know (SentencePiece ones
        such as Gemma's, Mistral's and Llama 2's among them): KerasHub's own ids are used then.
        SmolLM2 is a `Llama3Tokenizer` in KerasHub and needs `family_spec("smollm")`, which
        `cptk.integrations.gguf` and `spec_from_tokenizer_json` find by themselves.
    """
    if type(tokenizer) is keras_hub.tokenizers.BytePairTokenizer:
        return family_spec("gpt2", bool(tokenizer.add_prefix_space))
    for cls in type(tokenizer).__mro__:
        if cls.__name__ in _FAMILIES:
            return family_spec(_FAMILIES[cls.__name__], bool(tokenizer.add_prefix_space))
    return None


def spec_from_tokenizer_json(path: Path) -> TokenizerSpec | None:
    """The tokenizer spec in a Hugging Face `tokenizer.json`.

    Args:
        path: That file, or the folder it is in.

    Returns:
        The spec, or `None` where the model in it is not byte-pair encoding.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is not a Hugging Face `tokenizer.json` (KerasHub presets hold a file of the
            same name with other contents), or it is damaged, or holds more than a spec may.
    """
    return spec_from_content(read_tokenizer_json(path))


def spec_from_content(content: Config) -> TokenizerSpec | None:
    """The tokenizer spec in the content of a Hugging Face `tokenizer.json`."""
    model = content["model"]
    if "merges" not in model:
        return None
    spec: TokenizerSpec = {
        "normalizer": content.get("normalizer"),
        "pre_tokenizer": content.get("pre_tokenizer"),
        "decoder": content.get("decoder"),
        "model": {k: v for k, v in model.items() if k not in ("vocab", "merges")},
        "added_tokens": content.get("added_tokens") or [],
    }
    check_spec(spec)
    return spec
