import importlib
import json
import sys
from pathlib import Path

import pytest

from tests.children import run_child

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "benchmarks"
MODULES = "fine_tuning fine_tuning_arms fine_tuning_report sts by_the_clock reporting".split()


@pytest.fixture
def module(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    yield importlib.import_module
    for name in (*MODULES, "quickstart", "quickstart_models", "quickstart_parts"):
        sys.modules.pop(name, None)


def _run(script, output, *arguments):
    command = [sys.executable, FOLDER / script, "--tiny", "--output", output, *arguments]
    return run_child(command, 570)


@pytest.mark.slow
def test_tiny_run_trains_by_the_clock_and_goes_on_where_it_was(tmp_path):
    common = ("--seeds", "0", "--work", str(tmp_path / "work"))
    run = _run("fine_tuning.py", tmp_path, *common, "--arms", "hard")
    assert run.returncode == 0, run.stdout + run.stderr
    report = json.loads((tmp_path / "fine_tuning.json").read_text())
    (row,) = report["rows"]
    assert (row["arm"], row["seed"], row["status"]) == ("hard", 0, "measured"), row
    assert row["mrr"] == row["mrr@64"]
    assert 0 < row["mrr@16"] < 1
    assert 0 < row["mining_seconds"] < row["seconds"]
    assert row["pairs"] == 8 * row["steps"]
    assert report["summary"]["hard"]["mrr"] == pytest.approx(row["mrr"], abs=1e-4)
    assert {answer["kept"] for answer in report["answers"]} == {"not measured"}
    assert str(ROOT) not in json.dumps(report)

    again = _run("fine_tuning.py", tmp_path, *common, "--arms", "hard")
    assert again.returncode == 0, again.stdout + again.stderr
    assert "seed 0" not in again.stderr
    assert json.loads((tmp_path / "fine_tuning.json").read_text())["rows"] == [row]

    other = _run("fine_tuning.py", tmp_path, *common, "--seconds", "3")
    assert other.returncode == 1
    assert "other settings (setup.seconds). Use --fresh" in other.stderr


@pytest.mark.full
@pytest.mark.slow
def test_all_arms_run(tmp_path):
    pytest.importorskip("sentence_transformers", reason="pip install sentence-transformers")
    run = _run("fine_tuning.py", tmp_path, "--seeds", "0", "--work", str(tmp_path / "work"))
    assert run.returncode == 0, run.stdout + run.stderr
    report = json.loads((tmp_path / "fine_tuning.json").read_text())
    assert [row["status"] for row in report["rows"]] == ["measured"] * 25
    assert "not measured" not in {
        answer["kept"] for answer in report["answers"] if "CoSQA" not in answer["what"]
    }


@pytest.mark.slow
def test_tiny_sts_run_measures_before_and_after(tmp_path):
    run = _run("sts.py", tmp_path, "--models", "minilm")
    assert run.returncode == 0, run.stdout + run.stderr
    rows = json.loads((tmp_path / "sts.json").read_text())["rows"]
    assert [(row["trained"], row["status"]) for row in rows] == [
        (False, "measured"),
        (True, "measured"),
    ]
    assert all(-1 <= row["validation"] <= 1 for row in rows)
    assert rows[1]["validation"] != rows[0]["validation"]


def test_the_rate_rises_then_falls_to_zero(module):
    share = module("by_the_clock").share_of_rate
    assert [round(share(x), 6) for x in (0, 0.05, 0.1, 0.55, 1, 1.2)] == [0, 0.5, 1, 0.5, 0, 0]


def test_a_training_ends_before_a_step_would_pass_the_deadline(module, monkeypatch):
    clock_module = module("by_the_clock")
    now = iter([0.0, 5.0, 6.0, 7.0, 8.0, 9.0, 9.5])
    monkeypatch.setattr(clock_module.time, "perf_counter", lambda: next(now))
    clock = clock_module.Clock(10.0)
    # The first step takes 5 seconds, to compile; the others one.
    assert [clock.step_is_over() for _ in range(5)] == [False] * 4 + [False]
    assert clock.step_is_over()  # at 9.5
    figures = clock.figures(64)
    assert (figures["steps"], figures["pairs"], figures["training_seconds"]) == (6, 384, 9.5)


def test_pairs_ready(module):
    ready = module("fine_tuning_arms").ready
    assert ready(1000, 64, 10_000) == 19 * 64  # 1,200 are 18.75 batches
    assert ready(1, 64, 10_000) == 128
    assert ready(1e9, 64, 1000) == 15 * 64


def _row(arm, seed, mrr, **more):
    row = {"kind": "training", "arm": arm, "batch_size": 64, "seed": seed, "status": "measured"}
    figures = {"mrr": mrr, "recall@1": 0.5, "recall@10": 0.9, "mrr@96": 0.98 * mrr}
    return {**row, "load_average": 0.1, "seconds": 400.0, **figures, "mrr@48": 0.9 * mrr, **more}


def test_means_and_answers(module):
    results = module("fine_tuning_report")
    step = {"kind": "speed", "seed": 0, "status": "measured"}
    report = {
        "setup": {"dims": [384, 192, 96, 48]},
        "rows": [
            _row("untrained", 0, 0.58, cosqa_validation=0.54),
            _row("st", 0, 0.66), _row("st", 1, 0.68),
            *(_row("cptk", seed, 0.68 + 0.02 * seed, cosqa_validation=0.5) for seed in (0, 1)),
            _row("matryoshka", 0, 0.65),
            {**step, "arm": "cptk", "batch_size": 64, "pairs_per_second": 20.0},
            {**step, "arm": "st", "batch_size": 64, "pairs_per_second": 10.0},
            {**step, "arm": "st-cached", "batch_size": 64, "status": "failed"},
        ],
    }  # fmt: skip
    report["summary"] = results.summary(report)
    assert report["summary"]["st"]["mrr"] == 0.67
    assert report["summary"]["cptk"]["mrrs"] == pytest.approx([0.68, 0.70])
    found = [(row["value"], row["kept"]) for row in results.answers(report)]
    assert found == [
        ("0.690", "yes"),
        ("", "not measured"),  # on JAX
        ("", "not measured"),  # hard negatives
        ("98.0%", "yes"),
        ("90.0%", "no"),
        ("0.500", "no"),  # CoSQA
        ("2.00", "yes"),
        *[("", "not measured")] * 3,  # on JAX, cached, cached on JAX
    ]


def test_an_arm_that_is_not_installed_is_listed(module, monkeypatch, tmp_path):
    benchmark = module("fine_tuning")
    monkeypatch.setattr(benchmark, "prepare", lambda folder, tiny: b"pairs")
    monkeypatch.setattr(benchmark.arms, "missing_modules", lambda arm, tiny: ["no_such_module"])
    benchmark.main(["--tiny", "--arms", "st", "speed", "--seeds", "0", "--output", str(tmp_path)])
    rows = json.loads((tmp_path / "fine_tuning.json").read_text())["rows"]
    assert {row["status"] for row in rows} == {"not installed"}
    assert len(rows) == 17
    assert "| sentence-transformers | 8 | 0 | not installed |" in (
        tmp_path / "fine_tuning.md"
    ).read_text("utf-8")


def test_what_needs_no_training_runs_once(module):
    benchmark = module("fine_tuning")
    asked = benchmark.parse(["--arms", "untrained", "st", "--seeds", "1", "2"])
    places = [(place["arm"], place["seed"]) for place, _, _ in benchmark.tasks(asked)]
    assert places == [("untrained", 0), ("st", 1), ("st", 2)]


def test_answers_of_sts(module):
    sts = module("sts")
    common = {"status": "measured", "seed": 0, "epochs": 4}
    rows = [
        {**common, "model": "minilm", "trained": False, "learning_rate": 0.0, "validation": 0.82},
        {**common, "model": "minilm", "trained": True, "learning_rate": 1e-4, "validation": 0.83},
        {**common, "model": "minilm", "trained": True, "learning_rate": 5e-5, "validation": 0.84},
        {**common, "model": "smollm2", "trained": True, "learning_rate": 3e-4, "validation": 0.83},
    ]
    found = [(row["limit"], row["value"], row["kept"]) for row in sts.answers(rows)]
    assert found == [("≥ 83.5", "84.0", "yes"), ("≥ 84.0", "83.0", "no")]
    assert sts.answers([])[0]["kept"] == "not measured"


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("fine_tuning", ["--seconds", "0"], "--seconds should be above 0. Received: 0."),
        ("fine_tuning", ["--seeds", "-1"], "--seeds should be 0 or more. Received: [-1]."),
        ("fine_tuning", ["--arms", "bert"], "invalid choice: 'bert'"),
        ("sts", ["--learning-rate", "-1"], "--learning-rate should be above 0. Received: -1."),
    ],
)
def test_flags_out_of_range(module, name, arguments, message, capsys):
    with pytest.raises(SystemExit):
        module(name).parse(arguments)
    assert message in capsys.readouterr().err
