"""`save`, reload, go on: as if nothing had happened, with LoRA and frozen layers too."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys

import keras
import numpy as np
import pytest
import training_toys as toys
from tiers import FULL
from training_toys import BACKEND, BATCH, EVEN, PAIRS

import cptk

#: Tracing takes most of the time there; the first test below traces.
EAGER = {"run_eagerly": BACKEND == "tensorflow"}


def adam():
    return keras.optimizers.AdamW(0.01)


def lora_trainer(**kwargs):
    return toys.trainer(adam(), lora=4, **{**EAGER, **kwargs})


def factors(model):
    """Names of the trainable weights; KerasHub leaves the bias of a layer with LoRA to training."""
    return {v.path.split("/")[-1] for v in model.trainable_variables}


@pytest.mark.parametrize("lora", [pytest.param(0, marks=pytest.mark.slow), 4])
def test_training_goes_on_after_reload(lora, tmp_path):
    loss = cptk.losses.InfoNCE(mask_equal_texts=True, label_smoothing=0.1)
    model = toys.trainer(adam(), lora=lora, loss=loss, **(EAGER if lora else {}))
    toys.fit(model, EVEN, shuffle=True, epochs=2)
    model.save(tmp_path / "x.keras")
    again = keras.saving.load_model(tmp_path / "x.keras")
    assert isinstance(again, cptk.ContrastiveTrainer)
    assert (again.seed, again.loss.get_config()) == (3, loss.get_config())
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


def test_the_embedder_remembers_the_sizes_it_was_trained_for(tmp_path):
    """Those of the last training, in its preset and in the trainer's file."""
    dims = cptk.losses.Matryoshka("info_nce", [8, 4])
    model = toys.trainer(loss=cptk.losses.Sum([dims, "info_nce"]), **EAGER)
    assert model.embedder.trained_dims == ()
    assert "trained_dims" not in model.embedder.get_config()
    model.train_on_batch(EVEN)
    assert model.embedder.trained_dims == (8, 4)
    model.embedder.save_to_preset(tmp_path / "preset")
    model.save(tmp_path / "x.keras")
    load = cptk.models.TextEmbedder.from_preset
    for loaded in (
        load(tmp_path / "preset"),
        load(tmp_path / "preset", sequence_length=8),
        keras.saving.load_model(tmp_path / "x.keras").embedder,
    ):
        assert loaded.trained_dims == (8, 4)
    assert load(tmp_path / "preset", num_layers=1).trained_dims == ()  # nobody trained those alone
    assert load(tmp_path / "preset", trained_dims=[2]).trained_dims == (2,)
    toys.compiled(model, loss="info_nce").train_on_batch(EVEN)
    assert model.embedder.trained_dims == ()


@pytest.mark.slow_on_jax
def test_only_lora_and_temperature_are_trained():
    model = lora_trainer()
    assert factors(model) == {"lora_kernel_a", "lora_kernel_b", "bias", "tau"}
    start = {v.path: np.array(keras.ops.convert_to_numpy(v)) for v in model.weights}
    toys.fit(model, EVEN, epochs=2)
    for variable in model.weights:
        same = (keras.ops.convert_to_numpy(variable) == start[variable.path]).all()
        assert same != variable.trainable


@pytest.mark.slow
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


@pytest.mark.slow
def test_weights_without_lora_leave_it_alive(tmp_path):
    plain = toys.trainer(**EAGER)
    toys.fit(plain, EVEN)
    plain.save_weights(tmp_path / "x.weights.h5")
    model = cptk.ContrastiveTrainer(toys.embedder())
    model.embedder.backbone.enable_lora(4)
    model.load_weights(tmp_path / "x.weights.h5")
    toys.compiled(model, adam(), **EAGER)
    np.testing.assert_allclose(
        model.predict(EVEN, batch_size=BATCH, verbose=0)["query"],
        plain.predict(EVEN, batch_size=BATCH, verbose=0)["query"],
        atol=1e-6,
    )
    start = toys.weights(model, trainable=True)
    toys.fit(model, EVEN, epochs=2)
    end = toys.weights(model, trainable=True)
    assert all((a != b).any() for a, b in zip(start, end, strict=True))


@pytest.mark.slow
def test_lora_of_several_ranks_and_scales(tmp_path):
    embedder = toys.embedder(num_layers=2)
    embedder.backbone.enable_lora(2, target_layer_names=["query"])
    dense = [x for x in embedder._flatten_layers() if x.name == "feedforward_output_dense"]
    dense[0].enable_lora(3, lora_alpha=12)
    embedder.backbone.get_layer("token_embedding").enable_lora(2)
    model = toys.compiled(cptk.ContrastiveTrainer(embedder, seed=3), adam(), **EAGER)
    toys.fit(model, EVEN, epochs=2)
    model.save(tmp_path / "x.keras")
    again = keras.saving.load_model(tmp_path / "x.keras")
    toys.assert_same(toys.state(again), toys.state(model), atol=1e-6)
    np.testing.assert_allclose(
        again.predict(EVEN, batch_size=BATCH, verbose=0)["query"],
        model.predict(EVEN, batch_size=BATCH, verbose=0)["query"],
        atol=1e-5,
    )


@pytest.mark.slow_on_jax
def test_lora_on_16_bit_weights(tmp_path):
    model = toys.embedder(dtype="bfloat16")
    model.backbone.enable_lora(4)
    trainer = toys.compiled(cptk.ContrastiveTrainer(model, seed=3), adam(), **EAGER)
    toys.fit(trainer, EVEN)
    trainer.save(tmp_path / "x.keras")
    again = keras.saving.load_model(tmp_path / "x.keras")
    toys.assert_same(toys.state(again), toys.state(trainer), atol=0)


@pytest.mark.slow
def test_frozen_layers_stay_frozen(tmp_path):
    embedder = toys.embedder(num_layers=2)
    embedder.backbone.get_layer("token_embedding").trainable = False
    embedder.backbone.transformer_layers[0].trainable = False
    model = toys.compiled(cptk.ContrastiveTrainer(embedder, seed=3), adam(), **EAGER)
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


@pytest.mark.slow
def test_the_product_is_the_embedder(tmp_path):
    model = lora_trainer()
    toys.fit(model, EVEN, epochs=2)
    expected = model.embedder.encode_text(PAIRS["query"], role="query")
    model.embedder.save_to_preset(tmp_path / "preset")
    again = cptk.models.GPT2TextEmbedder.from_preset(str(tmp_path / "preset"))
    np.testing.assert_allclose(again.encode_text(PAIRS["query"], role="query"), expected, atol=1e-5)
    # The one in training is as it was.
    assert factors(model) == {"lora_kernel_a", "lora_kernel_b", "bias", "tau"}


def test_summary_shows_lora_state_with_lora_alone(capsys):
    model = cptk.ContrastiveTrainer(toys.embedder())
    model.summary()
    assert "lora_state" not in capsys.readouterr().out
    cptk.training.enable_lora(model.embedder, 2)
    model.summary()
    assert "lora_state" in capsys.readouterr().out


def test_a_temperature_is_the_heads():
    with pytest.raises(TypeError, match=r"head=cptk\.layers\.ContrastiveHead\(temperature=0\.05\)"):
        cptk.ContrastiveTrainer(toys.embedder(), temperature=0.05)


def test_help_reads_well_in_a_terminal():
    assert "\\" not in cptk.ContrastiveTrainer.__doc__
    assert "$$" not in cptk.ContrastiveTrainer.__doc__


WRITE = """
import sys, keras, keras_hub, numpy as np, training_toys as toys, cptk
embedder = toys.embedder(num_layers=2)
cptk.training.enable_lora(embedder, 2, alpha=6)
embedder.backbone.get_layer("layer_norm").trainable = False
trainer = toys.compiled(cptk.ContrastiveTrainer(embedder, seed=3), keras.optimizers.AdamW(0.01),
                        run_eagerly=True)
trainer.train_on_batch(toys.tokens(rows=slice(4)))
trainer.save(sys.argv[1] + "/own.keras")
np.save(sys.argv[1] + "/own.npy", embedder.encode_text(["a text", "another"]))
words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "b"]
bert = keras_hub.models.BertBackbone(len(words), 1, 2, 8, 16, max_sequence_length=16)
reader = keras_hub.models.BertTextEmbedderPreprocessor(
    keras_hub.models.BertTokenizer(words), sequence_length=8)
cptk.ContrastiveTrainer(keras_hub.models.BertTextEmbedder(bert, reader)).save(
    sys.argv[1] + "/hub.keras")
"""


#: A process each: in CI there and back between the two, and from torch to one.
OTHERS = ["tensorflow"] if BACKEND == "jax" and not FULL else ["tensorflow", "jax", "torch"]


@pytest.mark.slow
@pytest.mark.parametrize("other", [name for name in OTHERS if name != BACKEND])
def test_a_trainer_of_another_backend(other, tmp_path):
    if importlib.util.find_spec(other) is None:
        pytest.skip(f"{other} is not installed")
    places = os.pathsep.join([os.path.dirname(__file__), os.path.dirname(toys.toys.__file__)])
    environment = {**os.environ, "KERAS_BACKEND": other}
    environment["PYTHONPATH"] = os.pathsep.join([places, environment.get("PYTHONPATH", "")])
    subprocess.run([sys.executable, "-c", WRITE, tmp_path], env=environment, check=True)
    model = keras.saving.load_model(tmp_path / "own.keras")
    vectors = model.embedder.encode_text(["a text", "another"])
    np.testing.assert_allclose(vectors, np.load(tmp_path / "own.npy"), atol=1e-5)
    assert factors(model) == {"lora_kernel_a", "lora_kernel_b", "bias", "tau"}
    model.train_on_batch(toys.tokens(rows=slice(4)))
    assert keras.saving.load_model(tmp_path / "hub.keras").embedder.name


@pytest.mark.slow
@pytest.mark.once
@pytest.mark.parametrize("imports", ["import cptk, keras", "import keras, cptk"])
def test_a_trainer_loads_after_import_cptk_alone(imports, tmp_path):
    cptk.ContrastiveTrainer(toys.embedder()).save(tmp_path / "x.keras")
    code = f"""
import sys; {imports}
assert "cptk.training" not in sys.modules and "keras_hub" not in sys.modules
assert type(keras.saving.load_model(sys.argv[1])) is cptk.ContrastiveTrainer
"""
    subprocess.run([sys.executable, "-c", code, tmp_path / "x.keras"], check=True)


@pytest.mark.parametrize(("door", "name"), [("save", "x.keras"), ("save_weights", "x.weights.h5")])
def test_a_save_that_breaks_off_leaves_the_file_before(door, name, monkeypatch, tmp_path):
    model = toys.trainer(**EAGER)
    getattr(model, door)(tmp_path / name)
    before = (tmp_path / name).read_bytes()
    (tmp_path / "any").touch()
    assert (tmp_path / name).stat().st_mode == (tmp_path / "any").stat().st_mode
    (tmp_path / "any").unlink()

    def half(self, filepath, **kwargs):
        with open(filepath, "wb") as file:
            file.write(before[: len(before) // 2])
        raise KeyboardInterrupt

    monkeypatch.setattr(keras.Model, door, half)
    with pytest.raises(KeyboardInterrupt):
        getattr(model, door)(tmp_path / name)
    assert (tmp_path / name).read_bytes() == before
    assert os.listdir(tmp_path) == [name]
