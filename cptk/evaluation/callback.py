"""`EvaluationCallback`: runs tasks inside `fit` and keeps their scores."""

from __future__ import annotations

import functools
import inspect
import logging
import os
import random
import time
from collections.abc import Iterable

import keras
import numpy as np

from cptk import checks
from cptk.encoders import Quiet, TextEncoder, quiet
from cptk.evaluation.cache import CachedEncoder
from cptk.evaluation.history import Row, as_text, read
from cptk.evaluation.runner import check_result
from cptk.evaluation.tasks.registry import Task, find_tasks
from cptk.evaluation.text_file import write_text
from cptk.processes import is_chief
from cptk.types import Config, Model

_LOG = logging.getLogger(__name__)


class EvaluationCallback(keras.callbacks.Callback):  # type: ignore[misc]
    """Runs tasks inside `fit`, every so many epochs or steps, and keeps their scores.

    Evaluating does not change the training: no weight, seed or state of the optimizer is touched. A
    task that fails the first time it is run ends the training at once, by its own error. A task
    that fails later does not: its row has the error in place of a score, and the log says so once.
    With several workers the first one alone evaluates.

    The history has a row for each evaluation of a task. It survives an interruption: where `fit`
    goes on from an earlier step, the rows of later steps are dropped, and written again as training
    reaches them. The step is the optimizer's. A model that is compiled anew begins at 0 and needs
    another file.

    The scores of an epoch are in its logs under the tasks' names. Callbacks that come later in the
    list see them, and so does a callback that monitors a task, wherever it stands in the list:
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

    ```pycon
    >>> import cptk, keras, numpy as np
    >>> dense = keras.layers.Dense(1, use_bias=False, kernel_initializer="ones")
    >>> model = keras.Sequential([dense])
    >>> model.compile(keras.optimizers.SGD(1.0), loss="mse")
    >>> def encode(texts):
    ...     return model(np.array([[text.count("a"), text.count("b")] for text in texts]))
    >>> def run(embed, split):
    ...     right = (embed(["aa", "bb"])[:, 0] > 0) == [True, False]
    ...     items = {"correct": right.tolist()}
    ...     return cptk.evaluation.TaskResult("accuracy", right.mean(), items=items)
    >>> dynamics = cptk.evaluation.EvaluationCallback(
    ...     cptk.evaluation.Task("a_or_b", run), encoder=encode, file="dynamics.csv", at_start=True
    ... )
    >>> x, y = np.eye(2), np.array([[1.0], [-1.0]])  # "a" and "b"
    >>> history = model.fit(x, y, epochs=2, verbose=0, callbacks=[dynamics])
    >>> [(row["step"], row["task"], row["score"]) for row in dynamics.history]
    [(0, 'a_or_b', 0.5), (1, 'a_or_b', 1.0), (2, 'a_or_b', 1.0)]
    >>> history.history["a_or_b"]  # in the logs too
    [1.0, 1.0]

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
        encoder: TextEncoder | None = None,
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
        self.history: list[Row] = []
        self._warned: set[str] = set()
        self._has_begun = False
        self._step = self._epoch = 0
        self._epoch_start = 0
        self._latest: dict[str, float] = {}
        # Keras waits for the logs of each step where a callback has a method of its own for the end
        # of a step.
        if every_n_steps is None:
            self.on_train_batch_end = super().on_train_batch_end  # type: ignore[method-assign]

    # === What Keras calls ===

    def set_model(self, model: Model) -> None:
        super().set_model(model)
        _move_monitors_behind({task.name for task in self.tasks}, self)

    def on_train_begin(self, logs: Config | None = None) -> None:
        self._has_begun = False
        if self.file is not None and is_chief(self.model):
            try:
                self.file.parent.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise ValueError(f"`file` cannot be written at {self.file}: {error}") from None
            if self.file.exists():
                self.history = read(self.file)

    def on_epoch_begin(self, epoch: int, logs: Config | None = None) -> None:
        self._epoch, self._latest = epoch, {}
        # Asked here and not in `on_train_begin`: a callback that restores the optimizer may come
        # later in the list.
        self._step = self._epoch_start = _steps(self.model)
        if not self._has_begun:
            self._has_begun = True
            kept = [row for row in self.history if row["step"] <= self._step]
            if len(kept) < len(self.history):
                self.history = kept
                self._write()
            done = {(row["step"], row["task"]) for row in kept}
            if self.at_start and any((self._step, t.name) not in done for t in self.tasks):
                self._evaluate()

    def on_train_batch_end(self, batch: int, logs: Config | None = None) -> None:
        before, self._step = self._step, self._epoch_start + batch + 1
        if self.every_n_steps and self._step // self.every_n_steps > before // self.every_n_steps:
            if hasattr(self.model, "jax_state_sync"):
                self.model.jax_state_sync()  # on JAX the step's own state holds the new weights
            self._evaluate()

    def on_epoch_end(self, epoch: int, logs: Config | None = None) -> None:
        self._step = _steps(self.model)
        if self.every_n_epochs and (epoch + 1) % self.every_n_epochs == 0:
            self._evaluate()
        if logs is not None:
            logs.update(self._latest)

    def get_state(self) -> list[Row]:
        """For `ExactBackupAndRestore`: the history."""
        return [row.copy() for row in self.history]

    def set_state(self, state: list[Row]) -> None:
        """Take the history of a backup, unless a file has one: the file is kept by step."""
        if self.file is None:
            self.history = state

    # === What they do ===

    def _evaluate(self) -> None:
        if not is_chief(self.model):
            return
        model: Model = self.model
        encoder = self.encoder
        if encoder is None:
            encoder = model.embedder if hasattr(model, "embedder") else model
        state = random.getstate(), np.random.get_state()
        try:
            # Nothing trains within this evaluation. Without `steady` the encoder would hash all its
            # weights before each task, to find out.
            with CachedEncoder(_inside_fit(encoder, self.model)).steady() as cached:
                for task in self.tasks:
                    self._run_task(task, cached)
        finally:
            self._write()
            random.setstate(state[0])
            np.random.set_state(state[1])

    def _run_task(self, task: Task, encoder: CachedEncoder) -> None:
        row = Row(
            step=self._step,
            epoch=self._epoch,
            task=task.name,
            metric=None,
            score=None,
            data=None,
            split=None,
            size=None,
            seconds=None,
            error=None,
        )
        others = [r for r in self.history if (r["step"], r["task"]) != (self._step, task.name)]
        has_worked = any(r["task"] == task.name and not r["error"] for r in others)
        start, failure = time.perf_counter(), None
        try:
            result = task.run(encoder, self.split)
            check_result(task, result)
            score = float(result.score)
            row["metric"], row["score"], row["size"] = result.metric, score, int(result.size)
            row["data"], row["split"] = result.dataset, result.split
            self._latest[task.name] = score
        except Exception as error:
            failure = error
            row["error"] = f"{type(error).__name__}: {error}"
        row["seconds"] = round(time.perf_counter() - start, 3)
        self.history = [*others, row]
        if failure is None:
            return
        failed = f"Task {task.name!r} failed at step {self._step}"
        if has_worked:
            self._warn_once(task.name, f"{failed}: {row['error']}")
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
            write_text(self.file, as_text(self.history, self.file.suffix))
        except OSError as error:
            self._warn_once("file", f"The history cannot be written to {self.file}: {error}")

    def _warn_once(self, what: str, message: str) -> None:
        if what not in self._warned:
            self._warned.add(what)
            _LOG.warning("%s. Training goes on; this is said once.", message)


def _move_monitors_behind(figures: set[str], callback: EvaluationCallback) -> None:
    """Move callbacks that monitor one of the figures right behind the callback that makes them.

    Keras calls callbacks in the order of a `CallbackList`, which a callback cannot reach. The list
    calls `set_model` of each callback when it is made: it is looked for in the frames of the calls
    that led here.
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


def _inside_fit(encoder: TextEncoder, model: Model) -> TextEncoder:
    """The encoder without its progress bar, which would break the one of `fit`."""
    if hasattr(model, "encode_text") and encoder is getattr(model, "embedder", None):
        return Quiet(encoder, functools.partial(model.encode_text, verbose=0))
    return quiet(encoder)


def _steps(model: Model) -> int:
    """Batches that the optimizer has seen, those before a restore included."""
    optimizer = getattr(model, "optimizer", None)
    iterations = getattr(optimizer, "iterations", None)
    if iterations is None:
        return 0
    batches = getattr(optimizer, "gradient_accumulation_steps", None) or 1
    return int(keras.ops.convert_to_numpy(iterations)) * int(batches)
