"""A Hugging Face `tokenizer.json` that gives an embedder's ids, role and all."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import keras_hub
import tokenizers

from cptk import checks
from cptk.export.samples import readable
from cptk.models.keras_hub_embedders import KerasHubReader, text_reader
from cptk.tokenizers import ReferenceTokenizer
from cptk.types import Config, Model, Preprocessor

#: Characters that a text may begin with, to find out whether a prefix keeps its ids before it.
_BEGINNINGS = [chr(i) for i in range(32, 127)] + list("\n\t éßЖ日本語\U0001f600\u0301\u200b\u00a0½")
#: Names of tokens that fill up a batch, the most usual first.
_PADDING = ("[PAD]", "<pad>", "<|pad|>", "<|endoftext|>", "<|im_end|>", "<|end_of_text|>", "</s>")


class RoleIds(NamedTuple):
    """A role as ids: `prefix + ids(prompt + text) + suffix`."""

    prefix: list[int]
    suffix: list[int]
    prompt: str


class Tokenization(NamedTuple):
    """All that turns texts into an embedder's ids."""

    content: Config | None
    """A `tokenizer.json` of bare texts; None where KerasHub's ids are no other tool's."""
    roles: dict[str, RoleIds]
    default: str
    """The role of a text for which none is named."""
    sequence_length: int
    why_not: str = ""
    """Why there is no `content`."""
    remark: str = ""
    """Of which texts `content` gives other ids than the embedder's own tokenizer."""


def tokenization(embedder: Model, roles: object = None) -> Tokenization:
    """How an embedder reads texts.

    Args:
        embedder: cptk's or KerasHub's.
        roles: Names of the roles that are wanted; all if None.

    Raises:
        ValueError: It has no preprocessor, or no such role.
        TypeError: `roles` is no list of names.
    """
    reader = text_reader(embedder)
    if reader is None:
        raise ValueError(
            "This embedder has no preprocessor, so it cannot read text. Give it one: "
            "TextEmbedder(backbone, TextEmbedderPreprocessor(tokenizer))."
        )
    if isinstance(reader, KerasHubReader):
        return _of_keras_hub(embedder, reader, _chosen(roles, ["text"]))
    names = _chosen(roles, list(reader.roles))
    default = _default(reader, names)
    ids = {}
    for name in names:
        prefix, suffix = reader.affixes(name)  # type: ignore[attr-defined]
        ids[name] = RoleIds(list(prefix), list(suffix), reader.roles[name].prompt)
    content = reader.reference.tokenizer_json()  # type: ignore[attr-defined]
    why = "" if content else _no_json(reader.tokenizer)
    return Tokenization(content, ids, default, reader.sequence_length, why)


def _chosen(roles: object, known: list[str]) -> list[str]:
    if roles is None:
        return known
    names = checks.items([roles] if isinstance(roles, str) else roles, "roles", "names of roles")
    if not names:
        raise ValueError(f"`roles` is empty. This embedder has {known}: name one, or leave it out.")
    for name in names:
        if name not in known:
            raise ValueError(
                f"There is no role {checks.shown(name)}. This embedder has {sorted(known)}."
            )
    return list(dict.fromkeys(names))


def _default(reader: Preprocessor, names: Sequence[str]) -> str:
    """The role that `encode_text` takes where none is named, or the first one that is exported."""
    try:
        own = reader.resolve_role(None)
    except ValueError:  # roles of names of one's own, none of them a default
        own = ""
    return own if own in names else names[0]


def _no_json(tokenizer: object) -> str:
    return (
        f"its {type(tokenizer).__name__} gives KerasHub's own ids, of which there is no "
        "tokenizer.json. Load the model's Hugging Face or sentence-transformers folder by "
        "cptk.models.TextEmbedder.from_preset(folder), which keeps that file"
    )


def _of_keras_hub(embedder: Model, reader: KerasHubReader, names: list[str]) -> Tokenization:
    """KerasHub's own preprocessors: the `tokenizer.json` of their model, where it is one.

    They follow other libraries (TensorFlow Text, SentencePiece), which fold cases, for one,
    otherwise: ß becomes ss. Where few of the sample texts have other ids, a remark says so.
    """
    own: keras_hub.tokenizers.Tokenizer = reader.tokenizer
    length = reader.sequence_length
    content = _word_piece(own) if hasattr(own, "cls_token_id") else None
    if content is None:
        content = ReferenceTokenizer(own).tokenizer_json()
    if content is None:
        role = RoleIds([], [], "")
        return Tokenization(None, dict.fromkeys(names, role), names[0], length, _no_json(own))
    pipeline = tokenizers.Tokenizer.from_str(json.dumps(content))
    texts = readable(embedder)
    edges: list[tuple[list[int], list[int]]] = []
    differ = []
    for text, found in zip(texts, reader.tokenize(texts), strict=True):
        row = list(found)
        ids = pipeline.encode(text, add_special_tokens=False).ids[: max(1, length - 2)]
        start = next((i for i in range(3) if row[i : i + len(ids)] == ids), None)
        if start is None:
            differ.append(text)
        elif len(ids) < length - 4:  # not cut
            edges.append((row[:start], row[start + len(ids) :]))
    usual = max(edges, key=edges.count, default=([], []))
    role = RoleIds(*usual, "")
    reads = f"its {type(own).__name__} gives other ids than the model's tokenizer.json"
    if len(differ) > len(texts) // 4:
        why = (
            f"{reads}, of {checks.shown(differ[0])} for one. Make a cptk.models.TextEmbedder of it"
        )
        return Tokenization(None, dict.fromkeys(names, role), names[0], length, why)
    remark = f"Of some texts {reads}: {checks.shown(differ)}." if differ else ""
    return Tokenization(content, dict.fromkeys(names, role), names[0], length, "", remark)


def _word_piece(tokenizer: keras_hub.tokenizers.Tokenizer) -> Config | None:
    """BERT's `tokenizer.json` around the vocabulary of KerasHub's `BertTokenizer`."""
    if not hasattr(tokenizer, "lowercase"):
        return None
    words = {word: index for index, word in enumerate(tokenizer.get_vocabulary())}
    model = {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##"}
    normalizer = {"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True}
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    special = [word for word in ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]") if word in words]
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {"id": words[word], "content": word, "special": True, **flags} for word in special
        ],
        "normalizer": {
            **normalizer,
            "strip_accents": bool(tokenizer.strip_accents),
            "lowercase": bool(tokenizer.lowercase),
        },
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": None,
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True},
        "model": {**model, "max_input_chars_per_word": 100, "vocab": words},
    }


# === One file for all roles ===


class Shared(NamedTuple):
    """What stands around every text, and a prompt for each role."""

    prefix: list[int]
    suffix: list[int]
    prompts: dict[str, str]


def shared_roles(embedder: Model, found: Tokenization, target: str) -> Shared:
    """All roles as prompts before a text, within one prefix and suffix of ids.

    A role's own prefix can be a prompt where it is a string whose ids stay the same whatever text
    follows it.

    Raises:
        ValueError: The roles differ in what stands after a text, or in prefixes that are no
            prompts.
    """
    roles = found.roles
    apart = "Export one role a folder, roles=['query'] for one: its ids then stand around all texts"
    suffixes = {name: role.suffix for name, role in roles.items()}
    if any(suffix != next(iter(suffixes.values())) for suffix in suffixes.values()):
        raise ValueError(
            f"{target} puts the same ids after every text, and the roles of this embedder end in "
            f"different ones: {checks.shown(suffixes)}. {apart}."
        )
    suffix = next(iter(suffixes.values()))
    first = next(iter(roles.values())).prefix
    if all(role.prefix == first for role in roles.values()):
        return Shared(first, suffix, {name: role.prompt for name, role in roles.items()})
    reader = text_reader(embedder)
    prompts = {}
    for name, role in roles.items():
        written = reader.roles[name].prefix if reader is not None else None
        if role.prefix and (
            not isinstance(written, str) or not _stays_before_any_text(found, role.prefix, written)
        ):
            raise ValueError(
                f"The roles of this embedder begin with different ids, and that of {name!r}, "
                f"{checks.shown(written)}, has other ids as the beginning of a string. Train with "
                f"Role(prompt=…), which is a part of the text. {apart}."
            )
        prompts[name] = (str(written) if role.prefix else "") + role.prompt
    return Shared([], suffix, prompts)


def _stays_before_any_text(found: Tokenization, ids: list[int], prefix: str) -> bool:
    pipeline = tokenizers.Tokenizer.from_str(json.dumps(found.content))

    def encode(text: str) -> list[int]:
        row: list[int] = pipeline.encode(text, add_special_tokens=False).ids
        return row

    return all(
        encode(prefix + start + rest) == ids + encode(start + rest)
        for start in _BEGINNINGS
        for rest in ("", "a", "the ", start)
    )


def with_role(
    content: Config, prefix: Sequence[int], suffix: Sequence[int], length: int | None
) -> Config:
    """A `tokenizer.json` that puts ids around every text, and cuts to `length` if that is given."""
    pipeline = tokenizers.Tokenizer.from_str(json.dumps({**content, "post_processor": None}))
    special: Config = {}
    single: list[Config] = []
    for name, ids in (("before", prefix), ("after", suffix)):
        if ids:
            tokens = [pipeline.id_to_token(int(i)) or f"[{i}]" for i in ids]
            key = tokens[0] if len(tokens) == 1 else f"{name} the text"
            special[key] = {"id": key, "ids": [int(i) for i in ids], "tokens": tokens}
            single.append({"SpecialToken": {"id": key, "type_id": 0}})
    text = {"Sequence": {"id": "A", "type_id": 0}}
    single = [*single[: bool(prefix)], text, *single[bool(prefix) :]]
    pair = [*single, {"Sequence": {"id": "B", "type_id": 0}}]
    processor = {
        "type": "TemplateProcessing",
        "single": single,
        "pair": pair,
        "special_tokens": special,
    }
    cut = {"direction": "Right", "max_length": length, "strategy": "LongestFirst", "stride": 0}
    return {
        **content,
        "post_processor": processor if special else None,
        "truncation": cut if length is not None else None,
    }


def padding_token(content: Config, preferred: int | None = None) -> tuple[str, int]:
    """A token to fill up batches with: an added one, so that no text is read otherwise for it.

    Args:
        content: A `tokenizer.json`.
        preferred: The id that it should have, where a token of that id can be it.

    Raises:
        ValueError: The tokenizer has no added token.
    """
    added = {token["content"]: int(token["id"]) for token in content.get("added_tokens") or []}
    for token, index in added.items():
        if index == preferred:
            return token, index
    for token in (*_PADDING, *added):
        if token in added:
            return token, added[token]
    raise ValueError(
        "The tokenizer has no special token, and a batch needs one to be filled up with. Add one "
        "to the model's tokenizer.json, '[PAD]' for one, with an id that the embedding has."
    )


def example(found: Tokenization | None) -> str:
    """A text for `tokenizer.json` as a line of Python has it: behind the default role's prompt."""
    prompt = found.roles[found.default].prompt if found else ""
    return json.dumps(f"{prompt}a text", ensure_ascii=False)


def write_beside(folder: Path, found: Tokenization | None) -> tuple[str, ...]:
    """`tokenizer.json` and `roles.json` beside a model that takes token ids; notes on them.

    The first gives the ids of a text in the default role, the second has what stands around a text
    in each. A prompt is a part of the text, which no `tokenizer.json` can add: special tokens in a
    text would get one each.
    """
    if found is None:
        return ("The embedder reads no texts: there is no tokenizer.json, and no roles.json.",)
    roles = {name: role._asdict() for name, role in found.roles.items()}
    about = {"default": found.default, "sequence_length": found.sequence_length, "roles": roles}
    (folder / "roles.json").write_text(
        json.dumps(about, indent=2, ensure_ascii=False) + "\n", encoding="utf-8"
    )
    if found.content is None:
        return (f"There is no tokenizer.json: {found.why_not}.",)
    role = found.roles[found.default]
    content = with_role(found.content, role.prefix, role.suffix, found.sequence_length)
    (folder / "tokenizer.json").write_text(json.dumps(content, ensure_ascii=False), "utf-8")
    notes = [found.remark] if found.remark else []
    if role.prompt:
        notes.append(
            f"For tokenizer.json put the prompt of the role {found.default!r} before a text "
            f"yourself: {role.prompt!r}."
        )
    return tuple(notes)
