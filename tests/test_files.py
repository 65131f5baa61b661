"""Files that are whole or not there, locks, and libraries that may be missing."""

import errno
import json
import os
import stat
import subprocess
import sys

import pytest

from cptk import files, optional


def test_a_file_takes_its_place_when_it_is_whole(tmp_path):
    path = tmp_path / "report.json"
    path.write_text("old")
    with files.replacing(path) as file:
        file.write(b"new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"


def test_half_a_file_is_removed(tmp_path):
    path = tmp_path / "report.json"
    path.write_text("new")

    def break_off():
        with files.replacing(path) as file:
            file.write(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        break_off()
    assert path.read_text() == "new"
    assert os.listdir(tmp_path) == ["report.json"]


def test_a_file_has_the_mode_of_any_other(tmp_path):
    with files.replacing(tmp_path / "a") as file:
        file.write(b"x")
    (tmp_path / "b").touch()
    assert stat.S_IMODE(os.stat(tmp_path / "a").st_mode) == os.stat(tmp_path / "b").st_mode & 0o777


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_a_lock_is_held_once(kind, tmp_path):
    pytest.importorskip("fcntl")
    path = tmp_path / "x"
    path.touch() if kind == "file" else path.mkdir()
    lock = files.Lock(path)
    with pytest.raises(BlockingIOError):
        files.Lock(path)
    assert lock.held
    lock.release()
    lock.release()
    assert not lock.held
    files.Lock(path).release()


def test_a_lock_ends_with_its_process(tmp_path):
    pytest.importorskip("fcntl")
    path = tmp_path / "x"
    path.touch()
    script = (
        "import os, pathlib, sys; from cptk import files; "
        "lock = files.Lock(pathlib.Path(sys.argv[1])); os.kill(os.getpid(), 9)"
    )
    killed = subprocess.run([sys.executable, "-c", script, str(path)], check=False)
    assert killed.returncode == -9
    files.Lock(path).release()


def test_a_lock_on_nothing(tmp_path):
    with pytest.raises(FileNotFoundError):
        files.Lock(tmp_path / "nothing")


def test_no_room(tmp_path):
    with pytest.raises(OSError, match="The preset") as error:
        files.check_free_space(tmp_path / "not" / "yet", 2**70, "The preset")
    assert error.value.errno == errno.ENOSPC


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[" * 200_000, b"\xff", json.dumps("x").encode()[:2]]
)
def test_damaged_json(content, tmp_path):
    path = tmp_path / "x.json"
    path.write_bytes(content)
    with pytest.raises(ValueError):
        files.read_json(path)


def test_a_library_that_is_missing_is_named_with_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "bm25s", None)
    with pytest.raises(ImportError, match=r"BM25 needs bm25s .*pip install bm25s.*cptk\[eval\]"):
        optional.load("bm25s", "BM25", "bm25s", "eval")
    assert optional.load("json", "x", "json", "eval") is json
