"""The example that mines a folder into a store, from its command line."""

import importlib.util
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cptk.data import TokenStore
from tests import toys
from tests.tiers import FULL

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("mine_pairs_script", EXAMPLES / "mine_pairs.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def preset(tmp_path_factory):
    folder = tmp_path_factory.mktemp("preset") / "toy"
    toys.embedder().save_to_preset(str(folder))
    return folder


@pytest.fixture
def folder(tmp_path):
    place = tmp_path / "project"
    place.mkdir()
    code = [f"# Adds {word} to it all.\ndef add_{word}(a)\n  a + 1\nend\n" for word in ("x", "y")]
    (place / "a.rb").write_text("\n".join(code))
    sentences = [f"This is the sentence number {word} of it." for word in "abcdefgh"]
    (place / "b.md").write_text(" ".join(sentences))
    (place / "c.md").write_bytes(b"\xff\xfe")
    return place


@pytest.mark.parametrize(("kind", "found"), [("code", 2), ("text", 2)])
def test_a_folder_becomes_a_store_and_a_report(
    script, preset, folder, tmp_path, capsys, kind, found
):
    arguments = [str(folder), str(tmp_path / "store"), "--kind", kind, "--preset", str(preset)]
    for _ in range(2):  # a second call finds it written
        script.main([*arguments, "--keep-text", "--workers", "1"])
        store = TokenStore(tmp_path / "store")
        assert len(store) >= found
        assert f"TokenStore({str(tmp_path / 'store')!r}" in capsys.readouterr().out
    assert "query" in store.pairs().columns
    report = (tmp_path / "store" / "report.md").read_text()
    assert "taken" in report
    assert ("wrong encoding" in report) == (kind == "text")
    assert (tmp_path / "store" / "report.png").stat().st_size > 1000


def test_what_was_mined_is_not_mined_again(script, preset, folder, tmp_path, capsys, monkeypatch):
    arguments = [str(folder), str(tmp_path / "store"), "--preset", str(preset), "--workers", "1"]
    script.main(arguments)
    first = capsys.readouterr().out
    assert "1/1 files" in first
    with monkeypatch.context() as patch:
        patch.setattr(script.work.cptk.mining, "functions", None)  # would raise
        script.main(arguments)
    assert capsys.readouterr().out == first
    script.main([*arguments, "--no-resume"])
    assert capsys.readouterr().out == first
    (folder / "a.rb").write_text("# Adds some z to it.\ndef add_z(a)\n  a + 1\nend\n")
    with pytest.raises(SystemExit, match="another call, which differs in files"):
        script.main(arguments)


def test_a_store_may_lie_in_the_folder(script, preset, folder, capsys):
    """Its report is no text to mine; nor does a name in no encoding end the call."""
    (folder / os.fsdecode(b"d\xff.md")).write_bytes((folder / "b.md").read_bytes())
    arguments = [str(folder), str(folder / "store"), "--kind", "text", "--preset", str(preset)]
    script.main([*arguments, "--workers", "1"])
    first = capsys.readouterr().out
    script.main([*arguments, "--workers", "1"])
    assert capsys.readouterr().out == first
    for store in (folder, folder.parent):
        with pytest.raises(SystemExit):
            script.main([str(folder), str(store), "--preset", str(preset)])
        assert "should not be FOLDER, nor hold it" in capsys.readouterr().err


def test_the_work_of_another_process_is_not_removed(script, preset, folder, tmp_path):
    place = tmp_path / "store.work"
    (place / "mined").mkdir(parents=True)
    (place / "job.json").write_text("{}")
    lock = script.files.sole_lock(place, "")
    arguments = [str(folder), str(tmp_path / "store"), "--preset", str(preset), "--no-resume"]
    with pytest.raises(ValueError, match="Another process works in"):
        script.main(arguments)
    assert (place / "job.json").exists()
    lock.release()


def test_a_folder_without_pairs(script, preset, tmp_path):
    (tmp_path / "empty").mkdir()
    arguments = [str(tmp_path / "empty"), str(tmp_path / "store"), "--preset", str(preset)]
    with pytest.raises(SystemExit, match="FOLDER holds no file of code to read"):
        script.main(arguments)
    (tmp_path / "empty" / "a.py").write_text("x = 1\n")
    with pytest.raises(SystemExit, match="No pair was found"):
        script.main([*arguments, "--workers", "1"])


KILLS = 20 if FULL else 2  # each begins with imports of some seconds


def contents(folder):
    return {file.name: file.read_bytes() for file in folder.iterdir() if file.is_file()}


@pytest.mark.slow
@pytest.mark.once
def test_killed_at_random_moments_it_ends_with_the_same_bytes(preset, tmp_path):
    """While it mines, and while it writes the store."""
    place = tmp_path / "project"
    place.mkdir()
    count = 240 + 40 * KILLS
    for number in range(count):
        functions = [
            f"# Adds number {number} and {word} to it all.\ndef add_{word}(a)\n  a + 1\nend\n"
            for word in ("one", "two", "three", "four", "five")
        ]
        (place / f"{number:04}.rb").write_text("\n".join(functions))
    flags = ["--preset", preset, "--files-per-task", "2", "--rows-per-shard", "12", "--workers"]
    script = EXAMPLES / "mine_pairs.py"

    def command(store, workers):
        return [sys.executable, *map(str, [script, place, tmp_path / store, *flags, workers])]

    def run(store):
        subprocess.run(command(store, 2), check=True, capture_output=True, timeout=600)
        return contents(tmp_path / store)

    rng = random.Random(0)
    ended = {"mining": 0, "storing": 0}
    for what, pattern in (
        ("mining", "killed.work/mined/*.arrow"),
        ("storing", "killed/*.arrow"),
    ):
        for _ in range(KILLS):
            wanted = len(list(tmp_path.glob(pattern))) + rng.randint(0, 5)
            process = subprocess.Popen(
                command("killed", 2), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
            while len(list(tmp_path.glob(pattern))) < wanted and process.poll() is None:
                time.sleep(0.005)
            time.sleep(rng.uniform(0, 0.05))
            ended[what] += process.poll() is not None
            process.kill()
            process.wait()
        if what == "mining":
            assert len(list(tmp_path.glob(pattern))) < count // 2  # it was killed while it mined
    assert ended == {"mining": 0, "storing": 0}
    assert run("killed") == run("whole")
    assert {"report.md", "report.png", "manifest.json"} <= set(contents(tmp_path / "whole"))


def test_bad_flags(script, tmp_path, capsys):
    with pytest.raises(SystemExit):
        script.main([str(tmp_path / "nowhere"), str(tmp_path / "store")])
    assert "FOLDER should be a folder" in capsys.readouterr().err
