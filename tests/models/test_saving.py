"""Where a preset may be written, and what a save that fails or is killed leaves behind."""

import errno
import multiprocessing
import os
import shutil
import signal
import sys
from collections import namedtuple
from pathlib import Path

import keras
import keras_hub
import pytest

from cptk import files
from cptk.models import TextEmbedder, saving
from tests import toys
from tests.models.conftest import assert_same


def listing(folder: Path) -> dict[str, bytes]:
    found = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}


@pytest.fixture(scope="module")
def small():
    return toys.gpt2_embedder(num_layers=1)


def loads(folder: Path, expected) -> None:
    assert_same(TextEmbedder.from_preset(folder), expected)


def test_overwrites_a_preset_and_nothing_else(small, copy, tmp_path):
    small.save_to_preset(copy)
    loads(copy, small)
    (tmp_path / "empty").mkdir()
    small.save_to_preset(tmp_path / "empty")
    small.save_to_preset(tmp_path / "deep" / "er")
    assert (tmp_path / "deep" / "er" / "config.json").exists()
    assert {path.name for path in tmp_path.iterdir()} == {"copy", "empty", "deep"}


@pytest.mark.parametrize(
    "mine",
    [
        "notes.txt",
        "assets/mine/thesis.txt",
        "assets/tokenizer/thesis.txt",
        "assets/thesis.txt",
        "assets/mine/",
        ".git/config",
        "config.json.bak",
        "model_a.weights.h5",
    ],
)
def test_refuses_a_preset_that_holds_something_else(small, copy, tmp_path, mine):
    path = copy / mine
    path.parent.mkdir(parents=True, exist_ok=True)
    path.mkdir() if mine.endswith("/") else path.write_text("mine")
    before = listing(tmp_path)
    with pytest.raises(ValueError, match="not a preset folder, or not only that") as caught:
        small.save_to_preset(copy)
    assert mine.rstrip("/") in str(caught.value)
    assert listing(tmp_path) == before
    assert path.exists()


@pytest.mark.parametrize("kind", ["file", "folder", "project", "another program's"])
def test_refuses_what_is_not_a_preset(small, tmp_path, kind):
    target = tmp_path / "mine"
    if kind == "file":
        target.write_text("mine")
    else:
        target.mkdir()
        # A program's own config.json does not make its folder a preset.
        for name in {"folder": ["notes.txt"], "project": ["config.json"]}.get(
            kind, ["config.json", "metadata.json"]
        ):
            (target / name).write_text('{"mine": 1}')
    before = listing(tmp_path)
    with pytest.raises(ValueError, match="is not a preset folder"):
        small.save_to_preset(target)
    assert listing(tmp_path) == before


@pytest.mark.parametrize("target", ["", ".", "..", "assets/../.."])
def test_refuses_the_working_directory_and_what_is_above(small, copy, target, monkeypatch):
    monkeypatch.chdir(copy)
    before = listing(copy)
    with pytest.raises(ValueError, match=r"should name a folder|should be a path"):
        small.save_to_preset(target)
    with pytest.raises(ValueError, match="should name a folder"):
        small.save_to_preset(Path())
    assert listing(copy) == before


def test_something_put_there_during_the_save_is_kept(small, copy, monkeypatch):
    exchange = saving._exchange

    def late(one, other):
        if not (copy / "thesis.txt").exists() and not (one / "thesis.txt").exists():
            (copy / "thesis.txt").write_text("mine")
        return exchange(one, other)

    monkeypatch.setattr(saving, "_exchange", late)
    before = listing(copy)
    with pytest.raises(ValueError, match=r"thesis\.txt"):
        small.save_to_preset(copy)
    assert listing(copy) == {**before, "thesis.txt": b"mine"}
    assert [path.name for path in copy.parent.iterdir()] == ["copy"]


@pytest.mark.parametrize("existing", [True, False])
@pytest.mark.parametrize("where", ["save_weights", "save_assets", "rename"])
def test_a_failing_save_leaves_everything_as_it_was(
    small, gpt2, tmp_path, monkeypatch, existing, where
):
    target = tmp_path / "new" / "preset"
    if existing:
        shutil.copytree(gpt2.folder, target)
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
        small.save_to_preset(target)
    assert listing(tmp_path) == before
    assert [path.name for path in tmp_path.iterdir()] == ["new"] * existing


def test_a_file_system_without_exchange(small, copy, monkeypatch):
    monkeypatch.setattr(saving, "_exchange", lambda one, other: False)
    small.save_to_preset(copy)
    loads(copy, small)
    assert [path.name for path in copy.parent.iterdir()] == ["copy"]


@pytest.mark.skipif(sys.platform not in ("linux", "darwin"), reason="no exchange of two paths")
def test_something_stands_at_the_name_at_every_moment(small, copy, monkeypatch):
    # Every system call that could move the old preset away is seen by Python, or is the exchange.
    moved = []
    for name in ("rename", "replace"):
        original = getattr(os, name)
        monkeypatch.setattr(
            os, name, lambda a, b, *args, f=original, **kw: (moved.append(Path(a)), f(a, b, *args))
        )
    small.save_to_preset(copy)
    assert copy not in moved
    loads(copy, small)


# --- A full disk


@pytest.mark.parametrize("shards", [10, 3e-5])
@pytest.mark.parametrize("existing", [True, False])
def test_a_full_disk_is_found_before_a_byte_is_written(
    small, copy, tmp_path, monkeypatch, existing, shards
):
    target = copy if existing else tmp_path / "new" / "preset"
    usage = namedtuple("usage", "total used free")
    size = sum(keras.ops.convert_to_numpy(weight).nbytes for weight in small.weights)
    monkeypatch.setattr(files.shutil, "disk_usage", lambda path: usage(size, 1, size - 1))
    monkeypatch.setattr(os, "mkdir", lambda *args, **kwargs: pytest.fail("a folder was made"))
    before = listing(tmp_path)
    with pytest.raises(OSError, match="Nothing was written") as caught:
        small.save_to_preset(target, max_shard_size=shards)
    assert caught.value.errno == errno.ENOSPC
    assert listing(tmp_path) == before


def test_what_is_asked_for_is_enough_and_not_far_too_much(gpt2):
    written = sum(path.stat().st_size for path in gpt2.folder.rglob("*") if path.is_file())
    assert written <= saving._size(gpt2.embedder) <= 4 * written + 2**17


@pytest.mark.parametrize("size", [0, -1, float("nan"), "10", True])
def test_the_size_of_shards(small, tmp_path, size):
    with pytest.raises(ValueError, match="`max_shard_size` should be a positive number"):
        small.save_to_preset(tmp_path / "new", max_shard_size=size)
    assert not list(tmp_path.iterdir())


# --- Names


def test_a_link_is_followed(small, copy, tmp_path):
    links = {"link": copy, "link to what comes": tmp_path / "there"}
    for name, target in links.items():
        (tmp_path / name).symlink_to(target)
        small.save_to_preset(tmp_path / name)
        assert (tmp_path / name).is_symlink()
        assert (target / "config.json").exists()
    loads(tmp_path / "link", small)


def test_two_dots_at_the_end(small, tmp_path):
    small.save_to_preset(f"{tmp_path}/preset/sub/..")
    assert [path.name for path in tmp_path.iterdir()] == ["preset"]
    loads(tmp_path / "preset", small)


def test_a_link_to_itself(small, tmp_path):
    (tmp_path / "a").symlink_to(tmp_path / "b")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    for target in ("a", "a/preset"):
        with pytest.raises(ValueError, match="is a link that leads nowhere"):
            small.save_to_preset(tmp_path / target)


@pytest.mark.parametrize("under", ["file", "file/deeper"])
def test_a_file_as_parent(small, tmp_path, under):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ValueError, match="file' is a file"):
        small.save_to_preset(tmp_path / under / "preset")
    assert listing(tmp_path) == {"file": b"mine"}


@pytest.mark.parametrize("letter", ["x", "é"])
def test_long_names(small, tmp_path, letter):
    name = letter * (255 // len(letter.encode()))
    for _ in range(2):
        small.save_to_preset(tmp_path / name)
    for target in (name + "xx", f"{name}xx/preset", f"new/{name}xx", "x/" * 3000 + "x"):
        with pytest.raises(ValueError, match="`preset_dir` cannot be a folder here"):
            small.save_to_preset(tmp_path / target)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_home(small, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    small.save_to_preset("~/preset")
    assert (tmp_path / "preset" / "config.json").exists()
    loads("~/preset", small)
    loaded = keras_hub.models.TextEmbedder.from_preset("~/preset")
    assert_same(loaded, small)


@pytest.mark.parametrize("target", [None, 5, b"preset"])
def test_no_path(small, target):
    with pytest.raises(TypeError, match="`preset_dir` should be a path"):
        small.save_to_preset(target)


@pytest.mark.parametrize("name", ["/tmp/cptk.json", "../../cptk.json", "config.json"])
@pytest.mark.parametrize("layer", ["preprocessor", "tokenizer"])
def test_never_writes_outside_of_the_target(tmp_path, name, layer):
    embedder = toys.gpt2_embedder(num_layers=1)
    reader = embedder.preprocessor
    (reader if layer == "preprocessor" else reader.tokenizer).config_file = name
    with pytest.raises(ValueError, match="`config_file` should be the plain name"):
        embedder.save_to_preset(tmp_path / "new")
    assert not list(tmp_path.iterdir())


# --- What a killed save leaves behind


def left_behind(parent: Path, **content: str) -> Path:
    """What a killed save leaves: its folder, which no process has locked."""
    folder = parent / f"{saving._SCRATCH}dead"
    (folder / "new").mkdir(parents=True)
    (folder / "new" / "model.weights.h5").write_text("half")
    for name, text in content.items():
        (folder / name).write_text(text)
    return folder


def test_what_a_killed_save_left_is_cleared(small, tmp_path):
    left_behind(tmp_path, name="preset")
    small.save_to_preset(tmp_path / "other")
    assert [path.name for path in tmp_path.iterdir()] == ["other"]


def test_what_a_killed_save_moved_away_is_put_back(small, gpt2, tmp_path):
    shutil.copytree(gpt2.folder, left_behind(tmp_path, name="preset") / "old")
    small.save_to_preset(tmp_path / "other")
    assert {path.name for path in tmp_path.iterdir()} == {"other", "preset"}
    assert listing(tmp_path / "preset") == listing(gpt2.folder)


def test_a_save_of_a_living_process_is_left_alone(small, tmp_path):
    with saving._scratch(tmp_path / "living") as scratch:
        small.save_to_preset(tmp_path / "other")
        assert scratch.is_dir()
    assert [path.name for path in tmp_path.iterdir()] == ["other"]


def _die_while_saving(target: str) -> None:
    with saving._scratch(Path(target)):
        os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.slow
def test_a_killed_process_holds_no_lock(small, tmp_path):
    process = multiprocessing.get_context("spawn").Process(
        target=_die_while_saving, args=(str(tmp_path / "preset"),)
    )
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert len(list(tmp_path.iterdir())) == 1
    small.save_to_preset(tmp_path / "preset")
    assert [path.name for path in tmp_path.iterdir()] == ["preset"]
