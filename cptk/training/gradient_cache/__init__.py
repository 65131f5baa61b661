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

import contextlib
import re
import threading
import time
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np

from cptk import checks
from cptk.training import distribution

LENGTHS = 4
"""Lengths that a micro-batch may have on JAX, each compiled once: quarters of the batch's."""

STEP = 2
"""Where nothing is compiled, a micro-batch is as long as its longest text, up to this: so that
oneDNN, which keeps a kernel for each shape, does not run out of room for them."""

SIZES = (8, 32, 128)
"""Micro-batches that "auto" tries. Each is compiled, hence few; between two the speed differs
little."""


class MicroBatches(NamedTuple):
    """How many texts pass through the model at once: `size`, or what a budget of `tokens` holds."""

    size: int | str | None = None
    tokens: int | None = None

    def rows(self, length: Any) -> Any:
        """Texts in a micro-batch of this length; an integer, or a tensor if `length` is one."""
        if self.tokens is not None:
            return self.tokens // length
        return 2**30 if self.size == "auto" else self.size  # All, until it is settled.


def check_micro_batches(size: Any, tokens: Any, embedder: Any) -> MicroBatches | None:
    """The two arguments of `ContrastiveTrainer`, or an error that says what is wrong with them."""
    if size is None and tokens is None:
        return None
    if size is not None and tokens is not None:
        raise ValueError("Pass `micro_batch_size` or `micro_batch_tokens`, not both.")
    for name, value in (("micro_batch_size", size), ("micro_batch_tokens", tokens)):
        if value is None or (value == "auto" and tokens is None):
            continue
        checks.integer(name, value, 1, ', or "auto"' if tokens is None else "")
    longest = getattr(embedder.preprocessor, "sequence_length", 1)
    if tokens is not None and tokens < longest:
        raise ValueError(
            f"`micro_batch_tokens={tokens}` does not hold one text: the preprocessor's "
            f"sequence_length is {longest}. Use {longest} or more."
        )
    _check_forward_pass(embedder)
    if tokens is not None:
        return MicroBatches(tokens=int(tokens))
    return MicroBatches(size if size == "auto" else int(size))


def check_first_pass(dtype: Any, micro_batches: MicroBatches | None, embedder: Any) -> str | None:
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


@contextlib.contextmanager
def first_pass(trainer: Any) -> Iterator[None]:
    """Called within, the backbone computes in `trainer.first_pass_dtype`; its weights stay."""
    if trainer.first_pass_dtype is None:
        yield
        return
    layers = [
        layer
        for layer in trainer.embedder.backbone._flatten_layers()
        if layer.compute_dtype == "float32" and layer.quantization_mode is None
    ]
    # Not by `dtype_policy`, which edits a map of policies that many layers may share.
    before = [layer._dtype_policy for layer in layers]
    low = keras.DTypePolicy(f"mixed_{trainer.first_pass_dtype}")
    try:
        for layer in layers:
            layer._dtype_policy = low
        yield
    finally:
        for layer, policy in zip(layers, before, strict=True):
            layer._dtype_policy = policy


def lengths(longest: int) -> list[int]:
    """The lengths to which micro-batches are padded where each is compiled: a few, in order."""
    quarters = {-(-longest * part // (8 * LENGTHS)) * 8 for part in range(1, LENGTHS + 1)}
    return sorted({min(length, longest) for length in quarters})


def choose_micro_batch_size(trainer: Any, length: int, verbose: bool) -> MicroBatches:
    """`micro_batch_size="auto"` as a number: tried out on texts of `length` tokens, and said.

    The size is that at which most texts a second go forward and back; a larger one is taken
    where it gains 5% or more, and tried where what the last one took leaves room for it.
    """
    distribution.build(trainer)  # Its moments take memory too, and so do sums of gradients.
    sums = sum(4.0 * np.prod(weight.shape) for weight in trainer.trainable_weights)
    best, most, why = 0, 0.0, f"the largest tried, at {length} tokens a text"
    sizes = [*SIZES]
    while sizes:
        size = sizes.pop(0)
        tokens = {
            "token_ids": np.ones((size, length), "int32"),
            "padding_mask": np.ones((size, length), bool),
        }
        try:
            with _memory() as free:
                run = _backend().attempt(trainer, tokens)
                start = time.perf_counter()
                run()
                speed = size / (time.perf_counter() - start)
        except Exception as error:
            if not _is_out_of_memory(error):
                raise
            if best == 0 and size > 1:
                sizes = [1]
                continue
            if best == 0:
                raise MemoryError(
                    f"There is not the memory to train on one text of {length} tokens, by "
                    '`micro_batch_size="auto"`. Use a smaller model or sequence_length, LoRA '
                    "(cptk.training.enable_lora) or 16 bits (cptk.models.fastest_dtype)."
                ) from error
            why = f"{size} texts of {length} tokens do not fit in memory"
            break
        if speed < 1.05 * most:
            why = f"{most:.3g} texts a second, and {size} at once are no faster ({speed:.3g})"
            break
        best, most = size, speed
        larger = (free[0] - free[1]) * SIZES[1] / SIZES[0]
        if keras.config.backend() == "tensorflow":
            larger *= _backend().in_flight(trainer.embedder)
        if larger > 0.8 * (free[0] - sums):
            why = f"more would not fit in the {free[0] / 2**30:.1f} GiB that are free"
            break
    best = distribution.broadcast_from_chief(best, trainer)
    if keras.config.backend() == "jax":
        best *= distribution.replicas().total  # There it is cut among the devices.
    if verbose and distribution.is_chief(trainer):
        print(f'micro_batch_size="auto" is {best}: {why}.', flush=True)
    return MicroBatches(best)


class StopNotFinite(keras.callbacks.Callback):  # type: ignore[misc]
    """Ends training on JAX, whose step can note what is wrong but not raise."""

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.model.not_finite.raise_if_any(self.model)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        import_module("jax").effects_barrier()
        self.model.not_finite.raise_if_any(self.model)


class NotFinite:
    """Tokens of the first text whose embedding is not finite, as the step has found it."""

    SIGN = "cptk: an embedding is not finite"
    TOO_LONG = "cptk: a text does not fit in micro_batch_tokens"

    def __init__(self) -> None:
        self.text: tuple[str, list[int]] | None = None

    def note(self, side: str, tokens: Any) -> None:
        """A side and a row of tokens, -1 at padding."""
        self.text = self.text or (side, [int(token) for token in tokens if token >= 0])

    def raise_if_any(self, trainer: Any) -> None:
        """The error that names the text."""
        if self.text is None:
            return
        (side, tokens), self.text = self.text, None
        if keras.config.backend() == "jax":
            trainer.jax_state_sync()  # Or the model would lose its weights to the error.
        preprocessor = trainer.embedder.preprocessor
        text: Any = tokens
        if preprocessor is not None:
            text = preprocessor.tokenizer.detokenize(tokens)
        raise ValueError(
            f"The embedding of a {side} is not finite: {text!r}. The step was not taken. Weights "
            "may be broken or the learning rate too high; in float16 a layer may have overflowed: "
            "mixed_bfloat16 has the range of float32."
        )

    @contextlib.contextmanager
    def named(self, trainer: Any) -> Iterator[None]:
        """Around a step on TensorFlow, whose graph can raise but not read a text."""
        try:
            yield
        except Exception as error:
            long = re.search(rf"{self.TOO_LONG}\W+(\d+)", str(error))
            if long is not None:
                raise ValueError(too_long(int(long[1]), trainer.micro_batches.tokens)) from None
            # In a graph the tokens stand in brackets; run eagerly, with commas and without these.
            found = re.search(rf"{self.SIGN}\W+(?:b')?(\w+)\W+?(-?\d[-\d\s,]*)", str(error))
            if found is None:
                raise
            self.note(found[1], map(int, found[2].replace(",", " ").split()))
        self.raise_if_any(trainer)


def _is_out_of_memory(error: Exception) -> bool:
    signs = (
        "resource_exhausted",
        "resourceexhausted",
        "out of memory",
        "oom when",
        "allocate memory",
    )
    said = f"{type(error).__name__}: {error}".lower()
    return isinstance(error, MemoryError) or any(sign in said for sign in signs)


@contextlib.contextmanager
def _memory() -> Iterator[list[float]]:
    """Bytes that are free: before, and, once the block has ended, at least."""
    free = [_backend().free_memory()] * 2
    done = threading.Event()

    def watch() -> None:
        while not done.wait(0.005):
            free[1] = min(free[1], _backend().free_memory())

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield free
    finally:
        done.set()
        thread.join()


def host_memory() -> float:
    """Bytes that programs on this machine can still have."""
    free = float("inf")  # Not Linux: only an allocation that fails is seen.
    with contextlib.suppress(OSError), open("/proc/meminfo") as file:
        free = next(1024.0 * int(line.split()[1]) for line in file if line.startswith("MemAvail"))
    with contextlib.suppress(OSError, ValueError):  # What a container may have, where there is one.
        limit, used = (
            int(Path(f"/sys/fs/cgroup/memory.{n}").read_text()) for n in ("max", "current")
        )
        free = min(free, float(limit - used))
    return free


def _backend() -> Any:
    return import_module(f"{__name__}.{keras.config.backend()}")


def train_step(trainer: Any, *args: Any) -> Any:
    """`trainer.train_step(*args)`, on any backend."""
    for weight in trainer.trainable_weights:
        if keras.backend.standardize_dtype(weight.dtype) in ("bfloat16", "float16"):
            raise ValueError(
                f"Gradients of many micro-batches cannot be added up in {weight.dtype}, the dtype "
                f"of {weight.path}. Use the policy mixed_{weight.dtype}: its weights are float32."
            )
    return _backend().train_step(trainer, *args)


def embed(trainer: Any, x: Any) -> Any:
    """Embeddings of each side of a batch, outside of training."""
    return _backend().embed(trainer, x)


def too_long(longest: int, tokens: int) -> str:
    """What is said of a budget that does not hold a text of the batch."""
    return (
        f"`micro_batch_tokens={tokens}` does not hold one text: the batch's are {longest} tokens "
        f"long, padding included. Use {longest} or more."
    )


def seed_states(embedder: Any) -> list[Any]:
    """The variables from which an embedder draws its dropout."""
    return [seed.state for layer in embedder._flatten_layers() for seed in layer._seed_generators]


def _check_forward_pass(embedder: Any) -> None:
    """Refuse what would differ by micro-batch: state that changes, and losses of activations."""
    layers = list(embedder._flatten_layers())
    if any(getattr(layer, "_remat_mode", None) is not None for layer in layers):
        raise ValueError(
            "The embedder was made in a keras.RematScope, and Keras 3.15 cannot train KerasHub's "
            "decoders that way. Make it outside: micro-batches save more memory."
        )
    suspects = [variable for layer in layers for variable in layer._non_trainable_variables]
    known = ("keras", "keras_hub", "cptk")
    strange = [layer for layer in layers if type(layer).__module__.split(".")[0] not in known]
    if not suspects and not strange and not any(layer.activity_regularizer for layer in layers):
        return
    tokens = {
        "token_ids": np.zeros((2, 2), "int32"),
        "padding_mask": np.ones((2, 2), "bool"),
    }
    with keras.StatelessScope(collect_losses=True) as scope:
        embedder(tokens, training=True)
    changed = [v.path for v in suspects if scope.get_current_value(v) is not None]
    if changed:
        raise ValueError(
            "Micro-batches need an embedder that a forward pass leaves as it is: each text passes "
            f"twice. This one changes {changed[:3]} (of a BatchNormalization, say), by micro-batch "
            "and not by batch. Use LayerNormalization, or train without micro-batches."
        )
    if scope.losses:
        raise ValueError(
            "Micro-batches need an embedder that adds no loss in the forward pass, as an activity "
            f"regularizer does: this one adds {len(scope.losses)}, for each micro-batch and not "
            "for the batch. Regularize weights, or train without micro-batches."
        )
