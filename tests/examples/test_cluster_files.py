"""The files of `examples/cluster/`, and `train_distributed.py` as they start it."""

import copy
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jsonschema
import keras
import pytest
import yaml

EXAMPLES = Path(__file__).parents[2] / "examples"
CLUSTER = EXAMPLES / "cluster"
SCRIPT = EXAMPLES / "train_distributed.py"
SCHEMA = json.loads(Path(__file__).with_name("jobset_schema.json").read_text())
VARIABLES = re.compile(r"TF_CONFIG|(JAX|KERAS_DISTRIBUTION|OMPI|SLURM)_.*")

TRIVIAL = """
import json, os, sys, time
index = int(os.environ["JAX_PROCESS_ID"])
assert json.loads(os.environ["TF_CONFIG"])["task"] == {"type": "worker", "index": index}
print(index, os.environ["JAX_NUM_PROCESSES"], os.environ["JAX_COORDINATOR_ADDRESS"], *sys.argv[1:])
if sys.argv[1] == "fail":
    if index == 1:
        sys.exit(7)
    time.sleep(300)
"""


def _module(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def launch(monkeypatch: pytest.MonkeyPatch) -> Any:
    module = _module(CLUSTER / "launch.py")
    monkeypatch.setattr(module, "GRACE", 0.5)
    return module


@pytest.fixture
def trivial(tmp_path: Path) -> str:
    path = tmp_path / "trivial.py"
    path.write_text(TRIVIAL)
    return str(path)


@pytest.fixture
def train(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The script, in an environment without other processes."""
    monkeypatch.syspath_prepend(str(EXAMPLES))
    for name in filter(VARIABLES.fullmatch, list(os.environ)):
        monkeypatch.delenv(name)
    return _module(SCRIPT)


# === The launcher ===


def test_workers_get_the_cluster_the_arguments_and_a_log_each(
    launch: Any, trivial: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    logs = tmp_path / "logs"
    assert launch.main(["2", trivial, "--logs", str(logs), "well", "--batch-size", "64"]) == 0
    lines = [(logs / f"worker-{index}.log").read_text().split() for index in range(2)]
    assert [line[:2] for line in lines] == [["0", "2"], ["1", "2"]]
    assert lines[0][2] == lines[1][2]  # One coordinator
    assert lines[0][3:] == ["well", "--batch-size", "64"]
    assert capsys.readouterr().out.split() == lines[0]


def test_a_failing_worker_stops_the_others_and_its_status_is_returned(
    launch: Any, trivial: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    start = time.monotonic()
    assert launch.main(["3", trivial, "--logs", str(tmp_path), "fail"]) == 7
    assert time.monotonic() - start < 30
    assert f"worker 1 ended with 7; see {tmp_path / 'worker-1.log'}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["0", __file__], "expected 1 worker or more, received 0"),
        (["2", "not_there.py"], "there is no file not_there.py"),
    ],
)
def test_nothing_to_launch(
    arguments: list[str], message: str, launch: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        launch.main(arguments)
    assert message in capsys.readouterr().err


# === The manifest ===


def test_jobset_fits_the_schema_and_itself() -> None:
    manifest = yaml.safe_load((CLUSTER / "jobset.yaml").read_text())
    jsonschema.validate(manifest, SCHEMA)
    (job,) = manifest["spec"]["replicatedJobs"]
    spec = job["template"]["spec"]
    (container,) = spec["template"]["spec"]["containers"]
    variables = {entry["name"]: entry.get("value") for entry in container["env"]}
    count = spec["completions"]
    assert count == spec["parallelism"] == int(variables["KERAS_DISTRIBUTION_NUM_PROCESSES"])
    name, port = manifest["metadata"]["name"], container["ports"][0]["containerPort"]
    # As JobSet names its pods, and the network after itself.
    hosts = [f"{name}-{job['name']}-0-{index}.{name}:{port}" for index in range(count)]
    assert variables["KERAS_DISTRIBUTION_JOB_ADDRESSES"].split(",") == hosts
    mounts = {mount["name"] for mount in container["volumeMounts"]}
    assert mounts == {volume["name"] for volume in spec["template"]["spec"]["volumes"]}


@pytest.mark.parametrize("fault", ["misspelt", "number", "always"])
def test_schema_refuses(fault: str) -> None:
    manifest = copy.deepcopy(yaml.safe_load((CLUSTER / "jobset.yaml").read_text()))
    pod = manifest["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]
    if fault == "misspelt":
        manifest["spec"]["network"]["enableDnsHostnames"] = True
    elif fault == "number":
        pod["containers"][0]["env"][2]["value"] = 2
    else:
        pod["restartPolicy"] = "Always"
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(manifest, SCHEMA)


def test_arguments_in_the_manifest_are_the_scripts(train: Any) -> None:
    manifest = yaml.safe_load((CLUSTER / "jobset.yaml").read_text())
    pod = manifest["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]
    python, unbuffered, script, *flags = pod["containers"][0]["command"]
    assert (python, unbuffered, EXAMPLES.parent / script) == ("python", "-u", SCRIPT)
    assert train.parse_arguments(flags).preset == "gpt2_base_en"


# === The shell files ===


@pytest.mark.parametrize("name", ["slurm.sbatch", "tpu_vm.sh"])
def test_shell_files_parse_and_stop_at_errors(name: str) -> None:
    text = (CLUSTER / name).read_text()
    assert text.startswith("#!/usr/bin/env bash\n")
    assert "set -euo pipefail" in text
    subprocess.run(["bash", "-n", str(CLUSTER / name)], check=True)


def test_sbatch_directives_come_first_and_agree() -> None:
    lines = (CLUSTER / "slurm.sbatch").read_text().splitlines()
    directives = [line for line in lines if line.startswith("#SBATCH")]
    commands = [i for i, line in enumerate(lines) if line and not line.startswith("#")]
    # Slurm reads no further than the first command.
    assert max(map(lines.index, directives)) < commands[0]
    options = dict(
        re.fullmatch(r"#SBATCH --([a-z-]+)=?(\S*)", line).groups() for line in directives
    )
    assert int(options["ntasks-per-node"]) == int(options["gpus-per-node"])
    assert int(options["nodes"]) > 1
    assert "gpus-per-task" not in options
    assert re.fullmatch(r"\d\d:\d\d:\d\d", options["time"])


@pytest.mark.parametrize(("backend", "workers"), [("jax", "all"), ("tensorflow", "0")])
def test_tpu_command_reaches_the_script(
    backend: str, workers: str, tmp_path: Path, train: Any
) -> None:
    gcloud = tmp_path / "gcloud"
    gcloud.write_text('#!/usr/bin/env bash\nprintf "%s\\n" "$@"\n')
    gcloud.chmod(0o755)
    environment = {
        "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}",
        "KERAS_BACKEND": backend,
        "TPU": "slice",
        "ZONE": "zone",
        "OUTPUT": "/mnt/a folder",
    }
    command = ["bash", str(CLUSTER / "tpu_vm.sh"), "--preset", "gpt2_base_en"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    *options, remote = done.stdout.splitlines()
    assert options[:5] == ["compute", "tpus", "tpu-vm", "ssh", "slice"]
    assert f"--worker={workers}" in options
    # As the shell of the host splits it.
    flags = remote.split(SCRIPT.name, 1)[1]
    words = subprocess.run(
        ["bash", "-c", f'printf "%s\\n" {flags}'], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    parsed = train.parse_arguments(words)
    assert (parsed.strategy, parsed.backend) == ("tpu", backend)
    assert parsed.output == Path("/mnt/a folder")

    del environment["ZONE"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "ZONE: zone of the slice" in done.stderr


# === The script: how it finds the others ===


def _tf_config() -> Any:
    config = json.loads(os.environ["TF_CONFIG"])
    return config["cluster"]["worker"], config["task"]["index"]


def test_tensorflow_alone(train: Any) -> None:
    assert not train.join_tensorflow()
    assert "TF_CONFIG" not in os.environ


def test_tensorflow_under_slurm(train: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)  # no GPUs
    for name, value in {
        "STEP_NUM_TASKS": "4",
        "PROCID": "2",
        "STEP_NODELIST": "node[01-02]",
        "STEP_TASKS_PER_NODE": "2(x2)",
    }.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    monkeypatch.setenv("TF_CONFIG", "")  # put back after the test
    monkeypatch.delenv("TF_CONFIG")
    assert train.join_tensorflow()
    workers = ["node01:8888", "node01:8889", "node02:8888", "node02:8889"]
    assert _tf_config() == (workers, 2)


def test_tensorflow_by_the_names_of_keras_and_of_open_mpi(
    train: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "2")
    monkeypatch.setenv("OMPI_COMM_WORLD_RANK", "1")
    with pytest.raises(SystemExit, match="mpirun -x KERAS_DISTRIBUTION_JOB_ADDRESSES"):
        train.join_tensorflow()
    monkeypatch.setenv("KERAS_DISTRIBUTION_JOB_ADDRESSES", "a:1,b:1")
    monkeypatch.setenv("TF_CONFIG", "")  # put back after the test
    monkeypatch.delenv("TF_CONFIG")
    assert train.join_tensorflow()
    assert _tf_config() == (["a:1", "b:1"], 1)


@pytest.mark.parametrize(
    ("variables", "strategy", "expected"),
    [
        ({}, "auto", None),
        (
            {
                "JAX_COORDINATOR_ADDRESS": "a:1",
                "JAX_NUM_PROCESSES": "2",
                "JAX_PROCESS_ID": "0",
            },
            "auto",
            ("a:1", 2, 0),
        ),
        (
            {
                "KERAS_DISTRIBUTION_JOB_ADDRESSES": "a:1,b:1",
                "KERAS_DISTRIBUTION_NUM_PROCESSES": "2",
                "KERAS_DISTRIBUTION_PROCESS_ID": "1",
            },
            "auto",
            ("a:1,b:1", 2, 1),
        ),
        ({"SLURM_STEP_NUM_TASKS": "2"}, "auto", (None,)),
        ({"OMPI_MCA_orte_hnp_uri": "0.0;tcp://a:1", "OMPI_COMM_WORLD_SIZE": "2"}, "auto", (None,)),
        ({}, "tpu", (None,)),
    ],
)
def test_jax_is_told_or_left_to_find_out(
    variables: dict[str, str],
    strategy: str,
    expected: Any,
    train: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls: list[Any] = []
    monkeypatch.setattr(keras.distribution, "initialize", lambda *args: calls.append(args))
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    train.join_jax(strategy)
    assert calls == ([] if expected is None else [expected])


def test_jax_under_open_mpi_5_asks_for_the_address(
    train: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "2")
    monkeypatch.setenv("OMPI_COMM_WORLD_RANK", "0")
    with pytest.raises(SystemExit, match="mpirun -x JAX_COORDINATOR_ADDRESS"):
        train.join_jax("auto")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--strategy", "mirrored", "--backend", "jax"], "mirrored needs --backend tensorflow"),
        (["--model-axis", "2", "--backend", "tensorflow"], "model_parallel needs --backend jax"),
        (["--strategy", "tpu", "--backend", "torch"], "torch trains on one device"),
        (["--preset", "x"], "give either --preset, a decoder, or --smoke"),
        (["--batch-size", "1"], "--batch-size must be at least 2. Got 1"),
        (["--model-axis", "0"], "--model-axis must be at least 1. Got 0"),
    ],
)
def test_bad_flags(
    arguments: list[str], message: str, train: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        train.parse_arguments(["--smoke", *arguments])
    assert message in capsys.readouterr().err


# === The script, run ===


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["tensorflow", "jax"])
@pytest.mark.parametrize("devices", ["processes", pytest.param("virtual", marks=pytest.mark.full)])
def test_train_distributed(devices: str, backend: str, tmp_path: Path) -> None:
    flags = ["--smoke", "--steps", "2", "--epochs", "2", "--output", str(tmp_path / "out")]
    if devices == "processes":
        started = [str(CLUSTER / "launch.py"), "2", str(SCRIPT), "--logs", str(tmp_path)]
    else:
        strategy = {"tensorflow": "mirrored", "jax": "data_parallel"}[backend]
        started = [str(SCRIPT), "--virtual-devices", "2", "--strategy", strategy]
    path = os.pathsep.join([str(EXAMPLES.parent), os.environ.get("PYTHONPATH", "")])
    environment = {k: v for k, v in os.environ.items() if not VARIABLES.fullmatch(k)}
    done = subprocess.run(
        [sys.executable, *started, *flags],
        env={**environment, "PYTHONPATH": path, "KERAS_BACKEND": backend},
        capture_output=True, text=True, timeout=570, check=False,
    )  # fmt: skip
    logs = "".join(log.read_text() for log in tmp_path.glob("*.log"))
    assert done.returncode == 0, done.stdout + done.stderr + logs
    assert re.search(r"loss \d+\.\d{4}, \S+ steps/s after the first step", done.stdout)
    assert (tmp_path / "out" / "embedder" / "model.weights.h5").exists()
    assert len(list((tmp_path / "out" / "backup").iterdir())) == 2
    if devices == "processes":
        assert "loss" not in (tmp_path / "worker-1.log").read_text()
