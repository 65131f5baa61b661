"""Exact resumption of an interrupted training run."""

import json
import os
from importlib import import_module
from pathlib import Path
from typing import Any

import keras
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file


class ExactBackupAndRestore(keras.callbacks.Callback):  # type: ignore[misc]
    """Backs up a `ContrastiveTrainer` each epoch; run again, `fit` goes on where it was killed.

    The run ends with the weights it would have had without the interruption, given the same
    script, pairs in memory (`{"query": …, "document": …}`) and a deterministic backend (on
    TensorFlow `tf.config.experimental.enable_op_determinism()`). What is backed up: every
    variable of model and optimizer, LoRA's factors and the random state of dropout among them,
    the epoch, and the seed of the data order. `keras.callbacks.BackupAndRestore` leaves out the
    last three, and a kill while it writes leaves weights and epoch that do not belong together.
    Here the file that names the backup is replaced in one step, after all else is on disk.

    Epochs need not be passes over the data: with `steps_per_epoch=50`, a backup is made each 50
    steps, and no more than 50 steps are ever lost.

    Args:
        backup_dir: Folder of the backup; one for each run.
        delete_checkpoint: Whether to delete the backup when training has ended.

    Raises:
        ValueError: The backup is damaged or of another model.

    Example:

    ```python
    trainer.fit(
        pairs, batch_size=64, epochs=20, steps_per_epoch=50,
        callbacks=[cptk.training.ExactBackupAndRestore("backup")],
    )
    ```
    """

    def __init__(self, backup_dir: str | os.PathLike[str], delete_checkpoint: bool = True) -> None:
        super().__init__()
        if not backup_dir:
            raise ValueError("`backup_dir` should be the path of a folder. Received an empty one.")
        self.backup_dir = Path(backup_dir)
        self.delete_checkpoint = delete_checkpoint

    @property
    def _index(self) -> Path:
        return self.backup_dir / "backup.json"

    def on_train_begin(self, logs: Any = None) -> None:
        if not hasattr(self.model, "seed"):
            raise TypeError(
                "ExactBackupAndRestore goes with a ContrastiveTrainer. Received: "
                f"{type(self.model).__name__}. Use keras.callbacks.BackupAndRestore."
            )
        if not self._index.exists():
            return
        try:
            index = json.loads(self._index.read_text())
            state = load_file(self.backup_dir / index["file"])
        except (OSError, ValueError, KeyError, SafetensorError) as error:
            raise ValueError(
                f"The backup in {str(self.backup_dir)!r} is damaged ({error}). Delete the folder "
                "to begin anew."
            ) from error
        generators = {name: state.pop(name) for name in list(state) if name in _torch_generators()}
        variables = self._variables()
        wrong = [
            f"{v.path} {tuple(v.shape)}"
            for name, v in variables.items()
            if name not in state or state[name].shape != _bytes(v).shape
        ]
        if wrong or len(state) != len(variables):
            raise ValueError(
                f"The backup in {str(self.backup_dir)!r} is of another model or optimizer "
                f"({len(wrong)} of {len(variables)} variables do not fit: {wrong[:3]}). Build the "
                "same one, or delete the folder to begin anew."
            )
        for name, variable in variables.items():
            array = np.asarray(keras.ops.convert_to_numpy(variable.value))
            variable.assign(state[name].reshape(-1).view(array.dtype).reshape(array.shape))
        for name, value in generators.items():
            _torch_generators()[name].set_state(_torch_tensor(value))
        self.model.seed = index["seed"]
        self.model._initial_epoch = index["epoch"]

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.backup_dir.mkdir(parents=True, exist_ok=True)
        name = f"epoch-{epoch + 1}.safetensors"
        _write(self.backup_dir / name, lambda path: save_file(self._state(), path))
        index = {"epoch": epoch + 1, "seed": self.model.seed, "file": name}
        _write(self._index, lambda path: path.write_text(json.dumps(index)))
        for old in self.backup_dir.glob("epoch-*.safetensors"):
            if old.name != name:
                old.unlink(missing_ok=True)

    def on_train_end(self, logs: Any = None) -> None:
        if not self.delete_checkpoint or not self.backup_dir.exists():
            return
        # The index first: without it the rest is no backup. Files of others stay.
        self._index.unlink(missing_ok=True)
        for pattern in ("epoch-*.safetensors", "epoch-*.safetensors.tmp", "backup.json.tmp"):
            for path in self.backup_dir.glob(pattern):
                path.unlink()
        if not any(self.backup_dir.iterdir()):
            self.backup_dir.rmdir()

    def _state(self) -> dict[str, np.ndarray]:
        state = {name: _bytes(variable) for name, variable in self._variables().items()}
        for name, generator in _torch_generators().items():
            state[name] = generator.get_state().numpy()
        return state

    def _variables(self) -> dict[str, Any]:
        """Variables of model and optimizer, named by their order; metrics start anew."""
        optimizer = self.model.optimizer
        if not optimizer.built:
            optimizer.build(self.model.trainable_variables)
        named = {}
        for kind, variables in (
            ("model", self.model.variables),
            ("optimizer", optimizer.variables),
        ):
            metrics = set(map(id, self.model.metrics_variables))
            kept = [v for v in variables if id(v) not in metrics]
            named.update({f"{kind}/{i}": v for i, v in enumerate(kept)})
        return named


def _torch_generators() -> dict[str, Any]:
    """On torch, Keras draws the masks of dropout from torch's own generators."""
    if keras.backend.backend() != "torch":
        return {}
    torch = import_module("torch")
    found = {"torch/cpu": torch.default_generator}
    if torch.cuda.is_initialized():
        found.update({f"torch/cuda{i}": g for i, g in enumerate(torch.cuda.default_generators)})
    return found


def _torch_tensor(array: np.ndarray) -> Any:
    return import_module("torch").from_numpy(array.copy())


def _bytes(variable: Any) -> np.ndarray:
    """A variable's value as bytes `(*shape, itemsize)`: NumPy has no bfloat16 of its own."""
    array = np.asarray(keras.ops.convert_to_numpy(variable.value))
    flat = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    return flat.reshape(*array.shape, array.itemsize)


def _write(path: Path, write: Any) -> None:
    """Write a file beside its place, flush it to disk, and rename."""
    scratch = path.with_name(path.name + ".tmp")
    write(scratch)
    with open(scratch, "rb+") as file:
        os.fsync(file.fileno())
    os.replace(scratch, path)
