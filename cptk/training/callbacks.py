"""Exact resumption of an interrupted training run."""

from __future__ import annotations

import contextlib
import os
import uuid
import warnings
import weakref
from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import Any

import keras
import numpy as np
from safetensors import SafetensorError

from cptk import checks, distribution
from cptk.training import backup_files, callback_state
from cptk.training.lora import variable_paths
from cptk.training.made_with import describe, made_with
from cptk.types import Batches, Callback, Logs, Model, Optimizer, Variable

#: Callbacks that `fit` puts beside the user's: their not being there is no news.
FIT_ADDS = {"FollowOrder.0", "History.0"}


class ExactBackupAndRestore(keras.callbacks.Callback):  # type: ignore[misc]
    """Backs up a `ContrastiveTrainer` each epoch; run again, `fit` goes on where it was killed.

    The run ends with the weights it would have had without the interruption, given the same
    script, pairs in memory (`{"query": …, "document": …}`) and a deterministic backend (on
    TensorFlow `tf.config.experimental.enable_op_determinism()`). What is backed up: every
    variable of model and optimizer, LoRA's factors and the random state of dropout among them,
    the epoch, the seed of the data order, and what the other callbacks remember.
    `keras.callbacks.BackupAndRestore` leaves out the last four, and a kill while it writes leaves
    weights and epoch that do not belong together. Here a backup is one file, renamed into place
    when it is on disk, and the two newest are kept: where the newest is damaged (a checksum covers
    all of it), a warning says so and the one before is used. A backup that cannot be written, on a
    full disk say, is warned of too; training goes on.

    **Other callbacks**, wherever they stand in the list: those of Keras go on with what they had,
    such as the best weights and the patience of `EarlyStopping`, and a `CSVLogger` keeps the rows
    of the epochs before. The `History` holds all epochs, those before the interruption too. A class
    of your own is saved if it has the methods `get_state()`, which returns numbers, texts, arrays,
    or lists and dictionaries of them, and `set_state(state)`, called after its `on_train_begin`;
    without them a warning names what would start anew.

    **What has changed since** is said when training goes on: the learning rate and other settings
    of the optimizer, the pairs, the batch size, backend and versions. The learning rate is a
    variable of the optimizer, so that the backup's holds. A backup of one backend can be
    taken up on another; dropout then draws other masks.

    **One run a folder**: a second one is refused while the first is alive. Of several processes
    the first one writes, and all read: `backup_dir` is a folder that they share. When one is
    killed the others end with an error within seconds; start all again.

    Epochs need not be passes over the data: with `steps_per_epoch=50`, a backup is made each 50
    steps, and no more than 50 steps are ever lost.

    Args:
        backup_dir: Folder of the backups; one for each run.
        delete_checkpoint: Whether to delete the backups when training has ended.

    Raises:
        ValueError: All backups are damaged, or of another model, another run uses the folder, or
            the processes found different ones.

    Example:

    ```pycon
    >>> import cptk, keras
    >>> def train(epochs):
    ...     trainer = cptk.ContrastiveTrainer(embedder)
    ...     trainer.compile(optimizer=keras.optimizers.AdamW(1e-4))
    ...     backup = cptk.training.ExactBackupAndRestore("backup", delete_checkpoint=False)
    ...     pairs = {"query": queries, "document": documents}
    ...     return trainer.fit(pairs, batch_size=5, epochs=epochs, callbacks=[backup], verbose=0)
    >>> train(epochs=1).epoch
    [0]
    >>> train(epochs=2).epoch  # the history holds the epochs before, too
    Restored the backup of epoch 1, 'backup/epoch-1.safetensors':
    training goes on with epoch 2 of 2.
    [0, 1]

    ```
    """

    def __init__(self, backup_dir: str | os.PathLike[str], delete_checkpoint: bool = True) -> None:
        super().__init__()
        self.backup_dir = checks.path(backup_dir, "backup_dir")
        self.delete_checkpoint = delete_checkpoint
        self._run = ""
        self._made_with: dict[str, Any] = {}
        self._owner: Any = None
        #: Told by `backing_up`: the other callbacks, and what the data is.
        self._others: dict[str, Any] = {}
        self._data: dict[str, Any] = {}
        self._before: dict[str, Any] = {}
        self._named: set[str] = set()

    # === What Keras calls ===

    def on_train_begin(self, logs: Logs = None) -> None:
        if not hasattr(self.model, "seed"):
            raise TypeError(
                "ExactBackupAndRestore goes with a ContrastiveTrainer. Received: "
                f"{type(self.model).__name__}. Use keras.callbacks.BackupAndRestore."
            )
        self._claim()
        self._run, self._made_with = uuid.uuid4().hex, made_with(self.model.optimizer, self._data)
        backup = self._newest()
        epoch = 0 if backup is None else backup.about["epoch"]
        first = distribution.broadcast_from_chief(epoch, self.model)
        if epoch != first:
            raise ValueError(
                f"The first process found a backup of epoch {first} in {str(self.backup_dir)!r}, "
                f"and this one of epoch {epoch} (0: none). `backup_dir` should be a folder that "
                "all processes share."
            )
        if backup is not None:
            self._restore(backup)
        self._before = {n: callback_state.memory(c) for n, c in self._others.items()}
        self._named = set()

    def on_epoch_end(self, epoch: int, logs: Logs = None) -> None:
        if not distribution.is_chief(self.model):
            return
        unsaved = self._unsaved()
        try:
            self._write(epoch + 1, unsaved)
        except (OSError, SafetensorError, ValueError) as error:
            kept = self._files()
            warnings.warn(
                f"The backup of epoch {epoch + 1} could not be written to {str(self.backup_dir)!r} "
                f"({error}); "
                + (
                    f"that of epoch {backup_files.epoch_of(kept[0])} is kept."
                    if kept
                    else "there is none."
                ),
                stacklevel=2,
            )
            return
        for old in self._files()[2:]:
            old.unlink(missing_ok=True)

    def on_train_end(self, logs: Logs = None) -> None:
        if self.delete_checkpoint and distribution.is_chief(self.model):
            # Oldest first, so that what a kill leaves is the end. Files of others stay.
            for path in [*backup_files.leftovers(self.backup_dir), *self._files()[::-1]]:
                path.unlink(missing_ok=True)
        self.release()
        if self.delete_checkpoint and self.backup_dir.is_dir():
            with contextlib.suppress(OSError):  # Not empty, or gone.
                self.backup_dir.rmdir()

    # === What they do ===

    def release(self) -> None:
        """Let another run have the folder."""
        backup_files.release(self._owner)
        self._owner = None

    def _claim(self) -> None:
        if self._owner is not None or not distribution.is_chief(self.model):
            return
        try:
            self._owner = backup_files.claim(self.backup_dir)
            weakref.finalize(self, backup_files.release, self._owner)
            for path in backup_files.leftovers(self.backup_dir):
                path.unlink()
        except OSError as error:
            warnings.warn(
                f"No backup can be written to {str(self.backup_dir)!r} ({error}); training goes on "
                "without.",
                stacklevel=3,
            )

    def _files(self) -> list[Any]:
        return backup_files.newest_first(self.backup_dir)

    def _newest(self) -> backup_files.Backup | None:
        """The newest backup that can be read."""
        damaged = ""
        for path in self._files():
            try:
                backup = backup_files.read(path)
            except ValueError as error:
                damaged = damaged or f"{path.name}: {error}"
                continue
            if damaged:
                warnings.warn(
                    f"The newest backup in {str(self.backup_dir)!r} is damaged ({damaged}); "
                    f"training goes on from {path.name}.",
                    stacklevel=3,
                )
            return backup
        if damaged:
            raise ValueError(
                f"The backup in {str(self.backup_dir)!r} is damaged ({damaged}). Delete the folder "
                "to begin anew."
            )
        return None

    def _write(self, epoch: int, unsaved: dict[str, list[str]]) -> None:
        arrays = {name: _value(variable) for name, variable in self._variables().items()}
        bad = backup_files.not_finite(arrays)
        if bad:
            raise ValueError(f"{bad} is not finite")
        newest = self._files()[:1]
        run = backup_files.run_of(newest[0]) if newest else None
        if run is not None and run != self._run:
            raise ValueError(f"{newest[0].name} is of another run, which uses this folder too")
        arrays.update({n: g.get_state().numpy() for n, g in _torch_generators().items()})
        states, more = callback_state.save(self._others, _weights(self.model))
        about = {
            "epoch": epoch,
            "seed": self.model.seed,
            "run": self._run,
            "stopped": bool(self.model.stop_training),
            "made_with": self._made_with,
            "callbacks": states,
            "unsaved": unsaved,
        }
        path = self.backup_dir / f"epoch-{epoch}.safetensors"
        backup_files.write(path, {**arrays, **more}, about)

    def _restore(self, backup: backup_files.Backup) -> None:
        about, arrays = backup.about, backup.arrays
        self._assign(arrays)
        callback_state.restore(self._others, about["callbacks"], arrays, _weights(self.model))
        self.model.seed, self._run = about["seed"], about["run"]
        now, self._made_with = self._made_with, about["made_with"]
        epochs = (self.params or {}).get("epochs")
        stopped = about["stopped"] and epochs is not None
        self.model._initial_epoch = max(epochs, about["epoch"]) if stopped else about["epoch"]
        self._say(backup, epochs, now)

    def _say(self, backup: backup_files.Backup, epochs: int | None, now: dict[str, Any]) -> None:
        """Where training goes on, and what is not as it was."""
        if not distribution.is_chief(self.model):
            return
        about = backup.about
        done = about["epoch"]
        going_on = f"training goes on with epoch {done + 1}"
        if about["stopped"]:
            going_on = "a callback had stopped training there"
        elif epochs is not None:
            going_on = f"{going_on} of {epochs}" if done < epochs else "no epoch is left to train"
        print(f"Restored the backup of epoch {done}, {str(backup.path)!r}: {going_on}.", flush=True)
        before = about["made_with"]
        names = {**before, **now} if self._data else before.keys() & now.keys()
        changed = [
            f"{name} was {checks.shown(before.get(name))} and is {checks.shown(now.get(name))}"
            for name in names
            if before.get(name) != now.get(name)
        ]
        notes = []
        if changed:
            notes.append(
                f"Not all is as it was when this run began: {'; '.join(changed)}. The learning "
                "rate is the backup's; all else is as it is now, and so the end may not be that of "
                "a run without interruption"
            )
        absent = sorted(about["callbacks"].keys() - self._others.keys() - FIT_ADDS)
        if absent:
            notes.append(f"It holds the state of callbacks that are not there now: {absent}")
        if about["unsaved"]:
            notes.append(
                f"It does not hold what these callbacks remember: {_listed(about['unsaved'])}"
            )
        if notes:
            warnings.warn(
                f"The backup of epoch {done} in {str(self.backup_dir)!r}: {'. '.join(notes)}.",
                stacklevel=4,
            )

    def _unsaved(self) -> dict[str, list[str]]:
        """What callbacks of somebody else's remember, seen by its having changed; warned of."""
        found = {}
        for name, before in self._before.items():
            now = callback_state.memory(self._others[name])
            changed = sorted(k for k in {**before, **now} if before.get(k) != now.get(k))
            if changed:
                found[name.rpartition(".")[0]] = changed
        new = {name: changed for name, changed in found.items() if name not in self._named}
        if new:
            self._named.update(new)
            warnings.warn(
                f"ExactBackupAndRestore does not save what these callbacks remember: "
                f"{_listed(new)}. After an interruption it starts anew. Give the class the methods "
                "`get_state()` and `set_state(state)` to have it saved.",
                stacklevel=3,
            )
        return found

    def _assign(self, arrays: Mapping[str, np.ndarray]) -> None:
        variables = self._variables()
        saved = {name for name in arrays if name.startswith(("model/", "optimizer/"))}
        wrong = [
            f"{v.path} {tuple(v.shape)}"
            for name, v in variables.items()
            if name not in saved or arrays[name].shape != tuple(v.shape)
        ]
        if wrong or len(saved) != len(variables):
            raise ValueError(
                f"The backup in {str(self.backup_dir)!r} is of another model or optimizer "
                f"({len(wrong)} of {len(variables)} variables do not fit: {wrong[:3]}). Build the "
                "same one, or delete the folder to begin anew."
            )
        # Read outside of the scope, where a variable of several processes is one array.
        values = [arrays[name].astype(_value(v).dtype) for name, v in variables.items()]
        with distribution.scope(self.model):
            for variable, value in zip(variables.values(), values, strict=True):
                variable.assign(value)
        for name, generator in _torch_generators().items():
            if name in arrays:
                generator.set_state(import_module("torch").from_numpy(arrays[name].copy()))

    def _variables(self) -> dict[str, Any]:
        """Variables of model and optimizer by path; metrics start anew."""
        distribution.build(self.model)
        named = {f"model/{path}": v for path, v in variable_paths(self.model).items()}
        return {**named, **_of_optimizer(self.model.optimizer, named)}


@contextlib.contextmanager
def backing_up(callbacks: list[Callback], data: Batches) -> Iterator[list[Callback]]:
    """The callbacks of `fit` with backups last, so that they see what the others have done.

    Folders are released when `fit` has ended, however it did.
    """
    flat = keras.tree.flatten(callbacks)
    backups = [c for c in flat if isinstance(c, ExactBackupAndRestore)]
    others = [c for c in flat if not isinstance(c, ExactBackupAndRestore)]
    if not backups:
        yield callbacks
        return
    if not any(isinstance(c, keras.callbacks.History) for c in others):
        others.append(keras.callbacks.History())
    about = describe(data)
    for backup in backups:
        backup._others, backup._data = callback_state.keyed(others), about
    try:
        yield [*others, *backups]
    finally:
        for backup in backups:
            backup.release()


def _of_optimizer(optimizer: Optimizer, named: dict[str, Any]) -> dict[str, Any]:
    """An optimizer's variables, named by the weights that they belong to."""
    of_weight = {v.path.replace("/", "_"): name for name, v in named.items()}
    found: dict[str, Any] = {}
    for variable in optimizer.variables:
        weight = variable.name
        while weight and weight not in of_weight:
            weight = weight.rpartition("_")[0]
        slot = variable.name[len(weight) + 1 :] if weight else variable.name
        name = f"optimizer/{slot}/{of_weight.get(weight, '')}"
        while name in found:
            name += "+"
        found[name] = variable
    return found


def _weights(model: Model) -> dict[str, Any]:
    """`model.weights` by path, in their order."""
    paths = {id(variable): path for path, variable in variable_paths(model).items()}
    return {paths[id(variable)]: variable for variable in model.weights}


def _listed(found: Mapping[str, list[str]]) -> str:
    return ", ".join(f"{name} ({', '.join(attributes)})" for name, attributes in found.items())


def _torch_generators() -> dict[str, Any]:
    """On torch, Keras draws the masks of dropout from torch's own generators."""
    if keras.backend.backend() != "torch":
        return {}
    torch = import_module("torch")
    found = {"torch/cpu": torch.default_generator}
    if torch.cuda.is_initialized():
        found.update({f"torch/cuda{i}": g for i, g in enumerate(torch.cuda.default_generators)})
    return found


def _value(variable: Variable) -> np.ndarray:
    return np.asarray(keras.ops.convert_to_numpy(variable.value))
