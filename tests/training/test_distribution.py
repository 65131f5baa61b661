"""The same training on one device and on many: the same weights, the same figures shown.

The slow tier runs some of the cases; CPTK_FULL=1 runs them all, for half an hour on each backend.
"""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import pytest
import training_toys as toys
from tiers import FULL

import cptk
from cptk import distribution

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
sys.path.append(str(ROOT / "examples" / "cluster"))
import launch  # noqa: E402

BACKEND = keras.backend.backend()
KINDS = {
    "tensorflow": [
        "mirrored:2",
        "workers:2",
        *(["mirrored:4", "tpu:2", "workers:3"] if FULL else []),
    ],
    "jax": ["devices:2", "processes:2", "mesh:2", *(["devices:4", "devices:8"] if FULL else [])],
    "torch": [],
}[BACKEND]
#: The rest of parity_script's: the other optimizer, LoRA where this has none, and so on.
CASES = ["cases"] if FULL else "GPT2-0-float32-SGD Llama3-2-float64-AdamW-cached".split()
#: Each is compiled twice.
FEATURES = ["clipping by global norm", "mixed bfloat16", "micro-batches", "generator"]
if BACKEND == "tensorflow":  # And what is refused there, which costs nothing.
    FEATURES += ["gradient accumulation", "jit_compile=True", "steps_per_execution=2", "tf.data"]
if FULL:
    FEATURES = ["features"]
#: float64 to 1e-9; float32, of weights after SGD and of all that is shown, to 1e-5.
TOLERANCES = {"float64": 1e-9, "float32": 1e-5}


#: What `FEATURES` of parity_script.py is held against: two of a kind.
TWO = {"tensorflow": "mirrored:2", "jax": "devices:2", "torch": ""}[BACKEND]
#: Two processes, whose doors are tried: a strategy's scope is not all that they share.
PROCESSES = {"tensorflow": "workers:2", "jax": "processes:2", "torch": ""}[BACKEND]
UNMUTATED = "GPT2-0-float64-SGD"
MUTANTS = [
    "negatives without gradient",
    "gradients counted once a replica",
    "mean of gradients",
    "sums of one replica",
]


#: One that reads negatives by row, three that take them from the whole batch, a user's own.
SOME_OBJECTIVES = [
    "objective KLDivergence",
    "objective InfoNCE with negatives",
    "objective InfoNCE with own negatives in tiles",
    "objective InfoNCE with a guide in tiles",
    "objective Positives",
]
#: And on two devices of one process: equal texts left out, and an objective for each source.
ON_DEVICES = ["objective SimCSE", "objective by source"]


def run(
    kind: str, path: Path, *cases: str, script: str = "parity_script.py"
) -> dict[str, np.ndarray]:
    """What a script saves."""
    name, _, count = kind.partition(":")
    processes = int(count) if name in ("workers", "processes") else 1
    command = [sys.executable, str(HERE / script), kind, str(path), *cases]
    environment = {
        **os.environ,
        "KERAS_BACKEND": BACKEND,
        "PYTHONPATH": os.pathsep.join(
            map(str, (HERE, HERE.parent, HERE.parent / "evaluation", ROOT))
        ),
    }
    started = [
        subprocess.Popen(
            command,
            env={**environment, **(of_worker if processes > 1 else {})},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for of_worker in launch.local_cluster(processes)
    ]
    for process in started:
        output = process.communicate(timeout=900)[0]
        assert process.returncode == 0, output[-4000:]
    with np.load(path) as found:
        return dict(found)


@pytest.fixture(scope="module")
def found_on(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], dict[str, np.ndarray]]:
    """All that is read of one kind of devices, from processes that are started once."""
    mutants = MUTANTS if BACKEND == "tensorflow" else []

    @functools.cache
    def find(kind: str) -> dict[str, np.ndarray]:
        names = list(CASES)
        if BACKEND == "jax" and kind != "single" and not FULL:  # One each: both are compiled anew.
            names = CASES[:1] if kind.startswith("devices") else CASES[1:]
        names += [UNMUTATED] if kind == "single" and mutants and not FULL else []
        names += FEATURES if kind in ("single", TWO) else []
        names += mutants if kind == TWO else []
        if kind in ("single", PROCESSES):
            few = BACKEND == "jax" and not FULL  # Each takes half a minute to compile there.
            names += ["doors", *(SOME_OBJECTIVES if few else ["objectives"])]
        names += ON_DEVICES if kind in ("single", TWO) else []
        return run(kind, tmp_path_factory.mktemp("found") / "found.npz", *names)

    return find


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_same_as_one_device(kind, found_on):
    one_device, found = found_on("single"), found_on(kind)
    compared = [name for name in found if name.startswith(("GPT2-", "Llama3-"))]
    assert len(compared) > 6
    for name in compared:
        expected = one_device[name]
        case, part = name.split("/")
        tolerance = TOLERANCES[case.split("-")[2]]
        if part == "vectors":
            tolerance = 1e-5  # `encode_text` gives float32.
        np.testing.assert_allclose(found[name], expected, rtol=0, atol=tolerance, err_msg=name)


@pytest.mark.slow
@pytest.mark.skipif(BACKEND == "torch", reason="one process and one device on torch")
def test_features(found_on):
    """Each feature works on two devices or is refused, as the table in docs/scaling.md says."""
    others = ("GPT2-", "Llama3-", "doors/", "objective ", *MUTANTS)
    one, two = (
        {k: v for k, v in found_on(kind).items() if not k.startswith(others)}
        for kind in ("single", TWO)
    )
    assert not [name for name in one if name.endswith("/refused")]
    lines = (ROOT / "docs" / "scaling.md").read_text().splitlines()
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines if "|" in line]
    column = {"tensorflow": 1, "jax": 2}[BACKEND]
    table = {row[0].strip("`"): row[column] for row in rows if len(row) == 4}
    features = {name.rsplit("/", 1)[0] for name in one}
    assert features <= set(table)
    for feature in features:
        refused = f"{feature}/refused" in two
        assert table[feature] == ("refused" if refused else "exact"), feature
        if refused:
            continue
        # 16 bits round differently in parts of another size.
        tolerance = 0.1 if feature.startswith("mixed") else 1e-5
        for name in one:
            if name.startswith(f"{feature}/"):
                np.testing.assert_allclose(
                    two[name], one[name], rtol=0, atol=tolerance, err_msg=name
                )


@pytest.mark.slow
@pytest.mark.skipif(BACKEND == "torch", reason="one process and one device on torch")
@pytest.mark.parametrize("kind", [PROCESSES, TWO])
def test_objectives(kind, found_on):
    """Of each objective the plain step of one device, by micro-batches on two."""
    one, two = (
        {k: v for k, v in found_on(name).items() if k.startswith("objective ")}
        for name in ("single", kind)
    )
    assert len({name.split("/")[0] for name in two}) >= 2
    assert set(two) <= set(one)
    assert not [name for name in two if name.endswith("/refused")]
    for name, found in two.items():
        np.testing.assert_allclose(found, one[name], rtol=0, atol=1e-6, err_msg=name)


@pytest.mark.slow
@pytest.mark.skipif(BACKEND == "torch", reason="one process and one device on torch")
def test_doors(found_on):
    """What else a model is used by gives the same on one device and in two processes."""
    one, found = (
        {k: v for k, v in found_on(kind).items() if k.startswith("doors/")}
        for kind in ("single", PROCESSES)
    )
    assert set(found) == set(one)
    assert len(one) > 20
    for name, expected in one.items():
        np.testing.assert_allclose(found[name], expected, rtol=0, atol=1e-5, err_msg=name)


@pytest.mark.slow
@pytest.mark.skipif(BACKEND != "tensorflow", reason="JAX sees the global batch")
@pytest.mark.parametrize("kind", ["mirrored:2", "tpu:2"])
def test_replicas_against_numpy(kind, tmp_path):
    """The tpu is a stand-in on CPUs."""
    found = run(kind, tmp_path / "found.npz", script="replica_script.py")
    assert len(found["passed"]) == 8


@pytest.mark.slow
@pytest.mark.skipif(BACKEND != "tensorflow", reason="JAX sees the global batch: nothing to mutate")
def test_mutants_are_caught(found_on):
    """What `test_same_as_one_device` compares is far from right where a step is wrong."""
    case = UNMUTATED
    right = {k: v for k, v in found_on("single").items() if k.startswith(f"{case}/")}
    wrong = found_on(TWO)
    for mutant in MUTANTS:
        differences = [
            np.max(np.abs(wrong[f"{mutant}/{part}"] - right[f"{case}/{part}"]))
            for part in {name.split("/")[1] for name in right} - {"vectors"}
        ]
        assert max(differences) > 1e-4, mutant


# === In this process ===


def test_one_device_is_one_replica():
    assert distribution.replicas() == distribution.Replicas(1, 0, 1, 1)
    assert distribution.is_chief()
    assert distribution.broadcast_from_chief(5, None) == 5
    tree = {"a": keras.ops.ones((2, 3))}
    assert distribution.gather(tree) is tree


def test_layout_maps_divide_the_large_weights():
    import keras_hub

    mesh = keras.distribution.DeviceMesh((1, 1), ["batch", "model"], ["cpu:0"])
    for name in ("GPT2", "Llama3"):
        decoder = toys.toys.backbone(name, 1)
        layout = distribution.layout_map(decoder, mesh)
        for weight in decoder.weights:
            divided = layout[weight.path]
            large = len(weight.shape) > 1
            assert (divided is not None) >= large, weight.path
            if divided is not None:
                assert len(divided.axes) == len(weight.shape), weight.path
                assert "model" in divided.axes
        lora = toys.toys.backbone(name, 1)
        cptk.training.enable_lora(lora, 2)
        factors = [weight for weight in lora.weights if "lora" in weight.path]
        assert factors
        assert not any(layout[weight.path] for weight in factors)
    assert distribution.layout_map(keras_hub.models.LlamaBackbone, mesh)
    with pytest.raises(TypeError, match=r"knows the backbones .*Received: BloomBackbone"):
        distribution.layout_map(keras_hub.models.BloomBackbone, mesh)
    flat = keras.distribution.DeviceMesh((1,), ["data"], ["cpu:0"])
    with pytest.raises(ValueError, match=r"should have the axes 'batch' and 'model'.*\['data'\]"):
        distribution.layout_map(keras_hub.models.GPT2Backbone, flat)


def test_shares_cover_the_batch_in_order():
    from cptk.data.batching import share_rows

    batch = ({"query": np.arange(10).reshape(5, 2)}, None, np.ones(5))
    parts = [share_rows(batch, 3, first, 1) for first in range(3)]
    joined = np.concatenate([x["query"] for x, _, _ in parts])
    np.testing.assert_array_equal(joined[:5], batch[0]["query"])
    assert (joined[5:] == 0).all()
    assert len(joined) == 6
    assert [weight.sum() for _, _, weight in parts] == [2, 2, 1]
    np.testing.assert_array_equal(share_rows(batch, 3, 1, 2)[0]["query"], joined[2:])
