"""Embedding of many texts in few shapes."""

from __future__ import annotations

import contextlib
import signal
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from types import FrameType

import numpy as np

from cptk import checks
from cptk.compilation_cache import keep_compiled_programs
from cptk.data.batching import bucket_length, pad_tokens
from cptk.models.forward import compiled_forward
from cptk.models.keras_hub_embedders import text_reader
from cptk.progress import progress
from cptk.types import Embedder, Layer, Vectors

#: Number of batches from which "auto" shows a progress bar.
_MANY_BATCHES = 50


def encode(
    embedder: Embedder,
    texts: str | Iterable[str],
    role: str | None,
    batch_size: int,
    verbose: str | int,
    truncate_dim: int | None = None,
) -> Vectors:
    """What `TextEmbedder.encode_text` does; see there."""
    if truncate_dim is not None:
        truncate_dim = _check_dim(truncate_dim, int(embedder.output.shape[-1]))
        _warn_if_untrained(truncate_dim, getattr(embedder, "trained_dims", ()))
    with _interruptible() as raise_if_interrupted:
        embed = compiled_forward(embedder)
        preprocessor = text_reader(embedder)
        if preprocessor is None:
            raise ValueError(
                "This embedder has no preprocessor, so it cannot read text. Give it one: "
                "TextEmbedder(backbone, TextEmbedderPreprocessor(tokenizer))."
            )
        check_sequence_length(embedder.backbone, preprocessor.sequence_length)
        keep_compiled_programs()
        batch_size = checks.integer("batch_size", batch_size, 1)
        checked = checks.texts([texts] if isinstance(texts, str) else texts)
        rows = preprocessor.tokenize(checked, role)
        order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
        # Longest first: what does not fit in memory fails at once, not at the end.
        batches = [order[i : i + batch_size] for i in range(0, len(order), batch_size)][::-1]
        show = len(batches) >= _MANY_BATCHES if verbose == "auto" else bool(verbose)
        bar = progress(len(rows), "text") if show else None
        vectors: Vectors | None = None
        for batch in batches:
            length = bucket_length(max(len(rows[i]) for i in batch), preprocessor.sequence_length)
            # Rows to fill up the batch: copies of its first text, whose vectors are dropped.
            filler = [rows[batch[0]]] * (_round_up(len(batch), batch_size) - len(batch))
            features = pad_tokens([rows[i] for i in batch] + filler, length)
            embedded = np.asarray(embed(features), dtype=np.float32)[: len(batch)]
            _check_finite(embedded, batch, checked)
            if truncate_dim is not None:
                embedded = _cut(embedded, truncate_dim, bool(getattr(embedder, "normalize", True)))
            if vectors is None:
                vectors = np.empty((len(rows), embedded.shape[1]), dtype=np.float32)
            vectors[batch] = embedded
            if bar is not None:
                bar.add(len(batch))
            raise_if_interrupted()
    assert vectors is not None  # `checks.texts` lets no empty list through
    return vectors


def _check_dim(dim: object, size: int) -> int:
    if checks.integer("truncate_dim", dim, 1) > size:
        raise ValueError(
            f"`truncate_dim` should be at most the size of the embeddings, {size}. Received: {dim}."
        )
    return int(dim)  # type: ignore[call-overload, no-any-return]


def _warn_if_untrained(dim: int, trained_dims: Sequence[int]) -> None:
    """Warn of a size outside of those trained; those between come along (Kusupati et al. 2022)."""
    if trained_dims and not min(trained_dims) <= dim <= max(trained_dims):
        warnings.warn(
            f"truncate_dim={dim} is outside of the sizes that this embedder was trained for, "
            f"{checks.shown(list(trained_dims))}. Take one from {min(trained_dims)} to "
            f"{max(trained_dims)}, or train with {dim} among the `dims` of cptk.losses.Matryoshka.",
            stacklevel=4,
        )


def _cut(vectors: Vectors, dim: int, normalize: bool) -> Vectors:
    """The first numbers of each vector; of unit length again where it had it."""
    vectors = vectors[:, :dim]
    if not normalize:
        return vectors
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.where(lengths == 0, 1.0, lengths), np.float32)


def _check_finite(vectors: Vectors, batch: list[int], texts: list[str]) -> None:
    """Raise `ValueError` where a vector of a batch is not finite, and name the first text."""
    bad = ~np.isfinite(vectors).all(axis=1)
    if bad.any():
        index = min(np.array(batch)[bad].tolist())
        raise ValueError(
            f"The embedding of text {index}, {checks.shown(texts[index])}, is not finite. Weights "
            "may be broken, by a damaged file or by training at too high a learning rate: load "
            "them again. In float16 a layer may overflow: load the backbone in bfloat16 or float32."
        )


@contextlib.contextmanager
def _interruptible() -> Iterator[Callable[[], None]]:
    """Yields a function that raises `KeyboardInterrupt` if Ctrl-C was pressed and got lost.

    Python raises the interrupt in whatever code of the main thread runs next. Where JAX is
    installed, that is often JAX's callback of the garbage collector after a long call into
    TensorFlow. Errors in such a callback are printed and dropped, and the work would go on.
    """
    pressed = threading.Event()
    if (
        threading.current_thread() is not threading.main_thread()
        or signal.getsignal(signal.SIGINT) is not signal.default_int_handler
    ):
        yield lambda: None
        return

    def remember_and_raise(number: int, frame: FrameType | None) -> None:
        pressed.set()
        signal.default_int_handler(number, frame)

    def raise_if_interrupted() -> None:
        if pressed.is_set():
            raise KeyboardInterrupt

    signal.signal(signal.SIGINT, remember_and_raise)
    try:
        yield raise_if_interrupted
        raise_if_interrupted()
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _round_up(rows: int, batch_size: int) -> int:
    """Rows of a batch, rounded up to a power of two, so that few batch shapes are compiled."""
    return min(1 << (rows - 1).bit_length(), batch_size)


def check_sequence_length(backbone: Layer, sequence_length: int) -> None:
    """Raise `ValueError` where a backbone's position embedding cannot hold the sequences."""
    longest = getattr(backbone, "max_sequence_length", None)
    if longest is not None and sequence_length > longest:
        raise ValueError(
            f"sequence_length={sequence_length} is more than this {type(backbone).__name__} has "
            f"positions for: {longest}. Use sequence_length={longest} or less."
        )
