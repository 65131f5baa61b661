"""`ExactBackupAndRestore`: killed and resumed, a run ends where it would have ended."""

from __future__ import annotations

import errno
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import keras
import numpy as np
import pytest
import training_toys as toys
from tiers import FULL
from training_toys import EVEN

import cptk
from cptk.training import ExactBackupAndRestore, backup_files

HERE = Path(__file__).parent
ENVIRONMENT = {
    **os.environ,
    # Read by JAX alone, where it saves most of the time.
    "JAX_COMPILATION_CACHE_DIR": tempfile.mkdtemp(),
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    "PYTHONPATH": os.pathsep.join(map(str, (HERE, HERE.parent, HERE.parent.parent))),
}


# === SIGKILL, in processes of their own ===


def start(folder: Path, place: str, lora: int = 0) -> subprocess.Popen[str]:
    command = [sys.executable, str(HERE / "resume_script.py"), str(folder), place, str(lora)]
    return subprocess.Popen(
        command, env=ENVIRONMENT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )


def killed(folder: Path, place: str, lora: int = 0) -> None:
    process = start(folder, place, lora)
    output = process.communicate()[0]
    assert process.returncode == -signal.SIGKILL, output


def finish(folder: Path, lora: int = 0) -> int:
    """Runs to the end, asserts that it is the right one, and returns the first epoch."""
    process = start(folder, "never", lora)
    output = process.communicate()[0]
    assert process.returncode == 0, output
    epochs, difference = re.search(r"epochs=(\d)\.\.5 difference=(\S+)", output).groups()
    assert float(difference) <= 1e-6
    return int(epochs)


def backups(folder: Path) -> list[str]:
    return sorted(path.stem for path in folder.glob("epoch-*.safetensors"))


@pytest.mark.once
@pytest.mark.slow
@pytest.mark.parametrize("lora", [0, 4] if FULL else [4])
def test_killed_again_and_again(lora, tmp_path):
    folder = tmp_path / "backup"
    killed(folder, "step:1", lora)  # Before there is a backup.
    assert not backups(folder)
    killed(folder, "write:1", lora)  # Half of the first one written.
    assert not backups(folder)
    killed(folder, "rename:2", lora)  # Epoch 0 done; that of epoch 1 written, not in place.
    assert backups(folder) == ["epoch-1"]
    killed(folder, "write:2", lora)
    assert backups(folder) == ["epoch-1", "epoch-2"]
    # First goes what the kill before left; then the new one is in place, the oldest still there.
    killed(folder, "unlink:2", lora)
    assert backups(folder) == ["epoch-1", "epoch-2", "epoch-3"]
    killed(folder, "step:3", lora)
    assert finish(folder, lora) == 4


@pytest.mark.full
@pytest.mark.slow
@pytest.mark.once
def test_killed_from_outside(tmp_path):
    """As soon as a file of some kind is seen, at moments nobody has chosen."""
    folder, rng = tmp_path / "backup", random.Random(0)
    for pattern in (".scratch-*", "epoch-2*", "epoch-*.safetensors"):
        process = start(folder, "never")
        before = {path.name for path in folder.glob("*")}
        while process.poll() is None:
            if {path.name for path in folder.glob(pattern)} - before or (
                before and rng.random() < 1e-5
            ):
                process.kill()
                break
        process.communicate()
    assert finish(folder) >= 0


# === In this process ===


class Interrupted(Exception):
    pass


def interrupt(epoch):
    def stop(now, logs):
        if now == epoch:
            raise Interrupted

    return keras.callbacks.LambdaCallback(on_epoch_begin=stop)


def interrupted(folder, epoch=2, model=None):
    model = toys.trainer() if model is None else model
    with pytest.raises(Interrupted):
        toys.fit(model, EVEN, epochs=4, callbacks=[ExactBackupAndRestore(folder), interrupt(epoch)])


@pytest.mark.slow
def test_seed_and_epoch_are_those_of_the_interrupted_run(tmp_path):
    first = toys.trainer()
    first.seed = 17
    interrupted(tmp_path, model=first)
    second = toys.trainer()
    history = second.fit(
        EVEN,
        batch_size=4,
        epochs=4,
        shuffle=False,
        verbose=0,
        callbacks=[ExactBackupAndRestore(tmp_path, delete_checkpoint=False)],
    )
    assert second.seed == 17
    assert history.epoch == [0, 1, 2, 3]
    assert backups(tmp_path) == ["epoch-3", "epoch-4"]
    # A run that has ended does nothing more.
    end = toys.weights(second)
    again = toys.trainer()
    toys.fit(again, EVEN, epochs=4, callbacks=[ExactBackupAndRestore(tmp_path)])
    toys.assert_same(toys.weights(again), end, atol=0)


def test_only_its_own_files_are_deleted(tmp_path, trainer):
    (tmp_path / "mine.txt").write_text("keep me")
    (tmp_path / ".scratch-9").write_text("of a killed run")
    toys.fit(trainer, EVEN, callbacks=[ExactBackupAndRestore(tmp_path)])
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
    toys.fit(trainer, EVEN, callbacks=[ExactBackupAndRestore(tmp_path / "new")])
    assert not (tmp_path / "new").exists()


def damage(path, how):
    content = {"cut": path.read_bytes()[:-10], "empty": b"", "other": b"{}" * 40}[how]
    path.write_bytes(content)


@pytest.mark.parametrize("how", ["cut", "empty", "other"])
def test_all_backups_damaged(how, tmp_path, trainer):
    interrupted(tmp_path, 2, trainer)
    damage(tmp_path / "epoch-1.safetensors", how)
    damage(tmp_path / "epoch-2.safetensors", how)
    start = toys.weights(trainer)
    with pytest.raises(ValueError, match=r"The backup in .* is damaged .* Delete the folder"):
        toys.fit(trainer, EVEN, epochs=4, callbacks=[ExactBackupAndRestore(tmp_path)])
    toys.assert_same(toys.weights(trainer), start, atol=0)


def test_the_backup_before_a_damaged_one_is_used(tmp_path, trainer):
    start = toys.state(trainer)
    toys.fit(trainer, EVEN, epochs=4)
    end = toys.weights(trainer)
    toys.restore(trainer, start)
    interrupted(tmp_path, 3, trainer)
    damage(tmp_path / "epoch-3.safetensors", "cut")
    toys.restore(trainer, start)
    with pytest.warns(UserWarning, match=r"damaged \(epoch-3.*goes on from epoch-2"):
        toys.fit(trainer, EVEN, epochs=4, callbacks=[ExactBackupAndRestore(tmp_path)])
    toys.assert_same(toys.weights(trainer), end)


def test_full_disk(tmp_path, trainer, monkeypatch):
    save, calls = backup_files.save_file, []

    def fill(state, path, **kwargs):
        calls.append(path)
        save(state, path, **kwargs)
        if len(calls) == 2:
            os.truncate(path, 100)
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(backup_files, "save_file", fill)
    backup = ExactBackupAndRestore(tmp_path, delete_checkpoint=False)
    with pytest.warns(
        UserWarning, match=r"epoch 2 could not be written .*No space.*epoch 1 is kept"
    ):
        toys.fit(trainer, EVEN, epochs=2, callbacks=[backup])
    assert [path.name for path in tmp_path.iterdir()] == ["epoch-1.safetensors"]


def test_backup_of_another_model_or_optimizer(tmp_path, trainer):
    interrupted(tmp_path, 1, trainer)
    deep = toys.compiled(cptk.ContrastiveTrainer(toys.embedder(num_layers=2)))
    others = [deep, toys.trainer(keras.optimizers.Adam()), toys.trainer(lora=2)]
    for other in others:
        with pytest.raises(ValueError, match="is of another model or optimizer"):
            toys.fit(other, EVEN, epochs=4, callbacks=[ExactBackupAndRestore(tmp_path)])


def test_another_shape_of_the_same_size(tmp_path):
    def model(shape):
        made = toys.trainer()
        made.embedder.backbone.extra = keras.Variable(np.zeros(shape), trainable=False)
        made._track_variable(made.embedder.backbone.extra)
        return made

    backup = ExactBackupAndRestore(tmp_path)
    one, other = model((2, 3)), model((3, 2))
    backup.set_model(one)
    backup.on_epoch_end(0)
    backup.set_model(other)
    with pytest.raises(ValueError, match=r"1 of \d+ variables do not fit.*\(3, 2\)"):
        backup.on_train_begin()


def test_wrong_use(tmp_path):
    with pytest.raises(ValueError, match="`backup_dir` should be a path"):
        ExactBackupAndRestore("")
    backup = ExactBackupAndRestore(tmp_path)
    backup.set_model(keras.Sequential())
    with pytest.raises(TypeError, match=r"goes with a ContrastiveTrainer. Received: Sequential"):
        backup.on_train_begin()
