"""What the files of a preset may hold, checked before anything is made of them.

A preset may be a stranger's, cut short, or edited by hand. KerasHub opens its files one after the
other, and a fault comes out as whatever error Python raises there. Here each fault is a
`ValueError` that names the file.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TypeGuard

import keras

from cptk.checks import shown
from cptk.models.preset_reading import damaged_file, find_file, missing_file, read_object
from cptk.models.preset_weights import check_size, check_weights, shards_of
from cptk.tokenizers.config_file import check_config_file
from cptk.tokenizers.spec_bounds import check_spec
from cptk.tokenizers.tokenizer_json import converter_files
from cptk.types import Config

_DEEPEST_NESTING = 64


def check_folder(folder: Path, load_weights: bool) -> None:
    """Raise for a local preset with a file missing or damaged, before anything is built.

    Raises:
        FileNotFoundError: The folder, or a file in it, is missing.
        ValueError: A file is damaged.
    """
    if not folder.is_dir():
        raise FileNotFoundError(
            f"There is no preset {str(folder)!r}: it is neither a folder nor a built-in name. "
            "Pass a folder, a built-in name such as 'gpt2_base_en', or a kaggle:// or hf:// handle."
        )
    config = read_object(folder, "config.json")
    if "registered_name" not in config:
        if load_weights:
            check_size(folder, "config.json", config)
        return  # KerasHub names what is missing in Hugging Face's layout.
    if load_weights:
        check_weights(folder)
        check_size(folder, "config.json", config.get("config"))
    if (folder / "task.json").exists():
        task = read_object(folder, "task.json").get("config")
        task = task if isinstance(task, dict) else {}
        if load_weights and _is_serialized_object(task.get("backbone")):
            check_size(folder, "task.json", task["backbone"]["config"])
        if task.get("preprocessor", True) is not None:
            read_object(folder, "preprocessor.json")
            read_object(folder, "tokenizer.json")
        return
    if (folder / "preprocessor.json").exists():
        name = read_object(folder, "preprocessor.json").get("registered_name")
        # KerasHub would load the preset without task.json, and the roles would be lost unsaid.
        if str(name).startswith("cptk>"):
            raise missing_file(folder, "task.json")
    read_object(folder, "tokenizer.json")


def check_configs(preset: str) -> None:
    """Check every JSON file of a preset, local or of a hub, that describes what is built.

    Raises:
        ValueError: A file is damaged, names a class that is not registered in this process, or
            would lead out of the folder.
    """
    found = {name: find_file(preset, f"{name}.json") for name in ("config", "task")}
    if found["config"] is None:
        return  # KerasHub says that there is no preset.
    folder = found["config"].parent
    config = read_object(folder, "config.json")
    if "registered_name" not in config:
        _check_hugging_face(preset)
        return
    for name in ("preprocessor", "tokenizer"):
        found[name] = find_file(preset, f"{name}.json")
    contents = {name: read_object(path.parent, path.name) for name, path in found.items() if path}
    for name, content in contents.items():
        check_objects(content, folder, f"{name}.json")
    _check_parts(contents.get("task"), folder)
    rows = config["config"].get("vocabulary_size")
    for tokenizer in _tokenizer_configs(contents):
        _check_vocabulary(preset, tokenizer, rows)
    _check_added_tokens(contents, folder, rows)


def check_objects(content: Config, folder: Path, file: str) -> None:
    """Check every serialized Keras object in a file, however deep."""
    for key, kind in (("config", dict), ("registered_name", str)):
        if not isinstance(content.get(key), kind):
            raise damaged_file(folder, file, f"its `{key}` is {shown(content.get(key))}")
    waiting: list[tuple[object, int]] = [(content, 0)]
    while waiting:
        value, depth = waiting.pop()
        if depth > _DEEPEST_NESTING:
            raise damaged_file(folder, file, "nested too deeply")
        if isinstance(value, list):
            waiting += [(item, depth + 1) for item in value]
        if not isinstance(value, dict):
            continue
        if value is content or {"class_name", "registered_name"} <= set(value):
            _check_object(value, folder, file, value is content)
        try:
            if "config_file" in value:
                check_config_file(value["config_file"])
            if value.get("tokenizer_spec") is not None:
                check_spec(value["tokenizer_spec"])
        except ValueError as error:
            raise ValueError(f"{file} in preset folder {str(folder)!r}: {error}") from error
        # The user names the roles, and the `tokenizers` library the steps of a spec: neither holds
        # Keras objects, whatever its keys are called.
        inner = [item for key, item in value.items() if key not in ("roles", "tokenizer_spec")]
        waiting += [(item, depth + 1) for item in inner]


def _check_object(value: Config, folder: Path, file: str, is_whole_file: bool) -> None:
    """Check that a serialized Keras object has the parts of one, and that its class is known.

    Args:
        value: The object.
        folder, file: Where the object stands, for the message.
        is_whole_file: Whether the object is the whole file. For a class of KerasHub's within
            another object nothing is checked: Keras finds it, or says that it cannot.
    """
    for key, kind in (("class_name", str), ("registered_name", str | None), ("module", str | None)):
        if not isinstance(value.get(key), kind):
            raise damaged_file(folder, file, f"its `{key}` is {shown(value.get(key))}")
    name, module = value.get("registered_name"), value.get("module") or ""
    package = name.partition(">")[0] if name else None
    if package in (None, "Functional", "Sequential"):
        return
    if package in ("keras_hub", "keras_nlp", "keras_cv") and not is_whole_file:
        return
    if value["class_name"] == "function":
        name = value["config"] if isinstance(value.get("config"), str) else name
    if keras.saving.get_registered_object(name) is not None or module == "builtins":
        return
    if module in sys.modules or not module:
        advice = (
            "The module is loaded and the class is not registered: define it again, decorated by "
            "@keras.saving.register_keras_serializable() as when it was saved, or load within "
            f"`keras.saving.custom_object_scope({{{shown(name)}: …}})`."
        )
    else:
        advice = f"Import it first: `import {shown(module)[1:-1]}`."
    raise ValueError(
        f"{file} in preset folder {str(folder)!r} names the class {shown(name)} of the module "
        f"{shown(module)}, which is not registered with Keras in this process. {advice}"
    )


def _check_parts(task: Config | None, folder: Path) -> None:
    """Check that a task has a backbone, and that backbone and preprocessor are objects."""
    if task is None:
        return
    config = task.get("config")
    if not isinstance(config, dict):
        raise damaged_file(folder, "task.json", f"its `config` is {shown(config)}")
    for part in ("backbone", "preprocessor"):
        value = config.get(part)
        if (part in config or part == "backbone") and not (
            _is_serialized_object(value) or (value is None and part == "preprocessor")
        ):
            raise damaged_file(folder, "task.json", f"its `{part}` is {shown(value)}")
    preprocessor = config.get("preprocessor")
    tokenizer = preprocessor["config"].get("tokenizer") if preprocessor else None
    if tokenizer is not None and not _is_serialized_object(tokenizer):
        raise damaged_file(folder, "task.json", f"its `tokenizer` is {shown(tokenizer)}")


def _is_serialized_object(value: object) -> TypeGuard[Config]:
    """Whether a value of a JSON file has the form of a serialized Keras object."""
    return isinstance(value, dict) and isinstance(value.get("config"), dict)


def _tokenizer_configs(contents: Mapping[str, Config]) -> list[Config]:
    """The configs of the tokenizers in a preset's files."""
    found = [contents["tokenizer"]] if "tokenizer" in contents else []
    if "task" in contents:
        preprocessor = contents["task"]["config"].get("preprocessor")
        found += [preprocessor["config"].get("tokenizer")] if preprocessor else []
    configs = [value["config"] for value in found if _is_serialized_object(value)]
    return [config for index, config in enumerate(configs) if config not in configs[:index]]


def _check_vocabulary(preset: str, config: Config, rows: object) -> None:
    """Check the vocabulary and merges of a byte-pair tokenizer, where a preset has them."""
    assets = f"assets/{str(config.get('config_file', 'tokenizer.json')).split('.')[0]}"
    path = find_file(preset, f"{assets}/vocabulary.json")
    if path is None:
        return
    folder, name = path.parent, path.name
    vocabulary = read_object(folder, name)
    wrong = [(t, i) for t, i in vocabulary.items() if type(i) is not int or not 0 <= i < 2**31]
    if wrong:
        raise damaged_file(folder, name, f"token {shown(wrong[0][0])} has id {shown(wrong[0][1])}")
    if len(set(vocabulary.values())) != len(vocabulary):
        raise damaged_file(folder, name, "several tokens have one id")
    largest = max(vocabulary.values(), default=0)
    if isinstance(rows, int) and largest >= rows:
        raise damaged_file(folder, name, f"it has the id {largest}, and the embedding {rows} rows")
    merges = find_file(preset, f"{assets}/merges.txt")
    if merges is None:
        return
    try:
        lines = merges.read_text(encoding="utf-8").split("\n")
    except (OSError, ValueError) as error:
        raise damaged_file(folder, merges.name, str(error)) from error
    for number, line in enumerate(lines, 1):
        parts = line.rstrip().split(" ")
        if "#version:" in line or (not line and number == len(lines)):
            continue
        if len(parts) != 2 or not set(parts) <= vocabulary.keys():
            fault = f"line {number} is {shown(line)}, no pair of tokens of the vocabulary"
            raise damaged_file(folder, merges.name, fault)


def _check_added_tokens(contents: Mapping[str, Config], folder: Path, rows: object) -> None:
    """Check that the tokens a spec adds have rows in the embedding."""
    found = {"preprocessor.json": contents.get("preprocessor")}
    found["task.json"] = (
        contents["task"]["config"].get("preprocessor") if "task" in contents else None
    )
    for name, preprocessor in found.items():
        spec = preprocessor["config"].get("tokenizer_spec") if preprocessor else None
        for token in (spec or {}).get("added_tokens") or ():
            if isinstance(rows, int) and token["id"] >= rows:
                fault = f"token {shown(token['content'])} has id {token['id']}, of {rows} rows"
                raise damaged_file(folder, name, fault)


def _check_hugging_face(preset: str) -> None:
    """Check what Hugging Face's layout has: `config.json`, an index of weights, the tokenizer."""
    path = find_file(preset, "config.json")
    assert path is not None
    folder = path.parent
    kind = read_object(folder, path.name).get("model_type")
    if kind is not None and not isinstance(kind, str):
        raise damaged_file(folder, path.name, f"its `model_type` is {shown(kind)}")
    index = find_file(preset, "model.safetensors.index.json")
    if index is not None:
        shards_of(index.parent, index.name, r"[\w.-]+\.safetensors")
    missing = [name for name in converter_files(kind) if find_file(preset, name) is None]
    if missing and find_file(preset, "tokenizer.json") is None:
        raise FileNotFoundError(
            f"Preset folder {str(folder)!r} is incomplete: it has neither tokenizer.json nor "
            f"{missing[0]}. Save the tokenizer into it: tokenizer.save_pretrained(folder)."
        )


def warn_of_differences(preset: str) -> None:
    """Warn where `config.json`, `preprocessor.json` or `tokenizer.json` differs from `task.json`.

    `task.json` holds the contents of all three, and the embedder is made from it alone. Somebody
    who edited one of the others would otherwise wonder why nothing changes.
    """
    paths = {
        name: find_file(preset, f"{name}.json")
        for name in ("task", "config", "preprocessor", "tokenizer")
    }
    contents = {name: read_object(path.parent, path.name) for name, path in paths.items() if path}
    task = contents.pop("task")["config"]
    used = {"config": task["backbone"], "preprocessor": task.get("preprocessor")}
    used["tokenizer"] = (used["preprocessor"] or {}).get("config", {}).get("tokenizer")
    for name, content in contents.items():
        keys = _differing_keys(used[name], content) if used[name] else []
        # The dtype is read from config.json, and differs where the embedder had a mixed policy:
        # see `saving`.
        keys = [key for key in keys if not key.startswith("config.dtype")]
        if keys:
            warnings.warn(
                f"{name}.json and task.json of preset {preset!r} differ in "
                f"{', '.join(sorted(keys)[:5])}. What task.json says is used: change it in both, "
                "or pass `roles` and `sequence_length` to `from_preset`.",
                UserWarning,
                stacklevel=4,
            )


def _differing_keys(one: object, other: object, path: str = "") -> list[str]:
    """Paths of the entries that differ between two configs."""
    if isinstance(one, dict) and isinstance(other, dict):
        return [
            found
            for key in {**one, **other}
            for found in _differing_keys(one.get(key), other.get(key), f"{path}.{key}".lstrip("."))
        ]
    return [] if one == other else [path]
