"""What works on a Keras model works here."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import training_toys as toys
from gradients import to_numpy
from training_toys import BACKEND, BATCH, EVEN, PAIRS

import cptk

RATE = 0.1
#: Tracing takes most of the time there; a test that is about what is compiled leaves this out.
EAGER = {"run_eagerly": BACKEND == "tensorflow"}
one_step_on_torch = pytest.mark.skipif(BACKEND == "torch", reason="Keras refuses it on torch")


def embedder():
    """Without a trained embedding: of its sparse gradients, Keras on TensorFlow takes the norm
    before it adds up the rows of equal tokens."""
    made = toys.embedder()
    made.backbone.get_layer("token_embedding").trainable = False
    return made


def first_gradients(x=None):
    """Weights at the start, tau last, and the gradients of the plain loss on `x`."""
    model, head = embedder(), cptk.layers.ContrastiveHead()
    variables = [*model.trainable_variables, head.tau]
    x = toys.tokens(rows=slice(4)) if x is None else x
    found = toys.gradients(lambda: toys.plain_loss(model, head.tau, x), variables)
    return [np.array(to_numpy(v.value)) for v in variables], found


def step(optimizer):
    """A trainer after one step, and its trainable weights."""
    model = cptk.ContrastiveTrainer(embedder(), seed=3)
    toys.compiled(model, optimizer, run_eagerly=BACKEND != "jax")
    model.train_on_batch(toys.tokens(rows=slice(4)))
    return model, toys.weights(model, trainable=True)


# === compile ===


@pytest.mark.slow_on_jax
def test_clipnorm():
    start, found = first_gradients()
    clip = float(np.median([np.linalg.norm(g) for g in found]))
    _, got = step(keras.optimizers.SGD(RATE, clipnorm=clip))
    scales = [min(1, clip / max(np.linalg.norm(g), 1e-12)) for g in found]
    assert min(scales) < 1 == max(scales)
    expected = [w - RATE * g * s for w, g, s in zip(start, found, scales, strict=True)]
    toys.assert_same(got, expected, atol=2e-6)


@pytest.mark.slow_on_jax
def test_global_clipnorm():
    start, found = first_gradients()
    norm = np.sqrt(sum(np.sum(g**2) for g in found))
    _, got = step(keras.optimizers.SGD(RATE, global_clipnorm=float(norm) / 2))
    expected = [w - RATE * g / 2 for w, g in zip(start, found, strict=True)]
    toys.assert_same(got, expected, atol=2e-6)


@pytest.mark.slow_on_jax
def test_weight_decay_and_its_exclusion():
    start, found = first_gradients()
    model = cptk.ContrastiveTrainer(embedder())
    optimizer = keras.optimizers.SGD(RATE, weight_decay=0.5)
    optimizer.exclude_from_weight_decay(var_list=[model.head.tau])
    toys.compiled(model, optimizer, run_eagerly=BACKEND != "jax")
    model.train_on_batch(toys.tokens(rows=slice(4)))
    kept = [*[1 - RATE * 0.5] * (len(start) - 1), 1]
    expected = [k * w - RATE * g for k, w, g in zip(kept, start, found, strict=True)]
    toys.assert_same(toys.weights(model, trainable=True), expected, atol=2e-6)


@pytest.mark.slow_on_jax
def test_gradient_accumulation():
    start, first = first_gradients()
    _, second = first_gradients(toys.tokens(rows=slice(4, 8)))
    optimizer = keras.optimizers.SGD(RATE, gradient_accumulation_steps=2)
    model, got = step(optimizer)
    toys.assert_same(got, start, atol=0)
    model.train_on_batch(toys.tokens(rows=slice(4, 8)))
    got = toys.weights(model, trainable=True)
    means = [(a + b) / 2 for a, b in zip(first, second, strict=True)]
    expected = [w - RATE * g for w, g in zip(start, means, strict=True)]
    toys.assert_same(got, expected, atol=2e-6)


@pytest.mark.slow
def test_moving_average_of_weights():
    def end(epochs, **kwargs):
        model = toys.trainer(keras.optimizers.SGD(RATE, **kwargs), **EAGER)
        toys.fit(model, {side: PAIRS[side][:4] for side in toys.SIDES}, epochs=epochs)
        return toys.weights(model, trainable=True)

    averaged = end(2, use_ema=True, ema_momentum=0.75)
    expected = [0.75 * a + 0.25 * b for a, b in zip(end(1), end(2), strict=True)]
    toys.assert_same(averaged, expected, atol=2e-6)


@pytest.mark.slow
@pytest.mark.skipif(BACKEND == "torch", reason="torch.compile needs a C++ compiler, and minutes")
def test_compiled_by_xla_or_not():
    x = {side: PAIRS[side][:4] for side in toys.SIDES}
    ends = []
    for jit in (True, False):
        model = toys.trainer(jit_compile=jit)
        toys.fit(model, x, epochs=2)
        ends.append(toys.weights(model))
    toys.assert_same(*ends, atol=1e-5)


@pytest.mark.slow
@one_step_on_torch
def test_several_steps_an_execution(trainer):
    toys.fit(trainer, epochs=2)
    expected = toys.weights(trainer, trainable=True)
    model = toys.trainer(steps_per_execution=3)
    toys.fit(model, epochs=2)
    toys.assert_same(toys.weights(model, trainable=True), expected, atol=2e-6)


@pytest.mark.slow
@one_step_on_torch
def test_two_steps_an_execution_of_three_batches(trainer):
    toys.fit(trainer, epochs=1)
    expected = toys.weights(trainer, trainable=True)
    model = toys.trainer(steps_per_execution=2)
    toys.fit(model, epochs=1)
    toys.assert_same(toys.weights(model, trainable=True), expected, atol=2e-6)


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_mixed_precision(policy, tmp_path):
    if policy == "mixed_float16" and BACKEND == "jax":
        pytest.skip("XLA has no float16 products with float32 sums on CPUs")
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        model = toys.trainer(keras.optimizers.Adam(0.01))
        assert model.embedder.backbone.compute_dtype == policy.removeprefix("mixed_")
        scaled = isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)
        assert scaled == (policy == "mixed_float16")
        start = toys.weights(model, trainable=True)
        history = toys.fit(model, EVEN, epochs=3)
        assert history["loss"][-1] < history["loss"][0]
        end = toys.weights(model, trainable=True)
        assert all(w.dtype == np.float32 and np.isfinite(w).all() for w in end)
        moved = [toys.difference([a], [b]) > 0 for a, b in zip(start, end, strict=True)]
        # Not all do: the key bias has no gradient.
        assert moved[-1]
        assert sum(moved) >= len(moved) - 2
        model.save(tmp_path / "x.keras")
        again = keras.saving.load_model(tmp_path / "x.keras")
        assert type(again.optimizer) is type(model.optimizer)
        toys.assert_same(toys.state(again), toys.state(model), atol=0)
    finally:
        keras.config.set_dtype_policy(before)


# === Callbacks ===


@pytest.mark.slow
def test_model_checkpoints(tmp_path):
    model = toys.trainer(keras.optimizers.Adam(0.01))
    names = ("x.keras", "x.weights.h5")
    callbacks = [
        keras.callbacks.ModelCheckpoint(
            tmp_path / name, save_weights_only="weights" in name, monitor="val_loss"
        )
        for name in names
    ]
    toys.fit(model, EVEN, epochs=2, validation_data=EVEN, callbacks=callbacks)
    expected = model.evaluate(EVEN, batch_size=BATCH, verbose=0)
    whole = keras.saving.load_model(tmp_path / names[0])
    assert isinstance(whole, cptk.ContrastiveTrainer)
    parts = toys.trainer(keras.optimizers.Adam(0.01))
    parts.load_weights(tmp_path / names[1])
    for again in (whole, parts):
        toys.assert_same(toys.state(again), toys.state(model), atol=0)
        np.testing.assert_allclose(
            again.evaluate(EVEN, batch_size=BATCH, verbose=0), expected, atol=1e-5
        )


@pytest.mark.slow
def test_early_stopping_and_schedule():
    model = toys.trainer(keras.optimizers.SGD(0.0), **EAGER)
    stop = keras.callbacks.EarlyStopping("val_loss", patience=1, restore_best_weights=True)
    schedule = keras.callbacks.LearningRateScheduler(lambda epoch, rate: 0.0)
    history = model.fit(
        EVEN, batch_size=4, epochs=9, verbose=0, validation_data=EVEN, callbacks=[stop, schedule]
    ).history
    assert len(history["loss"]) == 2
    assert history["learning_rate"] == [0.0, 0.0]


@pytest.mark.slow
@pytest.mark.parametrize("form", ["one", "list", "tuple"])
def test_forms_of_callbacks(form, trainer):
    seen = []
    callback = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: seen.append(logs))
    given = {"one": callback, "list": [callback], "tuple": (callback,)}[form]
    toys.fit(trainer, callbacks=given)
    assert set(seen[0]) == {"loss", "query_accuracy", "document_accuracy", "temperature"}


@pytest.mark.slow
def test_progress_bar_shows_all(trainer, capsys):
    toys.fit(trainer, verbose=1)
    shown = capsys.readouterr().out
    assert "3/3" in shown
    for name in ("loss:", "query_accuracy:", "document_accuracy:", "temperature:"):
        assert name in shown


@pytest.mark.slow
def test_stock_backup_resumes_with_the_order_of_its_epoch(tmp_path):
    class Interrupted(Exception):
        pass

    def interrupt(epoch, logs):
        if epoch == 2:
            raise Interrupted

    def run(callbacks):
        model = toys.trainer(**EAGER)
        toys.fit(model, EVEN, epochs=4, shuffle=True, callbacks=callbacks)
        return toys.weights(model)

    expected = run([])
    backup = keras.callbacks.BackupAndRestore(tmp_path / "backup")
    stop = keras.callbacks.LambdaCallback(on_epoch_begin=interrupt)
    with pytest.raises(Interrupted):
        run([backup, stop])
    epochs = []
    count = keras.callbacks.LambdaCallback(on_epoch_begin=lambda epoch, logs: epochs.append(epoch))
    got = run([keras.callbacks.BackupAndRestore(tmp_path / "backup"), count])
    assert epochs == [2, 3]
    toys.assert_same(got, expected)


# === Temperature ===


@pytest.mark.slow_on_jax
def test_temperature_is_trained_and_its_scale_bounded():
    head = cptk.layers.ContrastiveHead(temperature=0.011)
    model = cptk.ContrastiveTrainer(toys.embedder(), head)
    model.embedder.trainable = False
    # Equal texts on both sides: the loss falls with every rise of the scale.
    toys.compiled(model, keras.optimizers.SGD(1000.0), **EAGER)
    reader = cptk.models.GPT2TextEmbedderPreprocessor(
        toys.toys.tokenizer(), roles={"text": ("", "")}, sequence_length=toys.LENGTH
    )
    x = {side: reader(PAIRS["query"], role="text") for side in toys.SIDES}
    history = toys.fit(model, x, epochs=3)
    assert history["temperature"][-1] == pytest.approx(0.01, rel=1e-5)
    assert float(to_numpy(head.temperature)) == pytest.approx(0.01, rel=1e-5)


@pytest.mark.slow
def test_frozen_temperature():
    head = cptk.layers.ContrastiveHead(temperature=0.05, trainable=False)
    model = toys.compiled(cptk.ContrastiveTrainer(toys.embedder(), head), **EAGER)
    history = toys.fit(model, EVEN, epochs=2)
    assert history["temperature"] == pytest.approx([0.05, 0.05], rel=1e-6)


# === Lengths ===


@pytest.mark.slow
def test_batches_of_any_length():
    """16, 24, 24, 16 and 16 tokens: no batch fixes the length of the others."""
    long = "a text that is cut"
    texts = ["a", "b", "c", long, "d", long, "e", "f", "g", "h"]
    model = toys.trainer(run_eagerly=BACKEND == "torch")
    toys.fit(model, {"query": texts, "document": texts}, batch_size=2)
    expected = toys.trainer(run_eagerly=BACKEND != "jax")
    x = toys.tokens({"query": texts, "document": texts})
    for rows in toys.slices(10, 2):
        expected.train_on_batch(
            {side: {k: v[rows] for k, v in x[side].items()} for side in toys.SIDES}
        )
    toys.assert_same(toys.weights(model, True), toys.weights(expected, True), atol=2e-6)


@pytest.mark.slow_on_jax
def test_progress_in_a_file_is_a_line_an_epoch(capsys):
    model = toys.trainer(**toys.EAGER)
    model.fit(toys.PAIRS, batch_size=5, validation_data=toys.EVEN)
    model.evaluate(toys.PAIRS, batch_size=5)
    model.predict(toys.PAIRS, batch_size=5)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    assert all(line.isprintable() for line in lines)
