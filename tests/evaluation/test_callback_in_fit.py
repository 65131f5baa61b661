import csv
import json
import logging
import random
from pathlib import Path
from typing import Any

import evaluation_toys as toys
import keras
import numpy as np
import pytest
from toys import HIDDEN_DIM, backbone, tokenizer

import cptk
from cptk.evaluation import EvaluationCallback, Report, Task, TaskResult, compare, evaluate
from cptk.models import GPT2TextEmbedder, GPT2TextEmbedderPreprocessor

PAIRS = {
    "query": [f"{word}: how is it spelt?" for word in "abcdefgh"],
    "document": [f"{word} is spelt just like it" for word in "ABCDEFGH"],
}


@pytest.fixture(scope="module")
def _compiled() -> tuple[Any, list[np.ndarray]]:
    keras.utils.set_random_seed(5)
    reader = GPT2TextEmbedderPreprocessor(tokenizer(), 24)
    embedder = GPT2TextEmbedder(backbone("GPT2", 1, dropout=0.1), reader)
    model = cptk.ContrastiveTrainer(embedder, seed=3)
    model.compile(keras.optimizers.AdamW(1e-2))
    model.optimizer.build(model.trainable_variables)
    return model, weights(model)


@pytest.fixture
def trainer(_compiled: tuple[Any, list[np.ndarray]]) -> Any:
    """A function that gives the one trainer, compiled once, as it was in the beginning."""
    model, start = _compiled

    def anew() -> Any:
        for variable, value in zip(
            [*model.variables, *model.optimizer.variables], start, strict=True
        ):
            variable.assign(value)
        model._initial_epoch = None
        model.data_order = type(model.data_order)()  # Of a trainer that has not trained yet.
        return model

    return anew


def fit(model: Any, *callbacks: Any, epochs: int = 2, **kwargs: Any) -> Any:
    return model.fit(PAIRS, batch_size=2, epochs=epochs, verbose=0, callbacks=callbacks, **kwargs)


def weights(model: Any) -> list[np.ndarray]:
    variables = [*model.variables, *model.optimizer.variables]
    return [np.array(keras.ops.convert_to_numpy(v.value)) for v in variables]


def dense() -> Any:
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse", run_eagerly=keras.backend.backend() == "tensorflow")
    return model


def fit_dense(callback: Any, epochs: int = 1) -> Any:
    """Two steps an epoch."""
    x, y = np.ones((4, 2)), np.ones(4)
    return dense().fit(x, y, batch_size=2, epochs=epochs, verbose=0, callbacks=[callback]).history


def drift() -> Task:
    """A task whose score changes with every step, and that draws random numbers."""

    def run(embed: Any, split: str | None) -> Any:
        random.random(), np.random.random()
        vectors = embed(toys.TEXTS[:5], role="query")
        assert vectors.shape == (5, HIDDEN_DIM)
        return toys.result({"first": np.abs(vectors[:, 0]).tolist()}, "size", split=split or "test")

    return Task("drift", run)


@pytest.mark.slow
@pytest.mark.parametrize("when", [{"every_n_epochs": 1}, {"every_n_steps": 3, "at_start": True}])
def test_training_ends_with_the_same_weights_to_the_last_bit(
    when: dict[str, Any], trainer: Any
) -> None:
    ends, drawn = [], []
    callback = EvaluationCallback(drift(), **when)
    for callbacks in ([], [callback]):
        keras.utils.set_random_seed(0)
        model = trainer()
        history = fit(model, *callbacks)
        ends.append(weights(model))
        drawn.append((random.random(), np.random.random()))
    assert drawn[0] == drawn[1]  # nor does it draw on the random numbers of others
    for one, other in zip(*ends, strict=True):
        np.testing.assert_array_equal(one, other)
    steps = [row["step"] for row in callback.history]
    assert steps == ([4, 8] if "every_n_epochs" in when else [0, 3, 6])
    scores = [row["score"] for row in callback.history]
    assert len(set(scores)) == len(scores)  # the weights of that very step
    assert history.history["drift"] == (scores if "every_n_epochs" in when else scores[1:])


@pytest.mark.slow
def test_mid_epoch_scores_are_those_of_the_weights_at_that_step(trainer: Any) -> None:
    model = trainer()
    callback = EvaluationCallback(drift(), every_n_steps=2)
    fit(model, callback, epochs=1)
    short = trainer()
    fit(short, steps_per_epoch=2, epochs=1)
    vectors = short.embedder.encode_text(toys.TEXTS[:5], role="query")
    assert callback.history[0]["step"] == 2
    assert callback.history[0]["score"] == pytest.approx(np.abs(vectors[:, 0]).mean(), abs=1e-6)


@pytest.mark.slow
def test_history_survives_an_interruption_without_gaps_or_doubles(
    trainer: Any, tmp_path: Path
) -> None:
    def run(folder: Path, *epochs: int) -> list[dict[str, Any]]:
        for stop in epochs:
            callback = EvaluationCallback(drift(), every_n_steps=2, file=folder / "h.csv")
            backup = cptk.training.ExactBackupAndRestore(folder / "backup", delete_checkpoint=False)
            # The evaluation comes first: what it does must not depend on the order.
            fit(trainer(), callback, backup, epochs=stop)
            if stop == 2 and len(epochs) > 1:  # as if killed after evaluating and before a backup
                callback.history.append({**callback.history[-1], "step": 10, "score": 0.5})
                callback._write()
        return callback.history

    whole, broken = run(tmp_path / "a", 3), run(tmp_path / "b", 2, 3)
    assert [row["step"] for row in broken] == [2, 4, 6, 8, 10, 12]
    for one, other in zip(whole, broken, strict=True):
        assert one["score"] == pytest.approx(other["score"], abs=1e-6)
    kept = list(csv.DictReader((tmp_path / "b" / "h.csv").read_text().splitlines()))
    assert [float(row["score"]) for row in kept] == [row["score"] for row in broken]
    assert not list((tmp_path / "b").glob(".scratch*"))


def once(name: str = "once", error: Exception | None = None) -> Task:
    """A task that works the first time it is run, and never again."""
    runs: list[int] = []

    def run(embed: Any, split: str | None) -> Any:
        runs.append(1)
        if len(runs) > 1:
            raise error or FileNotFoundError("it is gone")
        return TaskResult("accuracy", 0.5)

    return Task(name, run)


def test_task_that_fails_later_is_recorded_told_once_and_stops_nothing(
    caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    file = tmp_path / "new" / "h.csv"
    callback = EvaluationCallback([once(), toys.signs()], encoder=toys.function, file=file)
    with caplog.at_level(logging.WARNING):
        history = fit_dense(callback, epochs=4)
    told = [record.getMessage() for record in caplog.records if "once" in record.getMessage()]
    assert told == [
        "Task 'once' failed at step 4: FileNotFoundError: it is gone. Training goes on; this is "
        "said once."
    ]
    assert history["once"] == [0.5]
    assert len(history["signs"]) == 4
    rows = list(csv.DictReader(file.read_text().splitlines()))
    assert [row["error"][:9] for row in rows] == ["", "", *["FileNotFo", ""] * 3]
    assert rows[2]["score"] == ""


def gives(result: Any) -> Task:
    return Task("mine", lambda embed, split: result)


@pytest.mark.parametrize(
    ("when", "task", "error", "message"),
    [
        ({}, toys.missing(), FileNotFoundError, r"lost\.tsv"),
        ({"every_n_steps": 1}, toys.missing(error=KeyError("x")), KeyError, "x"),
        ({"every_n_steps": 1, "at_start": True}, gives(0.5), TypeError, "'mine' must give a .*0.5"),
        ({}, gives(toys.result({"x": [0, 1]}, score=0.9)), ValueError, "its items give 0.5"),
        ({}, gives(toys.result({"x": ["a"]}, score=0.9)), ValueError, "'mine': .* must be numbers"),
    ],
)
def test_task_that_fails_the_first_time_ends_training_at_once(
    when: dict[str, Any], task: Task, error: type[Exception], message: str, tmp_path: Path
) -> None:
    file = tmp_path / "h.json"
    callback = EvaluationCallback([toys.signs(), task], encoder=toys.function, file=file, **when)
    with pytest.raises(error, match=message) as raised:
        fit_dense(callback, epochs=3)
    assert "the first time it was run" in raised.value.__notes__[0]
    step = (2, 1, 0)[len(when)]
    rows = json.loads(file.read_text())["history"]
    assert [(row["step"], row["task"]) for row in rows] == [(step, "signs"), (step, task.name)]
    # What has failed alone has not worked: it is not taken for a task that did.
    with pytest.raises(error):
        fit_dense(EvaluationCallback(task, encoder=toys.function, file=file))


def test_result_needs_a_metric_and_a_score_alone() -> None:
    result = TaskResult("accuracy", 0.5)
    assert result.scores == {"accuracy": 0.5}
    assert (result.size, result.items, result.split) == (0, {}, "")
    assert TaskResult("accuracy", 0.5, items={"x": [0, 1]}).size == 2
    assert type(TaskResult("accuracy", keras.ops.convert_to_tensor(0.5)).score) is float
    report = evaluate(toys.function, Task("plain", lambda embed, split: result))
    assert report.intervals == {}
    assert "50.0" in str(report)
    assert Report.from_json(report.to_json()) == report
    with pytest.raises(ValueError, match="there are no items"):
        compare(report, report)
    with pytest.raises(TypeError, match=r"the name of its metric and a number.*0\.5 and None"):
        TaskResult(0.5, None)  # type: ignore[arg-type]


def watching(kind: str) -> Any:
    if kind == "stop":
        return keras.callbacks.EarlyStopping("signs", mode="max", patience=1)
    return keras.callbacks.ReduceLROnPlateau("signs", mode="max", patience=1, factor=0.5)


@pytest.mark.parametrize("kind", ["stop", "plateau"])
@pytest.mark.parametrize("order", ["before", "after", "in a CallbackList"])
def test_callback_that_watches_a_task_finds_it_wherever_it_stands(kind: str, order: str) -> None:
    callback = EvaluationCallback(toys.signs(), encoder=toys.function)
    watcher, seen = watching(kind), []
    first = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: seen.append(dict(logs)))
    model = dense()
    given: Any = [first, watcher, callback]
    if order == "after":
        given = [first, callback, watcher]
    elif order == "in a CallbackList":
        given = keras.callbacks.CallbackList(given, add_history=True, model=model, epochs=3)
    history = model.fit(
        np.ones((4, 2)), np.ones(4), batch_size=2, epochs=3, verbose=0, callbacks=given
    )
    # A constant figure is no progress: one more epoch, or half the rate after each.
    assert len(callback.history) == (2 if kind == "stop" else 3)
    if kind == "plateau":
        assert float(keras.ops.convert_to_numpy(model.optimizer.learning_rate)) < 0.01
    assert "signs" not in seen[0]  # who does not watch keeps its place
    assert len(history.history["signs"]) == len(callback.history)


def test_watcher_of_something_else_keeps_its_place() -> None:
    callback = EvaluationCallback(toys.signs(), encoder=toys.function)
    watchers = [keras.callbacks.EarlyStopping(name, mode="min") for name in ("loss", "signs")]
    listed = keras.callbacks.CallbackList([*watchers, callback], model=dense())
    assert listed.callbacks == [watchers[0], callback, watchers[1]]


@pytest.mark.parametrize("suffix", [".csv", ".json"])
def test_any_model_and_any_encoder_and_a_second_fit(suffix: str, tmp_path: Path) -> None:
    model, file = dense(), tmp_path / f"h{suffix}"
    tasks = [toys.signs(), once()]
    arguments = {"encoder": toys.function, "every_n_epochs": 2, "split": "validation", "file": file}
    for _ in range(2):
        callback = EvaluationCallback(tasks, **arguments)
        model.fit(np.ones((4, 2)), np.ones(4), epochs=4, verbose=0, callbacks=[callback])
    rows = callback.history
    assert [(row["step"], row["epoch"]) for row in rows if row["task"] == "signs"] == [
        (2, 1), (4, 3), (6, 1), (8, 3)
    ]  # fmt: skip
    assert [row["error"] is None for row in rows if row["task"] == "once"] == [True] + [False] * 3
    assert rows[0]["split"] == "validation"
    text = file.read_text()
    kept = list(csv.DictReader(text.splitlines()))
    if suffix == ".json":
        kept = json.loads(text)["history"]
        assert kept == rows
    assert [int(row["step"]) for row in kept] == [2, 2, 4, 4, 6, 6, 8, 8]
    assert callback.history == rows


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"every_n_steps": 1, "every_n_epochs": 1}, "not both"),
        ({"every_n_steps": 0}, "`every_n_steps` should be an integer of 1 or more. Received: 0"),
        ({"every_n_epochs": -1}, "`every_n_epochs` should be an integer of 1 or more"),
        ({"file": "history.xlsx"}, r"`file` must end in .csv or .json. Received: 'history.xlsx'"),
    ],
)
def test_bad_arguments(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        EvaluationCallback(toys.signs(), **arguments)


def test_unknown_task_is_refused_before_training() -> None:
    with pytest.raises(ValueError, match=r"no task or group named 'sst2_kn'.*'sst2_knn'"):
        EvaluationCallback("sst2_kn")


HEADER = "step,epoch,task,metric,score,data,split,size,seconds,error\n"
ROW = {"step": 1, "task": "t", "score": 0.5} | dict.fromkeys(
    ("epoch", "metric", "data", "split", "size", "seconds", "error")
)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("h.csv", "a,b\n1,2\n"),
        ("h.csv", "step\nx\n"),
        ("h.csv", "\x00"),
        ("h.csv", f"{HEADER}1,0,t,m,1_0,d,s,3,0.1,\n"),
        ("h.csv", f"{HEADER}1,0,{'t' * 200_000},m,1,d,s,3,0.1,\n"),
        ("h.csv", HEADER.encode("utf-16")),
        ("h.json", json.dumps({"history": [ROW]}).encode("utf-16")),
        ("h.json", '{"history": ' + "[" * 100_000),
        ("h.json", json.dumps({"history": [ROW | {"step": True}]})),
        ("h.json", json.dumps({"history": [ROW | {"score": [1]}]})),
        ("h.json", json.dumps({"history": [list(ROW)]})),
        ("h.json", "[]"),
        ("h.json", None),  # a folder
    ],
)
def test_file_of_something_else_is_refused_and_left_alone(
    name: str, content: Any, tmp_path: Path
) -> None:
    file = tmp_path / name
    content = content.encode() if isinstance(content, str) else content
    file.mkdir() if content is None else file.write_bytes(content)
    model = dense()
    callback = EvaluationCallback(toys.signs(), encoder=toys.function, file=file)
    with pytest.raises(ValueError, match=r"is not a history of EvaluationCallback") as raised:
        model.fit(np.ones((4, 2)), np.ones(4), verbose=0, callbacks=[callback])
    assert len(str(raised.value)) < 1000
    assert file.is_dir() if content is None else file.read_bytes() == content
