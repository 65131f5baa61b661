"""Batches of tokenised pairs, a function of (seed, step) alone."""

import copy
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any, TypeAlias

import keras
import numpy as np

from cptk import checks
from cptk.data.columns import SIDES as SIDES
from cptk.data.columns import as_columns, column, digest
from cptk.data.negatives import Negatives, check_negatives, negative_tokens, width
from cptk.data.numbers import check_guide, number_columns
from cptk.data.order import OrderedBatches, count_batches, places_of
from cptk.types import KerasBatch, TensorLike, TokenBatch

Tokenize: TypeAlias = Callable[[Sequence[str], str], TokenBatch]


class PairDataset(OrderedBatches):
    """Batches of (query, document) pairs, shuffled anew in each pass over the data.

    What a batch holds depends on the seed and on how many steps came before, and on nothing
    else: a run that is interrupted and goes on at epoch 3 sees the batches that it would have
    seen. (`keras.utils.PyDataset` itself does not know the epoch; `ContrastiveTrainer.fit` sets
    `epoch`, and `start`, the number of batches that earlier calls of `fit` have taken.)

    The last batch of a pass is kept if it is smaller than the others, as elsewhere in Keras. A last
    pair alone would have no negatives: it is put with the batch before, which holds one pair more.

    Args:
        pairs: `{"query": …, "document": …}`, each a sequence of n strings, or each a mapping of
            arrays of n rows (`token_ids`, `padding_mask`) as a preprocessor returns it. `Pairs`, a
            frame or table with these columns among others (pandas, Polars, Arrow) and a list of
            (query, document) tuples are taken too.
        tokenize: Function from a list of strings and a side's name to a mapping of arrays; needed
            where `pairs` holds strings.
        batch_size: Pairs in a batch, 2 or more: the other pairs of a batch are the negatives.
        sample_weight: n weights of the pairs. Default: their column `weight`, if there is one.
        shuffle: Whether to shuffle.
        seed: Integer that fixes the order.
        steps_per_epoch: Batches in an epoch. Defaults to one pass over the data. With another
            number, an epoch begins where the last one ended.
        training: Whether pairs need negatives: `False` takes a single pair too.
        columns: Columns that the loss reads beside the two sides. Of numbers (`"score"`,
            `"teacher"`, `"group"`, `"weight"`) a batch holds float32 `(n,)`, or `(n, k)` where a
            pair has k numbers; groups are numbered from 0. Of `"guide"` it holds vectors
            `(n, 2 + k, dim)`: of the query, the document and k negatives. Of `"negatives"` tokens
            `(n, k, length)`, where rows without a token stand for negatives that a pair lacks.

    Raises:
        ValueError: Sides of unequal length, fewer than 2 pairs, other names than `query` and
            `document`, an empty text or one of white space, a bad weight, or a column that is not
            there.
        TypeError: Something that is neither strings nor arrays.

    Example:

    ```pycon
    >>> import numpy as np
    >>> from cptk.data import PairDataset
    >>> tokens = {"token_ids": np.ones((6, 3), "int32"), "padding_mask": np.ones((6, 3), bool)}
    >>> pairs = {"query": tokens, "document": tokens, "score": [0, 1, 2, 3, 4, 5]}
    >>> data = PairDataset(pairs, batch_size=4, columns=("score",), shuffle=False)
    >>> len(data), data[0]["query"]["token_ids"].shape, data[1]["score"].tolist()
    (2, (4, 3), [4.0, 5.0])

    ```
    """

    def __init__(
        self,
        pairs: object,
        tokenize: Tokenize | None = None,
        batch_size: int = 32,
        sample_weight: object = None,
        shuffle: bool = True,
        seed: int = 0,
        steps_per_epoch: int | None = None,
        training: bool = True,
        columns: tuple[str, ...] = (),
    ) -> None:
        least = 2 if training else 1
        self.pairs = check_pairs(pairs, least)
        self.tokenize = tokenize
        self.size = _length(self.pairs["query"])
        self.batch_size = check_batch_size(batch_size, least)
        weight = column(pairs, "weight") if sample_weight is None else sample_weight
        self.sample_weight = check_weights(weight, self.size)
        self.numbers = number_columns(pairs, columns, self.size)
        self.negatives: Negatives | None = None
        if "negatives" in columns:
            self.negatives = check_negatives(pairs, self.pairs["document"], self.size)
        self.leaves_negatives = self.negatives is None and column(pairs, "negatives") is not None
        self.negatives_each = 0 if self.negatives is None else width(self.negatives)
        check_guide(self.numbers, self.negatives_each)
        super().__init__(shuffle, seed, steps_per_epoch)
        self._order: tuple[tuple[int, int], np.ndarray] | None = None

    @property
    def batches_per_pass(self) -> int:
        """Batches in one pass over the data."""
        return count_batches(self.size, self.batch_size)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Of each number column `()`, or `(k,)` where each pair has k numbers."""
        return {name: numbers.shape[1:] for name, numbers in self.numbers.items()}

    @cached_property
    def digest(self) -> str:
        """What the pairs are, as 32 digits: equal for equal pairs in equal order."""
        columns = {**self.pairs, **self.numbers}
        if isinstance(self.negatives, Mapping):
            columns["negatives"] = self.negatives
        elif self.negatives is not None:
            columns["negatives"] = [text for row in self.negatives for text in (*row, "\0")]
        return digest(columns)

    def read_by(self, tokenize: Tokenize, in_order: bool) -> "PairDataset":
        """The same pairs for one trainer; for evaluation, as they stand."""
        data = copy.copy(self)
        data.tokenize = self.tokenize or tokenize
        if in_order:
            data.shuffle, data.start, data.epoch = False, 0, 0
        return data

    def batch_at(self, place: int) -> KerasBatch:
        """The batch after so many others, from the first pass on."""
        number, batch = divmod(place, self.batches_per_pass)
        places = places_of(batch, self.size, self.batch_size)
        rows = self._pass_order(number)[places.start : places.stop]
        x = {side: self._take(side, rows) for side in SIDES}
        x |= {name: numbers[rows] for name, numbers in self.numbers.items()}
        if self.negatives is not None:
            x["negatives"] = negative_tokens(
                self.negatives, rows.tolist(), self.negatives_each, self._tokens_of_documents
            )
        if self.sample_weight is None:
            return x
        return x, None, self.sample_weight[rows]

    def _pass_order(self, number: int) -> np.ndarray:
        """Order of the pairs in a pass. The last is remembered; threads may race, harmlessly."""
        if not self.shuffle:
            return np.arange(self.size)
        key = (self.seed, number)
        order = self._order
        if order is None or order[0] != key:
            rows = np.arange(self.size)
            np.random.default_rng(key).shuffle(rows)
            self._order = order = (key, rows)
        return order[1]

    def _take(self, side: str, rows: np.ndarray) -> TokenBatch:
        values = self.pairs[side]
        if isinstance(values, Mapping):
            ids, mask = values["token_ids"][rows], values["padding_mask"][rows]
            return TokenBatch(token_ids=ids, padding_mask=mask)
        return self._tokens([values[row] for row in rows], side)

    def _tokens(self, texts: Sequence[str], side: str) -> TokenBatch:
        if self.tokenize is None:
            raise ValueError("Pairs of strings need `tokenize`.")
        return self.tokenize(texts, side)

    def _tokens_of_documents(self, texts: Sequence[str]) -> TokenBatch:
        return self._tokens(texts, "document")


def pad_tokens(rows: Sequence[Sequence[int]], length: int) -> TokenBatch:
    """Right-pad n rows of ids to `(n, length)`; the padding id is 0 and only the mask counts."""
    lengths = np.fromiter(map(len, rows), dtype=np.int64, count=len(rows))
    mask = np.arange(length) < lengths[:, None]
    token_ids = np.zeros(mask.shape, dtype=np.int32)
    token_ids[mask] = np.fromiter(
        (i for row in rows for i in row), dtype=np.int32, count=int(lengths.sum())
    )
    return {"token_ids": token_ids, "padding_mask": mask}


def of_one_type(tokens: Mapping[str, Any]) -> TokenBatch:
    """Ids as int32 and masks as bool, NumPy arrays: so have all batches of one `fit` them."""
    ids, mask = (np.asarray(tokens[name]) for name in ("token_ids", "padding_mask"))
    return TokenBatch(
        token_ids=ids.astype(np.int32, copy=False), padding_mask=mask.astype(bool, copy=False)
    )


def right_padded(tokens: Mapping[str, Any], name: str = "Tokens") -> dict[str, Any]:
    """Tokenised texts with the real tokens of each row first, in their order, and padding after.

    Decoders that count positions from the first column (GPT-2, OPT) take left padding, as other
    libraries write it for decoders, for text. So padding is moved to the right wherever it stands.

    Args:
        tokens: `token_ids` and `padding_mask`, concrete arrays of shape `(n, length)`; other
            arrays of that shape are moved along.
        name: What the error calls them.

    Returns:
        The same arrays where nothing had to be moved, else NumPy arrays.

    Raises:
        ValueError: A mask with other values than 0 and 1.

    Example:

    ```pycon
    >>> from cptk.data.batching import right_padded
    >>> moved = right_padded({"token_ids": [[0, 0, 7, 8]], "padding_mask": [[0, 0, 1, 1]]})
    >>> moved["token_ids"].tolist(), moved["padding_mask"].tolist()
    ([[7, 8, 0, 0]], [[1, 1, 0, 0]])

    ```
    """
    values = np.asarray(keras.ops.convert_to_numpy(tokens["padding_mask"]))
    mask = values.astype(bool)
    if not np.array_equal(values, mask):
        other = np.unique(values[values != mask])[:5].tolist()
        raise ValueError(
            f"{name}: `padding_mask` should hold 1 (or True) at tokens and 0 (or False) at "
            f"padding. Received also: {checks.shown(other)}. An attention bias (0 and -1e9) is no "
            "mask: pass `bias == 0`."
        )
    if not (mask[:, 1:] & ~mask[:, :-1]).any():
        return dict(tokens)
    order = np.argsort(~mask, axis=1, kind="stable")
    arrays = {key: np.asarray(keras.ops.convert_to_numpy(x)) for key, x in tokens.items()}
    return {
        key: np.take_along_axis(array, order, axis=1) if array.shape == order.shape else array
        for key, array in arrays.items()
    }


def share_rows(batch: KerasBatch, total: int, first: int, own: int) -> KerasBatch:
    """`own` of the `total` equal parts of a batch of arrays, from part `first` on.

    Rows of zeros are added to a batch that cannot be divided: they hold no token.
    """

    def rows(array: TensorLike) -> np.ndarray:
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


def check_pairs(pairs: object, least: int = 2) -> dict[str, Any]:
    """Pairs of any form as lists of strings or mappings of arrays, by side.

    Args:
        pairs: As `PairDataset` takes them.
        least: How many there should be, at least.

    Raises:
        TypeError: No pairs, or a text that is no string.
        ValueError: Other names, sides of unequal length, too few pairs, or a bad text or token.
    """
    checked: dict[str, Any] = {}
    for side, values in as_columns(pairs).items():
        tokens = isinstance(values, Mapping)
        checked[side] = check_tokens(values, side) if tokens else checks.texts(values, side)
    lengths = {side: _length(checked[side]) for side in SIDES}
    if len(set(lengths.values())) != 1:
        raise ValueError(f"Each query needs its document. Received numbers of texts: {lengths}.")
    if lengths["query"] < least:
        raise ValueError(
            f"Contrastive training needs at least 2 pairs. Received: {lengths['query']}."
            if least > 1
            else "There are no pairs."
        )
    return checked


def check_tokens(tokens: Mapping[str, Any], side: str) -> TokenBatch:
    """One side's tokens `(n, length)`, with padding on the right, or an error that says why not."""
    if set(tokens) != {"token_ids", "padding_mask"}:
        raise ValueError(
            f"Tokenised {side} should have token_ids and padding_mask. Received: "
            f"{checks.shown(sorted(map(str, tokens)))}."
        )
    arrays = {k: v if hasattr(v, "shape") else np.asarray(v) for k, v in tokens.items()}
    shapes = [tuple(array.shape) for array in arrays.values()]
    if len(set(shapes)) != 1 or len(shapes[0]) != 2:
        raise ValueError(
            f"token_ids and padding_mask of {side} should have one shape, (n, length). "
            f"Received: {shapes}."
        )
    moved = right_padded(arrays, f"Tokenised {side}")
    return TokenBatch(token_ids=moved["token_ids"], padding_mask=moved["padding_mask"])


def check_weights(sample_weight: object, size: int) -> np.ndarray | None:
    """Weights as float32 `(size,)`, finite and not negative."""
    if sample_weight is None:
        return None
    try:
        weights = np.asarray(sample_weight, dtype=np.float32)
    except (ValueError, TypeError) as error:
        why = checks.shown(str(error))
        raise ValueError(f"`sample_weight` should hold one number a pair: {why}.") from None
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


def check_batch_size(batch_size: object, least: int = 2) -> int:
    """`batch_size`, where a batch needs `least` pairs."""
    if least > 1 and checks.is_integer(batch_size) and batch_size < 2:
        raise ValueError(
            "`batch_size` should be 2 or more: the other pairs of a batch are the negatives. "
            f"Received: {batch_size}."
        )
    return checks.integer("batch_size", batch_size, least)


def _length(values: Sequence[str] | Mapping[str, TensorLike]) -> int:
    if isinstance(values, Mapping):
        return len(values["token_ids"])
    return len(values)
