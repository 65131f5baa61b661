"""Hugging Face's `tokenizer.json`: read, checked, and made into a KerasHub tokenizer.

transformers 5 saves this file alone, where KerasHub's converters of some families still want the
files from before: `vocab.json` and `merges.txt`, or `tokenizer.model`.
"""

from __future__ import annotations

import importlib

import keras_hub

from cptk import checks, files
from cptk.tokenizers.llama import LlamaBPETokenizer
from cptk.types import Config, Path

#: Model type → the files that KerasHub 0.32's converter reads its tokenizer from.
_CONVERTER_FILES = {
    "gpt2": ("vocab.json", "merges.txt"),
    "roberta": ("vocab.json", "merges.txt"),
    "gemma": ("tokenizer.model",),
    "gemma2": ("tokenizer.model",),
    "gemma3n": ("tokenizer.model",),
    "mistral": ("tokenizer.model",),
    "mixtral": ("tokenizer.model",),
}


def read_tokenizer_json(path: Path) -> Config:
    """The content of a Hugging Face `tokenizer.json`, checked to be one.

    The types of `vocab` and `merges` are checked too: KerasHub takes a string there for the name
    of a file, and would open it.
    """
    file = checks.path(path, "path")
    file = file / "tokenizer.json" if file.is_dir() else file
    if not file.exists():
        raise FileNotFoundError(
            f"There is no file {str(file)!r}. Pass a Hugging Face folder that holds a "
            "tokenizer.json; `tokenizer.save_pretrained(folder)` of transformers writes one."
        )
    try:
        content = files.read_json(file)
    except ValueError as error:
        raise ValueError(f"{str(file)!r} is damaged ({error}).") from error
    model = content.get("model") if isinstance(content, dict) else None
    if not isinstance(model, dict) or "vocab" not in model:
        raise ValueError(
            f"{str(file)!r} is not a Hugging Face tokenizer.json: it holds no `model` with a "
            "`vocab`. Pass the file of a Hugging Face folder, not that of a KerasHub preset."
        )
    fault = None
    if "merges" in model:
        if not _is_vocabulary(model["vocab"]):
            fault = f"`vocab` should map tokens to ids. Received: {checks.shown(model['vocab'])}"
        elif not _are_merges(model["merges"]):
            fault = f"`merges` should be a list of pairs. Received: {checks.shown(model['merges'])}"
    added = content.get("added_tokens")
    if added is not None and not (
        isinstance(added, list)
        and all(
            isinstance(token, dict) and isinstance(token.get("content"), str) for token in added
        )
        and _is_vocabulary({token["content"]: token.get("id") for token in added})
    ):
        fault = f"`added_tokens` should be a list of tokens. Received: {checks.shown(added)}"
    if fault:
        raise ValueError(f"{str(file)!r} is damaged ({fault}). Copy or download it again.")
    return dict(content)


def _is_vocabulary(value: object) -> bool:
    return isinstance(value, dict) and all(
        type(index) is int and 0 <= index < 2**31 for index in value.values()
    )


def _are_merges(value: object) -> bool:
    return isinstance(value, list) and all(
        isinstance(rule, str)
        or (isinstance(rule, list) and len(rule) == 2 and all(isinstance(x, str) for x in rule))
        for rule in value
    )


def converter_files(model_type: object) -> tuple[str, ...]:
    """The files beside `tokenizer.json` that KerasHub reads from a Hugging Face folder.

    Args:
        model_type: What `config.json` says, whatever that is.
    """
    return _CONVERTER_FILES.get(model_type, ()) if isinstance(model_type, str) else ()


def tokenizer_from_content(
    content: Config, model_type: str
) -> keras_hub.tokenizers.BytePairTokenizer:
    """A KerasHub tokenizer with the vocabulary of a `tokenizer.json`.

    Give the preprocessor the spec of the same file (`spec_from_content`). Without it KerasHub's own
    pipeline stands around the vocabulary, and ids differ from the model's.

    Args:
        content: What `read_tokenizer_json` returns.
        model_type: What the folder's `config.json` says.

    Raises:
        ValueError: The model in it is not byte-pair encoding.
        ImportError: The merges need SentencePiece, and the package is missing.
    """
    model, added = content["model"], content.get("added_tokens") or []
    if "merges" not in model:
        raise ValueError(
            f"The tokenizer.json holds a {checks.shown(model.get('type'))} model, of which no "
            f"tokenizer for model type {model_type!r} can be made here; it takes byte-pair "
            f"encoding, or the files {', '.join(converter_files(model_type))} of an older save."
        )
    pairs = [rule.split(" ") if isinstance(rule, str) else rule for rule in model["merges"]]
    if any(" ".join(pair).split() != pair for pair in pairs):
        # KerasHub keeps a merge as a line "a b", so tokens with white space (Gemma's line breaks)
        # do not come back from it.
        return _sentencepiece_tokenizer(content, model_type)
    special = [token["content"] for token in added]
    vocabulary = {**model["vocab"], **{token["content"]: token["id"] for token in added}}
    merges = [" ".join(pair) for pair in pairs]
    if model_type == "gpt2" and "<|endoftext|>" in vocabulary:
        return keras_hub.models.GPT2Tokenizer(vocabulary, merges, unsplittable_tokens=special)
    if model_type == "roberta":
        return keras_hub.models.RobertaTokenizer(vocabulary, merges, unsplittable_tokens=special)
    return keras_hub.tokenizers.BytePairTokenizer(vocabulary, merges, unsplittable_tokens=special)


def _sentencepiece_tokenizer(
    content: Config, model_type: str
) -> keras_hub.tokenizers.SentencePieceTokenizer:
    """A tokenizer made by the converter that KerasHub has for Gemma 3's `tokenizer.json`."""
    kind = {"gemma": "Gemma", "gemma2": "Gemma", "gemma3n": "Gemma3"}.get(model_type)
    if kind is None:
        raise ValueError(
            "The tokenizer.json has merges with white space, which KerasHub's byte-pair tokenizer "
            f"cannot keep. Put the files {', '.join(converter_files(model_type))} of an older save "
            "beside it."
        )
    converter = importlib.import_module("keras_hub.src.utils.transformers.convert_gemma3")
    try:
        proto = converter._build_sentencepiece_proto(content)
    except ImportError as error:
        raise ImportError(
            f"Reading this tokenizer.json needs sentencepiece and protobuf ({error}). Run `pip "
            "install sentencepiece protobuf`."
        ) from error
    return getattr(keras_hub.models, f"{kind}Tokenizer")(proto)


def without_tokens_beyond(
    tokenizer: keras_hub.tokenizers.Tokenizer, rows: object
) -> keras_hub.tokenizers.Tokenizer:
    """The tokenizer without the special tokens for whose ids the embedding has no row.

    Some published folders have such tokens: a padding token was added to the tokenizer and never to
    the model. A text that spells such a token would read beyond the embedding.

    Args:
        tokenizer: A KerasHub tokenizer.
        rows: Number of rows of the embedding, where the backbone says it.

    Raises:
        ValueError: An ordinary token's id is beyond it.
    """
    vocabulary = getattr(tokenizer, "vocabulary", None)
    if not isinstance(rows, int) or not vocabulary or not hasattr(tokenizer, "merges"):
        return tokenizer
    beyond = {token for token, index in vocabulary.items() if index >= rows}
    if not beyond:
        return tokenizer
    tokenizer = LlamaBPETokenizer.from_llama3(tokenizer)
    ordinary = sorted(beyond - {*tokenizer.special_tokens, *tokenizer.unsplittable_tokens})
    if ordinary:
        raise ValueError(
            f"The tokenizer's vocabulary has the id {vocabulary[ordinary[0]]} for "
            f"{checks.shown(ordinary[0])}, and the embedding has {rows} rows."
        )
    config = tokenizer.get_config()
    for key in ("unsplittable_tokens", "misc_special_tokens"):
        if key in config:
            config[key] = [token for token in config[key] if token not in beyond]
    kept = {token: index for token, index in vocabulary.items() if token not in beyond}
    merges = list(tokenizer.merges)
    return type(tokenizer).from_config({**config, "vocabulary": kept, "merges": merges})
