"""A tokenizer that is kept as the `tokenizer.json` of its model, whatever kind it is of."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Sequence
from pathlib import Path

import keras
import keras_hub
import numpy as np
import tokenizers

from cptk import checks
from cptk.tokenizers.config_file import check_config_file
from cptk.tokenizers.spec_bounds import check_spec, panic_as_value_error
from cptk.tokenizers.tokenizer_json import read_tokenizer_json
from cptk.types import Config

FILE = "tokenizer.json"
_MODELS = ("BPE", "Unigram", "WordLevel", "WordPiece")
_LONGEST_REPLACEMENT = 64  # bytes; NFKC's longest has 33
#: Texts to find out by what a `tokenizer.json` puts around a text: one of them has tokens.
_PROBES = ("a", "the", "1", ".", "A", " ")


@keras.saving.register_keras_serializable(package="cptk")
class JSONTokenizer(keras_hub.tokenizers.Tokenizer):  # type: ignore[misc]
    """The ids of a Hugging Face `tokenizer.json`: WordPiece, Unigram or byte-pair encoding.

    BERT's and XLM-RoBERTa's tokenizers have no merges, so a spec around KerasHub's vocabulary
    (`ReferenceTokenizer`) cannot describe them. This class keeps the whole file, and saves it with
    a preset. It adds no special tokens: a role does (`tokens_around`).

    Args:
        content: The content of a `tokenizer.json`; None where a preset brings it later.

    Raises:
        ValueError: A tokenizer that is random (dropout), a step that is not known to be harmless,
            or a content that is no tokenizer.

    Example:

    ```pycon
    >>> from cptk.tokenizers import JSONTokenizer
    >>> words = {"[UNK]": 0, "open": 1, "##ing": 2}
    >>> model = {"type": "WordPiece", "unk_token": "[UNK]", "vocab": words}
    >>> model |= {"continuing_subword_prefix": "##", "max_input_chars_per_word": 100}
    >>> tokenizer = JSONTokenizer({"pre_tokenizer": {"type": "BertPreTokenizer"}, "model": model})
    >>> tokenizer.tokenize(["opening open"])
    [[1, 2, 1]]

    ```
    """

    backbone_cls = None  # Not a candidate when KerasHub looks for the tokenizer of a backbone.

    def __init__(self, content: Config | None = None, **kwargs: object) -> None:
        check_config_file(kwargs.get("config_file", "tokenizer.json"))
        super().__init__(**kwargs)
        self.file_assets = [FILE]
        self._json: str | None = None
        self._size = 0
        self._pipeline: tokenizers.Tokenizer | None = None
        if content is not None:
            self.set_content(content)

    def set_content(self, content: Config) -> None:
        """Take the content of a `tokenizer.json`, without what pads, cuts and adds tokens."""
        _check_content(content)
        steps = {key: content.get(key) for key in ("normalizer", "pre_tokenizer", "decoder")}
        kept = {
            "version": "1.0",
            "truncation": None,
            "padding": None,
            "added_tokens": content.get("added_tokens") or [],
            **steps,
            "post_processor": None,
            "model": content["model"],
        }
        text = json.dumps(kept, ensure_ascii=False)
        self._pipeline = _built(text)
        self._json = text
        self._size = max(self._pipeline.get_vocab().values(), default=-1) + 1

    @property
    def content(self) -> str | None:
        """The `tokenizer.json` as text."""
        return self._json

    @property
    def vocabulary(self) -> dict[str, int] | None:
        """Token → id; None before there is one."""
        return None if self._pipeline is None else self._pipeline.get_vocab()

    @property
    def pipeline(self) -> tokenizers.Tokenizer:
        """The tokenizer of the `tokenizers` library."""
        if self._pipeline is None:
            raise ValueError("JSONTokenizer has no vocabulary yet. Load it from a preset.")
        return self._pipeline

    def vocabulary_size(self) -> int:
        return self._size if self.pipeline else 0

    def get_vocabulary(self) -> list[str]:
        words = self.pipeline.get_vocab()
        return sorted(words, key=words.__getitem__)

    def id_to_token(self, id: int) -> str | None:  # noqa: A002
        token: str | None = self.pipeline.id_to_token(int(id))
        return token

    def token_to_id(self, token: str) -> int | None:
        index: int | None = self.pipeline.token_to_id(token)
        return index

    def call(self, inputs: str | Sequence[str]) -> list[list[int]] | list[int]:
        return self.tokenize(inputs)

    def tokenize(self, inputs: str | Sequence[str]) -> list[list[int]] | list[int]:
        """The ids of a text, or of each of a list of texts."""
        rows = self.encode_batch([inputs] if isinstance(inputs, str) else list(inputs))
        return rows[0] if isinstance(inputs, str) else rows

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of each text."""
        with panic_as_value_error("it read texts"):
            found = self.pipeline.encode_batch_fast(list(texts), add_special_tokens=False)
        return [each.ids for each in found]

    def detokenize(self, inputs: Sequence[int] | Sequence[Sequence[int]]) -> str | list[str]:
        """The text of some ids, or of each list of ids."""
        rows = [np.asarray(row) for row in inputs]
        if all(row.ndim == 0 for row in rows):
            text: str = self.pipeline.decode([int(i) for i in rows], skip_special_tokens=False)
            return text
        return [self.pipeline.decode(row.tolist(), skip_special_tokens=False) for row in rows]

    def spells(self, ids: Sequence[int]) -> bool:
        """Whether ids came of a text that the vocabulary has tokens for."""
        model = json.loads(self._json or "{}").get("model", {})
        unknown = model.get("unk_id")
        if unknown is None and model.get("unk_token") is not None:
            unknown = self.token_to_id(model["unk_token"])
        return len(ids) > 0 and unknown not in ids

    def without_tokens_beyond(self, rows: int) -> JSONTokenizer:
        """The tokenizer without the added tokens for whose ids an embedding has no row.

        Args:
            rows: Number of rows of the embedding.

        Raises:
            ValueError: An ordinary token's id is beyond it.
        """
        content = json.loads(self._json or "{}")
        added = [token for token in content["added_tokens"] if token["id"] < rows]
        kept = self
        if len(added) < len(content["added_tokens"]):
            kept = JSONTokenizer({**content, "added_tokens": added}, **self.get_config())
        beyond = [token for token, index in kept.pipeline.get_vocab().items() if index >= rows]
        if beyond:
            raise ValueError(
                f"The tokenizer's vocabulary has the id {self.token_to_id(beyond[0])} for "
                f"{checks.shown(beyond[0])}, and the embedding has {rows} rows."
            )
        return kept

    def save_assets(self, dir_path: str) -> None:
        if self._json is None:
            raise ValueError("JSONTokenizer has no vocabulary yet: there is nothing to save.")
        (Path(dir_path) / FILE).write_text(self._json, encoding="utf-8")

    def load_assets(self, dir_path: str) -> None:
        self.set_content(read_tokenizer_json(Path(dir_path) / FILE))


def tokens_around(content: Config) -> tuple[list[int], list[int]]:
    """The ids that a `tokenizer.json` puts before and after every text: BERT's [CLS] and [SEP].

    Args:
        content: What `read_tokenizer_json` returns.

    Raises:
        ValueError: They cannot be told.
    """
    if content.get("post_processor") is None:
        return [], []
    _check_content(content)
    pipeline = _built(json.dumps({**content, "truncation": None, "padding": None}))
    with panic_as_value_error("it read a probe"):
        for probe in _PROBES:
            alone = pipeline.encode(probe, add_special_tokens=False).ids
            whole = pipeline.encode(probe).ids
            for start in range(len(whole) - len(alone) + 1):
                if alone and whole[start : start + len(alone)] == alone:
                    return whole[:start], whole[start + len(alone) :]
    raise ValueError(
        "The tokenizer.json has a post-processor that does more than put tokens before and after a "
        f"text: {checks.shown(content['post_processor'])}. Pass `roles=` with the ids instead."
    )


def lower_cased(content: Config) -> Config:
    """A `tokenizer.json` that lower-cases texts first, as sentence-transformers' option does."""
    first: Config = {"type": "Lowercase"}
    normalizer = content.get("normalizer")
    known = normalizer or {}
    steps = known.get("normalizers", []) if known.get("type") == "Sequence" else [normalizer]
    if any(step == first for step in steps):
        return content
    steps = [first, *(step for step in steps if step)]
    return {**content, "normalizer": {"type": "Sequence", "normalizers": steps}}


def _built(text: str) -> tokenizers.Tokenizer:
    try:
        with panic_as_value_error("it was built"):
            return tokenizers.Tokenizer.from_str(text)
    # The library raises a bare Exception for whatever it cannot read.
    except Exception as error:
        raise ValueError(
            f"The tokenizer.json cannot be read: {type(error).__name__}: {error}. Copy or download "
            "it again."
        ) from error


def _check_content(content: Config) -> None:
    model = content.get("model")
    if not isinstance(model, dict) or model.get("vocab") is None:
        raise ValueError(
            "A tokenizer.json should hold a `model` with a `vocab`. Received: "
            f"{checks.shown(content)}."
        )
    normalizer = _without_tables(content.get("normalizer"))
    check_spec({**content, "normalizer": normalizer}, _MODELS)


def _without_tables(step: object) -> object:
    """A normaliser with its `Precompiled` steps checked and replaced by one of their growth."""
    if not isinstance(step, dict):
        return step
    if step.get("type") == "Sequence" and isinstance(step.get("normalizers"), list):
        return {**step, "normalizers": [_without_tables(inner) for inner in step["normalizers"]]}
    if step.get("type") != "Precompiled":
        return step
    table = step.get("precompiled_charsmap")
    try:
        blob = base64.b64decode(table if isinstance(table, str) else "", validate=True)
    except (binascii.Error, ValueError):
        blob = b""
    # Four bytes say how long the trie is; the replacements follow it, each ended by a zero byte.
    start = 4 + int.from_bytes(blob[:4], "little")
    longest = max(map(len, blob[start:].split(b"\0")), default=0)
    if len(blob) < 4 or start > len(blob) or longest > _LONGEST_REPLACEMENT:
        raise ValueError(
            "The tokenizer.json is refused: its `precompiled_charsmap` is no table of "
            f"replacements of up to {_LONGEST_REPLACEMENT} bytes. Copy or download it again."
        )
    return {"type": "NFKC"}
