"""Which text is named when an embedding is not finite."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Iterator
from importlib import import_module
from typing import Protocol

import keras

from cptk.training.gradient_cache.options import MicroBatches, too_long
from cptk.types import Logs, Model


class Named(Protocol):
    """The trainer, as far as an error reads it."""

    embedder: Model
    micro_batches: MicroBatches

    def jax_state_sync(self) -> None:
        """Keras's, on JAX."""


class StopNotFinite(keras.callbacks.Callback):  # type: ignore[misc]
    """Ends training on JAX, whose step can note what is wrong but not raise."""

    def on_train_batch_end(self, batch: int, logs: Logs = None) -> None:
        self.model.not_finite.raise_if_any(self.model)

    def on_epoch_end(self, epoch: int, logs: Logs = None) -> None:
        import_module("jax").effects_barrier()
        self.model.not_finite.raise_if_any(self.model)


class NotFinite:
    """Tokens of the first text whose embedding is not finite, as the step has found it."""

    SIGN = "cptk: an embedding is not finite"
    TOO_LONG = "cptk: a text does not fit in micro_batch_tokens"

    def __init__(self) -> None:
        self.text: tuple[str, list[int]] | None = None

    def note(self, side: str, tokens: Iterable[int]) -> None:
        """A side and a row of tokens, -1 at padding."""
        self.text = self.text or (side, [int(token) for token in tokens if token >= 0])

    def raise_if_any(self, trainer: Named) -> None:
        """The error that names the text."""
        if self.text is None:
            return
        (side, tokens), self.text = self.text, None
        if keras.config.backend() == "jax":
            trainer.jax_state_sync()  # Or the model would lose its weights to the error.
        preprocessor = trainer.embedder.preprocessor
        text = tokens if preprocessor is None else preprocessor.tokenizer.detokenize(tokens)
        raise ValueError(
            f"The embedding of a {side} is not finite: {text!r}. The step was not taken. Weights "
            "may be broken or the learning rate too high; in float16 a layer may have overflowed: "
            "mixed_bfloat16 has the range of float32."
        )

    @contextlib.contextmanager
    def named(self, trainer: Named) -> Iterator[None]:
        """Around a step on TensorFlow, whose graph can raise but not read a text."""
        try:
            yield
        except Exception as error:
            long = re.search(rf"{self.TOO_LONG}\W+(\d+)", str(error))
            if long is not None:
                raise ValueError(
                    too_long(int(long[1]), trainer.micro_batches.tokens or 0)
                ) from None
            # In a graph the tokens stand in brackets; run eagerly, with commas and without these.
            found = re.search(rf"{self.SIGN}\W+(?:b')?(\w+)\W+?(-?\d[-\d\s,]*)", str(error))
            if found is None:
                raise
            self.note(found[1], map(int, found[2].replace(",", " ").split()))
        self.raise_if_any(trainer)
