"""How tasks move during training: `EvaluationCallback`."""

from __future__ import annotations

import csv
import functools
import inspect
import io
import json
import logging
import os
import random
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import keras
import numpy as np

from cptk import checks
from cptk.evaluation.cache import CachedEncoder
from cptk.evaluation.encoders import Quiet, quiet
from cptk.evaluation.report import write_text
from cptk.evaluation.runner import check_result
from cptk.evaluation.tasks import Task, find_tasks
from cptk.files import read_json
from cptk.processes import is_chief

FIELDS = ("step", "epoch", "task", "metric", "score", "data", "split", "size", "seconds", "error")
_NUMBERS = {"step": int, "epoch": int, "score": float, "size": int, "seconds": float}
_LOG = logging.getLogger(__name__)


class EvaluationCallback(keras.callbacks.Callback):  # type: ignore[misc]
    """Runs tasks inside `fit`, every so many epochs or steps, and keeps their scores.

    Training is not changed by it: no weight, seed or state of the optimizer is touched. A task that
    fails the first time it is run ends the training there and then, by its own error: it has never
    worked. One that fails later stops nothing: its row has the error in place of a score, and the
    log says so once. With several workers the first one alone evaluates.

    The history has a row for each evaluation of a task. It survives an interruption: rows of later
    steps than the one that `fit` goes on from are dropped, and written again as training passes
    them. The step is the optimizer's; a model compiled anew begins at 0, so give it another file.

    The scores of an epoch are in its logs under the tasks' names, for callbacks that come later in
    the list, and for every one that monitors a task, wherever it stands in the list:
    `EarlyStopping(monitor="sst2_knn", mode="max")`.

    Args:
        tasks: As for `evaluate`.
        every_n_epochs: Evaluate at the end of each n-th epoch; 1 if `every_n_steps` is not given.
        every_n_steps: Evaluate after each n-th step instead.
        file: `.csv` or `.json` file of the history; `None` keeps it in `history` alone.
        encoder: What to evaluate; by default the `embedder` of the model that is trained, or the
            model itself.
        split: As for `evaluate`. What decides when to stop should not be the test split.
        at_start: Whether to evaluate before the first step too.

    Raises:
        TypeError: A count that is no integer, or an `encoder` that embeds no text.
        ValueError: A count below 1, both counts, a file of another kind; at the start of `fit`, a
            file that is not such a history.

    Example:

    ```python
    dynamics = cptk.evaluation.EvaluationCallback(
        ["sst2_knn", "stsb"], every_n_steps=50, file="dynamics.csv", split="validation"
    )
    trainer.fit(pairs, batch_size=64, epochs=1, callbacks=[dynamics])
    dynamics.history[-1]  # {"step": 150, "epoch": 0, "task": "stsb", "score": 0.749, ...}
    ```

    Neelakantan et al. 2022, figures of "training dynamics": linear probe against search.
    """

    def __init__(
        self,
        tasks: str | Task | Iterable[str | Task],
        *,
        every_n_epochs: int | None = None,
        every_n_steps: int | None = None,
        file: str | os.PathLike[str] | None = None,
        encoder: Any = None,
        split: str | None = None,
        at_start: bool = False,
    ) -> None:
        super().__init__()
        self.tasks = find_tasks(tasks)
        if every_n_epochs is not None and every_n_steps is not None:
            raise ValueError("Give `every_n_epochs` or `every_n_steps`, not both.")
        for name, count in (("every_n_epochs", every_n_epochs), ("every_n_steps", every_n_steps)):
            if count is not None:
                checks.integer(name, count, 1)
        if encoder is not None:
            CachedEncoder(encoder)  # its checks
        self.every_n_steps = every_n_steps
        self.every_n_epochs = every_n_epochs or (None if every_n_steps else 1)
        self.file = None if file is None else checks.path(file, "file")
        if self.file is not None and self.file.suffix not in (".csv", ".json"):
            raise ValueError(f"`file` must end in .csv or .json. Received: {str(file)!r}.")
        self.encoder = encoder
        self.split = split
        self.at_start = at_start
        self.history: list[dict[str, Any]] = []
        self._told: set[str] = set()
        self._begun = False
        self._step = self._epoch = 0
        self._epoch_start = 0
        self._latest: dict[str, float] = {}
        # With a method of ours Keras would wait for each step's logs.
        if every_n_steps is None:
            self.on_train_batch_end = super().on_train_batch_end  # type: ignore[method-assign]

    # === What Keras calls ===

    def set_model(self, model: Any) -> None:
        super().set_model(model)
        _let_pass({task.name for task in self.tasks}, self)

    def on_train_begin(self, logs: Any = None) -> None:
        self._begun = False
        if self.file is not None and is_chief(self.model):
            try:
                self.file.parent.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise ValueError(f"`file` cannot be written at {self.file}: {error}") from None
            if self.file.exists():
                self.history = _read(self.file)

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._epoch, self._latest = epoch, {}
        # Not at the beginning of training: a callback that restores may come after this one.
        self._step = self._epoch_start = _steps(self.model)
        if not self._begun:
            self._begun = True
            kept = [row for row in self.history if row["step"] <= self._step]
            if len(kept) < len(self.history):
                self.history = kept
                self._write()
            done = {(row["step"], row["task"]) for row in kept}
            if self.at_start and any((self._step, t.name) not in done for t in self.tasks):
                self._evaluate()

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        before, self._step = self._step, self._epoch_start + batch + 1
        if self.every_n_steps and self._step // self.every_n_steps > before // self.every_n_steps:
            if hasattr(self.model, "jax_state_sync"):
                self.model.jax_state_sync()  # on JAX the weights are in the step's state till then
            self._evaluate()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self._step = _steps(self.model)
        if self.every_n_epochs and (epoch + 1) % self.every_n_epochs == 0:
            self._evaluate()
        if logs is not None:
            logs.update(self._latest)

    def get_state(self) -> list[dict[str, Any]]:
        """For `ExactBackupAndRestore`: the history."""
        return [dict(row) for row in self.history]

    def set_state(self, state: list[dict[str, Any]]) -> None:
        """From a backup, when training has begun. A file knows its own history."""
        if self.file is None:
            self.history = state

    # === What they do ===

    def _evaluate(self) -> None:
        if not is_chief(self.model):
            return
        encoder = self.encoder
        if encoder is None:
            encoder = getattr(self.model, "embedder", self.model)
        state = random.getstate(), np.random.get_state()
        try:
            # Within this evaluation nothing trains: to look for it would be to hash all weights.
            with CachedEncoder(_inside_fit(encoder, self.model)).steady() as cached:
                for task in self.tasks:
                    self._run(task, cached)
        finally:
            self._write()
            random.setstate(state[0])
            np.random.set_state(state[1])

    def _run(self, task: Task, encoder: CachedEncoder) -> None:
        row: dict[str, Any] = dict.fromkeys(FIELDS)
        row |= {"step": self._step, "epoch": self._epoch, "task": task.name}
        others = [r for r in self.history if (r["step"], r["task"]) != (self._step, task.name)]
        has_worked = any(r["task"] == task.name and not r["error"] for r in others)
        start, failure = time.perf_counter(), None
        try:
            result = task.run(encoder, self.split)
            check_result(task, result)
            row |= {"metric": result.metric, "data": result.dataset, "split": result.split}
            row |= {"score": float(result.score), "size": int(result.size)}
            self._latest[task.name] = row["score"]
        except Exception as error:
            failure = error
            row["error"] = f"{type(error).__name__}: {error}"
        row["seconds"] = round(time.perf_counter() - start, 3)
        self.history = [*others, row]
        if failure is None:
            return
        failed = f"Task {task.name!r} failed at step {self._step}"
        if has_worked:
            self._tell(task.name, f"{failed}: {row['error']}")
            return
        failure.add_note(
            f"{failed}, the first time it was run: training ends here rather than go on without "
            "the figure. Mend the task, or leave it out."
        )
        raise failure

    def _write(self) -> None:
        if self.file is None or not is_chief(self.model):
            return
        try:
            write_text(self.file, _format(self.history, self.file.suffix))
        except OSError as error:
            self._tell("file", f"The history cannot be written to {self.file}: {error}")

    def _tell(self, what: str, message: str) -> None:
        if what not in self._told:
            self._told.add(what)
            _LOG.warning("%s. Training goes on; this is said once.", message)


def _let_pass(figures: set[str], callback: EvaluationCallback) -> None:
    """Put callbacks that monitor one of the figures right behind the callback that makes them.

    Keras calls callbacks in the order of a list that it does not hand them: it is looked for in the
    calls that led here, as a `CallbackList` gives its callbacks their model when it is made.
    """
    frame = inspect.currentframe()
    while frame is not None:
        owner = frame.f_locals.get("self")
        if isinstance(owner, keras.callbacks.CallbackList) and callback in owner.callbacks:
            place = owner.callbacks.index(callback)
            early = [c for c in owner.callbacks[:place] if getattr(c, "monitor", None) in figures]
            others = [c for c in owner.callbacks[:place] if c not in early]
            owner.callbacks[: place + 1] = [*others, callback, *early]
            return
        frame = frame.f_back


def _inside_fit(encoder: Any, model: Any) -> Any:
    """An encoder as it can be used inside `fit`, whose progress bar another would break."""
    if isinstance(encoder, keras.Model) and _resolver(model) is not None:
        return Quiet(encoder, functools.partial(_encode_here, encoder))
    return quiet(encoder)


def _encode_here(embedder: Any, texts: list[str], role: str | None = None) -> Any:
    """`encode_text` on this worker alone: `predict` would wait for the others."""
    vectors = []
    for start in range(0, len(texts), 32):
        features = embedder.preprocessor(texts[start : start + 32], role=role)
        vectors.append(keras.ops.convert_to_numpy(embedder(features, training=False)))
    return np.concatenate(vectors)


def _resolver(model: Any) -> Any:
    """TensorFlow's description of the workers, if there are several."""
    resolver = getattr(getattr(model, "distribute_strategy", None), "cluster_resolver", None)
    several = resolver is not None and len(resolver.cluster_spec().as_dict()) > 0
    return resolver if several else None


def _steps(model: Any) -> int:
    """Batches that the optimizer has seen, those before a restore included."""
    optimizer = getattr(model, "optimizer", None)
    iterations = getattr(optimizer, "iterations", None)
    if iterations is None:
        return 0
    batches = getattr(optimizer, "gradient_accumulation_steps", None) or 1
    return int(keras.ops.convert_to_numpy(iterations)) * int(batches)


def _format(history: list[dict[str, Any]], suffix: str) -> str:
    if suffix == ".json":
        rows = [
            {k: None if isinstance(v, float) and v != v else v for k, v in row.items()}
            for row in history
        ]
        return json.dumps({"history": rows}, indent=1, allow_nan=False) + "\n"
    text = io.StringIO()
    writer = csv.DictWriter(text, FIELDS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(history)
    return text.getvalue()


def _read(path: Path) -> list[dict[str, Any]]:
    try:
        if path.suffix == ".json":
            rows = read_json(path)["history"]
        else:
            reader = csv.DictReader(io.StringIO(path.read_text(encoding="utf-8")), strict=True)
            if tuple(reader.fieldnames or ()) != FIELDS:
                raise ValueError(f"its columns are {checks.shown(reader.fieldnames)}")
            rows = list(reader)
        return [_row(row) for row in rows]
    except (OSError, ValueError, TypeError, KeyError, csv.Error) as error:
        raise ValueError(
            f"{path} is not a history of EvaluationCallback with the columns {list(FIELDS)} "
            f"({error}). Give another `file`, or move this one away."
        ) from error


def _row(row: dict[str, Any]) -> dict[str, Any]:
    if set(row) != set(FIELDS):
        raise ValueError(f"its columns are {checks.shown(sorted(map(str, row)))}")
    values = {k: None if row[k] in ("", None) else row[k] for k in FIELDS}
    for name, number in _NUMBERS.items():
        value = values[name]
        number_like = isinstance(value, str) and "_" not in value
        if value is not None and not checks.is_number(value) and not number_like:
            raise ValueError(f"{checks.shown(value)} is no {name}")
        values[name] = None if value is None else number(value)
    if values["step"] is None or not isinstance(values["task"], str):
        raise ValueError("a row without step or task")
    return values
