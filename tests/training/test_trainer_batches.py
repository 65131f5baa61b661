"""Batches of somebody's own: of any length, of one pair, padded anyhow, from threads that end."""

from __future__ import annotations

import gc
import threading
import time

import keras
import numpy as np
import pytest
import training_toys as toys
from recorder import SEEN, make, pairs
from training_toys import PAIRS, SIDES, Batches

from cptk.data import PairDataset

tf = pytest.importorskip("tensorflow") if toys.BACKEND == "tensorflow" else None
needs_tf_data = pytest.mark.skipif(tf is None, reason="tf.data is TensorFlow's")
LEFT_OUT = r"One batch of one pair, .* left out of training"


class Endless(Batches):
    @property
    def num_batches(self):
        return None

    def __getitem__(self, index):
        return self.batches[index % len(self.batches)]


def forever(batches):
    while True:
        yield from batches


def dataset(batches):
    spec = {"token_ids": tf.TensorSpec((None, None), tf.int32)}
    spec["padding_mask"] = tf.TensorSpec((None, None), tf.bool)
    return tf.data.Dataset.from_generator(
        lambda: iter(batches), output_signature=dict.fromkeys(SIDES, spec)
    )


@pytest.fixture(scope="module")
def eager():
    return toys.trainer(run_eagerly=toys.BACKEND == "tensorflow")


def of_sizes(*sizes: int) -> list[dict]:
    starts = np.cumsum([0, *sizes[:-1]])
    return [pairs(size, int(start)) for size, start in zip(sizes, starts, strict=True)]


def sizes() -> list[int]:
    return [len(batch) for batch in SEEN]


# === Of any form ===


class Frame:
    """What pandas shows of a frame."""

    def __init__(self, **columns):
        self.columns, self.shape, self.data = list(columns), (8, len(columns)), columns

    def __getitem__(self, name):
        return self.data[name]


ROWS = list(zip(*PAIRS.values(), strict=True))[:8]
FRAME = Frame(document=[d for _, d in ROWS], id=[*range(8)], query=[q for q, _ in ROWS])
FORMS = {
    "tuples": lambda: (ROWS, {"batch_size": 4, "validation_split": 0.5}, [4]),
    "frame": lambda: (FRAME, {"batch_size": 4, "validation_data": ROWS}, [4, 4]),
    "batches of tuples": lambda: (Batches([ROWS[:4], ROWS[4:]]), {}, [4, 4]),
    "frames, as read in chunks": lambda: (iter([FRAME, FRAME]), {"steps_per_epoch": 2}, [8, 8]),
}


@pytest.mark.parametrize("form", FORMS)
def test_pairs_of_any_form_train(form, recorder):
    x, kwargs, expected = FORMS[form]()
    recorder.fit(x, verbose=0, **kwargs)
    assert sizes() == expected


# === Of any length ===

LENGTHS = (5, 5, 9, 5)  # Keras looks at the first two alone.
OF_LENGTHS = [pairs(2, 2 * i, length) for i, length in enumerate(LENGTHS)]
MASKS = [
    {side: {**x[side], "padding_mask": x[side]["padding_mask"].astype(kind)} for side in SIDES}
    for x, kind in zip(OF_LENGTHS, ("bool", "int64", "float32", "int32"), strict=True)
]
KINDS = {
    "PyDataset": lambda: (Batches(OF_LENGTHS), {}),
    "threads": lambda: (Batches(OF_LENGTHS, workers=3, max_queue_size=4), {}),
    "endless": lambda: (Endless(OF_LENGTHS), {"steps_per_epoch": 4}),
    "generator": lambda: (forever(OF_LENGTHS), {"steps_per_epoch": 4}),
    "masks of other types": lambda: (Batches(MASKS), {}),
    "weights": lambda: (Batches([(x, None, np.ones(2)) for x in OF_LENGTHS]), {}),
}


@pytest.mark.parametrize("kind", KINDS)
def test_batches_of_any_length_train(kind, recorder):
    x, kwargs = KINDS[kind]()
    recorder.fit(x, epochs=2, verbose=0, **kwargs)
    assert SEEN == [[0, 1], [2, 3], [4, 5], [6, 7]] * 2


@pytest.mark.slow
@pytest.mark.skipif(toys.BACKEND == "jax", reason="JAX must not be forked")
# JAX warns of it where another test has imported it.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_processes_see_what_was_shuffled(recorder):
    class Shuffled(Batches):
        def on_epoch_end(self):
            self.batches = self.batches[::-1]

    data = Shuffled(OF_LENGTHS, workers=2, use_multiprocessing=True)
    recorder.fit(data, epochs=2, verbose=0)
    found = [[0, 1], [2, 3], [4, 5], [6, 7]]
    assert sorted(SEEN[:4]) == found
    assert SEEN[4:] == SEEN[:4][::-1]


@pytest.mark.slow_on_jax
def test_batches_of_any_length_are_evaluated_and_embedded(eager):
    held = eager.evaluate(Batches(OF_LENGTHS), verbose=0, return_dict=True)
    one = [eager.test_on_batch(x, return_dict=True)["loss"] for x in OF_LENGTHS]
    assert held["loss"] == pytest.approx(np.mean(one), rel=1e-5)
    found = eager.predict(Batches(OF_LENGTHS), verbose=0)
    assert found["query"].shape == (8, toys.toys.HIDDEN_DIM)


def test_batches_of_any_length_validate(recorder):
    kinds = {"data": Batches(OF_LENGTHS)}, {"data": forever(OF_LENGTHS), "validation_steps": 4}
    for kind in kinds:
        history = recorder.fit(
            pairs(4), batch_size=4, epochs=2, verbose=0, validation_data=kind.pop("data"), **kind
        )
        assert len(history.history["val_loss"]) == 2


# === Of one pair ===


def test_a_last_pair_alone_in_memory(recorder):
    recorder.fit(pairs(9), batch_size=4, verbose=0, shuffle=False)
    assert SEEN == [[0, 1, 2, 3], [4, 5, 6, 7, 8]]
    SEEN.clear()
    recorder.fit(pairs(12), batch_size=4, verbose=0, shuffle=False, validation_split=0.25)
    assert sizes() == [4, 5]
    SEEN.clear()
    history = recorder.fit(pairs(5), batch_size=4, verbose=0, validation_split=0.2).history
    assert sizes() == [4]
    assert len(history["val_loss"]) == 1


ODD = {
    "PyDataset": lambda: (Batches(of_sizes(3, 3, 1)), {}, [3, 3]),
    "threads": lambda: (Batches(of_sizes(3, 3, 1), workers=3), {}, [3, 3]),
    "in the middle": lambda: (Batches(of_sizes(3, 1, 3)), {}, [3, 3]),
    "at first": lambda: (Batches(of_sizes(1, 3, 3)), {}, [3, 3]),
    "weighted": lambda: (
        Batches([(x, None, np.ones(len(x["query"]["token_ids"]))) for x in of_sizes(3, 1)]),
        {},
        [3],
    ),
    "texts": lambda: (
        Batches([{side: PAIRS[side][:5][rows] for side in SIDES} for rows in toys.slices(5)]),
        {},
        [4],
    ),
    "generator": lambda: (iter(of_sizes(3, 1, 3, 3)), {"steps_per_epoch": 3}, [3, 3, 3]),
}


@pytest.mark.parametrize("kind", ODD)
def test_a_batch_of_one_pair_is_left_out_with_one_warning(kind, recorder):
    x, kwargs, expected = ODD[kind]()
    with pytest.warns(UserWarning, match=LEFT_OUT) as caught:
        recorder.fit(x, verbose=0, **kwargs)
    assert sum("left out" in str(warning.message) for warning in caught) == 1
    assert sizes() == expected


TF_ODD = {
    "single pairs": lambda: (tf.data.Dataset.from_tensor_slices(pairs(7)), 3, [3, 3]),
    "batches": lambda: (tf.data.Dataset.from_tensor_slices(pairs(7)).batch(3), None, [3, 3]),
    "of no known number": lambda: (dataset(of_sizes(3, 1, 3)), None, [3, 3]),
    "unbatched, of no known number": lambda: (dataset(of_sizes(3, 4)).unbatch(), 3, [3, 3]),
}


@needs_tf_data
@pytest.mark.parametrize("kind", TF_ODD)
def test_a_batch_of_one_pair_in_tf_data(kind, recorder):
    x, batch_size, expected = TF_ODD[kind]()
    # Keras does not know either where a dataset of no known number ends, and warns.
    with pytest.warns(UserWarning, match="of one pair|ran out of data") as caught:
        recorder.fit(x, batch_size=batch_size, epochs=2, verbose=0)
    ours = [w for w in caught if "of one pair" in str(w.message)]
    assert len(ours) == 1
    known = "no known" not in kind
    assert sum("left out" in str(w.message) for w in caught) == 1 or not known
    assert sizes()[: len(expected)] == expected
    assert min(sizes()) > 1
    assert sizes() == expected * 2 or not known


def test_nothing_but_batches_of_one(recorder):
    for data in (Batches(of_sizes(1, 1, 1)), Batches(of_sizes(1)), iter(of_sizes(1, 1))):
        with pytest.raises(ValueError, match="2 or more: the other pairs are the negatives"):
            recorder.fit(data, verbose=0)
    assert SEEN == []


@pytest.mark.slow
def test_evaluation_and_embedding_need_no_negatives(eager):
    odd = of_sizes(3, 1)
    kinds = [(iter(odd), {"steps": 2}), (pairs(4), {"batch_size": 3})]
    kinds += [] if tf is None else [(tf.data.Dataset.from_tensor_slices(pairs(4)).batch(3), {})]
    everything = {side: np.array(v) for side, v in eager.predict_on_batch(pairs(4)).items()}
    for x, kwargs in kinds:
        found = eager.predict(x, verbose=0, **kwargs)
        np.testing.assert_allclose(found["query"], everything["query"], atol=1e-5)
    for x in (Batches(odd), pairs(1), kinds[-1][0]):
        assert np.isfinite(eager.evaluate(x, verbose=0)).all()
    one = eager.predict(pairs(1), verbose=0, batch_size=1)["document"]
    np.testing.assert_allclose(one, everything["document"][:1], atol=1e-5)
    with pytest.raises(ValueError, match="`batch_size` should be 2 or more"):
        eager.evaluate(pairs(3), batch_size=1, verbose=0)


# === Padded anyhow ===


@pytest.mark.slow_on_jax
def test_padding_is_moved_to_the_right_at_every_door(eager):
    ids = np.arange(24, dtype="int32").reshape(4, 6) + 1
    mask = np.array([[1, 1, 1, 0, 0, 0], [1, 1, 1, 1, 1, 1], [1, 1, 0, 0, 0, 0], [1] * 5 + [0]])
    left = np.array([[0, 0, 0, 1, 1, 1], [1, 1, 1, 1, 1, 1], [0, 0, 0, 0, 1, 1], [0] + [1] * 5])
    holed = np.array([[1, 0, 1, 0, 1, 0], [1, 1, 1, 1, 1, 1], [0, 1, 0, 1, 0, 0], [1] * 4 + [0, 1]])

    def moved(to):
        found = np.full(ids.shape, 9, "int32")
        found[to == 1] = ids[mask == 1]
        return {"token_ids": found, "padding_mask": to == 1}

    right = {"query": moved(mask), "document": moved(mask)}
    wrong = {"query": moved(left), "document": moved(holed)}
    expected = {side: np.array(v) for side, v in eager.predict_on_batch(right).items()}
    kinds = [eager.predict_on_batch(wrong)]
    batches = [Batches([wrong])]
    batches += [] if tf is None else [tf.data.Dataset.from_tensor_slices(wrong).batch(4)]
    kinds += [eager.predict(x, verbose=0) for x in batches]
    for found in kinds:
        for side in SIDES:
            np.testing.assert_allclose(np.array(found[side]), expected[side], atol=1e-5)
    start = toys.state(eager)
    eager.train_on_batch(right)
    end = toys.weights(eager)
    for step in (
        lambda: eager.train_on_batch(wrong),
        lambda: eager.fit(wrong, shuffle=False, verbose=0),
        lambda: eager.fit(PairDataset(wrong, batch_size=4, shuffle=False), verbose=0),
    ):
        toys.restore(eager, start)
        step()
        toys.assert_same(toys.weights(eager), end)


# === Threads ===


def own_threads() -> list[str]:
    return [
        t.name for t in threading.enumerate() if t.name.startswith(("cptk", "Worker", "Thread"))
    ]


def assert_ended(before: list[str]) -> None:
    """Ours have ended when `fit` returns; Keras's own of a run that failed, soon after."""
    assert [name for name in own_threads() if "cptk" in name] == []
    gc.collect()
    for _ in range(200):
        if set(own_threads()) <= set(before):  # One of an earlier test may end now.
            return
        time.sleep(0.02)
    assert set(own_threads()) <= set(before)


class Fails(keras.callbacks.Callback):
    def on_train_batch_begin(self, batch, logs=None):
        if batch == 1:
            raise InterruptedError


@pytest.mark.slow
def test_no_thread_is_left_behind(recorder, eager):
    before = own_threads()
    kinds = [
        lambda: forever(of_sizes(2, 2)),
        lambda: Endless(of_sizes(2, 2), workers=2),
        lambda: Batches(of_sizes(*[2] * 20), workers=2),
    ]
    for kind in kinds:
        data = {"validation_data": kind(), "validation_steps": 1}
        recorder.fit(kind(), steps_per_epoch=2, verbose=0, **data)
        assert_ended(before)
        # On JAX, Keras loses the weights to an error in the middle of `fit`.
        fails = make() if toys.BACKEND == "jax" else recorder
        with pytest.raises(InterruptedError):
            fails.fit(kind(), steps_per_epoch=2, verbose=0, callbacks=[Fails()])
        assert_ended(before)
    eager.predict(forever(of_sizes(2, 2)), steps=1, verbose=0)
    with pytest.raises(ValueError, match="not both"):
        recorder.fit(forever(of_sizes(2)), validation_split=0.5, validation_data=pairs(2))
    with pytest.raises(TypeError, match="Data should be"):
        recorder.fit(forever(of_sizes(2)), validation_data=3, verbose=0)
    assert_ended(before)


def test_a_generator_that_waits_does_not_hold_up_the_end(recorder, monkeypatch):
    """Its thread cannot be ended; `fit` does not wait for it for ever."""
    monkeypatch.setattr("cptk.data.feeding.PATIENCE", 0.05)
    go_on = threading.Event()

    def waits():
        yield from of_sizes(2, 2, 2)
        go_on.wait(60)

    start = time.monotonic()
    recorder.fit(waits(), steps_per_epoch=1, verbose=0)
    go_on.set()
    assert sizes() == [2]
    assert time.monotonic() - start < 50
