"""Exact resumption of an interrupted training run."""

import json
import os
import warnings
from importlib import import_module
from pathlib import Path
from typing import Any

import keras
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file, save_file

from cptk.training import distribution
from cptk.training.inputs import DataOrder


class ExactBackupAndRestore(keras.callbacks.Callback):  # type: ignore[misc]
    """Backs up a `ContrastiveTrainer` each epoch; run again, `fit` goes on where it was killed.

    The run ends with the weights it would have had without the interruption, given the same
    script, pairs in memory (`{"query": …, "document": …}`) and a deterministic backend (on
    TensorFlow `tf.config.experimental.enable_op_determinism()`). What is backed up: every
    variable of model and optimizer, LoRA's factors and the random state of dropout among them,
    the epoch, and the seed of the data order. `keras.callbacks.BackupAndRestore` leaves out the
    last three, and a kill while it writes leaves weights and epoch that do not belong together.
    Here a backup is one file, renamed into place when it is on disk, and the two newest are kept:
    where the newest cannot be read, a warning says so and the one before is used. A backup that
    cannot be written, on a full disk say, is warned of too; training goes on.

    Of several processes the first one writes, and all read: `backup_dir` is a folder that they
    share. When one is killed the others end with an error within seconds; start all again.

    Epochs need not be passes over the data: with `steps_per_epoch=50`, a backup is made each 50
    steps, and no more than 50 steps are ever lost.

    Args:
        backup_dir: Folder of the backups; one for each run.
        delete_checkpoint: Whether to delete the backups when training has ended.

    Raises:
        ValueError: All backups are damaged, or of another model, or the processes found different
            ones.

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

    def on_train_begin(self, logs: Any = None) -> None:
        if not hasattr(self.model, "seed"):
            raise TypeError(
                "ExactBackupAndRestore goes with a ContrastiveTrainer. Received: "
                f"{type(self.model).__name__}. Use keras.callbacks.BackupAndRestore."
            )
        epoch, seed, order, state = self._newest()
        first = distribution.agree(epoch, self.model)
        if epoch != first:
            raise ValueError(
                f"The first process found a backup of epoch {first} in {str(self.backup_dir)!r}, "
                f"and this one of epoch {epoch} (0: none). `backup_dir` should be a folder that "
                "all processes share."
            )
        if not epoch:
            return
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
        values = []
        for name, variable in variables.items():
            # Read outside of the scope, where a variable of several processes is one array.
            array = np.asarray(keras.ops.convert_to_numpy(variable.value))
            values.append(state[name].reshape(-1).view(array.dtype).reshape(array.shape))
        with distribution.scope(self.model):
            for variable, value in zip(variables.values(), values, strict=True):
                variable.assign(value)
        for name, value in generators.items():
            _torch_generators()[name].set_state(_torch_tensor(value))
        self.model.seed = seed
        self.model.data_order = DataOrder(**order)
        self.model._initial_epoch = epoch

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        if not distribution.is_chief(self.model):
            return
        path = self.backup_dir / f"epoch-{epoch + 1}.safetensors"
        scratch = path.with_name(path.name + ".tmp")
        about = {
            "epoch": str(epoch + 1),
            "seed": str(self.model.seed),
            "data_order": json.dumps(self.model.data_order.get_config()),
        }
        try:
            self.backup_dir.mkdir(parents=True, exist_ok=True)
            save_file(self._state(), scratch, metadata=about)
            with open(scratch, "rb+") as file:
                os.fsync(file.fileno())
            os.replace(scratch, path)
        except (OSError, SafetensorError) as error:
            scratch.unlink(missing_ok=True)
            kept = self._files()
            warnings.warn(
                f"The backup of epoch {epoch + 1} could not be written to {str(self.backup_dir)!r} "
                f"({error}); "
                + (f"that of epoch {_epoch(kept[0])} is kept." if kept else "there is none."),
                stacklevel=2,
            )
            return
        for old in self._files()[2:]:
            old.unlink(missing_ok=True)

    def on_train_end(self, logs: Any = None) -> None:
        kept = not self.delete_checkpoint or not self.backup_dir.exists()
        if kept or not distribution.is_chief(self.model):
            return
        # Oldest first, so that what a kill leaves is the end. Files of others stay.
        for path in [*self.backup_dir.glob("epoch-*.safetensors.tmp"), *self._files()[::-1]]:
            path.unlink()
        if not any(self.backup_dir.iterdir()):
            self.backup_dir.rmdir()

    def _files(self) -> list[Path]:
        """The backups, newest first."""
        found = self.backup_dir.glob("epoch-*.safetensors")
        return sorted((path for path in found if _epoch(path) > 0), key=_epoch, reverse=True)

    def _newest(self) -> tuple[int, int, dict[str, Any], dict[str, np.ndarray]]:
        """Epoch, seed, data order and variables of the newest readable backup; epoch 0 if none."""
        damaged = ""
        for path in self._files():
            try:
                with safe_open(path, "np") as file:
                    about = file.metadata()
                order = json.loads(about.get("data_order", "{}"))
                found = int(about["epoch"]), int(about["seed"]), order, load_file(path)
            except (OSError, ValueError, TypeError, KeyError, SafetensorError) as error:
                damaged = damaged or f"{path.name}: {error}"
                continue
            if damaged:
                warnings.warn(
                    f"The newest backup in {str(self.backup_dir)!r} is damaged ({damaged}); "
                    f"training goes on from {path.name}.",
                    stacklevel=3,
                )
            return found
        if damaged:
            raise ValueError(
                f"The backup in {str(self.backup_dir)!r} is damaged ({damaged}). Delete the folder "
                "to begin anew."
            )
        return 0, 0, {}, {}

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


def _epoch(path: Path) -> int:
    """The number in a backup's name; 0 in the name of somebody else's file."""
    number = path.name.removeprefix("epoch-").removesuffix(".safetensors")
    return int(number) if number.isdecimal() else 0
