"""A corpus of code, and an embedder trained on it: the two examples, on toys."""

import argparse
import io
import json
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

import cptk

sys.path.append(str(Path(__file__).parents[2] / "examples"))

import collect_corpus
import train_code
import train_code_queries

GO = "// {0} gives the {0} of some numbers.\nfunc {0}(a int) int {{\n\treturn a * {1}\n}}\n"


def package(folder, name, count):
    """A source package of Go with some functions."""
    text = "package a\n\n" + "\n".join(GO.format(f"F{name}{i}", i) for i in range(count))
    info = tarfile.TarInfo(f"{name}/a.go")
    info.size = len(text)
    with tarfile.open(folder / f"{name}.orig.tar.gz", "w:gz") as archive:
        archive.addfile(info, io.BytesIO(text.encode()))
    return folder / f"{name}.orig.tar.gz"


@pytest.mark.slow
def test_packages_are_mined_once(tmp_path, monkeypatch, capsys):
    found = [(name, package(tmp_path, name, 3)) for name in ("one", "two")]
    monkeypatch.setattr(collect_corpus, "places", lambda *_: iter(found))
    monkeypatch.setattr(collect_corpus.Apt, "update", lambda *_: None)
    command = [str(tmp_path / "out"), "--languages", "go", "--workers", "1"]
    collect_corpus.main(command)
    assert "go: 6 pairs of 2 packages" in capsys.readouterr().out
    pairs = cptk.data.Pairs.from_parquet(tmp_path / "out" / "go" / "two.parquet")
    assert pairs[0]["query"] == "Ftwo0 gives the Ftwo0 of some numbers."
    assert (pairs[0]["source"], pairs[0]["path"]) == ("two", "two/a.go")
    collect_corpus.main(command)
    assert "nothing to do" in capsys.readouterr().out


def test_source_packages_are_asked_for_without_touching_the_system(tmp_path, monkeypatch):
    system = tmp_path / "etc"
    (system / "sources.list.d").mkdir(parents=True)
    (system / "sources.list").write_text("deb [a=b] x:/debian stable main\n# deb none\n")
    (system / "sources.list.d" / "more.sources").write_text("Types: deb\nURIs: x:/debian\n")
    run = []
    monkeypatch.setattr(collect_corpus.Apt, "_run", lambda _, *command, **__: run.append(command))
    apt = collect_corpus.Apt(tmp_path / "apt")
    apt.update(system)
    lines = (tmp_path / "apt/sources/sources.list").read_text().splitlines()
    assert "deb-src [a=b] x:/debian stable main" in lines
    assert "deb [a=b] x:/debian stable main" in lines
    assert "Types: deb deb-src" in (tmp_path / "apt/sources/more.sources").read_text()
    assert run == [("apt-get", "update")]


def test_a_package_that_cannot_be_fetched_is_asked_for_again(tmp_path, monkeypatch, capsys):
    def run(self, *command, folder):
        if not fetched:
            raise subprocess.CalledProcessError(100, command, stderr="Err:1\nE: No network\n")
        (folder / "a_1.deb").touch()

    fetched = []
    monkeypatch.setattr(collect_corpus.Apt, "_run", run)
    apt = collect_corpus.Apt(tmp_path / "apt")
    assert apt.fetch("a") is None
    assert capsys.readouterr().out == "a is left out: E: No network\n"
    fetched.append("a")
    assert apt.fetch("a").name == "a_1.deb"


def test_packages_of_a_pattern_and_of_a_likely_size(tmp_path, monkeypatch):
    known = "Package: {}\nVersion: 1\nSize: {}\nSHA256: x\n\n"
    sizes = {"golang-a-dev": 50_000, "golang-b-dev": 10, "golang-c": 50_000}
    listed = "".join(known.format(*each) for each in sizes.items())
    monkeypatch.setattr(collect_corpus.Apt, "_run", lambda *_, **__: listed)
    apt = collect_corpus.Apt(tmp_path)
    assert apt.matching(collect_corpus.LANGUAGES["go"].packages) == ["golang-a-dev"]
    assert collect_corpus.spread(list("abcdef"), 3) == ["a", "c", "e"]


@pytest.mark.slow
def test_an_embedder_is_trained_on_packages(tmp_path):
    folder = tmp_path / "pairs"
    for language in ("go", "python"):
        (folder / language).mkdir(parents=True)
        for number in range(12):
            rows = {
                "query": [f"gives {language} number {number} of {i}" for i in range(6)],
                "document": [f"{language} {number} x{i} = {i * number}" * 2 for i in range(6)],
                "source": [f"package{number}"] * 6,
                "path": ["a"] * 6,
            }
            cptk.data.Pairs(rows).to_parquet(folder / language / f"{number}.parquet")
    output = tmp_path / "out"
    command = ["--input", str(folder), "--tiny", "--pairs", "32", "--batch-size", "8"]
    train_code.main([*command, "--output", str(output)])
    report = json.loads((output / "report.json").read_text())
    assert set(report["scores"]) == {"before", "trained", "averaged"}
    assert set(report["scores"]["before"]) == {"go", "python", "mean"}
    assert report["pairs"] == 32
    assert "| mean |" in (output / "report.md").read_text()
    import keras_hub

    embedder = keras_hub.models.TextEmbedder.from_preset(str(output / "embedder"))
    assert embedder.count_params() > 0


def test_held_out_packages_are_not_trained_on():
    rows = {
        "query": [f"what number {i} is for" for i in range(60)],
        "document": [f"def f{i}(): return {'x' * (i + 3)}" for i in range(60)],
        "source": [f"package{i % 12}" for i in range(60)],
        "path": ["a"] * 60,
    }
    held_out, rest = train_code.held_out_and_rest(cptk.data.Pairs(rows), 10)
    assert len(held_out) == 10
    assert not {*held_out["source"]} & {*rest["source"]}


@pytest.mark.parametrize("flags", [["--share", "2"], ["--batch-size", "1"], ["--input", "none"]])
def test_bad_flags(flags, tmp_path, capsys):
    with pytest.raises(SystemExit):
        train_code.parse(["--input", str(tmp_path), *flags])
    assert "error" in capsys.readouterr().err


def test_weights_are_averaged():
    import numpy as np

    class Weight:
        def __init__(self, value):
            self.value = np.array(value, "float32")

        def assign(self, value):
            self.value = value

        def __array__(self, dtype=None, copy=None):
            return self.value

    owner = argparse.Namespace(trainable_weights=[Weight([4.0, 0.0])])
    train_code.average(owner, [np.array([0.0, 2.0])], 0.25)
    assert owner.trainable_weights[0].value.tolist() == [1.0, 1.5]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("Reader.readHTTPLine", ["read", "http", "line"]),
        ("Hash#merge_two", ["merge", "two"]),
        ("A::getX2", ["get", "x2"]),
        ("_", []),
    ],
)
def test_words_of_a_name(name, words):
    assert train_code_queries.words_of(name) == words


@pytest.mark.parametrize(
    ("language", "code", "expected"),
    [
        (
            "python",
            "def f(x,\n      y):\n  return x",
            'def f(x,\n      y):\n  """Adds."""\n  return x',
        ),
        ("python", "def f(x): return x", "# Adds.\ndef f(x): return x"),
        ("python", "def f(:", "# Adds.\ndef f(:"),
        ("ruby", "def f\nend", "# Adds.\ndef f\nend"),
        ("go", "func f() {}", "// Adds.\nfunc f() {}"),
    ],
)
def test_documentation_where_it_stands_in_its_language(language, code, expected):
    assert train_code_queries.documented(code, "Adds.", language) == expected


def test_queries_as_people_type_them():
    rows = {
        "query": ["Adds two numbers."] * 40,
        "document": ["def addTwo(a): return addTwo(a - 1)", "def add(a): return a"] * 20,
        "name": ["Sum.addTwo", "Sum.add"] * 20,
        "language": ["python"] * 40,
    }
    pairs = cptk.data.Pairs(rows)
    found = train_code_queries.with_typed_queries(pairs, 0.5, 0)
    assert all(row == pairs[1] for row in list(found)[1::2])
    typed = [row for row in list(found)[::2] if row["query"] != rows["query"][0]]
    assert 4 <= len(typed) <= 16
    for row in typed:
        assert "add two" in row["query"]
        assert row["document"] == "# Adds two numbers.\ndef f(a): return f(a - 1)"
    assert train_code_queries.with_typed_queries(pairs, 0.0, 0) == pairs
    nameless = cptk.data.Pairs({side: rows[side] for side in ("query", "document")})
    assert train_code_queries.with_typed_queries(nameless, 1.0, 0) == nameless
