"""What `ExactBackupAndRestore` saves beside weights: callbacks, owner, circumstances, checksum."""

from __future__ import annotations

import errno
import json
from pathlib import Path

import keras
import numpy as np
import pytest
import training_toys as toys
from safetensors import safe_open
from safetensors.numpy import load_file, save_file
from training_toys import BACKEND, EVEN

import cptk
from cptk import files
from cptk.training import ExactBackupAndRestore, backup_files, callback_state, made_with
from cptk.training.lora import training_state, variable_paths

#: A toy is trained for each of these; what is saved is the same on both.
pytestmark = pytest.mark.slow_on_jax

FIGURES = [0.5, 0.9, 0.1, 0.2, 0.3, 0.4]


class Interrupted(Exception):
    pass


def trainer(optimizer=None):
    return toys.trainer(optimizer, run_eagerly=BACKEND == "tensorflow")


def interrupt(**when):
    def stop(*args):
        raise Interrupted

    (name, epoch), *_ = when.items()
    if name == "on_train_end":
        return keras.callbacks.LambdaCallback(on_train_end=stop)
    return keras.callbacks.LambdaCallback(on_epoch_begin=lambda now, logs: now == epoch and stop())


def kept(folder, **kwargs):
    return ExactBackupAndRestore(folder, delete_checkpoint=False, **kwargs)


def fit(model, callbacks, epochs=6, **kwargs):
    return model.fit(
        kwargs.pop("x", EVEN), batch_size=kwargs.pop("batch_size", 4), epochs=epochs, verbose=0,
        callbacks=callbacks, **kwargs,
    )  # fmt: skip


def break_off(model, callbacks, **when):
    with pytest.raises(Interrupted):
        fit(model, [interrupt(**(when or {"on_epoch_begin": 3})), *callbacks])
    for callback in callbacks:  # A process that is killed leaves no file open.
        if isinstance(callback, keras.callbacks.CSVLogger):
            callback.csv_file.close()


# === Callbacks of Keras ===


def with_memory(folder: Path) -> list:
    folder.mkdir(exist_ok=True)
    figure = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: logs.update(figure=FIGURES[epoch])
    )
    monitor = {"monitor": "figure", "mode": "max"}
    return [
        figure,
        keras.callbacks.EarlyStopping(patience=3, restore_best_weights=True, **monitor),
        keras.callbacks.ReduceLROnPlateau(patience=2, factor=0.5, min_delta=0, **monitor),
        keras.callbacks.ModelCheckpoint(
            folder / "best.weights.h5", save_best_only=True, save_weights_only=True, **monitor
        ),
        keras.callbacks.CSVLogger(folder / "log.csv"),
    ]


def outcome(model, history, folder: Path) -> tuple:
    best = folder / "best.weights.h5"
    other = trainer()
    other.load_weights(best)
    rate = float(keras.ops.convert_to_numpy(model.optimizer.learning_rate))
    text = (folder / "log.csv").read_text()
    return toys.weights(model), toys.weights(other), rate, history.epoch, history.history, text


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    folder, model = tmp_path_factory.mktemp("whole"), trainer()
    return outcome(model, fit(model, with_memory(folder)), folder)


@pytest.mark.parametrize(
    "place", [*(pytest.param(p, marks=pytest.mark.slow) for p in ("first", "last")), "stopped"]
)
def test_callbacks_go_on_with_what_they_had(place, uninterrupted, tmp_path, capsys):
    def callbacks():
        others, backup = with_memory(tmp_path / "files"), ExactBackupAndRestore(tmp_path / "b")
        return [*others, backup] if place == "last" else [backup, *others]

    when = {"on_train_end": 0} if place == "stopped" else {"on_epoch_begin": 3}
    break_off(trainer(), callbacks(), **when)
    model = trainer()
    got = outcome(model, fit(model, callbacks()), tmp_path / "files")
    for mine, expected in zip(got[:2], uninterrupted[:2], strict=True):
        toys.assert_same(mine, expected, atol=1e-6)
    assert got[2] == pytest.approx(uninterrupted[2])
    assert got[3] == uninterrupted[3] == [0, 1, 2, 3, 4]
    for name, values in uninterrupted[4].items():
        assert got[4][name] == pytest.approx(values, abs=1e-5), name
    rows = [line.split(",")[:1] for line in got[5].splitlines()]
    assert rows == [line.split(",")[:1] for line in uninterrupted[5].splitlines()]
    said = "a callback had stopped training" if place == "stopped" else "epoch 4 of 6"
    assert said in capsys.readouterr().out
    assert not (tmp_path / "b").exists()


@pytest.mark.slow
def test_averaged_weights(tmp_path):
    def run(callbacks, **when):
        model = trainer(keras.optimizers.SGD(0.05, use_ema=True, ema_momentum=0.5))
        callbacks = [*callbacks, keras.callbacks.SwapEMAWeights(swap_on_epoch=True)]
        if when:
            break_off(model, callbacks, **when)
        else:
            fit(model, callbacks)
        return toys.weights(model)

    run([kept(tmp_path)], on_epoch_begin=2)
    toys.assert_same(run([kept(tmp_path)]), run([]), atol=1e-6)


def test_every_callback_of_keras_is_known():
    found = {
        name
        for name, kind in vars(keras.callbacks).items()
        if isinstance(kind, type) and issubclass(kind, keras.callbacks.Callback)
    }
    assert found - set(callback_state.STATE) == {"Callback"}


# === Callbacks of somebody else ===


class Counter(keras.callbacks.Callback):
    def __init__(self, step=1):
        super().__init__()
        self.step, self.seen = step, {"epochs": []}

    def on_epoch_end(self, epoch, logs=None):
        self.seen["epochs"].append(epoch * self.step)


class Remembers(Counter):
    def get_state(self):
        return {"seen": dict(self.seen), "array": np.arange(3)}

    def set_state(self, state):
        self.seen = state["seen"]
        self.array = state["array"]


class Idle(keras.callbacks.Callback):
    def __init__(self):
        super().__init__()
        self.folder, self.limits = "here", [1, 2]


def test_a_callback_that_may_have_state_is_named(tmp_path):
    counter = Counter()
    with pytest.warns(UserWarning, match=r"does not save .*Counter \(seen\).*get_state"):
        break_off(trainer(), [ExactBackupAndRestore(tmp_path), counter, Idle()])
    with pytest.warns(UserWarning, match="callbacks remember") as said:
        fit(trainer(), [ExactBackupAndRestore(tmp_path), Counter(), Idle()])
    assert any(
        "does not hold what these callbacks remember: Counter" in str(w.message) for w in said
    )
    assert not any("Idle" in str(w.message) for w in said)


def test_a_callback_with_hooks_is_saved(tmp_path):
    break_off(trainer(), [Remembers(), kept(tmp_path)])
    again = Remembers()
    fit(trainer(), [kept(tmp_path), again])
    assert again.seen == {"epochs": [0, 1, 2, 3, 4, 5]}
    assert again.array.tolist() == [0, 1, 2]


def test_the_history_of_an_evaluation_callback(tmp_path):
    one, other = (cptk.evaluation.EvaluationCallback("sst2_knn") for _ in range(2))
    one.history = [{"step": 2, "task": "x", "score": float("nan")}]
    packed, arrays = callback_state.save({"a": one}, {})
    callback_state.restore({"a": other}, json.loads(json.dumps(packed)), arrays, {})
    assert repr(other.history) == repr(one.history)


# === Files ===


@pytest.fixture
def made(tmp_path, trainer):
    """A folder with the backups of epochs 2 and 3, and a trainer to restore."""
    break_off(trainer, [kept(tmp_path)])
    assert len(backup_files.newest_first(tmp_path)) == 2
    return tmp_path, trainer


def rewritten(path, change):
    """A backup whose arrays are changed, and whose checksum is right all the same."""
    backup = backup_files.read(path)
    about = {k: v for k, v in backup.about.items() if k != "dtypes"}
    change(backup.arrays, about)
    backup_files.write(path, backup.arrays, about)


def test_damaged_backups(made):
    folder, model = made
    newest = folder / "epoch-3.safetensors"
    whole = newest.read_bytes()
    start = int.from_bytes(whole[:8], "little") + 8

    def flip(place, bit=4):
        content = bytearray(whole)
        content[place] ^= bit
        newest.write_bytes(content)

    for place in (start, start + 1001, len(whole) - 1, start - 40, 30):
        flip(place)
        with pytest.raises(ValueError, match=r"."):
            backup_files.read(newest)
    flip(len(whole) - 1)
    with pytest.warns(UserWarning, match=r"damaged \(epoch-3.*checksum.*goes on from epoch-2"):
        fit(model, [kept(folder)], epochs=2)
    newest.write_bytes(whole)
    assert backup_files.read(newest).about["epoch"] == 3
    newest.rename(folder / "epoch-7.safetensors")
    with pytest.raises(ValueError, match="it is of epoch 3"):
        backup_files.read(folder / "epoch-7.safetensors")
    (folder / "epoch-7.safetensors").rename(newest)
    name = next(name for name in backup_files.read(newest).arrays if "kernel" in name)
    rewritten(newest, lambda arrays, about: arrays[name].__setitem__(0, np.nan))
    with pytest.raises(ValueError, match=r"kernel\S* is not finite"):
        backup_files.read(newest)
    with safe_open(newest, "np") as file:
        metadata = file.metadata()
    del metadata["checksum"]
    save_file(load_file(newest), newest, metadata)
    with pytest.raises(ValueError, match="no checksum"):
        backup_files.read(newest)


def test_bits_of_every_kind_come_back(tmp_path):
    import ml_dtypes

    arrays = {
        "a": np.array(3, "int64"),
        "b": np.arange(6, dtype=ml_dtypes.bfloat16).reshape(2, 3),
        "c": np.zeros((0, 2), "float16"),
    }
    backup_files.write(tmp_path / "epoch-1.safetensors", arrays, {"epoch": 1})
    got = backup_files.read(tmp_path / "epoch-1.safetensors").arrays
    for name, array in arrays.items():
        assert got[name].dtype == array.dtype
        assert got[name].shape == array.shape
        assert got[name].tobytes() == array.tobytes()


def test_weights_that_are_not_finite_replace_no_backup(made):
    folder, model = made
    backup = kept(folder)
    backup.set_model(model)
    backup.on_train_begin()
    tau = model.head.tau
    tau.assign(np.nan)
    with pytest.warns(UserWarning, match=r"epoch 4 could not .*tau\S* is not finite.*3 is kept"):
        backup.on_epoch_end(3)
    backup.release()


def test_two_runs_on_one_folder(tmp_path, trainer):
    second = kept(tmp_path)
    second.set_model(trainer)
    refused = []

    def start_another(epoch, logs):
        with pytest.raises(ValueError, match=r"is in use by process \d+.*folder of its own") as e:
            second.on_train_begin()
        refused.append(e)

    other = keras.callbacks.LambdaCallback(on_epoch_begin=start_another)
    fit(trainer, [kept(tmp_path), other], epochs=1)
    assert refused
    # The first has ended: its folder is free, and what it left is another run's.
    stray = kept(tmp_path)
    stray.set_model(trainer)
    stray._run = "another"
    with pytest.warns(UserWarning, match="epoch-1.safetensors is of another run"):
        stray.on_epoch_end(1)
    second.on_train_begin()
    second.release()


CHANGED = {
    "learning_rate": (
        {"optimizer": keras.optimizers.SGD},
        r"learning_rate was 0\.05\S* and is 0\.5",
    ),
    "batch_size": ({"batch_size": 2}, "batch_size was 4 and is 2"),
    "pairs": ({"x": {side: texts[::-1] for side, texts in EVEN.items()}}, "content of the pairs"),
    "fewer": ({"x": {side: texts[:4] for side, texts in EVEN.items()}}, "pairs was 8 and is 4"),
}


@pytest.mark.parametrize("what", CHANGED)
def test_what_has_changed_since_is_said(what, made):
    folder, model = made
    options, said = CHANGED[what]
    options = dict(options)
    if options.pop("optimizer", None):
        model = trainer(keras.optimizers.SGD(0.5, momentum=0.5))
    with pytest.warns(UserWarning, match=f"{said}.*The learning rate is the backup's"):
        fit(model, [kept(folder)], epochs=3, **options)
    rate = float(keras.ops.convert_to_numpy(model.optimizer.learning_rate))
    assert rate == pytest.approx(0.05)


def test_a_folder_that_is_a_file(tmp_path, trainer):
    (tmp_path / "file").write_text("mine")
    with pytest.warns(UserWarning, match="backup") as said:
        fit(trainer, [ExactBackupAndRestore(tmp_path / "file")], epochs=1)
    messages = [str(w.message) for w in said]
    assert any("No backup can be written" in message for message in messages)
    assert any("epoch 1 could not be written" in message for message in messages)
    assert (tmp_path / "file").read_text() == "mine"


def test_no_room(tmp_path, trainer, monkeypatch):
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr(files.shutil, "disk_usage", lambda path: usage)
    with pytest.warns(UserWarning, match=r"1 could not be written .*MiB are free.*there is none"):
        fit(trainer, [ExactBackupAndRestore(tmp_path / "b")], epochs=1)
    for save in (trainer.save, trainer.save_weights):
        name = "x.keras" if save == trainer.save else "x.weights.h5"
        with pytest.raises(OSError, match="The trainer needs") as error:
            save(tmp_path / name)
        assert error.value.errno == errno.ENOSPC
    assert not any(tmp_path.iterdir())


def test_a_description_of_data_tells_pairs_apart():
    from cptk.data.batching import PairDataset

    texts = PairDataset(EVEN, batch_size=4)
    moved = PairDataset({"query": EVEN["document"], "document": EVEN["query"]}, batch_size=4)
    tokens = PairDataset(toys.tokens(EVEN), batch_size=4)
    found = [made_with.describe(data)["content of the pairs"] for data in (texts, moved, tokens)]
    assert len(set(found)) == 3


# === Paths, which every backend has ===


def test_paths_do_not_depend_on_backend_or_process():
    """Committed: what one backend writes, another reads by these names."""
    expected = json.loads((Path(__file__).parent / "state_paths.json").read_text())
    model = cptk.ContrastiveTrainer(toys.embedder(dropout=0.1))
    cptk.training.enable_lora(model.embedder, 2)
    model.embedder.backbone.get_layer("layer_norm").trainable = False
    assert sorted(variable_paths(model)) == expected["variables"]
    assert training_state(model.embedder) == expected["training_state"]
