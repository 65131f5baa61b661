import importlib
import json
import os
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from cptk.models import fastest_dtype
from tests.children import run_child

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "benchmarks"


@pytest.fixture
def benchmark(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    yield importlib.import_module("train_step")
    for name in ("train_step", "reporting"):
        sys.modules.pop(name, None)


def _contains_path(report):
    return any(part in json.dumps(report) for part in (str(ROOT), str(Path.home()) + os.sep))


@pytest.mark.slow
def test_tiny_run_reports_both_contenders_and_their_ratio(tmp_path):
    backend = "tensorflow"
    command = [sys.executable, str(FOLDER / "train_step.py"), "--tiny", "--backends", backend]
    run = run_child([*command, "--output", str(tmp_path / "new")], 240)
    assert run.returncode == 0, run.stdout + run.stderr
    assert sorted(p.name for p in (tmp_path / "new").iterdir()) == [
        "train_step.json",
        "train_step.md",
    ]
    report = json.loads((tmp_path / "new" / "train_step.json").read_text())
    dtype = fastest_dtype()
    names = ["cptk", "plain Keras", *([] if dtype == "float32" else [f"cptk, {dtype}"])]
    assert [(r["backend"], r["contender"], r["status"]) for r in report["contenders"]] == [
        (backend, name, "measured") for name in names
    ]
    for row in report["contenders"]:
        # Embeddings of 97 tokens and 8 positions; 4 projections of attention; the MLP's two;
        # two norms of the layer and the last one; tau. All of width 16, the MLP of 32.
        assert (
            row["parameters"]
            == 105 * 16 + 4 * (16 * 16 + 16) + (2 * 16 * 32 + 32 + 16) + 3 * 32 + 1
        )
        for key in ("seconds_per_step", "cpu_seconds_per_step", "pairs_per_second"):
            assert row[key] > 0
    assert [(r["by"], r["rounds"], r["steps_per_round"]) for r in report["comparisons"]] == [
        ("train_on_batch", 3, 1),
        ("fit", 2, 4),
    ]
    for row in report["comparisons"]:
        assert row["first_loss_difference"] <= 1e-5
        for kind in ("wall", "cpu"):
            assert 0 < row[kind]["low"] <= row[kind]["ratio"] <= row[kind]["high"]
    assert report["setup"]["tiny"] is True
    assert report["machine"]["cores"] >= 1
    assert report["versions"]["keras"] == version("keras")
    assert not _contains_path(report)
    assert "| cptk |" in (tmp_path / "new" / "train_step.md").read_text()


def test_a_contender_that_is_not_installed_is_listed(benchmark, monkeypatch, tmp_path):
    monkeypatch.setitem(benchmark.REQUIRED, "torch", ("numpy", "no_such_module"))
    benchmark.main(["--tiny", "--backends", "torch", "--output", str(tmp_path)])
    report = json.loads((tmp_path / "train_step.json").read_text())
    assert report["contenders"] == [
        {
            "backend": "torch",
            "contender": "Hugging Face",
            "status": "not installed",
            "missing": ["no_such_module"],
        }
    ]
    assert "| torch | Hugging Face | not installed |" in (tmp_path / "train_step.md").read_text()


def test_a_failing_contender_leaves_no_report(benchmark, monkeypatch, tmp_path):
    monkeypatch.setitem(benchmark.REQUIRED, "tensorflow", ())
    broken = tmp_path / "broken.py"
    broken.write_text("raise SystemExit('no such kernel')")
    monkeypatch.setattr(benchmark, "__file__", str(broken))
    with pytest.raises(SystemExit, match=r"tensorflow failed, nothing is written:\nno such kernel"):
        benchmark.main(["--backends", "tensorflow", "--output", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()


def test_too_few_steps_are_refused(benchmark, capsys):
    with pytest.raises(SystemExit):
        benchmark.main(["--steps", "1"])
    assert "--steps should be 2 or more. Received: 1." in capsys.readouterr().err


def test_steps_are_taken_in_turn_and_the_ratio_is_the_median_of_pairs(benchmark):
    calls = []

    def contender(name, seconds):
        def step(i):
            calls.append(name)
            return seconds[i], 1.0

        return step

    first, second = benchmark.reporting.alternate(
        contender("a", [2.0, 9.0, 3.0]), contender("b", [1.0, 3.0, 3.0]), 3
    )
    assert "".join(calls) == "abbaab"
    ratio = benchmark.reporting.median_ratio(first[:, 0], second[:, 0])
    assert ratio == {"ratio": 2.0, "low": 1.0, "high": 3.0}  # of 2, 3 and 1
    assert benchmark.reporting.verdict(ratio, 9, 3.0) == "yes"
    assert benchmark.reporting.verdict(ratio, 9, 2.0) == "undecided"
    assert benchmark.reporting.verdict(ratio, 9, 0.5) == "no"
    assert benchmark.reporting.verdict(ratio, 3, 3.0) == "undecided"


def test_pairs_vary_in_length_and_fill_their_batches(benchmark):
    config = benchmark.setup(tiny=False)
    pairs = benchmark.make_pairs(config)
    for tokens in pairs.values():
        assert tokens["token_ids"].shape == tokens["padding_mask"].shape == (256, 64)
        lengths = tokens["padding_mask"].sum(axis=1)
        assert lengths.min() == 8
        assert (lengths.reshape(4, 64).max(axis=1) == 64).all()
        assert len(set(lengths)) > 40
        assert tokens["token_ids"].max() < 50257
    batches = benchmark.split_batches(pairs, config["batch_size"])
    assert len(batches) == 4
    assert (batches[1]["query"]["token_ids"] == pairs["query"]["token_ids"][64:128]).all()
