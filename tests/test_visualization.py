import itertools
import warnings
from collections.abc import Callable
from typing import Any

import matplotlib as mpl
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib import pyplot
from matplotlib.figure import Figure
from sklearn import metrics
from sklearn.decomposition import PCA

from cptk import visualization as vis

mpl.use("Agg")

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(2, 30, 5))
LABELS = np.arange(30) % 2
SURE = RNG.uniform(0.5, 1.0, 30)
TEXTS = [f"text {i} costs $5 and $6\nor so" for i in range(30)]

FIGURES: dict[str, Callable[..., Any]] = {
    "accuracy_against_k": lambda **k: vis.accuracy_against_k([1, 2], {"a": [0.5, 0.6]}, **k),
    "learning_curve": lambda **k: vis.learning_curve([10, 100], [[0.5, 0.6], [0.6, 0.7]], **k),
    "reliability": lambda **k: vis.reliability(SURE, LABELS, **k),
    "roc": lambda **k: vis.roc(LABELS, {"a": SURE, "b": -SURE}, **k),
    "confusion_matrix": lambda **k: vis.confusion_matrix(LABELS, LABELS[::-1], **k),
    "alignment_uniformity": lambda **k: vis.alignment_uniformity({"a": (X, Y)}, **k),
    "score_margins": lambda **k: vis.score_margins({"a": (X, Y), "b": (X, X)}, **k),
    "similarity_heatmap": lambda **k: vis.similarity_heatmap(X[:4], texts=TEXTS[:4], **k),
    "similarity_histogram": lambda **k: vis.similarity_histogram([0.9, 0.8], [0.1, 0.3, 0.2], **k),
    "embedding_map": lambda **k: vis.embedding_map(
        X, LABELS, names=["no", "yes"], texts=TEXTS, mistakes=SURE > 0.8, **k
    ),
}


@pytest.mark.parametrize("name", FIGURES)
def test_draws_on_the_axes_given_or_on_new_ones(name: str) -> None:
    pyplot.close("all")
    ax = Figure().add_subplot()
    assert FIGURES[name](ax=ax) is ax
    assert pyplot.get_fignums() == []
    # The axes of a heat map are named by the texts themselves.
    assert (ax.get_xlabel() and ax.get_ylabel()) or name == "similarity_heatmap"
    new = FIGURES[name]()
    assert pyplot.get_fignums() == [new.figure.number]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        new.figure.canvas.draw()
    pyplot.close("all")
    with pytest.raises(TypeError, match="`ax` must be a matplotlib Axes"):
        FIGURES[name](ax="ax")


# === Numbers ===


def test_alignment_and_uniformity_are_wang_and_isolas() -> None:
    x, y = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in (X, Y))
    pairs = [np.sum((a - b) ** 2) for a, b in zip(x, y, strict=True)]
    assert vis.alignment(3 * X, Y) == pytest.approx(np.mean(pairs), abs=1e-12)
    assert vis.alignment(X, Y, alpha=1) == pytest.approx(np.mean(np.sqrt(pairs)), abs=1e-12)
    kernel = [np.exp(-2 * np.sum((x[i] - x[j]) ** 2)) for i in range(30) for j in range(i + 1, 30)]
    assert vis.uniformity(X) == pytest.approx(np.log(np.mean(kernel)), abs=1e-12)
    assert vis.uniformity([[1.0, 0.0], [2.0, 0.0]]) == 0.0


def test_uniformity_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = vis.uniformity(X)
    monkeypatch.setattr("cptk.visualization.geometry._BLOCK", 7)
    assert vis.uniformity(X) == pytest.approx(whole, abs=1e-12)


def test_score_margins_are_those_of_a_slow_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cptk.visualization.geometry._BLOCK", 7)
    x, y = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in (X, Y))
    margins = [x[i] @ y[i] - max(x[i] @ y[j] for j in range(30) if j != i) for i in range(30)]
    ax = vis.score_margins({"all": (3 * X, Y)}, bins=9, ax=Figure().add_subplot())
    assert ax.get_legend().get_texts()[0].get_text() == (
        f"all: {np.mean(np.greater(margins, 0)):.0%} right of 0"
    )
    heights, edges = np.histogram(margins, 9, density=True)
    corners = ax.patches[0].get_xy()
    np.testing.assert_allclose(np.unique(corners[:, 0]), edges, atol=1e-12)
    np.testing.assert_allclose(corners[1:-1:2, 1], heights, atol=1e-9)


@given(
    st.lists(
        st.tuples(st.sampled_from([0.0, 0.1, 0.2, 0.25, 0.5, 0.999, 1.0]), st.booleans()),
        min_size=1, max_size=20,
    ),
    st.integers(1, 12),
)  # fmt: skip
def test_calibration_error_is_that_of_a_slow_loop(
    rows: list[tuple[float, bool]], bins: int
) -> None:
    edges = np.linspace(0, 1, bins + 1)
    error = 0.0
    for number, (low, high) in enumerate(itertools.pairwise(edges)):
        inside = [r for r in rows if low < r[0] <= high or (number == 0 and r[0] == 0)]
        if inside:
            sure, right = np.mean(inside, axis=0)
            error += len(inside) / len(rows) * abs(right - sure)
    sure, right = zip(*rows, strict=True)
    assert vis.expected_calibration_error(sure, right, bins) == pytest.approx(error, abs=1e-12)


@given(st.lists(st.tuples(st.integers(0, 1), st.integers(0, 4)), min_size=2, max_size=30))
def test_roc_and_its_area_are_scikit_learns(rows: list[tuple[int, int]]) -> None:
    labels, scores = map(list, zip(*[*rows, (0, 2), (1, 2)], strict=True))
    ax = vis.roc(labels, scores, ax=Figure().add_subplot())
    false, true, _ = metrics.roc_curve(labels, scores, drop_intermediate=False)
    np.testing.assert_allclose(ax.lines[0].get_xydata(), np.stack([false, true], 1), atol=1e-12)
    area = metrics.roc_auc_score(labels, scores)
    assert ax.get_legend().get_texts()[0].get_text() == f"area {area:.3f}"


def test_confusion_matrix_is_scikit_learns() -> None:
    gold, taken = RNG.integers(0, 4, (2, 50))
    ax = vis.confusion_matrix(gold, taken, names=list("abcd"), ax=Figure().add_subplot())
    counts = metrics.confusion_matrix(gold, taken)
    assert [int(text.get_text()) for text in ax.texts] == counts.ravel().tolist()
    assert [label.get_text() for label in ax.get_xticklabels()] == list("abcd")


def test_map_is_the_pca_of_scikit_learn_up_to_sign() -> None:
    ax = vis.embedding_map(X, ax=Figure().add_subplot())
    pca = PCA(2).fit(X)
    found = np.asarray(ax.collections[0].get_offsets())
    np.testing.assert_allclose(np.abs(found), np.abs(pca.transform(X)), atol=1e-9)
    assert f"({pca.explained_variance_ratio_[0]:.0%} of the variance)" in ax.get_xlabel()


def test_map_writes_the_texts_of_mistakes_that_lie_apart() -> None:
    ax = Figure().add_subplot()
    vis.embedding_map(X, texts=TEXTS, mistakes=[3, 5, 7, 9], most_texts=3, ax=ax)
    assert len(ax.texts) == 3
    assert all(r"\$5" in text.get_text() for text in ax.texts)
    vis.embedding_map(X, texts=TEXTS, mistakes=np.zeros(30, bool), ax=Figure().add_subplot())


def test_heatmap_holds_cosines() -> None:
    ax = vis.similarity_heatmap(X[:3], Y[:4], ax=Figure().add_subplot())
    expected = metrics.pairwise.cosine_similarity(X[:3], Y[:4])
    np.testing.assert_allclose(ax.images[0].get_array(), expected, atol=1e-12)
    assert len(ax.texts) == 12


def test_umap_is_an_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "umap", None)
    with pytest.raises(ImportError, match=r"cptk\[umap\]"):
        vis.embedding_map(X, method="umap")


BAD: list[tuple[Callable[[], Any], str]] = [
    (lambda: vis.accuracy_against_k([1, 2], [0.5]), "one value for each of the 2 points"),
    (lambda: vis.accuracy_against_k([1], {"a": [float("nan")]}), "the curve 'a' must be finite"),
    (lambda: vis.accuracy_against_k([1], {}), "no curve"),
    (lambda: vis.learning_curve([[1]], [0.5]), "must be a flat list"),
    (lambda: vis.reliability([1.5], [1]), "from 0 to 1. Received 1.5.*softmax"),
    (lambda: vis.reliability([0.5], [2]), "of booleans"),
    (lambda: vis.reliability([0.5], [1], bins=0), "`bins` should be an integer of 1 or more"),
    (lambda: vis.roc([1, 1], [0.1, 0.2]), "0 and 1, both of them"),
    (lambda: vis.confusion_matrix([0, 1], [0]), "one length"),
    (lambda: vis.confusion_matrix([0, 1], [0, 1], names=["a"]), "must name the 2 classes"),
    (lambda: vis.alignment([[1.0]], [[1.0], [2.0]]), "one shape"),
    (lambda: vis.alignment([[0.0]], [[1.0]]), "no zero vector. Received one in row 0"),
    (lambda: vis.uniformity([[1.0]]), "two vectors or more"),
    (lambda: vis.uniformity([1.0]), r"shape \(n, d\)"),
    (lambda: vis.alignment_uniformity({}), "mapping of names"),
    (lambda: vis.similarity_heatmap(X, Y[:, :2]), "vectors of one size"),
    (
        lambda: vis.similarity_heatmap(X, texts=["a"]),
        "`texts` must have one label for each of the 30",
    ),
    (lambda: vis.similarity_histogram([], [1.0]), "`positives` must be numbers"),
    (lambda: vis.embedding_map(X, method="tsne"), r"one of \['pca', 'umap'\].*'tsne'"),
    (lambda: vis.embedding_map(X[:2]), "three vectors or more"),
    (lambda: vis.embedding_map(X, LABELS[:3]), "`labels` must have one entry for each of the 30"),
    (lambda: vis.embedding_map(X, LABELS, names=["a"]), "must name the 2 classes"),
    (lambda: vis.embedding_map(X, mistakes=[30]), "indices from 0 to 29"),
    (lambda: vis.embedding_map(X, mistakes=[True]), "30 booleans"),
]


class Column:
    """A column of pandas whose index does not begin at 0: `column[2]` is not its third entry."""

    def __init__(self, values: list[Any]) -> None:
        self.values = values

    def __iter__(self) -> Any:
        return iter(self.values)

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, index: int) -> Any:
        return self.values[index - 1]


def test_texts_of_a_column_are_taken_by_their_places() -> None:
    texts, mistakes = [f"text {i}" for i in range(30)], [3, 17]
    ax = vis.embedding_map(
        X, Column(list(LABELS)), texts=Column(texts), mistakes=mistakes, ax=Figure().add_subplot()
    )
    assert {text.get_text() for text in ax.texts} == {"text 3", "text 17"}


@pytest.mark.parametrize("texts", [dict.fromkeys(map(str, range(30))), set(map(str, range(30)))])
def test_what_has_no_order_is_no_texts(texts: Any) -> None:
    for call in (lambda: vis.embedding_map(X, texts=texts),
                 lambda: vis.embedding_map(X, texts),
                 lambda: vis.similarity_heatmap(X, texts=texts)):  # fmt: skip
        with pytest.raises(TypeError, match="should be a sequence of labels"):
            call()


@pytest.mark.parametrize(("call", "message"), BAD, ids=[message[:20] for _, message in BAD])
def test_bad_input(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
