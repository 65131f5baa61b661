"""BM25: texts ranked by the words that they share with a query, exactly, in blocks."""

from __future__ import annotations

import math
import re
from array import array
from collections import Counter
from collections.abc import Callable, Iterable
from itertools import pairwise
from typing import Any, NamedTuple, Self, TypeAlias

import numpy as np
from numpy.typing import NDArray

from cptk import checks

SparseRows: TypeAlias = Any
"""A `scipy.sparse.csr_array`: SciPy carries no types."""

# Scores of this many pairs of query and document are held at a time.
SCORES_AT_A_TIME = 1 << 22
# Weights are whole multiples of 1 / STEPS, so that sums of them are exact, and two documents that
# have the same ones of different words a tie.
STEPS = 2.0**43


def words(text: str) -> list[str]:
    """The words of a text in lower case: letters, digits and underscores in a row.

    Example:

    ```pycon
    >>> from cptk.search.bm25 import words
    >>> words("Don't open_file(1)!")
    ['don', 't', 'open_file', '1']

    ```
    """
    return re.findall(r"\w+", text.lower())


class BM25:
    """BM25, the ranking by words that dense search is measured against and combined with.

    With `tf` the count of a word in a document, `df` the number of the n documents that have it,
    `|d|` the number of words of a document and `avg` its mean,

        score(q, d) = sum over the words w of q of
                      idf(w) * tf(w, d) / (tf(w, d) + k1 * (1 - b + b * |d| / avg)),
        idf(w) = ln(1 + (n - df(w) + 0.5) / (df(w) + 0.5)).

    A word that a query has twice counts twice. Scores are float64 and 0 or more: 0 is a document
    that shares no word with the query. They have no unit and no upper end, and those of two queries
    cannot be compared.

    Args:
        k1: From where on more of a word adds little; 0 asks only whether it is there.
        b: How much long documents are held back, 0 to 1.
        tokenize: A function from a text to its words, for stems, stop words or another script.
            Default: runs of letters, digits and underscores, in lower case (`words`).

    Raises:
        ValueError: `k1` is no number of 0 or more, or `b` none from 0 to 1.
        TypeError: `tokenize` cannot be called.

    Example:

    ```pycon
    >>> from cptk.search import BM25
    >>> bm25 = BM25().fit(["Sort the values.", "Open the path.", "Read a file."])
    >>> scores, indices = bm25.top_k(["how do I open a path?"], k=2)
    >>> indices.tolist()
    [[1, 2]]

    ```

    References:
        - Robertson & Zaragoza 2009, The Probabilistic Relevance Framework: BM25 and Beyond,
          section 3. The idf that is never negative, and the missing factor `k1 + 1`, which
          changes no order, are Lucene's (Kamphuis et al. 2020, Which BM25 Do You Mean?).
          `k1=1.5` and `b=0.75` are those of `cptk.evaluation.bm25`.
    """

    def __init__(
        self,
        k1: float = 1.5,
        b: float = 0.75,
        tokenize: Callable[[str], Iterable[str]] | None = None,
    ) -> None:
        for name, value, most in (("k1", k1, math.inf), ("b", b, 1.0)):
            if not checks.is_number(value) or not 0 <= value <= most or math.isinf(value):
                raise ValueError(
                    f"`{name}` should be a number of 0 or more"
                    f"{', at most 1' if name == 'b' else ''}. Received: {checks.shown(value)}."
                )
        if tokenize is not None and not callable(tokenize):
            raise TypeError(
                "`tokenize` should be a function from a text to its words. Received: "
                f"{checks.shown(tokenize)}."
            )
        self.k1, self.b = float(k1), float(b)
        self.tokenize = words if tokenize is None else tokenize
        self._fitted: _Fitted | None = None

    def fit(self, documents: Iterable[str]) -> Self:
        """Count the words of the documents to search in; those of an earlier call are forgotten.

        Args:
            documents: m texts.

        Returns:
            Itself.

        Raises:
            TypeError: Something that is not a sequence of strings.
            ValueError: No documents, an empty one, or none with a word.
        """
        texts = checks.texts(documents, "documents")
        vocabulary: dict[str, int] = {}
        counts, lengths = self._counts(texts, vocabulary, grow=True)
        if not lengths.any():
            raise ValueError(
                f"None of the {len(texts)} documents has a word. Received: "
                f"{checks.shown(texts)}. Pass a `tokenize` that finds words in such texts."
            )
        having = np.bincount(counts.indices, minlength=len(vocabulary))
        idf = np.log1p((len(texts) - having + 0.5) / (having + 0.5))
        fitted = _Fitted(vocabulary, idf, float(lengths.mean()), len(texts), None)
        self._fitted = fitted._replace(postings=self._weighted(counts, lengths, fitted).T.tocsr())
        return self

    def top_k(
        self, queries: Iterable[str], k: int
    ) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """The k best documents of each query, exactly; of equal scores the lower index first.

        Args:
            queries: n texts.
            k: How many documents to find for each query, 1 to m.

        Returns:
            Scores (n, k) float64, descending, and the documents' indices (n, k) int64. A document
            that shares no word with the query is not found: where there are fewer than k others,
            the rest is `-inf` and -1.

        Raises:
            ValueError: Not fitted, no queries, an empty one, or `k` is not from 1 to m.
            TypeError: Something that is not a sequence of strings.
        """
        fitted = self._check_fitted()
        texts = checks.texts(queries, "queries")
        k = checks.integer("k", k, 1)
        if k > fitted.documents:
            raise ValueError(
                f"`k` must be at most the number of documents, {fitted.documents}. Received: {k}."
            )
        return self.best(texts, k)

    def best(
        self, texts: list[str], k: int, allowed: NDArray[np.bool_] | None = None
    ) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """What `top_k` gives, of texts and a k that are checked, among some of the documents.

        Args:
            texts: n queries.
            k: 1 to m.
            allowed: (m,) which documents may be found; None for all. The idf stays that of all.

        Example:

        ```pycon
        >>> import numpy as np
        >>> from cptk.search import BM25
        >>> bm25 = BM25().fit(["Sort the values.", "Open the path.", "Open a file."])
        >>> bm25.best(["open it"], 1, np.array([True, False, True]))[1].tolist()
        [[2]]

        ```
        """
        fitted = self._check_fitted()
        scores = np.full((len(texts), k), -np.inf)
        indices = np.full((len(texts), k), -1, np.int64)
        step = max(1, SCORES_AT_A_TIME // fitted.documents)
        for start in range(0, len(texts), step):
            asked, _ = self._counts(texts[start : start + step], fitted.vocabulary)
            found = asked @ fitted.postings
            for row, (low, high) in enumerate(pairwise(found.indptr), start):
                data, places = found.data[low:high], found.indices[low:high]
                if allowed is not None:
                    data, places = data[allowed[places]], places[allowed[places]]
                if len(data) > k:
                    near = data >= np.partition(data, -k)[-k]
                    data, places = data[near], places[near]
                order = np.lexsort((places, -data))[:k]
                scores[row, : len(order)] = data[order]
                indices[row, : len(order)] = places[order]
        return scores, indices

    def score(self, queries: Iterable[str], documents: Iterable[str]) -> NDArray[np.float64]:
        """The score of each query with one document, which may be another than those fitted on.

        Args:
            queries: n texts.
            documents: n texts, one for each query.

        Returns:
            (n,) float64.

        Raises:
            ValueError: Not fitted, unequal numbers, or an empty text.
            TypeError: Something that is not a sequence of strings.

        Example:

        ```pycon
        >>> from cptk.search import BM25
        >>> bm25 = BM25().fit(["sort values", "open paths"])
        >>> bm25.score(["open"], ["open windows"]) == bm25.top_k(["open"], k=1)[0][0]
        array([ True])

        ```
        """
        fitted = self._check_fitted()
        left, right = checks.texts(queries, "queries"), checks.texts(documents, "documents")
        if len(left) != len(right):
            raise ValueError(
                "`documents` should hold one text for each query. Received "
                f"{len(left)} queries and {len(right)} documents."
            )
        scores = np.empty(len(left))
        step = math.isqrt(SCORES_AT_A_TIME)
        for start in range(0, len(left), step):
            part = slice(start, start + step)
            asked, _ = self._counts(left[part], fitted.vocabulary)
            weights = self._weighted(*self._counts(right[part], fitted.vocabulary), fitted)
            # The product that `top_k` takes too: the same sums in the same order.
            scores[part] = (asked @ weights.T.tocsr()).diagonal()
        return scores

    def _counts(
        self, texts: list[str], vocabulary: dict[str, int], grow: bool = False
    ) -> tuple[SparseRows, NDArray[np.int64]]:
        """Counts of known words (n, number of words), and the number of all words of each text."""
        from scipy.sparse import csr_array

        places, counts, ends, lengths = array("q"), array("d"), array("q", [0]), array("q")
        for text in texts:
            found = Counter(self.tokenize(text))
            for word, count in found.items():
                place = vocabulary.get(word)
                if place is None:
                    if not grow:
                        continue
                    place = vocabulary[word] = len(vocabulary)
                places.append(place)
                counts.append(count)
            ends.append(len(places))
            lengths.append(found.total())
        rows = (np.asarray(counts), np.asarray(places), np.asarray(ends))
        return csr_array(rows, shape=(len(texts), len(vocabulary))), np.asarray(lengths)

    def _weighted(
        self, counts: SparseRows, lengths: NDArray[np.int64], fitted: _Fitted
    ) -> SparseRows:
        """Each document's words with what one of them in a query adds to the score."""
        damping = self.k1 * (1 - self.b + self.b * lengths / fitted.mean_length)
        damping = np.repeat(damping, np.diff(counts.indptr))
        weights = fitted.idf[counts.indices] * counts.data / (counts.data + damping)
        counts.data = np.round(weights * STEPS) / STEPS
        return counts

    def _check_fitted(self) -> _Fitted:
        if self._fitted is None:
            raise ValueError("This BM25 knows no documents yet. Call `fit(documents)` first.")
        return self._fitted


class _Fitted(NamedTuple):
    """What is known of the documents."""

    vocabulary: dict[str, int]
    idf: NDArray[np.float64]
    mean_length: float
    documents: int
    postings: SparseRows
    """(number of words, m): for each word the documents that have it."""
