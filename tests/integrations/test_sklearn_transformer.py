"""The scikit-learn transformer: scikit-learn's own checks on texts, pipelines, searches."""

import pickle

import numpy as np
import pytest
import toys
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.utils.estimator_checks import parametrize_with_checks

from cptk.integrations.sklearn import TextEmbedderTransformer

TEXTS = ["the thing", "in the thin", "x y z", "def f(x): return", "the", "y x"]


class Lengths:
    """An encoder of numbers as well as texts, as scikit-learn's checks pass them."""

    def __repr__(self):
        return "Lengths()"  # in the names of tests, alike in every process

    def encode_text(self, texts, role=None):
        return np.array([[len(text), text.count("the") + 1, 1] for text in texts], "float32")


class OnTables(TextEmbedderTransformer):
    """The transformer under the checks of transformers of tables: each row is written as a text."""

    def fit(self, X, y=None):  # noqa: N803
        return super().fit(self._texts(X))

    def transform(self, X):  # noqa: N803
        return super().transform(self._texts(X))

    def fit_transform(self, X, y=None, **kwargs):  # noqa: N803
        return super().fit_transform(self._texts(X))

    def _texts(self, X):  # noqa: N803
        return [" ".join(map(str, np.ravel(row))) or "-" for row in np.asarray(X)]

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array, tags.input_tags.one_d_array = True, False
        tags.no_validation = True
        return tags


ENCODER = Lengths()
#: Checks of what a transformer of texts cannot be.
EXPECTED = dict.fromkeys(
    ("check_estimator_sparse_tag", "check_estimator_sparse_array", "check_estimator_sparse_matrix"),
    "texts are never sparse: the message speaks of texts, and the check looks for that word",
)
EXPECTED["check_transformer_general"] = "a text is one column, however long: none can be missing"


@parametrize_with_checks([OnTables(ENCODER)], expected_failed_checks=lambda _: EXPECTED)
def test_scikit_learns_checks(estimator, check):
    check(estimator)


@pytest.fixture(scope="module")
def embedder():
    return toys.gpt2_embedder(1)


def test_it_gives_the_embedders_vectors(embedder):
    made = TextEmbedderTransformer(embedder, role="query").fit(TEXTS)
    expected = embedder.encode_text(TEXTS, role="query")
    np.testing.assert_allclose(made.transform(TEXTS), expected, atol=1e-6)
    np.testing.assert_allclose(made.fit_transform(np.array(TEXTS)), expected, atol=1e-6)
    names = made.get_feature_names_out()
    assert (names[0], names[-1]) == ("textembeddertransformer0", "textembeddertransformer15")
    short = TextEmbedderTransformer(embedder, role="query", dims=4).fit_transform(TEXTS)
    np.testing.assert_allclose(
        short, embedder.encode_text(TEXTS, role="query", truncate_dim=4), atol=1e-6
    )
    frame = made.set_output(transform="pandas").transform(TEXTS)
    assert list(frame.columns) == list(names)


def test_a_clone_has_the_same_embedder(embedder):
    made = TextEmbedderTransformer(embedder, role="query", dims=4).fit(TEXTS)
    other = clone(made)
    assert other.embedder is embedder
    assert other.get_params() == made.get_params()
    with pytest.raises(NotFittedError):
        other.transform(TEXTS)


def test_a_search_over_role_and_dims(embedder):
    pipeline = make_pipeline(TextEmbedderTransformer(embedder), LogisticRegression())
    choices = {"role": ["query", "document"], "dims": [4, None]}
    grid = {f"textembeddertransformer__{name}": each for name, each in choices.items()}
    search = GridSearchCV(pipeline, grid, cv=2, error_score="raise").fit(TEXTS, [0, 0, 1, 1, 0, 1])
    assert len(search.cv_results_["params"]) == 4
    assert search.predict(["the thing"]).shape == (1,)


def test_a_folder_is_loaded_once_and_travels_as_a_folder(embedder, tmp_path):
    embedder.save_to_preset(tmp_path / "preset")
    made = TextEmbedderTransformer(tmp_path / "preset").fit(TEXTS)
    expected = embedder.encode_text(TEXTS)
    np.testing.assert_allclose(made.transform(TEXTS), expected, atol=1e-6)
    assert made._encoder() is made._encoder()
    packed = pickle.dumps(made)
    assert len(packed) < 2000
    np.testing.assert_allclose(pickle.loads(packed).transform(TEXTS), expected, atol=1e-6)  # noqa: S301


@pytest.mark.parametrize(
    ("options", "given", "error", "match"),
    [
        ({"embedder": None}, TEXTS, ValueError, "`embedder` is None"),
        ({"embedder": 3}, TEXTS, TypeError, "An encoder needs"),
        ({"embedder": "nowhere"}, TEXTS, FileNotFoundError, "nowhere"),
        ({"dims": 0}, TEXTS, ValueError, "`dims` should be an integer of 1 or more, or None"),
        ({"dims": 4}, TEXTS, ValueError, "`dims` should be at most the size of a vector, 3"),
        ({"role": 3}, TEXTS, TypeError, "`role` should be the name of a role"),
        ({}, "one text", TypeError, "`X` should be a sequence of strings. Received a string"),
        ({}, [], ValueError, "`X` is empty"),
        ({}, ["a", None], TypeError, "Item 1 is None"),
        ({}, np.ones((2, 2)), TypeError, r"array of shape \(2, 2\)"),
    ],
)
def test_bad_input(options, given, error, match):
    made = TextEmbedderTransformer(**{"embedder": ENCODER, **options})
    with pytest.raises(error, match=match):
        made.fit_transform(given)
    with pytest.raises(error, match=match):
        made.fit(given)
