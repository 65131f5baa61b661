r"""Token ids exactly as the `tokenizers` library gives them, over a KerasHub vocabulary.

A KerasHub byte-pair tokenizer owns a vocabulary and merges but not the pipeline around them, and
its own pipeline differs from the model's: "a\n\nb" is three tokens there and four in GPT-2. A
*tokenizer spec* is that missing part: a `tokenizer.json` without its vocabulary and merges, small
and JSON-able, so that a preset can carry it.
"""

import json
from collections.abc import Mapping, Sequence
from os import PathLike
from typing import Any

import keras_hub
import numpy as np
import tokenizers

from cptk import checks
from cptk.checks import shown
from cptk.models.tokenizer_bounds import check_spec, no_panic
from cptk.models.tokenizer_json import read_tokenizer_json

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
#: KerasHub class → family. Looked up by name along the class's bases, so subclasses count too.
_FAMILIES = {
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


#: Texts that the `tokenizers` library is given at once: beside each id it holds the token's text.
_SLICE = 1024
#: Printable ASCII as byte-level vocabularies write it: the space is Ġ.
_ASCII = ["Ġ", *map(chr, range(ord("!"), ord("~") + 1))]


def family_spec(family: str, add_prefix_space: bool = False) -> dict[str, Any]:
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
    steps: dict[str, list[dict[str, Any]]] = {
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


def _split(pattern: str) -> dict[str, Any]:
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}


def default_spec(tokenizer: Any) -> dict[str, Any] | None:
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


def spec_from_tokenizer_json(path: str | PathLike[str]) -> dict[str, Any] | None:
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
    return spec_of(read_tokenizer_json(path))


def spec_of(content: Mapping[str, Any]) -> dict[str, Any] | None:
    """The tokenizer spec in the content of a Hugging Face `tokenizer.json`."""
    model = content["model"]
    if "merges" not in model:
        return None
    spec = {
        "normalizer": content.get("normalizer"),
        "pre_tokenizer": content.get("pre_tokenizer"),
        "decoder": content.get("decoder"),
        "model": {k: v for k, v in model.items() if k not in ("vocab", "merges")},
        "added_tokens": content.get("added_tokens") or [],
    }
    check_spec(spec)
    return spec


def build(
    vocabulary: Mapping[str, int],
    merges: Sequence[str],
    spec: Mapping[str, Any],
    special_tokens: Sequence[str] = (),
) -> tokenizers.Tokenizer:
    """A `tokenizers.Tokenizer` from a vocabulary, merges and a tokenizer spec.

    It adds no special tokens, does not pad and does not cut; special tokens that stand in a text
    are recognised.

    Args:
        vocabulary: Token → id.
        merges: Rules `"a b"`, best first; comment lines (`#version: …`) are skipped.
        spec: A tokenizer spec.
        special_tokens: Tokens never to be split, where the spec names none (`added_tokens` `None`).

    Raises:
        ValueError: The spec is not one, or does not fit the vocabulary.
    """
    vocab = {str(token): int(index) for token, index in vocabulary.items()}
    try:
        spec = plain(spec)
        check_spec(spec)
        added = spec.get("added_tokens")
        if added is None:
            flags = {"single_word": False, "rstrip": False, "normalized": False, "special": True}
            added = [
                # RoBERTa's mask takes the space before it; no other special token does.
                {"id": vocab[token], "content": token, "lstrip": token == "<mask>", **flags}
                for token in sorted(set(special_tokens), key=vocab.__getitem__)
            ]
        for token in added:
            # Hugging Face keeps most added tokens outside `vocab`; KerasHub keeps them inside.
            vocab.setdefault(token["content"], token["id"])
        added = [{**token, "id": vocab[token["content"]]} for token in added]
        pairs = [rule.split(" ") for rule in map(str, merges) if not rule.startswith("#version:")]
        pipeline = {key: spec.get(key) for key in ("normalizer", "pre_tokenizer", "decoder")}
        model = {**spec["model"], "vocab": vocab, "merges": pairs}
        content = {"version": "1.0", "added_tokens": added, "post_processor": None, **pipeline}
        text = json.dumps({**content, "truncation": None, "padding": None, "model": model})
        with no_panic("it was built"):
            return tokenizers.Tokenizer.from_str(text)
    # The library raises a bare Exception for whatever it cannot read.
    except Exception as error:
        raise ValueError(
            "The tokenizer spec does not fit this vocabulary, or is not a tokenizer spec: "
            f"{type(error).__name__}: {error}. Use `spec_from_tokenizer_json(folder)` of the same "
            "model, or leave the spec out."
        ) from error


class ReferenceTokenizer:
    r"""Texts to token ids, as the `tokenizers` library gives them.

    It follows its KerasHub tokenizer: where the vocabulary arrives later (a preset being loaded) or
    changes, the pipeline is built anew at the next call. Without a spec, and for tokenizers that
    are not byte-pair encoding, it gives the KerasHub tokenizer's own ids.

    Args:
        tokenizer: A KerasHub tokenizer.
        spec: A tokenizer spec. Defaults to `default_spec(tokenizer)`. Not used for a tokenizer
            without merges.

    Example:

    ```python
    reference = cptk.models.tokenization.ReferenceTokenizer(gpt2_tokenizer)
    reference.encode_batch(["a\n\nb"])  # [[64, 198, 198, 65]]
    ```
    """

    def __init__(self, tokenizer: Any, spec: Mapping[str, Any] | None = None) -> None:
        self.tokenizer = tokenizer
        spec = default_spec(tokenizer) if spec is None else plain(spec)
        self.spec = spec if hasattr(tokenizer, "merges") else None
        # The vocabulary and merges that the pipeline was built from, the pipeline, and whether it
        # can spell ASCII at least. One tuple, so that two threads at worst build the same twice.
        self._built: tuple[Any, Any, tokenizers.Tokenizer, bool] | None = None

    @property
    def exact(self) -> bool:
        """Whether ids come from the `tokenizers` library rather than from KerasHub."""
        return self.spec is not None

    def encode_batch(self, texts: Sequence[str], longest: int | None = None) -> list[list[int]]:
        """Token ids of each text, none added.

        A vocabulary that lacks some of the 256 byte symbols cannot spell every text. One that can
        spell ASCII (SmolLM2's lacks a few bytes of rare characters and control codes) does as
        `tokenizers` does and leaves such bytes out; with one that cannot, a toy, such a text is an
        error. (Ours.)

        Args:
            texts: A sequence of n strings.
            longest: Ids of a text that are kept, the first ones. Defaults to all.

        Returns:
            n lists of ids; that of an empty string is empty.

        Raises:
            TypeError: `texts` is not a sequence of strings.
            ValueError: A text has a lone surrogate, which is no character, or a character that a
                toy vocabulary cannot spell; or there is no vocabulary yet.
        """
        items = _check(texts)
        if self.spec is None:
            self._check_vocabulary()
            rows = _rows(self.tokenizer.tokenize(items)) if items else []
            return [_ids(row)[:longest] for row in rows]
        _, _, pipeline, complete = self._current()
        ids: list[list[int]] = []
        for start in range(0, len(items), _SLICE):
            part = items[start : start + _SLICE]
            with no_panic("it read texts"):
                encoded = pipeline.encode_batch_fast(part, add_special_tokens=False)
            for index, (text, encoding) in enumerate(zip(part, encoded, strict=True), start):
                row = encoding.ids
                if not complete and not self._spells(row, text):
                    raise ValueError(
                        f"Text {index} has characters that are not in the vocabulary"
                        f"{self._culprits(text)}: {shown(text)}. Use a vocabulary with all 256 "
                        "byte symbols: `tokenizers.pre_tokenizers.ByteLevel.alphabet()`."
                    )
                ids.append(row[:longest])
        return ids

    def encode_exactly(self, text: str) -> list[int]:
        """Token ids of a role's prefix or suffix, checked to spell exactly that.

        Raises:
            ValueError: They do not.
            TypeError: `text` is not a string.
        """
        (text,) = _check([text])
        if self.spec is None:
            (row,) = self.encode_batch([text])
            spelt = _text(self.tokenizer.detokenize([row])).strip() == text.strip()
        else:
            with no_panic("it read a delimiter"):
                row = self._pipeline().encode(text, add_special_tokens=False).ids
            spelt = self._spells(row, text)
        if not spelt:
            raise ValueError(
                f"The delimiter {shown(text)} is not in the vocabulary"
                f"{self._culprits(text)}: its token ids {shown(row)} do not spell it. Choose one "
                "that the vocabulary can spell, or give its token ids."
            )
        return row

    def _check_vocabulary(self) -> None:
        if getattr(self.tokenizer, "vocabulary", True) is None:
            raise ValueError(
                f"{type(self.tokenizer).__name__} has no vocabulary yet. Load it from a preset, or "
                "pass `vocabulary` and `merges`."
            )

    def _pipeline(self) -> tokenizers.Tokenizer:
        return self._current()[2]

    def _current(self) -> tuple[Any, Any, tokenizers.Tokenizer, bool]:
        self._check_vocabulary()
        vocabulary, merges = self.tokenizer.vocabulary, self.tokenizer.merges
        built = self._built
        if built is None or built[0] is not vocabulary or built[1] is not merges:
            assert self.spec is not None
            special = getattr(self.tokenizer, "unsplittable_tokens", None) or ()
            pipeline = build(vocabulary, merges, self.spec, special)
            model = self.spec["model"]
            has_unknown = model.get("unk_token") is not None or model.get("byte_fallback", False)
            complete = has_unknown or all(symbol in vocabulary for symbol in _ASCII)
            built = self._built = (vocabulary, merges, pipeline, complete)
        return built

    def _spells(self, ids: list[int], text: str) -> bool:
        built = self._pipeline()
        with no_panic("it spelt tokens"):
            if built.normalizer is not None:
                text = built.normalizer.normalize_str(text)
            # A prefix space, where the pipeline adds one, comes back too.
            return built.decode(ids, skip_special_tokens=False) in (text, f" {text}")

    def _culprits(self, text: str) -> str:
        if self.spec is None:
            return ""
        built = self._pipeline()
        alone = {char: built.encode(char, add_special_tokens=False).ids for char in set(text)}
        missing = sorted(char for char, ids in alone.items() if not self._spells(ids, char))
        return f" ({', '.join(map(repr, missing[:5]))})" if missing else ""


def plain(value: Any) -> Any:
    """Keras and TensorFlow wrap dicts and lists that are set on a layer; JSON wants plain ones."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value


def _check(texts: Any) -> list[str]:
    if isinstance(texts, str | bytes) or not isinstance(texts, Sequence | np.ndarray):
        raise TypeError(f"Expected a list of strings. Received: {shown(texts)}.")
    items = list(texts)
    for index, text in enumerate(items):
        if not isinstance(text, str):
            raise TypeError(
                f"Text {index} should be a string. Received: {shown(text)} of type "
                f"{type(text).__name__}."
            )
        if not text.isascii():
            try:
                text.encode("utf-8")
            except UnicodeEncodeError as error:
                raise ValueError(
                    f"Text {index} has a lone surrogate (half a character) at position "
                    f"{error.start}: {shown(text)}. Repair it with "
                    '`text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")`.'
                ) from error
    return items


def _rows(output: Any) -> list[Any]:
    return output.to_list() if hasattr(output, "to_list") else list(output)


def _ids(row: Any) -> list[int]:
    return [int(index) for index in np.asarray(row)]


def _text(output: Any) -> str:
    if hasattr(output, "numpy"):
        output = output.numpy()
    first = output if isinstance(output, str | bytes) else next(iter(output))
    return first.decode("utf-8") if isinstance(first, bytes) else str(first)
