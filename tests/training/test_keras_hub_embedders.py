"""KerasHub's own embedders are trained as they are, and go back to KerasHub as they came."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import toys
import training_toys as tt
from gradients import to_numpy
from keras import ops

import cptk
from cptk.evaluation import EvaluationCallback
from cptk.fingerprint import fingerprint
from cptk.models.encode import encode
from cptk.models.keras_hub_embedders import KerasHubReader, embed, text_reader

BACKEND = keras.backend.backend()
NAMES = ["Bert", "XLMRoberta", "Qwen3", "Gemma3"]
SELDOM = [pytest.mark.slow, pytest.mark.once]
each_of_theirs = pytest.mark.parametrize(
    "name", [NAMES[0], *(pytest.param(name, marks=SELDOM) for name in NAMES[1:])]
)
#: Of all lengths, some longer than `toys.LONGEST`.
TEXTS = ["a", "how is it spelt?", "a is spelt just like it " * 9, "b: c d e", "it is just: a?"]
PAIRS = {"query": tt.PAIRS["query"][:6], "document": [*TEXTS, "e d c"]}


@pytest.fixture(autouse=True)
def needs_sentencepiece(request: pytest.FixtureRequest) -> None:
    names = getattr(getattr(request.node, "callspec", None), "params", {})
    if names.get("name") in ("XLMRoberta", "Gemma3"):
        pytest.importorskip("sentencepiece")


def trainer(embedder: Any, optimizer: Any = None, loss: Any = None, **kwargs: Any) -> Any:
    return tt.compiled(cptk.ContrastiveTrainer(embedder, seed=3, **kwargs), optimizer, loss=loss)


def weights(model: Any) -> list[Any]:
    return [to_numpy(weight) for weight in model.weights if "seed" not in weight.path]


# === Texts in, vectors out ===


@each_of_theirs
def test_vectors_are_those_of_keras_hub(name: str) -> None:
    """Its own `encode_text` pads each text to `sequence_length`; ours only to the batch's need."""
    embedder = toys.keras_hub_embedder(name)
    theirs = embedder.encode_text(TEXTS, verbose=0)
    for batch_size in (1, 2, 32):
        ours = encode(embedder, TEXTS, None, batch_size, 0)
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=3e-6)


@each_of_theirs
def test_ids_are_those_of_its_preprocessor(name: str) -> None:
    preprocessor = toys.keras_hub_embedder(name).preprocessor
    reader = KerasHubReader(preprocessor)
    features = {key: to_numpy(value) for key, value in preprocessor(TEXTS).items()}
    for row, ids, mask in zip(
        reader.tokenize(TEXTS), features["token_ids"], features["padding_mask"], strict=True
    ):
        assert row == ids[mask.astype(bool)].tolist()
    assert max(map(len, reader.tokenize(TEXTS))) == reader.sequence_length == toys.LONGEST


@pytest.mark.parametrize("options", [{}, {"pooling_mode": "max"}, {"pooling_mode": "cls"}])
def test_a_row_without_a_token_spoils_no_gradient(options: dict[str, str]) -> None:
    """Such rows fill a batch up on several devices; their loss has weight 0, and 0 * NaN is NaN."""
    embedder = toys.keras_hub_embedder("Bert", **options)
    tokens = {
        "token_ids": ops.convert_to_tensor([[2, 5, 3], [0, 0, 0]], "int32"),
        "padding_mask": ops.convert_to_tensor([[True, True, True], [False, False, False]]),
    }
    assert np.isfinite(to_numpy(embed(embedder, tokens))).all()

    def loss() -> Any:
        return ops.sum(embed(embedder, tokens) * ops.convert_to_tensor([[1.0], [0.0]]))

    if BACKEND == "tensorflow":
        import tensorflow as tf

        with tf.GradientTape() as tape:
            value = loss()
        gradients = tape.gradient(value, [w.value for w in embedder.trainable_weights])
        found = [tf.convert_to_tensor(g) for g in gradients if g is not None]
    elif BACKEND == "jax":
        import jax

        trained = embedder.trainable_variables

        def of_values(values: list[Any]) -> Any:
            with keras.StatelessScope(list(zip(trained, values, strict=True))):
                return loss()

        found = jax.grad(of_values)([w.value for w in trained])
    else:
        pytest.skip("of TensorFlow and JAX")
    assert all(np.isfinite(np.asarray(gradient)).all() for gradient in found)


# === Training ===


def trained_by_hand(embedder: Any, pairs: dict[str, list[str]]) -> list[Any]:
    """One step of SGD by plain Keras: its own preprocessor, its full length, a loss as written."""
    head = cptk.layers.ContrastiveHead()
    head(np.ones((1, toys.HIDDEN_DIM)), np.ones((1, toys.HIDDEN_DIM)))

    class Plain(keras.Model):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.embedder, self.tau = embedder, head

        def call(self, x: Any) -> Any:
            q, d = self.embedder(x["query"]), self.embedder(x["document"])
            return ops.matmul(q, ops.transpose(d)) * ops.exp(self.tau.tau)

    def loss(_: Any, logits: Any) -> Any:
        rows = ops.logsumexp(logits, axis=1) - ops.diagonal(logits)
        columns = ops.logsumexp(logits, axis=0) - ops.diagonal(logits)
        return (rows + columns) / 2

    model = Plain()
    model.compile(keras.optimizers.SGD(0.5), loss, run_eagerly=BACKEND == "tensorflow")
    x = {side: dict(embedder.preprocessor(texts)) for side, texts in pairs.items()}
    model.train_on_batch(x, np.zeros(len(pairs["query"]), "float32"))
    return weights(embedder)


@pytest.mark.filterwarnings("ignore:Gradients do not exist:UserWarning")  # BERT's pooler
@each_of_theirs
@pytest.mark.parametrize("micro", [None, pytest.param(2, marks=pytest.mark.slow_on_jax)])
def test_a_step_is_that_of_plain_keras(name: str, micro: int | None) -> None:
    expected = trained_by_hand(toys.keras_hub_embedder(name), PAIRS)
    model = trainer(
        toys.keras_hub_embedder(name), keras.optimizers.SGD(0.5), micro_batch_size=micro
    )
    before = weights(model.embedder)
    model.train_on_batch(PAIRS)
    moved = 0.0
    for new, old, right in zip(weights(model.embedder), before, expected, strict=True):
        np.testing.assert_allclose(new, right, rtol=0, atol=2e-5)
        moved = max(moved, np.abs(new - old).max())
    assert moved > 1e-2


@pytest.mark.slow_on_jax
def test_dropout_is_drawn_again_in_the_second_pass() -> None:
    """One micro-batch for a side leaves the order alone: the same step as all at once."""
    found = []
    for micro in (None, 6):
        keras.utils.set_random_seed(1)
        model = trainer(toys.keras_hub_embedder(dropout=0.3), micro_batch_size=micro)
        model.train_on_batch(PAIRS)
        found.append(weights(model.embedder))
    for plain, cached in zip(*found, strict=True):
        np.testing.assert_allclose(cached, plain, rtol=0, atol=1e-5)


@pytest.mark.filterwarnings("ignore:Gradients do not exist:UserWarning")  # BERT's pooler
@pytest.mark.slow_on_jax
def test_a_cached_step_takes_vectors_in_16_bits() -> None:
    """KerasHub's own embedders give them where they compute in bfloat16."""
    moves = []
    for micro in (None, 2):
        keras.config.set_dtype_policy("mixed_bfloat16")
        try:
            embedder = toys.keras_hub_embedder()
        finally:
            keras.config.set_dtype_policy("float32")
        model = trainer(embedder, keras.optimizers.SGD(0.5), micro_batch_size=micro)
        before = weights(embedder)
        model.train_on_batch(PAIRS)
        changes = [new - old for new, old in zip(weights(embedder), before, strict=True)]
        moves.append(np.concatenate([change.ravel() for change in changes]))
    plain, cached = moves
    assert np.linalg.norm(plain) > 0
    np.testing.assert_allclose(np.linalg.norm(cached - plain) / np.linalg.norm(plain), 0, atol=0.05)


@pytest.mark.slow
def test_everything_at_once(tmp_path: Path) -> None:
    """LoRA, "auto", tiles, evaluation and a backup in `fit`; saved, loaded, and trained further."""
    embedder = toys.keras_hub_embedder()
    cptk.training.enable_lora(embedder, rank=2)
    frozen = to_numpy(embedder.backbone.token_embedding.embeddings)
    model = cptk.ContrastiveTrainer(embedder, seed=1, micro_batch_size="auto")
    model.compile("adamw", loss=cptk.losses.InfoNCE(tile_size=4), **tt.EAGER)
    assert model.embedder is embedder
    history = model.fit(
        PAIRS,
        batch_size=3,
        epochs=2,
        verbose=0,
        validation_data=PAIRS,
        callbacks=[cptk.training.ExactBackupAndRestore(tmp_path / "backup")],
    ).history
    assert np.isfinite(history["loss"]).all()
    assert "val_mrr" in history
    np.testing.assert_array_equal(to_numpy(embedder.backbone.token_embedding.embeddings), frozen)
    model.save(tmp_path / "trainer.keras")
    loaded = keras.saving.load_model(tmp_path / "trainer.keras")
    assert type(loaded.embedder) is type(embedder)
    np.testing.assert_allclose(
        loaded.encode_text(TEXTS), model.encode_text(TEXTS), rtol=0, atol=1e-6
    )
    for one in (model, loaded):
        one.train_on_batch(PAIRS)
    for mine, theirs in zip(weights(model.embedder), weights(loaded.embedder), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=0, atol=1e-5)


def first_number(embed_texts: Any, split: str | None) -> Any:
    return cptk.evaluation.TaskResult(
        "first", float(embed_texts(TEXTS, role="query")[:, 0].mean()), size=5
    )


def test_evaluation_within_fit_sees_the_weights_of_the_moment() -> None:
    model = trainer(toys.keras_hub_embedder())
    callback = EvaluationCallback([cptk.evaluation.Task("first_number", first_number)])
    model.fit(PAIRS, batch_size=3, epochs=2, verbose=0, callbacks=[callback])
    scores = [row["score"] for row in callback.history]
    assert len(set(scores)) == 2
    assert scores[-1] == pytest.approx(float(model.encode_text(TEXTS)[:, 0].mean()), abs=1e-6)


def by_role(embed: Any, split: str | None) -> cptk.evaluation.TaskResult:
    """What a task does that asks for both roles."""
    query, document = (embed(TEXTS, role=role) for role in ("query", "document"))
    return cptk.evaluation.TaskResult("same", float((query == document).mean()))


def test_tasks_may_ask_for_roles_that_it_has_not() -> None:
    model, task = trainer(toys.keras_hub_embedder()), cptk.evaluation.Task("by_role", by_role)
    assert cptk.evaluation.evaluate(model, [task], n_bootstrap=0)["by_role"].score == 1.0
    callback = EvaluationCallback([task])
    model.fit(PAIRS, batch_size=6, verbose=0, callbacks=[callback])
    assert callback.history[-1]["score"] == 1.0


def test_it_remembers_no_trained_dims() -> None:
    """Its preset is to load where cptk is not installed."""
    model = trainer(toys.keras_hub_embedder(), loss=cptk.losses.Matryoshka("info_nce", [8, 4]))
    model.train_on_batch(PAIRS)
    assert not hasattr(model.embedder, "trained_dims")
    whole = model.encode_text(TEXTS, verbose=0)
    cut = model.encode_text(TEXTS, verbose=0, truncate_dim=2)
    expected = whole[:, :2] / np.linalg.norm(whole[:, :2], axis=1, keepdims=True)
    np.testing.assert_allclose(cut, expected, rtol=0, atol=1e-6)


WITHOUT_CPTK = """
import sys
sys.modules["cptk"] = None
import keras_hub, numpy as np
embedder = keras_hub.models.TextEmbedder.from_preset(sys.argv[1])
np.save(sys.argv[2], embedder.encode_text(sys.argv[3:], verbose=0))
"""


@pytest.mark.slow
def test_its_preset_is_keras_hubs_own(tmp_path: Path) -> None:
    model = trainer(toys.keras_hub_embedder())
    model.fit(PAIRS, batch_size=3, verbose=0)
    model.embedder.save_to_preset(str(tmp_path / "preset"))
    command = [sys.executable, "-c", WITHOUT_CPTK, str(tmp_path / "preset")]
    subprocess.run(
        [*command, str(tmp_path / "found.npy"), *TEXTS], check=True, env=dict(os.environ)
    )
    np.testing.assert_allclose(
        np.load(tmp_path / "found.npy"), model.encode_text(TEXTS), rtol=0, atol=1e-5
    )


# === Bad input ===


def test_roles_are_refused() -> None:
    model = cptk.ContrastiveTrainer(toys.keras_hub_embedder())
    with pytest.raises(ValueError, match=r"no role 'query'.*BertTextEmbedderPreprocessor.*Leave"):
        model.encode_text(TEXTS, role="query")


@pytest.mark.slow_on_jax
@pytest.mark.parametrize("in_a_trainer", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_it_mines_and_is_cached_without_roles_or_a_bar_of_its_own(
    in_a_trainer: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    embedder = toys.keras_hub_embedder("Bert")
    model = trainer(embedder) if in_a_trainer else embedder
    capsys.readouterr()
    found = cptk.mining.hard_negatives(model, PAIRS, k=1, near_copies=None, verbose=0)
    assert [len(texts) for texts in found["negatives"]] == [1] * 6
    assert fingerprint(model) == fingerprint(embedder)
    cached = cptk.evaluation.CachedEncoder(model, on_progress=lambda *_: None)
    vectors = cached(TEXTS, role="query")
    assert not capsys.readouterr().out
    np.testing.assert_allclose(vectors, encode(embedder, TEXTS, None, 32, 0), atol=3e-6)


def test_without_a_preprocessor_tokens_are_taken() -> None:
    theirs = toys.keras_hub_embedder()
    reader = text_reader(theirs)
    assert reader is not None
    bare = type(theirs)(theirs.backbone)
    model = trainer(bare)
    with pytest.raises(ValueError, match="no preprocessor"):
        model.train_on_batch(PAIRS)
    tokens = {side: theirs.preprocessor(texts) for side, texts in PAIRS.items()}
    x = {
        side: {key: to_numpy(value) for key, value in features.items() if key != "segment_ids"}
        for side, features in tokens.items()
    }
    assert np.isfinite(model.train_on_batch(x)).all()


def test_something_else_is_refused() -> None:
    with pytest.raises(TypeError, match=r"TextEmbedder or a keras_hub\.models\.TextEmb"):
        cptk.ContrastiveTrainer(keras.layers.Dense(3))
