"""Keras and TensorFlow still do what `cptk/distribution/` works around, or refuses.

A test that fails here is good news: delete what it names.
"""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

from cptk import distribution

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
sys.path.append(str(ROOT / "examples" / "cluster"))
import launch  # noqa: E402

BACKEND = keras.backend.backend()
on_tensorflow = pytest.mark.skipif(BACKEND != "tensorflow", reason="of TensorFlow")

#: Where it is worked around, or refused, and the trouble, by its name in `workarounds_script.py`.
MIRRORED = [
    ("from_parts", "cardinality"),
    ("gather", "gathering bool"),
    ("train_step", "clipping"),
    ("take_over", "adding up"),
    ("build", "building by an uneven batch"),
    ("check_compile's `jit_compile`", "jit_compile"),
    ("check_compile's `steps_per_execution`", "steps_per_execution"),
    ("check_compile's `gradient_accumulation_steps`", "gradient_accumulation_steps"),
    ("check_compile's `ema_overwrite_frequency`", "ema_overwrite_frequency"),
    ("cptk.models.forward's _on_tensorflow", "predicting"),
]
WORKERS = [
    ("build", "building"),
    ("with_batch_axis", "means of logs"),
    ("apply_gradients", "reducing two dtypes"),
    ("_all_gather", "gathering an input"),
]
#: Those with a test of their own below, and the one that cannot be tested: see there.
OTHERS = {"train_step", "data_comes_cut", "_compile_anew", "_end_in_time"}


def run(kind: str, path: Path) -> dict[str, str]:
    environment = {**os.environ, "KERAS_BACKEND": "tensorflow"}
    started = [
        subprocess.Popen(
            [sys.executable, str(HERE / "workarounds_script.py"), kind, str(path)],
            env={**environment, **(of_worker if kind == "workers" else {})},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for of_worker in launch.local_cluster(2 if kind == "workers" else 1)
    ]
    for process in started:
        output = process.communicate(timeout=300)[0]
        assert process.returncode == 0, output[-4000:]
    found: dict[str, str] = json.loads(path.read_text())
    return found


@pytest.fixture(scope="module")
def mirrored(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return run("mirrored", tmp_path_factory.mktemp("mirrored") / "found.json")


@pytest.fixture(scope="module")
def workers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return run("workers", tmp_path_factory.mktemp("workers") / "found.json")


def check_needed(place: str, still_wrong: object) -> None:
    assert still_wrong, f"no longer needed: delete {place}"


@pytest.mark.slow
@on_tensorflow
@pytest.mark.parametrize(("place", "trouble"), MIRRORED)
def test_trouble_of_replicas(place, trouble, mirrored):
    assert mirrored["plain fit"] == "", "stock Keras fails here at all: nothing else says anything"
    check_needed(place, mirrored[trouble])


@pytest.mark.slow
@on_tensorflow
@pytest.mark.parametrize(("place", "trouble"), WORKERS)
def test_trouble_of_processes(place, trouble, workers):
    check_needed(place, workers[trouble])


@on_tensorflow
def test_trouble_of_an_embedding_and_adam():
    """A token that occurs twice has the sum of two gradients, and Adam the square of the sum."""
    import tensorflow as tf

    def second_moment(gradient):
        table = keras.Variable(np.zeros((3, 1), "float32"))
        optimizer = keras.optimizers.Adam(1.0, beta_2=0.5)
        optimizer.apply([gradient], [table])
        return keras.ops.convert_to_numpy(optimizer._velocities[0])[1, 0]

    rows = tf.IndexedSlices(tf.constant([[1.0], [3.0]]), tf.constant([1, 1]), tf.constant([3, 1]))
    right = (1 - 0.5) * (1 + 3) ** 2
    np.testing.assert_allclose(second_moment(tf.convert_to_tensor(rows)), right)
    wrong = abs(second_moment(rows) - right) > 1e-3
    check_needed("the `tf.convert_to_tensor` in apply_gradients", wrong)


@pytest.mark.skipif(BACKEND != "jax", reason="of JAX")
def test_trouble_of_cut_data_on_jax():
    """Where there are several processes; this one only says so."""
    data_parallel = keras.distribution.DataParallel(devices=["cpu:0"])
    data_parallel._is_multi_process = True

    class Share(keras.utils.PyDataset):
        pass

    try:
        taken = data_parallel.distribute_dataset(Share())
    except ValueError:
        taken = None
    check_needed("what data_comes_cut does", not isinstance(taken, Share))
    data_parallel.auto_shard_dataset = False
    assert isinstance(data_parallel.distribute_dataset(Share()), Share)


def test_every_workaround_is_in_this_file():
    """But for what waits for ever, of which nothing tells that it would not have ended."""
    room = Path(distribution.__file__).parent
    marked = set()
    for path in room.glob("*.py"):
        source = path.read_text()
        tree = ast.parse(source)
        marked |= {
            node.name
            for outer in [tree, *tree.body]
            for node in getattr(outer, "body", [])
            if isinstance(node, ast.FunctionDef)
            and "WORKAROUND" in (ast.get_source_segment(source, node) or "")
        }
    tested = {place for place, _ in MIRRORED + WORKERS if place.isidentifier()} | OTHERS
    assert marked == tested
    everywhere = [
        path for path in (ROOT / "cptk").rglob("*.py") if "WORKAROUND" in path.read_text()
    ]
    assert {path.parent for path in everywhere} == {room}
