"""Everything that needs `tf.data`: the only module that imports TensorFlow when it is imported."""

import atexit
import gc
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Protocol, cast

import keras
import numpy as np
import tensorflow as tf

from cptk import checks
from cptk.data.batching import check_batch_size, pad_tokens
from cptk.data.columns import NUMBERS, SIDES
from cptk.data.order import OrderedBatches
from cptk.types import KerasBatch, Preprocessor, Tensor


# AutoGraph has nothing to convert here, and trips over properties.
@tf.autograph.experimental.do_not_convert  # type: ignore[untyped-decorator]
def preprocess(preprocessor: Preprocessor, x: Tensor, role: str | None) -> dict[str, Tensor]:
    """A preprocessor applied to a string tensor, eagerly or in a graph.

    Args:
        preprocessor: A `TextEmbedderPreprocessor`.
        x: String tensor of shape `()` or `(n,)`.
        role: Name of the role.

    Returns:
        `token_ids` and `padding_mask`, of shape `(length,)` or `(n, length)`.
    """
    role = preprocessor.resolve_role(role)
    length = preprocessor.sequence_length

    def tokenize(texts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        rows = preprocessor.tokenize([text.decode("utf-8") for text in texts], role)
        padded = pad_tokens(rows, length)
        return padded["token_ids"], padded["padding_mask"]

    x = tf.convert_to_tensor(x)
    if x.dtype != tf.string:
        raise TypeError(f"Expected a tensor of strings. Received one of {x.dtype.name}.")
    texts = tf.reshape(x, (-1,))
    token_ids, mask = tf.numpy_function(tokenize, [texts], (tf.int32, tf.bool), stateful=False)
    shape = tf.concat([tf.shape(x), [length]], axis=0)
    features = {"token_ids": tf.reshape(token_ids, shape), "padding_mask": tf.reshape(mask, shape)}
    for tensor in features.values():
        tensor.set_shape([*x.shape, length])
    return features


def is_dataset(data: object) -> bool:
    """Whether `data` is a `tf.data.Dataset`."""
    return isinstance(data, tf.data.Dataset)


def prepare_dataset(
    data: tf.data.Dataset,
    preprocessor: Preprocessor | None,
    roles: Mapping[str, str],
    batch_size: int | None,
    least: int = 1,
    replicas: int = 1,
    columns: Sequence[str] = (),
) -> tf.data.Dataset:
    """A dataset of pairs of strings, or of tokenised pairs, as batches of tokenised pairs.

    Args:
        data: Dataset whose elements are `{"query", "document"}`, or tuples that begin with that.
        preprocessor: The embedder's; None will do where the pairs are tokenised.
        roles: Role of each side.
        batch_size: Batches a dataset of single pairs; `None` where the dataset is batched.
        least: Pairs that a batch holds at least. One of fewer is left out, and is in the list
            `left_out` of the result.
        replicas: Several of them need to know the number of batches: where it is known and a batch
            is too small, there is an error.
        columns: Number columns that elements hold beside the two sides.
    """
    single = _check_elements(data.element_spec, columns)
    count, left_out = int(data.cardinality()), []
    if single:
        if batch_size is None:
            raise ValueError(
                "The dataset holds single pairs. Pass `batch_size=`, or batch it yourself with "
                "`dataset.batch(…)`."
            )
        batch_size = check_batch_size(batch_size, least)
        data = data.batch(batch_size)
        if 0 < count % batch_size < least and count > batch_size:
            left_out.append(count % batch_size)
            data = data.take(count // batch_size)
        known = count >= 0
    elif batch_size is not None:
        raise ValueError(
            "The dataset is batched already. Leave `batch_size` out, or do not batch the dataset."
        )
    else:
        known = False
    count = int(data.cardinality())
    stays_known = known or (replicas > 1 and count >= 0)
    filtered = least > 1 and not stays_known
    if filtered:
        data = data.filter(_large_enough(least, left_out))
    prepare = _prepare(preprocessor, roles, least, columns)
    data = data.map(prepare, num_parallel_calls=tf.data.AUTOTUNE).prefetch(tf.data.AUTOTUNE)
    if filtered and count >= 0:
        # A dataset that was filtered does not know its size; Keras, which shows and
        # counts steps by it, does well with one that is too large.
        data.cardinality = lambda: tf.constant(count, tf.int64)
    data.left_out = left_out
    return data


def _check_elements(spec: KerasBatch, columns: Sequence[str]) -> bool:
    """Whether elements of this spec are single pairs; an error if they are no pairs."""
    received = f"Received: {checks.shown(spec, 300)}."
    x, y, _ = keras.utils.unpack_x_y_sample_weight(spec)
    names = set(x) if isinstance(x, Mapping) else set()
    if "negatives" in names or "negatives" in columns:
        raise ValueError(
            "A tf.data.Dataset gives pairs without hard negatives. Pass these as pairs in memory, "
            "or yield batches with lists of negatives from a PyDataset or a generator."
        )
    if names - {*NUMBERS} != {*SIDES} or not names >= {*columns}:
        more = "".join(f', "{name}": …' for name in columns)
        raise ValueError(
            f'Elements of the dataset should be {{"query": …, "document": …{more}}}, or a tuple '
            f"that begins with that. {received}"
        )
    if y is not None and not isinstance(y, tf.NoneTensorSpec):
        raise ValueError(
            "A pair is its own label: leave `y` out of the dataset. With weights, its elements are "
            f"(pairs, None, sample_weight). {received}"
        )
    singles = {_is_single(x[side], side) for side in SIDES}
    if len(singles) > 1:
        raise ValueError(f"Both sides of the dataset should be single or batched. {received}")
    return singles == {True}


def _large_enough(least: int, left_out: list[int]) -> Callable[..., Tensor]:
    """A filter of batches that writes into `left_out` how many pairs those had that it drops."""

    def note(pairs: np.integer) -> np.bool_:
        left_out.append(int(pairs))
        return np.bool_(False)

    def large_enough(*element: KerasBatch) -> Tensor:
        pairs = tf.shape(tf.nest.flatten(element)[0])[0]
        return tf.cond(
            pairs >= least,
            lambda: tf.constant(True),
            lambda: tf.numpy_function(note, [pairs], tf.bool),
        )

    return large_enough


def _prepare(
    preprocessor: Preprocessor | None,
    roles: Mapping[str, str],
    least: int,
    columns: Sequence[str],
) -> Callable[..., KerasBatch]:
    """A function of a batch that gives it tokenised and checked, in the graph."""

    @tf.autograph.experimental.do_not_convert  # type: ignore[untyped-decorator]
    def prepare(*element: KerasBatch) -> KerasBatch:
        x, _, weight = keras.utils.unpack_x_y_sample_weight(
            element[0] if len(element) == 1 else element
        )
        numbers = {name: tf.cast(x[name], tf.float32) for name in columns}
        x = {
            side: right_padded(x[side], side)
            if isinstance(x[side], Mapping)
            else preprocess(cast(Preprocessor, preprocessor), x[side], roles[side])
            for side in SIDES
        }
        asserted = [
            tf.debugging.assert_all_finite(value, f"`{name}` should hold finite numbers.")
            for name, value in numbers.items()
        ]
        asserted += [
            tf.debugging.assert_greater_equal(
                tf.shape(x["query"]["token_ids"])[0],
                least,
                "A batch of one pair has no negatives. Leave it out: "
                "`dataset.batch(…, drop_remainder=True)`.",
            ),
            tf.debugging.assert_equal(
                *(tf.shape(x[side]["token_ids"])[0] for side in SIDES),
                "A batch should have as many documents as queries.",
            ),
        ]
        if weight is not None:
            weight = tf.cast(weight, tf.float32)  # Whole numbers are weights too.
            asserted += [
                tf.debugging.assert_all_finite(weight, "Weights of pairs should be finite."),
                tf.debugging.assert_non_negative(weight, "Weights of pairs should be 0 or more."),
            ]
        with tf.control_dependencies(asserted):
            x = tf.nest.map_structure(tf.identity, {**x, **numbers})
        return x if weight is None else (x, None, weight)

    return prepare  # type: ignore[no-any-return]


def _is_single(spec: tf.TypeSpec | Mapping[str, tf.TypeSpec], side: str) -> bool:
    """Whether one side of a dataset's elements is a single text, and no batch of them."""
    if not isinstance(spec, Mapping):
        return bool(spec.shape.rank == 0)
    if set(spec) != {"token_ids", "padding_mask"}:
        raise ValueError(
            f"Tokenised {side} should have token_ids and padding_mask. Received: "
            f"{checks.shown(sorted(map(str, spec)))}."
        )
    return bool(spec["token_ids"].shape.rank == 1)


def right_padded(tokens: Mapping[str, Tensor], side: str) -> dict[str, Tensor]:
    """`cptk.data.batching.right_padded` in a graph."""
    ids, values = tokens["token_ids"], tokens["padding_mask"]
    mask = tf.cast(values, tf.bool)
    checked = tf.debugging.assert_equal(
        tf.cast(mask, values.dtype),
        values,
        f"Tokenised {side}: `padding_mask` should hold 1 (or True) at tokens and 0 (or False) at "
        "padding.",
    )

    def moved() -> list[Tensor]:
        order = tf.argsort(tf.cast(~mask, tf.int32), axis=1, stable=True)
        return [tf.gather(tensor, order, batch_dims=1) for tensor in (ids, values)]

    with tf.control_dependencies([checked]):
        holes = tf.reduce_any(mask[:, 1:] & ~mask[:, :-1])
    found = tf.cond(holes, moved, lambda: [ids, values])
    for tensor, as_given in zip(found, (ids, values), strict=True):
        tensor.set_shape(as_given.shape)
    return {"token_ids": found[0], "padding_mask": found[1]}


def tf_dataset(batches: OrderedBatches) -> tf.data.Dataset:
    """The batches of a `PairDataset`, or of `TokenStore.batches`, as a `tf.data.Dataset`.

    Element i is `batches[i]`, with dimensions of unknown size where batches differ in it; several
    are fetched at once, and their order stays. An epoch is all there is: with the steps of the
    whole training as `steps_per_epoch`, each pass is shuffled anew.

    Args:
        batches: What `cptk.data.PairDataset` or `TokenStore.batches` has made.

    Returns:
        A dataset of known cardinality, of `x` or `(x, None, sample_weight)`.

    Raises:
        TypeError: Something else.

    Example:

    ```pycon
    >>> import cptk
    >>> pairs = [(f"how {number}?", f"so {number}.") for number in range(10)]
    >>> store = cptk.data.TokenStore.write("ten", pairs, embedder.preprocessor, verbose=0)
    >>> data = cptk.data.tf_dataset(store.batches(4, seed=0))
    >>> len(data), [len(x["query"]["token_ids"]) for x in data.skip(1)]
    (3, [4, 2])

    ```
    """
    if not isinstance(batches, OrderedBatches):
        raise TypeError(
            "`batches` should be a PairDataset, or what TokenStore.batches gives. Received: "
            f"{checks.shown(batches)}."
        )
    first = _drop_none(batches[0])
    types = [array.dtype for array in tf.nest.flatten(first)]
    shapes = [(None,) * array.ndim for array in tf.nest.flatten(first)]

    def fetch(index: np.integer) -> list[np.ndarray]:
        return tf.nest.flatten(_drop_none(batches[int(index)]))  # type: ignore[no-any-return]

    @tf.autograph.experimental.do_not_convert  # type: ignore[untyped-decorator]
    def load(index: Tensor) -> KerasBatch:
        arrays = tf.numpy_function(fetch, [index], types)
        for array, shape in zip(arrays, shapes, strict=True):
            array.set_shape(shape)
        batch = tf.nest.pack_sequence_as(first, arrays)
        return (batch[0], None, batch[1]) if isinstance(batch, tuple) else batch

    data = tf.data.Dataset.range(len(batches))
    return data.map(load, num_parallel_calls=tf.data.AUTOTUNE).prefetch(tf.data.AUTOTUNE)


class Fed(Protocol):
    """A `cptk.data.feeding.Feed`, as far as a dataset is made of it."""

    is_counted: bool
    first: KerasBatch
    num_batches: int | None

    def __iter__(self) -> Iterator[KerasBatch]:
        """Batches, from the first on."""


def from_batches(feed: Fed) -> tf.data.Dataset:
    """Batches of any length as a `tf.data.Dataset` whose length may differ between batches.

    Keras makes a dataset of its own from a `PyDataset` or a generator, but fixes the length to that
    of the first two batches where these happen to agree.

    Args:
        feed: The batches.
    """
    signature = keras.tree.map_structure(
        lambda array: tf.TensorSpec((None,) * array.ndim, array.dtype), _drop_none(feed.first)
    )
    data = tf.data.Dataset.from_generator(lambda: map(_drop_none, feed), output_signature=signature)
    if feed.num_batches is not None and feed.is_counted:
        data = data.apply(tf.data.experimental.assert_cardinality(feed.num_batches))
    if isinstance(signature, tuple):
        data = data.map(lambda x, weight: (x, None, weight))
    return data.prefetch(2)


def share(data: tf.data.Dataset, total: int, first: int, own: int, split: bool) -> tf.data.Dataset:
    """Some of the `total` equal parts of each batch; rows of zeros make it divisible.

    Args:
        data: Dataset of global batches.
        total: Number of parts.
        first: Number of the first part wanted.
        own: How many are wanted.
        split: Whether each part is an element of its own.
    """

    def rows(tensor: Tensor) -> Tensor:
        each = -(-tf.shape(tensor)[0] // total)
        missing = each * total - tf.shape(tensor)[0]
        tensor = tf.pad(tensor, [[0, missing]] + [[0, 0]] * (tensor.shape.rank - 1))
        tensor = tensor[first * each : (first + own) * each]
        if not split:
            return tensor
        return tf.reshape(tensor, tf.concat([[own, each], tf.shape(tensor)[1:]], 0))

    @tf.autograph.experimental.do_not_convert  # type: ignore[untyped-decorator]
    def parts(*element: KerasBatch) -> tf.data.Dataset:
        element = _drop_none(element[0] if len(element) == 1 else element)
        cut = tf.nest.map_structure(rows, element)
        make = tf.data.Dataset.from_tensor_slices if split else tf.data.Dataset.from_tensors
        return make(cut)

    count = int(data.cardinality())
    data = data.flat_map(parts)
    if count >= 0:
        elements = count * (own if split else 1)
        data = data.apply(tf.data.experimental.assert_cardinality(elements))
    if isinstance(data.element_spec, tuple):
        # No `None` for `y`: strategies choke on it.
        data = data.map(lambda x, weight: (x, tf.zeros_like(weight), weight))
    return data.prefetch(2 * own)


def _drop_none(batch: KerasBatch) -> KerasBatch:
    """A batch as `x` or `(x, weight)`."""
    if not isinstance(batch, tuple):
        return batch
    return batch[0] if len(batch) == 1 else (batch[0], batch[-1])


# === The end of the process ===


def _end_iterators() -> None:
    """End what still reads batches, while its threads can still enter Python.

    A `fit` that stops within an epoch leaves its iterator to the garbage collector, and one that
    raises leaves it to the frames of the error. Python would come to it when no other thread may
    enter any more, and wait for ever for one of TensorFlow's that is fetching a batch.
    """
    gc.collect()  # those of several devices too, which are of another class
    for each in gc.get_objects():
        if issubclass(type(each), tf.data.Iterator):
            vars(each).pop("_iterator_resource", None)


atexit.register(_end_iterators)
