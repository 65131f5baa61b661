"""What `ContrastiveTrainer` checks of its data, and how it hands it to the backend."""

import contextlib
import contextvars
import functools
import itertools
import random
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any, ParamSpec, TypeVar

import keras
import numpy as np

from cptk import checks, distribution
from cptk.data.batching import (
    check_pairs,
    check_tokens,
    check_weights,
    of_one_type,
    share_rows,
)
from cptk.data.columns import as_columns, column, is_pairs
from cptk.data.feeding import Feed
from cptk.data.negatives import check_negatives
from cptk.data.numbers import number_columns
from cptk.data.order import OrderedBatches
from cptk.types import Batches, KerasBatch, Logs, Model, TensorLike, TokenBatch, Tree


class DataOrder:
    """How far a trainer has come in the pairs that it has seen: `fit` goes on from there.

    Attributes:
        start: Batches of its pairs that the running `fit` found done when it began.
        places: For each set of pairs, whole passes over it and pairs of the next pass. The name is
            a digest of the pairs and of what shuffles them.
    """

    REMEMBERED = 64  # Sets of pairs. Those of long ago start anew.

    def __init__(self, start: int = 0, places: Mapping[str, Any] | None = None) -> None:
        self.start = start
        self.places = {name: (int(p), int(n)) for name, (p, n) in (places or {}).items()}

    def get_config(self) -> dict[str, Any]:
        """What `DataOrder(**config)` and JSON understand."""
        return {"start": self.start, "places": {k: list(v) for k, v in self.places.items()}}

    def begin(self, data: OrderedBatches, initial_epoch: int) -> None:
        """A run of `fit` begins, where the last one on these pairs ended or at an epoch's place."""
        done = self.places.get(_name(data), (0, 0))
        self.start = 0 if initial_epoch else data.batches_before(*done)

    def reached(self, data: OrderedBatches, batches: int) -> None:
        """So many batches of the running `fit`, from its epoch 0 on, are done."""
        self.places.pop(_name(data), None)
        self.places[_name(data)] = data.place(self.start + batches)
        while len(self.places) > self.REMEMBERED:
            del self.places[next(iter(self.places))]


def _name(data: OrderedBatches) -> str:
    return f"{data.digest}-{data.seed}" if data.shuffle else data.digest


class FollowOrder(keras.callbacks.Callback):  # type: ignore[misc]
    """Tells the data which epoch begins, and the trainer's `DataOrder` how far the data has come.

    Read from the trainer each time: a restored run takes over seed, order and epoch of the run that
    it continues.
    """

    async_safe = True  # Else Keras would wait for the logs of every step.

    def __init__(self, data: OrderedBatches, set_seed: bool, initial_epoch: int) -> None:
        super().__init__()
        self.data, self.set_seed, self.initial_epoch = data, set_seed, initial_epoch
        self.epoch = 0

    def _take_seed(self) -> None:
        if self.set_seed:
            self.data.seed = self.model.seed

    def on_train_begin(self, logs: Logs = None) -> None:
        self._take_seed()
        self.model.data_order.begin(self.data, self.initial_epoch)

    def on_epoch_begin(self, epoch: int, logs: Logs = None) -> None:
        self._take_seed()
        self.data.start, self.data.epoch, self.epoch = self.model.data_order.start, epoch, epoch

    def on_train_batch_begin(self, batch: int, logs: Logs = None) -> None:
        done = min(batch + self.model.steps_per_execution, len(self.data))
        self.model.data_order.reached(self.data, self.epoch * len(self.data) + done)

    def get_state(self) -> dict[str, Any]:
        """For a backup."""
        return self.model.data_order.get_config()  # type: ignore[no-any-return]

    def set_state(self, state: Mapping[str, Any]) -> None:
        """From a backup, when training has begun."""
        self.model.data_order = DataOrder(**state)


def check_seed(seed: object) -> int:
    """The seed given, or one drawn."""
    if seed is None:
        # Python's generator, as for Keras's own layers: `keras.utils.set_random_seed` fixes it.
        return random.randint(1, 2**31 - 1)
    if not checks.is_integer(seed) or seed < 0:
        raise ValueError(f"`seed` should be an integer of 0 or more. Received: {seed!r}.")
    return int(seed)


def on_any_backend(config: Tree) -> Tree:
    """What `compile` was given, as saved: Keras on torch names torch's own optimizers in it."""
    if isinstance(config, list | tuple):
        return [on_any_backend(part) for part in config]
    if not isinstance(config, dict):
        return config
    config = {name: on_any_backend(part) for name, part in config.items()}
    if str(config.get("module")).startswith("keras.src.backend.torch.optimizers"):
        config["module"] = "keras.optimizers"
    return config


def unpack(data: KerasBatch) -> tuple[Tree, Tree, Tree]:
    """`x`, `y` and weights of `x`, `(x,)`, `(x, y)` or `(x, y, weights)`; a list is pairs."""
    if not isinstance(data, tuple):
        return data, None, None
    return keras.utils.unpack_x_y_sample_weight(data)  # type: ignore[no-any-return]


def batch_columns(x: object) -> dict[str, Any]:
    """The sides of one batch, which is of any form that pairs may have."""
    if not is_pairs(x):
        raise ValueError(
            'A batch should be {"query": …, "document": …} of n texts or tokens each. Received: '
            f"{type(x).__name__}. Put single pairs together in batches of 2 or more."
        )
    try:
        return as_columns(x, "A batch")
    except TypeError as error:
        raise ValueError(str(error)) from None


def checked_tokens(tokens: Mapping[str, Any], side: str) -> TokenBatch:
    """One side of a batch as NumPy arrays: batches may hold integers and masks of any type."""
    arrays = {k: keras.ops.convert_to_numpy(v) for k, v in check_tokens(tokens, side).items()}
    if not np.issubdtype(arrays["token_ids"].dtype, np.integer):
        raise TypeError(
            f"token_ids of {side} should be integers. Received: {arrays['token_ids'].dtype}."
        )
    return of_one_type(arrays)


def to_backend(data: Batches, model: Model) -> Batches:
    """Global batches as `fit` needs them on this process: its shares, or all there is.

    Where there are several replicas, rows without a token are added to a batch that they cannot
    divide; `ContrastiveTrainer` leaves these out.
    """
    cut = distribution.replicas(model)
    on_tensorflow = keras.config.backend() == "tensorflow"

    def to_parts(batches: Batches) -> Batches:
        from cptk.data import tensorflow as tf_data

        def parts(first: int, own: int) -> Batches:
            return tf_data.share(batches, cut.total, first, own, split=on_tensorflow)

        if not on_tensorflow:
            return parts(cut.first, cut.own)
        return distribution.from_parts(model.distribute_strategy, parts, batches.cardinality())

    if is_tf_dataset(data):
        return to_parts(data) if cut.total > 1 else data
    # In `tf.data` a thread of its own is one batch ahead already.
    in_tf_data = on_tensorflow and isinstance(data, OrderedBatches)
    feed = data if isinstance(data, Feed) else Feed(data, threads=0 if in_tf_data else None)
    if feed is not data:
        in_use(feed)
    if cut.total > 1 and on_tensorflow:
        from cptk.data.tensorflow import from_batches

        feed.in_dataset = True
        return to_parts(from_batches(feed))
    if cut.total > 1:
        feed.cut = lambda batch: share_rows(batch, cut.total, cut.first, cut.own)
    return feed


_IN_USE: contextvars.ContextVar[list[Any]] = contextvars.ContextVar("data in use")
P = ParamSpec("P")
Result = TypeVar("Result")


def in_use(data: Batches) -> Batches:
    """`data`, which the running `fit`, `evaluate` or `predict` closes when it ends."""
    _IN_USE.get([]).append(data)
    return data


def closes_data(method: Callable[P, Result]) -> Callable[P, Result]:
    """For `fit` and the like: threads that fetch end with it, and what was left out is said."""

    @functools.wraps(method)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> Result:
        found: list[Any] = []
        token = _IN_USE.set(found)
        try:
            result = method(*args, **kwargs)
        finally:
            _IN_USE.reset(token)
            for data in found:
                if isinstance(data, Feed):
                    data.close()
        left_out = sum(len(getattr(data, "left_out", ())) for data in found)
        if left_out:
            batches = "One batch" if left_out == 1 else f"{left_out} batches"
            warnings.warn(
                f"{batches} of one pair, which has no negatives, left out of training.",
                stacklevel=2,
            )
        return result

    return wrapper


@contextlib.contextmanager
def may_end_early(data: Batches, whole_passes: bool) -> Iterator[None]:
    """No warning of Keras's where a pass has fewer batches than counted, as some are left out.

    Args:
        data: What Keras is given.
        whole_passes: Whether an epoch is a pass.
    """
    leaves_out = hasattr(data, "left_out") and getattr(data, "least", 2) > 1
    if not whole_passes or not leaves_out:
        yield
        return
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Your input ran out of data")
        yield


def each_batch(data: Batches, steps: int | None = None) -> Iterator[Any]:
    """`x` of each global batch of arrays, once over the data, or of the first `steps` of them."""
    if isinstance(data, OrderedBatches):
        batches: Batches = map(data.__getitem__, range(len(data)))
    else:
        # A `Feed` without a number of batches goes on for ever; `steps` ends it.
        batches = data.as_numpy_iterator() if is_tf_dataset(data) else data
    for batch in itertools.islice(batches, steps):
        yield batch[0] if isinstance(batch, tuple) else batch


def is_tf_dataset(x: object) -> bool:
    """Whether `x` is a `tf.data.Dataset`, without importing TensorFlow to find out."""
    if "tensorflow" not in sys.modules:
        return False
    from cptk.data.tensorflow import is_dataset

    return bool(is_dataset(x))


def split(
    x: object, sample_weight: TensorLike | None, fraction: float, columns: tuple[str, ...] = ()
) -> tuple[Tree, Tree, Tree]:
    """The last `fraction` of the pairs as validation data, as Keras does it.

    Args:
        x: Pairs in memory.
        sample_weight: Their weights; by default the column "weight", if there is one.
        fraction: From 0 to 1.
        columns: Number columns that are kept beside the two sides, and "negatives".
    """
    if not is_pairs(x) or not checks.is_number(fraction) or not 0 < fraction < 1:
        raise ValueError(
            "`validation_split` should be between 0 and 1, and needs pairs in memory: "
            '{"query": …, "document": …}. Received: '
            f"{checks.shown(fraction)} and {type(x).__name__}."
        )
    pairs = check_pairs(x)
    queries = pairs["query"]
    size = len(queries["token_ids"] if isinstance(queries, Mapping) else queries)
    pairs |= number_columns(x, columns, size)
    if "negatives" in columns:
        pairs["negatives"] = check_negatives(x, pairs["document"], size)
    weight = column(x, "weight") if sample_weight is None else sample_weight
    sample_weight = check_weights(weight, size)
    cut = size - int(size * fraction)
    if cut < 2 or cut == size:
        raise ValueError(
            f"`validation_split={fraction}` of {size} pairs leaves {cut} to train and {size - cut} "
            "to validate on. It takes 2 or more to train, and 1 or more to validate on."
        )

    def part(values: Tree, rows: slice) -> Tree:
        return (
            {k: v[rows] for k, v in values.items()} if isinstance(values, Mapping) else values[rows]
        )

    train, held = (
        {name: part(values, rows) for name, values in pairs.items()}
        for rows in (slice(cut), slice(cut, None))
    )
    for some in (train, held):
        if isinstance(some.get("negatives"), list) and not any(some["negatives"]):
            del some["negatives"]  # it has none
    if sample_weight is None:
        return train, None, held
    return train, sample_weight[:cut], (held, None, sample_weight[cut:])
