"""Presets that are hostile, damaged or edited by hand: refused, and the file named."""

import json
import os
import shutil
import warnings
from pathlib import Path

import h5py
import keras
import keras_hub
import numpy as np
import pytest

from cptk.models import GPT2TextEmbedder, TextEmbedder, TextEmbedderPreprocessor
from cptk.tokenizers import LlamaBPETokenizer, family_spec
from tests import toys
from tests.models.conftest import assert_same

FILES = [
    "config.json",
    "task.json",
    "preprocessor.json",
    "tokenizer.json",
    "model.weights.h5",
    "assets/tokenizer/vocabulary.json",
    "assets/tokenizer/merges.txt",
]
JSONS = [file for file in FILES if file.endswith(".json")]
VOCABULARY = "assets/tokenizer/vocabulary.json"
MERGES = "assets/tokenizer/merges.txt"
PREPROCESSOR = ("config", "preprocessor", "config")


def named(file: str) -> str:
    return Path(file).name.replace(".", r"\.")


def edit(folder: Path, file: str, where: tuple = (), **values) -> None:
    """Change entries of an object in a JSON file."""
    content = json.loads((folder / file).read_text())
    inner = content
    for key in where:
        inner = inner[key]
    inner.update(values)
    (folder / file).write_text(json.dumps(content))


def refused(folder: Path, match: str) -> str:
    with pytest.raises(ValueError, match=match) as caught:
        TextEmbedder.from_preset(folder)
    assert not isinstance(caught.value, UnicodeError)
    return str(caught.value)


@pytest.mark.slow_on_jax
def test_files_of_a_preset(gpt2):
    found = {path.relative_to(gpt2.folder).as_posix() for path in gpt2.folder.rglob("*.*")}
    assert found == {*FILES, "metadata.json"}


# --- Damaged


@pytest.mark.parametrize("file", FILES)
def test_a_file_is_missing(copy, file):
    (copy / file).unlink()
    with pytest.raises(FileNotFoundError, match=named(file)):
        TextEmbedder.from_preset(copy)


@pytest.mark.parametrize("half", [0, 2])
@pytest.mark.parametrize("file", [file for file in FILES if not file.endswith(".txt")])
def test_a_file_is_cut_short(copy, file, half):
    content = (copy / file).read_bytes()
    (copy / file).write_bytes(content[: len(content) // half] if half else b"")
    refused(copy, rf"{named(file)}.*again")


@pytest.mark.parametrize("file", FILES)
def test_a_folder_stands_in_place_of_a_file(copy, file):
    (copy / file).unlink()
    (copy / file).mkdir()
    refused(copy, named(file))


@pytest.mark.parametrize("file", JSONS)
def test_json_nested_without_end(copy, file):
    (copy / file).write_text("[" * 200_000 + "]" * 200_000)
    refused(copy, named(file))


@pytest.mark.parametrize("file", JSONS)
def test_json_nested_a_little_too_deep_for_keras(copy, file):
    edit(copy, file, (), config=json.loads('{"a":' * 600 + "1" + "}" * 600))
    refused(copy, named(file))


@pytest.mark.parametrize("file", ["config.json", "task.json", "preprocessor.json"])
@pytest.mark.parametrize("content", ["[]", "null", '"x"'])
def test_a_file_holds_something_else(copy, file, content):
    (copy / file).write_text(content)
    refused(copy, f"{file} in preset folder .* is damaged")


@pytest.mark.parametrize("value", [[], 5, None])
@pytest.mark.parametrize("key", ["registered_name", "class_name", "config"])
@pytest.mark.parametrize("file", JSONS[:4])
def test_an_entry_has_another_type(copy, file, key, value):
    edit(copy, file, (), **{key: value})
    refused(copy, f"{file} in preset folder .* is damaged .its `{key}`")


@pytest.mark.parametrize("value", [[], "x", 5, {}, {"class_name": "a"}])
@pytest.mark.parametrize(
    ("where", "key"),
    [(("config",), "backbone"), (("config",), "preprocessor"), (PREPROCESSOR, "tokenizer")],
)
def test_a_part_of_the_task_is_no_object(copy, where, key, value):
    edit(copy, "task.json", where, **{key: value})
    refused(copy, f"task.json in preset folder .* is damaged .its `{key}`")


@pytest.mark.parametrize(
    ("where", "key", "value"),
    [
        (("config",), "normalize", "x"),
        (PREPROCESSOR, "roles", []),
        (PREPROCESSOR, "sequence_length", "x"),
        (("config",), "pooling", 5),
        (("config",), "pooling", {"class_name": "Lambda", "config": {"function": "x"}}),
        (("config", "backbone", "config"), "num_layers", {}),
        (("config", "backbone", "config"), "num_layers", 2**31),
        (("config", "backbone", "config"), "vocabulary_size", 2**40),
    ],
)
def test_an_argument_in_the_task_is_impossible(copy, where, key, value):
    edit(copy, "task.json", where, **{key: value})
    refused(copy, r"task\.json")


@pytest.mark.parametrize("value", [2**31, 10**6])
def test_more_layers_than_there_are_weights_for(copy, value):
    edit(copy, "config.json", ("config",), num_layers=value)
    refused(copy, r"config\.json .* and the weights have")


@pytest.mark.parametrize(
    "vocabulary",
    [[], {"a": "b"}, {"a": -1}, {"a": 1.5}, {"a": True}, {"a": None}, {"a": 0, "b": 0}],
)
def test_a_vocabulary_is_garbled(copy, vocabulary):
    (copy / VOCABULARY).write_text(json.dumps(vocabulary))
    refused(copy, named(VOCABULARY))


@pytest.mark.parametrize("index", [toys.VOCABULARY_SIZE, 10**6, 2**40])
def test_an_id_is_beyond_the_embedding(copy, index):
    edit(copy, VOCABULARY, **{"<|endoftext|>": index})
    refused(copy, named(VOCABULARY))


@pytest.mark.parametrize("file", ["task.json", "preprocessor.json"])
def test_an_added_token_is_beyond_the_embedding(copy, file):
    token = {"id": toys.VOCABULARY_SIZE, "content": "<x>", "special": True}
    spec = {**family_spec("gpt2"), "added_tokens": [token]}
    edit(copy, file, PREPROCESSOR if file == "task.json" else ("config",), tokenizer_spec=spec)
    refused(copy, f"{file} .* '<x>' has id 272")


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", b"a b c\n", b"zz qq\n", b"a\n\nb c\n"])
def test_merges_are_garbled(copy, content):
    (copy / MERGES).write_bytes(content)
    refused(copy, named(MERGES))


def datasets(file: h5py.File) -> list[h5py.Dataset]:
    found = []
    file.visititems(lambda _, item: found.append(item) if isinstance(item, h5py.Dataset) else None)
    return found


@pytest.mark.parametrize(("value", "which"), [(np.nan, 0), (np.inf, -1)])
def test_a_weight_is_not_finite(copy, value, which):
    with h5py.File(copy / "model.weights.h5", "r+") as file:
        weight = datasets(file)[which]
        content = weight[...]
        content.flat[-1] = value
        weight[...] = content
    refused(copy, r"model\.weights\.h5 is damaged.*not finite")


def test_a_weight_of_a_hugging_face_folder_is_not_finite(hugging_face_copy):
    safetensors = pytest.importorskip("safetensors.numpy")
    file = hugging_face_copy("gpt2") / "model.safetensors"
    tensors = safetensors.load_file(file)
    tensors["wpe.weight"][-1, -1] = np.nan
    safetensors.save_file(tensors, file)
    refused(file.parent, r"model\.safetensors is damaged.*not finite")


@pytest.mark.parametrize("shape", [None, (3,)])
def test_weights_of_another_model(copy, shape):
    with h5py.File(copy / "model.weights.h5", "r+") as file:
        name = datasets(file)[0].name
        del file[name]
        if shape is not None:
            file[name] = np.zeros(shape, "float32")
    refused(copy, r"model\.weights\.h5")


@pytest.mark.slow_on_jax
def test_metadata_is_not_needed(gpt2, copy):
    (copy / "metadata.json").unlink()
    assert_same(TextEmbedder.from_preset(copy), gpt2.embedder)


# --- Edited by hand


@pytest.mark.parametrize(
    ("file", "change"),
    [
        ("preprocessor.json", {"sequence_length": 12}),
        ("tokenizer.json", {"add_prefix_space": True}),
        ("config.json", {"dropout": 0.5}),
    ],
)
def test_an_edit_that_is_not_read_is_named(copy, file, change):
    edit(copy, file, ("config",), **change)
    (key,) = change
    with pytest.warns(UserWarning, match=rf"{file} and task\.json .* differ in config\.{key}\."):
        loaded = TextEmbedder.from_preset(copy, load_weights=False)
    assert loaded.preprocessor.sequence_length == 24


def test_an_edit_in_both_is_read(copy):
    edit(copy, "preprocessor.json", ("config",), sequence_length=12)
    edit(copy, "task.json", PREPROCESSOR, sequence_length=12)
    loaded = TextEmbedder.from_preset(copy, load_weights=False)
    assert loaded.preprocessor.sequence_length == 12


# --- Classes that are not registered


@pytest.mark.parametrize(
    ("file", "where"),
    [
        ("task.json", ()),
        ("task.json", ("config", "backbone")),
        ("task.json", ("config", "preprocessor")),
        ("task.json", (*PREPROCESSOR, "tokenizer")),
        ("config.json", ()),
        ("preprocessor.json", ()),
        ("tokenizer.json", ()),
    ],
)
def test_a_class_is_not_registered(copy, file, where):
    edit(copy, file, where, registered_name="mine>Own", module="my.embedders")
    ways = [TextEmbedder, GPT2TextEmbedder]
    if file == "task.json":
        ways.append(keras_hub.models.TextEmbedder)
    for way in ways:
        with pytest.raises(ValueError, match=rf"{file} .* 'mine>Own' .* `import my\.embedders`"):
            way.from_preset(str(copy))


@pytest.mark.parametrize("name", ["cptk>Other", "keras_hub>Other", "GPT2TextEmbedder"])
def test_no_name_falls_back_to_a_plain_decoder(copy, name):
    edit(copy, "task.json", registered_name=name)
    refused(copy, rf"task\.json .* '{name}' .* is not registered")


@keras.saving.register_keras_serializable(package="tests")
class OwnEmbedder(TextEmbedder):
    pass


def test_a_subclass_loads_as_itself_or_not_at_all(gpt2, tmp_path, monkeypatch):
    OwnEmbedder(gpt2.embedder.backbone, gpt2.embedder.preprocessor).save_to_preset(tmp_path / "own")
    loaded = TextEmbedder.from_preset(tmp_path / "own")
    assert type(loaded) is OwnEmbedder
    assert_same(loaded, gpt2.embedder)
    monkeypatch.delitem(keras.saving.get_custom_objects(), "tests>OwnEmbedder")
    refused(tmp_path / "own", "module is loaded and the class is not registered")
    with keras.saving.custom_object_scope({"tests>OwnEmbedder": OwnEmbedder}):
        assert type(TextEmbedder.from_preset(tmp_path / "own")) is OwnEmbedder


class Undecorated(GPT2TextEmbedder):
    pass


def test_a_subclass_without_the_decorator_is_no_plain_decoder(gpt2, tmp_path):
    Undecorated(gpt2.embedder.backbone, gpt2.embedder.preprocessor).save_to_preset(tmp_path / "own")
    refused(tmp_path / "own", "class 'Undecorated' .* not registered")


# --- Out of the folder

HOSTILE = ["/tmp/cptk.json", "../../cptk.json", "..", "a/b.json", "task.json", "", 5, None]


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize(
    ("file", "where"),
    [
        ("preprocessor.json", ("config",)),
        ("tokenizer.json", ("config",)),
        ("task.json", PREPROCESSOR),
        ("task.json", (*PREPROCESSOR, "tokenizer", "config")),
    ],
)
def test_a_config_file_outside_the_folder(copy, file, where, name):
    edit(copy, file, where, config_file=name)
    refused(copy, rf"{file} in preset folder .*`config_file` should be the plain name")


def test_a_config_file_outside_the_folder_by_keras_hubs_doors(copy):
    for file in ("preprocessor.json", "tokenizer.json"):
        edit(copy, file, ("config",), config_file=str(copy / "elsewhere.json"))
    with pytest.raises(ValueError, match="`config_file` should be the plain name"):
        TextEmbedderPreprocessor.from_preset(str(copy))
    with pytest.raises(ValueError, match="`config_file` should be the plain name"):
        toys.preprocessor(config_file="/tmp/cptk.json")
    with pytest.raises(ValueError, match="`config_file` should be the plain name"):
        LlamaBPETokenizer(config_file="../x.json")
    tokenizer = keras_hub.models.GPT2Tokenizer(config_file="../x.json")
    with pytest.raises(ValueError, match="`config_file` should be the plain name"):
        TextEmbedderPreprocessor(tokenizer)


def test_a_shard_outside_the_folder(gpt2, tmp_path):
    folder = tmp_path / "shards"
    gpt2.embedder.save_to_preset(folder, max_shard_size=3e-5)
    index = json.loads((folder / "model.weights.json").read_text())
    for shard in ("../model_00000.weights.h5", "/etc/passwd", "model_x.weights.h5", 5, None):
        index["weight_map"][next(iter(index["weight_map"]))] = shard
        (folder / "model.weights.json").write_text(json.dumps(index))
        refused(folder, r"model\.weights\.json .* names the file")
    for content in ({}, {"weight_map": None}, {"weight_map": []}):
        (folder / "model.weights.json").write_text(json.dumps(content))
        refused(folder, r"model\.weights\.json .*its `weight_map`")


@pytest.mark.parametrize("shard", ["../other.safetensors", "/x.safetensors", ["a"]])
def test_a_shard_of_a_hugging_face_folder_outside_of_it(hugging_face_copy, shard):
    folder = hugging_face_copy("gpt2")
    index = {"weight_map": {"wte.weight": shard}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    refused(folder, r"model\.safetensors\.index\.json .* names the file")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("merges", "/etc/passwd"),
        ("vocab", "/etc/passwd"),
        ("vocab", {"a": "b"}),
        ("merges", [["a"]]),
        ("merges", [5]),
    ],
)
@pytest.mark.parametrize("family", ["gpt2", "llama3"])
def test_a_tokenizer_json_that_names_a_file(hugging_face_copy, family, key, value):
    folder = hugging_face_copy(family)
    edit(folder, "tokenizer.json", ("model",), **{key: value})
    refused(folder, rf"tokenizer\.json.* is damaged .`{key}`")


def test_a_preset_that_is_whole_gives_no_warning(gpt2, llama):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for saved in (gpt2, llama):
            TextEmbedder.from_preset(saved.folder, load_weights=False)


def test_a_pipe_in_place_of_a_file_does_not_hang(copy):
    if not hasattr(os, "mkfifo"):
        pytest.skip("no named pipes here")
    shutil.move(copy / "config.json", copy / "kept")
    os.mkfifo(copy / "config.json")
    refused(copy, r"config\.json")
