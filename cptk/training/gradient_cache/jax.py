"""Gradient caching on JAX: the whole step as a pure function, in loops of the program."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import jax
import keras
from jax import lax
from jax import numpy as jnp

from cptk import distribution
from cptk.models.keras_hub_embedders import embed as embed_tokens
from cptk.training.gradient_cache.first_pass import first_pass
from cptk.training.gradient_cache.memory import host_memory
from cptk.training.gradient_cache.options import MicroBatches, lengths, too_long
from cptk.training.gradient_cache.step import CachedTrainable
from cptk.training.text_columns import text_columns
from cptk.types import KerasBatch, Size, Tensor, TokenBatch, Tree


def train_step(trainer: CachedTrainable, state: Tree, data: KerasBatch) -> Tree:
    """As `train_step` of Keras on JAX: `(logs, state)`."""
    weights, others, of_optimizer, of_metrics = state
    x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
    texts = text_columns(x)
    cuts = {side: MicroBatchPlan(trainer.micro_batches, tokens) for side, tokens in texts.items()}
    vectors, after = {}, others
    for side in texts:
        with first_pass(trainer.embedder, trainer.first_pass_dtype):
            vectors[side], after = _embed(trainer, weights, after, cuts[side])

    finite = [_note_if_not_finite(trainer, vectors[s], tokens, s) for s, tokens in texts.items()]
    is_finite = jnp.array(finite).all()

    def loss_of(weights: Tree, vectors: Tensor) -> Tree:
        loss, (_, _, metrics) = trainer.stateless_compute_loss(
            weights, after, of_metrics, x=x, y=y, y_pred=vectors,
            sample_weight=sample_weight, training=True,
        )  # fmt: skip
        with keras.StatelessScope(zip(trainer.optimizer.variables, of_optimizer, strict=True)):
            return trainer.optimizer.scale_loss(loss), (loss, metrics)

    slope = jax.value_and_grad(loss_of, argnums=(0, 1), has_aux=True)
    (_, (loss, of_metrics)), (gradients, upstream) = slope(weights, vectors)
    for side in texts:
        gradients, others = _add_gradients(
            trainer, weights, others, cuts[side], upstream[side], gradients
        )
    taken = trainer.optimizer.stateless_apply(of_optimizer, gradients, weights)
    # A step that would break the weights is not taken: `StopNotFinite` ends training.
    weights, of_optimizer = (
        [jnp.where(is_finite, new, old) for new, old in zip(*pair, strict=True)]
        for pair in zip(taken, (weights, of_optimizer), strict=True)
    )
    logs, of_metrics = trainer._update_metrics_variables(
        of_metrics, loss, x, y, vectors, sample_weight
    )
    return logs, (weights, others, of_optimizer, of_metrics)


def _note_if_not_finite(
    trainer: CachedTrainable, vectors: Tensor, tokens: TokenBatch, side: str
) -> Tree:
    finite = jnp.isfinite(vectors).all(axis=1)
    row = jnp.argmin(finite)
    ids = jnp.where(tokens["padding_mask"][row].astype(bool), tokens["token_ids"][row], -1)

    def note() -> None:
        jax.debug.callback(lambda ids: trainer.not_finite.note(side, ids), ids)

    lax.cond(finite.all(), lambda: None, note)
    return finite.all()


def attempt(trainer: CachedTrainable, tokens: TokenBatch) -> Callable[[], Tree]:
    """One micro-batch forward and back, compiled; what is returned does it again."""
    others = [variable.value for variable in trainer.non_trainable_variables]

    def total(weights: Tree, others: Tree) -> Tree:
        on_device = TokenBatch(
            token_ids=jnp.array(tokens["token_ids"]),
            padding_mask=jnp.array(tokens["padding_mask"]),
        )
        vectors, _ = forward_pass(trainer, weights, others, on_device)
        return jnp.sum(vectors)

    slope = jax.jit(jax.grad(total))
    weights = [variable.value for variable in trainer.trainable_variables]
    jax.block_until_ready(slope(weights, others))
    return lambda: jax.block_until_ready(slope(weights, others))


def free_memory() -> float:
    """Bytes that are free on the device, at their fewest so far; on a CPU the host's."""
    stats = jax.local_devices()[0].memory_stats()
    return float(stats["bytes_limit"] - stats["peak_bytes_in_use"]) if stats else host_memory()


def embed(trainer: CachedTrainable, x: Mapping[str, TokenBatch]) -> dict[str, Tensor]:
    """Embeddings of each side, by micro-batch, as `call` gives them outside of training."""

    def of_side(tokens: TokenBatch) -> Tree:
        cut = MicroBatchPlan(trainer.micro_batches, tokens)
        return _vectors(
            cut, lambda tokens, _: (embed_tokens(trainer.embedder, tokens, False), ()), ()
        )

    return {side: of_side(tokens)[0] for side, tokens in text_columns(x).items()}


class MicroBatchPlan:
    """One side's texts, longest first, and the shapes of micro-batches there may be."""

    def __init__(self, micro_batches: MicroBatches, tokens: TokenBatch) -> None:
        ids, mask = tokens["token_ids"], tokens["padding_mask"].astype(bool)
        self.texts, longest = ids.shape
        if micro_batches.tokens is not None and micro_batches.tokens < longest:
            raise ValueError(too_long(longest, micro_batches.tokens))
        parts = distribution.replicas().total
        self.shapes = []
        for length in lengths(longest):
            rows = min(max(micro_batches.rows(length), 1), self.texts)
            self.shapes.append((-(-rows // parts) * parts, length))
        own = jnp.max(jnp.where(mask, jnp.arange(1, longest + 1), 0), axis=1)
        if micro_batches.rows(longest) >= self.texts:
            # All at once are left in their order: then dropout too is that of the plain step.
            self.shapes = [(self.texts, longest)]
            self.order = jnp.arange(self.texts)
        else:
            self.order = jnp.argsort(-own)
        # The shape of the micro-batch that begins at each place.
        ends = jnp.array([length for _, length in self.shapes])
        self.kinds = jnp.searchsorted(ends, own[self.order])
        filler = max(rows for rows, _ in self.shapes)
        self.tokens = {
            "token_ids": jnp.pad(ids[self.order], ((0, filler), (0, 0))),
            "padding_mask": jnp.pad(mask[self.order], ((0, filler), (0, 0))),
        }
        self.rows = self.texts + filler

    def loop(self, body: Callable[[Size, TokenBatch, Tree], Tree], carry: Tree) -> Tree:
        """`carry = body(start, tokens, carry)` for each micro-batch."""

        def of_shape(rows: int, length: int) -> Callable[[Size, Tree], Tree]:
            def run(start: Size, carry: Tree) -> Tree:
                def cut(value: Tensor) -> Tensor:
                    return _divided(lax.dynamic_slice(value, (start, 0), (rows, length)))

                tokens = TokenBatch(
                    token_ids=cut(self.tokens["token_ids"]),
                    padding_mask=cut(self.tokens["padding_mask"]),
                )
                return start + rows, body(start, tokens, carry)

            return run

        branches = [of_shape(*shape) for shape in self.shapes]

        def step(state: Tree) -> Tree:
            start, carry = state
            return lax.switch(self.kinds[start], branches, start, carry)

        return lax.while_loop(lambda state: state[0] < self.texts, step, (0, carry))[1]


def _embed(
    trainer: CachedTrainable, weights: Tree, others: Tree, cut: MicroBatchPlan
) -> tuple[Tree, Tree]:
    """Embeddings `(n, dim)` of a side, and the state they leave."""
    return _vectors(cut, lambda tokens, now: forward_pass(trainer, weights, now, tokens), others)


def _vectors(
    cut: MicroBatchPlan, forward: Callable[[TokenBatch, Tree], tuple[Tensor, Tree]], others: Tree
) -> tuple[Tensor, Tree]:
    """`vectors, others = forward(tokens, others)` of all micro-batches, in the texts' own order."""

    def body(start: Size, tokens: TokenBatch, carry: Tree) -> Tree:
        found, others = carry
        vectors, others = forward(tokens, others)
        return lax.dynamic_update_slice(found, vectors, (start, 0)), others

    few = TokenBatch(
        token_ids=cut.tokens["token_ids"][:1], padding_mask=cut.tokens["padding_mask"][:1]
    )
    one = jax.eval_shape(lambda: forward(few, others)[0])
    found = jnp.zeros((cut.rows, one.shape[1]), one.dtype)
    found, others = cut.loop(body, (found, others))
    own = jnp.zeros((cut.texts, one.shape[1]), one.dtype)
    return own.at[cut.order].set(found[: cut.texts]), others


def _add_gradients(
    trainer: CachedTrainable,
    weights: Tree,
    others: Tree,
    cut: MicroBatchPlan,
    upstream: Tensor,
    gradients: Tree,
) -> tuple[Tree, Tree]:
    """Gradients of the weights, with those that come by the embeddings of a side added."""
    upstream = jnp.pad(upstream[cut.order], ((0, cut.rows - cut.texts), (0, 0)))

    def body(start: Size, tokens: TokenBatch, carry: Tree) -> Tree:
        sums, others = carry

        def vectors_of(weights: Tree) -> Tree:
            return forward_pass(trainer, weights, others, tokens)

        vectors, vjp, others = jax.vjp(vectors_of, weights, has_aux=True)
        own = lax.dynamic_slice(upstream, (start, 0), vectors.shape)
        return jax.tree.map(jnp.add, sums, vjp(own)[0]), others

    return cut.loop(body, (gradients, others))  # type: ignore[no-any-return]


def forward_pass(
    trainer: CachedTrainable, weights: Tree, others: Tree, tokens: TokenBatch
) -> tuple[Tree, Tree]:
    """Embeddings of a micro-batch, and the state after it: dropout's seeds have moved on."""
    names = trainer.non_trainable_variables
    values = [*zip(trainer.trainable_variables, weights, strict=True)]
    values += zip(names, others, strict=True)
    with keras.StatelessScope(values) as scope:
        vectors = embed_tokens(trainer.embedder, tokens, True)
    return vectors, [scope.get_current_value(variable) for variable in names]


def _divided(tensor: Tensor) -> Tensor:
    """A micro-batch, each device with its share."""
    current = keras.distribution.distribution()
    if current is None:
        return tensor
    return keras.distribution.distribute_tensor(tensor, current.get_data_layout(tensor.shape))
