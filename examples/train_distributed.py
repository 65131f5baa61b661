"""Trains an embedder on one device or on many, by the same `fit`.

    python examples/train_distributed.py --smoke                               # all devices here
    python examples/train_distributed.py --smoke --virtual-devices 2           # two of one CPU
    python examples/cluster/launch.py 2 examples/train_distributed.py --smoke  # two processes
    srun python examples/train_distributed.py --preset gpt2_base_en --batch-size 1024

On TensorFlow a strategy's scope is opened, on JAX a distribution is set; the rest is as for one
device. Other processes are looked for in

- TF_CONFIG, on TensorFlow,
- JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID, on JAX,
- KERAS_DISTRIBUTION_JOB_ADDRESSES, _NUM_PROCESSES and _PROCESS_ID, on both,
- what srun, or mpirun of Open MPI, has set.

The pairs are docstrings and functions of the standard library: all processes need the same Python.
Interrupted, training goes on when all are started again with the same command. `examples/cluster/`
has files for Slurm, Kubernetes and TPU slices.
"""

import argparse
import contextlib
import json
import os
import shutil
import sys
import sysconfig
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from quickstart_models import tiny_gpt2

import cptk  # quick: Keras and its backend are imported when they are first used

SEED, LEARNING_RATE, SEQUENCE_LENGTH = 0, 1e-4, 128
BACKEND_OF = {
    "mirrored": "tensorflow",
    "workers": "tensorflow",
    "data_parallel": "jax",
    "model_parallel": "jax",
}
ADDRESSES = "KERAS_DISTRIBUTION_JOB_ADDRESSES"
COUNT = ("JAX_NUM_PROCESSES", "KERAS_DISTRIBUTION_NUM_PROCESSES", "OMPI_COMM_WORLD_SIZE")
INDEX = ("JAX_PROCESS_ID", "KERAS_DISTRIBUTION_PROCESS_ID", "OMPI_COMM_WORLD_RANK")


def main(arguments: Sequence[str] | None = None) -> None:
    """Devices, model, data, `fit`."""
    options = parse_arguments(arguments)
    os.environ["KERAS_BACKEND"] = options.backend  # Keras reads it when it is imported
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    start = {"tensorflow": on_tensorflow, "jax": on_jax}.get(options.backend)
    scope = start(options) if start else contextlib.nullcontext  # Keras 3.15: torch has one device.

    import keras

    from cptk import distribution

    keras.utils.set_random_seed(SEED)
    with scope():
        embedder = load_embedder(options)
        trainer = cptk.ContrastiveTrainer(embedder, seed=SEED)
        trainer.compile(
            keras.optimizers.AdamW(LEARNING_RATE, global_clipnorm=1.0),
            loss=cptk.losses.InfoNCE(mask_equal_texts=True),
        )

    ends: list[float] = []
    history = trainer.fit(
        collect_pairs(options),
        batch_size=options.batch_size,
        epochs=options.epochs,
        steps_per_epoch=options.steps,
        callbacks=[
            cptk.training.ExactBackupAndRestore(options.backup, delete_checkpoint=False),
            keras.callbacks.LambdaCallback(
                on_train_batch_end=lambda batch, logs: ends.append(time.perf_counter())
            ),
        ],
        verbose=2 if distribution.is_chief(trainer) else 0,
    ).history
    finished = time.perf_counter()

    if distribution.is_chief(trainer):
        options.output.mkdir(parents=True, exist_ok=True)
        embedder.save_to_preset(str(options.output / "embedder"))
        if ends:
            rate = (len(ends) - 1) / (finished - ends[0])  # The first step is mostly compilation.
            print(f"loss {history['loss'][-1]:.4f}, {rate:.3g} steps/s after the first step")
        else:
            print(f"All was done before; delete {options.backup} to train anew.")
        print(f"The preset is in {options.output / 'embedder'}")


# === Devices and processes ===


def on_tensorflow(options: argparse.Namespace) -> Any:
    """The scope to make the model in: that of a `tf.distribute` strategy, or of none."""
    kind = options.strategy
    several = kind in ("auto", "workers") and join_tensorflow()
    import tensorflow as tf

    if several:
        # Before anything else: TensorFlow sets up its collectives when it starts.
        return tf.distribute.MultiWorkerMirroredStrategy().scope
    if kind == "workers":
        sys.exit(
            "--strategy workers found no other process. Set TF_CONFIG, or start the script by "
            "examples/cluster/launch.py, srun or mpirun."
        )
    if kind == "tpu":
        resolver = tf.distribute.cluster_resolver.TPUClusterResolver(
            tpu=os.environ.get("TPU_NAME", "local")
        )
        tf.config.experimental_connect_to_cluster(resolver)
        tf.tpu.experimental.initialize_tpu_system(resolver)
        return tf.distribute.TPUStrategy(resolver).scope
    if options.virtual_devices > 1:
        tf.config.set_logical_device_configuration(
            tf.config.list_physical_devices("CPU")[0],
            [tf.config.LogicalDeviceConfiguration()] * options.virtual_devices,
        )
    devices = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
    if kind == "one" or (kind == "auto" and len(devices) == 1):
        return contextlib.nullcontext
    return tf.distribute.MirroredStrategy([device.name for device in devices]).scope


def join_tensorflow() -> bool:
    """Whether there are other processes; if so, TF_CONFIG names them."""
    if "TF_CONFIG" in os.environ:
        return True
    if slurm_tasks() > 1:
        addresses, index = slurm_addresses()
    else:
        count, index = int(first_set(COUNT) or 1), int(first_set(INDEX) or 0)
        addresses = os.environ.get(ADDRESSES, "").split(",")
        if count > 1 and len(addresses) != count:
            sys.exit(
                f"There are {count} processes, and TensorFlow has to be told where. Set "
                f"{ADDRESSES} to host:port,host:port,… of all, in the order of their ranks; "
                f"with Open MPI: mpirun -x {ADDRESSES}=…"
            )
        if count == 1:
            return False
    task = {"type": "worker", "index": index}
    os.environ["TF_CONFIG"] = json.dumps({"cluster": {"worker": addresses}, "task": task})
    return True


def slurm_addresses() -> tuple[list[str], int]:
    """Addresses of this Slurm step's tasks, and which one this is; a task is given its GPUs."""
    import tensorflow as tf

    no_gpus = {"gpus_per_node": slurm_tasks(), "gpus_per_task": 1, "auto_set_gpu": False}
    resolver = tf.distribute.cluster_resolver.SlurmClusterResolver(
        **({} if shutil.which("nvidia-smi") else no_gpus)
    )
    addresses = resolver.cluster_spec().as_dict()["worker"]
    return addresses, resolver.get_task_info()[1]


def on_jax(options: argparse.Namespace) -> Any:
    """Sets how batches, and weights, are divided among all devices of all processes."""
    if options.virtual_devices > 1:
        flag = f"--xla_force_host_platform_device_count={options.virtual_devices}"
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flag}"
    if options.strategy == "one":
        return contextlib.nullcontext
    import keras

    join_jax(options.strategy)
    count = len(keras.distribution.list_devices())
    if options.strategy == "model_parallel":
        if count % options.model_axis:
            sys.exit(f"--model-axis should divide the {count} devices. Got {options.model_axis}.")
        shape = (count // options.model_axis, options.model_axis)
        mesh = keras.distribution.DeviceMesh(shape, ["batch", "model"])
        layout = cptk.training.distribution.layout_map(backbone_class(options), mesh)
        keras.distribution.set_distribution(
            keras.distribution.ModelParallel(layout_map=layout, batch_dim_name="batch")
        )
    elif count > 1:
        keras.distribution.set_distribution(keras.distribution.DataParallel())
    return contextlib.nullcontext


def join_jax(strategy: str) -> None:
    """Connects to the other processes, if there are any. Nothing may have touched JAX before."""
    import keras

    address, count, index = (
        first_set(names) for names in (("JAX_COORDINATOR_ADDRESS", ADDRESSES), COUNT, INDEX)
    )
    if address and count and index:
        keras.distribution.initialize(address, int(count), int(index))
    elif strategy == "tpu" or slurm_tasks() > 1 or "OMPI_MCA_orte_hnp_uri" in os.environ:
        keras.distribution.initialize(address)  # JAX finds the others by itself.
    elif int(count or 1) > 1:
        sys.exit(
            f"There are {count} processes, and JAX has to be told where the first one is. Set "
            "JAX_COORDINATOR_ADDRESS to its host and a free port there, host:port; with Open MPI "
            "5: mpirun -x JAX_COORDINATOR_ADDRESS=…"
        )


def slurm_tasks() -> int:
    """Number of tasks that srun has started this script in; 1 without srun."""
    return int(os.environ.get("SLURM_STEP_NUM_TASKS", 1))


def first_set(names: Sequence[str]) -> str | None:
    """The value of the first of these environment variables that is set."""
    return next((os.environ[name] for name in names if os.environ.get(name)), None)


# === Model and data ===


def load_embedder(options: argparse.Namespace) -> Any:
    """The decoder asked for, or a tiny one with random weights."""
    if options.smoke:
        return tiny_gpt2(SEQUENCE_LENGTH, "float32")
    return cptk.models.TextEmbedder.from_preset(
        options.preset, sequence_length=SEQUENCE_LENGTH, dtype=cptk.models.fastest_dtype()
    )


def backbone_class(options: argparse.Namespace) -> Any:
    """The decoder's class: the layout has to be set before its weights are loaded."""
    import keras_hub

    if options.smoke:
        return keras_hub.models.GPT2Backbone
    return type(keras_hub.models.Backbone.from_preset(options.preset, load_weights=False))


def collect_pairs(options: argparse.Namespace) -> Any:
    """Docstrings and functions of the standard library, in the same order in each process."""
    library = Path(sysconfig.get_path("stdlib"))
    roots = [library / name for name in ("asyncio", "email")] if options.smoke else library
    functions = cptk.mining.mine_functions(roots)
    whole = len(functions) // options.batch_size * options.batch_size
    if not whole:
        sys.exit(f"There are {len(functions)} pairs here: give a --batch-size of no more.")
    return functions[:whole]


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The flags, checked."""
    parser = argparse.ArgumentParser(
        description="Trains an embedder on one device or on many.", allow_abbrev=False
    )
    add = parser.add_argument
    kinds = ("auto", "one", *BACKEND_OF, "tpu")
    add("--strategy", choices=kinds, default="auto", help="auto: all devices and processes found")
    add("--model-axis", type=int, default=1, help="devices that share one copy of the weights")
    add("--backend", choices=["tensorflow", "jax", "torch"], help="of Keras (default: tensorflow)")
    add("--preset", help="the decoder: a preset's folder or name")
    add("--smoke", action="store_true", help="a tiny random GPT-2 instead, and few pairs")
    add("--batch-size", type=int, default=64, help="pairs in a batch, of all devices together")
    add("--steps", type=int, default=10, help="steps in an epoch; a backup is made after each")
    add("--epochs", type=int, default=2)
    add("--output", type=Path, default=Path("distributed_output"), help="folder for the preset")
    add("--backup", type=Path, help="folder that all processes share (default: OUTPUT/backup)")
    add("--virtual-devices", type=int, default=1, help="cut the CPU into so many, to try it out")
    options = parser.parse_args(arguments)
    options.backend = options.backend or os.environ.get("KERAS_BACKEND", "tensorflow")
    options.backup = options.backup or options.output / "backup"
    if options.model_axis > 1 and options.strategy == "auto":
        options.strategy = "model_parallel"
    if BACKEND_OF.get(options.strategy, options.backend) != options.backend:
        parser.error(
            f"--strategy {options.strategy} needs --backend {BACKEND_OF[options.strategy]}"
        )
    if options.backend == "torch" and options.strategy not in ("auto", "one"):
        parser.error("--backend torch trains on one device: Keras 3.15 has no more for it.")
    if options.smoke == bool(options.preset):
        parser.error("give either --preset, a decoder, or --smoke, a tiny random one.")
    for name, least in (("batch_size", 2), ("steps", 1), ("epochs", 1), ("model_axis", 1)):
        if getattr(options, name) < least:
            flag = "--" + name.replace("_", "-")
            parser.error(f"{flag} must be at least {least}. Got {getattr(options, name)}.")
    return options


if __name__ == "__main__":
    main()
