"""`encode_text` against one text at a time, unpadded, pooled and normalised in float64."""

import keras
import keras_hub
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cptk.models import GPT2TextEmbedder, TextEmbedder, keep_first_layers
from tests import references, toys

POOLINGS = {
    "eos": references.eos_pooling,
    "mean": references.mean_pooling,
    "weighted_mean": references.weighted_mean_pooling,
}


#: Two lengths, 3 and 24 (cut): each length that is run unpadded is compiled on JAX.
TEXTS = [text for text in toys.TEXTS if text.strip()]
FEW = [toys.TEXTS[2], "x", "y", "the thing, and another thing"]


def states(backbone, rows):
    """Hidden states of one unpadded row of ids, from the backbone alone, in float64."""
    ids = np.array([rows], "int32")
    mask = keras.ops.convert_to_tensor(np.ones_like(ids), "bool")
    found = backbone({"token_ids": keras.ops.convert_to_tensor(ids), "padding_mask": mask})
    return np.asarray(keras.ops.convert_to_numpy(found), "float64")


def slow_vectors(embedder, texts, role=None, pooling="eos", normalize=True):
    vectors = []
    for row in embedder.preprocessor.tokenize(texts, role):
        found = states(embedder.backbone, row)
        (vector,) = POOLINGS[pooling](found, np.ones(found.shape[:2], bool))
        vectors.append(vector / np.sqrt((vector**2).sum()) if normalize else vector)
    return np.array(vectors)


@pytest.fixture(scope="module")
def gpt2() -> GPT2TextEmbedder:
    return toys.gpt2_embedder()


#: One with learnt positions and one with a window among its attention; the others later.
LATER = {"GPT2": [], "Gemma3": pytest.mark.slow_on_jax}
EVERY_DECODER = [
    pytest.param(name, marks=LATER.get(name, pytest.mark.slow)) for name in toys.DECODERS
]


@pytest.mark.parametrize("name", EVERY_DECODER)
def test_every_decoder_equals_one_text_at_a_time(name):
    embedder = toys.embedder(name, num_layers=1)
    found = embedder.encode_text(FEW, verbose=0)
    np.testing.assert_allclose(found, slow_vectors(embedder, FEW), atol=1e-5)
    assert found.dtype == np.float32
    assert found.shape == (len(FEW), toys.HIDDEN_DIM)
    # The toy is not blind: two texts, and two roles of one text, are far apart.
    assert np.linalg.norm(found[0] - found[1]) > 1e-2
    query = embedder.encode_text(FEW, role="query", verbose=0)
    assert np.linalg.norm(query - found, axis=1).min() > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("name", ["Llama3", "Qwen3"])
def test_tied_and_untied_decoders(name, tied):
    backbone = toys.backbone(name, tie_word_embeddings=tied)
    family = {"Llama3": "llama3", "Qwen3": "qwen3"}[name]
    embedder = TextEmbedder(backbone, toys.preprocessor(family))
    found = embedder.encode_text(FEW, verbose=0)
    np.testing.assert_allclose(found, slow_vectors(embedder, FEW), atol=1e-5)


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("pooling", POOLINGS)
def test_poolings(pooling, normalize):
    embedder = toys.gpt2_embedder(1, pooling=pooling, normalize=normalize)
    found = embedder.encode_text(FEW, "query", verbose=0)
    expected = slow_vectors(embedder, FEW, "query", pooling, normalize)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    lengths = np.linalg.norm(found, axis=1)
    assert np.allclose(lengths, 1, atol=1e-6) == normalize


MANY = [*FEW, "x" * 90, "y\n", "é", "(a"]


@pytest.fixture(scope="module")
def expected(gpt2) -> np.ndarray:
    return slow_vectors(gpt2, MANY)


# Few batch sizes, as each is compiled anew.
@pytest.mark.slow_on_jax
@given(
    rows=st.lists(st.integers(0, len(MANY) - 1), min_size=1, max_size=8),
    batch_size=st.sampled_from([1, 4]),
)
def test_batch_size_and_order_change_nothing(gpt2, expected, rows, batch_size):
    found = gpt2.encode_text([MANY[row] for row in rows], None, batch_size, verbose=0)
    np.testing.assert_allclose(found, expected[rows], atol=1e-5)


def test_padding_may_hold_anything(gpt2):
    features = gpt2.preprocessor(TEXTS)
    expected = gpt2.predict_on_batch(features)
    noise = np.random.default_rng(0).integers(0, 259, features["token_ids"].shape)
    features["token_ids"] = np.where(features["padding_mask"], features["token_ids"], noise)
    np.testing.assert_allclose(gpt2.predict_on_batch(features), expected, atol=1e-6)


def spread(features, left):
    """The same texts with their padding on the left, or in holes between the tokens."""
    ids, mask = (np.zeros_like(features[name]) for name in ("token_ids", "padding_mask"))
    rng = np.random.default_rng(0)
    for row, real in enumerate(features["padding_mask"]):
        count, width = int(real.sum()), len(real)
        places = range(width - count, width) if left else sorted(rng.permutation(width)[:count])
        ids[row, list(places)] = features["token_ids"][row, :count]
        mask[row, list(places)] = True
    return {"token_ids": ids, "padding_mask": mask}


@pytest.mark.slow_on_jax
@pytest.mark.parametrize("left", [True, False])
@pytest.mark.parametrize(("name", "pooling"), [("GPT2", "eos"), ("OPT", "mean"), ("Llama", "eos")])
def test_padding_may_stand_anywhere(name, pooling, left):
    embedder = toys.embedder(name, 1, pooling=pooling)
    few = ["the thing", "x", "def f(x): return x"]
    expected = slow_vectors(embedder, few, pooling=pooling)
    moved = spread(embedder.preprocessor(few), left)
    symbolic = keras.Model(embedder.inputs, embedder.output)
    found = [embedder(moved), symbolic(moved), embedder.predict_on_batch(moved)]
    if name == "GPT2":
        found.append(embedder.predict(moved, verbose=0))
    for vectors in found:
        vectors = keras.ops.convert_to_numpy(vectors)
        np.testing.assert_allclose(vectors, expected, atol=1e-5)


def test_whole_numbers_are_a_mask_too(gpt2):
    features = gpt2.preprocessor(TEXTS)
    expected = gpt2.predict_on_batch(features)
    features["padding_mask"] = features["padding_mask"].astype("int32")
    np.testing.assert_allclose(gpt2.predict_on_batch(features), expected, atol=1e-6)


@pytest.mark.parametrize("door", ["predict", "predict_on_batch", "fit", "evaluate"])
@pytest.mark.parametrize("bad", [["x", " "], {"x": 1}.keys(), "x", [None], {"a"}], ids=repr)
def test_keras_own_doors_check_texts(gpt2, door, bad):
    with pytest.raises((TypeError, ValueError), match="`texts`"):
        getattr(gpt2, door)(bad)


@pytest.mark.slow_on_jax
def test_predict_reads_text_as_in_keras_hub(gpt2):
    expected = gpt2.encode_text(TEXTS, verbose=0)
    found = gpt2.predict(TEXTS, batch_size=2, verbose=0)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    np.testing.assert_allclose(gpt2.predict_on_batch(TEXTS), expected, atol=1e-5)


def test_predict_reads_token_ids_without_a_preprocessor(gpt2):
    features = gpt2.preprocessor(TEXTS, role="query")
    embedder = TextEmbedder(gpt2.backbone)
    found = embedder.predict(features, verbose=0)
    np.testing.assert_allclose(found, gpt2.encode_text(TEXTS, "query", verbose=0), atol=1e-5)
    with pytest.raises(ValueError, match="no preprocessor, so it cannot read text"):
        embedder.encode_text("x")


@pytest.mark.slow
@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("policy", ["mixed_bfloat16"])
def test_16_bits_give_float32_of_unit_length(policy, pooling):
    backbone = toys.backbone(dtype=policy)
    embedder = TextEmbedder(backbone, toys.preprocessor(), pooling=pooling)
    found = embedder.encode_text(TEXTS, verbose=0)
    assert found.dtype == np.float32
    assert keras.backend.standardize_dtype(embedder.output.dtype) == "float32"
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-6)
    exact = toys.embedder(pooling=pooling).encode_text(TEXTS, verbose=0)
    assert (found * exact).sum(axis=1).min() > 0.99


def test_global_policy_is_not_mistaken_for_the_backbones(gpt2):
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        embedder = TextEmbedder(toys.backbone(), toys.preprocessor())
    finally:
        keras.config.set_dtype_policy(before)
    assert embedder.backbone.compute_dtype == "bfloat16"
    found = embedder.encode_text(TEXTS, verbose=0)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-6)


def test_is_a_keras_hub_task(gpt2):
    assert isinstance(gpt2, keras_hub.models.TextEmbedder)
    assert isinstance(gpt2, TextEmbedder)
    assert gpt2.output_shape == (None, toys.HIDDEN_DIM)
    assert not gpt2.has_task_weights()
    assert {id(w) for w in gpt2.weights} == {id(w) for w in gpt2.backbone.weights}
    assert gpt2.compute_output_shape({"token_ids": (3, 7), "padding_mask": (3, 7)}) == (3, 16)


def test_config_round_trip(gpt2):
    config = gpt2.get_config()
    assert (config["pooling"], config["normalize"]) == ("eos", True)
    made = toys.gpt2_embedder(pooling="mean", normalize=False)
    again = GPT2TextEmbedder.from_config(made.get_config())
    assert type(again) is GPT2TextEmbedder
    again.backbone.set_weights(made.backbone.get_weights())
    features = made.preprocessor(TEXTS)
    np.testing.assert_allclose(
        again.predict_on_batch(features), made.predict_on_batch(features), atol=1e-6
    )


@pytest.mark.parametrize("pooling", ["last", None, "EOS", ["eos"]])
def test_bad_pooling(pooling):
    with pytest.raises(ValueError, match=r"`pooling` should be one of \['eos', 'mean', 'weighted"):
        TextEmbedder(toys.backbone(num_layers=1), pooling=pooling)


@pytest.mark.slow_on_jax
def test_bad_backbone():
    for backbone, received in [
        (None, "NoneType"),
        ("gpt2_base_en", "str"),
        (keras.Sequential([keras.layers.Dense(1)]), "Sequential"),
    ]:
        with pytest.raises(ValueError, match=f"KerasHub backbone of text.*Received: {received}"):
            TextEmbedder(backbone)


def test_sequence_longer_than_the_backbones_positions():
    backbone = toys.backbone(num_layers=1)
    with pytest.raises(ValueError, match=r"sequence_length=33 is more than this GPT2Backbone.*32"):
        TextEmbedder(backbone, toys.preprocessor("gpt2", 33))
    embedder = TextEmbedder(backbone, toys.preprocessor("gpt2", 32))
    assert embedder.encode_text("x" * 99, verbose=0).shape == (1, 16)
    embedder.preprocessor.sequence_length = 40
    with pytest.raises(ValueError, match=r"sequence_length=40 is more than this GPT2Backbone.*32"):
        embedder.encode_text("x")


# --- keep_first_layers


def by_hand(backbone, n, row):
    """State after layer n, then the final norm with the scale and shift of a new layer."""
    inner = keras.Model(backbone.input, layer_outputs(backbone)[n - 1])
    x = states(inner, row)
    if any("beta" in weight.path for weight in backbone.layers[-1].weights):
        x = x - x.mean(axis=-1, keepdims=True)
    epsilon = getattr(backbone.layers[-1], "epsilon", None) or getattr(
        backbone.layers[-1], "_epsilon", 1e-6
    )
    return x / np.sqrt((x**2).mean(axis=-1, keepdims=True) + epsilon)


def layer_outputs(backbone):
    return [layer.output for layer in backbone.transformer_layers]


@pytest.mark.slow_on_jax
@pytest.mark.parametrize("name", EVERY_DECODER)
def test_first_layers_equal_the_truncated_computation(name):
    backbone = toys.backbone(name, num_layers=4)
    short = keep_first_layers(backbone, 2)
    assert type(short) is type(backbone)
    assert short.num_layers == 2
    assert short.count_params() < backbone.count_params()
    assert not {id(w) for w in short.weights} & {id(w) for w in backbone.weights}
    row = list(range(40, 60))
    np.testing.assert_allclose(states(short, row), by_hand(backbone, 2, row), atol=2e-5)


@pytest.mark.slow_on_jax
@pytest.mark.parametrize("name", ["GPT2", "Llama3", "Gemma3"])  # Three kinds of norm.
def test_the_by_hand_computation_is_the_backbones_at_full_depth(name):
    """Guards the reference above: with a fresh final norm it is the whole backbone."""
    backbone = toys.backbone(name, num_layers=2)
    for weight in backbone.layers[-1].weights:
        one = "gamma" in weight.path or ("scale" in weight.path and name != "Gemma3")
        weight.assign(np.full(weight.shape, float(one)))
    row = list(range(40, 60))
    np.testing.assert_allclose(states(backbone, row), by_hand(backbone, 2, row), atol=2e-5)


@pytest.mark.slow_on_jax
@pytest.mark.parametrize("tied", [True, False])
def test_first_layers_of_tied_and_untied(tied):
    backbone = toys.backbone("Llama3", 3, tie_word_embeddings=tied)
    short = keep_first_layers(backbone, 1)
    row = list(range(40, 60))
    np.testing.assert_allclose(states(short, row), by_hand(backbone, 1, row), atol=2e-5)
    rows = [w for w in short.weights if toys.VOCABULARY_SIZE in w.shape]
    assert len(rows) == 1  # An embedder has no use for the output embedding.


@pytest.mark.slow_on_jax
def test_first_layers_have_weights_of_their_own():
    long = toys.gpt2_embedder(2)
    expected = long.encode_text(FEW, verbose=0)
    short = TextEmbedder(keep_first_layers(long.backbone, 1), long.preprocessor)
    first = short.encode_text(FEW, verbose=0)
    # A step on JAX gives the memory of the weights away, that of a shared array too.
    short.compile(optimizer=keras.optimizers.SGD(1.0), loss="mse")
    short.train_on_batch(FEW, np.ones(first.shape, "float32"))
    assert np.abs(short.encode_text(FEW, verbose=0) - first).max() > 1e-3
    np.testing.assert_allclose(long.encode_text(FEW, verbose=0), expected, atol=1e-6)


def test_first_layers_shorten_lists_in_the_config():
    short = keep_first_layers(toys.backbone("SmolLM3", 4), 3)
    config = short.get_config()
    assert config["rope_layer_enabled_list"] == [True, False, True]
    assert len(config["layer_types"]) == 3


def test_first_layers_keep_the_dtype():
    short = keep_first_layers(toys.backbone(num_layers=3, dtype="mixed_bfloat16"), 1)
    assert short.compute_dtype == "bfloat16"


def test_all_layers_are_the_backbone_itself():
    backbone = toys.backbone()
    assert keep_first_layers(backbone, 2) is backbone
    assert keep_first_layers(toys.backbone(), np.int64(1)).num_layers == 1


@pytest.mark.parametrize("number", [0, -1, 3])
def test_number_of_layers_out_of_range(number):
    with pytest.raises(ValueError, match=rf"from 1 to 2, .* GPT2Backbone. Received: {number}"):
        keep_first_layers(toys.backbone(), number)


@pytest.mark.parametrize("number", [None, 1.0, "1", True])
def test_number_of_layers_is_an_integer(number):
    with pytest.raises(ValueError, match="`num_layers` should be an integer"):
        keep_first_layers(toys.backbone(), number)


def test_first_layers_of_what_has_none():
    with pytest.raises(ValueError, match="`backbone` should have layers"):
        keep_first_layers(keras.Sequential(), 1)


def test_first_layers_before_lora():
    backbone = toys.backbone()
    backbone.enable_lora(2)
    with pytest.raises(ValueError, match="Shorten the backbone first, then call `enable_lora`"):
        keep_first_layers(backbone, 1)
