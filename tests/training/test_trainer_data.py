"""Every kind of data that `fit` takes trains alike, and what is wrong with it is said."""

from __future__ import annotations

import threading

import keras
import numpy as np
import pytest
import training_toys as toys
from gradients import to_numpy
from training_toys import BATCH, PAIRS, SIDES, Batches

import cptk
from cptk.data import PairDataset

tf = pytest.importorskip("tensorflow") if toys.BACKEND == "tensorflow" else None
needs_tf_data = pytest.mark.skipif(tf is None, reason="tf.data is TensorFlow's")


def text_batches(make=list):
    return [{side: make(PAIRS[side][rows]) for side in SIDES} for rows in toys.slices()]


def token_batches():
    return [toys.tokens(rows=rows) for rows in toys.slices()]


def forever(batches):
    while True:
        yield from batches


def arrays(dtype):
    return {side: np.array(PAIRS[side], dtype=dtype) for side in SIDES}


KINDS = {
    "lists": lambda: (PAIRS, {}),
    "tuples": lambda: ({side: tuple(PAIRS[side]) for side in SIDES}, {}),
    "NumPy strings": lambda: (arrays(str), {}),
    "NumPy objects": lambda: (arrays(object), {}),
    "tokens": lambda: (toys.tokens(), {}),
    "texts and tokens": lambda: ({**PAIRS, "document": toys.tokens()["document"]}, {}),
    "PairDataset of texts": lambda: (PairDataset(PAIRS, batch_size=BATCH, shuffle=False), {}),
    "PairDataset of tokens": lambda: (
        PairDataset(toys.tokens(), batch_size=BATCH, shuffle=False),
        {},
    ),
    "PyDataset of texts": lambda: (Batches(text_batches()), {}),
    "PyDataset of NumPy strings": lambda: (Batches(text_batches(np.array), workers=2), {}),
    "PyDataset of tokens": lambda: (Batches(token_batches()), {}),
    "PyDataset of (x,)": lambda: (Batches([(x,) for x in text_batches()]), {}),
    "generator of texts": lambda: (forever(text_batches()), {"steps_per_epoch": 3}),
    "generator of tokens": lambda: (forever(token_batches()), {"steps_per_epoch": 3}),
    "finite generator": lambda: (iter(text_batches() * 2), {"steps_per_epoch": 3}),
}
TF_KINDS = {
    "dataset of texts": lambda: (dataset(PAIRS), {"batch_size": BATCH}),
    "batched dataset of texts": lambda: (dataset(PAIRS).batch(BATCH), {}),
    "dataset of tokens": lambda: (dataset(toys.tokens()), {"batch_size": BATCH}),
    "batched dataset of tokens": lambda: (dataset(toys.tokens()).batch(BATCH), {}),
}


def dataset(x):
    return tf.data.Dataset.from_tensor_slices(x)


@pytest.fixture(scope="module")
def expected():
    """Weights after two epochs of `train_on_batch` on tokens."""
    model = toys.trainer()
    for x in token_batches() * 2:
        model.train_on_batch(x)
    return toys.weights(model, trainable=True)


#: Those that go other ways; the rest in the slow tier.
FIRST = {"lists", "NumPy strings", "texts and tokens", "PyDataset of tokens", "generator of texts"}
FIRST |= {"dataset of texts", "batched dataset of tokens"}


def later(kinds):
    return [pytest.param(k, marks=[] if k in FIRST else [pytest.mark.slow]) for k in kinds]


@pytest.mark.parametrize("kind", later(KINDS))
def test_kind_of_data(kind, trainer, expected):
    x, kwargs = KINDS[kind]()
    toys.fit(trainer, x, epochs=2, **kwargs)
    toys.assert_same(toys.weights(trainer, trainable=True), expected)


@needs_tf_data
@pytest.mark.parametrize("kind", later(TF_KINDS))
def test_kind_of_tf_data(kind, trainer, expected):
    x, kwargs = TF_KINDS[kind]()
    trainer.fit(x, epochs=2, verbose=0, **kwargs)
    toys.assert_same(toys.weights(trainer, trainable=True), expected)


@pytest.mark.slow
def test_train_on_texts(trainer, expected):
    for x in text_batches() * 2:
        trainer.train_on_batch(x)
    toys.assert_same(toys.weights(trainer, trainable=True), expected)


# === Weights of the pairs ===

WEIGHT = np.linspace(0, 2, 10)


def weighted(batches):
    return [(x, None, WEIGHT[rows]) for x, rows in zip(batches, toys.slices(), strict=True)]


@pytest.mark.slow
def test_weights_in_batches(trainer):
    start = toys.state(trainer)
    toys.fit(trainer, sample_weight=list(WEIGHT))
    expected = toys.weights(trainer, trainable=True)
    kinds = [
        (Batches(weighted(text_batches())), {}),
        (Batches(weighted(token_batches())), {}),
        (iter(weighted(text_batches())), {"steps_per_epoch": 3}),
        (PairDataset(PAIRS, batch_size=BATCH, shuffle=False, sample_weight=WEIGHT), {}),
    ]
    if tf is not None:
        slices = tf.data.Dataset.from_tensor_slices((PAIRS, WEIGHT))
        kinds.append((slices.map(lambda x, w: (x, None, w)), {"batch_size": BATCH}))
    for x, kwargs in kinds:
        toys.restore(trainer, start)
        trainer.fit(x, verbose=0, **kwargs)
        toys.assert_same(toys.weights(trainer, trainable=True), expected)
    logs = trainer.test_on_batch(
        {side: PAIRS[side][:4] for side in SIDES}, sample_weight=WEIGHT[:4], return_dict=True
    )
    other = trainer.evaluate(Batches(weighted(token_batches())[:1]), verbose=0, return_dict=True)
    assert logs["loss"] == pytest.approx(other["loss"], abs=1e-6)


# === Validation, evaluation, prediction ===


@pytest.mark.slow
def test_validation_data_of_each_kind(trainer):
    weight = WEIGHT[:6]
    held = {side: PAIRS[side][:6] for side in SIDES}
    x = toys.tokens(held)
    kinds = [held, x, (held, None, weight), PairDataset(held, batch_size=BATCH, shuffle=False)]
    kinds += [Batches([{s: held[s][r] for s in SIDES} for r in toys.slices(6)])]
    if tf is not None:
        kinds += [dataset(held).batch(BATCH), dataset(x).batch(BATCH)]
    for kind in kinds:
        history = toys.fit(trainer, epochs=2, validation_data=kind)
        weights = weight if isinstance(kind, tuple) else None
        logs = trainer.evaluate(
            held, batch_size=BATCH, sample_weight=weights, verbose=0, return_dict=True
        )
        assert {name: values[-1] for name, values in history.items() if "val_" in name} == {
            f"val_{name}": pytest.approx(value, abs=1e-5) for name, value in logs.items()
        }
    steps = toys.fit(trainer, validation_data=forever(text_batches()), validation_steps=2)
    assert np.isfinite(steps["val_loss"]).all()


@pytest.mark.slow
def test_validation_split_holds_out_the_last(trainer):
    start = toys.state(trainer)
    history = toys.fit(trainer, validation_split=0.35, sample_weight=WEIGHT)
    end = toys.weights(trainer)
    held = {side: PAIRS[side][7:] for side in SIDES}
    logs = trainer.evaluate(held, sample_weight=WEIGHT[7:], verbose=0, return_dict=True)
    assert history["val_loss"][0] == pytest.approx(logs["loss"], abs=1e-5)
    toys.restore(trainer, start)
    toys.fit(trainer, {s: PAIRS[s][:7] for s in SIDES}, sample_weight=WEIGHT[:7])
    toys.assert_same(toys.weights(trainer, trainable=True), end[: len(trainer.trainable_weights)])
    tokens = toys.fit(trainer, toys.tokens(), validation_split=0.35)
    assert np.isfinite(tokens["val_loss"]).all()


@pytest.mark.slow_on_jax
def test_predict_gives_embeddings_in_order(trainer):
    expected = {side: trainer.embedder.encode_text(PAIRS[side], role=side) for side in SIDES}
    kinds = [(PAIRS, {"batch_size": BATCH}), (Batches(text_batches()), {})]
    if tf is not None:
        kinds.append((dataset(PAIRS), {"batch_size": BATCH}))
    for x, kwargs in kinds:
        got = trainer.predict(x, verbose=0, **kwargs)
        for side in SIDES:
            np.testing.assert_allclose(got[side], expected[side], atol=1e-5)
    got = trainer.predict_on_batch(PAIRS)
    np.testing.assert_allclose(to_numpy(got["query"]), expected["query"], atol=1e-5)


@pytest.mark.slow_on_jax
def test_one_shared_role():
    reader = cptk.models.GPT2TextEmbedderPreprocessor(
        toys.toys.tokenizer(), toys.LENGTH, roles={"text": ("", ":")}
    )
    model = cptk.models.GPT2TextEmbedder(toys.toys.backbone(num_layers=1, dropout=0.0), reader)
    trainer = toys.compiled(cptk.ContrastiveTrainer(model))
    got = trainer.predict(PAIRS, batch_size=BATCH, verbose=0)
    np.testing.assert_allclose(
        got["query"], model.encode_text(PAIRS["query"], role="text"), atol=1e-5
    )


# === Order ===


def batches_of(data, epoch):
    data.epoch = epoch
    return [data[i]["query"]["token_ids"][:, 1] for i in range(len(data))]


def test_order_is_new_in_each_epoch_and_fixed_by_the_seed():
    def order(seed, epoch, **kwargs):
        return batches_of(PairDataset(toys.tokens(), None, BATCH, seed=seed, **kwargs), epoch)

    flat = {epoch: np.concatenate(order(1, epoch)) for epoch in range(3)}
    assert all(sorted(ids) == sorted(flat[0]) and len(set(ids)) == 10 for ids in flat.values())
    assert len({tuple(ids) for ids in flat.values()}) == 3
    np.testing.assert_array_equal(np.concatenate(order(1, 2)), flat[2])
    assert tuple(np.concatenate(order(2, 2))) != tuple(flat[2])
    unshuffled = np.concatenate(order(1, 1, shuffle=False))
    np.testing.assert_array_equal(unshuffled, toys.tokens()["query"]["token_ids"][:, 1])


def test_short_epochs_go_on_where_the_last_ended():
    data = PairDataset(toys.tokens(), None, BATCH, seed=1)
    passes = [b for epoch in range(2) for b in batches_of(data, epoch)]
    for steps in (1, 2, 6):
        data = PairDataset(toys.tokens(), None, BATCH, seed=1, steps_per_epoch=steps)
        split = [b for epoch in range(6 // steps) for b in batches_of(data, epoch)]
        assert len(split) == len(passes)
        for a, b in zip(passes, split, strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.slow
@pytest.mark.parametrize("steps", [None, 2])
def test_fit_shuffles_by_trainer_seed_and_epoch(steps, trainer):
    start = toys.state(trainer)
    data = PairDataset(toys.tokens(), None, BATCH, seed=3, steps_per_epoch=steps)
    for data.epoch in (1, 2, 3):
        for index in range(len(data)):
            trainer.train_on_batch(data[index])
    expected = toys.weights(trainer, trainable=True)
    toys.restore(trainer, start)
    toys.fit(trainer, shuffle=True, initial_epoch=1, epochs=4, steps_per_epoch=steps)
    toys.assert_same(toys.weights(trainer, trainable=True), expected)


@pytest.mark.slow
def test_pair_dataset_keeps_its_own_seed(trainer):
    data = PairDataset(toys.tokens(), None, BATCH, seed=7)
    trainer.fit(data, verbose=0)
    assert data.seed == 7


def test_seed_is_drawn_and_fixed_by_set_random_seed():
    model = toys.embedder()
    keras.utils.set_random_seed(1234)
    seeds = [cptk.ContrastiveTrainer(model).seed for _ in range(2)]
    assert seeds[0] != seeds[1]
    keras.utils.set_random_seed(1234)
    assert cptk.ContrastiveTrainer(model).seed == seeds[0]


# === Threads ===


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["lists", "PyDataset of texts", "generator of texts"])
def test_texts_are_tokenised_off_the_training_thread(kind, trainer, monkeypatch):
    threads = []
    reader = trainer.embedder.preprocessor
    tokenize = type(reader).tokenize

    def spy(self, texts, role=None):
        threads.append(threading.get_ident())
        return tokenize(self, texts, role)

    monkeypatch.setattr(type(reader), "tokenize", spy)
    x, kwargs = KINDS[kind]()
    toys.fit(trainer, x, epochs=4, **kwargs)
    here = threads.count(threading.get_ident())
    # Both sides of the first batch are looked at to say what is wrong with it, and those of the
    # first two for Keras to find their types.
    assert len(threads) >= 24
    assert here <= 6


def test_an_error_of_a_generator_arrives(trainer):
    def broken():
        yield text_batches()[0]
        raise RuntimeError("no more from me")

    with pytest.raises(Exception, match="no more from me"):
        trainer.fit(broken(), steps_per_epoch=3, verbose=0)


# === What is wrong ===

TWO = {"query": ["one", "two"], "document": ["three", "four"]}
ROWS = {"token_ids": np.ones((2, 4), "int32"), "padding_mask": np.ones((2, 4), "bool")}
BAD_DATA = {
    "none": (None, {}, TypeError, "Data should be .*Received: NoneType"),
    "a list of strings": (["a", "b"], {}, TypeError, "Data should be .*Received: list"),
    "a list of numbers": ([1, 2], {}, TypeError, "Data should be .*Received: list"),
    "two lists": ((["a", "b"], ["c", "d"]), {}, TypeError, "Received: tuple"),
    "one string": ("text", {}, TypeError, "Received: str"),
    "an array": (np.array(["a", "b"]), {}, TypeError, "Data should be .*Received: ndarray"),
    "a number": (3, {}, TypeError, "Received: int"),
    "y": (TWO, {"y": [0, 1]}, ValueError, "A pair is its own label: leave `y` out"),
    "class_weight": (TWO, {"class_weight": {0: 1}}, ValueError, "Pairs have no classes"),
    "wrong keys": ({"q": ["a"], "d": ["b"]}, {}, ValueError, r"Received the keys \['d', 'q'\]"),
    "one key": ({"query": ["a"]}, {}, ValueError, r"Received the keys \['query'\]"),
    "unequal": (
        {"query": ["a", "b"], "document": ["c"]},
        {},
        ValueError,
        "Each query needs its document.*'query': 2, 'document': 1",
    ),
    "empty": ({"query": [], "document": []}, {}, ValueError, "`query` is empty"),
    "None for texts": ({**TWO, "query": None}, {}, TypeError, "`query` should be a sequence"),
    "a string for texts": ({**TWO, "query": "ab"}, {}, TypeError, "`query` should be a sequence"),
    "an empty text": ({**TWO, "document": ["a", ""]}, {}, ValueError, "`document`.*Item 1"),
    "a number for text": ({**TWO, "document": ["a", 1]}, {}, TypeError, "`document`.*Item 1"),
    "NaN for text": ({**TWO, "query": [float("nan"), "a"]}, {}, TypeError, "`query`.*Item 0"),
    "one pair": ({"query": ["a"], "document": ["b"]}, {}, ValueError, "at least 2 pairs"),
    "batches of one": (TWO, {"batch_size": 1}, ValueError, "`batch_size` should be 2 or more"),
    "batches of 2.5": (TWO, {"batch_size": 2.5}, TypeError, "`batch_size` should be an integer"),
    "white space": ({**TWO, "query": ["a", " \n"]}, {}, ValueError, "`query`.*of white space"),
    "other names": (
        {"anchor": ["a", "b"], "positive": ["c", "d"]},
        {},
        ValueError,
        r'Pass \{"query": <anchor>, "document": <positive>\}',
    ),
    "validation in batches of one": (
        TWO,
        {"validation_data": TWO, "validation_batch_size": 1},
        ValueError,
        "`batch_size` should be 2 or more",
    ),
    "white space in a generator": (
        iter([{**TWO, "query": ["a", "\t"]}]),
        {},
        ValueError,
        "of white space",
    ),
    "single pairs in a generator": (
        iter(["how?", "why?"]),
        {},
        ValueError,
        "Received: str. Put single pairs together",
    ),
    "a view of a mapping": ({**TWO, "query": {}.keys()}, {}, TypeError, "a view of a mapping"),
    "an attention bias for a mask": (
        {**TWO, "query": {**ROWS, "padding_mask": np.array([[0, 0, 0, -1e9]] * 2)}},
        {},
        ValueError,
        "`padding_mask` should hold 1",
    ),
    "NaN weights": (
        TWO,
        {"sample_weight": [1, float("nan")]},
        ValueError,
        "finite and not negative. Weight 1 is nan",
    ),
    "negative weights": (TWO, {"sample_weight": [-1, 1]}, ValueError, "Weight 0 is -1"),
    "too few weights": (TWO, {"sample_weight": [1]}, ValueError, r"shape \(2,\). Received: \(1,\)"),
    "weights of a PyDataset": (
        Batches([TWO]),
        {"sample_weight": [1, 1]},
        ValueError,
        "Yield the weights with the batches of this Batches",
    ),
    "batch_size and batches": (
        Batches([TWO]),
        {"batch_size": 2},
        ValueError,
        "This Batches yields batches: leave `batch_size` out",
    ),
    "batch_size and PairDataset": (
        PairDataset(TWO, batch_size=2),
        {"batch_size": 2},
        ValueError,
        "This PairDataset has its own: leave `batch_size` out",
    ),
    "tokens without a mask": (
        {**TWO, "query": {"token_ids": np.ones((2, 4))}},
        {},
        ValueError,
        "Tokenised query should have token_ids and padding_mask",
    ),
    "tokens of two shapes": (
        {**TWO, "query": {**ROWS, "padding_mask": np.ones((2, 3))}},
        {},
        ValueError,
        "token_ids and padding_mask of query should have one shape",
    ),
    "a batch of one in a generator": (
        iter([{"query": ["a"], "document": ["b"]}]),
        {},
        ValueError,
        "2 or more: the other pairs are the negatives",
    ),
    "labels in a generator": (
        iter([(TWO, [0, 1])]),
        {},
        ValueError,
        "A pair is its own label: leave `y` out",
    ),
    "NaN weights in a generator": (
        iter([(TWO, None, [1, float("nan")])]),
        {},
        ValueError,
        "finite and not negative",
    ),
    "tuples in a generator": (
        iter([(["a", "b"], ["c", "d"])]),
        {},
        ValueError,
        "A pair is its own label|A batch should be",
    ),
    "wrong tokens in a PyDataset": (
        Batches([{**TWO, "query": {"token_ids": np.ones((2, 4), "int32")}}]),
        {},
        ValueError,
        "Tokenised query should have token_ids and padding_mask",
    ),
    "a split of nothing": (TWO, {"validation_split": 0.5}, ValueError, "leaves 1 to train and 1"),
    "nothing to validate on": (TWO, {"validation_split": 0.1}, ValueError, "leaves 2 .* and 0 to"),
    "a split of batches": (
        Batches([TWO]),
        {"validation_split": 0.5},
        ValueError,
        "needs pairs in memory.*Received: 0.5 and Batches",
    ),
    "a split and validation_data": (
        TWO,
        {"validation_split": 0.5, "validation_data": TWO},
        ValueError,
        "not both",
    ),
    "weights of a split": (
        PAIRS,
        {"validation_split": 0.5, "sample_weight": [1] * 11},
        ValueError,
        r"shape \(10,\)",
    ),
    "steps_per_epoch and PairDataset": (
        PairDataset(TWO, batch_size=2),
        {"steps_per_epoch": 1},
        ValueError,
        "Give `steps_per_epoch` to the PairDataset",
    ),
    "wrong validation_data": (
        TWO,
        {"validation_data": (["a", "b"], ["c", "d"])},
        ValueError,
        "A pair is its own label",
    ),
}


@pytest.mark.parametrize("name", BAD_DATA)
def test_bad_data(name, trainer):
    x, kwargs, error, match = BAD_DATA[name]
    start = toys.weights(trainer)
    # TensorFlow wraps what is raised in its own threads.
    errors = (error, tf.errors.InvalidArgumentError) if "in a generator" in name and tf else error
    with pytest.raises(errors, match=match):
        trainer.fit(x, verbose=0, **kwargs)
    toys.assert_same(toys.weights(trainer), start, atol=0)


BAD_TF = {
    "pairs without batch_size": (
        lambda: dataset(PAIRS),
        {},
        "The dataset holds single pairs. Pass `batch_size=`",
    ),
    "batched twice": (
        lambda: dataset(PAIRS).batch(4),
        {"batch_size": 4},
        "The dataset is batched already. Leave `batch_size` out",
    ),
    "tuples of texts": (
        lambda: dataset((PAIRS["query"], PAIRS["document"])).batch(4),
        {},
        "Elements of the dataset should be",
    ),
    "wrong keys": (
        lambda: dataset({"a": ["x", "y"], "b": ["x", "y"]}).batch(2),
        {},
        "Elements of the dataset should be",
    ),
    "labels": (
        lambda: dataset((PAIRS, WEIGHT)).batch(4),
        {},
        "A pair is its own label: leave `y` out of the dataset",
    ),
    "batches of one": (lambda: dataset(PAIRS), {"batch_size": 1}, "should be 2 or more"),
    "weights": (
        lambda: dataset(PAIRS).batch(4),
        {"sample_weight": WEIGHT},
        "Yield the weights with the batches of this _BatchDataset",
    ),
}


@needs_tf_data
@pytest.mark.parametrize("name", BAD_TF)
def test_bad_tf_data(name, trainer):
    make, kwargs, match = BAD_TF[name]
    with pytest.raises(ValueError, match=match):
        trainer.fit(make(), verbose=0, **kwargs)


@pytest.mark.slow
@needs_tf_data
def test_bad_batches_of_a_dataset(trainer):
    mask = np.array([[0, 0, 0, -1e9]] * 4, "float32")
    side = {"token_ids": np.ones((4, 4), "int32"), "padding_mask": mask}
    with pytest.raises(tf.errors.InvalidArgumentError, match="`padding_mask` should hold 1"):
        trainer.fit(dataset({"query": side, "document": side}), batch_size=4, verbose=0)
    blank = dataset({**PAIRS, "query": [*PAIRS["query"][:9], " \t"]})
    with pytest.raises(tf.errors.InvalidArgumentError, match="of white space"):
        trainer.fit(blank, batch_size=5, verbose=0)
    weighted = dataset((PAIRS, [1.0] * 9 + [float("nan")])).map(lambda x, w: (x, None, w))
    with pytest.raises(tf.errors.InvalidArgumentError, match="Weights of pairs should be finite"):
        trainer.fit(weighted, batch_size=5, verbose=0)


def test_bad_batches_one_at_a_time(trainer):
    for step in (trainer.train_on_batch, trainer.test_on_batch):
        with pytest.raises(ValueError, match="A pair is its own label"):
            step(TWO, [0, 1])
        with pytest.raises(ValueError, match="finite and not negative"):
            step(TWO, sample_weight=[1, float("nan")])
        with pytest.raises(ValueError, match="A batch should be"):
            step(["a", "b"])
        with pytest.raises(ValueError, match="2 or more"):
            step({"query": ["a"], "document": ["b"]})
        with pytest.raises(ValueError, match="as many documents as queries"):
            step({"query": ["a", "b"], "document": ["b"]})
    for method in (trainer.evaluate, trainer.predict):
        with pytest.raises(TypeError, match="Data should be"):
            method(["a", "b"])


def test_bad_arguments_of_the_trainer():
    with pytest.raises(TypeError, match=r"`embedder` should be .*Received: str"):
        cptk.ContrastiveTrainer("gpt2_base_en")
    with pytest.raises(TypeError, match=r"`embedder` should be .*Received: GPT2Backbone"):
        cptk.ContrastiveTrainer(toys.embedder().backbone)
    for seed in (-1, 1.5, True, "1"):
        with pytest.raises(ValueError, match="`seed` should be an integer of 0 or more"):
            cptk.ContrastiveTrainer(toys.embedder(), seed=seed)
    model = cptk.ContrastiveTrainer(toys.embedder())
    for name in ("metrics", "loss_weights", "weighted_metrics"):
        with pytest.raises(ValueError, match=f"leave `{name}` out"):
            model.compile("adam", **{name: ["mse"]})


def test_texts_need_a_preprocessor():
    embedder = cptk.models.GPT2TextEmbedder(toys.toys.backbone(num_layers=1))
    trainer = toys.compiled(cptk.ContrastiveTrainer(embedder))
    with pytest.raises(Exception, match="no preprocessor, so it cannot read text"):
        toys.fit(trainer)
