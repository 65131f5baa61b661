"""Batches on their way to Keras: fetched ahead by threads that end when training ends."""

from __future__ import annotations

import contextlib
import functools
import itertools
import multiprocessing
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sized
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor, wait
from typing import Any

import keras

# Keras takes a data adapter of one's own in place of data; its base class has no public name.
from keras.src.trainers.data_adapters import data_adapter_utils
from keras.src.trainers.data_adapters.data_adapter import DataAdapter

from cptk.types import Batches, KerasBatch

ALL_TOO_SMALL = (
    "Every batch of these data holds one pair only. A batch should hold 2 or more: the other pairs "
    "are the negatives."
)


PATIENCE = 5.0
"""Seconds that the end of training waits for a batch that is being fetched."""


class Ahead(Iterator[KerasBatch]):
    """Results of `tasks` in their order, computed a few ahead by threads that `close` ends.

    Args:
        tasks: Functions without arguments, called in order, by several threads at once.
        threads: How many.
        ahead: How many tasks are begun before their results are asked for.
    """

    def __init__(self, tasks: Iterable[Callable[[], KerasBatch]], threads: int = 1, ahead: int = 2):
        self._tasks = iter(tasks)
        self._pool = ThreadPoolExecutor(threads, "cptk-batches")
        self._begun: deque[Future[Any]] = deque()
        self._begin(ahead)

    def _begin(self, count: int) -> None:
        for task in itertools.islice(self._tasks, count):
            self._begun.append(self._pool.submit(task))

    def __next__(self) -> KerasBatch:
        if not self._begun:
            self.close()
            raise StopIteration
        try:
            found = self._begun.popleft().result()
        except CancelledError:
            raise StopIteration from None
        self._begin(1)
        return found

    def close(self) -> None:
        """End the threads; one that waits for somebody's generator is left to end by itself."""
        self._tasks = iter(())
        self._pool.shutdown(wait=False, cancel_futures=True)
        running = [future for future in self._begun if not future.cancelled()]
        if not wait(running, timeout=PATIENCE).not_done:
            self._pool.shutdown()
        self._begun.clear()


class Feed(DataAdapter):  # type: ignore[misc]
    """Batches of a `PyDataset` or an iterator, as Keras asks for them on each backend.

    Keras's own adapters fix the length of texts on TensorFlow by the first two batches, cannot
    leave out a batch, and keep threads after an error.

    Args:
        data: A `PyDataset` of batches, or an iterator of them, which serves one run.
        prepare: Called on each batch, in a thread. Returns a mapping of sides, or a tuple that
            begins with it.
        least: Pairs that a batch holds at least; one of fewer is left out, and counted.
        threads: How many fetch ahead; 0 fetches when Keras asks.

    Attributes:
        cut: Called on each batch in the end: this process's share of it.
        in_dataset: Whether Keras is given a `tf.data.Dataset` of the parts for several replicas,
            which counts on the number of batches and knows nothing of epochs.
        left_out: Pairs of each batch that was left out.

    Raises:
        ValueError: No batch is large enough.
    """

    def __init__(
        self,
        data: Batches,
        prepare: Callable[[KerasBatch], KerasBatch] | None = None,
        least: int = 1,
        threads: int | None = None,
    ) -> None:
        self.data, self.prepare, self.least = data, prepare, least
        self.indexed = isinstance(data, keras.utils.PyDataset)
        self.threads = (max(data.workers, 2) if self.indexed else 1) if threads is None else threads
        self.cut: Callable[[KerasBatch], KerasBatch] = lambda batch: batch
        self.in_dataset = False
        self.left_out: list[int] = []
        self._count: int | None = data.num_batches if self.indexed else None
        self._open: list[Callable[[], None]] = []
        self._stream: Iterator[Any] | None = None
        if not self.indexed:
            self._stream = self._checked(self._ahead(self._steps(iter(data)), 2))
        elif self._count == 0:
            raise ValueError(f"This {type(data).__name__} has no batches.")
        if prepare is not None:
            # What is wrong with a batch is said now: on JAX, Keras loses a model's weights to an
            # error in the middle of `fit`.
            try:
                self._look_at_the_ends()
            except BaseException:
                self.close()
                raise

    def _look_at_the_ends(self) -> None:
        """Find what is too small now: Keras asks for the number of batches beforehand."""
        count, small = self._count, pairs_in(self.first) < self.least
        if self.least < 2 or count is None:
            return
        if small and all(pairs_in(self._fetch(i)) < self.least for i in range(count)):
            raise ValueError(ALL_TOO_SMALL)
        if count > 1 and (pairs := pairs_in(self._fetch(count - 1))) < self.least:
            self._count = count - 1
            self.left_out.append(pairs)

    @functools.cached_property
    def first(self) -> KerasBatch:
        """The first batch."""
        if self._stream is None:
            return self._fetch(0)
        try:
            first = next(self._stream)
        except StopIteration:
            raise ValueError("The generator yields no batch.") from None
        self._stream = itertools.chain([first], self._stream)
        return first

    def _fetch(self, index: int) -> KerasBatch:
        batch = self.data[index]
        return batch if self.prepare is None else self.prepare(batch)

    def _steps(self, source: Iterator[KerasBatch]) -> Iterator[Callable[[], KerasBatch]]:
        """One task again and again: the next batch. A single thread calls it."""
        ended = False

        def step() -> KerasBatch:
            nonlocal ended
            try:
                batch = next(source)
            except StopIteration:
                ended = True
                return None
            return batch if self.prepare is None else self.prepare(batch)

        while not ended:
            yield step

    def _ahead(self, tasks: Iterable[Callable[[], KerasBatch]], ahead: int) -> Iterator[KerasBatch]:
        if self.threads == 0:
            yield from (task() for task in tasks)
            return
        batches = Ahead(tasks, self.threads, ahead)
        with self._ended(batches.close):
            yield from batches

    def _checked(self, batches: Iterator[KerasBatch]) -> Iterator[KerasBatch]:
        """The batches that are large enough."""
        kept = False
        for batch in batches:
            if batch is None:  # A generator has ended.
                break
            pairs = self.least if self.least == 1 else pairs_in(batch)
            if pairs >= self.least:
                kept = True
                yield batch
            elif self.is_counted:
                raise ValueError(
                    "A batch in the middle of these data holds one pair only, which cannot be left "
                    "out under several replicas: they need to know the number of batches."
                )
            else:
                self.left_out.append(pairs)
        if self.left_out and not kept:
            raise ValueError(ALL_TOO_SMALL)

    def __iter__(self) -> Iterator[KerasBatch]:
        """One pass over a dataset; of an iterator, what is left."""
        for batch in self._pass():
            yield self.cut(batch)

    def _pass(self) -> Iterator[KerasBatch]:
        if self._stream is not None:
            yield from self._stream
            return
        indices = itertools.count() if self._count is None else range(self._count)
        if self.in_dataset:
            self.data.on_epoch_begin()
        with self._fetching() as fetch:
            tasks = (functools.partial(fetch, index) for index in indices)
            yield from self._checked(self._ahead(tasks, max(self.data.max_queue_size, 2)))
        if self.in_dataset:
            self.data.on_epoch_end()

    @contextlib.contextmanager
    def _fetching(self) -> Iterator[Callable[[int], KerasBatch]]:
        """How batches are fetched: by processes, where the dataset asks for them."""
        if not self.data.use_multiprocessing or self.data.workers < 1:
            yield self._fetch
            return
        # Made for each pass, as in Keras: what `on_epoch_end` has shuffled is seen by the workers.
        pool = multiprocessing.Pool(self.data.workers, _remember, (self.data,))
        with self._ended(pool.terminate):

            def fetch(index: int) -> KerasBatch:
                batch = pool.apply(_recall, (index,))
                return batch if self.prepare is None else self.prepare(batch)

            yield fetch

    @contextlib.contextmanager
    def _ended(self, end: Callable[[], None]) -> Iterator[None]:
        """`end` is called when the block is left, or by `close`."""
        self._open.append(end)
        try:
            yield
        finally:
            if end in self._open:
                self._open.remove(end)
                end()

    def __getitem__(self, index: int) -> KerasBatch:
        """A batch of a dataset; iterators raise `TypeError`, as they do themselves."""
        if not self.indexed:
            raise TypeError("Batches of a generator have no numbers.")
        return self._fetch(index)

    @property
    def is_counted(self) -> bool:
        """Whether a pass must have `num_batches` batches: several replicas count on it."""
        return self.indexed and (self.least == 1 or self.in_dataset)

    def close(self) -> None:
        """End all that fetches batches."""
        while self._open:
            self._open.pop()()

    # === What Keras asks of a data adapter ===

    def get_numpy_iterator(self) -> Iterator[KerasBatch]:
        return iter(self)

    def get_jax_iterator(self) -> Batches:
        return data_adapter_utils.get_jax_iterator(iter(self))

    def get_torch_dataloader(self) -> Batches:
        return data_adapter_utils.get_torch_dataloader(iter(self))

    def get_tf_dataset(self) -> Batches:
        from cptk.data.tensorflow import from_batches

        return from_batches(self)

    @property
    def num_batches(self) -> int | None:
        return self._count

    @property
    def batch_size(self) -> int | None:
        return None

    @property
    def has_partial_batch(self) -> None:
        return None

    @property
    def partial_batch_size(self) -> None:
        return None

    def on_epoch_begin(self) -> None:
        if self.indexed:
            self.data.on_epoch_begin()

    def on_epoch_end(self) -> None:
        if self.indexed:
            self.data.on_epoch_end()


def pairs_in(batch: KerasBatch) -> int:
    """Number of pairs in a batch of tokens."""
    x = batch[0] if isinstance(batch, tuple) else batch
    tokens: Sized = x["query"]["token_ids"]
    return len(tokens)


# === In a process of a pool ===

_DATA: list[Any] = []


def _remember(data: Batches) -> None:
    _DATA[:] = [data]


def _recall(index: int) -> KerasBatch:
    return _DATA[0][index]
