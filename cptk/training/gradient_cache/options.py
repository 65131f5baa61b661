"""What a user asks of micro-batches, checked, and how texts are cut by it."""

from __future__ import annotations

from importlib import import_module
from typing import NamedTuple

import keras
import numpy as np

from cptk import checks
from cptk.models.keras_hub_embedders import embed as embed_tokens
from cptk.types import Model, Tensor, Variable

LENGTHS = 4
"""Lengths that a micro-batch may have on JAX, each compiled once: quarters of the batch's."""

STEP = 2
"""Where nothing is compiled, a micro-batch is as long as its longest text, up to this: so that
oneDNN, which keeps a kernel for each shape, does not run out of room for them."""


SLICES = 4
"""Slices of a plain step's texts, at most: in each, texts are padded to its longest. Eight of GPT-2
4 x 256 are no faster, and take TensorFlow twice as long to make a graph of."""

SLICE = 16
"""Texts of a slice, at least: fewer are no faster without padding."""


class MicroBatches(NamedTuple):
    """How many texts pass through the model at once: `size`, or what a budget of `tokens` holds."""

    size: int | str | None = None
    tokens: int | None = None

    def rows(self, length: Tensor) -> Tensor:
        """Texts in a micro-batch of this length; an integer, or a tensor if `length` is one."""
        if self.tokens is not None:
            return self.tokens // length
        return 2**30 if isinstance(self.size, str) else self.size  # All, until it is settled.


def check_micro_batches(size: object, tokens: object, embedder: Model) -> MicroBatches | None:
    """The two arguments of `ContrastiveTrainer`, or an error that says what is wrong with them."""
    if size is None and tokens is None:
        return None
    if size is not None and tokens is not None:
        raise ValueError("Pass `micro_batch_size` or `micro_batch_tokens`, not both.")
    if tokens is None and size == "auto":
        _check_forward_pass(embedder)
        return MicroBatches("auto")
    if tokens is None:
        size = checks.integer("micro_batch_size", size, 1, ', or "auto"')
        _check_forward_pass(embedder)
        return MicroBatches(size)
    tokens = checks.integer("micro_batch_tokens", tokens, 1)
    longest = getattr(embedder.preprocessor, "sequence_length", 1)
    if tokens < longest:
        raise ValueError(
            f"`micro_batch_tokens={tokens}` does not hold one text: the preprocessor's "
            f"sequence_length is {longest}. Use {longest} or more."
        )
    _check_forward_pass(embedder)
    return MicroBatches(tokens=tokens)


def without_xla(jit_compile: object) -> bool:
    """The argument of `compile` on TensorFlow: False, or an error where True was asked for."""
    if jit_compile is True:
        raise ValueError(
            "`jit_compile=True` does not work with micro-batches on TensorFlow: XLA cannot compile "
            "a loop over micro-batches of different lengths. Leave it out, or use "
            "KERAS_BACKEND=jax, which compiles them."
        )
    return False


def slices(embedder: Model, texts: int | None, jit_compile: bool) -> int:
    """In how many slices by length the plain step embeds so many texts; None is an unknown number.

    In one, and with its padding, with XLA on TensorFlow, which compiles each length anew, and where
    a forward pass leaves more behind than vectors. On JAX there are slices in compiled steps on one
    CPU alone, and of a known number of texts: on an accelerator they were not measured, and batches
    of many sizes would be compiled more often.
    """
    count = SLICES if texts is None else max(min(texts // SLICE, SLICES), 1)
    if keras.config.backend() == "jax":
        sliced = jit_compile and texts is not None and _on_one_cpu()
        jit_compile = not sliced or _sums_in_16_bits(embedder)
    if count == 1 or jit_compile:
        return 1
    return 1 if _fault_in_parts(embedder) else count


def _on_one_cpu() -> bool:
    alone = keras.distribution.distribution() is None
    return alone and import_module("jax").default_backend() == "cpu"


def _sums_in_16_bits(embedder: Model) -> bool:
    """Whether gradients of slices would be added up with fewer digits than the plain step's."""
    return any(weight.dtype in ("bfloat16", "float16") for weight in embedder.trainable_weights)


def check_first_pass(
    dtype: object, micro_batches: MicroBatches | None, embedder: Model
) -> str | None:
    """The argument of `ContrastiveTrainer`, or an error that says what is wrong with it."""
    if dtype is None:
        return None
    if dtype not in ("bfloat16", "float16"):
        raise ValueError(
            f'`first_pass_dtype` should be "bfloat16", "float16" or None. Received: {dtype!r}.'
        )
    if micro_batches is None:
        raise ValueError(
            f"`first_pass_dtype={dtype!r}` needs micro-batches: only with them are there two "
            "passes. Pass `micro_batch_size` too, or leave it out."
        )
    if embedder.backbone.compute_dtype != "float32":
        raise ValueError(
            "`first_pass_dtype` is for backbones that compute in float32. This one computes in "
            f"{embedder.backbone.compute_dtype}: leave it out."
        )
    if seed_states(embedder):
        raise ValueError(
            "`first_pass_dtype` needs a backbone without dropout, whose draws in 16 bits would not "
            "be those of the second pass. Make it with `dropout=0`, or leave this argument out."
        )
    on_jax = keras.config.backend() == "jax"
    if dtype == "float16" and on_jax and import_module("jax").default_backend() == "cpu":
        raise ValueError('JAX has no float16 products on CPUs: use `first_pass_dtype="bfloat16"`.')
    return str(dtype)


def lengths(longest: int) -> list[int]:
    """The lengths to which micro-batches are padded where each is compiled: a few, in order."""
    quarters = {-(-longest * part // (8 * LENGTHS)) * 8 for part in range(1, LENGTHS + 1)}
    return sorted({min(length, longest) for length in quarters})


def too_long(longest: int, tokens: int) -> str:
    """What is said of a budget that does not hold a text of the batch."""
    return (
        f"`micro_batch_tokens={tokens}` does not hold one text: the batch's are {longest} tokens "
        f"long, padding included. Use {longest} or more."
    )


def seed_states(embedder: Model) -> list[Variable]:
    """The variables from which an embedder draws its dropout."""
    return [seed.state for layer in embedder._flatten_layers() for seed in layer._seed_generators]


def _check_forward_pass(embedder: Model) -> None:
    """Refuse what would differ by micro-batch."""
    fault = _fault_in_parts(embedder)
    if fault is not None:
        raise ValueError(fault)


def _fault_in_parts(embedder: Model) -> str | None:
    """Why texts cannot pass in parts, if so: state that changes, or losses of activations."""
    layers = list(embedder._flatten_layers())
    if any(getattr(layer, "_remat_mode", None) is not None for layer in layers):
        return (
            "The embedder was made in a keras.RematScope, and Keras 3.15 cannot train KerasHub's "
            "decoders that way. Make it outside: micro-batches save more memory."
        )
    suspects = [variable for layer in layers for variable in layer._non_trainable_variables]
    known = ("keras", "keras_hub", "cptk")
    strange = [layer for layer in layers if type(layer).__module__.split(".")[0] not in known]
    if not suspects and not strange and not any(layer.activity_regularizer for layer in layers):
        return None
    tokens = {
        "token_ids": np.zeros((2, 2), "int32"),
        "padding_mask": np.ones((2, 2), "bool"),
    }
    with keras.StatelessScope(collect_losses=True) as scope:
        embed_tokens(embedder, tokens, True)
    changed = [v.path for v in suspects if scope.get_current_value(v) is not None]
    if changed:
        return (
            "Micro-batches need an embedder that a forward pass leaves as it is: each text passes "
            f"twice. This one changes {changed[:3]} (of a BatchNormalization, say), by micro-batch "
            "and not by batch. Use LayerNormalization, or train without micro-batches."
        )
    if scope.losses:
        return (
            "Micro-batches need an embedder that adds no loss in the forward pass, as an activity "
            f"regularizer does: this one adds {len(scope.losses)}, for each micro-batch and not "
            "for the batch. Regularize weights, or train without micro-batches."
        )
    return None
