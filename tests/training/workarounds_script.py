"""What Keras and TensorFlow do by themselves on two replicas; `test_workarounds.py` starts it.

Arguments: `mirrored` or `workers`, and the file for what was found: for each trouble, how it shows,
or an empty string where it does not.
"""

import json
import os
import sys
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

KIND, PATH = sys.argv[1:]


def strategy() -> Any:
    if KIND == "workers":
        return tf.distribute.MultiWorkerMirroredStrategy()
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    return tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])


STRATEGY = strategy()
X, Y = np.ones((4, 1), "float32"), np.zeros((4, 1), "float32")


def model(cls: Any = keras.Model, optimizer: Any = None, **options: Any) -> Any:
    """One weight, built and compiled in the scope."""
    with STRATEGY.scope():
        inputs = keras.Input((1,))
        made = cls(inputs, keras.layers.Dense(1, use_bias=False)(inputs))
        made.compile(optimizer() if optimizer else "sgd", "mse", **options)
        if optimizer:
            made.optimizer.build(made.trainable_variables)
    return made


def data(batch: int = 2) -> Any:
    return tf.data.Dataset.from_tensor_slices((X, Y)).batch(batch)


def error(function: Callable[[], Any]) -> str:
    """What a function raises."""
    try:
        function()
    except Exception as raised:
        return f"{type(raised).__name__}: {raised}"[:300]
    return ""


def in_replicas(function: Callable[[Any], Any]) -> Any:
    """A function of the replica's context, in a graph as Keras runs a step."""
    run = tf.function(
        lambda: STRATEGY.run(lambda: function(tf.distribute.get_replica_context())),
        autograph=False,
    )
    return STRATEGY.experimental_local_results(run())


def step(gradients: tuple[float, float], **options: Any) -> float:
    """By how much plain SGD lowers a weight, given the gradient of each replica."""
    with STRATEGY.scope():
        weight = keras.Variable([0.0])
        optimizer = keras.optimizers.SGD(1.0, **options)
        optimizer.build([weight])
    parts = tf.constant(gradients)

    def apply(context: Any) -> Any:
        gradient = parts[context.replica_id_in_sync_group, tf.newaxis]
        optimizer.apply_gradients([(gradient, weight)])
        return tf.zeros(())

    in_replicas(apply)
    return -float(keras.ops.convert_to_numpy(weight.value)[0])


def clipping() -> str:
    lowered = step((3.0, -1.0), global_clipnorm=1.0)  # The sum, 2, is clipped to 1.
    return "" if abs(lowered - 1) < 1e-6 else f"{lowered} instead of 1"


def adding_up() -> str:
    lowered = step((2.0, 2.0))  # Each replica has the sum already.
    return "" if abs(lowered - 2) < 1e-6 else f"{lowered} instead of 2"


def cardinality() -> str:
    parts = tf.data.Dataset.range(6).batch(1)
    counted = int(STRATEGY.distribute_datasets_from_function(lambda _: parts).cardinality)
    return "" if counted == 3 else f"{counted} instead of 3"


def gathering_bool() -> str:
    return error(lambda: in_replicas(lambda c: c.all_gather(tf.constant([True]), axis=0)))


def gathering_an_input() -> str:
    def gather(tensor: Any) -> Any:
        return tf.distribute.get_replica_context().all_gather(tensor, axis=0)

    run = tf.function(lambda x: STRATEGY.run(gather, args=(x,)), autograph=False)
    return error(lambda: run(tf.ones(2)))


def reducing_two_dtypes() -> str:
    both = [tf.ones(2, tf.float32), tf.ones(3, tf.float16)]
    return error(lambda: in_replicas(lambda c: c.all_reduce(tf.distribute.ReduceOp.SUM, both)))


def predicting() -> str:
    rows = len(model().predict_on_batch(X))
    return "" if rows == len(X) else f"{rows} rows instead of {len(X)}"


def accumulating() -> Any:
    return keras.optimizers.SGD(gradient_accumulation_steps=2)


def overwriting() -> Any:
    return keras.optimizers.SGD(use_ema=True, ema_overwrite_frequency=2)


class Unbuilt(keras.Model):
    """A model that Keras cannot build by a batch of the data."""

    def _maybe_symbolic_build(self, iterator: Any = None, data_batch: Any = None) -> None:
        pass


def fitting(*args: Any, batch: int = 2, **options: Any) -> Callable[[], str]:
    return lambda: error(lambda: model(*args, **options).fit(data(batch), epochs=2, verbose=0))


TROUBLES: dict[str, dict[str, Callable[[], str]]] = {
    "mirrored": {
        "cardinality": cardinality,
        "clipping": clipping,
        "adding up": adding_up,
        "gathering bool": gathering_bool,
        "predicting": predicting,
        "plain fit": fitting(),
        "building by an uneven batch": fitting(batch=3),
        "jit_compile": fitting(jit_compile=True),
        "steps_per_execution": fitting(steps_per_execution=2),
        "gradient_accumulation_steps": fitting(keras.Model, accumulating),
        "ema_overwrite_frequency": fitting(keras.Model, overwriting),
    },
    "workers": {
        "building": fitting(),
        "means of logs": fitting(Unbuilt, keras.optimizers.SGD),
        "reducing two dtypes": reducing_two_dtypes,
        "gathering an input": gathering_an_input,
    },
}


def main() -> None:
    found = {}
    for name, trouble in TROUBLES[KIND].items():
        found[name] = trouble()
        print(name, "->", found[name], flush=True)
    if KIND == "mirrored" or json.loads(os.environ["TF_CONFIG"])["task"]["index"] == 0:
        with open(PATH, "w") as file:
            json.dump(found, file)


if __name__ == "__main__":
    main()
