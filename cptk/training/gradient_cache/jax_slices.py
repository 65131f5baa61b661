"""The plain step on JAX in slices by length: a few small programs in place of one large one.

One program for the whole step would be compiled anew for each set of lengths that a batch's slices
have. So each slice goes forward in a program of its own length, of which there are `LENGTHS` at
most; what its gradient needs is handed, as arrays, to the program that carries the gradient back.
Between them stand the loss, over the whole batch, and after them the optimizer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import keras
import numpy as np
from jax import numpy as jnp
from numpy.typing import NDArray

from cptk.training import filler
from cptk.training.gradient_cache.jax import forward_pass
from cptk.training.gradient_cache.options import lengths
from cptk.training.gradient_cache.step import CachedTrainable
from cptk.training.text_columns import text_columns
from cptk.types import KerasBatch, Tensor, TokenBatch, Tree


def sliced_step(trainer: CachedTrainable) -> Callable[[Tree, KerasBatch], Tree]:
    """As Keras's compiled `train_step` on JAX: `logs, state = step(state, data)`."""

    def step(state: Tree, data: KerasBatch) -> Tree:
        weights, others, of_optimizer, of_metrics = state
        x, _, _ = keras.utils.unpack_x_y_sample_weight(data)
        cut, places = _cut(text_columns(x), trainer.slices)
        vectors, back = [], []
        for tokens in cut:
            found, vjp, others = forward(weights, others, tokens)
            vectors.append(found)
            back.append(vjp)
        state = others, of_optimizer, of_metrics
        logs, of_metrics, gradients, upstream = loss(weights, state, vectors, places, data)
        while back:  # From the last, whose arrays are free when it is done.
            gradients = carry_back(gradients, back.pop(), upstream.pop())
        weights, of_optimizer = update(of_optimizer, gradients, weights)
        return logs, (weights, others, of_optimizer, of_metrics)

    def forward_with_vjp(weights: Tree, others: Tree, tokens: TokenBatch) -> Tree:
        def vectors_of(weights: Tree) -> Tree:
            return forward_pass(trainer, weights, others, tokens)

        return jax.vjp(vectors_of, weights, has_aux=True)

    def loss_and_slopes(
        weights: Tree, state: Tree, vectors: list[Tensor], places: Tensor, data: KerasBatch
    ) -> Tree:
        others, of_optimizer, of_metrics = state
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)

        def loss_of(weights: Tree, vectors: list[Tensor]) -> Tree:
            of_sides = _in_order(vectors, places, text_columns(x))
            value, (_, _, metrics) = trainer.stateless_compute_loss(
                weights, others, of_metrics, x=x, y=y, y_pred=of_sides,
                sample_weight=sample_weight, training=True,
            )  # fmt: skip
            with keras.StatelessScope(zip(trainer.optimizer.variables, of_optimizer, strict=True)):
                return trainer.optimizer.scale_loss(value), (value, metrics, of_sides)

        with trainer._loss_tracker.weighed(lambda: filler.count_pairs(trainer, data)):
            slope = jax.value_and_grad(loss_of, argnums=(0, 1), has_aux=True)
            (_, (value, of_metrics, of_sides)), (gradients, upstream) = slope(weights, vectors)
            logs, of_metrics = trainer._update_metrics_variables(
                of_metrics, value, x, y, of_sides, sample_weight
            )
        return logs, of_metrics, gradients, upstream

    def add(gradients: Tree, vjp: Callable[[Tensor], Tree], upstream: Tensor) -> Tree:
        return jax.tree.map(jnp.add, gradients, vjp(upstream)[0])

    def apply(of_optimizer: Tree, gradients: Tree, weights: Tree) -> Tree:
        return trainer.optimizer.stateless_apply(of_optimizer, gradients, weights)

    forward, loss = jax.jit(forward_with_vjp), jax.jit(loss_and_slopes)
    carry_back = jax.jit(add, donate_argnums=0)
    update = jax.jit(apply, donate_argnums=(0, 2))
    return step


def _cut(
    texts: Mapping[str, TokenBatch], slices: int
) -> tuple[list[TokenBatch], NDArray[np.integer[Any]]]:
    """All texts, longest first, in slices of as many rows; and the place of each text in them."""
    longest = max(tokens["token_ids"].shape[1] for tokens in texts.values())

    def below_one_another(columns: list[Tensor]) -> NDArray[Any]:
        arrays = [np.asarray(column) for column in columns]
        return np.concatenate([np.pad(a, ((0, 0), (0, longest - a.shape[1]))) for a in arrays])

    ids = below_one_another([tokens["token_ids"] for tokens in texts.values()])
    mask = below_one_another([tokens["padding_mask"] for tokens in texts.values()]).astype(bool)
    own = np.max(np.where(mask, np.arange(1, longest + 1), 0), axis=1)
    order = np.argsort(-own, kind="stable")
    rows = -(-len(ids) // slices)
    # The last text fills the last slices up, whose vectors are left out.
    order = np.concatenate([order, np.repeat(order[-1:], rows * slices - len(ids))])
    places = np.empty(len(ids), "int32")
    places[order[: len(ids)]] = np.arange(len(ids))
    cut = []
    for part in order.reshape(slices, rows):
        length = min(n for n in lengths(longest) if n >= own[part[0]])
        cut.append(TokenBatch(token_ids=ids[part, :length], padding_mask=mask[part, :length]))
    return cut, places


def _in_order(
    vectors: list[Tensor], places: Tensor, texts: Mapping[str, TokenBatch]
) -> dict[str, Tensor]:
    """The embeddings of each text column, of those of the slices."""
    found = jnp.concatenate(vectors)[places]
    ends = np.cumsum([tokens["token_ids"].shape[0] for tokens in texts.values()])
    return dict(zip(texts, jnp.split(found, ends[:-1]), strict=True))
