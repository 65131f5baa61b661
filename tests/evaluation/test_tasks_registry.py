import subprocess
import sys
from collections.abc import Iterator

import evaluation_toys as toys
import pytest

import cptk
from cptk.evaluation import Task, find_tasks, list_groups, list_tasks, register_task
from cptk.evaluation.tasks import registry


@pytest.fixture(autouse=True)
def _registry(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(registry, "_TASKS", dict(registry._TASKS))
    return


def test_tasks_and_groups_of_the_issue_are_there() -> None:
    assert {"senteval", "sts", "sst2", "code_search", "retrieval", "all"} <= set(list_groups())
    assert {"sst2_linear_probe", "sst2_zero_shot", "sst2_knn"} <= set(list_tasks("sst2"))
    assert list_tasks("sts") == ["sick", "sts12", "sts13", "sts14", "sts15", "sts16", "stsb"]
    senteval = {f"{n}_linear_probe" for n in "mr cr subj mpqa trec mrpc sst2".split()}
    assert set(list_tasks("senteval")) == senteval
    assert len(list_tasks("code_search")) == 8
    assert list_tasks("all") == list_tasks()
    for task in find_tasks("all"):
        assert task.description
        assert task.groups


def test_a_users_own_task_is_found_by_name_and_group() -> None:
    mine = toys.signs("mine", groups=("own", "sst2"))
    assert register_task(mine) is register_task(mine)
    assert "mine" in list_tasks()
    assert list_tasks("own") == ["mine"]
    assert [t.name for t in find_tasks(["own", "mine", mine])] == ["mine"]
    assert find_tasks("sst2")[0] is mine


@pytest.mark.parametrize(
    ("task", "error", "message"),
    [
        ("sst2", TypeError, "must be a cptk.evaluation.Task. Received: 'sst2'"),
        (toys.signs("two words"), ValueError, "letters, digits"),
        (toys.signs(""), ValueError, "letters, digits"),
        (toys.signs("sts"), ValueError, "'sts' is the name of a group"),
        (toys.signs("all"), ValueError, "'all' is the name of a group"),
        (toys.signs("sst2_knn"), ValueError, "'sst2_knn' is there already"),
    ],
)
def test_what_cannot_be_registered(task: object, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        register_task(task)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("task", "message"),
    [
        (Task(3, toys.missing().run), "a name and a function.*3"),  # type: ignore[arg-type]
        (Task("fine", "run"), "a name and a function.*'run'"),  # type: ignore[arg-type]
        (Task("fine", toys.missing().run, groups="mine"), "tuple of names.*'mine'"),  # type: ignore[arg-type]
    ],
)
def test_task_of_wrong_parts_is_refused(task: Task, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        register_task(task)


def test_unknown_names_list_near_ones() -> None:
    with pytest.raises(ValueError, match=r"named 'senteva'. Did you mean 'senteval'"):
        find_tasks("senteva")
    with pytest.raises(ValueError, match="No task to run"):
        find_tasks([])
    with pytest.raises(TypeError, match=r"named by strings\. Received: 3"):
        find_tasks([3])  # type: ignore[list-item]


def test_group_may_not_take_the_name_of_a_task() -> None:
    with pytest.raises(ValueError, match="'sst2_knn' is the name of a task"):
        register_task(Task("fine", toys.missing().run, groups=("sst2_knn",)))


def test_importing_evaluation_imports_nothing_heavy() -> None:
    code = (
        "import sys, cptk.evaluation\n"
        "heavy = 'keras tensorflow jax torch sklearn scipy matplotlib bm25s tree_sitter'.split()\n"
        "print([name for name in heavy if name in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_every_public_name_resolves() -> None:
    for name in cptk.evaluation.__all__:
        assert getattr(cptk.evaluation, name) is not None
    assert "EvaluationCallback" in dir(cptk.evaluation)
    with pytest.raises(AttributeError, match="no attribute 'evalute'"):
        cptk.evaluation.evalute  # noqa: B018
