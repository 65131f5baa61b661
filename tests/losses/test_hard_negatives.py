"""InfoNCE with hard negatives, groups and the anchors' own side, against loops in float64."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from gradients import to_numpy, value_and_gradients
from keras import ops

import cptk
from cptk.losses import Batch, InfoNCE

N, K, DIM, SCALE = 6, 3, 4, 5.0
NAMES = ("query", "document", "negatives")


def draw(seed: int = 0) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray], np.ndarray]:
    """Embeddings, text numbers and which negatives there are; rows 0 and 3 have equal documents,
    and the second negative of row 1 is row 2's document."""
    rng = np.random.default_rng(seed)
    vectors = {
        "query": rng.normal(size=(N, DIM)),
        "document": rng.normal(size=(N, DIM)),
        "negatives": rng.normal(size=(N, K, DIM)),
    }
    has = rng.random((N, K)) > 0.3
    has[1] = True
    ids = {
        "query": np.array([0, 1, 2, 3, 1, 5]),
        "document": np.array([0, 1, 2, 0, 4, 5]),
        "negatives": np.arange(N * K).reshape(N, K) + 10,
    }
    vectors["document"][3] = vectors["document"][0]
    vectors["query"][4] = vectors["query"][1]
    ids["negatives"][1, 1] = 2
    vectors["negatives"][1, 1] = vectors["document"][2]
    return vectors, ids, has


GROUPS = np.array([0, 1, 2, 0, 3, 3])
#: Another embedder's vectors, of another size and of any length.
GUIDE = np.random.default_rng(7).normal(size=(N, 2 + K, 3))


def unit(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def by_loops(loss: InfoNCE, vectors: Any, ids: Any, has: np.ndarray) -> np.ndarray:
    """The loss of each pair, candidate by candidate."""
    seen_by_model = [unit(np.asarray(vectors[name], "float64")) for name in NAMES]
    guide = unit(GUIDE)
    judge = [guide[:, 0], guide[:, 1], guide[:, 2:]] if loss.guide else seen_by_model

    def cosines(i: int, forward: bool, q: Any, d: Any, h: Any) -> np.ndarray:
        """Of an anchor with its candidates, the positive first."""
        own, theirs = (q, d) if forward else (d, q)
        kept = [own[i] @ theirs[i]]

        def is_other(j: int) -> bool:
            equal = ids["query"][j] == ids["query"][i] or ids["document"][j] == ids["document"][i]
            grouped = loss.mask_groups and GROUPS[i] == GROUPS[j]
            return i != j and not (loss.mask_equal_texts and equal) and not grouped

        others = [j for j in range(N) if is_other(j)]
        kept += [own[i] @ theirs[j] for j in others]
        if loss.same_side:
            kept += [own[i] @ own[j] for j in others]
        for j, k in itertools.product(range(N), range(K)):
            if not forward or loss.hard_negatives is None or not has[j, k]:
                continue
            if loss.hard_negatives == "own" and i != j:
                continue
            repeats = ids["negatives"][j, k] == ids["document"][i]
            if loss.hard_negatives == "all" and loss.mask_equal_texts and repeats:
                continue
            kept.append(own[i] @ h[j, k])
        return np.array(kept)

    def one(i: int, forward: bool) -> float:
        logits = SCALE * cosines(i, forward, *seen_by_model)
        if loss.false_negative_margin is not None:
            judged = cosines(i, forward, *judge)
            near = judged > judged[0] + loss.false_negative_margin + 1e-6
            logits = np.concatenate([logits[:1], logits[1:][~near[1:]]])
        value = np.log(np.exp(logits - logits[0]).sum())
        return value - loss.label_smoothing * np.mean(logits - logits[0])

    rows = np.array([one(i, True) for i in range(N)])
    if not loss.symmetric:
        return rows
    columns = np.array([one(i, False) for i in range(N)])
    if loss.same_side:  # GTE: one denominator, in which the positive stands twice.
        return np.log(np.exp(rows) + np.exp(columns))
    return (rows + columns) / 2


def batch_of(
    vectors: Any, ids: Any, has: np.ndarray, rows: int | None, tile_size: int | None
) -> Batch:
    numbers = {"group": GROUPS, "guide": GUIDE}
    gathered = {k: ops.convert_to_tensor(x.astype("float32")) for k, x in numbers.items()}
    gathered |= vectors
    local = gathered if rows is None else {name: x[:rows] for name, x in gathered.items()}
    text_ids = {name: ops.convert_to_tensor(x.astype("int32")) for name, x in ids.items()}
    return Batch(
        local,
        gathered,
        cptk.layers.ContrastiveHead(1 / SCALE),
        ops.convert_to_tensor(SCALE),
        text_ids,
        tile_size=tile_size,
        has_negative=ops.convert_to_tensor(has),
    )


OPTIONS = [
    {},
    {"symmetric": False},
    {"hard_negatives": "own"},
    {"hard_negatives": None},
    {"mask_equal_texts": True},
    {"mask_groups": True},
    {"same_side": True},
    {"label_smoothing": 0.2},
    {"mask_equal_texts": True, "mask_groups": True, "same_side": True},
    {"hard_negatives": "own", "same_side": True, "mask_groups": True},
    {"false_negative_margin": 0.3},
    {"false_negative_margin": -0.2, "label_smoothing": 0.2, "symmetric": False},
    {
        "false_negative_margin": 0.05,
        "same_side": True,
        "label_smoothing": 0.1,
        "symmetric": False,
    },
    {"false_negative_margin": 0.05, "same_side": True},
    {"false_negative_margin": 0.1, "hard_negatives": "own", "mask_equal_texts": True},
    {"false_negative_margin": 0.0, "guide": True},
    {"false_negative_margin": -0.1, "guide": True, "hard_negatives": "own", "same_side": True},
]
each = pytest.mark.parametrize("options", OPTIONS, ids=str)


@each
@pytest.mark.parametrize("tile_size", [None, 4])
@pytest.mark.parametrize("rows", [None, 4])
def test_values_are_those_of_the_loops(
    options: dict[str, Any], tile_size: int | None, rows: int | None
) -> None:
    loss = InfoNCE(**options)
    vectors, ids, has = draw()
    tensors = {name: ops.convert_to_tensor(x.astype("float32")) for name, x in vectors.items()}
    found = loss(batch_of(tensors, ids, has, rows, tile_size))
    expected = by_loops(loss, vectors, ids, has)[:rows]
    np.testing.assert_allclose(to_numpy(found.losses), expected, rtol=2e-5, atol=1e-5)


@each
@pytest.mark.parametrize("tile_size", [None, 4])
def test_gradients_are_the_slopes_of_the_loops(
    options: dict[str, Any], tile_size: int | None
) -> None:
    loss = InfoNCE(**options)
    vectors, ids, has = draw(1)
    ids = {name: np.arange(x.size).reshape(x.shape) + 100 * len(name) for name, x in ids.items()}

    def total(*given: Any) -> Any:
        batch = batch_of(dict(zip(NAMES, given, strict=True)), ids, has, None, tile_size)
        return ops.sum(loss(batch).losses) + 0.0 * ops.sum(given[2])  # has a gradient, or 0

    arrays = [vectors[name].astype("float32") for name in NAMES]
    _, gradients = value_and_gradients(total, *arrays)
    rng = np.random.default_rng(2)
    for place, name in enumerate(NAMES):
        if name == "negatives" and loss.hard_negatives is None:
            assert not np.any(gradients[place])
            continue
        along = rng.normal(size=vectors[name].shape)
        moved = [
            by_loops(loss, {**vectors, name: vectors[name] + step * along}, ids, has).sum()
            for step in (1e-5, -1e-5)
        ]
        slope = (moved[0] - moved[1]) / 2e-5
        assert np.sum(gradients[place] * along) == pytest.approx(slope, rel=2e-3, abs=2e-3)


@pytest.mark.parametrize("tile_size", [None, 4])
@pytest.mark.parametrize("which", ["all", "own"])
def test_a_hard_negative_above_the_positive_loses(which: str, tile_size: int | None) -> None:
    """And one that ties takes half; one that is not there takes nothing."""
    eye = np.eye(N, dtype="float32")
    negatives = np.zeros((N, 1, N), "float32")
    negatives[:, 0, -1] = 1.0
    negatives[0, 0] = eye[0]  # ties with the positive of row 0
    negatives[1, 0] = eye[1]  # would, and is not there
    document = eye.copy()
    document[2] = eye[2] + eye[3] * 0.1  # the negative of row 2 is nearer to its query
    negatives[2, 0] = eye[2]
    has = np.ones((N, 1), bool)
    has[1] = False
    vectors = {"query": eye, "document": document, "negatives": negatives}
    ids = {name: np.arange(N * (1 + place * 9))[-N:] for place, name in enumerate(NAMES)}
    ids["negatives"] = ids["negatives"][:, None]
    if which == "all":  # the last row's own direction is every other row's negative
        vectors["negatives"][5, 0] = 0.5 * eye[0] + 0.5 * eye[1]
    tensors = {name: ops.convert_to_tensor(x) for name, x in vectors.items()}
    batch = batch_of(tensors, ids, has, None, tile_size)
    scores = to_numpy(InfoNCE(hard_negatives=which)(batch).scores["query_accuracy"])
    np.testing.assert_allclose(scores[:5], [0.5, 1.0, 0.0, 1.0, 1.0])


def test_arguments_are_checked() -> None:
    with pytest.raises(ValueError, match=r"`hard_negatives` should be one of"):
        InfoNCE(hard_negatives="some")
    with pytest.raises(ValueError, match=r'no label smoothing with `hard_negatives="own"`'):
        InfoNCE(hard_negatives="own", label_smoothing=0.1)
    with pytest.raises(ValueError, match=r"no label smoothing with `same_side=True` in both"):
        InfoNCE(same_side=True, label_smoothing=0.1)
    with pytest.raises(TypeError, match=r"`mask_groups` should be True or False"):
        InfoNCE(mask_groups=1)
    for margin in (2.5, float("nan"), "0.1", True):
        with pytest.raises(ValueError, match=r"`false_negative_margin` should be .* -2 to 2"):
            InfoNCE(false_negative_margin=margin)
    with pytest.raises(ValueError, match=r"`guide=True` should have a `false_negative_margin`"):
        InfoNCE(guide=True)


@pytest.mark.parametrize("tile_size", [None, 4])
@pytest.mark.parametrize("which", ["all", "own"])
def test_what_the_margin_leaves_out(which: str, tile_size: int | None) -> None:
    """Counts in the accuracies all the same; equal texts stay at a margin of 0; 2 is none."""
    vectors, ids, has = draw()
    tensors = {name: ops.convert_to_tensor(x.astype("float32")) for name, x in vectors.items()}
    batch = batch_of(tensors, ids, has, None, tile_size)

    def of(margin: float | None) -> Any:
        return InfoNCE(hard_negatives=which, false_negative_margin=margin)(batch)

    plain, found = of(None), {margin: of(margin) for margin in (2.0, 0.0, -2.0)}
    np.testing.assert_array_equal(to_numpy(found[2.0].losses), to_numpy(plain.losses))
    assert (to_numpy(found[0.0].losses) < to_numpy(plain.losses)).any()
    # The pairs with one document have each other's, which is exactly as near.
    assert (to_numpy(found[0.0].losses)[[0, 3]] > 0.3).all()
    np.testing.assert_allclose(to_numpy(found[-2.0].losses), 0.0, atol=1e-6)
    for margin, name in itertools.product(found, plain.scores):
        scores = [to_numpy(x.scores[name]) for x in (found[margin], plain)]
        np.testing.assert_array_equal(*scores)


@pytest.mark.slow
@pytest.mark.parametrize("tile_size", [None, 4])
def test_a_guide_is_that_of_sentence_transformers(tile_size: int | None) -> None:
    """GISTEmbedLoss without its document-document scores: values and gradients."""
    import torch
    from sentence_transformers.sentence_transformer.losses import GISTEmbedLoss
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    class Given(torch.nn.Module):
        """A model whose embeddings are given to it."""

        tokenizer = PreTrainedTokenizerFast(
            tokenizer_object=Tokenizer(models.WordLevel({"a": 0}, unk_token="a"))
        )
        max_seq_length = 8

        def __init__(self, name: str) -> None:
            super().__init__()
            self.name = name

        def forward(self, features: Any) -> Any:
            return {"sentence_embedding": features[self.name]}

    vectors, ids, _ = draw(1)
    arrays = [vectors[name].astype("float32") for name in NAMES]
    guides = [GUIDE[:, 0], GUIDE[:, 1], GUIDE[:, 2:].reshape(-1, 3)]
    tensors = [
        torch.tensor(x.reshape(-1, DIM), dtype=torch.float64, requires_grad=True) for x in arrays
    ]
    features = [
        {"own": tensor, "guide": torch.tensor(guide)}
        for tensor, guide in zip(tensors, guides, strict=True)
    ]
    gist = GISTEmbedLoss(
        Given("own"), Given("guide"), 1 / SCALE, margin=0.1, contrast_positives=False
    )
    expected = gist(features, torch.zeros(N))
    expected.backward()

    loss = InfoNCE(symmetric=False, same_side=True, false_negative_margin=-0.1, guide=True)

    def mean(*given: Any) -> Any:
        batch = dict(zip(NAMES, given, strict=True))
        found = loss(batch_of(batch, ids, np.ones((N, K), bool), None, tile_size))
        return ops.mean(found.losses)

    value, gradients = value_and_gradients(mean, *arrays)
    assert float(value) == pytest.approx(expected.item(), rel=1e-5)
    for gradient, tensor in zip(gradients, tensors, strict=True):
        theirs = tensor.grad.numpy().reshape(gradient.shape)
        np.testing.assert_allclose(gradient, theirs, rtol=1e-4, atol=1e-6)


def test_chance_is_not_known_where_all_alike_have_no_negatives() -> None:
    vectors, ids, has = draw()
    batch = batch_of({k: ops.ones(x.shape) for k, x in vectors.items()}, ids, has, None, None)
    pairs = ops.convert_to_tensor(float(N))
    assert InfoNCE(false_negative_margin=-0.1).chance(batch, pairs) is None
    assert InfoNCE(false_negative_margin=0.1, guide=True).chance(batch, pairs) is None
    for loss in (InfoNCE(false_negative_margin=0.0), InfoNCE(same_side=True)):
        expected = float(np.mean(to_numpy(loss(batch).losses)))
        assert float(loss.chance(batch, pairs)) == pytest.approx(expected, abs=1e-4)
