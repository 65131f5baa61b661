"""What a tokenizer spec may hold.

A spec may come from a stranger's preset or `tokenizer.json`, and the `tokenizers` library runs it
without a bound of its own. A chain of replacements would take all memory. A pattern that the
library gives up on raises a panic, which `except Exception` does not catch.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from cptk.checks import is_integer, shown

#: Steps known to be harmless within the bounds below. `Precompiled` is not: it is a binary table.
_STEPS = {
    "normalizer": "BertNormalizer ByteLevel Lowercase NFC NFD NFKC NFKD Nmt Prepend Replace "
    "Sequence Strip StripAccents",
    "pre_tokenizer": "BertPreTokenizer ByteLevel CharDelimiterSplit Digits Metaspace Punctuation "
    "Sequence Split UnicodeScripts Whitespace WhitespaceSplit",
    "decoder": "BPEDecoder ByteFallback ByteLevel Fuse Metaspace Replace Sequence Strip WordPiece",
}
_LONGEST_PATTERN = 4096  # characters; o200k's, the longest known, has 500
_LONGEST_TEXT = 64  # of a replacement, a prefix, the name of an option
_LONGEST_TOKEN = 1024
_LARGEST_NUMBER = 1_000_000
_MOST_PARTS = 4096  # dictionaries, lists and values of a pipeline
_DEEPEST = 16
#: A pipeline may make a text this many times as long, in bytes. (Ours: SentencePiece's spaces, the
#: largest growth known, make it 4 times as long.)
_LARGEST_GROWTH = 64


def check_spec(spec: object, models: tuple[str, ...] = ("BPE",)) -> None:
    """Raise `ValueError` for a tokenizer spec that holds more than it may.

    Args:
        spec: A plain dictionary, as `json.loads` gives it.
        models: The kinds of model that it may have.

    Raises:
        ValueError: Another model than those, dropout, an unknown step, a text, a
            number or a nesting beyond what tokenizers have, or steps that together could make a
            text more than 64 times as long.
    """
    if not isinstance(spec, dict) or not isinstance(spec.get("model"), dict):
        raise _refused(f"it should be a dictionary with a `model`. Received: {shown(spec)}")
    model = {key: value for key, value in spec["model"].items() if key not in ("vocab", "merges")}
    if model.get("type", "BPE") not in models:
        known = " or ".join(map(repr, models))
        raise _refused(f"its model should be {known}. Received: {shown(model['type'])}")
    if model.get("dropout"):
        raise _refused(f"its `dropout` makes ids random. Received: {shown(model['dropout'])}")
    _check_values(model, "model")
    growth = 1.0
    for part in _STEPS:
        _check_values(spec.get(part), part)
        growth *= _growth(spec.get(part), part)
    if growth > _LARGEST_GROWTH:
        raise _refused(
            f"its steps could make a text {growth:,.0f} times as long, and {_LARGEST_GROWTH} is "
            "the most that is run"
        )
    _check_added_tokens(spec.get("added_tokens"))


def _refused(fault: str) -> ValueError:
    return ValueError(
        f"The tokenizer spec is refused: {fault}. Use `spec_from_tokenizer_json(folder)` of the "
        "model as published, or leave the spec out."
    )


def _check_values(part: object, name: str) -> None:
    """Bound the depth, number and size of all values in one part of a spec, under any key."""
    waiting, count = [(part, name, 0)], 0
    while waiting:
        value, key, depth = waiting.pop()
        count += 1
        if depth > _DEEPEST or count > _MOST_PARTS:
            raise _refused(f"`{name}` is nested too deeply or has too many parts")
        if isinstance(value, dict):
            waiting += [(item, str(inner), depth + 1) for inner, item in value.items()]
        elif isinstance(value, list):
            waiting += [(item, key, depth + 1) for item in value]
        elif isinstance(value, str):
            longest = _LONGEST_PATTERN if key in ("Regex", "String", "pattern") else _LONGEST_TEXT
            if len(value) > longest:
                raise _refused(
                    f"`{key}` in `{name}` should have {longest} characters at most. Received "
                    f"{len(value):,}: {shown(value)}"
                )
        elif isinstance(value, int | float):
            if not 0 <= value <= _LARGEST_NUMBER:
                raise _refused(
                    f"`{key}` in `{name}` should be from 0 to {_LARGEST_NUMBER:,}. Received: "
                    f"{shown(value)}"
                )
        elif value is not None:
            raise _refused(f"`{key}` in `{name}` cannot be a {type(value).__name__}")


def _growth(step: object, part: str) -> float:
    """How many times as long, in bytes, a text may become by a step and the steps within it."""
    if step is None:
        return 1.0
    kind = step.get("type") if isinstance(step, dict) else None
    if not isinstance(step, dict) or not isinstance(kind, str) or kind not in _STEPS[part].split():
        raise _refused(
            f"`{part}` holds the step {shown(kind if isinstance(kind, str) else step)}; those "
            f"that are run are {_STEPS[part]}"
        )
    if kind == "Sequence":
        growth = 1.0
        for value in step.values():
            for inner in value if isinstance(value, list) else []:
                growth *= _growth(inner, part)
        return growth
    if kind == "Replace":
        pattern = step.get("pattern")
        replaced = pattern.get("String") if isinstance(pattern, dict) else None
        content = len(str(step.get("content", "")).encode("utf-8", "replace"))
        if isinstance(replaced, str) and replaced:
            return max(1.0, content / len(replaced.encode("utf-8", "replace")))
        return 1.0 + content  # a regular expression may match between any two characters
    # A byte becomes a character of two; a piece of one byte gets a "▁" of three before it.
    return {"ByteLevel": 2.0, "BertNormalizer": 2.0, "Metaspace": 4.0}.get(kind, 1.0)


def _check_added_tokens(added: object) -> None:
    """Bound the texts and ids of the tokens that a spec adds to the vocabulary."""
    if added is None:
        return
    if not isinstance(added, list) or not all(isinstance(token, dict) for token in added):
        raise _refused(f"`added_tokens` should be a list of dictionaries. Received: {shown(added)}")
    for token in added:
        content, index = token.get("content"), token.get("id")
        if not isinstance(content, str) or not 0 < len(content) <= _LONGEST_TOKEN:
            raise _refused(
                f"an added token should be a text of 1 to {_LONGEST_TOKEN} characters. Received: "
                f"{shown(content)}"
            )
        if not is_integer(index) or not 0 <= index < 2**31:
            raise _refused(f"the id of added token {shown(content)} is {shown(index)}")
        _check_values({**token, "content": None, "id": None}, "added_tokens")


@contextlib.contextmanager
def panic_as_value_error(doing: str) -> Iterator[None]:
    """Turn a panic of the `tokenizers` library, which is a `BaseException`, into a `ValueError`.

    Args:
        doing: What the library was doing, for the message: "it was built".
    """
    try:
        yield
    except BaseException as error:
        if type(error).__name__ != "PanicException":  # pyo3's; it cannot be imported
            raise
        raise ValueError(
            f"The tokenizers library broke down while {doing}: {shown(str(error))}. The tokenizer "
            "spec, or the tokenizer.json that it was taken from, is at fault: use that of the "
            "model as published."
        ) from None
