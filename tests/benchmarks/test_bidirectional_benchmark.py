import importlib
import json
import sys
from pathlib import Path

import pytest

from tests.children import run_child

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "benchmarks"
MODULES = "bidirectional fine_tuning fine_tuning_arms fine_tuning_report sts by_the_clock reporting"


@pytest.fixture
def benchmark(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    yield importlib.import_module("bidirectional")
    for name in MODULES.split():
        sys.modules.pop(name, None)


@pytest.mark.slow
def test_tiny_run_measures_before_and_after_on_both(tmp_path):
    command = [sys.executable, str(FOLDER / "bidirectional.py"), "--tiny", "--output", tmp_path]
    command += ["--work", tmp_path / "work", "--arms", "bidirectional-mean"]
    run = run_child(command, 420)
    assert run.returncode == 0, run.stdout + run.stderr
    rows = json.loads((tmp_path / "bidirectional.json").read_text())["rows"]
    assert [row["status"] for row in rows] == ["measured"] * 4, rows
    for before, after in zip(rows[::2], rows[1::2], strict=True):
        assert (before["arm"], before["trained"], after["trained"]) == (after["arm"], False, True)
        assert -1 <= before["score"] <= 1
        assert -1 <= after["score"] <= 1
        assert after["pairs"] == 8 * after["steps"] > 0


def test_arms_in_order_and_the_table(benchmark, tmp_path):
    asked = benchmark.parse(["--data", "sts", "--seeds", "1", "2", "--output", str(tmp_path)])
    places = list(benchmark.places(asked))
    assert [(place["trained"], place["seed"]) for place in places[::4]] == [
        (False, 0), (True, 1), (True, 2),
    ]  # fmt: skip
    trained = {"training_seconds": 299.6, "pairs": 1280, "epochs": 0.22}
    rows = [
        {**place, "status": "measured", "score": 0.5 + 0.1 * place["seed"], "load_average": 0.1}
        | (trained if place["trained"] else {})
        for place in places[::-1]
    ]
    rows[-1] |= {"status": "failed"}  # the prompt, as it is
    report = {"rows": rows, "setup": {"seconds": 300.0}, "versions": {}}
    benchmark.write({**report, "machine": benchmark.reporting.machine()}, tmp_path)
    text = (tmp_path / "bidirectional.md").read_text("utf-8")
    assert "| causal | eos | prompt | failed | 0.0003 | 1 | 300 | 1,280 | 0.2 | 60.0 |" in text
    line = "| bidirectional | mean | nothing | 50.0 | 0.0003 | 2 | 300 | 1,280 | 0.2 | 70.0 |"
    assert line in text
    assert "code search" not in text


def test_flags_out_of_range(benchmark, capsys):
    with pytest.raises(SystemExit):
        benchmark.parse(["--learning-rate", "0"])
    assert "--learning-rate should be above 0. Received: 0." in capsys.readouterr().err
