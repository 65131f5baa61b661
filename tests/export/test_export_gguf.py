"""GGUF files: read by the gguf library, and by our own reader where the architecture is Llama."""

import json

import numpy as np
import pytest
import toys
from export_toys import ONE_ROLE, PROMPTED, decoder, embedder, encoder
from safetensors.numpy import load_file

import cptk
from cptk.export import to_gguf, to_sentence_transformers
from cptk.models import Role, TextEmbedder

gguf = pytest.importorskip("gguf", reason="pip install cptk[gguf]")
TEXTS = ["the thing", "x", "def f(x):\n\n    return 1\n", "a café \U0001f600", "12 " * 30]


def read(file):
    """Metadata by key, and tensors as float32 arrays by name."""
    reader = gguf.GGUFReader(file)
    fields = {}
    for key, field in reader.fields.items():
        fields[key] = field.contents()
    tensors = {
        each.name: gguf.quants.dequantize(each.data, each.tensor_type)
        .astype("float32")
        .reshape(tuple(reversed(each.shape.tolist())))
        for each in reader.tensors
    }
    return fields, tensors


def test_a_llama_comes_back_through_our_reader(tmp_path):
    made = decoder("Llama3")
    exported = to_gguf(made, tmp_path / "folder")
    assert exported.notes == ()
    loaded = cptk.integrations.gguf.load_embedder(
        exported.folder / "model.gguf", sequence_length=24, roles=ONE_ROLE
    )
    np.testing.assert_allclose(loaded.encode_text(TEXTS), made.encode_text(TEXTS), atol=2e-6)
    fields, _ = read(exported.folder / "model.gguf")
    assert fields["llama.pooling_type"] == gguf.PoolingType.LAST
    assert fields["tokenizer.ggml.pre"] == "smollm"
    for side, token in (("bos", "["), ("eos", "]")):
        assert fields[f"tokenizer.ggml.add_{side}_token"] is True
        index = fields[f"tokenizer.ggml.{side}_token_id"]
        assert fields["tokenizer.ggml.tokens"][index] == token


def test_a_scaled_rotation_comes_back(tmp_path):
    scaling = {"rope_frequency_adjustment_factor": 8.0, "rope_low_freq_factor": 1.0}
    scaling |= {"rope_high_freq_factor": 4.0, "rope_pretraining_sequence_length": 8192}
    backbone = toys.backbone("Llama3", 1, rope_max_wavelength=500_000, **scaling)
    made = TextEmbedder(backbone, toys.preprocessor("smollm", roles=ONE_ROLE))
    file = to_gguf(made, tmp_path / "folder").folder / "model.gguf"
    again = cptk.integrations.gguf.load_backbone(file)
    for name in scaling:
        assert getattr(again, name) == scaling[name]


@pytest.mark.parametrize("name", ["Bert", "GPT2", "Qwen", "Qwen3"])
def test_tensors_have_the_names_and_values_that_llama_cpp_expects(name, tmp_path):
    made = embedder(name)
    folder = to_gguf(made, tmp_path / "gguf").folder
    fields, tensors = read(folder / "model.gguf")
    st = to_sentence_transformers(made, tmp_path / "st").folder
    weights = load_file(st / "model.safetensors")
    kind = {"Qwen": "qwen2"}.get(name, name.lower())
    architecture = {v: k for k, v in gguf.MODEL_ARCH_NAMES.items()}[kind]
    known = {gguf.TENSOR_NAMES[each] for each in gguf.MODEL_TENSORS[architecture]}
    shapes = {each.replace("{bid}", "0") for each in known} | {
        each.replace("{bid}", "1") for each in known
    }
    assert {each.rpartition(".")[0] for each in tensors} <= shapes
    assert len(tensors) == len([key for key in weights if not key.startswith("pooler.")])
    flat = sorted(float(np.abs(value).sum()) for value in tensors.values())
    expected = [np.abs(v).sum() for k, v in weights.items() if not k.startswith("pooler.")]
    np.testing.assert_allclose(flat, sorted(map(float, expected)), rtol=1e-5)
    assert fields["general.architecture"] == kind
    assert fields[f"{kind}.block_count"] == 2
    width = fields[f"{kind}.embedding_length"]
    first = "attn_qkv" if name == "GPT2" else "attn_q"
    assert tensors[f"blk.0.{first}.weight"].shape[1] == width
    assert tensors["token_embd.weight"].shape[0] == len(fields["tokenizer.ggml.tokens"])


def test_gpt2_matrices_are_turned(tmp_path):
    made = decoder("GPT2", num_layers=1)
    _, tensors = read(to_gguf(made, tmp_path / "folder").folder / "model.gguf")
    inner = made.backbone.transformer_layers[0]._feedforward_intermediate_dense.kernel
    np.testing.assert_array_equal(tensors["blk.0.ffn_up.weight"], np.asarray(inner).T)


def test_word_pieces_are_marked_as_llama_cpp_wants_them(tmp_path):
    made = encoder("Bert")
    exported = to_gguf(made, tmp_path / "folder")
    fields, _ = read(exported.folder / "model.gguf")
    tokens = fields["tokenizer.ggml.tokens"]
    assert fields["tokenizer.ggml.model"] == "bert"
    assert fields["bert.attention.causal"] is False
    assert (tokens[2], tokens.count("▁film"), tokens[-1]) == ("[CLS]", 1, "z")
    assert (fields["tokenizer.ggml.bos_token_id"], fields["tokenizer.ggml.eos_token_id"]) == (2, 3)
    assert exported.notes == ("Put the role's prompt before a text yourself: {'query': 'q: '}.",)


def test_texts_are_given_as_ids_where_more_stands_around_them(tmp_path):
    form = Role("this: ", " in one word:")
    exported = to_gguf(decoder("GPT2", roles={"text": form}), tmp_path / "several")
    assert exported.notes[0].startswith("Give token ids and no texts: a role has several")
    exported = to_gguf(decoder("GPT2", roles=None), tmp_path / "paper")
    assert "its roles have different ids" in exported.notes[0]
    fields, _ = read(exported.folder / "model.gguf")
    assert fields["tokenizer.ggml.add_bos_token"] is False
    roles = json.loads((exported.folder / "roles.json").read_text())
    assert roles["roles"]["document"] == {"prefix": [90], "suffix": [92], "prompt": ""}


def test_int8_says_what_it_costs(tmp_path):
    sizes = {"hidden_dim": 64, "intermediate_dim": 128}
    backbone = toys.backbone("Llama3", 2, **sizes)
    made = TextEmbedder(backbone, toys.preprocessor("smollm", roles=ONE_ROLE))
    exported = to_gguf(made, tmp_path / "folder", quantize="int8")
    file = exported.folder / "model.gguf"
    loaded = cptk.integrations.gguf.load_embedder(file, sequence_length=24, roles=ONE_ROLE)
    given = list(cptk.export.samples.readable(made))
    expected = made.encode_text(given)
    found = loaded.encode_text(given)
    assert np.abs(found - expected).max() == pytest.approx(exported.difference, abs=1e-6)
    assert (found * expected).sum(axis=1).min() == pytest.approx(exported.cosine, abs=1e-6)
    assert 0.99 < exported.cosine < 0.999999
    kinds = {each.name: each.tensor_type for each in gguf.GGUFReader(file).tensors}
    assert kinds["blk.0.attn_q.weight"] == gguf.GGMLQuantizationType.Q8_0
    assert kinds["blk.0.attn_norm.weight"] == gguf.GGMLQuantizationType.F32


def test_what_llama_cpp_does_not_have_is_refused(tmp_path):
    for name, given, match in (
        ("GPT2", {"projection": 4}, "no counterpart of a projection"),
        ("GPT2", {"pooling": "weighted_mean"}, "no counterpart of the pooling 'weighted_mean'"),
        ("Roberta", {}, "RobertaBackbone is not written as GGUF"),
    ):
        with pytest.raises(ValueError, match=match):
            to_gguf(embedder(name, **given), tmp_path / "folder")
    with pytest.raises(ValueError, match="`quantize` should be one of"):
        to_gguf(decoder("GPT2", roles=PROMPTED), tmp_path / "folder", quantize="q4")
    assert list(tmp_path.iterdir()) == []
