"""Gradient caching on TensorFlow: one replica's loss and gradients, in loops of the graph."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

import tensorflow as tf

from cptk import distribution
from cptk.distribution import tensorflow_step
from cptk.models.keras_hub_embedders import embed as embed_tokens
from cptk.ops import float32_or_higher
from cptk.training.gradient_cache.first_pass import first_pass
from cptk.training.gradient_cache.memory import host_memory
from cptk.training.gradient_cache.not_finite import NotFinite
from cptk.training.gradient_cache.options import STEP, MicroBatches, seed_states
from cptk.training.gradient_cache.step import CachedTrainable
from cptk.training.text_columns import text_columns
from cptk.types import KerasBatch, Model, Size, Tensor, TokenBatch, Tree

Forward: TypeAlias = Callable[[TokenBatch], Tensor]
Vjp: TypeAlias = Callable[[TokenBatch, Tensor], list[Tensor | None]]

SMALL = 2**26
"""Weights of a small model."""


def train_step(trainer: CachedTrainable, data: KerasBatch) -> dict[str, Tensor]:
    """As `tensorflow_step.train_step`, on each replica."""
    return tensorflow_step.train_step(trainer, data, loss_and_gradients)


def loss_and_gradients(
    trainer: CachedTrainable, x: Mapping[str, TokenBatch], y: None, sample_weight: Tensor | None
) -> tuple[Tensor, list[Tensor], dict[str, Tensor]]:
    """As of the plain step: the loss, scaled gradients of trainable weights, embeddings."""
    texts = text_columns(x)
    cuts = {side: MicroBatchPlan(trainer.micro_batches, tokens) for side, tokens in texts.items()}
    seeds = seed_states(trainer.embedder)
    before = [tf.identity(seed) for seed in seeds]
    forward, vjp = _first_pass(trainer), _vjp(trainer)
    vectors = {side: _embed(trainer.embedder, cut, forward) for side, cut in cuts.items()}
    finite = [_check_finite(vectors[side], tokens, side) for side, tokens in texts.items()]
    with tf.control_dependencies(finite):
        vectors = {side: tf.identity(found) for side, found in vectors.items()}
    with tf.GradientTape() as tape:
        tape.watch(vectors)
        loss = trainer._compute_loss(x, y, vectors, sample_weight, training=True)
        scaled = trainer.optimizer.scale_loss(loss / distribution.replicas_in_sync())
    of_vectors, gradients = tape.gradient(scaled, (vectors, trainer.trainable_weights))
    if not trainer.embedder.trainable_weights:
        return loss, gradients, vectors
    for seed, value in zip(seeds, before, strict=True):
        seed.assign(value)
    for side in texts:
        if of_vectors[side] is not None:
            gradients = _add_gradients(trainer, cuts[side], of_vectors[side], gradients, vjp)
    return loss, gradients, vectors


def in_flight(embedder: Model) -> int:
    """Micro-batches that are worked on at once: two of a small model on a CPU.

    Its operations are too small for all cores, and a second micro-batch fills the gaps. What a
    large one derives from its weights (16-bit copies, sums with LoRA's) would take memory twice.
    Dropout has to be drawn in order.
    """
    small = embedder.count_params() <= SMALL
    on_cpu = not tf.config.list_physical_devices("GPU")
    return 2 if small and on_cpu and not seed_states(embedder) else 1


def attempt(trainer: CachedTrainable, tokens: TokenBatch) -> Callable[[], Tree]:
    """One micro-batch forward and back, compiled; what is returned does it again."""

    @tf.function(reduce_retracing=True)  # type: ignore[untyped-decorator]
    def run(tokens: TokenBatch) -> Tensor:
        seeds = seed_states(trainer.embedder)
        before = [tf.identity(seed) for seed in seeds]
        with tf.GradientTape() as tape:
            vectors = embed_tokens(trainer.embedder, tokens, True)
        found = tape.gradient(vectors, trainer.embedder.trainable_weights)
        for seed, value in zip(seeds, before, strict=True):
            seed.assign(value)
        sums = [tf.reduce_sum(tf.cast(g, tf.float32)) for g in found if g is not None]
        return tf.add_n([tf.reduce_sum(tf.cast(vectors, tf.float32)), *sums])

    run(tokens).numpy()
    return lambda: run(tokens).numpy()


def free_memory() -> float:
    """Bytes that are free: of the host, since TensorFlow does not say it of a GPU."""
    return float("inf") if tf.config.list_physical_devices("GPU") else host_memory()


def embed(trainer: CachedTrainable, x: Mapping[str, TokenBatch]) -> dict[str, Tensor]:
    """Embeddings of each side, by micro-batch, as `call` gives them outside of training."""
    texts = text_columns(x)
    cuts = {side: MicroBatchPlan(trainer.micro_batches, tokens) for side, tokens in texts.items()}
    forward = _once(trainer.embedder, lambda tokens: _vectors(trainer.embedder, tokens, False))
    return {side: _embed(trainer.embedder, cut, forward) for side, cut in cuts.items()}


def _vectors(embedder: Model, tokens: TokenBatch, training: bool) -> Tensor:
    """Embeddings in 32 bits: KerasHub's own embedders give 16 where their backbone computes so."""
    return float32_or_higher(embed_tokens(embedder, tokens, training))


def embed_by_length(embedder: Model, x: Mapping[str, TokenBatch], slices: int) -> dict[str, Tensor]:
    """Embeddings of each side in training: of all texts, by length, in so many slices."""
    texts = text_columns(x)
    longest = tf.reduce_max([tf.shape(tokens["token_ids"])[1] for tokens in texts.values()])

    def below_one_another(columns: Sequence[Tensor]) -> Tensor:
        return tf.concat([tf.pad(x, [[0, 0], [0, longest - tf.shape(x)[1]]]) for x in columns], 0)

    ids = below_one_another([tokens["token_ids"] for tokens in texts.values()])
    mask = below_one_another([tf.cast(t["padding_mask"], tf.bool) for t in texts.values()])
    tokens = TokenBatch(token_ids=ids, padding_mask=mask)
    rows = -(-tf.shape(ids)[0] // slices)
    cut = MicroBatchPlan(MicroBatches(rows), tokens)
    forward = _once(embedder, lambda tokens: embed_tokens(embedder, tokens, True))
    # Of few texts the last slices are the last text again, whose vectors are left out.
    starts = [tf.minimum(k * rows, cut.texts - 1) for k in range(slices)]
    found = tf.concat([forward(cut.take(start)[0]) for start in starts], 0)[: cut.texts]
    vectors = tf.gather(found, tf.math.invert_permutation(cut.order))
    sizes = [tf.shape(tokens["token_ids"])[0] for tokens in texts.values()]
    return dict(zip(texts, tf.split(vectors, sizes, num=len(sizes)), strict=True))


def _once(embedder: Model, function: Callable[..., Tree]) -> Callable[..., Tree]:
    """A function of micro-batches that the graph of a large model holds once, not for each side.

    A deep decoder's graph takes minutes and gigabytes. Calls of such a function wait for one
    another, so that a small model, which works on two micro-batches, has it twice.
    """
    if in_flight(embedder) > 1:
        return function
    attributes = {"_noinline": True}
    in_graph: Callable[..., Tree] = tf.function(
        function, autograph=False, experimental_attributes=attributes
    )
    return in_graph


def _first_pass(trainer: CachedTrainable) -> Forward:
    """`vectors = forward(tokens)` of a micro-batch."""

    def forward(tokens: TokenBatch) -> Tensor:
        with first_pass(trainer.embedder, trainer.first_pass_dtype):
            return _vectors(trainer.embedder, tokens, True)

    return _once(trainer.embedder, forward)


def _vjp(trainer: CachedTrainable) -> Vjp:
    """`gradients = vjp(tokens, upstream)`: of all weights, `None` of those that get none."""

    def vjp(tokens: TokenBatch, upstream: Tensor) -> list[Tensor | None]:
        # Told what to watch, it does not go back below the lowest layer that is trained.
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch([weight.value for weight in trainer.trainable_weights])
            vectors = _vectors(trainer.embedder, tokens, True)
        weights = trainer.trainable_weights
        found: list[Tensor | None] = tape.gradient(vectors, weights, output_gradients=upstream)
        return found

    return _once(trainer.embedder, vjp)


class MicroBatchPlan:
    """One side's texts, longest first, and where each micro-batch begins and ends."""

    def __init__(self, micro_batches: MicroBatches, tokens: TokenBatch) -> None:
        ids, mask = tokens["token_ids"], tf.cast(tokens["padding_mask"], tf.bool)
        self.texts, self.longest = tf.shape(ids)[0], tf.shape(ids)[1]
        if micro_batches.tokens is not None:
            fits = self.longest <= micro_batches.tokens
            checked = tf.debugging.Assert(fits, [NotFinite.TOO_LONG, self.longest])
            with tf.control_dependencies([checked]):
                ids = tf.identity(ids)
        places = tf.range(1, self.longest + 1)
        lengths = tf.reduce_max(tf.where(mask, places, 0), axis=1)
        # All at once are left in their order: then dropout too is that of the plain step.
        whole = micro_batches.rows(self.longest) >= self.texts
        keys = tf.where(whole, tf.zeros_like(lengths), -lengths)
        self.order = tf.argsort(keys, stable=True)
        self.lengths = tf.where(whole, self.longest, tf.gather(lengths, self.order))
        self.tokens = {
            "token_ids": tf.gather(ids, self.order),
            "padding_mask": tf.gather(mask, self.order),
        }
        self.micro_batches = micro_batches

    def take(self, start: Size) -> tuple[TokenBatch, Size]:
        """The micro-batch that begins at a place, and the place where it ends."""
        length = tf.minimum(-(-tf.maximum(self.lengths[start], 1) // STEP) * STEP, self.longest)
        rows = tf.maximum(self.micro_batches.rows(length), 1)
        end = tf.minimum(start + rows, self.texts)
        ids, mask = (x[start:end, :length] for x in self.tokens.values())
        return TokenBatch(token_ids=ids, padding_mask=mask), end

    def loop(self, more: Callable[..., Tree], carry: Tree, at_once: int) -> Tree:
        """The last carry of `end, *carry = more(start, *carry)` over all micro-batches."""
        return tf.while_loop(
            lambda start, *_: start < self.texts, more, (0, *carry), parallel_iterations=at_once
        )[1:]


def _check_finite(vectors: Tensor, tokens: TokenBatch, side: str) -> Tensor:
    finite = tf.reduce_all(tf.math.is_finite(vectors), axis=1)
    row = tf.argmin(tf.cast(finite, tf.int32))
    ids = tf.where(tf.cast(tokens["padding_mask"], tf.bool)[row], tokens["token_ids"][row], -1)
    message = [NotFinite.SIGN, side, ids]
    return tf.debugging.Assert(tf.reduce_all(finite), message, summarize=100_000)


def _embed(embedder: Model, cut: MicroBatchPlan, forward: Forward) -> Tensor:
    """Embeddings `(n, dim)` of a side, in its own order."""
    width = embedder.output.shape[1]
    dtype = "float64" if embedder.output.dtype == "float64" else "float32"

    def more(start: Size, count: Size, found: Tree) -> Tree:
        tokens, end = cut.take(start)
        return end, count + 1, found.write(count, forward(tokens))

    found = tf.TensorArray(
        dtype, 0, dynamic_size=True, infer_shape=False, element_shape=(None, width)
    )
    _, found = cut.loop(more, (0, found), in_flight(embedder))
    vectors = tf.gather(found.concat(), tf.math.invert_permutation(cut.order))
    return tf.ensure_shape(vectors, (None, width))


def _add_gradients(
    trainer: CachedTrainable,
    cut: MicroBatchPlan,
    upstream: Tensor,
    gradients: list[Tensor],
    vjp: Vjp,
) -> list[Tensor]:
    """Gradients of the weights, with those that come by the embeddings of a side added."""
    variables = trainer.trainable_weights
    upstream = tf.gather(upstream, cut.order)
    reached: set[int] = set()

    def more(start: Size, *sums: Tensor) -> Tree:
        tokens, end = cut.take(start)
        found = vjp(tokens, upstream[start:end])
        reached.update(i for i, gradient in enumerate(found) if gradient is not None)
        return end, *(_plus(*pair) for pair in zip(sums, found, strict=True))

    # A weight's gradient has the dtype of the weight; one that gets none costs a scalar.
    begin = [
        tf.zeros(variable.shape, variable.dtype)
        if gradient is None
        else tf.convert_to_tensor(gradient)
        for variable, gradient in zip(variables, gradients, strict=True)
    ]
    sums = cut.loop(more, begin, in_flight(trainer.embedder))
    return [
        total if gradient is not None or i in reached else None
        for i, (total, gradient) in enumerate(zip(sums, gradients, strict=True))
    ]


def _plus(total: Tensor, gradient: Tensor | None) -> Tensor:
    if gradient is None:
        return total
    if isinstance(gradient, tf.IndexedSlices):
        # The rows of an embedding that occur, in place: a vocabulary is far larger.
        rows = tf.expand_dims(gradient.indices, 1)
        return tf.tensor_scatter_nd_add(total, rows, gradient.values)
    return total + gradient
