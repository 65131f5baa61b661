"""Everything that needs `tf.data`: the only module that imports TensorFlow when it is imported."""

import itertools
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from cptk.data.batching import SIDES, pad_tokens


# AutoGraph has nothing to convert here, and trips over properties.
@tf.autograph.experimental.do_not_convert  # type: ignore[untyped-decorator]
def preprocess(preprocessor: Any, x: Any, role: str | None) -> dict[str, Any]:
    """A preprocessor applied to a string tensor, eagerly or in a graph.

    Args:
        preprocessor: A `DecoderTextEmbedderPreprocessor`.
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


def is_dataset(data: Any) -> bool:
    """Whether `data` is a `tf.data.Dataset`."""
    return isinstance(data, tf.data.Dataset)


def prepare_dataset(data: Any, preprocessor: Any, roles: Mapping[str, str], batch_size: Any) -> Any:
    """A dataset of pairs of strings, or of tokenised pairs, as batches of tokenised pairs.

    Args:
        data: Dataset whose elements are `{"query", "document"}`, or tuples that begin with that.
        preprocessor: The embedder's.
        roles: Role of each side.
        batch_size: Batches a dataset of single pairs; `None` where the dataset is batched.
    """
    x_spec, y_spec, _ = keras.utils.unpack_x_y_sample_weight(data.element_spec)
    if not isinstance(x_spec, Mapping) or set(x_spec) != set(SIDES):
        raise ValueError(
            'Elements of the dataset should be {"query": …, "document": …}, or a tuple that '
            f"begins with that. Received: {data.element_spec}."
        )
    if y_spec is not None and not isinstance(y_spec, tf.NoneTensorSpec):
        raise ValueError(
            "A pair is its own label: leave `y` out of the dataset. With weights, its elements are "
            f"(pairs, None, sample_weight). Received: {data.element_spec}."
        )
    text = not isinstance(x_spec["query"], Mapping)
    rank = (x_spec["query"] if text else x_spec["query"]["token_ids"]).shape.rank
    if rank == (0 if text else 1):
        if batch_size is None:
            raise ValueError(
                "The dataset holds single pairs. Pass `batch_size=`, or batch it yourself with "
                "`dataset.batch(…)`."
            )
        if batch_size < 2:
            raise ValueError(
                "`batch_size` should be 2 or more: the other pairs of a batch are the negatives. "
                f"Received: {batch_size}."
            )
        data = data.batch(batch_size)
    elif batch_size is not None:
        raise ValueError(
            "The dataset is batched already. Leave `batch_size` out, or do not batch the dataset."
        )

    @tf.autograph.experimental.do_not_convert  # type: ignore[untyped-decorator]
    def prepare(*element: Any) -> Any:
        x, _, weight = keras.utils.unpack_x_y_sample_weight(
            element[0] if len(element) == 1 else element
        )
        if text:
            x = {side: preprocess(preprocessor, x[side], roles[side]) for side in SIDES}
        checks = [
            tf.debugging.assert_greater(
                tf.shape(x["query"]["token_ids"])[0],
                1,
                "A batch of one pair has no negatives. Leave it out: "
                "`dataset.batch(…, drop_remainder=True)`.",
            )
        ]
        if weight is not None:
            weight = tf.cast(weight, tf.float32)  # Whole numbers are weights too.
            checks += [
                tf.debugging.assert_all_finite(weight, "Weights of pairs should be finite."),
                tf.debugging.assert_non_negative(weight, "Weights of pairs should be 0 or more."),
            ]
        with tf.control_dependencies(checks):
            x = tf.nest.map_structure(tf.identity, x)
        return x if weight is None else (x, None, weight)

    return data.map(prepare, num_parallel_calls=tf.data.AUTOTUNE).prefetch(tf.data.AUTOTUNE)


def from_batches(batches: Any) -> Any:
    """Batches of any length as a `tf.data.Dataset` whose length may differ between batches.

    Keras makes a dataset of its own from a `PyDataset`, but fixes the length to that of the first
    two batches where these happen to agree.

    Args:
        batches: A `PyDataset`, or a generator, which serves one run.
    """
    indexed = isinstance(batches, keras.utils.PyDataset)
    if indexed:
        first = batches[0]
    else:
        batches = iter(batches)
        first = next(batches)
        batches = itertools.chain([first], batches)
    signature = keras.tree.map_structure(
        lambda array: tf.TensorSpec((None,) * array.ndim, array.dtype), _drop_none(first)
    )

    def generator() -> Any:
        if not indexed:
            yield from map(_drop_none, batches)
            return
        batches.on_epoch_begin()
        count = batches.num_batches
        for index in itertools.count() if count is None else range(count):
            yield _drop_none(batches[index])
        batches.on_epoch_end()

    data = tf.data.Dataset.from_generator(generator, output_signature=signature)
    if indexed and batches.num_batches is not None:
        data = data.apply(tf.data.experimental.assert_cardinality(batches.num_batches))
    if isinstance(signature, tuple):
        data = data.map(lambda x, weight: (x, None, weight))
    return data.prefetch(2)


def share(data: Any, total: int, first: int, own: int, split: bool) -> Any:
    """Some of the `total` equal parts of each batch; rows of zeros make it divisible.

    Args:
        data: Dataset of global batches.
        total: Number of parts.
        first: Number of the first part wanted.
        own: How many are wanted.
        split: Whether each part is an element of its own.
    """

    def rows(tensor: Any) -> Any:
        each = -(-tf.shape(tensor)[0] // total)
        missing = each * total - tf.shape(tensor)[0]
        tensor = tf.pad(tensor, [[0, missing]] + [[0, 0]] * (tensor.shape.rank - 1))
        tensor = tensor[first * each : (first + own) * each]
        if not split:
            return tensor
        return tf.reshape(tensor, tf.concat([[own, each], tf.shape(tensor)[1:]], 0))

    @tf.autograph.experimental.do_not_convert  # type: ignore[untyped-decorator]
    def parts(*element: Any) -> Any:
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


def _drop_none(batch: Any) -> Any:
    """A batch as `x` or `(x, weight)`."""
    if not isinstance(batch, tuple):
        return batch
    return batch[0] if len(batch) == 1 else (batch[0], batch[-1])
