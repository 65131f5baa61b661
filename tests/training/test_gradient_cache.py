"""The step in micro-batches against the plain step."""

from __future__ import annotations

import contextlib
import functools
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import training_toys as toys
from gradients import to_numpy
from tiers import FULL

import cptk
from cptk.data.batching import bucket_length
from cptk.losses import InfoNCE
from cptk.training import gradient_cache
from cptk.training.gradient_cache import automatic
from cptk.training.gradient_cache.backends import backend
from cptk.training.gradient_cache.options import STEP, lengths

SIDES = toys.SIDES
#: Texts of many lengths, one of them cut at `toys.LENGTH`.
PAIRS = {
    "query": [f"{chr(97 + i)} how is it spelt?"[: 4 + i] for i in range(10)],
    "document": [f"{chr(65 + i)} is spelt just like it is"[: 27 - 2 * i] for i in range(10)],
}
WEIGHTS = np.linspace(0.5, 2, 10)
EXACT = {"float64": 1e-9, "float32": 1e-5}
OPTIMIZERS = {
    "SGD": lambda: keras.optimizers.SGD(0.05, momentum=0.5, global_clipnorm=0.5),
    "gradients alone": lambda: keras.optimizers.SGD(1.0),
    "AdamW": lambda: keras.optimizers.AdamW(0.01, weight_decay=0.1, use_ema=True),
}


class InPieces(cptk.ContrastiveTrainer):
    """The plain step of a model that embeds the same micro-batches, one after the other.

    Dropout is drawn by micro-batch; here all of them lie in one program that is differentiated
    as a whole. The order of the texts is NumPy's, so the batch has to be `PAIRS`.
    """

    pieces = 0

    def call(self, inputs: Any, training: Any = None) -> Any:
        return {side: self._side(inputs[side], side, training) for side in SIDES}

    def _side(self, tokens: Any, side: str, training: Any) -> Any:
        own = np.array([len(row) for row in self.embedder.preprocessor.tokenize(PAIRS[side], side)])
        longest = bucket_length(int(own.max()), toys.LENGTH, toys.BACKEND == "jax")
        order, found = np.argsort(-own, kind="stable"), []
        for start in range(0, len(own), self.pieces):
            rows = order[start : start + self.pieces]
            step = STEP
            length = min(-(-int(own[rows[0]]) // step) * step, longest)
            filler = 0
            if toys.BACKEND == "jax":  # Shapes are few there.
                length = next(n for n in lengths(longest) if n >= own[rows[0]])
                filler = self.pieces - len(rows)
            piece = {
                name: keras.ops.pad(
                    keras.ops.take(value, rows.astype("int32"), axis=0)[:, :length],
                    [[0, filler], [0, 0]],
                )
                for name, value in tokens.items()
            }
            found.append(self.embedder(piece, training=training)[: len(rows)])
        back = np.argsort(order).astype("int32")
        return keras.ops.take(keras.ops.concatenate(found), back, axis=0)


@contextlib.contextmanager
def dtype(name: str) -> Any:
    """Everything in float32 or float64, which JAX does not know by default."""
    before = keras.config.floatx(), keras.config.dtype_policy()
    keras.config.set_floatx(name)
    keras.config.set_dtype_policy(name)
    wide = contextlib.nullcontext()
    if toys.BACKEND == "jax" and name == "float64":
        import jax

        wide = jax.enable_x64(True)
    try:
        with wide:
            yield
    finally:
        keras.config.set_floatx(before[0])
        keras.config.set_dtype_policy(before[1])


@functools.cache
def train_plainly(**options: Any) -> tuple[list[np.ndarray], dict[str, list[float]]]:
    """`train` without micro-batches, the same for many tests: remembered."""
    return train(**options)


def train(
    kind: type = cptk.ContrastiveTrainer,
    optimizer: str = "SGD",
    dropout: float = 0.1,
    lora: int = 0,
    epochs: int = 5,
    pieces: int = 0,
    **options: Any,
) -> tuple[list[np.ndarray], dict[str, list[float]]]:
    """Weights after `epochs` steps on all pairs, and the history."""
    keras.utils.set_random_seed(1)
    embedder = toys.embedder(dropout)
    if lora:
        cptk.training.enable_lora(embedder, lora)
    trainer = kind(embedder, seed=3, **options)
    trainer.pieces = pieces
    toys.compiled(trainer, OPTIMIZERS[optimizer](), loss=InfoNCE(mask_equal_texts=True))
    keras.utils.set_random_seed(7)  # Torch draws dropout from one generator for all.
    history = toys.fit(trainer, PAIRS, batch_size=10, epochs=epochs, sample_weight=WEIGHTS)
    return toys.weights(trainer), history


def assert_same(first: Any, second: Any, atol: float) -> None:
    toys.assert_same(first[0], second[0], atol)
    for name, values in second[1].items():
        np.testing.assert_allclose(first[1][name], values, rtol=0, atol=atol, err_msg=name)


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["SGD", pytest.param("AdamW", marks=pytest.mark.full)])
def test_all_at_once_is_the_plain_step_in_float64(optimizer):
    with dtype("float64"):
        # Torch and parts of KerasHub compute in float32 even so, but alike in both.
        assert_same(
            train(optimizer=optimizer, micro_batch_size=10), train(optimizer=optimizer), 1e-9
        )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("lora", "optimizer"), [pytest.param(0, "SGD", marks=pytest.mark.full), (2, "AdamW")]
)
def test_micro_batches_are_the_plain_step_of_the_same_pieces_in_float64(lora, optimizer):
    cached = {"optimizer": optimizer, "lora": lora}
    with dtype("float64"):
        assert_same(train(micro_batch_size=4, **cached), train(InPieces, pieces=4, **cached), 1e-9)


@pytest.mark.slow_on_jax
def test_micro_batches_are_the_plain_step_in_float32():
    assert_same(train(dropout=0.0, micro_batch_size=3), train_plainly(dropout=0.0), 1e-5)


@pytest.mark.once
@pytest.mark.slow
def test_gradients_in_float32():
    step = {"optimizer": "gradients alone", "dropout": 0.0, "epochs": 1}
    assert_same(train(micro_batch_size=3, **step), train(**step), 1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        {"size": 1},
        {"tokens": 48},
        *([{"size": 9}, {"size": 11}] if FULL else []),
    ],
)
def test_any_size(options):
    options = {f"micro_batch_{name}": value for name, value in options.items()}
    assert_same(train(dropout=0.0, **options), train_plainly(dropout=0.0), 1e-5)


@pytest.mark.skipif(toys.BACKEND != "tensorflow", reason="one at a time on JAX and torch")
def test_two_at_once_unless_dropout_is_drawn():
    import tensorflow as tf

    if tf.config.list_physical_devices("GPU"):
        pytest.skip("one at a time on a GPU")
    module = backend()
    assert module.in_flight(toys.embedder(0.0)) == 2
    assert module.in_flight(toys.embedder(0.1)) == 1


@pytest.mark.slow
def test_loss_in_tiles_is_the_loss():
    # The last batch has two pairs.
    for options in ({}, {"micro_batch_size": 2}):
        trainer = cptk.ContrastiveTrainer(toys.embedder(), seed=3, **options)
        toys.compiled(trainer, loss=InfoNCE(tile_size=3))
        plain = toys.compiled(cptk.ContrastiveTrainer(toys.embedder(), seed=3))
        assert_same(
            (toys.fit(trainer) and toys.weights(trainer), {}),
            (toys.fit(plain) and toys.weights(plain), {}),
            1e-5,
        )
    found, expected = (m.evaluate(PAIRS, verbose=0, return_dict=True) for m in (trainer, plain))
    assert found == pytest.approx(expected, abs=1e-5)


@pytest.mark.once
@pytest.mark.slow
def test_another_head_is_asked_for_the_whole_matrix():
    class Doubled(cptk.layers.ContrastiveHead):
        def call(self, query, document):
            return 2 * super().call(query, document)

    losses = [
        cptk.ContrastiveTrainer(toys.embedder(), Doubled(), seed=3, micro_batch_size=size)
        for size in (None, 3)
    ]
    losses = [toys.fit(toys.compiled(model), epochs=1)["loss"] for model in losses]
    np.testing.assert_allclose(*losses, atol=1e-5)


@pytest.mark.slow
@pytest.mark.skipif(
    toys.BACKEND != "tensorflow", reason="JAX has no float16 on CPUs; torch scales no loss in Keras"
)
def test_scaled_losses_in_float16():
    found = []
    for size in (None, 3):
        keras.utils.set_random_seed(1)
        embedder = toys.embedder(dtype="mixed_float16")
        trainer = cptk.ContrastiveTrainer(embedder, seed=3, micro_batch_size=size)
        trainer.compile(keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.05)))
        toys.fit(trainer, PAIRS, batch_size=10, epochs=3)
        found.append(toys.weights(trainer, trainable=True))
    toys.assert_same(*found, atol=5e-3)
    assert toys.difference(found[0], toys.weights(toys.trainer(), trainable=True)) > 0.02


@pytest.mark.slow
def test_first_pass_in_16_bits():
    options = {"dropout": 0.0, "micro_batch_size": 4, "epochs": 1}
    exact, of_exact = train(**options)
    low, of_low = train(first_pass_dtype="bfloat16", **options)
    # The loss is that of other embeddings; the second pass is in 32 bits, and the step nearly so.
    assert 1e-6 < abs(of_low["loss"][0] - of_exact["loss"][0]) < 0.05
    moved = toys.difference(exact, toys.weights(toys.trainer()))
    assert 1e-7 < toys.difference(low, exact) < 0.05 * moved


def products(trainer: Any, rows: int) -> int:
    """Matrix products in the program of a step of so many pairs."""
    tokens = {"token_ids": np.ones((rows, 16), "int32"), "padding_mask": np.ones((rows, 16), bool)}
    batch = dict.fromkeys(SIDES, tokens)
    if toys.BACKEND == "jax":
        import jax

        trainer.optimizer.build(trainer.trainable_variables)
        state = (
            trainer.trainable_variables, trainer.non_trainable_variables,
            trainer.optimizer.variables, trainer.metrics_variables,
        )  # fmt: skip
        values = tuple([variable.value for variable in part] for part in state)
        return str(jax.make_jaxpr(trainer.train_step)(values, (batch,))).count(" dot_general[")
    import tensorflow as tf

    step = tf.function(
        lambda x: backend().loss_and_gradients(trainer, x, None, None),
        autograph=False,
    )
    graph = step.get_concrete_function(tf.nest.map_structure(tf.constant, batch)).graph
    whole = graph.as_graph_def()
    nodes = [*whole.node, *(node for f in whole.library.function for node in f.node_def)]
    return sum(node.op in ("MatMul", "BatchMatMulV2", "Einsum") for node in nodes)


@pytest.mark.slow
@pytest.mark.skipif(toys.BACKEND == "torch", reason="nothing is compiled")
def test_program_of_a_step_grows_with_what_is_trained_and_not_with_the_batch():
    def trainer(trained: int) -> Any:
        embedder = toys.embedder(num_layers=2)
        for layer in embedder.backbone.layers:
            layer.trainable = layer is embedder.backbone.transformer_layers[trained]
        return toys.compiled(cptk.ContrastiveTrainer(embedder, seed=3, micro_batch_size=4))

    upper = trainer(1)
    assert products(upper, 8) == products(upper, 40) > 20
    # On the way back to the lower layer the upper one, though frozen, is passed, too.
    assert products(trainer(0), 8) > products(upper, 8)


@pytest.mark.slow
def test_nothing_below_frozen_layers_is_differentiated():
    embedder = toys.embedder(num_layers=2)
    for layer in embedder.backbone.layers[:-2]:
        layer.trainable = False
    before = toys.weights(embedder)
    trainer = toys.compiled(cptk.ContrastiveTrainer(embedder, seed=3, micro_batch_size=3))
    toys.fit(trainer)
    moved = {
        variable.path
        for variable, value in zip(embedder.weights, before, strict=True)
        if toys.difference([to_numpy(variable.value)], [value]) > 0
    }
    # All but the bias of the keys, whose gradient is zero.
    trained = {variable.path for variable in embedder.trainable_weights}
    assert moved <= trained
    assert len(moved) >= len(trained) - 1 > 10


@pytest.mark.slow
def test_auto_says_what_it_took(capsys, monkeypatch):
    monkeypatch.setattr(automatic, "SIZES", (2, 4))
    trainer = toys.compiled(
        cptk.ContrastiveTrainer(toys.embedder(0.1), seed=3, micro_batch_size="auto")
    )
    toys.fit(trainer, verbose=2)
    size = trainer.micro_batches.size
    assert size in (2, 4)
    assert f'micro_batch_size="auto" is {size}: ' in capsys.readouterr().out
    assert trainer.get_config()["micro_batch_size"] == "auto"


def test_auto_stops_where_memory_ends(monkeypatch):
    def attempt(trainer, tokens):
        if len(tokens["token_ids"]) > 8:
            raise RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes.")
        return lambda: None

    monkeypatch.setattr(backend(), "attempt", attempt)
    trainer = toys.compiled(cptk.ContrastiveTrainer(toys.embedder(), micro_batch_size="auto"))
    assert gradient_cache.choose_micro_batch_size(trainer, 24, verbose=False).size == 8
    monkeypatch.setattr(automatic, "SIZES", (16, 32))
    assert gradient_cache.choose_micro_batch_size(trainer, 24, verbose=False).size == 1
    monkeypatch.setattr(automatic, "is_out_of_memory", lambda _: True)
    monkeypatch.setattr(backend(), "attempt", lambda *_: 1 / 0)
    with pytest.raises(MemoryError, match=r"one text of 24 tokens.*Use a smaller model"):
        gradient_cache.choose_micro_batch_size(trainer, 24, verbose=False)
    monkeypatch.undo()
    monkeypatch.setattr(backend(), "free_memory", lambda: 2.0**30)
    monkeypatch.setattr(backend(), "attempt", lambda *_: lambda: None)
    assert (
        gradient_cache.choose_micro_batch_size(trainer, 24, verbose=False).size in automatic.SIZES
    )


@pytest.mark.once
@pytest.mark.slow
def test_auto_is_settled_by_evaluate_too_and_needs_compile():
    trainer = cptk.ContrastiveTrainer(toys.embedder(), micro_batch_size="auto")
    with pytest.raises(ValueError, match="compile"):
        trainer.fit(toys.PAIRS, verbose=0)
    toys.compiled(trainer, run_eagerly=True).evaluate(toys.PAIRS, verbose=0)
    assert trainer.micro_batches.size in automatic.SIZES


def test_a_batch_longer_than_the_budget_is_refused():
    long = {"token_ids": np.ones((4, 40), "int32"), "padding_mask": np.ones((4, 40), bool)}
    trainer = cptk.ContrastiveTrainer(toys.embedder(), micro_batch_tokens=24)
    with pytest.raises(ValueError, match="24` does not hold one text: the batch's are 40 tokens"):
        toys.compiled(trainer).train_on_batch({"query": long, "document": long})


@pytest.mark.once
@pytest.mark.slow
def test_large_batches_take_their_loss_in_tiles(monkeypatch):
    monkeypatch.setattr("cptk.training.trainer.LARGE", 8)
    trainer = toys.compiled(cptk.ContrastiveTrainer(toys.embedder(), seed=3))
    toys.fit(trainer, PAIRS, batch_size=4, epochs=1)
    assert not trainer._in_tiles()
    held = trainer.evaluate(PAIRS, batch_size=4, verbose=0)
    tiled = trainer.evaluate(PAIRS, batch_size=10, verbose=0)
    assert trainer._in_tiles()
    assert trainer.evaluate(PAIRS, batch_size=4, verbose=0) == pytest.approx(held, abs=1e-5)
    assert np.isfinite(tiled).all()


@pytest.mark.slow
@pytest.mark.parametrize("run_eagerly", [True, False] if toys.BACKEND == "tensorflow" else [False])
def test_a_text_whose_embedding_is_not_finite_is_named(run_eagerly):
    trainer = toys.compiled(
        cptk.ContrastiveTrainer(toys.embedder(), seed=3, micro_batch_size=2),
        keras.optimizers.AdamW(0.1, weight_decay=0.1),
        run_eagerly=run_eagerly,
    )
    table = trainer.embedder.backbone.token_embedding
    broken = np.array(to_numpy(table.embeddings.value))
    pairs = {side: list(texts) for side, texts in toys.PAIRS.items()}
    pairs["document"][1] = "a quite odd #"
    broken[trainer.embedder.preprocessor.tokenizer.tokenize("#")] = np.nan
    table.embeddings.assign(broken)
    before = toys.weights(trainer, trainable=True)
    with pytest.raises(ValueError, match=r"embedding of a document is not finite: .*odd #"):
        toys.fit(trainer, pairs)
    after = toys.weights(trainer, trainable=True)
    for first, second in zip(before, after, strict=True):
        np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"micro_batch_size": 0}, ValueError, "`micro_batch_size` should be an integer of 1"),
        ({"micro_batch_size": -2}, ValueError, 'or "auto". Received: -2'),
        ({"micro_batch_size": 2.5}, TypeError, "Received: 2.5"),
        ({"micro_batch_size": "many"}, TypeError, "Received: 'many'"),
        ({"micro_batch_tokens": True}, TypeError, "Received: True"),
        ({"micro_batch_tokens": "auto"}, TypeError, "of 1 or more. Received: 'auto'"),
        ({"micro_batch_tokens": 23}, ValueError, "does not hold one text.*is 24"),
        ({"micro_batch_size": 2, "micro_batch_tokens": 99}, ValueError, "not both"),
        ({"first_pass_dtype": "bfloat16"}, ValueError, "needs micro-batches"),
        ({"micro_batch_size": 2, "first_pass_dtype": "int8"}, ValueError, "Received: 'int8'"),
        pytest.param(
            {"micro_batch_size": 2, "first_pass_dtype": "float16"},
            ValueError,
            "no float16 products",
            marks=pytest.mark.skipif(toys.BACKEND != "jax", reason="elsewhere there are"),
        ),
    ],
)
def test_bad_arguments(options, error, message):
    with pytest.raises(error, match=message):
        cptk.ContrastiveTrainer(toys.embedder(), **options)


@pytest.mark.slow_on_jax
def test_an_embedder_that_a_forward_pass_changes_is_refused():
    backbone = toys.embedder().backbone
    normal = keras.layers.BatchNormalization(name="normal")
    changed = keras.Model(backbone.input, normal(backbone(backbone.input)))
    with pytest.raises(ValueError, match=r"normal/moving_mean.*LayerNormalization"):
        cptk.ContrastiveTrainer(cptk.models.TextEmbedder(changed), micro_batch_size=2)


def test_rematerialisation_is_refused():
    with keras.RematScope(mode="full"):
        embedder = toys.embedder()
    with pytest.raises(ValueError, match=r"made in a keras\.RematScope"):
        cptk.ContrastiveTrainer(embedder, micro_batch_size=2)


@pytest.mark.slow_on_jax
def test_an_embedder_that_adds_losses_is_refused():
    backbone = toys.embedder().backbone
    sparse = keras.layers.ActivityRegularization(l2=0.1)
    added = keras.Model(backbone.input, sparse(backbone(backbone.input)))
    with pytest.raises(ValueError, match="adds no loss in the forward pass"):
        cptk.ContrastiveTrainer(cptk.models.TextEmbedder(added), micro_batch_size=2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dtype": "mixed_bfloat16"}, "This one computes in bfloat16: leave it out"),
        ({"dropout": 0.1}, "Make it with `dropout=0`"),
    ],
)
def test_first_pass_in_16_bits_is_refused(options, message):
    embedder = toys.embedder(**options)
    with pytest.raises(ValueError, match=message):
        cptk.ContrastiveTrainer(embedder, micro_batch_size=2, first_pass_dtype="bfloat16")


@pytest.mark.slow_on_jax
def test_16_bit_weights_are_refused():
    embedder = toys.embedder(dtype="bfloat16")
    trainer = toys.compiled(cptk.ContrastiveTrainer(embedder, seed=3, micro_batch_size=2))
    with pytest.raises(ValueError, match=r"cannot be added up in bfloat16.*mixed_bfloat16"):
        toys.fit(trainer)


@pytest.mark.skipif(toys.BACKEND != "tensorflow", reason="JAX always compiles")
def test_compiling_the_loop_is_refused_on_tensorflow():
    trainer = cptk.ContrastiveTrainer(toys.embedder(), micro_batch_size=2)
    with pytest.raises(ValueError, match="does not work with micro-batches on TensorFlow"):
        trainer.compile(jit_compile=True)


def test_config():
    options = {"micro_batch_tokens": 100, "first_pass_dtype": "bfloat16"}
    trainer = cptk.ContrastiveTrainer(toys.embedder(), **options)
    again = cptk.ContrastiveTrainer.from_config(trainer.get_config())
    assert again.micro_batches == trainer.micro_batches == (None, 100)
    assert again.first_pass_dtype == "bfloat16"


@pytest.mark.slow
@pytest.mark.skipif(toys.BACKEND == "torch", reason="one device on torch")
def test_two_devices_with_dropout():
    here = Path(__file__).parent
    paths = map(str, (here, here.parent, here.parents[1]))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    command = [sys.executable, str(here / "cached_script.py")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    assert done.stdout.count("-SGD") + done.stdout.count("-AdamW") == 4
