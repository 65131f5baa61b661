import json
import sys
from pathlib import Path

import pytest

from tests.children import run_child

ROOT = Path(__file__).parents[2]


def _run(*arguments):
    return run_child([sys.executable, str(ROOT / "benchmarks" / "knn.py"), *arguments], 240)


@pytest.mark.slow
def test_tiny_run_reports_times_memory_and_ratios(tmp_path):
    run = _run("--tiny", "--contenders", "cptk", "sklearn", "--output", str(tmp_path))
    assert run.returncode == 0, run.stdout + run.stderr
    report = json.loads((tmp_path / "knn.json").read_text())
    assert [(r["contender"], r["status"]) for r in report["contenders"]] == [
        ("cptk", "measured"),
        ("sklearn", "measured"),
    ]
    for row in report["contenders"]:
        assert row["seconds"] > 0
        assert 0 < row["peak_gib"] < 2
    (comparison,) = report["comparisons"]
    assert (comparison["against"], comparison["k"]) == ("sklearn", 3)
    assert comparison["largest_difference"] < 1e-6
    assert "cptk `top_k`" in (tmp_path / "knn.md").read_text()
    assert str(ROOT) not in json.dumps(report)


def test_sizes_are_checked():
    run = _run("--tiny", "--k", "401")
    assert run.returncode == 2
    assert "--k should be from 1 to the documents. Received: [401]" in run.stderr
