"""Encoders of sentence-transformers folders, trained: by micro-batches, and with LoRA."""

import keras
import keras_hub
import numpy as np
import pytest
import st_folders
from gradients import BACKEND, to_numpy

import cptk
from cptk.models import TextEmbedder

pytestmark = pytest.mark.slow
TEXTS = ["The film.", "a", "xyz: abc film the film of the year and more of it"]
PAIRS = {
    "query": ["a", "b film the film", "c", "the d e f", "g h"],
    "document": ["a.", "film", "c d: the c d", "d", "h g f e"],
    "negatives": [["the film"], [], ["a b c", "x"], [], ["g"]],
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return st_folders.write(tmp_path_factory.mktemp("st") / "model")


def bert(folder):
    keras.utils.set_random_seed(1)  # The folder has no weights of BERT's pooler, which is not used.
    return TextEmbedder.from_preset(folder)


def xlm_roberta():
    """Without a folder: its backbone under pooling and projection as they come from one."""
    keras.utils.set_random_seed(1)
    rows = len(st_folders.WORDS)
    backbone = keras_hub.models.XLMRobertaBackbone(
        vocabulary_size=rows, num_layers=2, num_heads=2, hidden_dim=16, intermediate_dim=32,
        dropout=0.0, max_sequence_length=20,
    )  # fmt: skip
    return TextEmbedder(backbone, pooling="mean", projection=[{"units": 6, "activation": "tanh"}])


def trainer(embedder, rate=0.5, **options):
    model = cptk.ContrastiveTrainer(embedder, seed=3, **options)
    model.compile(keras.optimizers.SGD(rate), run_eagerly=BACKEND == "tensorflow")
    return model


def weights(model):
    return {w.path: to_numpy(w) for w in model.weights if "seed" not in w.path}


def tokens_of(folder):
    """`PAIRS` as token ids, for a model without a preprocessor."""
    reader = TextEmbedder.from_preset(folder, load_weights=False).preprocessor
    return {side: dict(reader(PAIRS[side], role=side)) for side in ("query", "document")}


@pytest.mark.parametrize("name", ["bert", "xlm_roberta"])
def test_micro_batches_take_the_plain_step(name, folder):
    found = []
    for size in (None, 2):
        embedder = bert(folder) if name == "bert" else xlm_roberta()
        model = trainer(embedder, micro_batch_size=size)
        before = list(weights(embedder).values())
        model.train_on_batch(PAIRS if name == "bert" else tokens_of(folder))
        found.append(list(weights(embedder).values()))
    for plain, cached in zip(*found, strict=True):
        np.testing.assert_allclose(cached, plain, rtol=0, atol=1e-5)
    moved = [np.abs(new - old).max() for new, old in zip(found[0], before, strict=True)]
    assert max(moved) > 1e-2


def test_lora_trains_its_factors_and_is_saved_with_them_or_without(folder, tmp_path):
    embedder = TextEmbedder.from_preset(folder)
    cptk.training.enable_lora(embedder, rank=2, alpha=4)
    before = weights(embedder)
    model = trainer(embedder, micro_batch_size=2)
    model.fit(PAIRS, batch_size=5, epochs=2, verbose=0)
    after = weights(embedder)
    moved = {path for path in after if np.any(after[path] != before[path])}
    assert any("lora_kernel_a" in path for path in moved)
    # The backbone's own matrices stay; the Dense module after it is trained as ever.
    assert all("lora" in p or "bias" in p or "projection" in p for p in moved), moved

    vectors = embedder.encode_text(TEXTS)
    embedder.save_to_preset(tmp_path / "merged")
    merged = TextEmbedder.from_preset(tmp_path / "merged")
    np.testing.assert_allclose(merged.encode_text(TEXTS), vectors, atol=1e-6)
    assert not any("lora" in path for path in weights(merged))

    model.save(tmp_path / "trainer.keras")
    again = keras.saving.load_model(tmp_path / "trainer.keras")
    np.testing.assert_allclose(again.encode_text(TEXTS), vectors, atol=1e-6)
    for one in (model, again):
        one.train_on_batch(PAIRS)
    assert sum("lora" in path for path in weights(again.embedder)) > 0
    mine, theirs = (list(weights(one.embedder).values()) for one in (model, again))
    for first, second in zip(mine, theirs, strict=True):
        np.testing.assert_allclose(second, first, rtol=0, atol=1e-6)
