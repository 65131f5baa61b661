import importlib
import json
import sys
from pathlib import Path

import pytest

from tests.children import run_child

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "benchmarks"


@pytest.fixture
def benchmark(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    yield importlib.import_module("large_batch")
    for name in ("large_batch", "large_batch_arms", "large_batch_report", "reporting"):
        sys.modules.pop(name, None)


def _run(output, *arguments):
    command = [sys.executable, FOLDER / "large_batch.py", "--tiny", "--steps", "1", *arguments]
    command += ["--output", output, "--work", output / "work"]
    return run_child(command, 420)


@pytest.mark.slow
def test_tiny_run_measures_and_goes_on_where_it_was(tmp_path):
    arm = "cptk-tensorflow"
    run = _run(tmp_path, "--arms", arm, "--batch-sizes", "4")
    assert run.returncode == 0, run.stdout + run.stderr
    report = json.loads((tmp_path / "large_batch.json").read_text())
    (row,) = report["rows"]
    assert (row["model"], row["arm"], row["batch_size"]) == ("gpt2", arm, 4)
    assert row["status"] == "measured"
    assert row["pairs_per_second"] > 0
    assert 0 < row["above_gib"] < row["peak_gib"] < 4
    assert 8 <= row["tokens"] <= 4 * (8 + 16)
    assert row["agrees"] is True
    assert row["to_st_cached"] is row["to_plain"] is None
    assert {answer["kept"] for answer in report["answers"]} == {"not measured"}
    assert str(ROOT) not in json.dumps(report)

    again = _run(tmp_path, "--arms", arm, "--batch-sizes", "4")
    assert again.returncode == 0, again.stdout + again.stderr
    assert "batch 4 ..." not in again.stderr
    assert json.loads((tmp_path / "large_batch.json").read_text())["rows"] == [row]

    other = _run(tmp_path, "--arms", arm, "--micro-batch-size", "3")
    assert other.returncode == 1
    assert "other settings (setup.micro_batch_size). Use --fresh" in other.stderr

    hard = _run(tmp_path, "--arms", arm, "--batch-sizes", "4", "--negatives", "2")
    assert hard.returncode == 0, hard.stdout + hard.stderr
    (found,) = json.loads((tmp_path / "large_batch_negatives.json").read_text())["rows"]
    assert found["tokens"] > row["tokens"]
    assert found["loss"] > row["loss"]  # of 12 documents a query rather than 4
    assert "each with 2 hard negatives" in (tmp_path / "large_batch_negatives.md").read_text()
    assert json.loads((tmp_path / "large_batch.json").read_text())["rows"] == [row]


@pytest.mark.full
@pytest.mark.slow
@pytest.mark.parametrize("negatives", [0, 2])
def test_all_arms_compute_the_same_loss_of_the_same_tokens(tmp_path, negatives):
    pytest.importorskip("sentence_transformers", reason="pip install sentence-transformers")
    pytest.importorskip("jax", reason="jax is not installed")
    run = _run(tmp_path, "--batch-sizes", "8", "--negatives", str(negatives))
    assert run.returncode == 0, run.stdout + run.stderr
    name = "large_batch_negatives.json" if negatives else "large_batch.json"
    rows = json.loads((tmp_path / name).read_text())["rows"]
    assert [row["status"] for row in rows] == ["measured"] * 7
    assert len({row["tokens"] for row in rows}) == 1
    losses = {row["arm"]: row["loss"] for row in rows}
    low = losses.pop("cptk-tensorflow-bfloat16")
    assert max(losses.values()) - min(losses.values()) < 1e-4
    assert low == pytest.approx(losses["cptk-tensorflow"], abs=0.1)
    assert low != losses["cptk-tensorflow"]
    assert next(r for r in rows if r["arm"] == "st-cached")["to_st_cached"] == 1
    assert all(row["to_plain_batch"] == 8 for row in rows)


def _inside(folder, *arguments):
    return ["--tiny", *arguments, "--output", str(folder), "--work", str(folder / "work")]


def _row(arm, size, speed, **more):
    row = {"model": "gpt2", "arm": arm, "batch_size": size, "status": "measured"}
    row |= {"pairs_per_second": speed, "loss": 5.0, "tokens": 9, "peak_gib": 1.0}
    return row | more


def test_ratios_and_answers(benchmark):
    rows = benchmark.results.with_ratios(
        [
            _row("cptk-tensorflow-plain", 256, 50.0),
            _row("cptk-tensorflow", 256, 60.0),
            _row("cptk-tensorflow", 1024, 60.0),
            _row("cptk-tensorflow", 2048, 45.0, loss=5.2),
            _row("cptk-tensorflow", 12288, 54.0, peak_gib=4.5),
            _row("st-cached", 2048, 20.0),
            {"model": "gpt2", "arm": "st-plain", "batch_size": 256, "status": "failed"},
        ]
    )
    at = {(row["arm"], row["batch_size"]): row for row in rows}
    assert at["cptk-tensorflow", 256]["to_plain"] == 1.2
    assert at["cptk-tensorflow", 256]["to_st_cached"] is None
    # Of the largest plain batch that was measured: 50 pairs/s at 256.
    large = at["cptk-tensorflow", 2048]
    assert (large["to_plain"], large["to_plain_batch"], large["to_st_cached"]) == (0.9, 256, 2.25)
    assert large["agrees"] is at["st-cached", 2048]["agrees"] is False
    assert at["cptk-tensorflow", 1024]["agrees"] is True
    rows = [_row("cptk-jax", 64, 50.0), _row("st-cached", 64, 50.0, tokens=8)]
    assert [row["agrees"] for row in benchmark.results.with_ratios(rows)] == [False, False]
    rows = list(at.values())
    found = [(row["value"], row["kept"]) for row in benchmark.results.answers(rows)]
    assert found == [
        ("2.25", "yes"),  # 45 / 20, of 2 or more
        ("0.90 (batch 2,048)", "no"),
        ("4.50 GiB", "no"),
        ("0.90", "yes"),  # 54 / 60, of 0.85 or more
    ]


def test_memory_with_negatives_is_answered_at_the_size_that_is_asked_for(benchmark):
    rows = [_row("cptk-tensorflow", n, 9.0, peak_gib=5.0) for n in (64, 4096)]
    rows += [_row("cptk-jax", 4096, 9.0, peak_gib=6.5), _row("st-cached", 4096, 9.0)]
    found = benchmark.results.answers_with_negatives(rows, 4)
    assert [(row["arm"], row["value"], row["kept"]) for row in found] == [
        ("cptk-tensorflow", "5.00 GiB", "yes"),
        ("cptk-jax", "6.50 GiB", "no"),
    ]
    assert benchmark.results.answers_with_negatives(rows, 2) == []


def test_each_backend_is_held_to_its_own_plain_step(benchmark):
    arms = ("cptk-tensorflow-plain", "cptk-jax", "st-cached", "st-plain", "cptk-jax-plain")
    rows = [_row(arm, 64, speed) for arm, speed in zip(arms, (50, 60, 30, 40, 80), strict=True)]
    ratios = {row["arm"]: row["to_plain"] for row in benchmark.results.with_ratios(rows)}
    assert (ratios["cptk-jax"], ratios["st-cached"]) == (60 / 80, 30 / 40)


def test_a_row_that_fails_is_listed_and_the_next_is_measured(benchmark, monkeypatch, tmp_path):
    broken = tmp_path / "broken.py"
    broken.write_text("import os, sys\nif 'cptk-jax' in sys.argv[2]: os.kill(os.getpid(), 9)\n1/0")
    monkeypatch.setattr(benchmark, "__file__", str(broken))
    monkeypatch.setattr(benchmark, "missing_modules", lambda arm, model: [])
    benchmark.main(_inside(tmp_path, "--arms", "cptk-jax", "cptk-tensorflow", "--batch-sizes", "4"))
    rows = json.loads((tmp_path / "large_batch.json").read_text())["rows"]
    assert [(row["arm"], row["status"], row["reason"]) for row in rows] == [
        ("cptk-tensorflow", "failed", "ZeroDivisionError: division by zero"),
        ("cptk-jax", "failed", "killed by signal 9"),
    ]
    assert "| 4 | cptk, JAX | failed |" in (tmp_path / "large_batch.md").read_text()


@pytest.mark.slow
def test_an_arm_that_is_not_installed_is_listed(benchmark, monkeypatch, tmp_path):
    monkeypatch.setattr(benchmark, "missing_modules", lambda arm, model: ["no_such_module"])
    benchmark.main(_inside(tmp_path, "--arms", "st-cached", "--batch-sizes", "4"))
    (row,) = json.loads((tmp_path / "large_batch.json").read_text())["rows"]
    assert (row["status"], row["missing"]) == ("not installed", ["no_such_module"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--batch-sizes", "1"], "--batch-sizes should be 2 or more. Received: [1]"),
        (["--lengths", "64", "200"], "--lengths should be from 3 to 128. Received: [64, 200]"),
        (["--micro-batch-size", "0"], "--micro-batch-size should be 1 or more. Received: 0"),
        (["--steps", "0"], "--steps should be 1 or more. Received: 0"),
        (["--negatives", "-1"], "--negatives should be 0 or more. Received: -1"),
        (["--tiny", "--models", "smollm2"], "--tiny has no smollm2"),
    ],
)
def test_bad_flags(benchmark, arguments, message, capsys):
    with pytest.raises(SystemExit):
        benchmark.parse(arguments)
    assert message in capsys.readouterr().err


def test_plain_steps_end_where_memory_does(benchmark, monkeypatch, tmp_path):
    sizes = []
    monkeypatch.setattr(
        benchmark, "run_fresh", lambda task, missing: sizes.append(task["batch_size"]) or
        {"status": "failed", "reason": ""},
    )  # fmt: skip
    benchmark.main(
        _inside(
            tmp_path,
            "--arms",
            "cptk-tensorflow-plain",
            "--batch-sizes",
            "8",
            "4",
            "6",
            "--plain-limit",
            "6",
        )
    )
    assert sizes == [4, 6]
