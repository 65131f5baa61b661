"""At every door of evaluation: columns are taken, and what is no data is refused unembedded."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import evaluation_toys as toys
import numpy as np
import pytest

from cptk import evaluation as ev
from cptk.datasets.records import (
    CodePairs,
    LabeledPairs,
    LabeledTexts,
    RetrievalData,
    ScoredPairs,
)
from cptk.evaluation.labels import label_array

TEXTS = ["a 1", "b 2", "c 1", "d 2"]
GOLD = [4.0, 1.0, 3.0, 0.5]
CODES = [f"def f{i}(x):\n    return x + {i}" for i in range(4)]


class Frame:
    """What pandas shows of a frame of one column, or of more."""

    def __init__(self, **columns: list[Any]) -> None:
        self.columns, self.data = list(columns), columns
        self.shape = (len(next(iter(columns.values()))), len(columns))

    def __iter__(self) -> Any:
        return iter(self.columns)

    def __len__(self) -> int:
        return self.shape[0]

    def to_pydict(self) -> dict[str, list[Any]]:
        return self.data


def never(texts: list[str], role: str | None = None) -> Any:
    raise AssertionError(f"embedded: {texts}")


never.encode_text = never  # type: ignore[attr-defined]


# Each with texts in one place.
DOORS: dict[str, Callable[[Any, Any], Any]] = {
    "embed": lambda encoder, texts: ev.embed(encoder, texts).tolist(),
    "cached": lambda encoder, texts: ev.CachedEncoder(encoder)(texts).tolist(),
    "zero_shot": lambda encoder, texts: ev.zero_shot(
        encoder, texts, [0, 1, 0, 1], ["good", "bad"]
    ).scores.tolist(),
    "calibration": lambda encoder, texts: ev.zero_shot(
        encoder, TEXTS, [0, 1, 0, 1], ["good", "bad"], calibration_texts=texts
    ).offsets.tolist(),  # type: ignore[union-attr]
    "label_texts": lambda encoder, texts: ev.zero_shot(
        encoder, TEXTS, [0, 1, 0, 1], ["good", texts]
    ).scores.tolist(),
    "similarity": lambda encoder, texts: ev.similarity(
        encoder, ScoredPairs(texts, ["x", "y", "z", "w"], GOLD, ["mine"] * 4)
    ),
    "code_search": lambda encoder, texts: ev.code_search(
        encoder, CodePairs(texts, CODES, "python")
    ),
}


@pytest.mark.parametrize("door", DOORS)
def test_frame_of_one_column_is_its_texts(door: str) -> None:
    call = DOORS[door]
    expected = call(toys.function, TEXTS)
    assert call(toys.function, Frame(text=TEXTS)) == expected
    assert call(toys.function, np.array(TEXTS, object)) == expected


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize(
    "texts",
    [
        Frame(a=TEXTS, b=TEXTS),
        dict.fromkeys(TEXTS, 1),
        dict.fromkeys(TEXTS, "x").values(),
        set(TEXTS),
        io.StringIO("\n".join(TEXTS)),
        b"a 1b 2",
        np.array([TEXTS]),
        [*TEXTS[:3], None],
        [*TEXTS[:3], 2.5],
        [*TEXTS[:3], "\ud800"],
    ],
    ids=lambda texts: type(texts).__name__,
)
def test_what_is_no_texts_is_refused_before_anything_is_embedded(door: str, texts: Any) -> None:
    with pytest.raises((TypeError, ValueError), match=r"sequence of strings|should hold"):
        DOORS[door](never, texts)


@pytest.mark.parametrize("index", range(4))
def test_long_item_is_cut_in_the_message(index: int) -> None:
    texts: list[Any] = list(TEXTS)
    texts[index] = b"x" * 1_000_000
    with pytest.raises(TypeError, match=f"Item {index} is") as raised:
        ev.embed(never, texts)
    assert len(str(raised.value)) < 400


def scored(**change: Any) -> ScoredPairs:
    four = {"first": TEXTS, "second": TEXTS[::-1], "scores": GOLD, "subsets": ["a"] * 4}
    return ScoredPairs(**{**four, **change})


def search(**change: Any) -> RetrievalData:
    data = {
        "queries": {"q": "a", "p": "b"},
        "corpus": {"d": "a 1", "e": "b 2"},
        "qrels": {"q": {"d": 1}},
    }
    return RetrievalData(**{**data, **change})


def retrieve(**change: Any) -> Callable[[], Any]:
    options = {name: change.pop(name) for name in ("depth",) if name in change}
    return lambda: ev.retrieval(never, search(**change), **options)


BAD: dict[str, tuple[Callable[[], Any], str]] = {
    "query id": (retrieve(queries={1: "a"}, qrels={1: {"d": 1}}), "ids of queries.*1 of type int"),
    "document id": (retrieve(corpus={7: "a"}, qrels={"q": {7: 1}}), "ids of corpus.*7 of type int"),
    "judged id": (retrieve(qrels={"q": {7: 1}}), "ids should be strings.*7 of type int"),
    "judged query id": (retrieve(qrels={7: {"d": 1}}), "ids should be strings.*7 of type int"),
    "query text": (retrieve(queries={"q": 1}), "texts of queries"),
    "document text": (retrieve(corpus={"d": None}), "texts of corpus.*None"),
    "blank query": (retrieve(queries={"q": " "}), "`queries` should hold no empty"),
    "surrogate": (retrieve(corpus={"d": "\ud800"}), "`corpus` should hold valid Unicode"),
    "blank corpus": (retrieve(corpus={"d": " "}), "Every document of the corpus is blank"),
    "half a relevance": (retrieve(qrels={"q": {"d": 0.5}}), "whole number.*0.5"),
    "NaN": (retrieve(qrels={"q": {"d": float("nan")}}), "whole number.*nan"),
    "infinite": (retrieve(qrels={"q": {"d": float("inf")}}), "whole number.*inf"),
    "huge": (retrieve(qrels={"q": {"d": 10**9}}), "a million at most"),
    "text": (retrieve(qrels={"q": {"d": "1"}}), "a relevance should be a whole number"),
    "a list": (retrieve(qrels={"q": ["d"]}), "mapping of ids.*list"),
    "pairs": (retrieve(qrels=[("q", "d", 1)]), "mapping of ids.*list"),
    "corpus list": (retrieve(corpus=["a"]), "`corpus` should map ids to texts"),
    "none": (retrieve(qrels={}), "no judgement"),
    "none in it": (retrieve(qrels={"q": {}}), "no judgement"),
    "depth": (retrieve(depth=0), "`depth` should be an integer of 1"),
    "float depth": (retrieve(depth=10.0), "`depth` should be an integer of 1"),
    "pairs of another kind": (lambda: ev.similarity(never, {"first": TEXTS}), "ScoredPairs"),
    "unequal": (lambda: ev.similarity(never, scored(second=TEXTS[:3])), "4, 3, 4 and 4"),
    "score": (lambda: ev.similarity(never, scored(scores=[*GOLD[:3], "x"])), "number.*'x'"),
    "NaN score": (lambda: ev.similarity(never, scored(scores=[*GOLD[:3], np.nan])), "not finite"),
    "lonely": (
        lambda: ev.similarity(never, scored(subsets=["a", "a", "a", "b"])), "'b' has 1"
    ),
    "lonely two": (
        lambda: ev.similarity(never, ScoredPairs(["a", "b"], ["c", "d"], [1, 2], ["a", "b"])),
        "two or more pairs",
    ),
    "one pair": (lambda: ev.similarity(never, ScoredPairs(["a"], ["b"], [1], ["m"])), "two pairs"),
    "code of another kind": (lambda: ev.code_search(never, {}), "CodePairs"),
    "codes": (lambda: ev.code_search(never, CodePairs(TEXTS, CODES[:3], "python")), "3 functions"),
    "language": (lambda: ev.code_search(never, CodePairs(TEXTS, CODES, ["go"])), "Received: .'go'"),
    "labels": (lambda: ev.zero_shot(never, TEXTS, [0, 1], ["a", "b"]), "each of the 4 texts"),
    "float labels": (lambda: ev.zero_shot(never, TEXTS, [0.0] * 4, ["a", "b"]), "class numbers"),
    "missing class": (lambda: ev.zero_shot(never, TEXTS, [0, 1, 2, 0], ["a", "b"]), "from 0 to 1"),
    "named labels": (lambda: ev.zero_shot(never, TEXTS, ["x"] * 4, ["a", "b"]), "class numbers"),
    "one label text": (lambda: ev.zero_shot(never, TEXTS, [0] * 4, ["a"]), "two classes"),
    "label mapping": (
        lambda: ev.zero_shot(never, TEXTS, [0, 1, 0, 1], {"a": "b", "c": "d"}), "a mapping"
    ),
    "label mapping inside": (
        lambda: ev.zero_shot(never, TEXTS, [0, 1, 0, 1], ["a", {"b": "c"}]), "a mapping"
    ),
    "seed": (lambda: ev.evaluate(never, toys.signs(), seed=-1), "`seed` should be an integer of 0"),
    "bootstrap": (lambda: ev.evaluate(never, toys.signs(), n_bootstrap=1.5), "`n_bootstrap`"),
    "split": (lambda: ev.evaluate(never, toys.signs(), split=3), "`split` should be a name"),
    "tasks": (lambda: ev.evaluate(never, 3), "names, Tasks, or a list"),
    "encoder": (lambda: ev.evaluate(3, toys.missing()), "An encoder needs"),
    "class": (lambda: ev.evaluate(toys.Counter, toys.signs()), "the class Counter; give an inst"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_found_before_anything_is_embedded(name: str) -> None:
    call, message = BAD[name]
    with pytest.raises((TypeError, ValueError), match=message) as raised:
        call()
    assert len(str(raised.value)) < 500


def test_whole_relevances_are_taken_in_every_form() -> None:
    expected = ev.retrieval(toys.function, search())
    for one in (1.0, np.int64(1), np.float32(1), True):
        assert ev.retrieval(toys.function, search(qrels={"q": {"d": one}, "p": {}})) == expected


CLASSES = {"texts": toys.TEXTS, "labels": [0, 1] * 20}


@pytest.mark.parametrize(
    ("task", "split", "change", "message"),
    [
        ("sst2_knn", "train", {"labels": [0] * 40}, "two or more classes"),
        ("sst2_knn", "train", {"labels": [0, 1] * 19}, "each of the 40"),
        ("sst2_knn", "test", {"labels": [0.5] * 40}, "whole numbers"),
        ("sst2_knn", "test", {"labels": [7] * 40}, "None of `test_labels` occurs"),
        ("sst2_knn", "test", {"texts": [*toys.TEXTS[:39], ""]}, "`test_texts` should hold no"),
        ("sst2_linear_probe", "train", {"labels": [0] * 39 + [1]}, "each of the 10 folds"),
        ("trec_linear_probe", "test", {"labels": ["0"] * 40}, "are they coded alike"),
        ("mr_linear_probe", "all", {"labels": [0] * 38 + [1] * 2}, "each of the 10 folds"),
        ("mrpc_linear_probe", "test", {"labels": [0] * 39}, "each of the 40"),
        ("sst2_zero_shot", "test", {"labels": [0, 2] * 20}, "from 0 to 1"),
    ],
)
def test_bad_set_of_a_task_is_found_before_anything_is_embedded(
    task: str, split: str, change: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(name: str, asked: str) -> Any:
        data = {**CLASSES, **(change if asked == split else {})}
        if name == "mrpc":
            return LabeledPairs(data["texts"], data["texts"], data["labels"])
        return LabeledTexts(data["texts"], data["labels"])

    monkeypatch.setattr("cptk.datasets.load", load)
    monkeypatch.setattr("cptk.datasets.available_splits", lambda name: ["train", "test", "all"])
    (chosen,) = ev.find_tasks(task)
    with pytest.raises((TypeError, ValueError), match=message):
        chosen.run(never, None)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (Frame(label=["b", "a"]), ["b", "a"]),
        (np.array(["b", "a"], object), ["b", "a"]),
        (np.array([1, 2], object), [1, 2]),
        ((np.int8(1), 2), [1, 2]),
        ([True, False], [True, False]),
        (range(2), [0, 1]),
    ],
)
def test_labels_in_every_form(values: Any, expected: list[Any]) -> None:
    assert label_array(values, "labels").tolist() == expected


@pytest.mark.parametrize(
    "values",
    [
        [1, "a"],
        [None, 1],
        ["a", float("nan")],
        [1.5, 2],
        {"a": 1},
        {1, 2},
        "ab",
        Frame(a=[1], b=[2]),
    ],
)
def test_what_are_no_labels(values: Any) -> None:
    with pytest.raises(TypeError, match="`labels`"):
        label_array(values, "labels")


def test_labels_of_two_kinds_are_not_compared() -> None:
    for function in (ev.accuracy, ev.f1):
        with pytest.raises(ValueError, match="coded alike"):
            function([0, 1], ["0", "1"])
        with pytest.raises(ValueError, match="NaN"):
            function([0.0, float("nan")], [0.0, 1.0])
        with pytest.raises(TypeError, match="a mapping"):
            function({0: 1}, [1])
