"""Embedding of many texts in few shapes."""

from importlib import import_module
from typing import Any

import keras
import numpy as np

from cptk.compilation_cache import keep_compiled_programs
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
    keep_compiled_programs()
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
    vectors: Any = None
    for batch in batches:
        length = bucket_length(max(len(rows[i]) for i in batch), preprocessor.sequence_length)
        filler = [rows[batch[0]]] * (_round_up(len(batch), batch_size) - len(batch))
        features = pad_tokens([rows[i] for i in batch] + filler, length)
        out = np.asarray(forward(embedder, features), dtype=np.float32)
        if vectors is None:
            vectors = np.empty((len(rows), out.shape[1]), dtype=np.float32)
        vectors[batch] = out[: len(batch)]
        if progress is not None:
            progress.add(len(batch))
    return vectors


def forward(embedder: Any, features: Any) -> Any:
    """Embeddings of a batch of arrays, on this process alone whatever the distribution.

    Under a strategy, `predict` of Keras embeds the batch once a replica on TensorFlow, and waits
    for all processes; on JAX it fails with several.
    """
    variables = tuple(map(id, embedder.variables))
    if getattr(embedder, "_encoded_variables", variables) != variables:
        # Layers have gained weights since, as by `enable_lora`: compiled again.
        embedder.predict_function = embedder._alone = None
    embedder._encoded_variables = variables
    backend = keras.config.backend()
    if backend == "tensorflow" and embedder.distribute_strategy.num_replicas_in_sync > 1:
        if getattr(embedder, "_alone", None) is None:
            embedder._alone = _tf_alone(embedder)
        return embedder._alone(features)
    if backend == "jax" and keras.distribution.distribution() is not None:
        if getattr(embedder, "_alone", None) is None:
            embedder._alone = _jax_alone(embedder)
        return embedder._alone(features)
    return keras.Model.predict_on_batch(embedder, features)


def _tf_alone(embedder: Any) -> Any:
    import tensorflow as tf

    specs = {
        "token_ids": tf.TensorSpec((None, None), tf.int32),
        "padding_mask": tf.TensorSpec((None, None), tf.bool),
    }
    function = tf.function(lambda x: embedder(x, training=False), input_signature=[specs])
    return lambda x: function({k: tf.cast(x[k], specs[k].dtype) for k in specs}).numpy()


def _jax_alone(embedder: Any) -> Any:
    jax = import_module("jax")
    function = jax.jit(lambda *state, x: embedder.stateless_call(*state, x, training=False)[0])

    def call(features: Any) -> Any:
        current = keras.distribution.distribution()
        kinds = (embedder.trainable_variables, embedder.non_trainable_variables)
        state = [[variable.value for variable in kind] for kind in kinds]
        if jax.process_count() == 1:
            layout, mesh = current.get_data_layout((1, 1)), current.device_mesh
            parts = mesh.shape[list(mesh.axis_names).index(current.batch_dim_name)]
            if len(features["token_ids"]) % parts == 0:
                features = {
                    k: jax.device_put(v, layout.backend_layout) for k, v in features.items()
                }
            return np.asarray(function(*state, x=features))
        if not all(value.is_fully_replicated for kind in state for value in kind):
            raise ValueError(
                "The weights are divided between processes, so that no process can embed alone. "
                "Save the embedder and load it without a distribution."
            )
        state = [[value.addressable_data(0) for value in kind] for kind in state]
        keras.distribution.set_distribution(None)
        try:
            return np.asarray(function(*state, x=features))
        finally:
            keras.distribution.set_distribution(current)

    return call


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
