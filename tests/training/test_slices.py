"""The plain step's slices by length: the padded step, to rounding, whatever the texts."""

import keras
import numpy as np
import pytest
import toys

import cptk
from cptk.training import gradient_cache

BACKEND = keras.backend.backend()


def texts(rng, count):
    return ["".join(rng.choice(list("abcdef "), rng.integers(1, 22))) + "x" for _ in range(count)]


def pairs(count):
    rng = np.random.default_rng(0)
    negatives = [texts(rng, i % 3) for i in range(count)]
    return {"query": texts(rng, count), "document": texts(rng, count), "negatives": negatives}


def trained(slices, monkeypatch, kind="GPT2", eager=True, count=37):
    monkeypatch.setattr(gradient_cache, "slices", lambda *_: slices)
    keras.utils.set_random_seed(3)
    dropout = {"dropout": 0.0} if kind == "GPT2" else {}
    reader = toys.preprocessor("gpt2" if kind == "GPT2" else "llama3")
    embedder = cptk.models.TextEmbedder(toys.backbone(kind, 1, **dropout), reader)
    trainer = cptk.ContrastiveTrainer(embedder, seed=1)
    trainer.compile(keras.optimizers.SGD(0.1), run_eagerly=eager)
    weights = np.linspace(0.5, 2, count)
    history = trainer.fit(pairs(count), batch_size=17, sample_weight=weights, verbose=0).history
    return [history["loss"][0], *map(keras.ops.convert_to_numpy, trainer.trainable_variables)]


@pytest.mark.parametrize(
    ("kind", "eager"),
    [("GPT2", False), pytest.param("Llama3", False, marks=pytest.mark.slow)]
    if BACKEND == "jax"
    else [("GPT2", True), ("GPT2", False), ("Llama3", True)],
)
def test_slices_are_the_padded_step(kind, eager, monkeypatch):
    """The last batch, 3 pairs with 3 negatives, has fewer texts than there are slices."""
    expected = trained(1, monkeypatch, kind, eager)
    for value, other in zip(trained(10, monkeypatch, kind, eager), expected, strict=True):
        np.testing.assert_allclose(value, other, rtol=0, atol=2e-6)


@pytest.mark.skipif(BACKEND == "jax", reason="a test of its own")
def test_each_slice_is_as_long_as_its_longest_text(monkeypatch):
    seen = []
    module = gradient_cache.backends.backend()
    embed = module.embed_tokens
    monkeypatch.setattr(
        module,
        "embed_tokens",
        lambda embedder, tokens, training: (
            seen.append(tuple(tokens["token_ids"].shape)) or embed(embedder, tokens, training)
        ),
    )
    monkeypatch.setattr(module, "_once", lambda _, function: function, raising=False)
    keras.utils.set_random_seed(3)
    reader = toys.preprocessor("gpt2")
    embedder = cptk.models.TextEmbedder(toys.backbone("GPT2", 1), reader)
    trainer = cptk.ContrastiveTrainer(embedder, seed=1)
    trainer.compile("sgd", run_eagerly=True)
    rng = np.random.default_rng(0)
    trainer.train_on_batch({"query": texts(rng, 40), "document": texts(rng, 40)})
    lengths = [length for _, length in seen]
    assert [rows for rows, _ in seen] == [20] * 4
    assert lengths == sorted(lengths, reverse=True)
    assert lengths[-1] < lengths[0] / 2


@pytest.mark.parametrize(
    ("pairs", "jit_compile", "expected"),
    [(15, False, 1), (64, False, 4), (24, False, 3), (None, False, 4), (64, True, 1)],
)
def test_how_many(pairs, jit_compile, expected):
    embedder = toys.gpt2_embedder(1)
    count = gradient_cache.slices(embedder, None if pairs is None else 2 * pairs, jit_compile)
    if BACKEND == "jax":  # in compiled steps alone: the other way round
        expected = {15: 1, 64: 4 if jit_compile else 1}.get(pairs, 1)
    assert count == expected


def test_a_forward_pass_that_leaves_more_behind_is_not_cut():
    reader = toys.preprocessor("gpt2")
    embedder = cptk.models.TextEmbedder(toys.backbone("GPT2", 1), reader)
    embedder.backbone.transformer_layers[0].activity_regularizer = keras.regularizers.L2(0.1)
    assert gradient_cache.slices(embedder, 128, False) == 1


@pytest.mark.skipif(BACKEND != "jax", reason="of the compiled step on JAX")
def test_on_jax_there_are_few_programs():
    """One a length, and lengths are few: batches of other texts compile nothing."""
    import jax

    keras.utils.set_random_seed(3)
    reader = toys.preprocessor("gpt2")
    embedder = cptk.models.TextEmbedder(toys.backbone("GPT2", 1), reader)
    trainer = cptk.ContrastiveTrainer(embedder, seed=1)
    trainer.compile("sgd")
    rng = np.random.default_rng(0)
    compiled = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda name, *_, **__: (
            compiled.append(name) if name.endswith("backend_compile_duration") else 0
        )
    )
    for _ in range(3):
        trainer.train_on_batch({"query": texts(rng, 40), "document": texts(rng, 40)})
    assert trainer.slices == 4
    first = len(compiled)
    for _ in range(3):
        trainer.train_on_batch({"query": texts(rng, 40), "document": texts(rng, 40)})
    assert first > 0
    assert len(compiled) == first


@pytest.mark.skipif(BACKEND != "jax", reason="of the compiled step on JAX")
def test_on_jax_slices_draw_dropout_and_train_loras_factors(monkeypatch):
    monkeypatch.setattr(gradient_cache, "slices", lambda *_: 3)
    losses = []
    for _ in range(2):
        keras.utils.set_random_seed(3)
        embedder = cptk.models.TextEmbedder(
            toys.backbone("GPT2", 1, dropout=0.2), toys.preprocessor("gpt2")
        )
        cptk.training.enable_lora(embedder, 2)
        frozen = [w.numpy().copy() for w in embedder.non_trainable_weights if "seed" not in w.path]
        trainer = cptk.ContrastiveTrainer(embedder, seed=1)
        trainer.compile(keras.optimizers.SGD(0.0))
        x = pairs(12)
        losses.append(
            [float(trainer.train_on_batch(x, return_dict=True)["loss"]) for _ in range(3)]
        )
        after = [w.numpy() for w in embedder.non_trainable_weights if "seed" not in w.path]
        assert all(np.array_equal(a, b) for a, b in zip(frozen, after, strict=True))
    assert losses[0] == losses[1]  # the same draws for the same seed
    assert len(set(losses[0])) == 3  # and others at each step


@pytest.mark.skipif(BACKEND != "jax", reason="of the compiled step on JAX")
def test_on_jax_a_subclass_of_another_step_is_not_passed_over(monkeypatch):
    monkeypatch.setattr(gradient_cache, "slices", lambda *_: 3)
    seen = []

    class Mine(cptk.ContrastiveTrainer):
        def train_step(self, *args):
            seen.append(1)
            return super().train_step(*args)

    keras.utils.set_random_seed(3)
    embedder = cptk.models.TextEmbedder(toys.backbone("GPT2", 1), toys.preprocessor("gpt2"))
    trainer = Mine(embedder, seed=1)
    trainer.compile("sgd")
    trainer.train_on_batch(pairs(12))
    assert seen
