"""A training run that is killed; what `test_trainer_resume.py` starts.

Arguments: a folder, where to be killed (`step:N`, `write:N`, `rename:N`, `unlink:N`, counted from
this process's start, or `never`), rank of LoRA. A run that gets to its end is compared with one
that was never killed.
"""

import os
import signal
import sys
from pathlib import Path

import keras
import training_toys as toys

from cptk.training import ExactBackupAndRestore, backup_files

EPOCHS = 6


def die_at(place: str) -> None:
    """SIGKILL at the N-th call of one of the functions that a backup goes through."""
    name, _, count = place.partition(":")
    left = [int(count or 0)]
    names = {"write": "save_file", "rename": "replace", "unlink": "unlink"}
    owner = {"write": backup_files, "rename": os, "unlink": Path}.get(name)
    if owner is None:
        return
    original = getattr(owner, names[name])

    def wrapped(*args, **kwargs):
        left[0] -= 1
        if left[0] == 0:
            if name == "write":  # With half of the file on disk.
                original(*args, **kwargs)
                os.truncate(args[1], os.path.getsize(args[1]) // 2)
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*args, **kwargs)

    setattr(owner, names[name], wrapped)


class DieAtStep(keras.callbacks.Callback):
    def __init__(self, place: str) -> None:
        super().__init__()
        self.left = int(place.removeprefix("step:")) if place.startswith("step:") else 0

    def on_train_batch_end(self, batch, logs=None):
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGKILL)


def run(lora: int, callbacks: list) -> list:
    keras.utils.set_random_seed(11)
    model = toys.trainer(keras.optimizers.AdamW(0.01), dropout=0.1, lora=lora)
    toys.fit(
        model, shuffle=True, epochs=EPOCHS, steps_per_epoch=2, callbacks=callbacks
    )  # A pass has 3 batches.
    return toys.weights(model)


def main(folder: str, place: str, lora: int) -> None:
    if toys.BACKEND == "tensorflow":
        import tensorflow as tf

        tf.config.experimental.enable_op_determinism()
    die_at(place)
    epochs = []
    seen = keras.callbacks.LambdaCallback(on_epoch_begin=lambda epoch, logs: epochs.append(epoch))
    got = run(lora, [ExactBackupAndRestore(folder), DieAtStep(place), seen])
    assert not Path(folder).exists()
    expected = run(lora, [])
    print(f"epochs={epochs[0]}..{epochs[-1]} difference={toys.difference(got, expected)}")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
