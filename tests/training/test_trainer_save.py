"""`save`, reload, go on: as if nothing had happened, with LoRA and frozen layers too."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import training_toys as toys
from training_toys import BATCH, EVEN, PAIRS

import cptk


def adam():
    return keras.optimizers.AdamW(0.01)


def lora_trainer(**kwargs):
    return toys.trainer(adam(), lora=4, **kwargs)


def factors(model):
    """Names of the trainable weights; KerasHub leaves the bias of a layer with LoRA to training."""
    return {v.path.split("/")[-1] for v in model.trainable_variables}


@pytest.mark.parametrize("lora", [0, 4])
def test_training_goes_on_after_reload(lora, tmp_path):
    model = toys.trainer(adam(), lora=lora)
    model.mask_equal_texts = True
    toys.fit(model, EVEN, shuffle=True, epochs=2)
    model.save(tmp_path / "x.keras")
    again = keras.saving.load_model(tmp_path / "x.keras")
    assert isinstance(again, cptk.ContrastiveTrainer)
    assert (again.seed, again.mask_equal_texts) == (3, True)
    assert [v.path.split("/")[-1] for v in again.trainable_variables] == [
        v.path.split("/")[-1] for v in model.trainable_variables
    ]
    toys.assert_same(toys.state(again), toys.state(model), atol=1e-7)
    before = toys.weights(again, trainable=True)
    for trainer in (model, again):
        toys.fit(trainer, EVEN, shuffle=True, initial_epoch=2, epochs=4)
    toys.assert_same(toys.state(again), toys.state(model))
    moved = [
        a.size for a, b in zip(before, toys.weights(again, True), strict=True) if (a != b).any()
    ]
    assert len(moved) == len(before)


def test_only_lora_and_temperature_are_trained():
    model = lora_trainer()
    assert factors(model) == {"lora_kernel_a", "lora_kernel_b", "bias", "tau"}
    start = {v.path: np.array(keras.ops.convert_to_numpy(v)) for v in model.weights}
    toys.fit(model, EVEN, epochs=2)
    for variable in model.weights:
        same = (keras.ops.convert_to_numpy(variable) == start[variable.path]).all()
        assert same != variable.trainable


def test_lora_in_weight_files(tmp_path):
    model = lora_trainer()
    saving = keras.callbacks.ModelCheckpoint(tmp_path / "x.weights.h5", save_weights_only=True)
    toys.fit(model, EVEN, epochs=2, callbacks=[saving])
    again = lora_trainer()
    again.load_weights(tmp_path / "x.weights.h5")
    toys.assert_same(toys.state(again), toys.state(model), atol=1e-7)
    for trainer in (model, again):
        toys.fit(trainer, EVEN, epochs=2)
    toys.assert_same(toys.state(again), toys.state(model))
    # And into a model that has no LoRA: merged.
    merged = cptk.ContrastiveTrainer(toys.embedder())
    again.save_weights(tmp_path / "y.weights.h5")
    merged.load_weights(tmp_path / "y.weights.h5")
    for side, vectors in merged.predict(EVEN, batch_size=BATCH, verbose=0).items():
        expected = again.predict(EVEN, batch_size=BATCH, verbose=0)[side]
        np.testing.assert_allclose(vectors, expected, atol=1e-5)


def test_weights_without_lora_leave_it_alive(tmp_path):
    plain = toys.trainer()
    toys.fit(plain, EVEN)
    plain.save_weights(tmp_path / "x.weights.h5")
    model = cptk.ContrastiveTrainer(toys.embedder())
    model.embedder.backbone.enable_lora(4)
    model.load_weights(tmp_path / "x.weights.h5")
    toys.compiled(model, adam())
    np.testing.assert_allclose(
        model.predict(EVEN, batch_size=BATCH, verbose=0)["query"],
        plain.predict(EVEN, batch_size=BATCH, verbose=0)["query"],
        atol=1e-6,
    )
    start = toys.weights(model, trainable=True)
    toys.fit(model, EVEN, epochs=2)
    end = toys.weights(model, trainable=True)
    assert all((a != b).any() for a, b in zip(start, end, strict=True))


def test_lora_of_several_ranks_and_scales(tmp_path):
    embedder = toys.embedder(num_layers=2)
    embedder.backbone.enable_lora(2, target_layer_names=["query"])
    dense = [x for x in embedder._flatten_layers() if x.name == "feedforward_output_dense"]
    dense[0].enable_lora(3, lora_alpha=12)
    embedder.backbone.get_layer("token_embedding").enable_lora(2)
    model = toys.compiled(cptk.ContrastiveTrainer(embedder, seed=3), adam())
    toys.fit(model, EVEN, epochs=2)
    model.save(tmp_path / "x.keras")
    again = keras.saving.load_model(tmp_path / "x.keras")
    toys.assert_same(toys.state(again), toys.state(model), atol=1e-6)
    np.testing.assert_allclose(
        again.predict(EVEN, batch_size=BATCH, verbose=0)["query"],
        model.predict(EVEN, batch_size=BATCH, verbose=0)["query"],
        atol=1e-5,
    )


def test_lora_on_16_bit_weights(tmp_path):
    model = toys.embedder(dtype="bfloat16")
    model.backbone.enable_lora(4)
    trainer = toys.compiled(cptk.ContrastiveTrainer(model, seed=3), adam())
    toys.fit(trainer, EVEN)
    trainer.save(tmp_path / "x.keras")
    again = keras.saving.load_model(tmp_path / "x.keras")
    toys.assert_same(toys.state(again), toys.state(trainer), atol=0)


def test_frozen_layers_stay_frozen(tmp_path):
    embedder = toys.embedder(num_layers=2)
    embedder.backbone.get_layer("token_embedding").trainable = False
    embedder.backbone.transformer_layers[0].trainable = False
    model = toys.compiled(cptk.ContrastiveTrainer(embedder, seed=3), adam())
    toys.fit(model, EVEN)
    model.save(tmp_path / "x.keras")
    again = keras.saving.load_model(tmp_path / "x.keras")
    assert len(again.trainable_variables) == len(model.trainable_variables)
    toys.assert_same(toys.state(again), toys.state(model), atol=0)
    for trainer in (model, again):
        toys.fit(trainer, EVEN)
    toys.assert_same(toys.state(again), toys.state(model))


def test_not_compiled(tmp_path):
    model = cptk.ContrastiveTrainer(
        toys.embedder(), cptk.layers.ContrastiveHead(temperature=0.05, max_scale=50)
    )
    model.save(tmp_path / "x.keras")
    again = keras.saving.load_model(tmp_path / "x.keras")
    assert not again.compiled
    assert (again.head.max_scale, again.seed) == (50, model.seed)
    toys.assert_same(toys.weights(again), toys.weights(model), atol=0)


def test_the_product_is_the_embedder(tmp_path):
    model = lora_trainer()
    toys.fit(model, EVEN, epochs=2)
    expected = model.embedder.encode_text(PAIRS["query"], role="query")
    model.embedder.save_to_preset(tmp_path / "preset")
    again = cptk.models.GPT2TextEmbedder.from_preset(str(tmp_path / "preset"))
    np.testing.assert_allclose(again.encode_text(PAIRS["query"], role="query"), expected, atol=1e-5)
    # The one in training is as it was.
    assert factors(model) == {"lora_kernel_a", "lora_kernel_b", "bias", "tau"}
