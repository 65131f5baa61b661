"""The objectives against those of sentence-transformers: values, and gradients of the embeddings.

Its losses take a model and columns of texts: here a model that passes on what it is given. What
corresponds to what is the table in docs/coming-from-sentence-transformers.md. On torch this is of
`make numerics`; beside another backend torch is loaded for it alone, so that there it is slow.
"""

from __future__ import annotations

import functools
import types
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from gradients import BACKEND, float64_allowed, value_and_gradients
from keras import ops

from cptk.losses import (
    Batch,
    CoSENT,
    DocumentToQuery,
    InfoNCE,
    KLDivergence,
    MarginMSE,
    Matryoshka,
    Objective,
    SimCSE,
    TripletLoss,
)
from cptk.ops import cosine_similarity

pytestmark = [] if BACKEND == "torch" else [pytest.mark.slow]

DIM, SCALE, TAU = 5, 20.0, 1 / 20.0
SYMMETRIC = {"directions": ("query_to_doc", "doc_to_query"), "partition_mode": "per_direction"}
QUERIES = {"directions": ("query_to_doc", "query_to_query")}
GTE = {"directions": ("query_to_doc", "query_to_query", "doc_to_query", "doc_to_doc")}


@pytest.fixture(scope="module")
def st() -> Any:
    """Its losses by name, with `model` and `cosine` beside them."""
    pytest.importorskip("sentence_transformers", reason="pip install cptk[compare]")
    torch = pytest.importorskip("torch")
    from sentence_transformers.sentence_transformer import losses
    from sentence_transformers.util import pairwise_cos_sim
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    class Given(torch.nn.ModuleList):
        """A model whose embeddings are its input."""

        max_seq_length = 8
        tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel({"a": 0})))

        def forward(self, features: Any) -> Any:
            return {"sentence_embedding": features["rows"] * 1.0}

        def get_embedding_dimension(self) -> int:
            return DIM

    model = Given([torch.nn.Identity()])
    return types.SimpleNamespace(**vars(losses), model=model, cosine=pairwise_cos_sim)


def ranking(st: Any, cached: bool = False, **options: Any) -> Any:
    if cached:
        kind = st.CachedMultipleNegativesRankingLoss
        return kind(st.model, scale=SCALE, mini_batch_size=2, **options)
    return st.MultipleNegativesRankingLoss(st.model, scale=SCALE, **options)


def gist(st: Any, **options: Any) -> Any:
    """Guided by the model itself."""
    both = {"contrast_anchors": False, "contrast_positives": False, **options}
    return st.GISTEmbedLoss(st.model, st.model, temperature=TAU, **both)


def triplets(st: Any) -> Any:
    """Each query with its document and every other one."""
    metric = st.TripletDistanceMetric.COSINE
    loss = st.TripletLoss(st.model, distance_metric=metric, triplet_margin=0.3)

    def of_all(columns: Any, labels: Any) -> Any:
        query, document = (column["rows"] for column in columns)
        n = len(query)
        i, j = zip(*[(i, j) for i in range(n) for j in range(n) if i != j], strict=True)
        rows = (query[list(i)], document[list(i)], document[list(j)])
        return loss([{"rows": x} for x in rows], labels)

    return of_all


def swapped(loss: Any) -> Any:
    return lambda columns, labels: loss(columns[::-1], labels)


def times(factor: float, loss: Any) -> Any:
    return lambda columns, labels: factor * loss(columns, labels)


#: Their loss, ours, and the numbers of hard negatives.
CASES: dict[str, tuple[Callable[[Any], Any], Objective, tuple[int, ...]]] = {
    "ranking": (ranking, InfoNCE(symmetric=False), (0, 1, 2)),
    "ranking, cached": (
        functools.partial(ranking, cached=True), InfoNCE(symmetric=False), (0, 1, 2)
    ),
    "symmetric": (functools.partial(ranking, **SYMMETRIC), InfoNCE(), (0, 1, 2)),
    "symmetric, by its old name": (
        lambda st: st.MultipleNegativesSymmetricRankingLoss(st.model, scale=SCALE),
        InfoNCE(),
        (0,),
    ),
    "symmetric, cached": (
        functools.partial(ranking, cached=True, **SYMMETRIC), InfoNCE(), (0, 2)
    ),
    "the other direction": (lambda st: swapped(ranking(st)), DocumentToQuery(), (0,)),
    "SimCSE": (ranking, SimCSE(), (0, 1)),
    "queries too": (
        functools.partial(ranking, **QUERIES), InfoNCE(symmetric=False, same_side=True), (0, 2)
    ),
    "GTE": (functools.partial(ranking, **GTE), InfoNCE(same_side=True), (0,)),
    "GIST": (
        functools.partial(gist, margin=0.2),
        InfoNCE(symmetric=False, false_negative_margin=-0.2),
        (0, 1),
    ),
    "GIST, with queries": (
        functools.partial(gist, contrast_anchors=True),
        InfoNCE(symmetric=False, same_side=True, false_negative_margin=0.0),
        (0, 1),
    ),
    "Matryoshka": (
        lambda st: st.MatryoshkaLoss(st.model, ranking(st), [2, DIM, 3], [0.5, 1.0, 2.0]),
        Matryoshka(InfoNCE(symmetric=False), [2, DIM, 3], [0.5, 1.0, 2.0]),
        (0, 1),
    ),
    "Matryoshka, cached": (
        lambda st: st.MatryoshkaLoss(st.model, ranking(st, cached=True), [DIM, 2]),
        Matryoshka(InfoNCE(symmetric=False), [DIM, 2]),
        (1,),
    ),
    "CoSENT": (lambda st: st.CoSENTLoss(st.model, scale=SCALE), CoSENT(), (0,)),
    "MarginMSE": (
        lambda st: st.MarginMSELoss(st.model, similarity_fct=st.cosine), MarginMSE(), (1, 2)
    ),
    "KL divergence": (
        lambda st: st.DistillKLDivLoss(st.model, similarity_fct=st.cosine, temperature=TAU),
        KLDivergence(teacher_temperature=TAU),
        (1, 2),
    ),
    "KL divergence of two temperatures": (
        lambda st: times(
            (2.0 / TAU) ** 2,
            st.DistillKLDivLoss(
                st.model, similarity_fct=st.cosine, student_temperature=TAU, teacher_temperature=2.0
            ),
        ),
        KLDivergence(teacher_temperature=2.0),
        (2,),
    ),
    "triplets": (triplets, TripletLoss(margin=0.3), (0,)),
}  # fmt: skip


def draw(n: int, k: int) -> tuple[list[np.ndarray], dict[str, np.ndarray]]:
    """Queries, documents and k columns of negatives; scores and a teacher's scores.

    Some texts are equal, a negative and a document among them, and so are some scores.
    """
    rng = np.random.default_rng(n + 10 * k)
    columns = [rng.normal(size=(n, DIM)) for _ in range(2 + k)]
    if n > 4:
        columns[0][4], columns[1][3] = columns[0][1], columns[1][0]
        if k:
            columns[2][1] = columns[1][2]
    numbers = {"score": np.arange(n) * 3 % 4 / 2.0, "teacher": rng.normal(size=(n, 1 + k))}
    return columns, numbers


def theirs(loss: Any, columns: list[np.ndarray], labels: Any) -> tuple[float, list[np.ndarray]]:
    import torch

    rows = [torch.tensor(column, requires_grad=True) for column in columns]
    value = loss([{"rows": row} for row in rows], None if labels is None else torch.tensor(labels))
    value.backward()
    return value.item(), [row.grad.numpy() for row in rows]


def ours(
    loss: Objective, columns: list[np.ndarray], numbers: dict[str, np.ndarray], tile: int | None
) -> tuple[float, list[np.ndarray]]:
    def head(query: Any, document: Any) -> Any:
        return cosine_similarity(query, document) * SCALE

    def losses(query: Any, document: Any, *negatives: Any) -> Any:
        given = {"query": query, "document": document}
        has = None
        if negatives:
            given["negatives"] = ops.stack(negatives, axis=1)
            has = ops.ones((len(columns[0]), len(negatives)), "bool")
        given |= {name: ops.convert_to_tensor(x, dtype="float64") for name, x in numbers.items()}
        scale = ops.convert_to_tensor(SCALE, dtype="float64")
        batch = Batch(given, given, head, scale, tile_size=tile, has_negative=has)
        return loss(batch).losses

    with float64_allowed():
        values, gradients = value_and_gradients(
            losses, *columns, upstream=1 / len(columns[0]), dtype="float64"
        )
    assert values.dtype == np.float64
    return float(values.mean()), gradients


@pytest.mark.filterwarnings("ignore:The MultipleNegativesSymmetricRankingLoss is deprecated")
@pytest.mark.parametrize(
    ("name", "n", "k", "tile"),
    [
        (name, n, k, tile)
        for name, (_, objective, counts) in CASES.items()
        for k in counts
        for n in ((6,) if name == "triplets" else (6, 1))
        for tile in ((None, 4) if n > 1 and isinstance(objective, InfoNCE) else (None,))
    ],
)
def test_values_and_gradients(st: Any, name: str, n: int, k: int, tile: int | None) -> None:
    make, objective, _ = CASES[name]
    columns, numbers = draw(n, k)
    read = [x for x in (*objective.columns, *objective.optional_columns) if x in numbers]
    expected, slopes = theirs(make(st), columns, numbers[read[0]] if read else None)
    found, gradients = ours(objective, columns, numbers, tile)
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)
    for gradient, slope in zip(gradients, slopes, strict=True):
        np.testing.assert_allclose(gradient, slope, rtol=1e-9, atol=1e-11)
    assert n == 1 or np.any(slopes)
