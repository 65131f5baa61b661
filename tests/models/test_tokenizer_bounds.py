"""What a stranger's tokenizer spec may hold, and what of it is refused before it runs."""

import json

import pytest

from cptk.models import TextEmbedder
from cptk.tokenizers import ReferenceTokenizer, family_spec, spec_from_tokenizer_json
from cptk.tokenizers.reference import build_pipeline
from cptk.tokenizers.spec_bounds import check_spec
from tests import toys

NAMED = family_spec("smollm")


def replace(content: str, **pattern) -> dict:
    return {"type": "Replace", "pattern": pattern, "content": content}


def split(pattern: str) -> dict:
    return {
        "type": "Split",
        "pattern": {"Regex": pattern},
        "behavior": "Isolated",
        "invert": False,
    }


def sequence(*steps: dict, kind: str = "normalizers") -> dict:
    return {"type": "Sequence", kind: list(steps)}


def nested(depth: int) -> dict:
    step = {"type": "NFC"}
    for _ in range(depth):
        step = sequence(step)
    return step


def added(**values) -> list[dict]:
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return [{"id": 5, "content": "<x>", "special": True, **flags, **values}]


BYTE_LEVEL = NAMED["pre_tokenizer"]["pretokenizers"][-1]
HOSTILE = {
    "no model": {"model": None},
    "no dictionary": {"model": []},
    "another model": {"model": {"type": "WordLevel"}},
    "random ids": {"model": {**NAMED["model"], "dropout": 0.5}},
    "a long unknown token": {"model": {**NAMED["model"], "unk_token": "x" * 10_000}},
    "an unknown step": {"normalizer": {"type": "Nonsense"}},
    "a step without a name": {"normalizer": {"kind": "NFC"}},
    "a name of another type": {"normalizer": {"type": ["NFC"]}},
    "a step of another part": {"normalizer": BYTE_LEVEL | {"type": "Split"}},
    "a step that is a text": {"pre_tokenizer": "ByteLevel"},
    "a binary table": {"normalizer": {"type": "Precompiled", "precompiled_charsmap": ""}},
    "pieces of no length": {"pre_tokenizer": {"type": "FixedLength", "length": 0}},
    "a long replacement": {"normalizer": replace("x" * 10_000_000, String="a")},
    "a long prefix": {"normalizer": {"type": "Prepend", "prepend": "x" * 10_000_000}},
    "one that doubles": {"normalizer": sequence(*[replace("aa", String="a")] * 40)},
    "one that doubles by a pattern": {"normalizer": sequence(*[replace("aa", Regex="a")] * 40)},
    "one between characters": {"normalizer": sequence(*[replace("aa", String="")] * 40)},
    "doubling in nests": {
        "normalizer": sequence(*[sequence(*[replace("aa", String="a")] * 4)] * 10)
    },
    "doubling in the decoder": {
        "decoder": sequence(*[replace("aa", String="a")] * 40, kind="decoders")
    },
    "bytes of bytes of bytes": {"normalizer": sequence(*[{"type": "ByteLevel"}] * 40)},
    "bytes before words": {"pre_tokenizer": sequence(*[BYTE_LEVEL] * 40, kind="pretokenizers")},
    "many steps": {"normalizer": sequence(*[{"type": "NFC"}] * 10_000)},
    "deep nests": {"normalizer": nested(100)},
    "very deep nests": {"normalizer": nested(5_000)},
    "a long pattern": {"pre_tokenizer": split("a" * 100_000)},
    "a huge number": {"decoder": {"type": "Strip", "content": "a", "start": 10**15, "stop": 0}},
    "a negative number": {"decoder": {"type": "Strip", "content": "a", "start": -1, "stop": 0}},
    "not a number": {"decoder": {"type": "Strip", "content": "a", "start": float("nan")}},
    "added tokens that are none": {"added_tokens": "x"},
    "an added token that is none": {"added_tokens": ["x"]},
    "an empty token": {"added_tokens": added(content="")},
    "a huge token": {"added_tokens": added(content="x" * 1_000_000)},
    "a negative id": {"added_tokens": added(id=-1)},
    "a huge id": {"added_tokens": added(id=2**40)},
    "an id that is a text": {"added_tokens": added(id="5")},
}


@pytest.mark.parametrize("name", HOSTILE)
def test_refused(name):
    spec = {**NAMED, **HOSTILE[name]}
    with pytest.raises(ValueError, match="The tokenizer spec is refused") as caught:
        check_spec(spec)
    assert len(str(caught.value)) < 800
    tokenizer = toys.tokenizer()
    if name != "very deep nests":  # Too deep for `plain` too, which a dictionary of JSON is not.
        with pytest.raises(ValueError, match="The tokenizer spec"):
            build_pipeline(tokenizer.vocabulary, tokenizer.merges, spec)


@pytest.mark.parametrize("value", [None, [], "x", 5, {}])
def test_no_spec_at_all(value):
    with pytest.raises(ValueError, match="The tokenizer spec is refused"):
        check_spec(value)


# Patterns as published; the longest known, and a chain of replacements as in older models.
TAKEN = {
    "smollm": NAMED,
    **{name: family_spec(name) for name in ("gpt2", "llama3", "qwen2", "qwen3.5")},
    "llama 2": {
        **NAMED,
        "normalizer": sequence({"type": "Prepend", "prepend": "▁"}, replace("▁", String=" ")),
        "pre_tokenizer": None,
        "decoder": sequence(
            replace(" ", String="▁"),
            {"type": "ByteFallback"},
            {"type": "Fuse"},
            {"type": "Strip", "content": " ", "start": 1, "stop": 0},
            kind="decoders",
        ),
    },
    "clip": {
        **NAMED,
        "normalizer": sequence({"type": "NFC"}, replace(" ", Regex=r"\s+"), {"type": "Lowercase"}),
    },
    "falcon": {
        **NAMED,
        "pre_tokenizer": sequence(
            {"type": "Punctuation", "behavior": "Contiguous"},
            {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True},
            {"type": "Digits", "individual_digits": False},
            split("[0-9][0-9][0-9]"),
            kind="pretokenizers",
        ),
    },
    "many quotes": {
        **NAMED,
        "normalizer": sequence(*[replace('"', String="``"), replace("'", String="´")] * 20),
    },
}


@pytest.mark.parametrize("name", TAKEN)
def test_what_published_models_have_is_taken(name):
    check_spec(TAKEN[name])


PANICS = {
    "a pattern that gives up": {"pre_tokenizer": split("(x+x+)+y")},
    "one in a normaliser": {"normalizer": replace("", Regex="(x+x+)+y")},
}


@pytest.mark.parametrize("name", PANICS)
def test_a_panic_is_a_value_error(name):
    spec = {**family_spec("gpt2"), **PANICS[name]}
    reference = ReferenceTokenizer(toys.tokenizer(), spec)
    for encode in (lambda text: reference.encode_batch(["a", text]), reference.encode_exactly):
        with pytest.raises(ValueError, match="The tokenizers library broke down"):
            encode("x" * 40)
    assert reference.encode_batch(["ab"]) == [reference.encode_exactly("ab")]


def test_a_panic_while_it_is_built():
    spec = family_spec("gpt2")
    spec["model"]["continuing_subword_prefix"] = "éé"
    with pytest.raises(ValueError, match="The tokenizers library broke down"):
        build_pipeline({"a": 0, "b": 1}, ["a b"], spec)


def test_a_special_token_without_an_id():
    with pytest.raises(ValueError, match=r"does not fit this vocabulary.*KeyError"):
        build_pipeline({"a": 0}, [], family_spec("gpt2"), ["<x>"])


def test_in_a_preset_the_file_is_named(copy):
    task = json.loads((copy / "task.json").read_text())
    task["config"]["preprocessor"]["config"]["tokenizer_spec"] = {
        **NAMED,
        **HOSTILE["one that doubles"],
    }
    (copy / "task.json").write_text(json.dumps(task))
    with pytest.raises(ValueError, match=r"task\.json .* tokenizer spec is refused"):
        TextEmbedder.from_preset(copy)


def test_in_a_hugging_face_folder(hugging_face_copy):
    folder = hugging_face_copy("gpt2")
    content = json.loads((folder / "tokenizer.json").read_text())
    content["normalizer"] = HOSTILE["one that doubles"]["normalizer"]
    (folder / "tokenizer.json").write_text(json.dumps(content))
    for load in (spec_from_tokenizer_json, TextEmbedder.from_preset):
        with pytest.raises(ValueError, match="tokenizer spec is refused"):
            load(folder)
