"""LoRA on every linear layer."""

import keras
import numpy as np
import pytest
import training_toys as toys

import cptk
from cptk.training import enable_lora


def linear_layers(embedder):
    kinds = keras.layers.Dense | keras.layers.EinsumDense
    return [e for e in embedder.backbone._flatten_layers() if isinstance(e, kinds)]


def test_every_linear_layer_and_nothing_else_is_trained():
    embedder = toys.trainer(keras.optimizers.SGD(0.1)).embedder
    enable_lora(embedder, 2, alpha=6)
    layers = linear_layers(embedder)
    assert layers
    assert all(layer.lora_enabled and layer.lora_alpha == 6 for layer in layers)
    trained = {v.path for v in embedder.backbone.trainable_variables}
    assert all("lora" in path or "bias" in path for path in trained)
    assert not any("embedding" in path for path in trained)


def test_a_block_can_be_frozen_afterwards(tmp_path):
    embedder = toys.embedder(num_layers=2)
    trainer = toys.compiled(cptk.ContrastiveTrainer(embedder, seed=3))
    enable_lora(embedder, 2)
    blocks = embedder.backbone.transformer_layers
    blocks[0].trainable = False
    trained = {v.path for v in embedder.trainable_variables}
    assert trained == {v.path for block in blocks[1:] for v in block.trainable_variables} != set()
    assert blocks[0].trainable_variables == []
    blocks[0].trainable = True
    assert any("lora" in v.path for v in blocks[0].trainable_variables)
    blocks[0].trainable = False
    toys.compiled(trainer)
    trainer.save(tmp_path / "trainer.keras")
    again = keras.saving.load_model(tmp_path / "trainer.keras").embedder
    assert len(again.trainable_variables) == len(trained)


def test_the_product_is_scaled_by_alpha_over_rank():
    embedder = toys.trainer(keras.optimizers.SGD(0.1)).embedder
    enable_lora(embedder, 2, alpha=6)
    layer = next(e for e in linear_layers(embedder) if isinstance(e, keras.layers.Dense))
    layer.lora_kernel_b.assign(np.ones(layer.lora_kernel_b.shape))
    a = np.asarray(layer.lora_kernel_a, "float64")
    b = np.asarray(layer.lora_kernel_b, "float64")
    expected = np.asarray(layer._kernel, "float64") + 6 / 2 * a @ b
    np.testing.assert_allclose(np.asarray(layer.kernel), expected, atol=1e-6)


@pytest.mark.slow_on_jax
def test_a_preset_holds_the_scaled_product(tmp_path):
    trainer = toys.trainer(keras.optimizers.SGD(0.1))
    embedder = trainer.embedder
    enable_lora(embedder, 2, alpha=6)
    for layer in linear_layers(embedder):
        b = layer.lora_kernel_b
        b.assign(np.random.default_rng(0).normal(0, 0.1, b.shape))
    expected = embedder.encode_text(["one", "two words"])
    embedder.save_to_preset(str(tmp_path / "preset"))
    again = cptk.models.TextEmbedder.from_preset(str(tmp_path / "preset"))
    np.testing.assert_allclose(again.encode_text(["one", "two words"]), expected, atol=1e-5)


@pytest.mark.parametrize("options", [{"rank": 0}, {"rank": 1.5}, {"alpha": 0}, {"alpha": -1.0}])
def test_bad_numbers(options):
    with pytest.raises(ValueError, match=f"`{next(iter(options))}` should be"):
        enable_lora(toys.trainer(keras.optimizers.SGD(0.1)).embedder, **options)


def test_twice_or_on_something_else():
    embedder = toys.trainer(keras.optimizers.SGD(0.1)).embedder
    enable_lora(embedder, 2)
    with pytest.raises(ValueError, match="once"):
        enable_lora(embedder, 2)
    with pytest.raises(TypeError, match="embedder or a KerasHub backbone"):
        enable_lora(keras.layers.Dense(1))
