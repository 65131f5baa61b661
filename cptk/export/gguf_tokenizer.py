"""A tokenizer in a GGUF file, and what llama.cpp puts around a text."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

import tokenizers

from cptk import checks
from cptk.export.samples import TEXTS
from cptk.export.tokenizer_file import Tokenization
from cptk.tokenizers import family_spec
from cptk.tokenizers.reference import build_pipeline
from cptk.types import Config

#: Family of `cptk.tokenizers.family_spec` → `tokenizer.ggml.pre`.
_PRE_TOKENIZERS = {
    "gpt2": "gpt-2",
    "smollm": "smollm",
    "llama3": "llama-bpe",
    "qwen2": "qwen2",
}
_NORMAL, _CONTROL, _USER_DEFINED, _UNUSED = 1, 3, 4, 5  # values of `tokenizer.ggml.token_type`
_SPACE = "\u2581"  # before a word, in llama.cpp's form of WordPiece


class Edges(NamedTuple):
    """The id before every text and the one after it; None where there is none."""

    before: int | None
    after: int | None


def around(found: Tokenization) -> tuple[Edges, tuple[str, ...]]:
    """What llama.cpp may put around every text, and notes for texts that need more than that."""
    sides = {(tuple(role.prefix), tuple(role.suffix)) for role in found.roles.values()}
    before, after = next(iter(sides))
    if len(sides) == 1 and len(before) < 2 and len(after) < 2:
        prompts = {name: role.prompt for name, role in found.roles.items() if role.prompt}
        notes: tuple[str, ...] = ()
        if prompts:
            notes = (f"Put the role's prompt before a text yourself: {checks.shown(prompts)}.",)
        return Edges(before[0] if before else None, after[0] if after else None), notes
    why = "its roles have different ids around a text" if len(sides) > 1 else "a role has several"
    return Edges(None, None), (
        f"Give token ids and no texts: {why}, and llama.cpp puts one before and one after every "
        "text at most. An export with roles=['query'], say, may have just that.",
    )


def tokenizer_kind(content: Config) -> str:
    """The name of the pre-tokeniser, or "bert".

    Raises:
        ValueError: A tokenizer that llama.cpp has no counterpart of, or that cptk does not know to
            have one.
    """
    model = content["model"]
    kind = model.get("type") or ("BPE" if "merges" in model else "unknown")
    if kind == "WordPiece":
        return "bert"
    if kind != "BPE":
        raise ValueError(
            f"The tokenizer's model, {kind}, is not written as GGUF: byte-pair encoding and "
            "WordPiece are. Export a sentence-transformers folder, which llama.cpp's own converter "
            "reads."
        )
    whole = {**content, "post_processor": None, "truncation": None, "padding": None}
    own = tokenizers.Tokenizer.from_str(json.dumps(whole))
    expected = [own.encode(text, add_special_tokens=False).ids for text in TEXTS]
    merges = [" ".join(m) if isinstance(m, list) else m for m in model["merges"]]
    # Two may give the same ids where a vocabulary has no numbers of several digits: its own first.
    step = content.get("pre_tokenizer")
    own_first = sorted(_PRE_TOKENIZERS, key=lambda each: family_spec(each)["pre_tokenizer"] != step)
    for family in own_first:
        spec = {**family_spec(family), "added_tokens": content.get("added_tokens") or []}
        known = build_pipeline(model["vocab"], merges, spec)
        if [known.encode(text, add_special_tokens=False).ids for text in TEXTS] == expected:
            return _PRE_TOKENIZERS[family]
    raise ValueError(
        "The tokenizer splits texts in no way that cptk knows llama.cpp to have: "
        f"{sorted(_PRE_TOKENIZERS.values())}. Export a sentence-transformers folder, which "
        "llama.cpp's own converter reads."
    )


def write_tokenizer(writer: Any, content: Config, edges: Edges, rows: int) -> tuple[str, ...]:
    """Add a tokenizer to a `gguf.GGUFWriter`; notes on what llama.cpp does otherwise.

    Args:
        writer: It.
        content: The `tokenizer.json`.
        edges: What stands around every text.
        rows: Rows of the embedding, each of which needs a token.
    """
    pre, model = tokenizer_kind(content), content["model"]
    added = {token["content"]: token for token in content.get("added_tokens") or []}
    words = {**model["vocab"], **{token: int(each["id"]) for token, each in added.items()}}
    tokens = [f"[PAD{index}]" for index in range(rows)]
    types = [_UNUSED] * rows
    for word, index in words.items():
        tokens[index], types[index] = word, _NORMAL
        if word in added:
            types[index] = _CONTROL if added[word].get("special") else _USER_DEFINED
    bert = pre == "bert"
    writer.add_tokenizer_model("bert" if bert else "gpt2")
    if bert:
        tokens = [
            _bert_token(word, kind, model["continuing_subword_prefix"])
            for word, kind in zip(tokens, types, strict=True)
        ]
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    if not bert:
        writer.add_tokenizer_pre(pre)
        merges = [" ".join(m) if isinstance(m, list) else m for m in model["merges"]]
        writer.add_token_merges(merges)
    writer.add_add_bos_token(edges.before is not None)
    writer.add_add_eos_token(edges.after is not None)
    fallback = next((int(each["id"]) for each in added.values() if each.get("special")), 0)
    writer.add_bos_token_id(fallback if edges.before is None else edges.before)
    writer.add_eos_token_id(fallback if edges.after is None else edges.after)
    for name, token in {"pad": "[PAD]", "unk": "[UNK]", "sep": "[SEP]", "mask": "[MASK]"}.items():
        if bert and token in words:
            getattr(writer, f"add_{name}_token_id")(words[token])
    if bert and not (content.get("normalizer") or {}).get("lowercase"):
        return ("Give token ids and no texts: llama.cpp lower-cases what WordPiece reads.",)
    return ()


def _bert_token(word: str, kind: int, continuing: str) -> str:
    """A word as llama.cpp has it: a space marks what begins one, and nothing what goes on."""
    if kind != _NORMAL or (word.startswith("[") and word.endswith("]")):
        return word
    if word.startswith(continuing):
        return word.removeprefix(continuing)
    return _SPACE + word
