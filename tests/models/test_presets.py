"""Presets: there and back in every way. Wrong ones: test_preset_files.py; where: test_saving.py."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import keras
import keras_hub
import numpy as np
import pytest
import tokenizers
from keras_hub.src.utils import preset_utils

import cptk
from cptk.data.batching import pad_tokens
from cptk.models import (
    GPT2TextEmbedder,
    Role,
    TextEmbedder,
    TextEmbedderPreprocessor,
)
from cptk.tokenizers import family_spec, tokenizer_json
from cptk.tokenizers.specs import spec_from_content
from tests import toys
from tests.export import export_toys
from tests.models.conftest import ROLES, TEXTS, Saved, assert_same, llama_embedder, save, vectors

#: Beside the two presets that all tests share.
OTHERS = {
    "untied": llama_embedder,
    "qwen3": lambda: toys.embedder("Qwen3", 1),
    "opt": lambda: toys.embedder("OPT", 1),
    "smollm3": lambda: toys.embedder("SmolLM3"),
    "spec": lambda: TextEmbedder(
        toys.backbone(num_layers=1), toys.preprocessor(tokenizer_spec=family_spec("smollm"))
    ),
    "smollm2": lambda: TextEmbedder(toys.backbone("Llama3", 1), toys.preprocessor("smollm")),
}


@pytest.fixture(
    scope="session",
    params=[
        "gpt2",
        *(pytest.param(name, marks=pytest.mark.slow_on_jax) for name in ("llama", *OTHERS)),
    ],
)
def saved(request, tmp_path_factory) -> Saved:
    if request.param in OTHERS:
        return save(OTHERS[request.param](), tmp_path_factory.mktemp("presets") / request.param)
    return request.getfixturevalue(request.param)


# --- There and back


def test_saved_and_loaded(saved):
    embedder, folder = saved
    loaded = TextEmbedder.from_preset(folder)
    assert type(loaded) is type(embedder)
    assert type(loaded.preprocessor) is type(embedder.preprocessor)
    assert loaded.preprocessor.sequence_length == embedder.preprocessor.sequence_length
    assert set(loaded.preprocessor.roles) == set(embedder.preprocessor.roles)
    assert (loaded.pooling, loaded.normalize) == (embedder.pooling, embedder.normalize)
    assert_same(loaded, embedder, embedder.preprocessor.roles)
    texts = ["12 345\n\n\n  don't", "x" * 99]
    assert loaded.preprocessor.tokenize(texts) == embedder.preprocessor.tokenize(texts)


# KerasHub has an embedder of its own for Qwen 3, and none for GPT-2.
@pytest.mark.parametrize("saved", ["gpt2", "qwen3"], indirect=True)
def test_keras_hub_loads_it(saved):
    embedder, folder = saved
    loaded = keras_hub.models.TextEmbedder.from_preset(str(folder))
    assert type(loaded) is type(embedder)
    assert_same(loaded, embedder)


def test_the_class_that_was_saved_loads_it(gpt2):
    loaded = GPT2TextEmbedder.from_preset(str(gpt2.folder), load_weights=False)
    assert type(loaded) is GPT2TextEmbedder


def test_loads_after_a_second_saving(llama, tmp_path):
    TextEmbedder.from_preset(llama.folder).save_to_preset(tmp_path / "again")
    assert_same(TextEmbedder.from_preset(tmp_path / "again"), llama.embedder)


@pytest.mark.parametrize("saved", ["llama", "untied", "smollm3"], indirect=True)
def test_backbone_of_keras_hub_loads_from_it(saved):
    embedder, folder = saved
    backbone = keras_hub.models.Backbone.from_preset(str(folder))
    assert type(backbone) is type(embedder.backbone)
    for found, expected in zip(backbone.weights, embedder.backbone.weights, strict=True):
        np.testing.assert_array_equal(*map(keras.ops.convert_to_numpy, (found, expected)))


def test_without_weights(gpt2):
    embedder, folder = gpt2
    loaded = TextEmbedder.from_preset(folder, load_weights=False)
    assert np.abs(vectors(loaded) - vectors(embedder)).max() > 1e-2


@pytest.mark.slow_on_jax
def test_dtype(gpt2):
    embedder, folder = gpt2
    loaded = TextEmbedder.from_preset(folder, dtype="mixed_bfloat16")
    assert loaded.backbone.compute_dtype == "bfloat16"
    assert loaded.backbone.variable_dtype == "float32"
    assert (vectors(loaded) * vectors(embedder)).sum(axis=1).min() > 0.99


def test_without_a_preprocessor(gpt2, tmp_path):
    embedder = TextEmbedder(gpt2.embedder.backbone, pooling="mean")
    embedder.save_to_preset(tmp_path / "bare")
    loaded = TextEmbedder.from_preset(tmp_path / "bare", num_layers=1)
    assert loaded.preprocessor is None
    assert (loaded.pooling, loaded.backbone.num_layers) == ("mean", 1)
    with pytest.raises(ValueError, match="saved without a preprocessor"):
        TextEmbedder.from_preset(tmp_path / "bare", sequence_length=9)


def test_sharded(gpt2, tmp_path):
    embedder, _ = gpt2
    embedder.save_to_preset(tmp_path / "shards", max_shard_size=3e-5)
    shards = sorted((tmp_path / "shards").glob("model_*.weights.h5"))
    assert len(shards) > 1
    assert_same(TextEmbedder.from_preset(tmp_path / "shards"), embedder)
    shards[0].unlink()
    with pytest.raises(FileNotFoundError, match=shards[0].name):
        TextEmbedder.from_preset(tmp_path / "shards")


# KerasHub 0.32 leaves the file of the vocabulary open.
@pytest.mark.slow_on_jax
@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_sentencepiece_tokenizer(tmp_path):
    pytest.importorskip("sentencepiece", reason="KerasHub's own reading of Gemma needs it")
    reader = TextEmbedderPreprocessor(toys.sentencepiece_tokenizer(), 12)
    embedder = TextEmbedder(toys.backbone("Gemma3", 1), reader)
    texts, folder = ["the quick fox", "in one word"], tmp_path / "gemma"
    embedder.save_to_preset(folder)
    loaded = keras_hub.models.TextEmbedder.from_preset(str(folder))
    assert type(loaded) is TextEmbedder
    found, expected = (vectors(each, texts=texts) for each in (loaded, embedder))
    np.testing.assert_allclose(found, expected, atol=1e-6)
    (folder / "assets" / "tokenizer" / "vocabulary.spm").write_bytes(b"garbled")
    with pytest.raises(ValueError, match="the tokenizer's assets"):
        TextEmbedder.from_preset(folder)


OTHER_PROCESS = """
import sys
import cptk
import keras
import keras_hub
import numpy as np

folder, output, backend = sys.argv[1:4]
assert keras.backend.backend() == backend
found = {}
for name in sys.argv[4:]:
    embedder = keras_hub.models.TextEmbedder.from_preset(f"{folder}/{name}")
    for role in embedder.preprocessor.roles:
        texts = np.load(f"{folder}/texts.npy")
        found[f"{name}/{role}"] = embedder.encode_text(texts, role, verbose=0)
np.savez(output, **found)
"""


NATIVE = keras.backend.backend()
OTHER = "tensorflow" if NATIVE == "jax" else "jax"


@pytest.mark.slow
@pytest.mark.parametrize(
    "backend",
    [name for name in ("tensorflow", "jax", "torch") if NATIVE == "tensorflow" or name == OTHER],
)
def test_same_vectors_in_another_process_on_any_backend(gpt2, llama, backend, tmp_path):
    if importlib.util.find_spec(backend) is None:
        pytest.skip(f"{backend} is not installed")
    presets = {"gpt2": gpt2, "llama": llama}
    for name, (_, folder) in presets.items():
        (tmp_path / name).symlink_to(folder)
    np.save(tmp_path / "texts.npy", np.array(TEXTS))
    command = [sys.executable, "-c", OTHER_PROCESS, tmp_path, tmp_path / "out.npz", backend]
    path = os.pathsep.join([str(Path(cptk.__file__).parents[1]), *sys.path])
    environment = {**os.environ, "KERAS_BACKEND": backend, "PYTHONPATH": path}
    subprocess.run(list(map(str, [*command, *presets])), env=environment, check=True)
    found = np.load(tmp_path / "out.npz")
    for name, (embedder, _) in presets.items():
        for role in embedder.preprocessor.roles:
            expected = vectors(embedder, role)
            # Not all are normalised: the difference is measured against the vector's length.
            length = np.linalg.norm(expected, axis=1, keepdims=True)
            np.testing.assert_allclose(
                found[f"{name}/{role}"] / length, expected / length, rtol=0, atol=1e-6
            )


# --- Overrides


def test_overrides_on_a_saved_preset(llama):
    embedder, folder = llama
    roles = {"only": Role("a", "z")}
    loaded = TextEmbedder.from_preset(folder, num_layers=1, sequence_length=9, roles=roles)
    assert loaded.backbone.num_layers == 1
    assert loaded.preprocessor.sequence_length == 9
    assert (loaded.pooling, loaded.normalize) == ("weighted_mean", False)
    ids = loaded.preprocessor.tokenize(["b" * 20])[0]
    assert [*ids[:2], ids[-1], len(ids)] == [
        *toys.preprocessor().reference.encode_exactly("abz"),
        9,
    ]
    short = TextEmbedder(
        cptk.models.keep_first_layers(embedder.backbone, 1),
        toys.preprocessor("llama3", 9, roles=roles),
        pooling="weighted_mean",
        normalize=False,
    )
    assert_same(loaded, short)
    again = TextEmbedder.from_preset(folder, pooling="mean", normalize=True)
    assert (again.pooling, again.normalize) == ("mean", True)
    assert set(again.preprocessor.roles) == set(ROLES)


def test_overrides_keep_the_rest(llama, tmp_path):
    embedder, folder = llama
    loaded = TextEmbedder.from_preset(folder, load_weights=False, sequence_length=30)
    assert dict(loaded.preprocessor.roles) == dict(embedder.preprocessor.roles)
    OTHERS["spec"]().save_to_preset(tmp_path / "spec")
    loaded = TextEmbedder.from_preset(tmp_path / "spec", roles={"a": ("", "]")})
    assert loaded.preprocessor.sequence_length == 24
    assert loaded.preprocessor.reference.spec == family_spec("smollm")
    # keras_hub's way in takes them too.
    loaded = keras_hub.models.TextEmbedder.from_preset(str(folder), sequence_length=30)
    assert loaded.preprocessor.sequence_length == 30


def test_bad_overrides(gpt2):
    folder = gpt2.folder
    for arguments, message in [
        ({"num_layers": 3}, "`num_layers` should be from 1 to 2"),
        ({"num_layers": "1"}, "`num_layers` should be an integer"),
        ({"sequence_length": 2}, "`sequence_length` should be an integer of at least 3"),
        ({"sequence_length": 33}, "sequence_length=33 is more than this GPT2Backbone"),
        ({"roles": {}}, "at least one name"),
        ({"pooling": "last"}, "`pooling` should be one of"),
        ({"normalize": None}, "`normalize` should be True or False"),
    ]:
        with pytest.raises(ValueError, match=message):
            TextEmbedder.from_preset(folder, load_weights=False, **arguments)
    with pytest.raises(TypeError, match=r"no argument 'polling'.* pooling"):
        TextEmbedder.from_preset(folder, polling="mean")
    with pytest.raises(ValueError, match="float31"):
        TextEmbedder.from_preset(folder, dtype="float31")


@pytest.mark.slow
def test_first_layers_are_all_that_is_saved(tmp_path):
    long = llama_embedder(num_layers=4)
    long.save_to_preset(tmp_path / "long")
    short = TextEmbedder.from_preset(tmp_path / "long", num_layers=1)
    short.save_to_preset(tmp_path / "short")
    loaded = TextEmbedder.from_preset(tmp_path / "short")
    assert loaded.backbone.num_layers == 1
    assert_same(loaded, short, ROLES)
    sizes = [(tmp_path / name / "model.weights.h5").stat().st_size for name in ("long", "short")]
    assert sizes[1] < 0.6 * sizes[0]


# --- From plain decoders


@pytest.mark.slow_on_jax
@pytest.mark.parametrize(
    ("name", "family", "longest"),
    [
        # Longest of the position embeddings, where there are any.
        pytest.param("GPT2", "gpt2", toys.LONGEST, marks=pytest.mark.slow),
        pytest.param("OPT", "opt", toys.LONGEST, marks=pytest.mark.slow),
        ("Llama3", "llama3", 256),
    ],
)
def test_from_a_decoders_preset(tmp_path, name, family, longest):
    backbone, folder = toys.backbone(name), str(tmp_path / name)
    backbone.save_to_preset(folder)
    with pytest.raises(FileNotFoundError, match=r"has no tokenizer\.json"):
        TextEmbedder.from_preset(folder)
    toys.tokenizer(family).save_to_preset(folder)
    loaded = TextEmbedder.from_preset(folder, roles=ROLES, pooling="mean")
    assert loaded.preprocessor.sequence_length == longest
    reader = toys.preprocessor(family, longest, roles=ROLES)
    assert_same(loaded, TextEmbedder(backbone, reader, pooling="mean"), ROLES)
    short = TextEmbedder.from_preset(folder, num_layers=1, sequence_length=7)
    assert (short.backbone.num_layers, short.preprocessor.sequence_length) == (1, 7)


@pytest.mark.parametrize("pooling", ["mean", "cls", "max"])
@pytest.mark.parametrize("normalize", [True, False])
def test_from_what_keras_hubs_own_embedder_saved(tmp_path, pooling, normalize):
    own = export_toys.keras_hub_bert()
    hub = type(own)(own.backbone, own.preprocessor, pooling_mode=pooling, normalize=normalize)
    hub.save_to_preset(str(tmp_path / "hub"))
    loaded = TextEmbedder.from_preset(tmp_path / "hub")
    assert (loaded.pooling, loaded.normalize) == (pooling, normalize)
    assert loaded.preprocessor.sequence_length == own.preprocessor.sequence_length
    texts = ["a file", "the film: read", "film " * 40]
    found = loaded(pad_tokens(loaded.preprocessor.tokenize(texts), 20), training=False)
    np.testing.assert_allclose(
        keras.ops.convert_to_numpy(found), hub.predict(texts, verbose=0), atol=1e-5
    )
    assert TextEmbedder.from_preset(tmp_path / "hub", pooling="max").pooling == "max"


def test_from_the_preset_of_another_task(gpt2, tmp_path):
    reader = keras_hub.models.GPT2CausalLMPreprocessor(toys.tokenizer(), 16)
    model = keras_hub.models.GPT2CausalLM(toys.backbone(), reader)
    model.save_to_preset(str(tmp_path / "lm"))
    loaded = GPT2TextEmbedder.from_preset(tmp_path / "lm", sequence_length=24)
    assert_same(loaded, gpt2.embedder)


def test_prompt_longer_than_the_default_sequence(tmp_path):
    backbone, folder = toys.backbone("Llama3", 1), tmp_path / "llama"
    backbone.save_to_preset(str(folder))
    toys.tokenizer("llama3").save_to_preset(str(folder))
    roles = {"long": Role("x" * 300, "")}
    loaded = TextEmbedder.from_preset(folder, roles=roles, sequence_length=320)
    assert len(loaded.preprocessor.tokenize(["y"])[0]) == 301
    with pytest.raises(ValueError, match="role 'long' itself takes 300 tokens"):
        TextEmbedder.from_preset(folder, roles=roles)


#: What a folder may lack: transformers 5 writes `tokenizer.json` alone.
LACKING = [("tokenizer.json",), ("vocab.json", "merges.txt"), ("merges.txt",)]


@pytest.mark.parametrize("lacking", LACKING)
def test_from_a_hugging_face_gpt2(gpt2, hugging_face_copy, tmp_path, lacking):
    folder = hugging_face_copy("gpt2")
    for name in lacking:
        (folder / name).unlink()
    loaded = GPT2TextEmbedder.from_preset(folder, sequence_length=24)
    assert type(loaded) is GPT2TextEmbedder
    assert_same(loaded, gpt2.embedder, ["query", "document"])
    if lacking == ("vocab.json", "merges.txt"):
        loaded.save_to_preset(tmp_path / "saved")
        assert_same(TextEmbedder.from_preset(tmp_path / "saved"), gpt2.embedder)


def test_a_hugging_face_gpt2_without_any_tokenizer(hugging_face_copy):
    folder = hugging_face_copy("gpt2")
    for name in ("tokenizer.json", "vocab.json"):
        (folder / name).unlink()
    with pytest.raises(FileNotFoundError, match=r"neither tokenizer\.json nor vocab\.json"):
        GPT2TextEmbedder.from_preset(folder)


@pytest.mark.parametrize("content", ["[]", '{"a": "b"}', "[" * 100_000, '{"<|endoftext|>": 999}'])
def test_a_hugging_face_gpt2_with_a_garbled_vocabulary(hugging_face_copy, content):
    folder = hugging_face_copy("gpt2")
    (folder / "tokenizer.json").unlink()
    (folder / "vocab.json").write_text(content)
    with pytest.raises(ValueError, match=r"vocab\.json"):
        GPT2TextEmbedder.from_preset(folder, load_weights=False)


@pytest.mark.parametrize("family", ["gpt2", "llama3"])
def test_special_tokens_that_the_embedding_has_no_row_for(hugging_face_copy, tmp_path, family):
    folder = hugging_face_copy(family)
    for old in folder.glob("vocab.json"):
        old.unlink()
    content = json.loads((folder / "tokenizer.json").read_text())
    token = content["added_tokens"][0]
    content["added_tokens"].append({**token, "id": toys.VOCABULARY_SIZE, "content": "<|pad|>"})
    (folder / "tokenizer.json").write_text(json.dumps(content))
    loaded = TextEmbedder.from_preset(folder, load_weights=False, sequence_length=24)
    texts = ["a <|pad|> b"]
    assert max(loaded.preprocessor.tokenize(texts)[0]) < toys.VOCABULARY_SIZE
    loaded.preprocessor.save_to_preset(str(tmp_path))
    kept = json.loads((tmp_path / "assets" / "tokenizer" / "vocabulary.json").read_text())
    assert max(kept.values()) < toys.VOCABULARY_SIZE
    content["model"]["vocab"]["ordinary"] = toys.VOCABULARY_SIZE + 1
    (folder / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match="has the id 273 for 'ordinary'"):
        TextEmbedder.from_preset(folder, load_weights=False)


def mistral_tokenizer_json(size: int = 200) -> tokenizers.Tokenizer:
    """A small one as Mistral's and Llama 2's: SentencePiece's spaces, bytes for what is unknown."""
    model = tokenizers.models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True)
    made = tokenizers.Tokenizer(model)
    made.normalizer = tokenizers.normalizers.Sequence(
        [tokenizers.normalizers.Prepend("▁"), tokenizers.normalizers.Replace(" ", "▁")]
    )
    special = ["<unk>", "<s>", "</s>", *(f"<0x{index:02X}>" for index in range(256))]
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=len(special) + size, special_tokens=special, show_progress=False
    )
    made.train_from_iterator(["the quick brown fox", "[a] {b} in one word"] * 3, trainer)
    # Only the first three are special to the published ones; the bytes are plain entries.
    content = json.loads(made.to_str())
    content["added_tokens"] = content["added_tokens"][:3]
    decoders = tokenizers.decoders
    content["decoder"] = json.loads(
        _decoder_json(
            decoders.Sequence(
                [
                    decoders.Replace("▁", " "),
                    decoders.ByteFallback(),
                    decoders.Fuse(),
                    decoders.Strip(" ", 1, 0),
                ]
            )
        )
    )
    return tokenizers.Tokenizer.from_str(json.dumps(content))


def _decoder_json(decoder) -> str:
    carrier = tokenizers.Tokenizer(tokenizers.models.BPE())
    carrier.decoder = decoder
    return json.dumps(json.loads(carrier.to_str())["decoder"])


@pytest.mark.parametrize("kind", ["mistral", "gemma"])
def test_a_tokenizer_json_in_place_of_sentencepieces_file(kind):
    own = mistral_tokenizer_json()
    content = json.loads(own.to_str())
    tokenizer = tokenizer_json.tokenizer_from_content(content, kind)
    spec = spec_from_content(content)
    reader = TextEmbedderPreprocessor(tokenizer, 64, {"text": ("", "")}, spec)
    texts = [*TEXTS, "the quick fox\n\n 猫</s>x", " two  spaces "]
    expected = [encoding.ids for encoding in own.encode_batch(texts, add_special_tokens=False)]
    assert reader.tokenize(texts) == expected


@pytest.mark.parametrize("family", [pytest.param("llama3", marks=pytest.mark.slow), "smollm"])
def test_from_a_hugging_face_llama_and_back(hugging_face, tmp_path, family):
    source, folder = hugging_face[family]
    loaded = TextEmbedder.from_preset(folder, sequence_length=24, roles=ROLES)
    spec = family_spec("smollm" if family == "smollm" else "gpt2")
    reader = TextEmbedderPreprocessor(toys.tokenizer(family), 24, ROLES, spec)
    assert_same(loaded, TextEmbedder(source, reader), ROLES)
    loaded.save_to_preset(tmp_path / "saved")
    again = TextEmbedder.from_preset(tmp_path / "saved")
    assert_same(again, loaded)
    texts = ["2024 the\n\n\n<|im_start|> x"]
    assert again.preprocessor.tokenize(texts) == loaded.preprocessor.tokenize(texts)


def test_hugging_face_folders_with_a_part_missing(hugging_face, hugging_face_copy, tmp_path):
    whole = hugging_face["llama3"].folder
    folder = hugging_face_copy("llama3")
    for file in sorted(whole.iterdir()):
        (folder / file.name).unlink()
        with pytest.raises(FileNotFoundError, match=file.name.replace(".", r"\.")):
            TextEmbedder.from_preset(folder)
        content = file.read_bytes()
        (folder / file.name).write_bytes(content[: len(content) // 2])
        with pytest.raises(ValueError, match=file.name.replace(".", r"\.")):
            TextEmbedder.from_preset(folder)
        (folder / file.name).write_bytes(content)


# --- LoRA


def test_lora_is_merged(tmp_path):
    embedder = toys.gpt2_embedder()
    before = vectors(embedder)
    embedder.backbone.enable_lora(2)
    rng = np.random.default_rng(0)
    for weight in embedder.backbone.weights:
        if "lora" in weight.path:
            weight.assign(rng.normal(scale=0.3, size=weight.shape))
    expected = vectors(embedder)
    assert np.abs(expected - before).max() > 1e-2
    embedder.save_to_preset(tmp_path / "lora")
    loaded = TextEmbedder.from_preset(tmp_path / "lora")
    np.testing.assert_allclose(vectors(loaded), expected, atol=1e-5)
    assert not any("lora" in weight.path for weight in loaded.weights)
    np.testing.assert_allclose(vectors(embedder), expected, atol=1e-6)


# --- Wrong


def test_wrong_class(llama, tmp_path):
    folder = tmp_path / "llama"
    toys.backbone("Llama3").save_to_preset(str(folder))
    toys.tokenizer("llama3").save_to_preset(str(folder))
    for preset in (folder, llama.folder):
        with pytest.raises(
            ValueError, match=r"made for a GPT2Backbone.*Use cptk.models.TextEmbedder"
        ):
            GPT2TextEmbedder.from_preset(preset)


def test_nothing_there(tmp_path):
    for preset in (tmp_path / "nothing", "gpt2_base_english"):
        with pytest.raises(FileNotFoundError, match="There is no preset"):
            TextEmbedder.from_preset(preset)
    for preset in (None, 5, b"preset"):
        with pytest.raises(TypeError, match=f"should be a .*{type(preset).__name__}|be a path"):
            TextEmbedder.from_preset(preset)
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"is incomplete: it has no config\.json"):
        TextEmbedder.from_preset(tmp_path / "empty")
    (tmp_path / "empty" / "config.json").write_text("{}")
    with pytest.raises(ValueError, match="Unrecognized format"):
        TextEmbedder.from_preset(tmp_path / "empty")


# --- Handles


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A hub whose downloads come from a folder; returns what was asked of it."""
    asked = []

    def fetch(handle, file):
        asked.append(handle)
        path = tmp_path / handle.split("/")[-1] / file
        if not path.exists():
            raise error(f"{file} is not present in the model files")
        return str(path)

    error = ValueError
    kaggle = type("Kaggle", (), {"model_download": staticmethod(fetch)})
    face = type(
        "Face",
        (),
        {"hf_hub_download": staticmethod(lambda repo_id, filename: fetch(repo_id, filename))},
    )
    monkeypatch.setattr(preset_utils, "kagglehub", kaggle)
    monkeypatch.setattr(preset_utils, "KaggleApiHTTPError", RuntimeError, raising=False)
    monkeypatch.setattr(preset_utils, "huggingface_hub", face)
    monkeypatch.setattr(preset_utils, "HFValidationError", RuntimeError, raising=False)
    monkeypatch.setattr(preset_utils, "EntryNotFoundError", ValueError, raising=False)
    return asked


PREFIXES = ["kaggle://me/gpt2/keras/", "hf://me/"]


@pytest.mark.parametrize("prefix", PREFIXES)
def test_handles(llama, hub, tmp_path, prefix):
    shutil.copytree(llama.folder, tmp_path / "ours")
    loaded = TextEmbedder.from_preset(f"{prefix}ours")
    assert_same(loaded, llama.embedder)
    assert f"{prefix.split('://')[1]}ours" in hub
    with pytest.raises(ValueError, match=r"config\.json"):
        TextEmbedder.from_preset(f"{prefix}nothing")


@pytest.mark.parametrize("prefix", PREFIXES)
def test_handles_of_hostile_presets(copy, hub, prefix):
    task = json.loads((copy / "task.json").read_text())
    task["config"]["preprocessor"]["config"]["config_file"] = "../../elsewhere.json"
    (copy / "task.json").write_text(json.dumps(task))
    with pytest.raises(ValueError, match=r"task\.json .*`config_file` should be the plain name"):
        TextEmbedder.from_preset(f"{prefix}copy")


def test_hugging_face_layout_through_a_handle(hub, tmp_path):
    source = toys.backbone("Llama3", tie_word_embeddings=True)
    toys.save_hugging_face(tmp_path / "smollm", source, "smollm")
    loaded = TextEmbedder.from_preset("hf://me/smollm")
    assert (
        loaded.preprocessor.reference.spec["pre_tokenizer"]
        == (family_spec("smollm")["pre_tokenizer"])
    )


def test_builtin_name(gpt2, hub, tmp_path):
    toys.backbone().save_to_preset(str(tmp_path / "made"))
    toys.tokenizer().save_to_preset(str(tmp_path / "made"))
    handle = keras_hub.models.GPT2Backbone.presets["gpt2_base_en"]["kaggle_handle"]
    shutil.copytree(tmp_path / "made", tmp_path / handle.split("/")[-1])
    loaded = GPT2TextEmbedder.from_preset("gpt2_base_en", sequence_length=24)
    assert_same(loaded, gpt2.embedder)


def test_config_of_the_preset_is_whole(llama, tmp_path):
    llama_embedder(num_layers=1).save_to_preset(tmp_path / "untied")
    for folder, tied in [(llama.folder, True), (tmp_path / "untied", False)]:
        config = json.loads((folder / "config.json").read_text())
        assert config["config"]["tie_word_embeddings"] is tied
