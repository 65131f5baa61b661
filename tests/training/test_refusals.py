"""What cannot be exact on several devices is refused, and the message says what to do instead."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import keras
import pytest
import toys

from cptk import distribution
from cptk.distribution import torch as on_torch

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
sys.path.append(str(ROOT / "examples" / "cluster"))
import launch  # noqa: E402

BACKEND = keras.backend.backend()
on_tensorflow = pytest.mark.skipif(BACKEND != "tensorflow", reason="of TensorFlow")


@pytest.fixture
def two_replicas():
    """What `check_compile` looks at of a trainer, on a strategy of two replicas."""

    class SomeStrategy:
        num_replicas_in_sync = 2
        extended = SimpleNamespace(worker_devices=("a", "b"))

    return SimpleNamespace(distribute_strategy=SomeStrategy(), micro_batches=None)


def sgd(trainer, **options):
    """An optimizer as if made in the trainer's scope."""
    optimizer = keras.optimizers.SGD(**options)
    optimizer._distribution_strategy = trainer.distribute_strategy
    return optimizer


@on_tensorflow
@pytest.mark.parametrize(
    ("options", "of_optimizer", "message"),
    [
        (
            {"jit_compile": True},
            {},
            r"`jit_compile=True` does not work under SomeStrategy: .* Leave it out\.",
        ),
        (
            {"steps_per_execution": 2},
            {},
            r"`steps_per_execution` above 1 does not work under SomeStrategy .*19246.* Leave it",
        ),
        (
            {},
            {"gradient_accumulation_steps": 2},
            r"`gradient_accumulation_steps` does not work under SomeStrategy: .* out of the optim",
        ),
        (
            {},
            {"use_ema": True, "ema_overwrite_frequency": 2},
            r"`ema_overwrite_frequency` does not work under SomeStrategy: .* out of the optimizer",
        ),
    ],
)
def test_what_a_strategy_cannot_do(options, of_optimizer, message, two_replicas):
    plain = sgd(two_replicas)
    distribution.check_compile(two_replicas, plain, {})
    distribution.check_compile(two_replicas, "sgd", {"jit_compile": "auto"})
    refused = sgd(two_replicas, **of_optimizer)
    with pytest.raises(ValueError, match=message):
        distribution.check_compile(two_replicas, refused, options)
    if of_optimizer:
        scaled = keras.optimizers.LossScaleOptimizer(refused)
        with pytest.raises(ValueError, match=message):
            distribution.check_compile(two_replicas, scaled, options)


@on_tensorflow
def test_optimizer_from_outside_of_the_scope(two_replicas):
    outside = keras.optimizers.SGD()
    for optimizer in (outside, keras.optimizers.LossScaleOptimizer(outside)):
        with pytest.raises(ValueError, match=r"(?s)Make the optimizer in the scope .*compile"):
            distribution.check_compile(two_replicas, optimizer, {})


@on_tensorflow
def test_processes_are_those_of_the_strategy(monkeypatch):
    """Of a strategy, say Slurm's, that `TF_CONFIG` knows nothing of; and of `TF_CONFIG` alone."""
    import tensorflow as tf

    def second(job):
        hosts = {"chief": ["a:1"], "worker": ["b:1", "c:1"]} if job else {"worker": ["a:1", "b:1"]}
        task = tf.train.ClusterSpec(hosts), "", "worker", 0 if job else 1
        resolver = tf.distribute.cluster_resolver.SimpleClusterResolver(*task)
        return SimpleNamespace(cluster_resolver=resolver)

    monkeypatch.delenv("TF_CONFIG", raising=False)
    assert distribution.is_chief()
    for strategy in (second("chief"), second("")):
        assert not distribution.is_chief(strategy)
        assert not distribution.is_chief(SimpleNamespace(distribute_strategy=strategy))
    cluster = {"worker": ["a:1", "b:1"]}
    for index in range(2):
        task = {"type": "worker", "index": index}
        monkeypatch.setenv("TF_CONFIG", json.dumps({"cluster": cluster, "task": task}))
        assert distribution.is_chief() == (index == 0)


@pytest.mark.skipif(BACKEND != "jax", reason="of JAX")
def test_a_batch_axis_that_the_processes_do_not_divide(monkeypatch):
    import jax

    monkeypatch.setattr(jax, "process_count", lambda: 2)
    keras.distribution.set_distribution(keras.distribution.DataParallel(devices=["cpu:0"]))
    try:
        with pytest.raises(
            ValueError, match=r"in 1 on the axis 'batch', and there are 2 proc.*Mak"
        ):
            distribution.replicas()
    finally:
        keras.distribution.set_distribution(None)


@pytest.mark.parametrize(
    ("name", "sizes", "message"),
    [
        (
            "GPT2",
            {"num_heads": 2},
            r"has 4 .* GPT2Backbone's num_heads=2\..*DeviceMesh\(\(2, 2\), ",
        ),
        ("Llama3", {}, r"4 devices.*Llama3Backbone's num_query_heads=2\..*DeviceMesh\(\(4, 1\), "),
        (
            "Llama3",
            {"num_query_heads": 4, "num_key_value_heads": 1},
            r"num_key_value_heads=1\. .* whose model axis does.*\(\(4, 1\), \['batch', 'model'\]\)",
        ),
        ("GPT2", {"num_heads": 4, "intermediate_dim": 62}, r"intermediate_dim=62\..*\(\(2, 2\), "),
    ],
)
def test_a_model_axis_that_does_not_divide_the_heads(name, sizes, message):
    # No devices are needed to describe a layout.
    mesh = SimpleNamespace(axis_names=["batch", "model"], shape=(1, 4), devices=SimpleNamespace())
    mesh.devices.size = 4
    decoder = toys.backbone(name, 1, **sizes)
    for given in (decoder, SimpleNamespace(backbone=decoder)):
        with pytest.raises(ValueError, match=message):
            distribution.layout_map(given, mesh)
    assert distribution.layout_map(type(decoder), mesh)  # A class does not know its heads.
    assert distribution.layout_map(toys.backbone("GPT2", 1, num_heads=4), mesh)


def test_several_torch_processes_by_number(monkeypatch):
    monkeypatch.setattr(on_torch, "processes", lambda: 1)
    on_torch.OneProcess().check_compile(None, "sgd", {})
    monkeypatch.setattr(on_torch, "processes", lambda: 2)
    with pytest.raises(ValueError, match=r"Several torch processes .* Use KERAS_BACKEND=jax"):
        on_torch.OneProcess().check_compile(None, "sgd", {})


@pytest.mark.slow
@pytest.mark.once
@pytest.mark.skipif(not importlib.util.find_spec("torch"), reason="torch is not installed")
def test_several_torch_processes():
    port = launch.free_ports(1)[0]
    paths = os.pathsep.join(map(str, (HERE, HERE.parent, ROOT)))
    started = [
        subprocess.Popen(
            [sys.executable, str(HERE / "torch_script.py"), str(rank), str(port)],
            env={**os.environ, "KERAS_BACKEND": "torch", "PYTHONPATH": paths},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(2)
    ]
    for process in started:
        output = process.communicate(timeout=120)[0]
        assert process.returncode == 0, output[-4000:]
        assert "Several torch processes train several models here" in output
        assert "Use KERAS_BACKEND=jax with keras.distribution.DataParallel, or tensorflow" in output
