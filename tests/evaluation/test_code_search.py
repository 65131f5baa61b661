import numpy as np
import pytest
from scipy.spatial.distance import cdist

from cptk import datasets
from cptk.datasets.records import CodePairs
from cptk.docstrings import LANGUAGES
from cptk.evaluation.tasks.code_search import TASKS, code_search, summary


def _pairs(n, language="go"):
    return CodePairs(
        [f"Docstring number {i}." for i in range(n)],
        [f"// Docstring number {i}.\nfunc F{i}() int {{ return {i} }}" for i in range(n)],
        language,
    )


def _encoder(seed=0, noise=0.7):
    """Vectors by the number in the text: a docstring lies near its function."""

    def encode(texts):
        rows = []
        for text in texts:
            digits = "".join(c if c.isdigit() else " " for c in text).split()
            key = int(digits[0]) if digits else 0
            base = np.random.default_rng(key).normal(size=4)
            own = np.random.default_rng([seed, "func" in text, key]).normal(size=4)
            rows.append(base + noise * own)
        return np.array(rows, "float32")

    return encode


def _codesearchnets_script(docstrings, codes, encode, pool):
    """github/CodeSearchNet, src/model_test.py: shuffle by seed 0, whole batches, `<=` in ranks."""
    order = np.arange(len(docstrings))
    np.random.RandomState(0).shuffle(order)
    forward, backward = [], []
    for start in range(0, len(order) // pool * pool, pool):
        batch = order[start : start + pool]
        u = encode([docstrings[i] for i in batch]).astype("float64")
        v = encode([codes[i] for i in batch]).astype("float64")
        for source, target, ranks in ((u, v, forward), (v, u, backward)):
            distances = cdist(source, target, "cosine")
            ranks.append(np.mean(1 / np.sum(distances <= np.diag(distances)[:, None], axis=-1)))
    return np.mean(forward), np.mean(backward)


@pytest.mark.parametrize("n", [40, 1000, 2300])
def test_the_published_protocol(n):
    data, encode = _pairs(n), _encoder()
    scores = code_search(encode, data)
    codes = [code.split("\n")[1] for code in data.codes]
    forward, backward = _codesearchnets_script(data.docstrings, codes, encode, min(n, 1000))
    assert scores["mrr"] == pytest.approx(
        forward, abs=1e-4
    )  # float32 against float64: a rank or two
    assert scores["mrr_reversed"] == pytest.approx(backward, abs=1e-4)
    whole, _ = _codesearchnets_script(data.docstrings, codes, encode, n)
    assert scores["mrr_10000"] == pytest.approx(whole, abs=1e-4)
    assert 0 < scores["recall@1"] < scores["mrr"] < scores["recall@10"] <= 1


def test_the_docstring_is_not_in_the_code_and_each_text_is_embedded_once_in_its_role():
    seen = {}

    def encode(texts, role):
        seen[role] = list(texts)
        return np.eye(len(texts), 8, dtype="float32") + 0.1

    encoder = type("Encoder", (), {"encode_text": staticmethod(encode)})()
    codes = ['def f():\n    """Say."""\n    return 1', 'def g():\n    """Say."""\n    return 2']
    code_search(encoder, CodePairs(["Say.\n\nMore.", "Say."], codes, "python"))
    assert seen["query"] == ["Say."]
    assert sorted(seen["document"]) == ["def f():\n    return 1", "def g():\n    return 2"]


def test_ties_count_against():
    constant = lambda texts: np.ones((len(texts), 3), "float32")  # noqa: E731
    assert code_search(constant, _pairs(50))["mrr"] == pytest.approx(1 / 50)
    twice = _pairs(20)
    twice = CodePairs(twice.docstrings * 2, twice.codes * 2, "go")
    assert code_search(_encoder(noise=0), twice)["mrr"] == pytest.approx(1 / 2)


@pytest.mark.parametrize(
    ("docstring", "expected"),
    [
        ("Add one.\n\nArgs: x", "Add one."),
        ("Add one. @param x it", "Add one."),
        ("// F adds.\n// And more.", "F adds.\nAnd more."),
        ("/**\n * Adds one.\n * @return it\n */", "Adds one."),
        ("@return the thing", "@return the thing"),
        ("* a list", "* a list"),
    ],
)
def test_the_query_is_the_summary(docstring, expected):
    assert summary(docstring) == expected


def test_bad_input():
    with pytest.raises(ValueError, match="2 docstrings and 1 functions"):
        code_search(_encoder(), CodePairs(["a", "b"], ["func F() {}"], "go"))
    with pytest.raises(ValueError, match="nothing to search"):
        code_search(_encoder(), CodePairs(["F is."], ["// F is."], "go"))
    with pytest.raises(ValueError, match="Received: 'cobol'"):
        code_search(_encoder(), _pairs(3, "cobol"))


def _task(name):
    return next(task for task in TASKS if task.name == name)


def test_a_languages_task(monkeypatch):
    data = _pairs(1200)
    data.docstrings.append(" ")
    data.codes.append("func G() {}")
    monkeypatch.setattr(datasets, "available_splits", lambda name: ["test"])
    monkeypatch.setattr(datasets, "load", lambda name, split: data)
    result = _task("codesearchnet_go").run(lambda t, role=None: _encoder()(t), None)
    assert (result.metric, result.split, result.size) == ("mrr", "test", 1000)
    assert np.mean(result.items["reciprocal_rank"]) == pytest.approx(result.score)
    details = result.details
    assert (details["pairs"], details["blank_pairs"], details["pools"]) == (1201, 1, 1)
    assert (details["docstrings_stripped"], details["unparsed"]) == (1200, 0)


def test_the_average_is_of_the_languages_that_are_there(monkeypatch):
    sizes = {"codesearchnet_go": 40, "codesearchnet_ruby": 90}
    monkeypatch.setattr(
        datasets, "available_splits", lambda name: ["test"] if name in sizes else []
    )
    monkeypatch.setattr(datasets, "load", lambda name, split: _pairs(sizes[name]))
    encode = lambda t, role=None: _encoder()(t)  # noqa: E731
    result = _task("codesearchnet").run(encode, None)
    each = [_task(name).run(encode, None).score for name in sizes]
    assert result.score == pytest.approx(np.mean(each))
    assert np.mean(result.items["reciprocal_rank"]) == pytest.approx(result.score)
    assert result.details["languages_missing"] == ["python", "java", "php", "javascript"]
    assert result.scores["mrr/go"] == pytest.approx(each[0])
    assert result.size == 130


def test_no_language_at_all_says_so(monkeypatch):
    def load(name, split):
        raise FileNotFoundError(f"{name} is not there")

    monkeypatch.setattr(datasets, "available_splits", lambda name: [])
    monkeypatch.setattr(datasets, "load", load)
    with pytest.raises(FileNotFoundError, match="codesearchnet_"):
        _task("codesearchnet").run(_encoder(), None)


def test_the_tasks_and_what_was_published():
    names = [task.name for task in TASKS]
    assert names == ["codesearchnet", *(f"codesearchnet_{each}" for each in LANGUAGES), "cosqa"]
    assert all("code_search" in task.groups for task in TASKS)
    average = {p.model: p.score for p in _task("codesearchnet").published}
    assert average == {"cpt-code S": 0.934, "cpt-code M": 0.935}
    for model, score in average.items():
        ours = [p.score for t in TASKS[1:7] for p in t.published if p.model == model]
        assert np.mean(ours) == pytest.approx(score, abs=6e-4)
