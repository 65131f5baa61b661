"""A newcomer's session with the command line alone, each command a process of its own."""

import json
import os
import subprocess
import sys

import pytest

from tests import toys

pytestmark = pytest.mark.slow


def test_from_pairs_to_an_answer_and_a_folder_for_others(tmp_path):
    toys.embedder("Llama3", pooling="mean").save_to_preset(str(tmp_path / "base"))
    words = "open sort read write close copy move count split join".split()
    rows = [f'"how do I {word} a file?",{word}(path)' for word in words]
    (tmp_path / "pairs.csv").write_text("\n".join(["query,document", *rows]) + "\n")

    def cptk(*arguments):
        environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2"}
        done = subprocess.run(
            [sys.executable, "-m", "cptk", *arguments, "--json"],
            cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-2000:]
        return json.loads(done.stdout)

    options = ["--base", "base", "--out", "mine", "--batch-size", "5", "--epochs", "30"]
    trained = cptk("train", "pairs.csv", *options, "--learning-rate", "5e-3")
    assert trained["loss"] < 1.0
    assert cptk("index", "mine", "pairs.csv", "--column", "document", "--out", "ix")["rows"] == 10
    found = cptk("search", "mine", "ix", "how do I split a file?", "-k", "1")
    assert found["results"][0]["hits"][0]["text"] == "split(path)"
    exported = cptk(
        "export", "mine", "--to", "sentence-transformers", "--out", "st", "--role", "query"
    )
    assert "modules.json" in exported["files"]
    models = pytest.importorskip("sentence_transformers")
    assert models.SentenceTransformer(str(tmp_path / "st")).encode(["x"]).shape == (1, 16)
