"""BERT's tokenizer as TensorFlow operations, with the ids of the `tokenizers` library.

TensorFlow Text's own `BertTokenizer` folds cases (ß becomes ss), keeps no special tokens apart and
counts bytes where the reference counts characters. So the steps are spelt out here in the order of
`tokenizers`' `BertNormalizer`, `BertPreTokenizer` and `WordPiece`, and compared before they are
used. Which characters are controls, marks and punctuation is asked of that library, whose tables
are of another version of Unicode than TensorFlow's.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np
import tokenizers
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer

from cptk import checks, optional
from cptk.export.tokenizer_file import with_role
from cptk.types import Config, Tensor

IdsOf = Callable[[Tensor], tuple[Tensor, Tensor]]
"""n strings → token ids and mask, `(n, longest)`."""

_CJK = (
    r"[\x{4E00}-\x{9FFF}\x{3400}-\x{4DBF}\x{20000}-\x{2A6DF}\x{2A700}-\x{2B73F}\x{2B740}-\x{2B81F}"
    r"\x{2B920}-\x{2CEAF}\x{F900}-\x{FAFF}\x{2F800}-\x{2FA1F}]"
)
#: The first of the private characters that stand for special tokens, which no text keeps.
_MARK = 0xE000
_LONGEST_WORD = 100  # characters


class _Characters(NamedTuple):
    """Characters that BERT's tokenizer treats alike, in its own opinion."""

    removed: list[int]
    spaces: list[int]
    marks: list[int]
    punctuation: list[int]


@functools.cache
def _characters() -> _Characters:
    """What `tokenizers` does to each character by itself; a second or two."""
    clean = BertNormalizer(True, False, False, False)
    strip = BertNormalizer(False, False, True, False)
    split = BertPreTokenizer()
    found = _Characters([], [], [], [])
    # No character has been given a place from 0x40000 up to 0xE0000.
    for start in (*range(0, 0x40000, 0x8000), *range(0xE0000, 0x110000, 0x8000)):
        places = [i for i in range(start, start + 0x8000) if not 0xD800 <= i < 0xE000]
        places = [i for i in places if i != ord("|")]  # it stands between the others
        text = "|".join(map(chr, places))
        for place, part in zip(places, clean.normalize_str(text).split("|"), strict=True):
            if part != chr(place):
                (found.spaces if part == " " else found.removed).append(place)
        parts = strip.normalize_str(text).split("|")
        found.marks.extend(i for i, part in zip(places, parts, strict=True) if not part)
        pieces = split.pre_tokenize_str("a".join(map(chr, places)))
        found.punctuation.extend(ord(p) for p, _ in pieces if len(p) == 1 and p != "a")
    found.punctuation.append(ord("|"))
    return found


def _any_of(places: Iterable[int]) -> str:
    """A regular expression for one of these characters."""
    runs: list[list[int]] = []
    for place in sorted(set(places)):
        if runs and place == runs[-1][1] + 1:
            runs[-1][1] = place
        else:
            runs.append([place, place])
    return "[" + "".join(rf"\x{{{first:X}}}-\x{{{last:X}}}" for first, last in runs) + "]"


def for_roles(found: Config, texts: Sequence[str]) -> tuple[dict[str, IdsOf] | None, str]:
    """A function for each role, or None and why there is none.

    Args:
        found: `Tokenization` as a dictionary.
        texts: Texts on which the ids should be the reference's.
    """
    content = found["content"]
    if content is None:
        return None, found["why_not"]
    why = _no_counterpart(content)
    if why:
        return None, why
    optional.load("tensorflow_text", "Strings in a SavedModel", "tensorflow-text 2.21", "onnx")
    pieces = _pieces_function(content)
    length = found["sequence_length"]
    made: dict[str, IdsOf] = {}
    for name, (prefix, suffix, prompt) in found["roles"].items():
        made[name] = _with_role(pieces, prefix, suffix, prompt, length)
        wrong = _first_wrong(made[name], content, (prefix, suffix, prompt), length, texts)
        if wrong is not None:
            return None, f"TensorFlow gives other ids than the tokenizer, of {checks.shown(wrong)}"
    return made, ""


def _no_counterpart(content: Config) -> str:
    """Why a `tokenizer.json` has no counterpart here; empty where it has one."""
    model, normalizer = content["model"], content.get("normalizer") or {}
    kind = model.get("type") or ("BPE" if "merges" in model else "a model without a name")
    if kind != "WordPiece":
        return f"TensorFlow Text has no counterpart of the tokenizer's model, {kind}"
    if normalizer.get("type") != "BertNormalizer" or not normalizer.get("clean_text"):
        return "the tokenizer's normaliser is not BERT's"
    if (content.get("pre_tokenizer") or {}).get("type") != "BertPreTokenizer":
        return "the tokenizer's pre-tokeniser is not BERT's"
    if model.get("max_input_chars_per_word", 100) != _LONGEST_WORD:
        return f"words are cut at {model['max_input_chars_per_word']} characters, not at 100"
    for token in content.get("added_tokens") or []:
        if any(token.get(flag) for flag in ("single_word", "lstrip", "rstrip", "normalized")):
            return f"the special token {token['content']!r} takes of its surroundings"
    words = model["vocab"]
    if sorted(words.values()) != list(range(len(words))) or model["unk_token"] not in words:
        return "the vocabulary has gaps"
    return ""


def _pieces_function(content: Config) -> Callable[[Tensor], Tensor]:
    """Ragged ids of n strings, none added."""
    import tensorflow as tf
    import tensorflow_text as tf_text

    model, normalizer = content["model"], content["normalizer"]
    unknown, lower = model["unk_token"], bool(normalizer["lowercase"])
    strip = normalizer.get("strip_accents")
    strip = lower if strip is None else bool(strip)
    words = sorted(model["vocab"], key=model["vocab"].__getitem__)
    added = [(token["content"], int(token["id"])) for token in content.get("added_tokens") or []]
    word_piece = tf_text.FastWordpieceTokenizer(
        vocab=words,
        suffix_indicator=model["continuing_subword_prefix"],
        max_bytes_per_word=4 * _LONGEST_WORD,
        token_out_type=tf.int32,
        unknown_token=unknown,
        no_pretokenization=True,
    )
    kept = range(_MARK, _MARK + max(len(added), 1))
    known = _characters()
    removed, spaces = _any_of(set(known.removed) - set(kept)), _any_of(known.spaces)
    marks, punctuation = _any_of(known.marks), _any_of(known.punctuation)

    def replaced(text: Tensor, pattern: str, by: str) -> Tensor:
        return tf.strings.regex_replace(text, pattern, by)

    def pieces(texts: Tensor) -> Tensor:
        # A private character of the text's own is taken away by the cleaning below; until then it
        # must stand between what it stands between, and not look like a mark.
        text = replaced(texts, _any_of(kept), "\u200b")
        for index, (token, _) in enumerate(added):
            text = replaced(text, re.escape(token), f" {chr(_MARK + index)} ")
        text = replaced(replaced(text, removed, ""), spaces, " ")
        if normalizer.get("handle_chinese_chars"):
            text = replaced(text, f"({_CJK})", r" \1 ")
        if strip:
            text = replaced(tf_text.normalize_utf8(text, "NFD"), marks, "")
        if lower:
            # TensorFlow lower-cases a sigma by its place in the word, the reference each alike.
            text = tf.strings.lower(replaced(text, "\u03a3", "\u03c3"), encoding="utf-8")
        text = replaced(text, f"({punctuation})", r" \1 ")
        split = tf.strings.split(text)
        flat = split.values
        too_long = tf.strings.length(flat, unit="UTF8_CHAR") > _LONGEST_WORD
        flat = tf.where(too_long, tf.constant(unknown), flat)
        ids = word_piece.tokenize(flat)
        for index, (_, token_id) in enumerate(added):
            is_mark = tf.equal(flat, chr(_MARK + index))
            single = tf.RaggedTensor.from_row_lengths(
                tf.fill([tf.size(flat)], token_id), tf.ones_like(flat, tf.int64)
            )
            ids = tf.ragged.boolean_mask(
                tf.concat([ids, single], axis=1),
                tf.concat(
                    [
                        tf.zeros_like(ids, tf.bool) | ~tf.expand_dims(is_mark, 1),
                        tf.zeros_like(single, tf.bool) | tf.expand_dims(is_mark, 1),
                    ],
                    axis=1,
                ),
            )
        return tf.RaggedTensor.from_row_splits(ids, split.row_splits).merge_dims(1, 2)

    return pieces


def _with_role(
    pieces: Callable[[Tensor], Tensor],
    prefix: list[int],
    suffix: list[int],
    prompt: str,
    length: int,
) -> IdsOf:
    import tensorflow as tf

    room = length - len(prefix) - len(suffix)

    def ids_of(texts: Tensor) -> tuple[Tensor, Tensor]:
        rows = tf.shape(texts)[0]
        ids = pieces(tf.strings.join([prompt, texts]) if prompt else texts)[:, :room]
        parts = [tf.tile(tf.constant([part], tf.int32), [rows, 1]) for part in (prefix, suffix)]
        whole = tf.concat([parts[0], ids, parts[1]], axis=1)
        return whole.to_tensor(), tf.sequence_mask(whole.row_lengths())

    return ids_of


def _first_wrong(
    ids_of: IdsOf,
    content: Config,
    role: tuple[list[int], list[int], str],
    length: int,
    texts: Sequence[str],
) -> str | None:
    """The first text of which the graph gives other ids than the reference."""
    import tensorflow as tf

    prefix, suffix, prompt = role
    reference = tokenizers.Tokenizer.from_str(
        json.dumps(with_role(content, prefix, suffix, length))
    )
    found, mask = (np.asarray(x) for x in tf.function(ids_of)(tf.constant(list(texts))))
    for text, row, seen in zip(texts, found, mask, strict=True):
        if row[seen].tolist() != reference.encode(prompt + text).ids:
            return text
    return None
