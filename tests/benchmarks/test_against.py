import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.children import run_child

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "benchmarks" / "against.py"


@pytest.mark.full
@pytest.mark.slow
def test_a_checkout_against_itself(tmp_path):
    sizes = ("--tiny", "--rounds", "2", "--backends", "tensorflow", "--output", str(tmp_path))
    run = run_child([sys.executable, str(SCRIPT), str(ROOT), *sizes], 240)
    assert run.returncode == 0, run.stdout + run.stderr
    report = json.loads((tmp_path / "against.json").read_text())
    assert [row["work"] for row in report["rows"]] == ["train step", "cached step", "encode"]
    for row in report["rows"]:
        assert row["difference_of_results"] < 1e-5  # threads add in any order
        for kind in ("wall", "cpu"):
            assert 0 < row[kind]["low"] <= row[kind]["ratio"] <= row[kind]["high"]
    assert "| tensorflow | encode |" in (tmp_path / "against.md").read_text()
    assert str(ROOT) not in json.dumps(report)


def test_another_checkout_is_needed(tmp_path):
    command = [sys.executable, str(SCRIPT), str(tmp_path)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert run.returncode == 2
    assert "expected the folder of another checkout" in run.stderr
