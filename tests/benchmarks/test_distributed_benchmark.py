import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.children import run_child

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "benchmarks" / "distributed.py"


@pytest.mark.slow
def test_tiny_run_compares_two_processes_with_one(tmp_path):
    backend = "tensorflow"
    sizes = ("--tiny", "--batch-size", "4", "--steps", "1", "--backends", backend)
    run = run_child([sys.executable, str(SCRIPT), *sizes, "--output", str(tmp_path)], 240)
    assert run.returncode == 0, run.stdout + run.stderr
    report = json.loads((tmp_path / "distributed.json").read_text())
    (row,) = report["rows"]
    assert row["backend"] == backend
    assert row["ratio"] == row["cpu_seconds_together"] / row["cpu_seconds_alone"]
    assert row["largest_difference_of_losses"] < 1e-4
    assert f"| {backend} |" in (tmp_path / "distributed.md").read_text()
    assert str(ROOT) not in json.dumps(report)


def test_one_worker_is_refused():
    command = [sys.executable, str(SCRIPT), "--workers", "1"]
    run = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert run.returncode == 2
    assert "expected 2 workers or more" in run.stderr
