import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "examples" / "batch_size_study.py"


def _run(*arguments):
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": path, "KERAS_BACKEND": "tensorflow"}
    return subprocess.run(
        [sys.executable, str(SCRIPT), *map(str, arguments)],
        env=environment, capture_output=True, text=True, timeout=570, check=False,
    )  # fmt: skip


@pytest.fixture
def study(monkeypatch):
    monkeypatch.syspath_prepend(SCRIPT.parent)
    import batch_size_study

    return batch_size_study


@pytest.mark.slow
def test_smoke_run_is_reported_and_goes_on_where_it_was(tmp_path):
    arguments = ("--smoke", "--pairs", "64", "--output", tmp_path)
    first = _run(*arguments, "--seeds", "0")
    assert first.returncode == 0, first.stdout + first.stderr
    runs = {path.name: path.read_bytes() for path in tmp_path.glob("batch_*.json")}
    assert sorted(runs) == ["batch_32_seed_0.json", "batch_8_seed_0.json"]

    second = _run(*arguments, "--seeds", "0", "1")
    assert second.returncode == 0, second.stdout + second.stderr
    assert "2 of 4 runs are there" in second.stdout
    assert "Reading the Python code" not in second.stdout
    for name, content in runs.items():
        assert (tmp_path / name).read_bytes() == content
    results = json.loads((tmp_path / "results.json").read_text())
    assert [(r["batch_size"], r["steps"], r["pairs"]) for r in results["rows"]] == [
        (8, 8, 64),
        (32, 2, 64),
    ]
    for row in results["rows"]:
        assert row["seeds"] == 2
        assert row["learning_rate"] == pytest.approx(3e-3 * math.sqrt(row["batch_size"] / 256))
        assert 0 < row["mrr"]["mean"] < 1
        assert row["mrr"]["deviation"] >= 0
        # After so few steps they may lie above chance, but not by far.
        assert 0 < row["held_out_loss"]["mean"] < math.log(50) + 3
        assert 0 < row["in_batch_loss"]["mean"] < math.log(row["batch_size"]) + 3
    assert results["backend"] == "tensorflow"
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")
    assert "| 32 | 2 |" in (tmp_path / "table.md").read_text()
    assert not list(tmp_path.glob(".scratch*"))


def test_summary_is_mean_and_deviation(study):
    names = ("batch_size", "steps", "pairs", "learning_rate", "mrr", "held_out_loss")
    names += ("in_batch_loss", "pairs_per_second")
    runs = [dict.fromkeys(names, 1.0) | {"mrr": mrr} for mrr in (0.1, 0.2, 0.3)]
    row = study.summary(runs)
    assert row["mrr"] == {"mean": pytest.approx(0.2), "deviation": pytest.approx(0.1)}
    assert study.summary(runs[:1])["mrr"] == {"mean": 0.1, "deviation": None}


def test_text_is_taken_by_the_root_of_a_sources_size(study, tmp_path):
    import cptk

    for name, size in (("large", 1600), ("small", 100)):
        rows = [(f"{name} query {i}", f"the {name} document {i * 7}") for i in range(size)]
        cptk.data.Pairs(rows).to_parquet(tmp_path / f"{name}.parquet")
    flags = ["--input", str(tmp_path), "--smoke", "--pairs", "64"]
    data = study.collect_text(study.parse_arguments(flags))
    assert len(data["held_out"]) == 50
    queries = [pair[0] for part in data.values() for pair in part]
    assert len(queries) == len(set(queries)) >= 64 + 50
    assert sum("small" in query for query in queries) == 23  # 114 * 10 / (40 + 10), rounded up


def test_learned_vocabulary_is_that_of_gpt2_in_form(study):
    pairs = [["how to open a file", "def open_file(path):\n    return open(path)"]] * 4
    found = study.learn_vocabulary(pairs, 280)
    assert sorted(found["vocabulary"].values()) == list(range(len(found["vocabulary"])))
    assert len(found["vocabulary"]) <= 280
    assert "<|endoftext|>" in found["vocabulary"]
    assert {*"[]{}"} <= found["vocabulary"].keys()
    assert all(merge.count(" ") == 1 for merge in found["merges"])


def test_defaults_see_the_same_pairs(study):
    options = study.parse_arguments([])
    assert options.batch_sizes == [32, 128, 512, 2048, 4096]
    assert options.seeds == [0]
    assert all(options.recipe.pairs % size == 0 for size in options.batch_sizes)
    assert study.rate(256, options.recipe) == options.recipe.learning_rate
    assert study.rate(4096, options.recipe) == pytest.approx(4 * options.recipe.learning_rate)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--batch-sizes", "1", "8"], "--batch-sizes must be at least 2"),
        (["--batch-sizes", "48", "64"], "must divide the largest, 64"),
        (["--pairs", "5000"], "--pairs must be a multiple of the largest batch, 4096. Got 5000"),
        (["--seeds", "-1"], "--seeds must be between"),
        (["--learning-rate", "0"], "--learning-rate must be above 0"),
        (["--learning-rate", "nan"], "--learning-rate must be above 0"),
        (["--micro-batch-size", "0"], "--micro-batch-size must be at least 1"),
        (["--model", "bert"], "invalid choice: 'bert'"),
        (["--backend", "numpy"], "invalid choice: 'numpy'"),
        (["--output", str(SCRIPT)], "--output must be a folder"),
        (["--seed", "1"], "unrecognized arguments: --seed"),
    ],
)
def test_bad_flags(arguments, message, study, capsys):
    with pytest.raises(SystemExit, match="2"):
        study.parse_arguments(arguments)
    assert message in capsys.readouterr().err
