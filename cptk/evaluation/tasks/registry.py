"""What a task is, what it gives, and the registry of those that `evaluate` knows by name."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeAlias

from cptk import checks
from cptk.encoders import Embed


@dataclasses.dataclass(frozen=True)
class TaskResult:
    """What one task measured: a metric and a score, and as much more as there is to say.

    Attributes:
        metric: Name of the headline figure (`"accuracy"`, `"spearman"`, `"mrr"`, `"ndcg@10"`).
        score: The headline figure, a fraction: 0.813 and not 81.3.
        scores: Every figure by name, the headline among them; by default the headline alone.
        items: Per-item columns that the headline is computed from, for the bootstrap: one column
            (`{"correct": [...]}`) of which `score` is the mean, or two (`{"predicted": [...],
            "gold": [...]}`) whose correlation it is. Without them there is no interval, and two
            reports cannot be compared on the task.
        dataset: Name of the data set.
        split: The split that was scored.
        size: Number of items scored; by default that of `items`.
        sha256: Fingerprint of the data set's content.
        details: What was chosen on the way (a regularisation, a k, the prompts), JSON values only.

    Example:

    ```pycon
    >>> from cptk.evaluation import TaskResult
    >>> result = TaskResult("accuracy", 0.75, items={"correct": [1, 0, 1, 1]})
    >>> result.size, result.scores
    (4, {'accuracy': 0.75})

    ```
    """

    metric: str
    score: float
    scores: Mapping[str, float] = dataclasses.field(default_factory=dict)
    items: Mapping[str, Sequence[float]] = dataclasses.field(default_factory=dict)
    dataset: str = ""
    split: str = ""
    size: int = 0
    sha256: str = ""
    details: Mapping[str, object] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        if not isinstance(self.metric, str) or not hasattr(self.score, "__float__"):
            raise TypeError(
                "A TaskResult needs the name of its metric and a number, as in "
                'TaskResult("accuracy", 0.75). Received: '
                f"{checks.shown(self.metric)} and {checks.shown(self.score)}."
            )
        # The number may be one of NumPy's, or a tensor.
        object.__setattr__(self, "score", float(self.score))
        if not self.scores:
            object.__setattr__(self, "scores", {self.metric: self.score})
        if not self.size and self.items:
            object.__setattr__(self, "size", len(next(iter(self.items.values()))))


@dataclasses.dataclass(frozen=True)
class Published:
    """A figure that somebody else published for the same task, a fraction as ours are.

    Example:

    ```pycon
    >>> import cptk
    >>> (task,) = cptk.evaluation.find_tasks("sst2_linear_probe")
    >>> [(figure.model, figure.score) for figure in task.published]
    [('supervised network (Socher et al. 2013)', 0.854)]

    ```
    """

    model: str
    score: float
    source: str


Run: TypeAlias = Callable[[Embed, str | None], TaskResult]
"""`run(embed, split)`: embeds the texts of a split and scores them."""


@dataclasses.dataclass(frozen=True)
class Task:
    """One evaluation, by name.

    Attributes:
        name: `"sst2_linear_probe"`.
        run: `run(embed, split)` -> `TaskResult`. `embed(texts, role=None)` gives (n, d) float32;
            `split` is `None` for the task's own choice.
        groups: Names of the groups it belongs to (`"senteval"`, `"sts"`, ...).
        description: One line: data, protocol, metric.
        published: Figures to print beside ours.

    Example:

    ```pycon
    >>> import cptk
    >>> def run(embed, split):
    ...     query, document = embed(["add two numbers", "a + b"])
    ...     return cptk.evaluation.TaskResult("dot", float(query @ document))
    >>> task = cptk.evaluation.Task("one_pair", run, description="One pair: the dot product.")
    >>> report = cptk.evaluation.evaluate(lambda texts: [[0.6, 0.8] for _ in texts], [task])
    >>> round(report.results["one_pair"].score, 4)
    1.0

    ```
    """

    name: str
    run: Run
    groups: tuple[str, ...] = ()
    description: str = ""
    published: tuple[Published, ...] = ()


_TASKS: dict[str, Task] = {}


def register_task(task: Task) -> Task:
    """Add a task, so that `evaluate` finds it by name; a user's own as well as ours.

    Raises:
        TypeError: If `task` is not a `Task`.
        ValueError: If the name is taken by another task or by a group, or is not a plain name, or
            a group has the name of a task.

    Example:

    ```pycon
    >>> from cptk.evaluation import Task, TaskResult, list_tasks, register_task
    >>> def run(embed, split):
    ...     question, answer = embed(["open a file", "open(path)"])
    ...     return TaskResult("dot", float(question @ answer))
    >>> task = register_task(Task("one_dot_product", run, groups=("dot_products",)))
    >>> list_tasks("dot_products")
    ['one_dot_product']

    ```
    """
    if not isinstance(task, Task):
        raise TypeError(f"`task` must be a cptk.evaluation.Task. Received: {checks.shown(task)}.")
    if not isinstance(task.name, str) or not callable(task.run):
        raise TypeError(
            "A Task needs a name and a function `run(embed, split)`. Received: "
            f"{checks.shown(task.name)} and {checks.shown(task.run)}."
        )
    if isinstance(task.groups, str) or not all(isinstance(group, str) for group in task.groups):
        raise TypeError(
            'A task\'s `groups` should be a tuple of names, such as ("mine",). Received: '
            f"{checks.shown(task.groups)}."
        )
    if not task.name or not task.name.replace("-", "_").isidentifier():
        raise ValueError(f"A task's name is letters, digits, '_' and '-'. Received: {task.name!r}.")
    if task.name in _groups() or task.name == "all":
        raise ValueError(f"{task.name!r} is the name of a group of tasks; choose another.")
    for group in task.groups:
        if group in _TASKS or group in ("all", task.name):
            raise ValueError(f"{group!r} is the name of a task and cannot be one of a group.")
    if _TASKS.get(task.name, task) != task:
        raise ValueError(f"A task named {task.name!r} is there already; choose another name.")
    _TASKS[task.name] = task
    return task


def list_tasks(group: str | None = None) -> list[str]:
    """Names of the tasks there are, or of those in a group.

    Raises:
        ValueError: If there is no such group; the message names the near ones.

    Example:

    ```pycon
    >>> from cptk.evaluation import list_tasks
    >>> list_tasks("sst2")
    ['sst2_knn', 'sst2_linear_probe', 'sst2_zero_shot', 'sst2_zero_shot_prompt']

    ```
    """
    return sorted(_TASKS) if group is None else [task.name for task in find_tasks([group])]


def list_groups() -> list[str]:
    """Names of the groups there are; `"all"` is every task.

    Example:

    ```pycon
    >>> import cptk
    >>> cptk.evaluation.list_groups()[:4]
    ['code_search', 'knn', 'linear_probe', 'retrieval']

    ```
    """
    return [*sorted(_groups()), "all"]


def find_tasks(names: str | Task | Iterable[str | Task]) -> list[Task]:
    """The tasks that names of tasks and groups stand for, each once, in the order asked for.

    Raises:
        ValueError: If none is asked for, two have one name, or a name is unknown; the message
            names the near ones.
        TypeError: If a name is not a string.

    Example:

    ```pycon
    >>> import cptk
    >>> [task.name for task in cptk.evaluation.find_tasks(["stsb", "sst2"])]
    ['stsb', 'sst2_knn', 'sst2_linear_probe', 'sst2_zero_shot', 'sst2_zero_shot_prompt']

    ```
    """
    if isinstance(names, str | Task):
        names = [names]
    if not isinstance(names, Iterable):
        raise TypeError(
            f"Tasks are given as names, Tasks, or a list of these. Received: {checks.shown(names)}."
        )
    found: dict[str, Task] = {}
    for name in names:
        for task in _expand(name):
            if found.setdefault(task.name, task) != task:
                raise ValueError(
                    f"Two tasks are named {task.name!r}. Give one of them another name."
                )
    if not found:
        raise ValueError("No task to run. Name some, or a group: " + ", ".join(list_groups()) + ".")
    return list(found.values())


def _expand(name: str | Task) -> list[Task]:
    if isinstance(name, Task):
        return [name]
    if not isinstance(name, str):
        raise TypeError(f"Tasks are named by strings. Received: {checks.shown(name)}.")
    if name in _TASKS:
        return [_TASKS[name]]
    if name == "all":
        return [_TASKS[key] for key in sorted(_TASKS)]
    if name in _groups():
        return [_TASKS[key] for key in sorted(_TASKS) if name in _TASKS[key].groups]
    near = difflib.get_close_matches(name, [*_TASKS, *list_groups()], n=3, cutoff=0.5)
    hint = f"Did you mean {' or '.join(map(repr, near))}?" if near else ""
    raise ValueError(
        f"There is no task or group named {name!r}. {hint} cptk.evaluation.list_tasks() names "
        f"all tasks; the groups are {', '.join(list_groups())}."
    )


def _groups() -> set[str]:
    return {group for task in _TASKS.values() for group in task.groups}
