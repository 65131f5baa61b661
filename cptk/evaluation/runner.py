"""`evaluate`: any encoder, any tasks, one report."""

from __future__ import annotations

import dataclasses
import datetime
import math
import os
import time
from collections.abc import Iterable
from typing import Literal

from cptk import checks
from cptk.encoders import TextEncoder
from cptk.evaluation.cache import CachedEncoder
from cptk.evaluation.metrics.bootstrap import LEVEL, bootstrap_interval, item_score
from cptk.evaluation.report import Report
from cptk.evaluation.tasks.registry import Task, TaskResult, find_tasks
from cptk.fingerprint import describe, versions
from cptk.types import Config

ON_MISSING = ("raise", "skip")


def evaluate(
    encoder: TextEncoder,
    tasks: str | Task | Iterable[str | Task] = "all",
    *,
    split: str | None = None,
    name: str | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    on_missing: Literal["raise", "skip"] = "raise",
    n_bootstrap: int = 1000,
    seed: int = 0,
) -> Report:
    """Run tasks on an encoder.

    Each distinct text is embedded once in each role, whatever the number of tasks that use it. How
    many of a task's texts have a vector of zeros (a bag of words that knows none of the words) is
    in its `details["zero_vectors"]`.

    Args:
        encoder: Anything that embeds text: a cptk or KerasHub embedder, a sentence-transformers
            model, a fitted vectoriser, a function texts -> array (`cptk.evaluation.embed`).
        tasks: Names of tasks or groups, or `Task`s (`list_tasks()`, `list_groups()`).
        split: `"train"`, `"validation"` or `"test"`; by default each task's own choice: the test
            split where it can be found, else validation.
        name: What to call the encoder in the report, and in the cache if its weights cannot be
            read.
        cache_dir: Folder in which to keep embeddings for later calls (`CachedEncoder`).
        on_missing: What to do when a task's data, or a library that it needs, is not there:
            `"raise"`, or `"skip"` and say so in `report.missing`.
        n_bootstrap: Resamples of the 95% intervals; 0 for none.
        seed: Of the resampling.

    Returns:
        The `Report`: print it, or see `Report.to_markdown`, `to_json`, `plot`.

    Raises:
        FileNotFoundError: Data of a task is missing, and `on_missing="raise"`.
        ImportError: Likewise, a library.
        ValueError: An unknown task, split or `on_missing`; vectors that no task can use; or a
            task whose items do not give its score.
        TypeError: Not an encoder.

    Example:

    ```pycon
    >>> import cptk
    >>> def encode(texts):
    ...     return [[text.count("good"), text.count("bad"), 1.0] for text in texts]
    >>> def run(embed, split):
    ...     train, test = embed(["good", "bad"]), embed(["good film", "so bad", "not good", "bad"])
    ...     gold = ["positive", "negative", "negative", "negative"]
    ...     found = cptk.evaluation.knn(train, ["positive", "negative"], test, gold, k=1)
    ...     items = {"correct": (found.predictions == gold).tolist()}
    ...     return cptk.evaluation.TaskResult("accuracy", found.accuracy, items=items)
    >>> report = cptk.evaluation.evaluate(encode, cptk.evaluation.Task("films", run))
    >>> report["films"].score  # a fraction
    0.75

    ```
    """
    chosen = find_tasks(tasks)
    checks.choice("on_missing", on_missing, ON_MISSING)
    if split is not None and not isinstance(split, str):
        raise TypeError(f"`split` should be a name. Received: {checks.shown(split)}.")
    n_bootstrap = checks.integer("n_bootstrap", n_bootstrap, 0)
    seed = checks.integer("seed", seed, 0)
    if isinstance(encoder, CachedEncoder):
        if cache_dir is not None:
            raise ValueError("This CachedEncoder has its own: leave `cache_dir` out.")
        cached, name = encoder, name or encoder.name
    else:
        cached = CachedEncoder(encoder, cache_dir, name)
    with cached.steady():
        bootstrap: Config = {"resamples": n_bootstrap, "seed": seed, "level": LEVEL}
        report = Report(about=_about(cached, name, split, bootstrap))
        for task in chosen:
            start = time.perf_counter()
            try:
                result = _run(task, cached, split)
            except (FileNotFoundError, ImportError) as error:
                if on_missing == "raise":
                    raise
                report.missing[task.name] = str(error)
                continue
            report.results[task.name] = result
            report.seconds[task.name] = round(time.perf_counter() - start, 3)
            report.published[task.name] = task.published
            if n_bootstrap and result.items and math.isfinite(result.score):
                interval = bootstrap_interval(result.items, result.metric, n_bootstrap, seed)
                report.intervals[task.name] = interval
    return report


def _about(
    encoder: CachedEncoder, name: str | None, split: str | None, bootstrap: Config
) -> Config:
    """What is evaluated, when, and by which versions."""
    description = describe(encoder.encoder)
    embedder = {
        "name": name or description.get("backbone") or description["class"],
        **description,
        "fingerprint": encoder.fingerprint,
    }
    return {
        "embedder": embedder,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "split": split,
        "bootstrap": bootstrap,
        "versions": versions(),
    }


def _run(task: Task, encoder: CachedEncoder, split: str | None) -> TaskResult:
    encoder.zeros.clear()
    result = task.run(encoder, split)
    check_result(task, result)
    if encoder.zeros:
        details = {**result.details, "zero_vectors": len(encoder.zeros)}
        result = dataclasses.replace(result, details=details)
    return result


def check_result(task: Task, result: object) -> None:
    """Raise unless a task gave a `TaskResult` whose items, if it has any, give its score."""
    if not isinstance(result, TaskResult):
        raise TypeError(
            f"Task {task.name!r} must give a cptk.evaluation.TaskResult, such as "
            f'TaskResult("accuracy", 0.75). Received: {checks.shown(result)}.'
        )
    if not result.items:
        return
    try:
        score = item_score(result.items, result.metric)
    except (TypeError, ValueError) as error:
        raise type(error)(f"Task {task.name!r}: {error}") from error
    if not math.isclose(score, result.score, abs_tol=1e-6) and math.isfinite(score + result.score):
        raise ValueError(
            f"Task {task.name!r} has a {result.metric} of {result.score}, and its items give "
            f"{score}: its items must be what the score is computed from."
        )
