"""Presets: there and back in every way, and what happens when a part of one is missing."""

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
from keras_hub.src.utils import preset_utils

import cptk
from cptk.models import DecoderTextEmbedder, DecoderTextEmbedderPreprocessor, GPT2TextEmbedder, Role
from cptk.models.tokenization import family_spec
from tests import toys

ROLES = {"query": Role("Q: ", [1, 2]), "document": Role("", " = "), "third": Role("3", "")}


def vectors(embedder, role=None):
    return embedder.encode_text(toys.TEXTS, role, verbose=0)


def assert_same(found, expected, roles=(None,)):
    for role in roles:
        np.testing.assert_allclose(vectors(found, role), vectors(expected, role), atol=1e-6)


def with_roles(name="Llama3", family="llama3", num_layers=2, **kwargs):
    reader = toys.preprocessor(family, 21, roles=ROLES)
    backbone = toys.backbone(name, num_layers, **kwargs)
    return DecoderTextEmbedder(backbone, reader, pooling="weighted_mean", normalize=False)


MAKERS = {
    "gpt2": toys.gpt2_embedder,
    "untied": with_roles,
    "tied": lambda: with_roles(tie_word_embeddings=True),
    "qwen3": lambda: toys.embedder("Qwen3"),
    "opt": lambda: toys.embedder("OPT"),
    "smollm3": lambda: toys.embedder("SmolLM3"),
    "spec": lambda: DecoderTextEmbedder(
        toys.backbone(), toys.preprocessor(tokenizer_spec=family_spec("smollm"))
    ),
    "smollm2": lambda: DecoderTextEmbedder(toys.backbone("Llama3"), toys.preprocessor("smollm")),
}


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> dict[str, tuple]:
    """Name → (embedder, folder that it was saved to)."""
    root = tmp_path_factory.mktemp("presets")
    made = {name: make() for name, make in MAKERS.items()}
    for name, embedder in made.items():
        embedder.save_to_preset(str(root / name))
    return {name: (embedder, root / name) for name, embedder in made.items()}


@pytest.fixture
def copy(saved, tmp_path) -> Path:
    """A copy of the GPT-2 preset, to be spoilt."""
    return Path(shutil.copytree(saved["gpt2"][1], tmp_path / "copy"))


# --- There and back


@pytest.mark.parametrize("name", MAKERS)
def test_saved_and_loaded(saved, name):
    embedder, folder = saved[name]
    loaded = DecoderTextEmbedder.from_preset(folder)
    assert type(loaded) is type(embedder)
    assert type(loaded.preprocessor) is type(embedder.preprocessor)
    assert loaded.preprocessor.sequence_length == embedder.preprocessor.sequence_length
    assert set(loaded.preprocessor.roles) == set(embedder.preprocessor.roles)
    assert (loaded.pooling, loaded.normalize) == (embedder.pooling, embedder.normalize)
    assert_same(loaded, embedder, embedder.preprocessor.roles)
    texts = ["12 345\n\n\n  don't", "x" * 99]
    assert loaded.preprocessor.tokenize(texts) == embedder.preprocessor.tokenize(texts)


@pytest.mark.parametrize("name", ["gpt2", "tied", "qwen3"])
def test_keras_hub_loads_it(saved, name):
    embedder, folder = saved[name]
    loaded = keras_hub.models.TextEmbedder.from_preset(str(folder))
    assert type(loaded) is type(embedder)
    assert_same(loaded, embedder, embedder.preprocessor.roles)


def test_the_class_that_was_saved_loads_it(saved):
    embedder, folder = saved["gpt2"]
    assert_same(GPT2TextEmbedder.from_preset(str(folder)), embedder)


def test_loads_after_a_second_saving(saved, tmp_path):
    embedder, folder = saved["tied"]
    DecoderTextEmbedder.from_preset(folder).save_to_preset(tmp_path / "again")
    assert_same(DecoderTextEmbedder.from_preset(tmp_path / "again"), embedder)


@pytest.mark.parametrize("name", ["tied", "untied", "smollm3", "opt"])
def test_backbone_of_keras_hub_loads_from_it(saved, name):
    embedder, folder = saved[name]
    backbone = keras_hub.models.Backbone.from_preset(str(folder))
    assert type(backbone) is type(embedder.backbone)
    for found, expected in zip(backbone.weights, embedder.backbone.weights, strict=True):
        np.testing.assert_array_equal(*map(keras.ops.convert_to_numpy, (found, expected)))


def test_without_weights(saved):
    embedder, folder = saved["gpt2"]
    loaded = DecoderTextEmbedder.from_preset(folder, load_weights=False)
    assert np.abs(vectors(loaded) - vectors(embedder)).max() > 1e-2


def test_dtype(saved):
    embedder, folder = saved["gpt2"]
    loaded = DecoderTextEmbedder.from_preset(folder, dtype="mixed_bfloat16")
    assert loaded.backbone.compute_dtype == "bfloat16"
    assert loaded.backbone.variable_dtype == "float32"
    assert (vectors(loaded) * vectors(embedder)).sum(axis=1).min() > 0.99


def test_without_a_preprocessor(saved, tmp_path):
    embedder = DecoderTextEmbedder(saved["gpt2"][0].backbone, pooling="mean")
    embedder.save_to_preset(tmp_path / "bare")
    loaded = DecoderTextEmbedder.from_preset(tmp_path / "bare", num_layers=1)
    assert loaded.preprocessor is None
    assert (loaded.pooling, loaded.backbone.num_layers) == ("mean", 1)
    with pytest.raises(ValueError, match="saved without a preprocessor"):
        DecoderTextEmbedder.from_preset(tmp_path / "bare", sequence_length=9)


def test_sharded(saved, tmp_path):
    embedder, _ = saved["gpt2"]
    embedder.save_to_preset(tmp_path / "shards", max_shard_size=3e-5)
    shards = sorted((tmp_path / "shards").glob("model_*.weights.h5"))
    assert len(shards) > 1
    assert_same(DecoderTextEmbedder.from_preset(tmp_path / "shards"), embedder)
    shards[0].unlink()
    with pytest.raises(FileNotFoundError, match=shards[0].name):
        DecoderTextEmbedder.from_preset(tmp_path / "shards")


@keras.saving.register_keras_serializable(package="tests")
class OwnEmbedder(DecoderTextEmbedder):
    pass


def test_subclass_of_another_package(tmp_path):
    embedder = OwnEmbedder(toys.backbone(), toys.preprocessor("gpt2", 11, roles=ROLES))
    embedder.save_to_preset(tmp_path / "own")
    loaded = DecoderTextEmbedder.from_preset(tmp_path / "own")
    assert type(loaded) is OwnEmbedder
    assert_same(loaded, embedder, ROLES)


# KerasHub 0.32 leaves the file of the vocabulary open.
@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_sentencepiece_tokenizer(tmp_path):
    pytest.importorskip("sentencepiece", reason="KerasHub's own reading of Gemma needs it")
    reader = DecoderTextEmbedderPreprocessor(toys.sentencepiece_tokenizer(), 12)
    embedder = DecoderTextEmbedder(toys.backbone("Gemma3"), reader)
    texts = ["the quick fox", "in one word"]
    embedder.save_to_preset(tmp_path / "gemma")
    for cls in (DecoderTextEmbedder, keras_hub.models.TextEmbedder):
        loaded = cls.from_preset(str(tmp_path / "gemma"))
        assert type(loaded) is DecoderTextEmbedder
        expected = embedder.encode_text(texts, verbose=0)
        np.testing.assert_allclose(loaded.encode_text(texts, verbose=0), expected, atol=1e-6)


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


@pytest.mark.slow_on_jax
@pytest.mark.parametrize("backend", ["tensorflow", "jax", "torch"])
def test_same_vectors_in_another_process_on_any_backend(saved, backend, tmp_path):
    if importlib.util.find_spec(backend) is None:
        pytest.skip(f"{backend} is not installed")
    names = ["gpt2", "tied", "qwen3", "smollm2"]
    folder = saved["gpt2"][1].parent
    np.save(folder / "texts.npy", np.array(toys.TEXTS))
    command = [sys.executable, "-c", OTHER_PROCESS, folder, tmp_path / "out.npz", backend, *names]
    path = os.pathsep.join([str(Path(cptk.__file__).parents[1]), *sys.path])
    environment = {**os.environ, "KERAS_BACKEND": backend, "PYTHONPATH": path}
    subprocess.run(list(map(str, command)), env=environment, check=True)
    found = np.load(tmp_path / "out.npz")
    for name in names:
        embedder, _ = saved[name]
        for role in embedder.preprocessor.roles:
            expected = vectors(embedder, role)
            # Not all are normalised: the difference is measured against the vector's length.
            length = np.linalg.norm(expected, axis=1, keepdims=True)
            np.testing.assert_allclose(
                found[f"{name}/{role}"] / length, expected / length, rtol=0, atol=1e-6
            )


# --- Overrides


def test_overrides_on_a_saved_preset(saved):
    embedder, folder = saved["tied"]
    roles = {"only": Role("a", "z")}
    loaded = DecoderTextEmbedder.from_preset(folder, num_layers=1, sequence_length=9, roles=roles)
    assert loaded.backbone.num_layers == 1
    assert loaded.preprocessor.sequence_length == 9
    assert (loaded.pooling, loaded.normalize) == ("weighted_mean", False)
    ids = loaded.preprocessor.tokenize(["b" * 20])[0]
    assert [*ids[:2], ids[-1], len(ids)] == [
        *toys.preprocessor().reference.encode_exactly("abz"),
        9,
    ]
    short = DecoderTextEmbedder(
        cptk.models.keep_first_layers(embedder.backbone, 1),
        toys.preprocessor("llama3", 9, roles=roles),
        pooling="weighted_mean",
        normalize=False,
    )
    assert_same(loaded, short)
    again = DecoderTextEmbedder.from_preset(folder, pooling="mean", normalize=True)
    assert (again.pooling, again.normalize) == ("mean", True)
    assert set(again.preprocessor.roles) == set(ROLES)


def test_overrides_keep_the_rest(saved):
    embedder, folder = saved["tied"]
    loaded = DecoderTextEmbedder.from_preset(folder, sequence_length=30)
    assert dict(loaded.preprocessor.roles) == dict(embedder.preprocessor.roles)
    loaded = DecoderTextEmbedder.from_preset(saved["spec"][1], roles={"a": ("", "]")})
    assert loaded.preprocessor.sequence_length == 24
    assert loaded.preprocessor.reference.spec == family_spec("smollm")
    # keras_hub's way in takes them too.
    loaded = keras_hub.models.TextEmbedder.from_preset(str(folder), sequence_length=30)
    assert loaded.preprocessor.sequence_length == 30


def test_bad_overrides(saved):
    _, folder = saved["gpt2"]
    for arguments, message in [
        ({"num_layers": 3}, "`num_layers` should be from 1 to 2"),
        ({"num_layers": "1"}, "`num_layers` should be an integer"),
        ({"sequence_length": 2}, "`sequence_length` should be an integer of at least 3"),
        ({"sequence_length": 33}, "sequence_length=33 is more than this GPT2Backbone"),
        ({"roles": {}}, "at least one name"),
        ({"pooling": "max"}, "`pooling` should be one of"),
    ]:
        with pytest.raises(ValueError, match=message):
            DecoderTextEmbedder.from_preset(folder, **arguments)


def test_first_layers_are_all_that_is_saved(tmp_path):
    long = with_roles(num_layers=6)
    long.save_to_preset(tmp_path / "long")
    short = DecoderTextEmbedder.from_preset(tmp_path / "long", num_layers=1)
    short.save_to_preset(tmp_path / "short")
    loaded = DecoderTextEmbedder.from_preset(tmp_path / "short")
    assert loaded.backbone.num_layers == 1
    assert_same(loaded, short, ROLES)
    sizes = [(tmp_path / name / "model.weights.h5").stat().st_size for name in ("long", "short")]
    assert sizes[1] < 0.5 * sizes[0]


# --- From plain decoders


@pytest.mark.slow_on_jax
def test_from_a_decoders_preset(tmp_path):
    for name, family in [("GPT2", "gpt2"), ("Llama3", "llama3"), ("OPT", "opt")]:
        backbone, folder = toys.backbone(name), str(tmp_path / name)
        backbone.save_to_preset(folder)
        with pytest.raises(FileNotFoundError, match=r"has no tokenizer\.json"):
            DecoderTextEmbedder.from_preset(folder)
        toys.tokenizer(family).save_to_preset(folder)
        loaded = DecoderTextEmbedder.from_preset(folder, roles=ROLES, pooling="mean")
        longest = 256 if name == "Llama3" else toys.LONGEST  # Of position embeddings.
        assert loaded.preprocessor.sequence_length == longest
        reader = toys.preprocessor(family, longest, roles=ROLES)
        assert_same(loaded, DecoderTextEmbedder(backbone, reader, pooling="mean"), ROLES)
        short = DecoderTextEmbedder.from_preset(folder, num_layers=1, sequence_length=7)
        assert (short.backbone.num_layers, short.preprocessor.sequence_length) == (1, 7)
    assert type(GPT2TextEmbedder.from_preset(str(tmp_path / "GPT2"))) is GPT2TextEmbedder


def test_from_the_preset_of_another_task(tmp_path):
    reader = keras_hub.models.GPT2CausalLMPreprocessor(toys.tokenizer(), 16)
    model = keras_hub.models.GPT2CausalLM(toys.backbone(), reader)
    model.save_to_preset(str(tmp_path / "lm"))
    loaded = GPT2TextEmbedder.from_preset(tmp_path / "lm", sequence_length=24)
    assert_same(loaded, toys.gpt2_embedder())


def test_prompt_longer_than_the_default_sequence(tmp_path):
    backbone, folder = toys.backbone("Llama3"), tmp_path / "llama"
    backbone.save_to_preset(str(folder))
    toys.tokenizer("llama3").save_to_preset(str(folder))
    roles = {"long": Role("x" * 300, "")}
    loaded = DecoderTextEmbedder.from_preset(folder, roles=roles, sequence_length=320)
    assert len(loaded.preprocessor.tokenize(["y"])[0]) == 301
    with pytest.raises(ValueError, match="role 'long' itself takes 300 tokens"):
        DecoderTextEmbedder.from_preset(folder, roles=roles)


@pytest.mark.parametrize("add_tokenizer_json", [True, False])
def test_from_a_hugging_face_gpt2(tmp_path, add_tokenizer_json):
    source = toys.backbone()
    folder = toys.save_hugging_face(tmp_path / "hf", source, "gpt2", add_tokenizer_json)
    loaded = GPT2TextEmbedder.from_preset(folder, sequence_length=24)
    assert type(loaded) is GPT2TextEmbedder
    assert_same(loaded, toys.gpt2_embedder(), ["query", "document"])


@pytest.mark.parametrize("family", ["llama3", "smollm"])
def test_from_a_hugging_face_llama_and_back(tmp_path, family):
    source = toys.backbone("Llama3", 2, tie_word_embeddings=True)
    folder = toys.save_hugging_face(tmp_path / "hf", source, family)
    loaded = DecoderTextEmbedder.from_preset(folder, sequence_length=24, roles=ROLES)
    spec = family_spec("smollm" if family == "smollm" else "gpt2")
    reader = DecoderTextEmbedderPreprocessor(toys.tokenizer(family), 24, ROLES, spec)
    assert_same(loaded, DecoderTextEmbedder(source, reader), ROLES)
    loaded.save_to_preset(tmp_path / "saved")
    again = DecoderTextEmbedder.from_preset(tmp_path / "saved")
    assert_same(again, loaded, ROLES)
    texts = ["2024 the\n\n\n<|im_start|> x"]
    assert again.preprocessor.tokenize(texts) == loaded.preprocessor.tokenize(texts)


def test_hugging_face_folders_with_a_part_missing(tmp_path):
    source = toys.backbone("Llama3", 1, tie_word_embeddings=True)
    whole = toys.save_hugging_face(tmp_path / "hf", source, "llama3")
    for file in sorted(whole.iterdir()):
        folder = Path(shutil.copytree(whole, tmp_path / f"no-{file.name}"))
        (folder / file.name).unlink()
        with pytest.raises(FileNotFoundError, match=file.name.replace(".", r"\.")):
            DecoderTextEmbedder.from_preset(folder)
        content = file.read_bytes()
        (folder / file.name).write_bytes(content[: len(content) // 2])
        with pytest.raises(ValueError, match=file.name.replace(".", r"\.")):
            DecoderTextEmbedder.from_preset(folder)


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
    loaded = DecoderTextEmbedder.from_preset(tmp_path / "lora")
    np.testing.assert_allclose(vectors(loaded), expected, atol=1e-5)
    assert not any("lora" in weight.path for weight in loaded.weights)
    np.testing.assert_allclose(vectors(embedder), expected, atol=1e-6)


# --- Wrong and damaged


def test_wrong_class(saved, tmp_path):
    folder = tmp_path / "llama"
    toys.backbone("Llama3").save_to_preset(str(folder))
    toys.tokenizer("llama3").save_to_preset(str(folder))
    for preset in (folder, saved["tied"][1]):
        with pytest.raises(ValueError, match=r"made for a GPT2Backbone.*Use cptk.models.Decoder"):
            GPT2TextEmbedder.from_preset(preset)


def test_nothing_there(tmp_path):
    for preset in (tmp_path / "nothing", "gpt2_base_english"):
        with pytest.raises(FileNotFoundError, match="There is no preset"):
            DecoderTextEmbedder.from_preset(preset)
    with pytest.raises(TypeError, match="NoneType"):
        DecoderTextEmbedder.from_preset(None)
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"is incomplete: it has no config\.json"):
        DecoderTextEmbedder.from_preset(tmp_path / "empty")
    (tmp_path / "empty" / "config.json").write_text("{}")
    with pytest.raises(ValueError, match="Unrecognized format"):
        DecoderTextEmbedder.from_preset(tmp_path / "empty")


FILES = [
    "config.json",
    "task.json",
    "preprocessor.json",
    "tokenizer.json",
    "model.weights.h5",
    "assets/tokenizer/vocabulary.json",
    "assets/tokenizer/merges.txt",
]


def test_files_of_a_preset(saved):
    _, folder = saved["gpt2"]
    found = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert found == {*FILES, "metadata.json"}


@pytest.mark.parametrize("file", FILES)
def test_a_file_is_missing(copy, file):
    (copy / file).unlink()
    name = Path(file).name.replace(".", r"\.")
    with pytest.raises(FileNotFoundError, match=name):
        DecoderTextEmbedder.from_preset(copy)


@pytest.mark.parametrize("half", [0, 2])
@pytest.mark.parametrize("file", [file for file in FILES if not file.endswith(".txt")])
def test_a_file_is_cut_short(copy, file, half):
    content = (copy / file).read_bytes()
    (copy / file).write_bytes(content[: len(content) // half] if half else b"")
    name = Path(file).name.replace(".", r"\.")
    with pytest.raises(ValueError, match=rf"{name}.*again") as caught:
        DecoderTextEmbedder.from_preset(copy)
    assert not isinstance(caught.value, UnicodeError)


def test_metadata_is_not_needed(saved, copy):
    (copy / "metadata.json").unlink()
    assert_same(DecoderTextEmbedder.from_preset(copy), saved["gpt2"][0])


@pytest.mark.parametrize("file", ["config.json", "task.json", "preprocessor.json"])
@pytest.mark.parametrize("content", ["[]", "null", '"x"'])
def test_a_file_holds_something_else(copy, file, content):
    (copy / file).write_text(content)
    with pytest.raises(ValueError, match=f"{file} in preset folder .* is damaged"):
        DecoderTextEmbedder.from_preset(copy)


# --- Where it may be written


def listing(folder: Path) -> dict[str, bytes]:
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def test_overwrites_a_preset_and_nothing_else(saved, copy, tmp_path):
    embedder = with_roles()
    embedder.save_to_preset(copy)
    assert_same(DecoderTextEmbedder.from_preset(copy), embedder)
    (tmp_path / "empty").mkdir()
    embedder.save_to_preset(tmp_path / "empty")
    embedder.save_to_preset(tmp_path / "deep" / "er")
    assert (tmp_path / "deep" / "er" / "config.json").exists()
    assert {path.name for path in tmp_path.iterdir()} == {"copy", "empty", "deep"}


@pytest.mark.parametrize("kind", ["file", "folder", "project", "preset with notes", "nameless"])
def test_refuses_what_is_not_a_preset(copy, tmp_path, kind, monkeypatch):
    embedder = toys.gpt2_embedder(num_layers=1)
    target = tmp_path / "mine"
    if kind == "file":
        target.write_text("mine")
    elif kind == "preset with notes":
        target = copy
        (copy / "notes.txt").write_text("mine")
    elif kind == "nameless":
        monkeypatch.chdir(copy)
        target = Path()
    else:
        target.mkdir()
        # A program's own config.json does not make its folder a preset.
        (target / ("config.json" if kind == "project" else "notes.txt")).write_text("{}")
    before = listing(tmp_path)
    with pytest.raises(ValueError, match=r"is not a preset folder|should name a folder"):
        embedder.save_to_preset(target)
    assert listing(tmp_path) == before


@pytest.mark.parametrize("existing", [True, False])
@pytest.mark.parametrize("where", ["save_weights", "save_assets", "rename"])
def test_a_failing_save_leaves_everything_as_it_was(saved, tmp_path, monkeypatch, existing, where):
    embedder = toys.gpt2_embedder(num_layers=1)
    target = tmp_path / "preset"
    if existing:
        shutil.copytree(saved["gpt2"][1], target)
    before = listing(tmp_path)

    def fail(*args, **kwargs):
        raise OSError("disk full")

    if where == "save_weights":
        monkeypatch.setattr(keras_hub.models.Backbone, "save_weights", fail)
    elif where == "save_assets":
        monkeypatch.setattr(keras_hub.models.GPT2Tokenizer, "save_assets", fail)
    else:
        rename = Path.rename
        monkeypatch.setattr(
            Path, "rename", lambda p, to: fail() if p.name == "new" else rename(p, to)
        )
    with pytest.raises(OSError, match="disk full"):
        embedder.save_to_preset(target)
    assert listing(tmp_path) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["preset"] * existing


# --- Handles


@pytest.fixture
def hub(saved, tmp_path, monkeypatch):
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


@pytest.mark.parametrize("prefix", ["kaggle://me/gpt2/keras/", "hf://me/"])
def test_handles(saved, hub, tmp_path, prefix):
    embedder, folder = saved["tied"]
    shutil.copytree(folder, tmp_path / "ours")
    loaded = DecoderTextEmbedder.from_preset(f"{prefix}ours")
    assert_same(loaded, embedder, ROLES)
    toys.backbone().save_to_preset(str(tmp_path / "plain"))
    toys.tokenizer().save_to_preset(str(tmp_path / "plain"))
    plain = GPT2TextEmbedder.from_preset(f"{prefix}plain", sequence_length=24)
    assert_same(plain, toys.gpt2_embedder())
    assert f"{prefix.split('://')[1]}plain" in hub
    with pytest.raises(ValueError, match=r"config\.json"):
        DecoderTextEmbedder.from_preset(f"{prefix}nothing")


def test_hugging_face_layout_through_a_handle(hub, tmp_path):
    source = toys.backbone("Llama3", tie_word_embeddings=True)
    toys.save_hugging_face(tmp_path / "smollm", source, "smollm")
    loaded = DecoderTextEmbedder.from_preset("hf://me/smollm")
    assert (
        loaded.preprocessor.reference.spec["pre_tokenizer"]
        == (family_spec("smollm")["pre_tokenizer"])
    )


def test_builtin_name(hub, tmp_path):
    toys.backbone().save_to_preset(str(tmp_path / "made"))
    toys.tokenizer().save_to_preset(str(tmp_path / "made"))
    handle = keras_hub.models.GPT2Backbone.presets["gpt2_base_en"]["kaggle_handle"]
    shutil.copytree(tmp_path / "made", tmp_path / handle.split("/")[-1])
    loaded = GPT2TextEmbedder.from_preset("gpt2_base_en", sequence_length=24)
    assert_same(loaded, toys.gpt2_embedder())


def test_config_of_the_preset_is_whole(saved):
    for name, tied in [("tied", True), ("untied", False)]:
        config = json.loads((saved[name][1] / "config.json").read_text())
        assert config["config"]["tie_word_embeddings"] is tied
