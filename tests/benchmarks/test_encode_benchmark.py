import json
import sys
from pathlib import Path

import pytest

from tests.children import run_child

ROOT = Path(__file__).parents[2]


def _run(output, *arguments):
    command = [sys.executable, ROOT / "benchmarks" / "encode.py", "--tiny", *arguments]
    command += ["--work", output / "work", "--output", output]
    return run_child(command, 420)


@pytest.mark.slow
def test_tiny_run_reports_rates_memory_and_cosines_and_goes_on(tmp_path):
    arms = ["--arms", "tensorflow", "tensorflow-bfloat16", "--texts", "sst2"]
    run = _run(tmp_path, *arms, "--models", "smollm2")
    assert run.returncode == 0, run.stdout + run.stderr
    report = json.loads((tmp_path / "encode.json").read_text())
    assert [row["arm"] for row in report["rows"]] == ["peak", "tensorflow", "tensorflow-bfloat16"]
    for row in report["rows"][1:]:
        assert row["status"] == "measured"
        assert row["texts_per_second"] > 0
    assert report["rows"][1]["cosine"] is None
    assert 0.99 < report["rows"][2]["cosine"] < 1.0001
    assert {each["kept"] for each in report["answers"]} == {"not measured"}
    again = _run(tmp_path, *arms, "--models", "smollm2", "minilm")
    assert again.returncode == 0, again.stdout + again.stderr
    assert "SmolLM2" not in again.stderr
    report = json.loads((tmp_path / "encode.json").read_text())
    assert len(report["rows"]) == 5
    assert "all-MiniLM-L6-v2, SST-2 sentences" in (tmp_path / "encode.md").read_text()
    assert str(ROOT) not in json.dumps(report)


def test_unknown_arms_are_refused(tmp_path):
    run = _run(tmp_path, "--arms", "faster")
    assert run.returncode == 2
    assert "invalid choice: 'faster'" in run.stderr


@pytest.mark.slow
def test_a_small_million_has_the_bytes_of_one_run_after_kills(tmp_path):
    command = [sys.executable, ROOT / "benchmarks" / "encode_million.py", "--tiny"]
    run = run_child([*command, "--kills", "2", "--output", tmp_path], 420)
    assert run.returncode == 0, run.stdout + run.stderr
    report = json.loads((tmp_path / "encode_million.json").read_text())
    assert [row["status"] for row in report["rows"]] == ["measured", "measured"]
    assert [row["killed"] for row in report["rows"]] == [0, 2]
    assert report["rows"][0]["sha256"] == report["rows"][1]["sha256"]
    assert [kept for *_, kept in report["answers"]] == ["yes", "yes"]
