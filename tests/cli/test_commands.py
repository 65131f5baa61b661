"""The command line, command by command, in this process."""

import json
import os
import shlex
from pathlib import Path

import numpy as np
import pyarrow.parquet as parquet
import pytest
from click.testing import CliRunner

from cptk.cli import main
from cptk.cli.commands import COMMANDS, _plain
from cptk.cli.inputs import texts_of
from tests import toys

WORDS = "open sort read write close copy move count split join".split()


@pytest.fixture(scope="module")
def preset(tmp_path_factory):
    folder = tmp_path_factory.mktemp("preset") / "toy"
    toys.embedder().save_to_preset(str(folder))
    return str(folder)


@pytest.fixture
def pairs(tmp_path):
    file = tmp_path / "pairs.csv"
    rows = [f"how do I {word} a file?,{word}(path)" for word in WORDS]
    file.write_text("\n".join(["question,answer", *rows]) + "\n")
    return file


def command_of(name):
    return main.get_command(None, name)


def run(*arguments, status=0):
    found = CliRunner().invoke(main, [str(each) for each in arguments])
    assert found.exit_code == status, (found.output, found.exception)
    return found


def result(*arguments):
    return json.loads(run(*arguments, "--json").stdout)


def train(pairs, preset, out, *more):
    names = ["--query", "question", "--document", "answer"]
    return ["train", pairs, *names, "--base", preset, "--out", out, "--batch-size", "4", *more]


@pytest.mark.parametrize("command", COMMANDS)
def test_help_says_how_and_gives_an_example(command):
    help_text = run(command, "--help").stdout
    assert f"cptk {command} " in help_text.split("Example")[1]


def test_help_imports_no_keras():
    import subprocess
    import sys

    code = (
        "import sys, cptk.cli\n"
        "try: cptk.cli.main(['--help'])\n"
        "except SystemExit: pass\n"
        "sys.exit('keras' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0


def test_train_encode_and_its_vectors(pairs, preset, tmp_path):
    out = tmp_path / "trained"
    found = result(*train(pairs, preset, out, "--epochs", "2", "--validation", pairs))
    assert (found["pairs"], found["steps"]) == (10, 6)  # of 4, 4 and 2 pairs, twice
    assert np.isfinite(found["loss"])
    assert "mrr" in found["validation"]
    assert not (tmp_path / "trained.backup").exists()  # nothing is left beside it
    texts = tmp_path / "texts.txt"
    texts.write_text("open(path)\n\nsort(path)\n")
    said = run("encode", out, texts, "--out", tmp_path / "vectors.npy", "--role", "document")
    assert "2 vectors" in said.stdout
    import cptk

    embedder = cptk.models.TextEmbedder.from_preset(str(out))
    expected = embedder.encode_text(["open(path)", "sort(path)"], role="document")
    np.testing.assert_allclose(np.load(tmp_path / "vectors.npy"), expected, atol=1e-6)
    assert "is there already" in run(*train(pairs, preset, out), status=1).stderr


@pytest.mark.slow
def test_training_goes_on_where_it_was_killed(pairs, preset, tmp_path, monkeypatch):
    monkeypatch.setattr("cptk.cli.train.STEPS_PER_BACKUP", 4)
    arguments = train(pairs, preset, tmp_path / "whole", "--epochs", "4")
    whole = result(*arguments)
    import cptk

    class Killed(cptk.training.ExactBackupAndRestore):
        def on_epoch_end(self, epoch, logs=None):
            super().on_epoch_end(epoch, logs)
            self.release()
            raise ValueError("killed")

    arguments[arguments.index(tmp_path / "whole")] = tmp_path / "killed"
    with monkeypatch.context() as patch:
        patch.setattr(cptk.training, "ExactBackupAndRestore", Killed)
        assert "killed" in run(*arguments, status=1).stderr
    assert not (tmp_path / "killed").exists()
    other = run(*arguments, "--temperature", "0.1", status=1)
    assert "other arguments: ['temperature']" in other.stderr
    found = run(*arguments, "--json")
    assert "Restored the backup of epoch 1" in found.stderr
    assert json.loads(found.stdout)["loss"] == pytest.approx(whole["loss"], abs=1e-5)


@pytest.mark.slow
def test_training_that_was_killed_after_its_last_step_is_not_lost(pairs, preset, tmp_path):
    arguments = train(pairs, preset, tmp_path / "out")
    import cptk

    with pytest.MonkeyPatch.context() as patch:

        def killed(*_, **__):
            raise OSError("the disk is full")

        patch.setattr(cptk.models.TextEmbedder, "save_to_preset", killed)
        assert "the disk is full" in run(*arguments, status=1).stderr
    found = run(*arguments, "--json")
    assert "Restored the backup" in found.stderr
    assert json.loads(found.stdout)["steps"] == 3
    assert not (tmp_path / "out.backup").exists()


def test_index_search_and_texts_that_came_later(preset, tmp_path):
    file = tmp_path / "texts.jsonl"
    lines = [json.dumps({"text": f"{word}(path)", "line": i}) for i, word in enumerate(WORDS)]
    file.write_text("\n".join(lines[:6]))
    index = tmp_path / "index"
    again_as = ["index", preset, file, "--out", index]
    assert result("index", preset, file, "--out", index)["new"] == 6
    file.write_text("\n".join(lines))
    again = result("index", preset, file, "--out", index)
    assert (again["rows"], again["new"]) == (10, 4)
    found = result("search", preset, index, "split(path)", "-k", "2", "--hybrid")["results"]
    assert found[0]["hits"][0]["text"] == "split(path)"
    assert found[0]["hits"][0]["metadata"]["line"] == 8
    assert "split(path)" in run("search", preset, index, "split(path)").stdout
    assert "another --dtype" in run(*again_as, "--dtype", "int8", status=1).stderr
    file.write_text("\n".join(lines[::-1]))
    assert "other rows" in run(*again_as, status=1).stderr


def test_a_folder_that_a_killed_save_left_is_gone_on_with(preset, tmp_path):
    (tmp_path / "index").mkdir()
    file = tmp_path / "texts.csv"
    file.write_text("id,text,day\n007,open(path),2024-01-02\n8,sort(x),\n")
    assert result("index", preset, file, "--out", tmp_path / "index")["rows"] == 2
    found = result("search", preset, tmp_path / "index", "open(path)", "-k", "1")
    hit = found["results"][0]["hits"][0]
    assert (hit["id"], hit["metadata"]["day"]) == ("007", "2024-01-02")
    assert result("index", preset, file, "--out", tmp_path / "index")["new"] == 0


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a.txt", "one\r\n\n two\n", ["one", " two"]),
        ("a.jsonl", '{"x": 1}\n{"text": "a\u2028b"}\n', "text"),
        ("a.json", '[\n {"text": "a\u2028b"},\n {"text": "c", "y": 1}\n]', ["a\u2028b", "c"]),
        ("a.csv", 'text\n"1,5"\n7\n', ["1,5", "7"]),
        ("a.csv", "text,text\na,b\n", "two columns of one name"),
        ("a.jsonl", "[1]\n", "a.jsonl"),
        ("a.csv", "text\n\xff\n", "a.csv"),
        ("a.txt", "", "a.txt"),
        ("a.parquet", "no", "a.parquet"),
    ],
)
def test_files_of_texts(tmp_path, name, content, expected):
    file = tmp_path / name
    file.write_bytes(content.encode("latin-1" if "\xff" in content else "utf-8"))
    if isinstance(expected, list):
        assert texts_of(file, None)[0] == expected
        return
    with pytest.raises(ValueError, match=expected):
        texts_of(file, None)


def test_json_is_json_whatever_it_holds():
    odd = {"a": float("nan"), "b": (np.float32(0.5), float("inf")), "c": Path("x"), 1: None}
    assert _plain(odd) == {"a": None, "b": [0.5, None], "c": "x", "1": None}


def test_mine(tmp_path):
    code = [f"# Adds {word} to it all.\ndef add_{word}(a)\n  a + 1\nend\n" for word in WORDS]
    (tmp_path / "project").mkdir()
    (tmp_path / "project" / "a.rb").write_text("\n".join(code))
    found = result("mine", tmp_path / "project", "--out", tmp_path / "p.parquet")
    assert found["pairs"] == len(parquet.read_table(tmp_path / "p.parquet")) > 0
    again = run("mine", tmp_path / "project", "--out", tmp_path / "p.parquet", status=1)
    assert "is there already" in again.stderr


@pytest.mark.parametrize("ending", ["json", "md", "png"])
def test_evaluate(preset, tmp_path, monkeypatch, ending):
    folder = tmp_path / "data" / "STS-B"
    folder.mkdir(parents=True)
    rows = [f"a {word} b,a {word} c,{i % 6}.0" for i, word in enumerate(WORDS)]
    (folder / "dev.csv").write_text("\n".join(rows) + "\n")
    monkeypatch.setenv("CPTK_DATA_DIR", str(tmp_path / "data"))
    out = tmp_path / f"report.{ending}"
    nowhere = ["evaluate", preset, "--tasks", "stsb", "--out", tmp_path / "no" / "r.md"]
    assert "in a folder that is there" in run(*nowhere, status=1).stderr
    arguments = ["evaluate", preset, "--tasks", "stsb", "--split", "validation", "--out", out]
    assert "stsb" in result(*arguments)["results"]
    assert out.stat().st_size > 100


def test_errors_are_one_line_and_status_1(preset, tmp_path):
    texts = tmp_path / "texts.csv"
    texts.write_text("a,b\n,x\n")
    out = tmp_path / "v.npy"
    for arguments, words in [
        (["encode", preset, texts, "--out", out], "name one by --column"),
        (["encode", preset, texts, "--out", out, "--column", "c"], "should be one of ['a', 'b']"),
        (["encode", preset, texts, "--out", out, "--column", "b", "--role", "no"], "no"),
        (["encode", preset, texts, "--out", out, "--column", "a"], "texts.csv"),
        (["encode", tmp_path / "nowhere", texts, "--out", out, "--column", "b"], "nowhere"),
        (["evaluate", preset, "--tasks", "nothing"], "nothing"),
        (["evaluate", preset, "--out", tmp_path / "r.txt"], ".json, .md, .png"),
        (["train", texts, "--base", preset, "--out", tmp_path / "t"], "query"),
        (["train", preset, "--base", preset, "--out", tmp_path / "t"], "store"),
        (["train", texts, "--base", preset, "--out", tmp_path / "t", "--loss", "x"], "loss"),
        (["mine", tmp_path, "--out", tmp_path / "p.parquet"], "no file that ends in .py"),
        (["export", preset, "--to", "onnx", "--out", out, "--role", "query"], "--role"),
    ]:
        error = run(*arguments, status=1).stderr.strip().splitlines()[-1]
        assert error.startswith("Error: "), (arguments, error)
        assert words in error, (arguments, error)
    assert not out.exists()
    assert not (tmp_path / "t").exists()


def test_a_wrong_command_line_is_status_2(preset, tmp_path):
    for arguments in (
        ["encode"],
        ["encode", preset, tmp_path / "nowhere.txt", "--out", "v.npy"],
        ["export", preset, "--to", "paper", "--out", "x"],
        ["fly"],
    ):
        run(*arguments, status=2)


def test_the_backend_can_be_named(monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", "tensorflow")
    run("--backend", "jax", "mine", "--help")
    assert os.environ["KERAS_BACKEND"] == "jax"


def test_the_page_of_the_docs_names_commands_and_options_that_there_are():
    page = (Path(__file__).parents[2] / "docs" / "command-line.md").read_text()
    lines = [line for line in page.splitlines() if line.startswith("cptk ")]
    assert {line.split()[1] for line in lines} == set(COMMANDS)
    for line in lines:
        _, name, *rest = shlex.split(line)
        known = {option for parameter in command_of(name).params for option in parameter.opts}
        assert {word for word in rest if word.startswith("-")} <= known, line
