"""A process ends after a training that stopped within an epoch."""

import os
import sys
from pathlib import Path

import keras
import pytest

from tests.children import run_child

SCRIPT = """
import sys, time
import keras, training_toys as toys
import tensorflow as tf

class Stop(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        if "raise" in sys.argv:
            raise RuntimeError("in the middle")
        self.model.stop_training = True

def batches():
    for _ in range(50):
        yield toys.PAIRS
        time.sleep(0.5)  # while the process ends, TensorFlow waits for the next

spec = {side: tf.TensorSpec((None,), tf.string) for side in toys.PAIRS}
data = tf.data.Dataset.from_generator(batches, output_signature=spec)
toys.trainer().fit(data, epochs=2, verbose=0, callbacks=[Stop()])
print("trained")
"""


@pytest.mark.slow
@pytest.mark.skipif(keras.config.backend() != "tensorflow", reason="TensorFlow's iterators")
@pytest.mark.parametrize("how", ["stop", "raise"])
def test_a_process_ends_after_a_training_that_did_not(how):
    """Left to Python at its end, the iterator waited for a thread that may enter no more."""
    tests = Path(__file__).parents[1]
    path = os.pathsep.join([str(tests.parent), str(tests / "training"), str(tests)])
    environment = {"PYTHONPATH": path, "KERAS_BACKEND": "tensorflow"}
    run = run_child([sys.executable, "-c", SCRIPT, how], 60, environment)
    if how == "stop":
        assert (run.returncode, run.stdout) == (0, "trained\n"), run.stderr
    else:
        assert run.returncode == 1
        assert "RuntimeError: in the middle" in run.stderr
