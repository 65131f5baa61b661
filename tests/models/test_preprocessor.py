"""Roles, cutting and padding, on vocabularies small enough to check by hand."""

import json
import re
from importlib.util import find_spec

import keras
import keras_hub
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cptk.models import GPT2TextEmbedderPreprocessor, Role, TextEmbedderPreprocessor
from cptk.tokenizers import family_spec
from tests import toys

needs_tensorflow = pytest.mark.skipif(find_spec("tensorflow") is None, reason="needs tf.data")
WORDS = toys.vocabulary()
ANY_TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=30)
PROMPT = Role('This sentence: "', '" means in one word: "')


def symbols(text: str) -> list[int]:
    """Ids of ASCII text that no merge applies to."""
    return [WORDS[{" ": "Ġ", "\n": "Ċ"}.get(char, char)] for char in text]


@pytest.fixture(scope="module")
def paper() -> TextEmbedderPreprocessor:
    return toys.preprocessor()


def test_default_roles_are_the_delimiters_of_the_paper(paper):
    for role, (opening, closing) in {"query": "[]", "document": "{}"}.items():
        assert paper.tokenize(["xy"], role) == [symbols(f"{opening}xy{closing}")]
    assert paper.tokenize(["xy"]) == paper.tokenize(["xy"], "document")


def test_text_is_tokenised_apart_from_its_role():
    # "the" after a space is one token, but the space belongs to the prefix.
    reader = toys.preprocessor(roles={"a": ("q ", "")})
    assert reader.tokenize(["the"]) == [symbols("q the")]
    assert reader.tokenize([" the"])[0] == [*symbols("q "), WORDS["Ġth"], WORDS["e"]]


def test_roles_are_strings_or_ids_and_as_many_as_you_like():
    roles = {f"role{index}": Role([index], np.array([index, 255])) for index in range(9)}
    reader = toys.preprocessor(
        roles=roles | {"prompt": Role("1", "23"), "bare": ("", []), "pair": ["(", ")"]}
    )
    for index in range(9):
        assert reader.tokenize(["x"], f"role{index}") == [[index, *symbols("x"), index, 255]]
    assert reader.tokenize(["x"], "bare") == [symbols("x")]
    assert reader.tokenize(["x"], "pair") == [symbols("(x)")]


def test_only_role_is_the_default():
    reader = toys.preprocessor("gpt2", 64, roles={"text": PROMPT})
    assert reader.tokenize(["xy"]) == reader.tokenize(["xy"], "text")
    reader = toys.preprocessor(roles={"a": ("", ""), "b": ("", "")})
    with pytest.raises(ValueError, match=r"no role 'document'.*\['a', 'b'\].*`role=`"):
        reader.tokenize(["xy"])


@pytest.mark.parametrize("role", ["answer", "", "Query", 3, ["query"]])
def test_unknown_role(paper, role):
    with pytest.raises(
        ValueError, match=rf"no role {re.escape(repr(role))}.*\['document', 'query'\]"
    ):
        paper(["x"], role=role)


@given(text=ANY_TEXT, length=st.integers(3, 40), data=st.data())
def test_cutting_takes_the_text_and_never_the_role(text, length, data):
    taken = data.draw(st.integers(0, length - 1))
    prefix = data.draw(st.lists(st.integers(0, 258), min_size=0, max_size=taken))
    suffix = data.draw(
        st.lists(st.integers(0, 258), min_size=taken - len(prefix), max_size=taken - len(prefix))
    )
    reader = toys.preprocessor("gpt2", length, roles={"r": (prefix, suffix)})
    (whole,) = reader.reference.encode_batch([text])
    (row,) = reader.tokenize([text])
    assert row[: len(prefix)] == prefix
    assert row[len(row) - len(suffix) :] == suffix
    middle = row[len(prefix) : len(row) - len(suffix)]
    assert middle == whole[: length - taken]
    features = reader([text])
    assert int(features["padding_mask"].sum()) == len(row)
    # The state that EOS pooling takes is that of the role's last token.
    last = int(np.flatnonzero(features["padding_mask"][0])[-1])
    assert features["token_ids"][0, last] == (suffix or middle)[-1]


def test_call_pads_to_sequence_length(paper):
    features = paper(["x", "x" * 100], role="query")
    assert {name: (value.shape, value.dtype) for name, value in features.items()} == {
        "token_ids": ((2, 24), np.int32),
        "padding_mask": ((2, 24), bool),
    }
    assert features["padding_mask"].sum(axis=1).tolist() == [3, 24]
    assert features["token_ids"][0].tolist() == [*symbols("[x]"), *[0] * 21]
    assert features["token_ids"][1, -1] == WORDS["]"]


def test_call_takes_one_string_and_passes_the_rest_through(paper):
    alone, batch = paper("xy"), paper(["xy"])
    assert all(np.array_equal(alone[name], batch[name][0]) for name in batch)
    x, y, weight = paper(["xy"], [1], [2.0], role="query")
    assert (y, weight) == ([1], [2.0])
    assert x["token_ids"][0, 0] == WORDS["["]


def test_tuples_are_sequences_of_strings_too(paper):
    # Calling the layer with one means (x, y), as in all of KerasHub.
    assert paper.tokenize(("xy", "the thing")) == paper.tokenize(["xy", "the thing"])


class Column:
    """What pandas hands over: no `Sequence`, but iterable."""

    def __init__(self, values):
        self.values = values

    def __iter__(self):
        return iter(self.values)

    def __len__(self):
        return len(self.values)


@pytest.mark.parametrize(
    "make",
    [list, np.array, lambda t: np.array(t, dtype=object), Column],
    ids=["list", "array", "array of objects", "column"],
)
def test_sequences_of_strings(paper, make):
    texts = ["xy", "the thing"]
    assert paper.tokenize(make(texts)) == paper.tokenize(texts)
    assert np.array_equal(paper(make(texts))["token_ids"], paper(texts)["token_ids"])


@pytest.mark.parametrize(
    ("texts", "error", "message"),
    [
        (None, TypeError, "sequence of strings. Received: None of type NoneType"),
        (3, TypeError, "sequence of strings. Received: 3 of type int"),
        (b"x", TypeError, "sequence of strings. Received bytes"),
        ({"text": "x"}, TypeError, "sequence of strings. Received a mapping"),
        ({"x"}, TypeError, "sequence of strings. Received a set"),
        ([], ValueError, "is empty. Pass at least one text"),
        (np.array([], dtype=str), ValueError, "is empty"),
        (np.array([["x"]]), TypeError, r"array of shape \(1, 1\)"),
        (["x", None], TypeError, "Item 1 is None of type NoneType"),
        (["x", float("nan")], TypeError, "Item 1 is nan of type float"),
        ([b"x"], TypeError, "Item 0 is b'x' of type bytes"),
        ([["x"]], TypeError, r"Item 0 is \['x'\] of type list"),
        (["x", ""], ValueError, "Item 1 is empty"),
        (["x", " \n\u2003"], ValueError, "Item 1 is of white space"),
        ("  ", ValueError, "Item 0 is of white space"),
        ("", ValueError, "Item 0 is empty"),
        (["x", "a\ud800b"], ValueError, "Item 1 has a lone surrogate at character 1"),
    ],
    ids=repr,
)
def test_bad_texts(paper, texts, error, message):
    for door in (paper, paper.tokenize):
        if isinstance(texts, str) and door == paper.tokenize:
            continue
        with pytest.raises(error, match=message) as raised:
            door(texts)
        assert "Arguments received" not in str(raised.value)  # Keras would show all texts there


@pytest.mark.parametrize("length", [2, 0, -5, 3.0, "9", None, True])
def test_bad_sequence_length(length):
    with pytest.raises(ValueError, match="`sequence_length` should be an integer of at least 3"):
        toys.preprocessor("gpt2", length)
    reader = toys.preprocessor()
    with pytest.raises(ValueError, match="`sequence_length` should be an integer of at least 3"):
        reader.sequence_length = length


def test_no_room_for_text():
    roles = {"a": ("", ""), "b": ("12345", "67")}
    with pytest.raises(ValueError, match=r"role 'b' itself takes 7.*sequence_length=8 or more"):
        toys.preprocessor("gpt2", 7, roles=roles)
    reader = toys.preprocessor("gpt2", 8, roles=roles)
    assert reader.tokenize(["xyz"], "b") == [symbols("12345x67")]
    with pytest.raises(ValueError, match=r"sequence_length=6 leaves no room.*role 'b'"):
        reader.sequence_length = 6
    assert reader.sequence_length == 8
    reader.sequence_length = np.int64(9)
    assert reader(["xyz"], role="b")["token_ids"].shape == (1, 9)


@pytest.mark.parametrize(
    ("roles", "message"),
    [
        ({}, "at least one name"),
        ([("a", "b")], "should map at least one name"),
        ("query", "should map at least one name"),
        ({"": ("a", "b")}, "name should be a non-empty string. Received: ''"),
        ({1: ("a", "b")}, "name should be a non-empty string. Received: 1"),
        ({"q": "ab"}, r"Role 'q' should be a \(prefix, suffix\) pair, .* Received: 'ab'"),
        ({"q": ("a",)}, r"Role 'q' should be a \(prefix, suffix\) pair"),
        ({"q": None}, r"Role 'q' should be a \(prefix, suffix\) pair, .* Received: None"),
        ({"q": ("a", None)}, "of role 'q' should each be a string or a list of token ids"),
        ({"q": ([1.5], "")}, "of role 'q' should each be a string or a list of token ids"),
        ({"q": ([True], "")}, "of role 'q' should each be a string or a list of token ids"),
        ({"q": (["a"], "")}, "of role 'q' should each be a string or a list of token ids"),
        ({"q": ([-1, 5], "")}, r"Role 'q' has token ids \[-1\], which are not in the vocabulary"),
        ({"q": ([], [260])}, r"token ids \[260\].*vocabulary of 260"),
        ({"q": ("a\ud800", "")}, "lone surrogate"),
    ],
    ids=repr,
)
def test_bad_roles(roles, message):
    with pytest.raises(ValueError, match=message):
        toys.preprocessor(roles=roles)


def test_delimiters_that_are_not_in_the_vocabulary():
    words = {
        token: index for index, token in enumerate(["a", "b", "ab", "[", "]", "{", "<|endoftext|>"])
    }
    tokenizer = keras_hub.models.GPT2Tokenizer(words, ["a b"])
    with pytest.raises(ValueError, match=r"delimiter '}' is not in the vocabulary"):
        TextEmbedderPreprocessor(tokenizer)
    reader = TextEmbedderPreprocessor(tokenizer, roles={"q": ("[", [1])})
    assert reader.tokenize(["ab"]) == [[3, 2, 1]]
    with pytest.raises(ValueError, match=r"Text 1 has characters that are not.*'c'"):
        reader.tokenize(["ab", "abc"])


def test_not_a_tokenizer():
    for tokenizer in (None, "gpt2_base_en", WORDS):
        with pytest.raises(TypeError, match="`tokenizer` should be a KerasHub tokenizer"):
            TextEmbedderPreprocessor(tokenizer)


def rebuilt(reader):
    """The same through JSON, as a preset stores it; KerasHub keeps the vocabulary apart."""
    config = json.loads(json.dumps(keras.saving.serialize_keras_object(reader)))
    again = keras.saving.deserialize_keras_object(config)
    again.tokenizer.set_vocabulary_and_merges(reader.tokenizer.vocabulary, toys.MERGES)
    return again


@pytest.mark.parametrize("cls", [TextEmbedderPreprocessor, GPT2TextEmbedderPreprocessor])
@pytest.mark.parametrize(
    ("roles", "spec"),
    [(None, None), ({"a": PROMPT, "b": ([1, 2], "]")}, None), (None, family_spec("smollm"))],
    ids=["paper", "own", "spec"],
)
def test_config_round_trip(cls, roles, spec):
    reader = cls(toys.tokenizer(), 50, roles, spec)
    again = rebuilt(reader)
    assert type(again) is cls
    assert again.sequence_length == 50
    assert list(again.roles) == list(reader.roles)
    texts = ["12 the 345\n\nx", "the thing " * 20]
    for role in reader.roles:
        assert again.tokenize(texts, role) == reader.tokenize(texts, role)
    # The spec matters: it splits digits, which have no merges here, so look at the pipeline.
    assert again.reference.spec == reader.reference.spec


@pytest.mark.slow
@needs_tensorflow
@given(texts=st.lists(ANY_TEXT, min_size=1, max_size=4))
def test_same_ids_eagerly_and_in_tf_data(paper, texts):
    import tensorflow as tf

    expected = paper(texts, role="query")
    dataset = tf.data.Dataset.from_tensor_slices(texts)
    batched = dataset.batch(8).map(lambda x: paper(x, role="query"))
    assert batched.element_spec["token_ids"].shape.as_list() == [None, 24]
    (found,) = batched.as_numpy_iterator()
    eager = paper(tf.constant(texts), role="query")
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value)
        np.testing.assert_array_equal(eager[name], value)
    single = dataset.map(lambda x: paper(x, role="query"))
    assert single.element_spec["padding_mask"].shape.as_list() == [24]
    for index, row in enumerate(single.as_numpy_iterator()):
        np.testing.assert_array_equal(row["token_ids"], expected["token_ids"][index])


@needs_tensorflow
def test_bad_input_in_tf_data(paper):
    import tensorflow as tf

    dataset = tf.data.Dataset.from_tensor_slices(["x", ""]).batch(2)
    with pytest.raises(tf.errors.InvalidArgumentError, match="Item 1 is empty"):
        list(dataset.map(paper))
    with pytest.raises(ValueError, match="no role 'answer'"):
        dataset.map(lambda x: paper(x, role="answer"))
    with pytest.raises(TypeError, match=r"tensor of strings\. Received one of int32"):
        paper(tf.constant([1]))


def test_sentencepiece_tokenizer_of_keras_hub():
    pytest.importorskip("sentencepiece", reason="KerasHub's own reading of Gemma needs it")
    tokenizer = toys.sentencepiece_tokenizer()
    reader = TextEmbedderPreprocessor(tokenizer, 8)
    (row,) = reader.tokenize(["the quick fox"], "query")
    middle = [int(i) for i in np.asarray(tokenizer("the quick fox"))]
    assert row[-1 - len(middle) : -1] == middle
    assert tokenizer.detokenize([row[-1:]])[0].strip() == "]"
