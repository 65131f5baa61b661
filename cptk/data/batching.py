"""Batches of tokenised pairs, a function of (seed, step) alone."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import keras
import numpy as np

from cptk import checks

SIDES = ("query", "document")


class PairDataset(keras.utils.PyDataset):  # type: ignore[misc]
    """Batches of (query, document) pairs, shuffled anew in each pass over the data.

    What a batch holds depends on the seed and on how many steps came before, and on nothing
    else: a run that is interrupted and goes on at epoch 3 sees the batches that it would have
    seen. (`keras.utils.PyDataset` itself does not know the epoch; `ContrastiveTrainer.fit` sets
    `epoch`.)

    The last batch of a pass is kept if it is smaller than the others, as elsewhere in Keras.

    Args:
        pairs: `{"query": …, "document": …}`, each a sequence of n strings, or each a mapping of
            arrays of n rows (`token_ids`, `padding_mask`) as a preprocessor returns it.
        tokenize: Function from a list of strings and a side's name to a mapping of arrays; needed
            where `pairs` holds strings.
        batch_size: Pairs in a batch, 2 or more: the other pairs of a batch are the negatives.
        sample_weight: n weights of the pairs, or `None`.
        shuffle: Whether to shuffle.
        seed: Integer that fixes the order.
        steps_per_epoch: Batches in an epoch. Defaults to one pass over the data. With another
            number, an epoch begins where the last one ended.

    Raises:
        ValueError: Sides of unequal or no length, an empty text, a bad weight, or a last batch
            of one pair, which would have no negatives.
        TypeError: Something that is neither strings nor arrays.

    Example:

    ```python
    data = PairDataset({"query": features, "document": features}, batch_size=4, seed=1)
    ```
    """

    def __init__(
        self,
        pairs: Mapping[str, Any],
        tokenize: Callable[[list[str], str], Mapping[str, np.ndarray]] | None = None,
        batch_size: int = 32,
        sample_weight: Any = None,
        shuffle: bool = True,
        seed: int = 0,
        steps_per_epoch: int | None = None,
    ) -> None:
        # Two workers are threads that fetch batches ahead of training; one is none in Keras.
        super().__init__(workers=2, max_queue_size=4)
        self.pairs = check_pairs(pairs)
        self.tokenize = tokenize
        self.size = _length(self.pairs["query"])
        self.batch_size = _check_batch_size(batch_size, self.size)
        self.sample_weight = check_weights(sample_weight, self.size)
        self.shuffle = shuffle
        self.seed = _check_integer("seed", seed, 0)
        self.steps_per_epoch = self.batches_per_pass
        if steps_per_epoch is not None:
            self.steps_per_epoch = _check_integer("steps_per_epoch", steps_per_epoch, 1)
        self.epoch = 0
        self._order: tuple[tuple[int, int], np.ndarray] | None = None

    @property
    def batches_per_pass(self) -> int:
        """Batches in one pass over the data."""
        return -(-self.size // self.batch_size)

    def __len__(self) -> int:
        return self.steps_per_epoch

    def __getitem__(self, index: int) -> Any:
        if not 0 <= index < len(self):
            raise IndexError(f"Batch {index} of {len(self)}.")
        number, batch = divmod(self.epoch * len(self) + index, self.batches_per_pass)
        rows = self._pass_order(number)[batch * self.batch_size :][: self.batch_size]
        x = {side: self._take(side, rows) for side in SIDES}
        if self.sample_weight is None:
            return x
        return x, None, self.sample_weight[rows]

    def _pass_order(self, number: int) -> np.ndarray:
        """Order of the pairs in a pass. The last is remembered; threads may race, harmlessly."""
        key = (self.seed, number)
        order = self._order
        if order is None or order[0] != key:
            rows = np.arange(self.size)
            if self.shuffle:
                np.random.default_rng(key).shuffle(rows)
            self._order = order = (key, rows)
        return order[1]

    def _take(self, side: str, rows: np.ndarray) -> Mapping[str, np.ndarray]:
        values = self.pairs[side]
        if isinstance(values, Mapping):
            return {name: array[rows] for name, array in values.items()}
        if self.tokenize is None:
            raise ValueError("Pairs of strings need `tokenize`.")
        return self.tokenize([values[row] for row in rows], side)


def pad_tokens(rows: Sequence[Sequence[int]], length: int) -> dict[str, np.ndarray]:
    """Right-pad n rows of ids to `(n, length)`; the padding id is 0 and only the mask counts."""
    lengths = np.fromiter(map(len, rows), dtype=np.int64, count=len(rows))
    mask = np.arange(length) < lengths[:, None]
    token_ids = np.zeros(mask.shape, dtype=np.int32)
    token_ids[mask] = np.fromiter(
        (i for row in rows for i in row), dtype=np.int32, count=int(lengths.sum())
    )
    return {"token_ids": token_ids, "padding_mask": mask}


def share_rows(batch: Any, total: int, first: int, own: int) -> Any:
    """`own` of the `total` equal parts of a batch of arrays, from part `first` on.

    Rows of zeros are added to a batch that cannot be divided: they hold no token.
    """

    def rows(array: Any) -> np.ndarray:
        array = np.asarray(array)
        each = -(-len(array) // total)
        missing = np.zeros((each * total - len(array), *array.shape[1:]), array.dtype)
        return np.concatenate([array, missing])[first * each : (first + own) * each]

    return keras.tree.map_structure(lambda x: None if x is None else rows(x), batch)


def bucket_length(length: int, longest: int, coarse: bool = False) -> int:
    """The smallest of 16, 24, 32, 48, 64, 96, 128, 192, … that holds `length` tokens.

    At most a third of a padded row is padding, and there are two buckets to each doubling; one,
    16, 32, 64, … if `coarse`, for steps that are compiled for each pair of lengths.
    """
    bucket = 16
    while bucket < length:
        power = 1 << (bucket.bit_length() - 1)
        bucket = bucket + (power if coarse else power // 2)
    return min(bucket, longest)


def check_pairs(pairs: Any) -> dict[str, Any]:
    """Pairs as lists of strings or mappings of arrays; else an error that says what is wrong."""
    expected = 'Pairs should be {"query": …, "document": …}, with a sequence of texts each.'
    if not isinstance(pairs, Mapping):
        raise TypeError(f"{expected} Received: {type(pairs).__name__}.")
    if set(pairs) != set(SIDES):
        raise ValueError(f"{expected} Received the keys {sorted(map(str, pairs))}.")
    checked: dict[str, Any] = {}
    for side in SIDES:
        values = pairs[side]
        if isinstance(values, Mapping):
            checked[side] = {name: np.asarray(array) for name, array in values.items()}
            if set(checked[side]) != {"token_ids", "padding_mask"}:
                raise ValueError(
                    f"Tokenised {side} should have token_ids and padding_mask. Received: "
                    f"{sorted(checked[side])}."
                )
            shapes = [array.shape for array in checked[side].values()]
            if len(set(shapes)) != 1 or len(shapes[0]) != 2:
                raise ValueError(
                    f"token_ids and padding_mask of {side} should have one shape, (n, length). "
                    f"Received: {shapes}."
                )
        else:
            checked[side] = checks.texts(values, side)
    lengths = {side: _length(checked[side]) for side in SIDES}
    if len(set(lengths.values())) != 1:
        raise ValueError(f"Each query needs its document. Received numbers of texts: {lengths}.")
    if lengths["query"] < 2:
        raise ValueError(
            f"Contrastive training needs at least 2 pairs. Received: {lengths['query']}."
        )
    return checked


def check_weights(sample_weight: Any, size: int) -> np.ndarray | None:
    """Weights as float32 `(size,)`, finite and not negative."""
    if sample_weight is None:
        return None
    weights = np.asarray(sample_weight, dtype=np.float32)
    if weights.shape != (size,):
        raise ValueError(
            f"`sample_weight` should have one weight a pair: shape ({size},). Received: "
            f"{weights.shape}."
        )
    if not np.all(np.isfinite(weights)) or np.any(weights < 0):
        row = int(np.flatnonzero(~np.isfinite(weights) | (weights < 0))[0])
        raise ValueError(
            f"`sample_weight` should be finite and not negative. Weight {row} is {weights[row]}."
        )
    return weights


def _check_batch_size(batch_size: Any, size: int) -> int:
    if isinstance(batch_size, bool) or not isinstance(batch_size, int | np.integer):
        raise TypeError(f"`batch_size` should be an integer. Received: {batch_size!r}.")
    if batch_size < 2:
        raise ValueError(
            "`batch_size` should be 2 or more: the other pairs of a batch are the negatives. "
            f"Received: {batch_size}."
        )
    if size % batch_size == 1:
        raise ValueError(
            f"{size} pairs in batches of {batch_size} leave a last batch of one pair, which has no "
            "negatives. Leave one pair out or use another batch size."
        )
    return int(batch_size)


def _check_integer(name: str, value: Any, least: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
        raise ValueError(f"`{name}` should be an integer of {least} or more. Received: {value!r}.")
    return int(value)


def _length(values: Any) -> int:
    if isinstance(values, Mapping):
        return len(values["token_ids"])
    return len(values)


def map_batches(data: Any, prepare: Callable[[Any], Any]) -> Any:
    """`prepare` applied to each batch of a `PyDataset` (lazily, with its workers) or generator."""
    if isinstance(data, keras.utils.PyDataset):
        return _MappedDataset(data, prepare)

    return _prepared_ahead(data, prepare)


def _prepared_ahead(data: Iterable[Any], prepare: Callable[[Any], Any]) -> Iterator[Any]:
    """`prepare(batch)` for each batch, two batches ahead, in one thread of its own."""
    source, end = iter(data), object()

    def step() -> Any:
        batch = next(source, end)
        return batch if batch is end else prepare(batch)

    with ThreadPoolExecutor(max_workers=1) as pool:
        ahead = deque(pool.submit(step) for _ in range(2))
        while (batch := ahead.popleft().result()) is not end:
            ahead.append(pool.submit(step))
            yield batch


class _MappedDataset(keras.utils.PyDataset):  # type: ignore[misc]
    def __init__(self, data: Any, prepare: Callable[[Any], Any]) -> None:
        super().__init__(
            workers=max(data.workers, 2),
            use_multiprocessing=data.use_multiprocessing,
            max_queue_size=data.max_queue_size,
        )
        self.data, self.prepare = data, prepare

    def __getitem__(self, index: int) -> Any:
        return self.prepare(self.data[index])

    @property
    def num_batches(self) -> int | None:
        batches: int | None = self.data.num_batches
        return batches

    def on_epoch_begin(self) -> None:
        self.data.on_epoch_begin()

    def on_epoch_end(self) -> None:
        self.data.on_epoch_end()
