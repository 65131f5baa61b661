"""Two devices of this process share each batch: `encode_on_devices.py`, on TensorFlow or JAX.

It prints how far its vectors are from those of one device, and how many devices had rows.
"""

import os

os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=2"

import keras
import numpy as np

from cptk.models import forward
from tests import toys

TEXTS = [f"thing {number} " + "x" * (number % 11) for number in range(29)]


def on_tensorflow():
    import tensorflow as tf

    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    used = set()
    embed = forward.embed_tokens

    def spy(*args, **kwargs):
        number = tf.distribute.get_replica_context().replica_id_in_sync_group
        used.add(int(tf.get_static_value(number)))
        return embed(*args, **kwargs)

    forward.embed_tokens = spy
    with strategy.scope():
        shared = toys.gpt2_embedder(1)
    return shared, used, lambda: setattr(forward, "embed_tokens", embed)


def on_jax():
    import jax

    keras.distribution.set_distribution(keras.distribution.DataParallel(devices=jax.devices()))
    used = set()
    put = jax.device_put

    def spy(*args, **kwargs):
        found = put(*args, **kwargs)
        if not found.sharding.is_fully_replicated:
            used.update(found.sharding.device_set)
        return found

    jax.device_put = spy
    return toys.gpt2_embedder(1), used, lambda: keras.distribution.set_distribution(None)


def main():
    shared, used, back = on_jax() if keras.config.backend() == "jax" else on_tensorflow()
    weights = shared.get_weights()
    found = [
        shared.encode_text(TEXTS, verbose=0, **options)
        for options in ({}, {"batch_size": 3}, {"batch_tokens": 64})
    ]
    one = shared.encode_text(TEXTS[0], verbose=0)
    devices = len(used)
    back()
    alone = toys.gpt2_embedder(1)
    alone.set_weights(weights)
    expected = alone.encode_text(TEXTS, verbose=0)
    difference = max(np.abs(each - expected).max() for each in found)
    difference = max(difference, np.abs(one - expected[:1]).max())
    print(f"difference {difference:.1e} devices {devices}")
    assert difference < 1e-5
    assert devices == 2


if __name__ == "__main__":
    main()
