"""Folders of sentence-transformers: the vectors of BERT as written down in NumPy, or an error."""

import base64
import io
import json

import keras
import numpy as np
import pytest
import st_folders
import toys
from safetensors.numpy import load_file

import cptk
from cptk.models import TextEmbedder
from cptk.tokenizers import JSONTokenizer

TEXTS = ["The film.", "a", "xyz: abc film the film of the year and more of it", "é ü Zz"]
POOLED = {
    "mean": lambda states: states.mean(0),
    "cls": lambda states: states[0],
    "max": lambda states: states.max(0),
    "weighted_mean": lambda states: np.average(states, axis=0, weights=range(1, len(states) + 1)),
}

#: What sentence-transformers 6 writes where the tokenizer has a chat template.
MESSAGES = {
    kind: {"method": "forward", "method_output_name": "last_hidden_state"}
    for kind in ("text", "message")
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return st_folders.write(tmp_path_factory.mktemp("st") / "model")


@pytest.fixture(scope="module")
def embedder(folder):
    return TextEmbedder.from_preset(folder)


@pytest.fixture
def spoilt(tmp_path):
    return st_folders.write(tmp_path / "spoilt")


def ids_of(text, length=10):
    """Greedy longest pieces, by hand: [CLS], what fits, [SEP]."""
    reader = JSONTokenizer(st_folders.tokenizer_json())
    return [2, *reader.tokenize(text)[: length - 2], 3]


def expected(folder, texts, pooling="mean", prompt="", dense=True, length=10):
    weights = load_file(folder / "model.safetensors")
    rows = []
    for text in texts:
        row = POOLED[pooling](st_folders.bert(weights, ids_of(prompt + text, length)))
        if dense:
            layer = load_file(folder / "2_Dense" / "model.safetensors")
            row = np.tanh(layer["linear.weight"].astype("float64") @ row + layer["linear.bias"])
        rows.append(row / np.linalg.norm(row))
    return np.array(rows)


def test_ids_are_those_of_tokenizer_json(folder):
    reader = TextEmbedder.from_preset(folder, load_weights=False).preprocessor
    words = st_folders.WORDS
    assert reader.tokenize(["The filmed"]) == [
        [2, words.index("the"), words.index("film"), words.index("##e"), words.index("##d"), 3]
    ]
    long = reader.tokenize([TEXTS[2]])[0]
    assert len(long) == reader.sequence_length == 10
    assert (long[0], long[-1]) == (2, 3)


def test_vectors_of_each_role(folder, embedder):
    assert set(embedder.preprocessor.roles) == {"text", "query", "document", "code"}
    for role in (None, *embedder.preprocessor.roles):
        found = embedder.encode_text(TEXTS, role=role)
        prompt = st_folders.PROMPTS.get(role, "")
        want = expected(folder, TEXTS, prompt=prompt)
        np.testing.assert_allclose(found, want, atol=2e-6, err_msg=str(role))


@pytest.mark.parametrize(
    ("pooling", "config"),
    [
        ("cls", {"pooling_mode": "cls", "embedding_dimension": 16}),
        ("max", {"pooling_mode": ["max"]}),
        ("weighted_mean", {"pooling_mode_weightedmean_tokens": True}),
    ],
)
def test_poolings(tmp_path, pooling, config):
    folder = st_folders.write(tmp_path / "model", config, dense=False)
    embedder = TextEmbedder.from_preset(folder, sequence_length=12)
    assert (embedder.pooling, embedder.projection) == (pooling, ())
    found = embedder.encode_text(TEXTS)
    want = expected(folder, TEXTS, pooling, dense=False, length=12)
    np.testing.assert_allclose(found, want, atol=2e-6)


def test_a_preset_of_it_is_whole(folder, embedder, tmp_path):
    embedder.save_to_preset(tmp_path / "saved")
    embedder.save_to_preset(tmp_path / "saved")  # over a preset of the same kind
    loaded = TextEmbedder.from_preset(tmp_path / "saved")
    with pytest.raises(ValueError, match="projection of a saved embedder has weights"):
        TextEmbedder.from_preset(tmp_path / "saved", projection=3)
    assert loaded.backbone.activation == "gelu"
    assert loaded.backbone.layer_norm_epsilon == st_folders.EPSILON
    want = expected(folder, TEXTS, prompt="q: ")
    np.testing.assert_allclose(loaded.encode_text(TEXTS, role="query"), want, atol=2e-6)
    shorter = TextEmbedder.from_preset(tmp_path / "saved", sequence_length=6)
    want = expected(folder, TEXTS, prompt="q: ", length=6)
    np.testing.assert_allclose(shorter.encode_text(TEXTS, role="query"), want, atol=2e-6)
    again = TextEmbedder.from_config(embedder.get_config())
    again.set_weights(embedder.get_weights())
    tokens = {"token_ids": np.array([[2, 5, 3]]), "padding_mask": np.ones((1, 3), bool)}
    np.testing.assert_allclose(
        again.predict_on_batch(tokens), embedder.predict_on_batch(tokens), atol=1e-6
    )


def test_first_layers_keep_the_activation(folder):
    embedder = TextEmbedder.from_preset(folder, num_layers=1)
    weights = load_file(folder / "model.safetensors")
    short = embedder.backbone
    assert (short.num_layers, short.activation) == (1, "gelu")
    ids = ids_of(TEXTS[0])
    given = {"token_ids": np.array([ids]), "segment_ids": np.zeros((1, len(ids)), "int32")}
    states = short({**given, "padding_mask": np.ones((1, len(ids)), "int32")})["sequence_output"]
    layers = {**{k: v for k, v in weights.items() if "layer.1." not in k}}
    before, st_folders.LAYERS = st_folders.LAYERS, 1
    try:
        want = st_folders.bert(layers, ids)
    finally:
        st_folders.LAYERS = before
    np.testing.assert_allclose(keras.ops.convert_to_numpy(states)[0], want, atol=1e-5)


def test_padding_anywhere_and_rows_without_a_token(folder, embedder):
    ids = ids_of(TEXTS[0])
    n = len(ids)
    tokens = {
        "token_ids": np.array([[*ids, 0, 0], [0, 0, *ids], [0] * (n + 2)]),
        "padding_mask": np.array([[1] * n + [0, 0], [0, 0] + [1] * n, [0] * (n + 2)], bool),
    }
    found = keras.ops.convert_to_numpy(embedder(tokens))
    assert np.isfinite(found).all()
    np.testing.assert_allclose(found[1], found[0], atol=1e-6)
    np.testing.assert_allclose(found[:1], expected(folder, TEXTS[:1]), atol=2e-6)


@pytest.mark.slow
def test_it_trains_as_any_other(folder, tmp_path):
    embedder = TextEmbedder.from_preset(folder)
    trainer = cptk.ContrastiveTrainer(embedder)
    trainer.compile(keras.optimizers.SGD(0.5))
    before = [np.array(weight) for weight in embedder.get_weights()]
    pairs = {"query": ["a", "b film", "c", "the d"], "document": ["a.", "film", "c d", "d"]}
    history = trainer.fit(pairs, batch_size=4, epochs=3, verbose=0).history["loss"]
    assert history[-1] < history[0]
    moved = {
        weight.path.rpartition("/")[0]: bool(np.abs(new - old).max() > 0)
        for weight, old, new in zip(embedder.weights, before, embedder.get_weights(), strict=True)
    }
    assert moved["projection_0"]
    embedder.save_to_preset(tmp_path / "trained")
    loaded = TextEmbedder.from_preset(tmp_path / "trained")
    np.testing.assert_allclose(loaded.encode_text(TEXTS), embedder.encode_text(TEXTS), atol=1e-6)


def test_overrides_and_lower_case(tmp_path):
    folder = st_folders.write(tmp_path / "model")
    content = st_folders.tokenizer_json()
    content["normalizer"]["lowercase"] = False
    (folder / "tokenizer.json").write_text(json.dumps(content))
    st_folders.edit(folder / "sentence_bert_config.json", do_lower_case=True, max_seq_length=None)
    embedder = TextEmbedder.from_preset(
        folder, pooling="cls", normalize=False, projection=[5, {"units": 3, "activation": "relu"}]
    )
    assert embedder.preprocessor.sequence_length == st_folders.LONGEST
    assert embedder.preprocessor.tokenize(["FILM"]) == [[2, st_folders.WORDS.index("film"), 3]]
    assert [each["units"] for each in embedder.projection] == [5, 3]
    assert embedder.encode_text(TEXTS).shape == (4, 3)


def test_a_plain_hugging_face_folder_of_an_encoder(folder, tmp_path):
    plain = st_folders.write(tmp_path / "plain")
    (plain / "modules.json").unlink()
    with pytest.raises(ValueError, match=r"`pooling='eos'` is for decoders.*pooling='mean'"):
        TextEmbedder.from_preset(plain)
    embedder = TextEmbedder.from_preset(plain, pooling="mean", sequence_length=10)
    want = expected(folder, TEXTS, dense=False)
    np.testing.assert_allclose(embedder.encode_text(TEXTS), want, atol=2e-6)


# === What has no counterpart ===


@pytest.mark.parametrize(
    ("file", "changes", "message"),
    [
        ("1_Pooling/config.json", {"pooling_mode": ["cls", "mean"]}, r"pooling \['cls', 'mean'\]"),
        ("1_Pooling/config.json", {"pooling_mode": "mean_sqrt_len_tokens"}, "mean_sqrt_len"),
        ("1_Pooling/config.json", {"pooling_mode": "lasttoken"}, "'eos'` is for decoders"),
        ("1_Pooling/config.json", {"include_prompt": False}, "leaves prompts out of the pooling"),
        ("2_Dense/config.json", {"use_residual": True}, "use_residual"),
        (
            "2_Dense/config.json",
            {"activation_function": "my.Own"},
            "activation_function = 'my.Own'",
        ),
        ("2_Dense/config.json", {"module_input_name": "token_embeddings"}, "module_input_name"),
        ("2_Dense/config.json", {"out_features": "x"}, "out_features = 'x'"),
        ("2_Dense/config.json", {"out_features": 5}, r"weights of projection 0 have the shapes"),
        ("sentence_bert_config.json", {"transformer_task": "fill-mask"}, "'fill-mask'"),
        ("sentence_bert_config.json", {"modality_config": MESSAGES}, "a chat's messages"),
        ("sentence_bert_config.json", {"max_seq_length": "long"}, "max_seq_length = 'long'"),
        ("config_sentence_transformers.json", {"default_prompt_name": "x"}, "none of its prompts"),
        ("config_sentence_transformers.json", {"prompts": {"query": 3}}, "prompts = "),
        ("tokenizer_config.json", {"truncation_side": "left"}, "truncation_side = 'left'"),
        ("config.json", {"hidden_act": "gelu_fast"}, "hidden_act = 'gelu_fast'"),
        ("config.json", {"position_embedding_type": "relative_key"}, "relative_key"),
        ("tokenizer.json", {"normalizer": {"type": "Precompiled"}}, "precompiled_charsmap"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_options_without_a_counterpart(spoilt, file, changes, message):
    st_folders.edit(spoilt / file, **changes)
    with pytest.raises(ValueError, match=message):
        TextEmbedder.from_preset(spoilt)


@pytest.mark.parametrize(
    ("kinds", "message"),
    [
        (["models.Transformer", "models.Pooling", "models.CNN"], r"module '.*CNN', which has no"),
        (["models.Transformer", "models.Normalize"], r"begins with \['Transformer', 'Normalize'\]"),
        (["models.StaticEmbedding"], "StaticEmbedding"),
        (
            ["models.Transformer", "models.Pooling", "models.Normalize", "models.Dense"],
            "at the end",
        ),
    ],
)
def test_modules_without_a_counterpart(spoilt, kinds, message):
    modules = [
        {"idx": index, "name": str(index), "path": "" if index == 0 else f"{index}_x"}
        | {"type": f"sentence_transformers.{kind}"}
        for index, kind in enumerate(kinds)
    ]
    (spoilt / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(ValueError, match=message):
        TextEmbedder.from_preset(spoilt)


@pytest.mark.parametrize("path", ["../x", "/x", 3, None])
def test_modules_that_lead_out_of_the_folder(spoilt, path):
    modules = json.loads((spoilt / "modules.json").read_text())
    modules[1]["path"] = path
    (spoilt / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(ValueError, match=r"modules.json .* is damaged"):
        TextEmbedder.from_preset(spoilt)


@pytest.mark.parametrize("file", ["1_Pooling/config.json", "2_Dense/config.json", "tokenizer.json"])
def test_a_file_is_missing(spoilt, file):
    (spoilt / file).unlink()
    with pytest.raises(FileNotFoundError, match=file):
        TextEmbedder.from_preset(spoilt)


def test_pickled_weights_are_not_read(spoilt):
    file = spoilt / "2_Dense" / "model.safetensors"
    file.rename(file.with_name("pytorch_model.bin"))
    with pytest.raises(FileNotFoundError, match="pickled, which can run code"):
        TextEmbedder.from_preset(spoilt)


def test_weights_that_have_no_place(spoilt):
    from safetensors.numpy import save_file

    adapter = {"encoder.layer.0.adapter.weight": np.ones((2, 2), "float32")}
    save_file({**st_folders.tensors(), **adapter}, spoilt / "model.safetensors")
    with pytest.raises(ValueError, match=r"no place for: \['encoder.layer.0.adapter"):
        TextEmbedder.from_preset(spoilt)


def test_a_table_of_replacements():
    """XLM-R's normaliser is a binary table; sentencepiece makes one, NMT's NFKC."""
    sentencepiece = pytest.importorskip("sentencepiece")
    proto = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["a b c"] * 3),
        model_writer=proto,
        vocab_size=8,
        model_type="WORD",
        minloglevel=2,
        hard_vocab_limit=False,
    )
    model = pytest.importorskip("sentencepiece.sentencepiece_model_pb2").ModelProto()
    model.ParseFromString(proto.getvalue())
    table = model.normalizer_spec.precompiled_charsmap
    unigram = {"type": "Unigram", "unk_id": 0, "vocab": [["<unk>", 0.0], ["a", -1.0]]}

    def content(table):
        text = base64.b64encode(table).decode()
        step = {"type": "Precompiled", "precompiled_charsmap": text}
        return {"normalizer": step, "model": unigram}

    assert JSONTokenizer(content(table)).tokenize("a\uff41") == [1, 1]
    for spoilt in (table[:3], table + b"x" * 100, b"\xff" * 8):
        with pytest.raises(ValueError, match="precompiled_charsmap"):
            JSONTokenizer(content(spoilt))


@pytest.mark.parametrize(
    ("projection", "message"),
    [
        ("tanh", "`projection` should be a number of units"),
        ({"unit": 3}, "`projection` should be a number of units"),
        ([3, {"activation": "tanh"}], "`projection` should be a number of units"),
        (0, "`units` should be an integer of 1 or more"),
        ({"units": 3, "activation": "tanhh"}, "`activation` of a projection"),
        ({"units": 3, "activation": abs}, "`activation` of a projection"),
    ],
)
def test_bad_projections(projection, message):
    with pytest.raises((ValueError, TypeError), match=message):
        cptk.models.text_embedder.check_projection(projection)


# === Encoders of KerasHub's, without a folder ===


def test_an_encoders_tokens_are_the_default_roles():
    theirs = toys.keras_hub_embedder("Bert")
    reader = cptk.models.TextEmbedderPreprocessor(theirs.preprocessor.tokenizer, 12)
    assert reader.tokenize(["it is"], role="query") == [[2, 7, 5, 3]]
    assert reader.tokenize(["it is"]) == [[2, 7, 5, 3]]


def test_a_prompt_is_tokenised_with_the_text():
    reader = toys.preprocessor(roles={"text": ("Q", "Z", "in"), "other": ("Q", "Z")})
    plain = toys.preprocessor(roles={"text": ("Q", "Z")})
    assert reader.tokenize(["the"], role="text") == plain.tokenize(["inthe"])
    assert reader.tokenize(["the"]) == plain.tokenize(["inthe"])
    again = type(reader).from_config(reader.get_config())
    assert again.roles == reader.roles
    with pytest.raises(ValueError, match=r"prompt of role .text. should be a string"):
        toys.preprocessor(roles={"text": ("Q", "Z", 3)})


@pytest.mark.parametrize("pooling", ["max"])
def test_eos_is_refused_on_an_encoder_and_others_are_saved(pooling, tmp_path):
    backbone = toys.keras_hub_embedder("Bert").backbone
    with pytest.raises(ValueError, match=r"`pooling='eos'` is for decoders: in BertBackbone"):
        TextEmbedder(backbone)
    embedder = TextEmbedder(backbone, pooling=pooling, projection=4)
    embedder.save_to_preset(tmp_path / "saved")
    tokens = {"token_ids": np.array([[2, 5, 3]]), "padding_mask": np.ones((1, 3), bool)}
    found = TextEmbedder.from_preset(tmp_path / "saved").predict_on_batch(tokens)
    np.testing.assert_allclose(found, embedder.predict_on_batch(tokens), atol=1e-6)
