"""Token ids exactly as the `tokenizers` library gives them, over a KerasHub vocabulary."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import keras_hub
import numpy as np
import tokenizers

from cptk.checks import shown
from cptk.tokenizers.json_tokenizer import JSONTokenizer
from cptk.tokenizers.spec_bounds import check_spec, panic_as_value_error
from cptk.tokenizers.specs import default_spec
from cptk.types import Config, Tensor

#: Texts given to the `tokenizers` library in one call. Beside each id the library holds the text of
#: the token, so a million texts in one call would take many times the memory of their ids.
_TEXTS_PER_CALL = 1024
#: Printable ASCII as byte-level vocabularies write it: the space is Ġ.
_ASCII = ["Ġ", *map(chr, range(ord("!"), ord("~") + 1))]


def build_pipeline(
    vocabulary: Mapping[str, int],
    merges: Sequence[str],
    spec: Mapping[str, object],
    special_tokens: Sequence[str] = (),
) -> tokenizers.Tokenizer:
    """A `tokenizers.Tokenizer` from a vocabulary, merges and a tokenizer spec.

    The pipeline adds no special tokens, does not pad and does not cut. It recognises special
    tokens that stand in a text.

    Args:
        vocabulary: Token → id.
        merges: Rules `"a b"`, best first; comment lines (`#version: …`) are skipped.
        spec: A tokenizer spec.
        special_tokens: Tokens never to be split, where the spec names none (`added_tokens` `None`).

    Raises:
        ValueError: The spec is not one, or does not fit the vocabulary.
    """
    try:
        content = _tokenizer_json(vocabulary, merges, plain_containers(spec), special_tokens)
        with panic_as_value_error("it was built"):
            return tokenizers.Tokenizer.from_str(json.dumps(content))
    # The library raises a bare Exception for whatever it cannot read.
    except Exception as error:
        raise ValueError(
            "The tokenizer spec does not fit this vocabulary, or is not a tokenizer spec: "
            f"{type(error).__name__}: {error}. Use `spec_from_tokenizer_json(folder)` of the same "
            "model, or leave the spec out."
        ) from error


def _tokenizer_json(
    vocabulary: Mapping[str, int], merges: Sequence[str], spec: Config, special: Sequence[str]
) -> Config:
    """What `tokenizer.json` would hold: the spec, checked, with the vocabulary and the merges."""
    ids = {str(token): int(index) for token, index in vocabulary.items()}
    check_spec(spec)
    added = spec.get("added_tokens")
    if added is None:
        flags = {"single_word": False, "rstrip": False, "normalized": False, "special": True}
        added = [
            # RoBERTa's mask takes the space before it; no other special token does.
            {"id": ids[token], "content": token, "lstrip": token == "<mask>", **flags}
            for token in sorted(set(special), key=ids.__getitem__)
        ]
    for token in added:
        # Hugging Face keeps most added tokens outside `vocab`; KerasHub keeps them inside.
        ids.setdefault(token["content"], token["id"])
    pairs = [rule.split(" ") for rule in map(str, merges) if not rule.startswith("#version:")]
    return {
        "version": "1.0",
        "added_tokens": [{**token, "id": ids[token["content"]]} for token in added],
        "post_processor": None,
        **{key: spec.get(key) for key in ("normalizer", "pre_tokenizer", "decoder")},
        "truncation": None,
        "padding": None,
        "model": {**spec["model"], "vocab": ids, "merges": pairs},
    }


class _Built(NamedTuple):
    """A pipeline, and the vocabulary and merges that it was built from."""

    vocabulary: Mapping[str, int]
    merges: Sequence[str]
    pipeline: tokenizers.Tokenizer
    spells_ascii: bool
    """Whether it can spell ASCII at least, or has a token for what it cannot spell."""


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

    ```pycon
    >>> from cptk.tokenizers import ReferenceTokenizer
    >>> reference = ReferenceTokenizer(embedder.preprocessor.tokenizer)
    >>> reference.encode_batch(["a\n\nb"])
    [[64, 198, 198, 65]]

    ```
    """

    def __init__(
        self, tokenizer: keras_hub.tokenizers.Tokenizer, spec: Mapping[str, object] | None = None
    ) -> None:
        self.tokenizer = tokenizer
        chosen = default_spec(tokenizer) if spec is None else plain_containers(spec)
        self.spec: Config | None = (
            dict(chosen) if chosen is not None and hasattr(tokenizer, "merges") else None
        )
        # Read and set as one tuple, so that two threads at worst build the same pipeline twice.
        self._built: _Built | None = None

    @property
    def exact(self) -> bool:
        """Whether ids come from the `tokenizers` library rather than from KerasHub."""
        return self.spec is not None or isinstance(self.tokenizer, JSONTokenizer)

    def tokenizer_json(self) -> Config | None:
        """The content of a `tokenizer.json` that gives these ids; None where they are KerasHub's.

        It adds no special tokens, does not pad and does not cut.

        Raises:
            ValueError: There is no vocabulary yet.
        """
        if isinstance(self.tokenizer, JSONTokenizer):
            self._check_vocabulary()
            pipeline = self.tokenizer.pipeline
        elif self.spec is not None:
            pipeline = self._up_to_date().pipeline
        else:
            return None
        content: Config = json.loads(pipeline.to_str())
        return content

    def encode_batch(self, texts: Sequence[str], longest: int | None = None) -> list[list[int]]:
        """Token ids of each text, none added.

        A vocabulary that lacks some of the 256 byte symbols cannot spell every text. One that can
        spell ASCII (SmolLM2's lacks a few bytes of rare characters and control codes) does as
        `tokenizers` does and leaves such bytes out. One that cannot, a toy, raises an error for
        such a text. (Ours.)

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
        items = _checked_texts(texts)
        if self.spec is None:
            self._check_vocabulary()
            if isinstance(self.tokenizer, JSONTokenizer):
                parts = range(0, len(items), _TEXTS_PER_CALL)
                encode = self.tokenizer.encode_batch
                return [
                    row[:longest]
                    for start in parts
                    for row in encode(items[start : start + _TEXTS_PER_CALL])
                ]
            rows = _rows(self.tokenizer.tokenize(items)) if items else []
            return [[int(index) for index in np.asarray(row)][:longest] for row in rows]
        built = self._up_to_date()
        ids: list[list[int]] = []
        for start in range(0, len(items), _TEXTS_PER_CALL):
            part = items[start : start + _TEXTS_PER_CALL]
            with panic_as_value_error("it read texts"):
                encoded = built.pipeline.encode_batch_fast(part, add_special_tokens=False)
            for index, (text, encoding) in enumerate(zip(part, encoded, strict=True), start):
                row = encoding.ids
                if not built.spells_ascii and not self._spells(row, text):
                    raise ValueError(
                        f"Text {index} has characters that are not in the vocabulary"
                        f"{self._unspellable(text)}: {shown(text)}. Use a vocabulary with all 256 "
                        "byte symbols: `tokenizers.pre_tokenizers.ByteLevel.alphabet()`."
                    )
                ids.append(row[:longest])
        return ids

    def encode_exactly(self, text: str) -> list[int]:
        """Token ids of a role's prefix or suffix, checked to spell exactly that text.

        Raises:
            ValueError: The ids do not spell the text.
            TypeError: `text` is not a string.
        """
        (text,) = _checked_texts([text])
        if isinstance(self.tokenizer, JSONTokenizer):
            (row,) = self.encode_batch([text])
            is_spelt = self.tokenizer.spells(row)
        elif self.spec is None:
            (row,) = self.encode_batch([text])
            is_spelt = _as_str(self.tokenizer.detokenize([row])).strip() == text.strip()
        else:
            with panic_as_value_error("it read a delimiter"):
                encoding = self._up_to_date().pipeline.encode(text, add_special_tokens=False)
            row = encoding.ids
            is_spelt = self._spells(row, text)
        if not is_spelt:
            raise ValueError(
                f"The delimiter {shown(text)} is not in the vocabulary"
                f"{self._unspellable(text)}: its token ids {shown(row)} do not spell it. Choose "
                "one that the vocabulary can spell, or give its token ids."
            )
        return row

    def _check_vocabulary(self) -> None:
        """Raise `ValueError` where the KerasHub tokenizer still waits for its vocabulary."""
        if getattr(self.tokenizer, "vocabulary", True) is None:
            raise ValueError(
                f"{type(self.tokenizer).__name__} has no vocabulary yet. Load it from a preset, or "
                "pass `vocabulary` and `merges`."
            )

    def _up_to_date(self) -> _Built:
        """The pipeline over the vocabulary and merges as they are now, built anew if need be."""
        self._check_vocabulary()
        vocabulary, merges = self.tokenizer.vocabulary, self.tokenizer.merges
        built = self._built
        if built is None or built.vocabulary is not vocabulary or built.merges is not merges:
            assert self.spec is not None
            special = getattr(self.tokenizer, "unsplittable_tokens", None) or ()
            pipeline = build_pipeline(vocabulary, merges, self.spec, special)
            model = self.spec["model"]
            has_unknown = model.get("unk_token") is not None or model.get("byte_fallback", False)
            spells_ascii = has_unknown or all(symbol in vocabulary for symbol in _ASCII)
            built = self._built = _Built(vocabulary, merges, pipeline, spells_ascii)
        return built

    def _spells(self, ids: list[int], text: str) -> bool:
        """Whether the ids, decoded, are the text."""
        pipeline = self._up_to_date().pipeline
        with panic_as_value_error("it spelt tokens"):
            if pipeline.normalizer is not None:
                text = pipeline.normalizer.normalize_str(text)
            # A prefix space, where the pipeline adds one, comes back too.
            return pipeline.decode(ids, skip_special_tokens=False) in (text, f" {text}")

    def _unspellable(self, text: str) -> str:
        """The first characters of a text that the vocabulary cannot spell, for an error message."""
        if self.spec is None:
            return ""
        pipeline = self._up_to_date().pipeline
        alone = {char: pipeline.encode(char, add_special_tokens=False).ids for char in set(text)}
        missing = sorted(char for char, ids in alone.items() if not self._spells(ids, char))
        return f" ({', '.join(map(repr, missing[:5]))})" if missing else ""


def plain_containers(spec: Mapping[str, object]) -> Config:
    """The same spec in plain dictionaries and lists.

    Keras and TensorFlow wrap dictionaries and lists that are set on a layer, and `json` does not
    take the wrappers.
    """
    return {str(key): _plain(item) for key, item in spec.items()}


def _plain(value: object) -> object:
    if isinstance(value, Mapping):
        return plain_containers(value)
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


def _checked_texts(texts: object) -> list[str]:
    """The texts as a list; an empty one is allowed, since the spelling of nothing is nothing."""
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


def _rows(ids: Tensor) -> Iterable[Sequence[int]]:
    """The rows of a batch of ids from KerasHub, which may be a ragged tensor."""
    rows: Iterable[Sequence[int]] = ids.to_list() if hasattr(ids, "to_list") else list(ids)
    return rows


def _as_str(detokenized: Tensor) -> str:
    """One text of KerasHub's `detokenize`, which gives a string, bytes, or a tensor of them."""
    if hasattr(detokenized, "numpy"):
        detokenized = detokenized.numpy()
    first = detokenized if isinstance(detokenized, str | bytes) else next(iter(detokenized))
    return first.decode("utf-8") if isinstance(first, bytes) else str(first)
