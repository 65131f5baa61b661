import json
import sys
from pathlib import Path

import pytest

from tests.children import run_child

ROOT = Path(__file__).parents[2]


def _run(*arguments):
    return run_child([sys.executable, ROOT / "benchmarks" / "mining.py", *arguments], 600)


@pytest.mark.slow
def test_a_tiny_run_mines_writes_and_reads(tmp_path):
    pytest.importorskip("tree_sitter_python")
    run = _run("--tiny", "--workers", "1", "--output", str(tmp_path))
    assert run.returncode == 0, run.stdout + run.stderr
    report = json.loads((tmp_path / "mining.json").read_text())
    mining, store, rate = report["rows"]
    assert [row["what"] for row in report["rows"]] == ["mining", "store", "tokenising"]
    assert mining["pairs"] > 5
    assert mining["files"] == len(list(Path(json.__file__).parent.glob("*.py")))
    assert store["pairs"] == rate["pairs"] == 400
    assert store["over_base_gib"] < 1
    assert 0 < store["milliseconds"] <= store["milliseconds_95"]
    assert rate["rate"]["low"] <= rate["rate"]["ratio"] <= rate["rate"]["high"]
    assert "into a store" in (tmp_path / "mining.md").read_text()
    assert str(ROOT) not in json.dumps(report)


def test_sizes_are_checked():
    run = _run("--tiny", "--pairs", "0")
    assert run.returncode == 2
    assert "--pairs should be above 0. Received: 0." in run.stderr
