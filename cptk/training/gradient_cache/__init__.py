"""Gradient caching: the step of a large batch in the memory of a small one.

Gao et al., Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup,
arXiv:2101.06983 (GradCache). The loss depends on the weights through the embeddings alone, so

1. all texts are embedded in micro-batches, and nothing is kept but the embeddings;
2. the loss is taken over the whole batch, and its gradient with respect to each embedding;
3. each micro-batch is embedded again, with dropout drawn as before, and its embeddings' gradients
   are carried on to the weights, where they add up.

The sum is the gradient of the plain step. Texts are sorted by length before they are cut into
micro-batches, and each micro-batch is as long as its longest text, so that little work goes into
padding: most of what the second forward pass costs comes back.

One module a backend holds the loops; what they share is here.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any, NamedTuple

import keras
import numpy as np

LENGTHS = 4
"""Lengths that a micro-batch may have on JAX, each compiled once: quarters of the batch's."""


class MicroBatches(NamedTuple):
    """How many texts pass through the model at once: `size`, or what a budget of `tokens` holds."""

    size: int | None = None
    tokens: int | None = None

    def rows(self, length: Any) -> Any:
        """Texts in a micro-batch of this length; an integer, or a tensor if `length` is one."""
        return self.size if self.tokens is None else self.tokens // length


def check_micro_batches(size: Any, tokens: Any, embedder: Any) -> MicroBatches | None:
    """The two arguments of `ContrastiveTrainer`, or an error that says what is wrong with them."""
    if size is None and tokens is None:
        return None
    if size is not None and tokens is not None:
        raise ValueError("Pass `micro_batch_size` or `micro_batch_tokens`, not both.")
    for name, value in (("micro_batch_size", size), ("micro_batch_tokens", tokens)):
        whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
        if value is not None and (not whole or value < 1):
            or_auto = ', or "auto"' if tokens is None else ""
            raise ValueError(
                f"`{name}` should be an integer of 1 or more{or_auto}. Received: {value!r}."
            )
    longest = getattr(embedder.preprocessor, "sequence_length", 1)
    if tokens is not None and tokens < longest:
        raise ValueError(
            f"`micro_batch_tokens={tokens}` does not hold one text: the preprocessor's "
            f"sequence_length is {longest}. Use {longest} or more."
        )
    changed = _changed_in_forward_pass(embedder)
    if changed:
        raise ValueError(
            "Micro-batches need an embedder that a forward pass leaves as it is: each text passes "
            f"twice. This one changes {changed[:3]} (of a BatchNormalization, say), by micro-batch "
            "and not by batch. Use LayerNormalization, or train without micro-batches."
        )
    return MicroBatches(
        None if size is None else int(size), None if tokens is None else int(tokens)
    )


def lengths(longest: int) -> list[int]:
    """The lengths to which micro-batches are padded where each is compiled: a few, in order."""
    quarters = {-(-longest * part // (8 * LENGTHS)) * 8 for part in range(1, LENGTHS + 1)}
    return sorted({min(length, longest) for length in quarters})


def train_step(trainer: Any, *args: Any) -> Any:
    """`trainer.train_step(*args)`, on any backend."""
    return import_module(f"{__name__}.{keras.config.backend()}").train_step(trainer, *args)


def seed_states(embedder: Any) -> list[Any]:
    """The variables from which an embedder draws its dropout."""
    found = {}
    for layer in embedder._flatten_layers():
        for value in vars(layer).values():
            if isinstance(value, keras.random.SeedGenerator):
                found[id(value)] = value.state
    return list(found.values())


def _changed_in_forward_pass(embedder: Any) -> list[str]:
    """Names of variables, seeds excepted, that training assigns to in the forward pass."""
    seeds = set(map(id, seed_states(embedder)))
    suspects = [
        variable
        for layer in embedder._flatten_layers()
        for variable in layer._non_trainable_variables
        if id(variable) not in seeds
    ]
    if not suspects:
        return []
    tokens = {
        "token_ids": np.zeros((2, 2), "int32"),
        "padding_mask": np.ones((2, 2), "bool"),
    }
    with keras.StatelessScope() as scope:
        embedder(tokens, training=True)
    return [v.path for v in suspects if scope.get_current_value(v) is not None]
