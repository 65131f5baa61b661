"""Hard negatives through `fit`: of pairs of any form, 0 to k each, whole or by micro-batches."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import training_toys as tt
from gradients import to_numpy

import cptk
from cptk.data import PairDataset, Pairs

#: 0 to 4 a pair; none at all for the last.
NEGATIVES = [
    ["z: how is it spelt"],
    [],
    ["A is not", "B is spelt otherwise", "it is late", "so"],
    ["c", "C is spelt just so"],
    ["rain"],
    [],
]
PAIRS = {**{side: texts[:6] for side, texts in tt.PAIRS.items()}, "negatives": NEGATIVES}


def trainer(loss: Any = None, **kwargs: Any) -> Any:
    model = cptk.ContrastiveTrainer(tt.embedder(), seed=3, **kwargs)
    return tt.compiled(model, keras.optimizers.SGD(0.5), loss=loss)


def weights(model: Any) -> list[np.ndarray]:
    return [to_numpy(weight) for weight in model.embedder.weights if "seed" not in weight.path]


def expected_loss(model: Any, pairs: Any) -> float:
    """InfoNCE with the negatives of all, candidate by candidate, from `encode_text`'s vectors."""
    q = model.encode_text(pairs["query"], role="query").astype("float64")
    d = model.encode_text(pairs["document"], role="document").astype("float64")
    hard = [text for row in pairs["negatives"] for text in row]
    h = model.encode_text(hard, role="document").astype("float64")
    scale = 1 / float(model.head.temperature)
    rows, columns = scale * q @ np.concatenate([d, h]).T, scale * d @ q.T
    losses = [
        np.log(np.exp(logits - logits[i]).sum())
        for matrix in (rows, columns)
        for i, logits in enumerate(matrix)
    ]
    return float(np.mean(losses))


def test_the_loss_is_that_of_all_documents() -> None:
    model = trainer()
    shown = model.evaluate(PAIRS, batch_size=6, verbose=0, return_dict=True)
    assert shown["loss"] == pytest.approx(expected_loss(model, PAIRS), abs=1e-5)
    without = {side: PAIRS[side] for side in tt.SIDES}
    assert (
        model.evaluate(without, batch_size=6, verbose=0, return_dict=True)["loss"] < shown["loss"]
    )


@pytest.mark.parametrize(
    "options",
    [
        {"micro_batch_size": 2},
        pytest.param({"micro_batch_tokens": 64}, marks=[pytest.mark.slow, pytest.mark.once]),
    ],
    ids=str,
)
@pytest.mark.parametrize("which", ["all", pytest.param("own", marks=pytest.mark.slow)])
@pytest.mark.slow_on_jax
def test_micro_batches_and_tiles_take_the_plain_step(which: str, options: dict[str, Any]) -> None:
    found = []
    for given, tile_size in (({}, None), (options, 4)):
        model = trainer(cptk.losses.InfoNCE(hard_negatives=which, tile_size=tile_size), **given)
        before = weights(model)
        model.train_on_batch(PAIRS)
        found.append(weights(model))
    for plain, cached in zip(*found, strict=True):
        np.testing.assert_allclose(cached, plain, rtol=0, atol=2e-6)
    assert max(np.abs(a - b).max() for a, b in zip(found[0], before, strict=True)) > 1e-3


@pytest.mark.slow_on_jax
def test_a_model_that_guides_itself_takes_the_step_without_a_guide() -> None:
    guided = cptk.mining.guide_vectors(trainer(), PAIRS)
    plain, guide = (
        cptk.losses.InfoNCE(false_negative_margin=0.0, guide=guide) for guide in (False, True)
    )
    found = []
    for pairs, loss, options in (
        (PAIRS, plain, {}),
        (guided, guide, {}),
        (guided, guide, {"micro_batch_size": 2}),
    ):
        model = trainer(loss, **options)
        history = model.fit(pairs, batch_size=6, verbose=0, shuffle=False).history
        found.append([np.array(history["loss"]), *weights(model)])
    assert 0.1 < found[0][0] < trainer().test_on_batch(PAIRS, return_dict=True)["loss"] - 0.1
    for expected, *others in zip(*found, strict=True):
        for other in others:
            np.testing.assert_allclose(other, expected, rtol=0, atol=2e-6)


def tokens_of(pairs: Any) -> dict[str, Any]:
    """The same as somebody's own tokens: `(n, k, length)` of negatives, left-padded k."""
    reader = tt.embedder().preprocessor
    found = {side: dict(reader(pairs[side], role=side)) for side in tt.SIDES}
    ids = np.zeros((len(pairs["query"]), 4, tt.LENGTH), "int32")
    mask = np.zeros(ids.shape, bool)
    for row, texts in enumerate(pairs["negatives"]):
        if texts:
            features = reader(texts, role="document")
            ids[row, 4 - len(texts) :] = to_numpy(features["token_ids"])
            mask[row, 4 - len(texts) :] = to_numpy(features["padding_mask"])
    return {**found, "negatives": {"token_ids": ids, "padding_mask": mask}}


def rows_of(pairs: Any) -> list[dict[str, Any]]:
    return [dict(zip(pairs, row, strict=True)) for row in zip(*pairs.values(), strict=True)]


FORMS = {
    "a mapping": (lambda: PAIRS, {"batch_size": 3}),
    "Pairs": (lambda: Pairs(PAIRS), {"batch_size": 3}),
    "rows": (lambda: rows_of(PAIRS), {"batch_size": 3}),
    "tokens": (lambda: tokens_of(PAIRS), {"batch_size": 3}),
    "a PyDataset": (
        lambda: tt.Batches([{k: v[r] for k, v in PAIRS.items()} for r in (slice(3), slice(3, 6))]),
        {},
    ),
    "a generator": (
        lambda: iter([{k: v[r] for k, v in PAIRS.items()} for r in (slice(3), slice(3, 6))]),
        {"steps_per_epoch": 2},
    ),
}


HALVES = (slice(3), slice(3, 6))


@pytest.fixture(scope="module")
def trained() -> Any:
    """The history and the weights after an epoch on the mapping."""
    model = trainer()
    return tt.fit(model, PAIRS, batch_size=3), weights(model)


@pytest.mark.parametrize("form", list(FORMS)[1:])
@pytest.mark.slow_on_jax
def test_pairs_of_any_form_train_alike(form: str, trained: Any) -> None:
    make, options = FORMS[form]
    model = trainer()
    history = model.fit(make(), verbose=0, shuffle=False, **options).history
    assert history["loss"] == pytest.approx(trained[0]["loss"], abs=1e-6)
    for found, right in zip(weights(model), trained[1], strict=True):
        np.testing.assert_allclose(found, right, rtol=0, atol=1e-6)


@pytest.mark.slow
def test_a_saved_trainer_goes_on(tmp_path: Path) -> None:
    model = trainer(cptk.losses.InfoNCE(hard_negatives="own", same_side=True))
    tt.fit(model, PAIRS, batch_size=3)
    model.save(tmp_path / "trainer.keras")
    loaded = keras.saving.load_model(tmp_path / "trainer.keras")
    assert loaded.loss.get_config() == model.loss.get_config()
    histories = [tt.fit(one, PAIRS, batch_size=3) for one in (model, loaded)]
    assert histories[0]["loss"] == pytest.approx(histories[1]["loss"], abs=1e-6)


def test_equal_texts_are_known_across_the_columns() -> None:
    """A negative that is another pair's document is left out there, if that is asked for."""
    negatives = [["B is spelt just like it"], [], [], [], [], []]
    pairs = {**PAIRS, "negatives": negatives}
    kept, masked = (
        trainer(cptk.losses.InfoNCE(symmetric=False, mask_equal_texts=mask)).evaluate(
            pairs, batch_size=6, verbose=0, return_dict=True
        )["loss"]
        for mask in (False, True)
    )
    assert masked < kept


def test_predicting_and_validating_need_no_negatives() -> None:
    model = trainer()
    assert set(model.predict(PAIRS, verbose=0)) == {"query", "document"}
    history = model.fit(PAIRS, batch_size=3, verbose=0, validation_data=PAIRS).history
    assert "val_mrr" in history


def test_a_split_keeps_negatives_and_a_batch_may_have_none() -> None:
    model = trainer()
    model.optimizer.learning_rate.assign(0.0)
    history = model.fit(PAIRS, batch_size=6, verbose=0, validation_split=0.5).history
    halves = [{name: values[rows] for name, values in PAIRS.items()} for rows in HALVES]
    assert history["loss"] == [pytest.approx(expected_loss(model, halves[0]), abs=1e-5)]
    assert history["val_loss"] == [pytest.approx(expected_loss(model, halves[1]), abs=1e-5)]
    without = {**halves[0], "negatives": [[], [], []]}
    plain = {side: without[side] for side in tt.SIDES}
    shown = [model.test_on_batch(batch)[0] for batch in (without, plain)]
    assert shown[0] == pytest.approx(shown[1], abs=1e-6)


def test_a_pair_dataset_says_which_columns_it_gives() -> None:
    model = trainer()
    data = PairDataset(PAIRS, batch_size=3, shuffle=False, columns=("negatives",))
    assert data.digest != PairDataset(PAIRS, batch_size=3).digest
    expected = tt.fit(trainer(), PAIRS, batch_size=3)["loss"]
    assert model.fit(data, verbose=0).history["loss"] == pytest.approx(expected, abs=1e-6)
    with pytest.raises(ValueError, match=r"have negatives.*columns=\('negatives',\)"):
        model.fit(PairDataset(PAIRS, batch_size=3), verbose=0)
    trainer(cptk.losses.InfoNCE(hard_negatives=None)).fit(PairDataset(PAIRS), verbose=0)


@pytest.mark.skipif(tt.BACKEND != "tensorflow", reason="of tf.data")
def test_tf_data_with_negatives_is_refused() -> None:
    import tensorflow as tf

    pairs = {**PAIRS, "negatives": [["a"]] * 6}
    with pytest.raises(ValueError, match=r"without hard negatives. Pass these as pairs in memory"):
        trainer().fit(tf.data.Dataset.from_tensor_slices(pairs).batch(3))


BAD = {
    "a string a pair": (["a"] * 6, r"list of texts for each pair.*Item 0 is 'a'"),
    "too few": (NEGATIVES[:4], r"Received: 4 for 6 pairs"),
    "none at all": ([[]] * 6, r"no text at all"),
    "an empty text": ([[""], *NEGATIVES[1:]], r"negatives of pair 0"),
    "a number": ([[3], *NEGATIVES[1:]], r"negatives of pair 0"),
    "its own document": (
        [["A is spelt just like it"], *NEGATIVES[1:]],
        r"Pair 0 has its own document among its negatives",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_negatives_are_refused(name: str) -> None:
    negatives, message = BAD[name]
    pairs = {**PAIRS, "negatives": negatives}
    model = trainer()
    calls = [model.fit, model.evaluate, model.train_on_batch]
    for call in calls[:2] if name == "none at all" else calls:  # one batch may have none
        with pytest.raises((ValueError, TypeError), match=message):
            call(pairs)


def test_a_loss_that_needs_negatives_says_so() -> None:
    class Needs(cptk.losses.Objective):
        columns = ("negatives",)

        def call(self, batch: Any) -> Any:
            return batch.local["query"][:, 0]

    model = trainer(Needs())
    without = {side: PAIRS[side] for side in tt.SIDES}
    with pytest.raises(ValueError, match=r"no column 'negatives', which the loss reads"):
        model.fit(without, verbose=0)
    model.fit(PAIRS, verbose=0)
