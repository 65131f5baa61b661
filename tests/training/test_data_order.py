"""The order of the pairs goes on from one call of `fit` to the next."""

from __future__ import annotations

import itertools
import json

import keras
import pytest
from recorder import SEEN, Recorder, pairs

from cptk.data import PairDataset
from cptk.training import ExactBackupAndRestore

SIZE = 24


def fit(model, x=None, **kwargs) -> list[list[int]]:
    """The batches that one call brought."""
    before = len(SEEN)
    x = pairs(SIZE) if x is None else x
    size = {} if isinstance(x, PairDataset) else {"batch_size": 4}
    model.fit(x, verbose=0, **{**size, **kwargs})
    return SEEN[before:]


def run(batches: int, size: int = SIZE, batch_size: int = 4, seed: int = 3) -> list[list[int]]:
    """The first batches of an order that is never interrupted."""
    data = PairDataset(pairs(size), None, batch_size, seed=seed, steps_per_epoch=batches)
    return [data[i]["query"]["token_ids"][:, 0].tolist() for i in range(batches)]


def flat(lists: list[list]) -> list:
    return [*itertools.chain.from_iterable(lists)]


def test_short_calls_see_every_pair(recorder):
    for _ in range(3):
        fit(recorder, steps_per_epoch=2)
    assert sorted(flat(SEEN)) == list(range(SIZE))
    assert run(6) == SEEN


def test_whole_passes_are_new_ones(recorder):
    first, second = fit(recorder), fit(recorder, epochs=2)
    assert first + second == run(18)


def test_without_shuffling_too(recorder):
    found = [fit(recorder, steps_per_epoch=4, shuffle=False) for _ in range(3)]
    assert flat(flat(found)) == [*range(SIZE)] * 2


def test_initial_epoch_counts_from_the_start(recorder):
    fit(recorder, steps_per_epoch=2)
    assert fit(recorder, initial_epoch=2, epochs=4, steps_per_epoch=2) == run(8)[4:]
    assert fit(recorder, steps_per_epoch=2) == run(10)[8:]


def test_other_data_start_anew_and_the_first_go_on(recorder):
    fit(recorder, steps_per_epoch=2)
    fewer, others = pairs(SIZE - 4), pairs(SIZE, first=7)
    assert fit(recorder, fewer, steps_per_epoch=1) == run(1, SIZE - 4)
    found = fit(recorder, others, steps_per_epoch=1)
    assert found == [[i + 7 for i in batch] for batch in run(1)]
    assert fit(recorder, steps_per_epoch=2) == run(4)[2:]
    assert fit(recorder, fewer, steps_per_epoch=1) == run(2, SIZE - 4)[1:]


def test_train_on_batch_between(recorder):
    fit(recorder, steps_per_epoch=2)
    recorder.train_on_batch(pairs(4))
    SEEN.clear()
    assert fit(recorder, steps_per_epoch=2) == run(4)[2:]


def test_another_batch_size_goes_on_at_the_same_pairs(recorder):
    fit(recorder, steps_per_epoch=3)
    order = flat(run(6))
    found = fit(recorder, batch_size=6, steps_per_epoch=2)
    assert found == [order[12:18], order[18:]]
    assert fit(recorder, steps_per_epoch=1) == [run(7)[6]]


def test_pair_dataset(recorder):
    data = PairDataset(pairs(SIZE), None, 4, seed=8, steps_per_epoch=2)
    found = fit(recorder, data) + fit(recorder, data)
    again = PairDataset(pairs(SIZE), None, 4, seed=8, steps_per_epoch=2)
    assert found + fit(recorder, again) == run(6, seed=8)
    assert (data.start, data.epoch) == (0, 0)
    other = PairDataset(pairs(SIZE), None, 4, seed=9, steps_per_epoch=2)
    assert fit(recorder, other) == run(2, seed=9)


class Stop(keras.callbacks.Callback):
    """Ends a run in the middle of an epoch."""

    def __init__(self, epoch: int, error: bool = False) -> None:
        super().__init__()
        self.at, self.error = epoch, error

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def get_state(self):
        return {}

    def set_state(self, state):
        pass

    def on_train_batch_end(self, batch, logs=None):
        if (self.epoch, batch) == (self.at, 1):
            self.model.stop_training = True
            if self.error:
                raise InterruptedError


def test_a_run_that_was_stopped_goes_on_where_it_stopped(recorder):
    stopped = fit(recorder, epochs=3, steps_per_epoch=3, callbacks=[Stop(1)])
    assert stopped == run(5)
    assert fit(recorder, steps_per_epoch=2) == run(7)[5:]
    with pytest.raises(InterruptedError):
        fit(recorder, steps_per_epoch=4, callbacks=[Stop(0, error=True)])
    assert fit(recorder, steps_per_epoch=1) == run(10)[9:]


@pytest.mark.slow
@pytest.mark.parametrize("killed", [0, 1, 2])
def test_a_script_that_calls_fit_twice_resumes(killed, recorder, tmp_path):
    """Killed in its first or second call, or before its third: it sees what it would have seen."""

    def script(kill: int | None) -> None:
        for call, steps in enumerate((2, 4, 3)):
            backup = ExactBackupAndRestore(tmp_path / str(call), delete_checkpoint=False)
            stop = Stop(2 if call == kill else -1, error=True)
            fit(recorder, epochs=3, steps_per_epoch=steps, callbacks=[backup, stop])

    with pytest.raises(InterruptedError):
        script(killed)
    whole = {0: 4, 1: 6 + 8, 2: 18 + 6}[killed]
    done = SEEN[:whole]
    SEEN.clear()
    recorder.data_order, recorder.seed = type(recorder.data_order)(), 11
    script(None)
    assert done + SEEN == run(27)


def test_a_saved_trainer_goes_on(recorder):
    fit(recorder, steps_per_epoch=2)
    config = json.loads(json.dumps(recorder.data_order.get_config()))
    recorder.data_order = type(recorder.data_order)(**config)
    assert fit(recorder, steps_per_epoch=2) == run(4)[2:]
    again = Recorder.from_config(recorder.get_config())
    again.compile("sgd", run_eagerly=True)
    assert fit(again, steps_per_epoch=2) == run(6)[4:]
