import json
import math
from pathlib import Path
from typing import Any

import evaluation_toys as toys
import matplotlib as mpl
import numpy as np
import pytest

from cptk.evaluation import (
    CachedEncoder,
    Published,
    Report,
    Task,
    compare,
    evaluate,
    find_tasks,
)

mpl.use("Agg")


@pytest.fixture
def report() -> Report:
    tasks = [toys.signs(published=toys.PAPER), correlation(), toys.missing()]
    return evaluate(toys.Counter(), tasks, name="toy <1>", on_missing="skip", n_bootstrap=50)


def correlation(name: str = "pairs") -> Task:
    def run(embed: Any, split: str | None) -> Any:
        predicted = embed(toys.TEXTS)[:, 1].astype(float)
        gold = np.arange(40) % 5
        items = {"predicted": predicted.tolist(), "gold": gold.tolist()}
        rho = __import__("scipy.stats").stats.spearmanr(predicted, gold).statistic
        return toys.result(items, "spearman", float(rho), dataset="pairs|2")

    return Task(name, run)


def test_texts_that_tasks_share_are_embedded_once() -> None:
    counter = toys.Counter()
    evaluate(counter, [toys.signs("one"), toys.signs("two"), correlation()])
    assert len(counter.asked) == len(set(counter.asked)) == 40


def test_report_has_what_was_run(report: Report) -> None:
    expected = np.mean([toys.vector(f"None {text}")[0] > 0 for text in toys.TEXTS])
    assert report["signs"].score == pytest.approx(expected)
    low, high = report.intervals["signs"]
    assert low < report["signs"].score < high
    assert report.missing == {"lost": "lost.tsv is not there; set CPTK_DATA_DIR"}
    assert report.about["embedder"]["name"] == report.name == "toy <1>"
    assert report.about["embedder"]["class"] == "Counter"
    assert report.about["split"] is None
    assert {"python", "numpy", "cptk"} <= set(report.about["versions"])
    assert list(report) == ["signs", "pairs"]
    assert "lost" not in report
    assert len(report) == 2
    with pytest.raises(KeyError, match=r"No result of 'lost': lost.tsv is not there"):
        report["lost"]
    with pytest.raises(KeyError, match="this report has signs, pairs"):
        report["sign"]


def test_table_in_terminal_markdown_and_notebook(report: Report) -> None:
    score = f"{100 * report['signs'].score:.1f}"
    for text in (str(report), repr(report), report.to_markdown(), report._repr_html_()):
        assert score in text
        assert "cpt-text S 93.6 [1]; cpt-text XL 95.4 [1]" in text
        assert "Not run: lost. lost.tsv is not there" in text
        assert "50 resamples" in text
    lines = report.to_markdown().splitlines()
    assert len({line.replace("\\|", "").count("|") for line in lines[:4]}) == 1
    assert "pairs\\|2" in lines[3]
    assert "[1] Paper | table 1" in str(report)
    assert "toy &lt;1&gt;" in report._repr_html_()
    assert "<1>" not in report._repr_html_()
    assert "published" not in str(evaluate(toys.function, toys.signs(), n_bootstrap=0))


def test_json_gives_the_same_report_back(report: Report, tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    text = report.to_json(path)
    assert Report.from_json(path) == Report.from_json(text) == report
    assert json.loads(path.read_text()) == json.loads(text)
    assert '"correct":[1,' in text or '"correct":[0,' in text
    assert [p.name for p in tmp_path.iterdir()] == ["report.json"]


def test_undefined_score_is_kept_and_shown() -> None:
    items = {"predicted": [1.0, 1.0], "gold": [0.0, 1.0]}
    task = Task("flat", lambda embed, split: toys.result(items, "spearman", math.nan))
    report = evaluate(toys.function, task)
    assert "undefined" in str(report)
    assert "NaN" not in report.to_json()
    again = Report.from_json(report.to_json())
    assert math.isnan(again["flat"].score)
    assert math.isnan(again["flat"].scores["spearman"])
    assert report.intervals == {}
    with pytest.raises(ValueError, match="no result to draw"):
        report.plot()


@pytest.mark.parametrize("content", ["{}", "[]", "{", '{"format": "cptk report 0"}', "<html>"])
def test_something_else_is_no_report(content: str, tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=r"Not a report of cptk.*x\.json"):
        Report.from_json(path)
    with pytest.raises(FileNotFoundError):
        Report.from_json(tmp_path / "y.json")


def altered(report: Report, *path: str, value: Any) -> str:
    """The report's JSON with another value at one place."""
    content = json.loads(report.to_json())
    place = content
    for name in path[:-1]:
        place = place[name]
    place[path[-1]] = value
    return json.dumps(content)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("results",), []),
        (("results", "signs"), 0.5),
        (("results", "signs", "score"), "0.5"),
        (("results", "signs", "score"), "1_0"),
        (("results", "signs", "score"), True),
        (("results", "signs", "scores"), [0.5]),
        (("results", "signs", "scores", "accuracy"), [0.5]),
        (("results", "signs", "items"), {"correct": "1010"}),
        (("results", "signs", "items", "correct"), [1, "0"]),
        (("results", "signs", "items", "correct"), 10**400),
        (("results", "signs", "metric"), None),
        (("results", "signs", "size"), 40.0),
        (("results", "signs", "extra"), 1),
        (("intervals", "signs"), [0.5]),
        (("intervals", "signs"), "ab"),
        (("seconds", "signs"), "long"),
        (("published", "signs"), {"model": "m"}),
        (("published", "signs"), [{"model": "m", "score": 0.5}]),
        (("published", "signs"), [{"model": "m", "score": "x" * 10**6, "source": "s"}]),
        (("missing", "lost"), ["a"]),
        (("about",), None),
        (("about", "embedder"), "toy"),
        (("about", "bootstrap"), {"resamples": "many"}),
        (("more",), 1),
        (("format",), ["cptk report 1"]),
    ],
)
def test_value_of_another_type_is_no_report(
    path: tuple[str, ...], value: Any, report: Report
) -> None:
    with pytest.raises(ValueError, match=r"Not a report of cptk.*this text") as raised:
        Report.from_json(altered(report, *path, value=value))
    assert len(str(raised.value)) < 400


@pytest.mark.parametrize(
    "content", ["utf-16", "utf-8-sig", "deep", "folder", "cut", "null"], ids=lambda name: name
)
def test_damaged_file_is_no_report(content: str, report: Report, tmp_path: Path) -> None:
    path, text = tmp_path / "x.json", report.to_json()
    if content == "folder":
        path.mkdir()
    else:
        path.write_bytes(
            {
                "utf-16": text.encode("utf-16"),
                "utf-8-sig": text.encode("utf-8-sig"),
                "deep": b'{"a":' * 100_000,
                "cut": text[:-9].encode(),
                "null": b"null",
            }[content]
        )
    with pytest.raises(ValueError, match=r"Not a report of cptk.*x\.json"):
        Report.from_json(path)
    if content == "deep":
        with pytest.raises(ValueError, match="Not a report of cptk"):
            Report.from_json(path.read_text())


def test_paths_of_a_report(report: Report, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    report.to_json("~/r.json")
    assert Report.from_json("~/r.json") == report
    (tmp_path / "folder").mkdir()
    for place in ("folder", "nowhere/r.json", "r.json/r.json"):
        with pytest.raises(FileNotFoundError, match="`path` should name a file"):
            report.to_json(tmp_path / place)
    for source in (b"{}", {}, None, 3):
        with pytest.raises((TypeError, ValueError), match="`source` should be a path"):
            Report.from_json(source)  # type: ignore[arg-type]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["folder", "r.json"]


def test_sst2_stands_beside_a_published_figure() -> None:
    for task in find_tasks("sst2"):
        assert [(p.score, "Table 3" in p.source) for p in task.published] == [(0.854, True)]


def test_plot_draws_on_the_axes_given(report: Report) -> None:
    from matplotlib import pyplot
    from matplotlib.figure import Figure

    ax = Figure().add_subplot()
    before = pyplot.get_fignums()
    assert report.plot(ax=ax) is ax
    assert pyplot.get_fignums() == before
    assert ax.get_xlabel() == "score × 100"
    assert [label.get_text() for label in ax.get_yticklabels()] == [
        "signs  (accuracy)", "pairs  (spearman)"
    ]  # fmt: skip
    legend = [text.get_text() for text in ax.get_legend().get_texts()]
    assert legend == ["cpt-text S (published)", "cpt-text XL (published)", "toy <1>, 95% interval"]
    pyplot.close(report.plot().figure)


def test_reports_of_one_embedder_are_merged(report: Report) -> None:
    late = evaluate(
        toys.Counter(), [toys.signs("lost"), toys.signs()], name="toy <1>", n_bootstrap=0
    )
    merged = report.merge(late)
    assert list(merged) == ["signs", "pairs", "lost"]
    assert merged.missing == {}
    assert "signs" not in merged.intervals
    assert report.missing  # as it was
    with pytest.raises(ValueError, match="the name 'toy <1>' and 'other'"):
        report.merge(evaluate(toys.Counter(), toys.signs(), name="other"))


def test_missing_data_stops_unless_told_otherwise() -> None:
    with pytest.raises(FileNotFoundError, match=r"lost\.tsv"):
        evaluate(toys.function, [toys.missing()])
    library = toys.missing("other", ImportError("needs tree-sitter"))
    report = evaluate(toys.function, [library], on_missing="skip")
    assert report.missing == {"other": "needs tree-sitter"}
    assert "needs tree-sitter" in str(report)
    with pytest.raises(RuntimeError, match="a fault"):
        evaluate(toys.function, [toys.missing("x", RuntimeError("a fault"))], on_missing="skip")


def test_bad_arguments(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no task or group named 'sst2_knnn'.*'sst2_knn'"):
        evaluate(toys.function, ["sst2_knnn"])
    with pytest.raises(ValueError, match=r"`on_missing` should be one of .*'ignore'"):
        evaluate(toys.function, toys.signs(), on_missing="ignore")
    with pytest.raises(ValueError, match="`n_bootstrap` should be an integer of 0 or more"):
        evaluate(toys.function, toys.signs(), n_bootstrap=-1)
    with pytest.raises(ValueError, match="leave `cache_dir` out"):
        evaluate(CachedEncoder(toys.function), toys.signs(), cache_dir=tmp_path)
    with pytest.raises(TypeError, match="An encoder needs `encode_text"):
        evaluate(object(), toys.signs())
    with pytest.raises(ValueError, match="`name`"):
        evaluate(toys.function, toys.signs(), cache_dir=tmp_path)


def test_task_must_give_a_result_whose_items_give_its_score() -> None:
    with pytest.raises(TypeError, match=r"'bad' must give a cptk.evaluation.TaskResult.*\{\}"):
        evaluate(toys.function, Task("bad", lambda embed, split: {}))  # type: ignore[arg-type,return-value]
    wrong = Task("bad", lambda embed, split: toys.result({"x": [0, 1]}, score=0.9))
    with pytest.raises(ValueError, match=r"accuracy of 0.9, and its items give 0.5"):
        evaluate(toys.function, wrong)


def other(texts: list[str]) -> Any:
    return toys.function([text + "!" for text in texts])


def test_two_reports_are_compared_item_by_item() -> None:
    first = evaluate(
        toys.function, [toys.signs(), correlation(), toys.signs("mine")], name="a", n_bootstrap=9
    )
    second = evaluate(other, [correlation(), toys.signs()], name="b", n_bootstrap=0)
    comparison = compare(first, second, n_bootstrap=99)
    assert list(comparison.differences) == ["signs", "pairs"]
    change = comparison.differences["signs"]
    assert change.value == pytest.approx(second["signs"].score - first["signs"].score)
    assert change.low <= change.value <= change.high
    assert comparison.left_out == {"mine": "the second report does not have it"}
    for text in (str(comparison), comparison.to_markdown(), comparison._repr_html_()):
        assert f"{100 * change.value:+.1f} [" in text
        assert "b minus a" in text
        assert "Not compared: mine" in text
    same = compare(first, first, n_bootstrap=9)
    assert "a (first)" in str(same)
    assert same.differences["signs"].p_value == 1.0


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("sha256", "1" * 64, "content of the data"),
        ("split", "train", "split differs: 'test' and 'train'"),
        ("dataset", "another", "dataset differs"),
        ("size", 39, "size differs"),
        ("metric", "f1", "metric differs"),
    ],
)
def test_other_data_cannot_be_compared(field: str, value: Any, message: str) -> None:
    import dataclasses

    first = evaluate(toys.function, toys.signs())
    second = evaluate(toys.function, toys.signs())
    second.results["signs"] = dataclasses.replace(second["signs"], **{field: value})
    with pytest.raises(ValueError, match=f"no task on which.*{message}"):
        compare(first, second)
    with pytest.raises(TypeError, match=r"two Reports\. Received: dict"):
        compare(first, {})  # type: ignore[arg-type]


def test_published_figures_share_a_source() -> None:
    more = (Published("S", 0.5, "Other"), *toys.PAPER)
    report = evaluate(
        toys.function, [toys.signs("a", published=toys.PAPER), toys.signs("b", published=more)]
    )
    assert "S 50.0 [2]; cpt-text S 93.6 [1]" in str(report)
