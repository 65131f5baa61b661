"""A corpus of text, and an embedder trained on it: the two examples, on toys."""

import argparse
import json
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

import cptk

sys.path.append(str(Path(__file__).parents[2] / "examples"))

import collect_corpus
import corpus_text
import quickstart_models
import train_text

from tests import toys

TRANSLATION = """Package: tree
Description-md5: 0
Description-en: displays an indented directory tree, in color
 Tree is a recursive directory listing command that produces a
 depth indented listing of files.
 .
 This package contains the program.

Package: empty
Description-en: no more than this

"""
WORDNET = """  1 This software is licensed by nobody.
00001740 29 v 04 breathe 0 take_a_breath 0 respire 0 suspire 3 000 | draw air into the lungs; \
"I can breathe better now"; "The patient is respiring"
00002573 00 a 01 able(p) 0 000 | having the skill to do something
"""


@pytest.fixture
def no_tests(monkeypatch):
    """Without the public sets that may be on this machine."""
    monkeypatch.setattr(cptk.datasets, "available_splits", lambda name: [])


def test_descriptions_are_short_and_the_first_paragraph():
    (pair,) = corpus_text.descriptions(TRANSLATION)
    assert pair[0] == "displays an indented directory tree, in color"
    assert pair[1].startswith("Tree is a recursive")
    assert pair[1].endswith("listing of files.")


def test_wordnet_gives_terms_and_examples():
    assert list(corpus_text.glosses(WORDNET)) == [
        ("breathe, take a breath, respire, suspire", "draw air into the lungs"),
        ("able", "having the skill to do something"),
    ]
    assert list(corpus_text.examples(WORDNET)) == [
        ("I can breathe better now", "draw air into the lungs"),
        ("The patient is respiring", "draw air into the lungs"),
    ]


def test_a_readme_gives_its_summary_and_its_sections():
    text = (
        "Metadata-Version: 2.1\nName: tool\nSummary: Sorts things\n"
        "Description-Content-Type: text/markdown\n\n"
        "# tool\n\nIt puts all the things that you have into their right order.\n\n"
        "## Use\n\nCall the function with a list of things to sort.\n"
    )
    parts = [pairs for pairs in corpus_text.readme(text, "tool", Counter()) if pairs is not None]
    found = {(row["kind"], row["query"], row["document"]) for pairs in parts for row in pairs}
    first = "It puts all the things that you have into their right order."
    assert ("descriptions", "Sorts things", first) in found
    use = "Call the function with a list of things to sort."
    assert ("headings", "tool: Use", use) in found


def test_clean_pairs_share_nothing_with_a_test_set(tmp_path):
    rows = [(f"term number {i}", f"the meaning of word {i * 31} and no other") for i in range(20)]
    rows.append(("copied", rows[3][1]))
    rows.append(("notice", "This text is licensed under the terms of some licence or other"))
    columns = {"query": [q for q, _ in rows], "document": [d for _, d in rows]}
    pairs = cptk.data.Pairs(columns)
    counts = Counter()
    tests = ["The meaning of word 155 and no other!"]
    dropped = tmp_path / "dropped.parquet"
    clean = corpus_text.clean(pairs, "terms", tests, dropped, counts)
    assert not {"copied", "notice", "term number 5"} & {*clean["query"]}
    assert cptk.data.Pairs.from_parquet(dropped)["query"] == ["term number 5"]
    assert counts["in a test set"] == counts["boilerplate"] == 1
    assert counts["equal to others"] == 1


def test_text_is_collected_once_and_reported(tmp_path, monkeypatch, capsys, no_tests):
    lists = tmp_path / "lists.txt"
    lists.write_text(TRANSLATION.split("\n\n", 1)[0] + "\n\n" + "\n".join(
        f"Package: p{i}\nDescription-en: short text {i}\n A long text of package {i * 17} here.\n"
        for i in range(5)
    ))  # fmt: skip
    monkeypatch.setattr(collect_corpus.Apt, "update", lambda *_: None)
    places = {"descriptions": [("main", lists)]}
    monkeypatch.setattr(corpus_text, "places", lambda part, _: iter(places.get(part, ())))

    class Pool:  # in this process: the patches hold
        __enter__ = __exit__ = lambda self, *_: self

        def __init__(self, *_):
            pass

        def submit(self, function, task):
            import concurrent.futures

            future = concurrent.futures.Future()
            future.set_result(function(task))
            return future

    monkeypatch.setattr(collect_corpus.concurrent.futures, "ProcessPoolExecutor", Pool)
    collect_corpus.main([str(tmp_path / "out"), "--text"])
    assert "descriptions: 6 of 6 pairs" in capsys.readouterr().out
    pairs = cptk.data.Pairs.from_parquet(tmp_path / "out" / "descriptions.parquet")
    assert set(pairs["kind"]) == {"descriptions"}
    assert (tmp_path / "out" / "report.png").read_bytes().startswith(b"\x89PNG")
    assert "short text 3" in (tmp_path / "out" / "report.md").read_text()
    collect_corpus.main([str(tmp_path / "out"), "--text"])
    assert "nothing to do" in capsys.readouterr().out


def some_pairs(folder, name, size):
    folder.mkdir(exist_ok=True)
    rows = {
        "query": [f"{name} number {i}" for i in range(size)],
        "document": [f"what {name} {i} is: {i * 7} and {i * i}" for i in range(size)],
    }
    cptk.data.Pairs(rows).to_parquet(folder / f"{name}.parquet")


@pytest.mark.slow
def test_an_embedder_is_trained_on_kinds_of_pairs_and_goes_on(tmp_path, no_tests, capsys):
    for name, size in (("terms", 60), ("headings", 30)):
        some_pairs(tmp_path / "pairs", name, size)
    output, store = tmp_path / "out", tmp_path / "store"
    reader = quickstart_models.tiny_gpt2(28, "float32").preprocessor  # longer than the recipe's
    rows = [(f"query {i}", f"{i * 3} is what it is") for i in range(20)]
    cptk.data.TokenStore.write(store, cptk.data.Pairs(rows), reader)
    command = ["--input", str(tmp_path / "pairs"), str(store)]
    command += ["--tiny", "--pairs", "64", "--points", "4"]
    train_text.main([*command, "--output", str(output)])
    curve = json.loads((output / "curve.json").read_text())["curve"]
    assert [row["pairs"] for row in curve] == [0, 16, 32, 48, 64]
    assert {row["task"] for row in curve} == {"held_out"}
    assert all(0 < row["score"] <= 1 for row in curve)
    assert (output / "curve.png").read_bytes().startswith(b"\x89PNG")
    assert "| 64 |" in (output / "report.md").read_text()
    import keras_hub

    embedder = keras_hub.models.TextEmbedder.from_preset(str(output / "embedder"))
    assert embedder.count_params() > 0
    capsys.readouterr()
    train_text.main([*command, "--output", str(output)])
    assert "Restored the backup of epoch 4" in capsys.readouterr().out
    again = json.loads((output / "curve.json").read_text())["curve"]
    assert again == curve


def test_the_last_layers_alone_are_trained(tmp_path):
    options = train_text.parse(["--input", str(tmp_path), "--tiny", "--trained-layers", "1"])
    embedder, _ = train_text.load(options)
    trained = [weight.path for weight in embedder.trainable_weights]
    assert trained
    assert all("transformer_layer_1/" in path for path in trained)


def test_a_folder_of_texts_is_mined(tmp_path, no_tests):
    for i in range(4):
        (tmp_path / f"{i}.md").write_text(
            f"# Title {i}\n\n## Part one\n\nThe first text of file {i * 13} says this.\n\n"
            f"The second text of it is about {i * 29} other things.\n"
        )
    found = train_text.sources([tmp_path])
    assert set(found) == {"headings", "neighbours"}
    assert "Title 2: Part one" in found["headings"]["query"]
    sides = found["neighbours"]["query"] + found["neighbours"]["document"]
    assert not any("#" in side for side in sides)


def test_sources_of_one_name_are_put_together(tmp_path, no_tests):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        rows = {"query": [f"the term of {name}"], "document": [f"what {name} means"]}
        cptk.data.Pairs(rows).to_parquet(tmp_path / name / "terms.parquet")
    found = train_text.sources([tmp_path / "one", tmp_path / "two"])
    assert found["terms"]["query"] == ["the term of one", "the term of two"]
    for place in ("a", "b"):
        preprocessor = toys.preprocessor()
        cptk.data.TokenStore.write(tmp_path / place / "terms", rows, preprocessor, verbose=0)
    stores = [tmp_path / "a" / "terms", tmp_path / "b" / "terms"]
    with pytest.raises(SystemExit, match="Two stores have the name 'terms'"):
        train_text.sources(stores)
    with pytest.raises(SystemExit, match="A store and pairs have the name 'terms'"):
        train_text.sources([stores[0], tmp_path / "one"])


def test_lora_is_softened_by_its_second_factor():
    class Weight:
        def __init__(self, path, value):
            self.path, self.value = path, np.array(value, "float32")

        def assign(self, value):
            self.value = value

        def __array__(self, dtype=None, copy=None):
            return self.value

    weights = [Weight("x/lora_kernel_a", [4.0]), Weight("x/lora_kernel_b", [8.0])]
    owner = argparse.Namespace(trainable_weights=weights)
    train_text.soften(owner, [np.array([2.0]), np.array([0.0])], 0.25)
    assert [weight.value.tolist() for weight in weights] == [[4.0], [2.0]]


@pytest.mark.parametrize("flags", [["--share", "2"], ["--points", "0"], ["--input", "none"]])
def test_bad_flags(flags, tmp_path, capsys):
    with pytest.raises(SystemExit):
        train_text.parse(["--input", str(tmp_path), *flags])
    assert "error" in capsys.readouterr().err
