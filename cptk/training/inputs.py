"""What `ContrastiveTrainer` checks of its data, and how it hands it to the backend."""

import itertools
import random
import sys
from collections.abc import Iterator, Mapping
from typing import Any

import keras
import numpy as np

from cptk.data.batching import (
    SIDES,
    PairDataset,
    check_pairs,
    check_weights,
    map_batches,
    share_rows,
)
from cptk.training import distribution


class SetEpoch(keras.callbacks.Callback):  # type: ignore[misc]
    """Tells the data which epoch begins: it may not be the one after the last."""

    def __init__(self, data: PairDataset, set_seed: bool) -> None:
        super().__init__()
        self.data = data
        self.set_seed = set_seed

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        # Read from the trainer, since a restored run takes over the seed of the run it continues.
        if self.set_seed:
            self.data.seed = self.model.seed
        self.data.epoch = epoch


def check_seed(seed: Any) -> int:
    """The seed given, or one drawn."""
    if seed is None:
        # Python's generator, as for Keras's own layers: `keras.utils.set_random_seed` fixes it.
        return random.randint(1, 2**31 - 1)
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or seed < 0:
        raise ValueError(f"`seed` should be an integer of 0 or more. Received: {seed!r}.")
    return int(seed)


def refuse_labels(y: Any) -> None:
    """Pairs come without `y`."""
    if y is not None:
        raise ValueError(
            'A pair is its own label: leave `y` out and pass {"query": …, "document": …}.'
        )


def check_tokens(tokens: Mapping[str, Any], side: str) -> Mapping[str, Any]:
    """One side of a batch of tokens, or an error that says what is wrong with it."""
    if set(tokens) != {"token_ids", "padding_mask"}:
        raise ValueError(
            f"Tokenised {side} should have token_ids and padding_mask. Received: {sorted(tokens)}."
        )
    return tokens


def to_backend(data: Any, model: Any) -> Any:
    """Global batches as `fit` needs them on this process: its shares, or all there is.

    Where there are several replicas, rows without a token are added to a batch that they cannot
    divide; `ContrastiveTrainer` leaves these out.
    """
    cut = distribution.replicas(model)
    on_tensorflow = keras.config.backend() == "tensorflow"
    if cut.total > 1 and (on_tensorflow or is_tf_dataset(data)):
        from cptk.data import tensorflow as tf_data

        batches = data if is_tf_dataset(data) else tf_data.from_batches(data)

        def parts(first: int, own: int) -> Any:
            return tf_data.share(batches, cut.total, first, own, split=on_tensorflow)

        if not on_tensorflow:
            return parts(cut.first, cut.own)
        return distribution.from_parts(model.distribute_strategy, parts, batches.cardinality())
    if cut.total > 1:
        return map_batches(data, lambda batch: share_rows(batch, cut.total, cut.first, cut.own))
    if on_tensorflow and isinstance(data, PairDataset):
        from cptk.data.tensorflow import from_batches

        return from_batches(data)
    return data


def each_batch(data: Any, steps: int | None = None) -> Iterator[Any]:
    """`x` of each global batch of arrays, once over the data, or of the first `steps` of them."""
    if isinstance(data, keras.utils.PyDataset):
        # A dataset without a number of batches goes on for ever; `steps` ends it.
        count = data.num_batches
        numbers = itertools.count() if count is None else range(count)
        batches: Any = map(data.__getitem__, numbers)
    else:
        batches = data.as_numpy_iterator() if is_tf_dataset(data) else data
    for batch in itertools.islice(batches, steps):
        yield batch[0] if isinstance(batch, tuple) else batch


def is_tf_dataset(x: Any) -> bool:
    """Whether `x` is a `tf.data.Dataset`, without importing TensorFlow to find out."""
    if "tensorflow" not in sys.modules:
        return False
    from cptk.data.tensorflow import is_dataset

    return bool(is_dataset(x))


def split(x: Any, sample_weight: Any, fraction: float) -> tuple[Any, Any, Any]:
    """The last `fraction` of the pairs as validation data, as Keras does it."""
    if not isinstance(x, Mapping) or not 0 < fraction < 1:
        raise ValueError(
            "`validation_split` should be between 0 and 1, and needs pairs in memory: "
            f'{{"query": …, "document": …}}. Received: {fraction!r} and {type(x).__name__}.'
        )
    x = check_pairs(x)
    size = len(x["query"]["token_ids"] if isinstance(x["query"], Mapping) else x["query"])
    sample_weight = check_weights(sample_weight, size)
    cut = size - int(size * fraction)
    if min(cut, size - cut) < 2:
        raise ValueError(
            f"`validation_split={fraction}` of {size} pairs leaves {cut} to train and {size - cut} "
            "to validate on. Each part needs 2 or more."
        )

    def part(values: Any, rows: slice) -> Any:
        return (
            {k: v[rows] for k, v in values.items()} if isinstance(values, Mapping) else values[rows]
        )

    train, held = (
        {side: part(x[side], rows) for side in SIDES} for rows in (slice(cut), slice(cut, None))
    )
    if sample_weight is None:
        return train, None, held
    return train, sample_weight[:cut], (held, None, sample_weight[cut:])
