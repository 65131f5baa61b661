"""Search over a whole validation set, by the embeddings that Keras's evaluation makes anyway.

In-batch figures change with the batch size. `mrr` and `recall@k` do not: the candidates of a query
are all documents of the set. `evaluate` hands over each batch's embeddings, kept on the host once
for each text; the scores are taken in blocks at the end.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import threading
from collections.abc import Callable, Iterator, Mapping
from types import GeneratorType
from typing import Any

import keras
import numpy as np
from keras import ops
from numpy.typing import NDArray

from cptk import distribution
from cptk.data.batching import SIDES
from cptk.ops import float32_or_higher
from cptk.types import Model, Tensor, TokenBatch, Tree

CUTOFFS = (1, 10)
"""Of recall: how often the first document is right, and how often one of a first page is."""

STEPS = 2**24
"""Cosines are compared in this many steps from 0 to 1, those of single precision below 1. In steps
of a number's own size, 0 and 1e-17, which another order of sums makes of it, would not be equal."""

BLOCK = (512, 8192)
"""Pairs and documents whose scores are held at once, 32 MiB of them."""


class Retrieval:
    """The embeddings of the pairs that an evaluation passes, and how well they find each other."""

    def __init__(self) -> None:
        # Each replica of a MirroredStrategy traces the step in a thread of its own.
        self._thread = threading.local()
        self._found: _Pairs | None = None

    @contextlib.contextmanager
    def collecting(self) -> Iterator[_Pairs]:
        """Within, the batches that are evaluated are kept."""
        self._found = found = _Pairs()
        try:
            yield found
        finally:
            self._found = None

    def note(
        self,
        trainer: Model,
        x: Mapping[str, TokenBatch],
        y_pred: Mapping[str, Tensor],
        sample_weight: Tensor | None,
    ) -> None:
        """Called in the step, by `compute_metrics`: what `add` is to be given of this batch."""
        if not getattr(self._thread, "asked", False):
            return
        batch = {}
        for side in SIDES:
            mask, token_ids = x[side]["padding_mask"], x[side]["token_ids"]
            tokens = ops.where(ops.cast(mask, "bool"), ops.cast(token_ids, "int32"), -1)
            batch[side] = (float32_or_higher(y_pred[side]), tokens)
        rows = batch["query"][0][:, 0]
        weight = (
            ops.ones_like(rows) if sample_weight is None else ops.cast(sample_weight, "float32")
        )
        self._thread.batch = distribution.everywhere(trainer, (batch, weight))

    def take_noted(self, step: Callable[[], Tree]) -> tuple[Tree, Tree]:
        """What a step returns, and the batch that it has noted."""
        self._thread.asked, self._thread.batch = True, None
        try:
            return step(), self._thread.batch
        finally:
            self._thread.asked, self._thread.batch = False, None

    def add(self, noted: Tree) -> None:
        """Called after the step with what it has noted."""
        if self._found is not None and noted is not None:
            self._found.add(*noted)


class _Pairs:
    """Pairs on the host, each text once."""

    def __init__(self) -> None:
        self.texts = {side: _Texts() for side in SIDES}
        self.numbers: list[NDArray[np.int64]] = []
        self.weights: list[NDArray[np.float32]] = []
        self._last: Tree = None

    def add(self, batch: Tree, weight: Tensor) -> None:
        """A batch, which is copied when the next one comes: the device does not wait."""
        last, self._last = self._last, (batch, weight)
        if last is None:
            return
        batch, weight = last
        batch = {side: [ops.convert_to_numpy(x) for x in batch[side]] for side in SIDES}
        # Rows without a token fill a batch that the replicas could not divide.
        pairs = (batch["query"][1] >= 0).any(axis=1)
        numbers = [self.texts[side].add(*(x[pairs] for x in batch[side])) for side in SIDES]
        self.numbers.append(np.stack(numbers, axis=1))
        self.weights.append(ops.convert_to_numpy(weight)[pairs])

    def result(self) -> dict[str, float]:
        """`mrr` and `recall@k` over all pairs; nothing where a step has noted none."""
        if self._last is not None:
            self.add(None, None)  # The last one comes over, too.
        if not self.numbers:
            return {}
        queries, documents = (self.texts[side].vectors() for side in SIDES)
        pairs, weights = np.concatenate(self.numbers), np.concatenate(self.weights)
        return retrieval(queries, documents, pairs, weights)


class _Texts:
    """Texts of one side, numbered by their tokens in the order in which they come."""

    def __init__(self) -> None:
        self._numbers: dict[bytes, int] = {}
        self._vectors: list[NDArray[Any]] = []

    def add(self, vectors: NDArray[Any], tokens: NDArray[Any]) -> NDArray[np.int64]:
        """The numbers of some texts; their tokens are -1 at padding."""
        numbers, new = np.empty(len(tokens), np.int64), []
        for row, ids in enumerate(np.rint(tokens).astype(np.int32)):
            text = hashlib.blake2b(ids[ids >= 0].tobytes(), digest_size=16).digest()
            if text not in self._numbers:
                self._numbers[text] = len(self._numbers)
                new.append(row)
            numbers[row] = self._numbers[text]
        self._vectors.append(vectors[new])
        return numbers

    def vectors(self) -> NDArray[Any]:
        """`(n, dim)`, in the order of the numbers."""
        return np.concatenate(self._vectors)


def retrieval(
    queries: NDArray[Any], documents: NDArray[Any], pairs: NDArray[Any], weights: NDArray[Any]
) -> dict[str, float]:
    """How well each query finds its documents among all of them, by trec_eval's rules.

    Documents are ranked by falling cosine, in steps of single precision, and equal ones by falling
    number. A query of several pairs has as many right answers: the first of them counts for `mrr`,
    and for `recall@k` the share that is among the first k. It weighs as much as its pairs do on
    average.

    Args:
        queries: `(n, dim)`, each text once.
        documents: `(m, dim)`, each text once.
        pairs: `(p, 2)` integers, the rows of the pairs' queries and documents.
        weights: `(p,)`, of the pairs.
    """
    counts, sums = (np.bincount(pairs[:, 0], w, len(queries)) for w in (None, weights))
    pairs = np.unique(pairs, axis=0)
    ranks = _ranks(queries, documents, pairs)
    answers = np.bincount(pairs[:, 0], minlength=len(queries))
    reciprocal = np.zeros(len(queries))
    np.maximum.at(reciprocal, pairs[:, 0], 1 / ranks)
    values = {"mrr": reciprocal}
    for k in CUTOFFS:
        found = np.bincount(pairs[:, 0], weights=ranks <= k, minlength=len(queries))
        values[f"recall@{k}"] = found / answers
    of_query = sums / counts
    total = of_query.sum()
    return {name: float(of_query @ v / total) if total else 0.0 for name, v in values.items()}


def _ranks(
    queries: NDArray[Any], documents: NDArray[Any], pairs: NDArray[Any]
) -> NDArray[np.float64]:
    """The rank of each pair's document for its query, from 1 on; infinite where it is not finite.

    Twice as exact as they are compared, scores of equal vectors are equal wherever in a block they
    stand.
    """
    ranks = np.ones(len(pairs))
    for start in range(0, len(pairs), BLOCK[0]):
        query, document = pairs[start : start + BLOCK[0]].T
        own = _unit(queries[query])
        positive = np.einsum("nd,nd->n", own, _unit(documents[document]))
        positive = np.rint(positive * STEPS)[:, None]
        first = ranks[start : start + BLOCK[0]]
        for left in range(0, len(documents), BLOCK[1]):
            scores = (own @ _unit(documents[left : left + BLOCK[1]]).T) * STEPS
            np.rint(scores, out=scores)
            number = np.arange(left, left + scores.shape[1])
            behind = (scores == positive) & (number < document[:, None])
            behind |= (scores < positive) | (number == document[:, None])
            first += (~behind).sum(axis=1)
        first[~np.isfinite(positive[:, 0])] = np.inf
    return ranks


def _unit(vectors: NDArray[Any]) -> NDArray[np.float64]:
    unit = vectors.astype(np.float64)
    length = np.linalg.norm(unit, axis=1, keepdims=True)
    unit /= np.where(length == 0, 1, length)
    return unit


def evaluate(
    trainer: Model, keras_evaluate: Callable[..., Tree], *args: Tree, **kwargs: Any
) -> Tree:
    """`keras_evaluate(*args, **kwargs)`, with `mrr` and `recall@k` among its results."""
    return_dict = kwargs.pop("return_dict", False)
    with trainer._retrieval.collecting() as pairs:
        logs = keras_evaluate(*args, return_dict=True, **kwargs)
        logs = {**logs, **pairs.result()}
    return logs if return_dict else trainer._flatten_metrics_in_order(logs)


def test_function(trainer: Model, make: Callable[[], object]) -> Callable[..., Tree]:
    """The function that Keras's `make` makes, which evaluates a batch, with its pairs handed over.

    Keras returns the logs of the last of `steps_per_execution` batches; each is run by itself here.
    """
    on_jax = keras.config.backend() == "jax"

    def step(*args: Tree) -> Tree:
        of_class = functools.partial(type(trainer).test_step, trainer, *args)
        found, noted = trainer._retrieval.take_noted(of_class)
        return ((found[0], noted), found[1]) if on_jax else (found, noted)

    with _one_step(trainer, step):
        make()
    one_batch = trainer.test_function

    def batches(*args: Tree) -> Tree:
        # On TensorFlow, `test_on_batch` gives a generator of its one batch.
        several = on_jax or not isinstance(args[-1], GeneratorType)
        with _one_step(trainer, step) as steps:
            for number in range(steps if several else 1):
                try:
                    found = one_batch(*args)
                except Exception as error:
                    at_end = type(error).__name__ in ("StopIteration", "OutOfRangeError")
                    if number and at_end:
                        break
                    raise
                logs, noted = found[0] if on_jax else found
                trainer._retrieval.add(noted)
                if on_jax:
                    args = (found[1], *args[1:])
        return (logs, args[0]) if on_jax else logs

    return batches


@contextlib.contextmanager
def _one_step(trainer: Model, step: Callable[..., Tree]) -> Iterator[int]:
    """Within, Keras sees another `test_step`, and single steps; gives how many there are."""
    own: dict[str, Any] = trainer.__dict__
    steps = own["steps_per_execution"]
    own["steps_per_execution"], own["test_step"] = 1, step
    try:
        yield steps
    finally:
        own["steps_per_execution"] = steps
        del own["test_step"]
