"""One worker of a training that is killed again and again; `test_distribution_faults.py` starts it.

Arguments: the folder of backups, the file for the weights at the end, the number of epochs.
"""

import os
import sys
import time
from typing import Any

if os.environ["KERAS_BACKEND"] == "jax":
    os.environ["XLA_FLAGS"] = "--xla_backend_optimization_level=0"

import keras
import numpy as np
import training_toys as toys

from cptk import distribution
from cptk.training import ExactBackupAndRestore


class Pace(keras.callbacks.Callback):
    """Says when training begins, and takes its time, so that there is something to kill."""

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        print(f"epoch {epoch} begins", flush=True)

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        print("step", flush=True)
        time.sleep(0.1)


def main(folder: str, path: str, epochs: int) -> None:
    scope = keras.name_scope("alone")
    if toys.BACKEND == "tensorflow":
        import tensorflow as tf

        tf.config.experimental.enable_op_determinism()
        keras.utils.set_random_seed(11)
        scope = tf.distribute.MultiWorkerMirroredStrategy().scope()
    else:
        keras.distribution.initialize(
            os.environ["JAX_COORDINATOR_ADDRESS"],
            int(os.environ["JAX_NUM_PROCESSES"]),
            int(os.environ["JAX_PROCESS_ID"]),
        )
        keras.utils.set_random_seed(11)
        keras.distribution.set_distribution(keras.distribution.DataParallel())
    with scope:
        trainer = toys.trainer(keras.optimizers.AdamW(0.01), dropout=0.1, lora=2)
    backup = ExactBackupAndRestore(folder, delete_checkpoint=False)
    # Epochs of half a pass, and batches of one shape: it is compiled once.
    toys.fit(
        trainer,
        toys.EVEN,
        batch_size=2,
        shuffle=True,
        epochs=epochs,
        steps_per_epoch=2,
        callbacks=[backup, Pace()],
    )
    weights = {str(i): value for i, value in enumerate(toys.weights(trainer))}
    if distribution.is_chief():
        np.savez(path, **weights)
    print("done", flush=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
