"""The benchmark of searches: a tiny run, what it says, and its flags."""

import importlib
import json
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.children import run_child

ROOT = Path(__file__).parents[2]


@pytest.fixture
def module(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    yield importlib.import_module("search")
    sys.modules.pop("search", None)
    sys.modules.pop("reporting", None)


def _run(*arguments):
    return run_child([sys.executable, ROOT / "benchmarks" / "search.py", *arguments], 420)


@pytest.mark.slow
def test_a_tiny_run_reports_recall_and_time_and_goes_on(tmp_path):
    kinds = ["cptk", "cptk-int8", "cptk-binary", "sklearn"]
    run = _run("--tiny", "--output", str(tmp_path), "--contenders", *kinds)
    assert run.returncode == 0, run.stdout + run.stderr
    report = json.loads((tmp_path / "search.json").read_text())
    rows = {row["contender"]: row for row in report["rows"]}
    assert [rows[name]["status"] for name in kinds] == ["measured"] * 4, rows
    for name in ("cptk", "sklearn"):
        assert rows[name]["points"][0]["recall"] == 1
    recalls = [point["recall"] for point in rows["cptk-binary"]["points"]]
    assert recalls == sorted(recalls)
    assert recalls[0] < recalls[-1] == 1  # of 600 documents the last looks at 640
    assert rows["cptk-int8"]["points"][1]["recall"] == 1
    assert rows["cptk"]["load_seconds"] > 0
    assert "| cptk `Index()`, exact |  | 100.0 |" in (tmp_path / "search.md").read_text()
    assert str(ROOT) not in json.dumps(report)
    again = _run("--tiny", "--output", str(tmp_path), "--contenders", *kinds)
    assert again.returncode == 0
    assert "..." not in again.stderr
    assert json.loads((tmp_path / "search.json").read_text())["rows"] == report["rows"]


@pytest.mark.slow
def test_faiss_beside_cptk(tmp_path):
    pytest.importorskip("faiss", reason="pip install cptk[faiss]")
    kinds = ["cptk-ivf", "faiss-ivf", "cptk-hnsw", "faiss"]
    run = _run("--tiny", "--output", str(tmp_path), "--contenders", *kinds)
    assert run.returncode == 0, run.stdout + run.stderr
    rows = {r["contender"]: r for r in json.loads((tmp_path / "search.json").read_text())["rows"]}
    assert rows["faiss"]["points"][0]["recall"] == 1
    for name in kinds[:3]:
        assert rows[name]["points"][-1]["recall"] > 0.95


def test_the_least_scores_are_those_of_sorting(module):
    rng = np.random.default_rng(0)
    documents, queries = rng.normal(size=(70_000, 4)), rng.normal(size=(3, 4))
    expected = np.sort(queries @ documents.T, axis=1)[:, -5]
    least = module.least_scores(documents.astype(np.float32), queries.astype(np.float32), 5)
    np.testing.assert_allclose(least, expected, rtol=1e-5)


def test_vectors_of_a_file_and_bad_flags(module, tmp_path):
    np.save(tmp_path / "v.npy", np.eye(30, 5) + 1)
    parsed = module.parse(["--vectors", str(tmp_path / "v.npy"), "--queries", "4"])
    assert (parsed.documents, parsed.size) == (26, 5)
    task = {"vectors": str(parsed.vectors), "documents": 26, "queries": 4, "size": 5}
    documents, queries = module.make_vectors(task)
    assert (documents.shape, queries.shape) == ((26, 5), (4, 5))
    np.testing.assert_allclose(np.linalg.norm(documents, axis=1), 1, rtol=1e-6)
    for bad in (
        ["--k", "0"], ["--tiny", "--k", "601"], ["--vectors", str(tmp_path / "none.npy")],
        ["--contenders", "other"], ["--documents", "0"],
    ):  # fmt: skip
        with pytest.raises(SystemExit):
            module.parse(bad)
