import json
import sys
from pathlib import Path

import pytest

from tests.children import run_child

ROOT = Path(__file__).parents[2]


def _run(*arguments):
    return run_child([sys.executable, ROOT / "benchmarks" / "tiled_loss.py", *arguments], 240)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="memory as Linux counts it")
def test_tiny_run_reports_times_and_memory(tmp_path):
    backend = "tensorflow"
    command = ("--tiny", "--sizes", "70", "--backends", backend, "--output", str(tmp_path))
    run = _run(*command, "--contenders", "tiled", "plain")
    assert run.returncode == 0, run.stdout + run.stderr
    report = json.loads((tmp_path / "tiled_loss.json").read_text())
    tiled, plain = report["contenders"]
    assert [(r["contender"], r["backend"], r["size"]) for r in (tiled, plain)] == [
        ("tiled", backend, 70),
        ("plain", backend, 70),
    ]
    assert abs(tiled["loss"] - plain["loss"]) < 1e-2
    for row in (tiled, plain):
        assert row["seconds"] > 0
        assert 0 <= row["extra_gib"] < 1
    assert tiled["ratio"] == tiled["seconds"] / tiled["product_seconds"]
    assert "in tiles" in (tmp_path / "tiled_loss.md").read_text()
    assert str(ROOT) not in json.dumps(report)


def test_sizes_are_checked():
    run = _run("--tiny", "--tile", "0")
    assert run.returncode == 2
    assert "--tile should be 1 or more. Received: 0." in run.stderr
