"""Batches come in order from threads that end."""

import threading

import keras
import numpy as np
import pytest

from cptk.data.feeding import Ahead, Feed


def batch(size: int, number: int = 0) -> dict:
    side = {"token_ids": np.full((size, 2), number), "padding_mask": np.ones((size, 2), bool)}
    return {"query": side, "document": side}


class Sizes(keras.utils.PyDataset):
    """Batches of so many pairs, with their own number as ids."""

    def __init__(self, *sizes, **kwargs):
        super().__init__(**kwargs)
        self.sizes, self.begun, self.ended = sizes, 0, 0

    def __len__(self):
        return len(self.sizes)

    def __getitem__(self, index):
        return batch(self.sizes[index], index)

    def on_epoch_begin(self):
        self.begun += 1

    def on_epoch_end(self):
        self.ended += 1


def numbers(batches) -> list[int]:
    return [int(x["query"]["token_ids"][0, 0]) for x in batches]


def threads() -> int:
    return sum(thread.name.startswith("cptk") for thread in threading.enumerate())


@pytest.mark.parametrize("count", [0, 1, 2, 30])
def test_results_come_in_order(count):
    waiting = [threading.Event() for _ in range(count)]

    def task(index):
        # The first of each pair of tasks waits for the second, which a second thread runs.
        waiting[index].set()
        assert waiting[min(index ^ 1, count - 1)].wait(10)
        return index

    ahead = Ahead((lambda i=i: task(i) for i in range(count)), threads=2, ahead=4)
    assert list(ahead) == list(range(count))
    assert threads() == 0


def test_closed_it_has_ended():
    ahead = Ahead((lambda: 1 for _ in iter(int, 1)), threads=2, ahead=4)
    assert [next(ahead), next(ahead)] == [1, 1]
    ahead.close()
    assert list(ahead) == []
    assert threads() == 0


def test_passes_over_a_dataset():
    data = Sizes(2, 2, 2, 2, 2)
    feed = Feed(data, lambda x: x)
    assert feed.num_batches == 5
    assert [numbers(feed), numbers(feed)] == [[0, 1, 2, 3, 4]] * 2
    feed.on_epoch_begin()
    feed.on_epoch_end()
    assert (data.begun, data.ended) == (1, 1)
    abandoned = iter(feed)
    assert numbers([next(abandoned)]) == [0]
    assert threads() > 0
    feed.close()
    assert threads() == 0
    assert numbers(feed) == [0, 1, 2, 3, 4]


def test_in_a_dataset_it_tells_of_epochs_itself():
    data = Sizes(2, 2)
    feed = Feed(data)
    feed.in_dataset = True
    assert [numbers(feed), numbers(feed)] == [[0, 1]] * 2
    assert (data.begun, data.ended) == (2, 2)


@pytest.mark.parametrize(
    ("sizes", "kept", "left_out"),
    [
        ((2, 3), [0, 1], []),
        ((2, 3, 1), [0, 1], [1]),
        ((2, 1, 3), [0, 2], [1]),
        ((1, 2), [1], [1]),
        ((1, 2, 1), [1], [1, 1]),
        ((1, 1, 2, 1, 1), [2], [1, 1, 1, 1]),
    ],
)
def test_what_is_too_small(sizes, kept, left_out):
    feed = Feed(Sizes(*sizes), lambda x: x, least=2)
    assert feed.num_batches == len(sizes) - (sizes[-1] == 1)
    assert numbers(feed) == kept
    assert feed.left_out == left_out
    stream = Feed(map(batch, sizes, range(9)), lambda x: x, least=2)
    assert numbers(stream) == kept
    assert stream.left_out == left_out
    everything = Feed(Sizes(*sizes), lambda x: x)
    assert numbers(everything) == list(range(len(sizes)))


def test_several_replicas_count_on_the_number():
    feed = Feed(Sizes(2, 1, 3), lambda x: x, least=2)
    feed.in_dataset = True
    with pytest.raises(ValueError, match="cannot be left out under several replicas"):
        list(feed)


def test_an_iterator_serves_one_run():
    feed = Feed(map(batch, (2, 2, 2), range(3)), lambda x: x)
    assert feed.num_batches is None
    assert numbers([feed.first]) == [0]
    shares = []
    feed.cut = lambda x: shares.append(x) or x
    assert numbers(feed) == [0, 1, 2]
    assert numbers(shares) == [0, 1, 2]
    assert numbers(feed) == []
    with pytest.raises(TypeError, match="have no numbers"):
        feed[0]
    assert threads() == 0


def test_nothing_to_feed():
    with pytest.raises(ValueError, match="The generator yields no batch"):
        Feed(iter([]), lambda x: x)
    with pytest.raises(ValueError, match="This Sizes has no batches"):
        Feed(Sizes(), lambda x: x)
    for data in (Sizes(1, 1, 1), iter([batch(1)])):
        with pytest.raises(ValueError, match="holds one pair only"):
            Feed(data, lambda x: x, least=2)


def test_errors_arrive():
    def failing():
        yield batch(2)
        raise OSError("unplugged")

    feed = Feed(failing(), lambda x: x)
    with pytest.raises(OSError, match="unplugged"):
        list(feed)
    assert threads() == 0
    with pytest.raises(ZeroDivisionError):
        Feed(Sizes(2), lambda x: 1 / 0)
