"""Embedding of many texts in few shapes."""

from typing import Any

import keras
import numpy as np

from cptk.data.batching import bucket_length, pad_tokens

# Batches from which "auto" shows a progress bar.
LONG_WORK = 50


def encode(embedder: Any, texts: Any, role: str | None, batch_size: int, verbose: Any) -> Any:
    """What `DecoderTextEmbedder.encode_text` does; see there."""
    preprocessor = embedder.preprocessor
    if preprocessor is None:
        raise ValueError(
            "This embedder has no preprocessor, so it cannot read text. Give it one: "
            "DecoderTextEmbedder(backbone, DecoderTextEmbedderPreprocessor(tokenizer))."
        )
    check_sequence_length(embedder.backbone, preprocessor.sequence_length)
    if (
        isinstance(batch_size, bool)
        or not isinstance(batch_size, int | np.integer)
        or batch_size < 1
    ):
        raise ValueError(f"`batch_size` should be a positive integer. Received: {batch_size!r}.")
    if isinstance(texts, str):
        texts = [texts]
    rows = preprocessor.tokenize(texts, role)
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
    # Longest first: what does not fit in memory fails at once, not at the end.
    batches = [order[i : i + batch_size] for i in range(0, len(order), batch_size)][::-1]
    show = len(batches) >= LONG_WORK if verbose == "auto" else bool(verbose)
    progress = keras.utils.Progbar(len(rows), unit_name="text") if show else None
    _forget_stale_function(embedder)
    vectors: Any = None
    for batch in batches:
        length = bucket_length(max(len(rows[i]) for i in batch), preprocessor.sequence_length)
        filler = [rows[batch[0]]] * (_round_up(len(batch), batch_size) - len(batch))
        features = pad_tokens([rows[i] for i in batch] + filler, length)
        out = np.asarray(keras.Model.predict_on_batch(embedder, features), dtype=np.float32)
        if vectors is None:
            vectors = np.empty((len(rows), out.shape[1]), dtype=np.float32)
        vectors[batch] = out[: len(batch)]
        if progress is not None:
            progress.add(len(batch))
    return vectors


def _forget_stale_function(embedder: Any) -> None:
    """Have the forward pass compiled again if layers gained weights since, as by `enable_lora`."""
    variables = tuple(map(id, embedder.variables))
    if getattr(embedder, "_encoded_variables", variables) != variables:
        embedder.predict_function = None
    embedder._encoded_variables = variables


def _round_up(rows: int, batch_size: int) -> int:
    """Rows of a batch, rounded up to a power of two, so that few batch shapes are compiled."""
    return min(1 << (rows - 1).bit_length(), batch_size)


def check_sequence_length(backbone: Any, sequence_length: int) -> None:
    """Raise `ValueError` where a backbone's position embedding cannot hold the sequences."""
    longest = getattr(backbone, "max_sequence_length", None)
    if longest is not None and sequence_length > longest:
        raise ValueError(
            f"sequence_length={sequence_length} is more than this {type(backbone).__name__} has "
            f"positions for: {longest}. Use sequence_length={longest} or less."
        )
