"""What a replica does on TensorFlow, against NumPy; `test_distribution.py` starts it.

Arguments: `mirrored:2` or `tpu:2`, the latter a stand-in, and the file for the names of the checks.
"""

import sys
import types
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import parity_script
import tensorflow as tf
import toys

import cptk
from cptk import distribution
from cptk.distribution import tensorflow_step
from cptk.training import inputs

RNG = np.random.default_rng(0)
SCOPE = parity_script.prepare()
with SCOPE():
    STRATEGY = tf.distribute.get_strategy()
MODEL = types.SimpleNamespace(distribute_strategy=STRATEGY)


def in_replicas(function: Callable[[Any], Any]) -> list[Any]:
    """What a function of the replica's number gives in each, run in a graph as Keras does."""

    def one() -> Any:
        return function(tf.distribute.get_replica_context().replica_id_in_sync_group)

    return local(tf.function(lambda: STRATEGY.run(one), autograph=False)())


def local(tree: Any) -> list[Any]:
    """A structure of the replicas' values as a structure of arrays for each replica."""
    flat = [STRATEGY.experimental_local_results(leaf) for leaf in tf.nest.flatten(tree)]
    return [
        tf.nest.pack_sequence_as(tree, [np.asarray(leaf[replica]) for leaf in flat])
        for replica in range(2)
    ]


def own_first(parts: Any, replica: int) -> Any:
    return np.concatenate([*parts[replica:], *parts[:replica]])


def check_description() -> None:
    assert distribution.replicas(MODEL) == distribution.Replicas(2, 0, 2, 1)
    assert distribution.is_chief(MODEL)
    assert distribution.is_chief(STRATEGY)
    assert distribution.broadcast_from_chief(7, MODEL) == 7
    assert distribution.replicas_in_sync() == 1
    assert in_replicas(lambda _: tf.constant(distribution.replicas_in_sync())) == [2, 2]


def check_gather() -> None:
    for dtype in ("float32", "int32", "bool", "uint8"):
        parts = RNG.integers(0, 2, (2, 3, 2)).astype(dtype)
        given = tf.constant(parts)
        found = in_replicas(lambda i: distribution.gather({"x": given[i]}))  # noqa: B023
        for replica in range(2):
            np.testing.assert_array_equal(found[replica]["x"], own_first(parts, replica))


def check_gradient_of_gather() -> None:
    """Each replica weighs all rows; a row's gradient is the sum of its weights."""
    parts, weights = RNG.normal(size=(2, 3, 2)), RNG.normal(size=(2, 6, 2))
    x, w = tf.constant(parts), tf.constant(weights)

    def gradient(replica: Any) -> Any:
        own = x[replica]
        with tf.GradientTape() as tape:
            tape.watch(own)
            loss = tf.reduce_sum(distribution.gather(own) * w[replica])
        return tape.gradient(loss, own)

    found = in_replicas(gradient)
    for replica in range(2):
        expected = weights[replica, :3] + weights[1 - replica, 3:]
        np.testing.assert_allclose(found[replica], expected, rtol=1e-12)


def check_total() -> None:
    parts = RNG.normal(size=(2, 3))
    x = tf.constant(parts)

    def both(replica: Any) -> Any:
        own = x[replica]
        with tf.GradientTape() as tape:
            tape.watch(own)
            summed = distribution.all_reduce_sum(own)
        assert tape.gradient(summed, own) is None
        return summed

    for found in in_replicas(both):
        np.testing.assert_allclose(found, parts.sum(0), rtol=1e-12)


def check_apply_gradients() -> None:
    """One step of Adam, clipped by the norm of the sum; a row of the table occurs twice."""
    step_of_adam("float32", norm=0.3)
    step_of_adam("float64", norm=None)  # Keras cannot clip several dtypes by one norm.


def step_of_adam(wide: str, norm: float | None) -> None:
    rate, b1, b2, epsilon = 0.1, 0.5, 0.75, 1e-7
    shapes = {"weight": (2, 3), "wide": (2,), "table": (4, 2), "unused": (3,)}
    with SCOPE():
        variables = {
            name: keras.Variable(
                np.zeros(shape), dtype=wide if name == "wide" else "float32", name=name
            )
            for name, shape in shapes.items()
        }
        optimizer = keras.optimizers.Adam(rate, b1, b2, epsilon, global_clipnorm=norm)
        optimizer.build(list(variables.values()))
    distribution.take_over(types.SimpleNamespace(optimizer=optimizer, distribute_strategy=STRATEGY))
    dense = {n: RNG.normal(size=(2, *shapes[n])) for n in ("weight", "wide")}
    rows, values = np.array([[1, 1, 3], [1, 0, 0]]), RNG.normal(size=(2, 3, 2))

    def step(replica: Any) -> Any:
        table = tf.IndexedSlices(
            tf.constant(values, tf.float32)[replica], tf.constant(rows)[replica], shapes["table"]
        )
        gradients = [
            tf.constant(dense["weight"], tf.float32)[replica],
            tf.constant(dense["wide"], wide)[replica],
            table,
            None,
        ]
        tensorflow_step.apply_gradients(optimizer, gradients, list(variables.values()))
        return tf.zeros(())

    in_replicas(step)
    summed = {name: both.sum(0) for name, both in dense.items()}
    summed["table"] = np.zeros(shapes["table"])
    np.add.at(summed["table"], rows.ravel(), values.reshape(-1, 2))
    length = np.sqrt(sum(np.sum(g**2) for g in summed.values()))
    scale = min(1.0, norm / length) if norm else 1.0
    assert norm is None or scale < 1
    for name, gradient in summed.items():
        clipped = gradient * scale
        first, second = (1 - b1) * clipped, (1 - b2) * clipped**2
        by = rate * np.sqrt(1 - b2) / (1 - b1) * first / (np.sqrt(second) + epsilon)
        for copy in STRATEGY.experimental_local_results(variables[name].value):
            np.testing.assert_allclose(np.asarray(copy), -by, rtol=1e-4, atol=1e-6, err_msg=name)
    assert not np.any(keras.ops.convert_to_numpy(variables["unused"].value))


def check_data() -> None:
    """The parts of a batch, rows of zeros at the end; all of them on however many hosts."""
    batches = [{"x": np.arange(1, 11).reshape(5, 2)}, {"x": np.arange(21, 29).reshape(4, 2)}]
    expected = [
        np.array_split(np.concatenate([b["x"], np.zeros((len(b["x"]) % 2, 2))]), 2) for b in batches
    ]

    class Batches(keras.utils.PyDataset):
        num_batches = 2

        def __getitem__(self, index: int) -> Any:
            return batches[index]

    data = inputs.to_backend(Batches(), MODEL)
    assert data.cardinality == 2
    for step, parts in zip(data, expected, strict=True):
        for found, part in zip(local(step), parts, strict=True):
            np.testing.assert_array_equal(found["x"], part)
    for batch, parts in zip(batches, expected, strict=True):
        for found, part in zip(local(distribution.shard_batch(batch, MODEL)), parts, strict=True):
            np.testing.assert_array_equal(found["x"], part)

    class TwoHosts:
        """A strategy of two hosts, fed by this process; the second is asked first."""

        num_replicas_in_sync = 4
        extended = types.SimpleNamespace(worker_devices=("TPU",) * 4)

        def distribute_datasets_from_function(self, function: Any) -> Any:
            self.hosts = [function(tf.distribute.InputContext(2, host, 4)) for host in (1, 0)]
            return types.SimpleNamespace()

    hosts = TwoHosts()
    slice_model = types.SimpleNamespace(distribute_strategy=hosts)
    assert distribution.replicas(slice_model) == distribution.Replicas(4, 0, 4, 1)
    assert inputs.to_backend(Batches(), slice_model)._cardinality == 2
    second, first = ([part["x"].numpy() for part in host] for host in hosts.hosts)
    for number, batch in enumerate(batches):
        rows = np.concatenate([batch["x"], np.zeros((-len(batch["x"]) % 4, 2))])
        both = [*first[2 * number :][:2], *second[2 * number :][:2]]
        np.testing.assert_array_equal(np.concatenate(both), rows)


def check_loss() -> None:
    """Five pairs and a row without a token: the mean is the loss of the paper's formula."""
    n, dim, temperature = 5, 4, 0.5
    with SCOPE():
        embedder = toys.gpt2_embedder(1)
        head = cptk.layers.ContrastiveHead(temperature=temperature)
        trainer = cptk.ContrastiveTrainer(embedder, head, seed=3)
        options = {"jit_compile": True} if parity_script.KIND == "tpu" else {}
        trainer.compile("sgd", **options)
    vectors = {side: RNG.normal(size=(6, dim)) for side in ("query", "document")}
    given = {s: tf.constant(v.reshape(2, 3, dim), tf.float32) for s, v in vectors.items()}
    is_pair = tf.constant(np.arange(6).reshape(2, 3, 1) < n)

    def loss_and_gradients(replica: Any) -> Any:
        own = {side: rows[replica] for side, rows in given.items()}
        tokens = {"token_ids": tf.ones((3, 1), tf.int32), "padding_mask": is_pair[replica]}
        with tf.GradientTape() as tape:
            tape.watch(own)
            loss = trainer.compute_loss({"query": tokens, "document": tokens}, y_pred=own)
        return loss, tape.gradient(loss, own)

    (first, first_gradient), (second, second_gradient) = in_replicas(loss_and_gradients)
    units = {s: v[:n] / np.linalg.norm(v[:n], axis=1, keepdims=True) for s, v in vectors.items()}
    logits = units["query"] @ units["document"].T / temperature
    rows = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    columns = np.exp(logits) / np.exp(logits).sum(0, keepdims=True)
    expected = -np.mean(np.log(np.diag(rows)) + np.log(np.diag(columns))) / 2
    np.testing.assert_allclose((first + second) / 2, expected, rtol=1e-5)
    of_logits = (rows + columns - 2 * np.eye(n)) / (2 * n * temperature)
    of_units = {"query": of_logits @ units["document"], "document": of_logits.T @ units["query"]}
    for side, unit in units.items():
        found = np.concatenate([first_gradient[side], second_gradient[side]]) / 2
        along = np.sum(of_units[side] * unit, axis=1, keepdims=True) * unit
        right = (of_units[side] - along) / np.linalg.norm(vectors[side][:n], axis=1, keepdims=True)
        np.testing.assert_allclose(found[:n], right, rtol=1e-4, atol=1e-6, err_msg=side)
        np.testing.assert_allclose(found[n:], 0, atol=1e-6)


def check_compile() -> None:
    """Only under a TPU's strategy may the step be compiled."""
    trainer = types.SimpleNamespace(distribute_strategy=STRATEGY, micro_batches=None)
    try:
        distribution.check_compile(trainer, "sgd", {"jit_compile": True})
    except ValueError:
        assert parity_script.KIND == "mirrored"
    else:
        assert parity_script.KIND == "tpu"


def main() -> None:
    passed = []
    for name, check in list(globals().items()):
        if name.startswith("check_"):
            check()
            passed.append(name)
            print(name, flush=True)
    np.savez(sys.argv[2], passed=passed)


if __name__ == "__main__":
    main()
