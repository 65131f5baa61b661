"""How pairs of any kind become batches of tokens, by an embedder's preprocessor."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import keras
import numpy as np
from numpy.typing import NDArray

from cptk import checks
from cptk.data.batching import (
    SIDES,
    PairDataset,
    bucket_length,
    check_tokens,
    check_weights,
    pad_tokens,
)
from cptk.data.columns import EXPECTED, column, is_pairs, role_of
from cptk.data.feeding import Feed
from cptk.data.mixture import MixedBatches, Mixture, Part, as_mixture
from cptk.data.negatives import check_negatives, negative_tokens, width
from cptk.data.numbers import check_guide, number_columns
from cptk.data.store_batches import StoreBatches
from cptk.data.stored_pairs import StoredPairs
from cptk.data.token_store import TokenStore
from cptk.training.inputs import batch_columns, checked_tokens, in_use, is_tf_dataset, unpack
from cptk.types import Batches, Preprocessor, TokenBatch


class PairReader(NamedTuple):
    """Reads pairs with a preprocessor; without one they have to be tokenised."""

    preprocessor: Preprocessor | None
    columns: tuple[str, ...] = ()
    """Columns that the loss reads beside the two sides: numbers, or "negatives"."""
    optional: tuple[str, ...] = ()
    """The same, of columns that pairs may lack."""
    of_source: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]] | None = None
    """The two by source, where each has an objective of its own."""

    def batches(
        self,
        x: object,
        sample_weight: object,
        batch_size: int | None,
        shuffle: bool,
        seed: int,
        replicas: int,
        steps_per_epoch: int | None = None,
        least: int = 1,
    ) -> Batches:
        """Any kind of data that `fit` takes, as batches of tokens of at least `least` pairs.

        Args:
            x: Pairs in memory in any form; a `TokenStore`; a `tf.data.Dataset`, a
                `keras.utils.PyDataset` or a generator of batches.
            sample_weight: Weights of pairs in memory.
            batch_size: Of pairs in memory, and of a dataset of single pairs; 32 by default.
            shuffle: Whether pairs in memory are shuffled.
            seed: Of their order.
            replicas: How many devices share a batch.
            steps_per_epoch: Of pairs in memory.
            least: 2 in training, where the other pairs are the negatives.

        Raises:
            TypeError: Another kind of data.
            ValueError: Something that is given twice, or bad pairs.
        """
        if isinstance(x, TokenStore):
            if sample_weight is not None:
                raise ValueError(
                    "Pairs of a store have their weights in its column `weight`: leave "
                    "`sample_weight` out."
                )
            if self.of_source is not None:
                return self._mixed(
                    Mixture(x), batch_size, shuffle, seed, steps_per_epoch, least > 1
                )
            return self._stored(x, batch_size, shuffle, seed, steps_per_epoch, least > 1)
        on_tf = is_tf_dataset(x)
        batched = on_tf or isinstance(x, keras.utils.PyDataset | Iterator)
        mixture = None if batched else self._mixture(x)
        if self.of_source is not None and mixture is None:
            raise ValueError(
                "A loss for each source takes pairs in memory: a mapping of named pairs, "
                '{"name": pairs, …}, or pairs with a column "source". Received: '
                f"{type(x).__name__}."
            )
        if mixture is not None:
            if sample_weight is not None:
                raise ValueError(
                    "Pairs of several sources have their weights in a column `weight` each: leave "
                    "`sample_weight` out."
                )
            return self._mixed(mixture, batch_size, shuffle, seed, steps_per_epoch, least > 1)
        if not batched and is_pairs(x):
            size = 32 if batch_size is None else batch_size
            options = (sample_weight, shuffle, seed, steps_per_epoch)
            training = least > 1
            return PairDataset(
                x, self.tokenize, size, *options, training=training, columns=self.columns_of(x)
            )
        if not batched:
            raise TypeError(
                f"Data {EXPECTED} Or a tf.data.Dataset, a PyDataset or a generator of batches. "
                f"Received: {type(x).__name__}."
            )
        if sample_weight is not None:
            raise ValueError(
                f"Yield the weights with the batches of this {type(x).__name__}, as "
                "(pairs, None, sample_weight), and leave `sample_weight` out."
            )
        if on_tf:
            from cptk.data.tensorflow import prepare_dataset

            roles = {side: self.role(side) for side in SIDES}
            data = prepare_dataset(
                x, self.preprocessor, roles, batch_size, least, replicas, self.columns
            )
            return in_use(data)
        if batch_size is not None:
            own = isinstance(x, PairDataset | StoreBatches)
            has = "has its own" if own else "yields batches"
            raise ValueError(f"This {type(x).__name__} {has}: leave `batch_size` out.")
        if isinstance(x, PairDataset):
            given = {*x.numbers, *(() if x.negatives is None else ("negatives",))}
            missing = sorted({*self.columns} - given)
            if missing:
                raise ValueError(
                    f"The loss reads the columns {missing}, which this PairDataset does not give: "
                    f"make it with columns={self.columns!r}."
                )
            if x.leaves_negatives and "negatives" in self.optional:
                columns = (*self.columns, "negatives")
                raise ValueError(
                    "The pairs of this PairDataset have negatives, which it does not give to the "
                    f"loss: make it with columns={columns!r}. To train without them, take "
                    "cptk.losses.InfoNCE(hard_negatives=None)."
                )
            return x.read_by(self.tokenize, in_order=least == 1)
        if isinstance(x, StoreBatches):
            return self._of_store(x, in_order=least == 1)
        return in_use(Feed(x, self._prepared, least))

    def _of_store(self, x: StoreBatches, in_order: bool) -> StoreBatches:
        """What `TokenStore.batches` has made, for this trainer."""
        if self.preprocessor is not None:
            x.store.check_read_by(self.preprocessor)
        has = [name for name in self.optional if name in x.store.columns]
        missing = sorted({*self.columns, *has} - {*x.columns})
        if missing:
            raise ValueError(
                f"The loss reads the columns {missing}, which these batches do not give: make them "
                f"with columns={(*x.columns, *missing)!r}, or pass the store itself."
            )
        if x.part != (0, 1):
            raise ValueError(
                "`fit` shares the batches out among its devices and processes: make them without "
                f"`part`, or pass the store itself. Received: part={x.part}."
            )
        return x.read_by(partial(_bucket, longest=x.store.sequence_length), in_order)

    def _stored(
        self,
        store: StoredPairs,
        batch_size: int | None,
        shuffle: bool,
        seed: int,
        steps_per_epoch: int | None,
        training: bool,
    ) -> StoreBatches:
        """Batches of pairs that were tokenised before, for this embedder."""
        if self.preprocessor is not None:
            store.check_read_by(self.preprocessor)
        wanted = self.columns + tuple(name for name in self.optional if name in store.columns)
        return StoreBatches(
            store,
            32 if batch_size is None else batch_size,
            shuffle,
            seed,
            steps_per_epoch,
            training,
            columns=tuple(dict.fromkeys(wanted)),
            bucket=partial(_bucket, longest=store.sequence_length),
        )

    def _mixture(self, x: object) -> Mixture | None:
        """Pairs of several sources; None where they are of one."""
        found = as_mixture(x)
        if found is None and self.of_source is not None and is_pairs(x):
            return None if column(x, "source") is None else Mixture(x)
        return found

    def _mixed(
        self,
        mixture: Mixture,
        batch_size: int | None,
        shuffle: bool,
        seed: int,
        steps_per_epoch: int | None,
        training: bool,
    ) -> MixedBatches:
        """Batches of one source each."""
        names = list(mixture if self.of_source is None else self.of_source)
        without = [name for name in mixture if name not in names]
        unknown = [name for name in names if name not in mixture]
        if without or (unknown and training):
            raise ValueError(
                f"`loss` has objectives for the sources {checks.shown(names)}, and the pairs are "
                f"of {checks.shown(list(mixture))}. Give each source one."
            )
        parts: dict[str, Part] = {}
        for name, pairs in mixture.items():
            own = self.columns, self.optional
            if self.of_source is not None:
                own = self.of_source[name]
            reader = PairReader(self.preprocessor, *own)
            try:
                if isinstance(pairs, StoredPairs):
                    parts[name] = reader._stored(pairs, batch_size, shuffle, 0, None, training)
                    continue
                columns = reader.columns_of(pairs)
                if "negatives" not in own[0] and not _any_text(column(pairs, "negatives")):
                    columns = tuple(other for other in columns if other != "negatives")
                parts[name] = PairDataset(
                    pairs,
                    self.tokenize,
                    32 if batch_size is None else batch_size,
                    shuffle=shuffle,
                    training=training,
                    columns=columns,
                )
            except (TypeError, ValueError) as error:
                raise type(error)(f"Source {name!r}: {error}") from None
        numbers = None if self.of_source is None else {n: k for k, n in enumerate(names)}
        return MixedBatches(
            parts,
            mixture.alpha,
            shuffle,
            seed,
            steps_per_epoch,
            training,
            numbers,
            self.columns,
        )

    def batch(
        self, x: object, sample_weight: object, full_length: bool = False, least: int = 2
    ) -> tuple[dict[str, Any], NDArray[np.float32] | None]:
        """One batch of strings or of tokens as tokens, with its numbers, and its weights, checked.

        Args:
            x: The batch.
            sample_weight: Its weights, or None.
            full_length: Whether to pad to the longest text that there may be.
            least: How many pairs it should have, at least.

        Raises:
            ValueError: Unequal sides, too few pairs, or bad texts, tokens or weights.
        """
        if self.of_source is not None:
            raise ValueError(
                "A loss for each source takes pairs in memory, in `fit` and `evaluate`: of a "
                "batch by itself it is not known which source it is of."
            )
        columns = batch_columns(x)
        tokens: dict[str, Any] = {
            side: check_tokens(values, side)
            if isinstance(values, Mapping)
            else self.tokenize(checks.texts(values, side), side, full_length)
            for side, values in columns.items()
        }
        sizes = {side: len(tokens[side]["token_ids"]) for side in SIDES}
        if sizes["query"] != sizes["document"] or sizes["query"] < least:
            raise ValueError(
                "A batch should have as many documents as queries, and 2 or more: the other pairs "
                f"are the negatives. Received: {sizes}."
            )
        wanted = self.columns_of(x)
        tokens |= number_columns(x, wanted, sizes["query"])
        if "negatives" in wanted:
            negatives = check_negatives(x, columns["document"], sizes["query"], least=0)
            check_guide(tokens, width(negatives))
            tokens["negatives"] = negative_tokens(
                negatives,
                range(sizes["query"]),
                width(negatives),
                lambda texts: self.tokenize(texts, "document", full_length),
            )
        if sample_weight is None:
            return tokens, None
        weights = keras.ops.convert_to_numpy(sample_weight)
        return tokens, check_weights(weights, sizes["query"])

    def columns_of(self, data: object) -> tuple[str, ...]:
        """The columns that the loss reads of these pairs, which may lack the optional ones."""
        return self.columns + tuple(
            name
            for name in self.optional
            if name not in self.columns and column(data, name) is not None
        )

    def tokenize(self, texts: Sequence[str], side: str, full_length: bool = False) -> TokenBatch:
        """Texts in the role of their side, padded to a length that few batches do not share."""
        preprocessor = self.preprocessor
        if preprocessor is None:
            raise ValueError(
                "The embedder has no preprocessor, so it cannot read text. Pass token ids: "
                '{"query": {"token_ids": …, "padding_mask": …}, …}.'
            )
        rows = preprocessor.tokenize(texts, self.role(side))
        longest = preprocessor.sequence_length
        length = longest if full_length else _bucket(max(map(len, rows)), longest)
        return pad_tokens(rows, length)

    def role(self, side: str) -> str:
        """The role named like the side, or the only role there is."""
        return side if self.preprocessor is None else role_of(self.preprocessor, side)

    def _prepared(self, batch: object) -> object:
        """One batch of somebody's own dataset, its strings made tokens of the full length."""
        x, y, sample_weight = unpack(batch)
        refuse_labels(y)
        tokens, weights = self.batch(x, sample_weight, full_length=True, least=1)
        typed = {**tokens, **{side: checked_tokens(tokens[side], side) for side in SIDES}}
        return typed if weights is None else (typed, None, weights)


def _bucket(length: int, longest: int) -> int:
    """What a batch is padded to; JAX compiles a step for each pair of lengths."""
    return bucket_length(length, longest, coarse=keras.config.backend() == "jax")


def _any_text(negatives: object) -> bool:
    """Whether a column of negatives holds any; of something else, what is wrong is said later."""
    if not isinstance(negatives, list):
        return True
    return any(row is None or isinstance(row, str) or len(row) for row in negatives)


def refuse_labels(y: object) -> None:
    """Pairs come without `y`."""
    if y is not None:
        raise ValueError(
            'A pair is its own label: leave `y` out and pass {"query": …, "document": …}.'
        )


def longest_text(preprocessor: Preprocessor | None, data: Batches) -> int:
    """Tokens that a text may have; without a preprocessor those of the first batch.

    Raises:
        ValueError: Neither says it.
    """
    longest = getattr(preprocessor, "sequence_length", None)
    if longest is not None:
        return int(longest)
    try:
        batch = data[0]
    except TypeError:
        raise ValueError(
            '`micro_batch_size="auto"` needs to know how long a text may be: give the embedder a '
            "preprocessor, or pass a number."
        ) from None
    x: Any = batch[0] if isinstance(batch, tuple) else batch
    return max(int(x[side]["token_ids"].shape[1]) for side in SIDES)
