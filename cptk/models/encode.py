"""Embedding of many texts: `encode`, in memory or into a file that grows."""

from __future__ import annotations

import sys
import warnings
from collections import deque
from collections.abc import Iterable, Sequence
from contextlib import closing
from typing import Any, Literal, TypeAlias

import keras
import keras_hub
import numpy as np
from numpy.typing import NDArray

from cptk import checks, vector_writing
from cptk.compilation_cache import keep_compiled_programs
from cptk.data.token_store import TokenStore
from cptk.encoders import FASTER, trained_embedder
from cptk.fingerprint import fingerprint
from cptk.models.encode_pipeline import Pipeline
from cptk.models.encode_plan import Plan
from cptk.models.encode_texts import Source
from cptk.models.forward import (
    compiled_forward,
    devices_of_a_batch,
    for_threads,
    on_cpu,
    takes_any_shape,
)
from cptk.models.interrupts import interruptible
from cptk.models.keras_hub_embedders import text_reader
from cptk.progress import Called, Progress, Shown
from cptk.progress import progress as progress_bar
from cptk.quantization import DTYPES, Calibration, VectorDType, calibrate, quantize
from cptk.types import Embedder, Layer, Model, Path

Codes: TypeAlias = NDArray[Any]
"""Vectors as `cptk.quantization` makes them."""

BLOCK = 4096
"""Texts whose vectors are written to a file at once. Batches are cut within them, so that a call
that goes on cuts the same ones."""
_TOKENS_OF_A_BATCH = 768
_TOKENS_ELSEWHERE = 32_768
"""On anything but a processor; of several devices each has as many."""
_MANY_TEXTS = 1600
"""From how many texts on "auto" shows progress."""
_IN_FLIGHT = {"tensorflow": 2, "jax": 1, "torch": 1}


def encode(
    embedder: Embedder,
    texts: str | Iterable[str] | TokenStore,
    role: str | None = None,
    batch_size: int | None = None,
    verbose: Literal["auto"] | int = "auto",
    truncate_dim: int | None = None,
    *,
    batch_tokens: int | None = None,
    dtype: VectorDType = "float32",
    output: Path | None = None,
    progress: Shown = None,
    column: str | None = None,
    calibration: Calibration | None = None,
) -> Codes:
    """Embed texts with any embedder, in memory or into a file.

    Texts are tokenised on a thread of their own while the device computes, sorted by length, and
    embedded in batches of a bounded number of tokens that need little padding. Equal texts are
    embedded once. The result does not depend, but for rounding, on the order of the texts nor on
    the batches. Several threads may call it at once, and beside a `ContrastiveTrainer.fit`, where
    vectors are those of the weights as they stand.

    With `output` vectors are written block by block, of 4,096 texts each, and memory stays flat
    however many texts a generator or a store yields. Killed and called again with the same
    arguments and texts, it goes on, and the file ends with the same bytes. Called again after
    that, it compares the texts, embeds none, and returns the vectors. `cptk.vectors.StoredVectors`
    opens the file with all that is known of it.

    Args:
        embedder: An embedder of cptk, a `keras_hub.models.TextEmbedder` as it is, or the
            `ContrastiveTrainer` of one.
        texts: One string, or n of them: a list, tuple, array, a column of a frame or table, or a
            generator. Or a `TokenStore`, whose ids are embedded as they are stored.
        role: Name of the role. Defaults to `"document"`, or to the only role there is; of a store
            the one of its column.
        batch_size: Number of texts in a batch; by default as many as `batch_tokens` allows.
        verbose: `1` shows progress, `0` none, `"auto"` only on long work. Progress is a bar in a
            terminal or notebook, and a line now and then in a file or pipe.
        truncate_dim: How many numbers of each vector to keep, the first ones, which are brought
            to unit length again. For embedders that were trained with `cptk.losses.Matryoshka`; all
            by default. Below the smallest or above the largest of `trained_dims` there is a
            warning; between them none is needed.
        batch_tokens: Tokens in a batch, padding included. Lower it where memory does not suffice.
            Defaults to 768 on a processor, unless a `batch_size` is given.
        dtype: What a vector is kept in: `"float32"`, `"float16"`, `"int8"` or `"binary"`; see
            `cptk.quantization`. int8 needs a calibration: of the first block where there is an
            `output`, which keeps it; else the one that is given.
        output: An `.npy` file for the vectors. Beside it lies a `.json` of what they are of.
        progress: In place of `verbose`: True, False, "auto", or a function that is called as
            `progress(done, total)` after each batch; total is None where it is not known.
        column: Which column of a store (`"query"` or `"document"`), frame or table to embed.
        calibration: For int8: what its steps stand for, from `cptk.quantization.calibrate`.

    Returns:
        An array of shape `(n, dim)`, or `(n, truncate_dim)`, in the order of `texts`; n is 1 for
        one string. float32, unless `dtype` says otherwise; of bits `(n, ⌈dim / 8⌉)` uint8. Rows
        have unit length unless the embedder has `normalize=False`. With `output` it is a read-only
        memory map of the file.

    Raises:
        ValueError: No texts, an empty text or one of white space, an unknown role, no
            preprocessor, a vector that is not finite, a `truncate_dim` above the embedder's size;
            an `output` that holds other vectors, or is damaged, or that another call writes.
        TypeError: Something that is not a string; no embedder; int8 without a calibration.
        OSError: The disk is full; what was written is kept.
        RuntimeError: In a process that was forked after an embedder had been made.

    Example:

    ```pycon
    >>> import cptk
    >>> texts = ["how do I open a file?", "sort", "sort"]
    >>> cptk.encode(embedder, texts, role="query").shape
    (3, 16)
    >>> vectors = cptk.encode(embedder, iter(texts), output="vectors.npy", dtype="float16")
    >>> type(vectors).__name__, vectors.dtype, vectors.shape
    ('memmap', dtype('float16'), (3, 16))

    ```

    References:
        Kusupati et al. 2022, Matryoshka Representation Learning, arXiv:2205.13147, where sizes
        between the trained ones do as well.
    """
    model: Model = trained_embedder(embedder)
    _check_embedder(model)
    if truncate_dim is not None:
        truncate_dim = _check_dim(truncate_dim, int(model.output.shape[-1]))
        _warn_if_untrained(truncate_dim, getattr(model, "trained_dims", ()))
    checks.choice("dtype", dtype, DTYPES)
    if dtype == "int8" and output is None and calibration is None:
        raise TypeError(
            'dtype="int8" in memory needs a `calibration`, which says what the numbers stand for: '
            "cptk.quantization.calibrate(vectors) of some float32 vectors of this embedder. With "
            "`output` one is made and kept."
        )
    if calibration is not None:
        if dtype != "int8":
            raise ValueError(f'`calibration` is for dtype="int8". Received with it: {dtype!r}.')
        size = truncate_dim or int(model.output.shape[-1])
        quantize(np.zeros((1, size)), dtype, calibration)  # refuses one of another size
    with interruptible() as raise_if_interrupted:
        reader = text_reader(model)
        assert reader is not None
        check_sequence_length(model.backbone, reader.sequence_length)
        source = Source(texts, reader, role, column)
        plan = _plan(model, reader.sequence_length, batch_size, batch_tokens)
        bar = _bar(verbose if progress is None else progress, source.total)
        source.check()
        keep_compiled_programs()

        def done(count: int) -> None:
            if bar is not None:
                bar.add(count)
            raise_if_interrupted()

        pipeline = Pipeline(
            reader,
            source.role,
            compiled_forward(model),
            plan,
            truncate_dim,
            bool(getattr(model, "normalize", True)),
            _in_flight(model),
            done,
            for_threads(),
        )
        if output is None:
            (found,) = pipeline.run(source.blocks(None))
            return quantize(found[1], dtype, calibration)
        settings = {
            "fingerprint": fingerprint(model),
            "role": source.role,
            "dtype": dtype,
            "dim": truncate_dim or int(model.output.shape[-1]),
            "truncate_dim": truncate_dim,
            "block": BLOCK,
        }
        with vector_writing.writing(output, settings) as writer:
            _write(writer, pipeline, source, calibration)
            return writer.read()


def _write(
    writer: vector_writing.VectorWriter,
    pipeline: Pipeline,
    source: Source,
    calibration: Calibration | None,
) -> None:
    """Embed what is not in the file yet; all texts are compared with those that are."""
    int8 = writer.form.dtype == "int8"
    if source.total is not None and not writer.is_complete:
        writer.check_room(source.total)
    if int8 and calibration is not None:
        writer.take(calibration)
    hashes: deque[str] = deque()
    blocks = writer.after_those_written(source.blocks(BLOCK), hashes, pipeline.step)
    with closing(pipeline.run(blocks)) as found:  # its threads end with it, whatever happens
        for _, vectors in found:
            if int8 and writer.calibration is None:
                writer.calibration = calibrate(vectors)
            known = writer.calibration
            writer.add(quantize(vectors, writer.form.dtype, known), hashes.popleft())
    if not writer.is_complete:
        writer.finish()


def _check_embedder(model: Model) -> None:
    if not isinstance(model, keras_hub.models.TextEmbedder):
        raise TypeError(
            "`embedder` should be an embedder of cptk or KerasHub, or a ContrastiveTrainer. "
            f"Received: {type(model).__name__}. For another encoder, cptk.evaluation.embed gives "
            "vectors."
        )
    if getattr(model, "preprocessor", None) is None:
        raise ValueError(
            "This embedder has no preprocessor, so it cannot read text. Give it one: "
            "TextEmbedder(backbone, TextEmbedderPreprocessor(tokenizer))."
        )


def _plan(model: Model, longest: int, batch_size: object, batch_tokens: object) -> Plan:
    """How batches are cut."""
    rows = None if batch_size is None else checks.integer("batch_size", batch_size, 1)
    if batch_tokens is not None:
        tokens: int | None = checks.integer("batch_tokens", batch_tokens, 1)
    elif rows is None:
        each = _TOKENS_OF_A_BATCH if on_cpu() else _TOKENS_ELSEWHERE
        tokens = each * devices_of_a_batch(model)
    else:
        tokens = None
    return Plan(longest, tokens, rows, takes_any_shape(model))


def _in_flight(model: Model) -> int:
    """How many batches are embedded at the same time."""
    alone = on_cpu() and devices_of_a_batch(model) == 1
    return _IN_FLIGHT[keras.config.backend()] if alone else 1


def _bar(shown: Shown | int, total: int | None) -> Progress | None:
    """What is told of the progress; None where nothing is shown."""
    if callable(shown):
        return Called(shown, total)
    if isinstance(shown, str):
        checks.choice("progress", shown, ["auto"])
        return progress_bar(total, "text") if total is None or total >= _MANY_TEXTS else None
    return progress_bar(total, "text") if shown else None


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
            stacklevel=_level_of_caller(),
        )


def _level_of_caller() -> int:
    """The `stacklevel` of a warning about what the first function outside of cptk has passed."""
    frame, level = sys._getframe(1), 1
    while frame.f_back is not None and str(frame.f_globals.get("__name__")).startswith("cptk."):
        frame, level = frame.f_back, level + 1
    return level


def check_sequence_length(backbone: Layer, sequence_length: int) -> None:
    """Raise `ValueError` where a backbone's position embedding cannot hold the sequences."""
    longest = getattr(backbone, "max_sequence_length", None)
    if longest is not None and sequence_length > longest:
        raise ValueError(
            f"sequence_length={sequence_length} is more than this {type(backbone).__name__} has "
            f"positions for: {longest}. Use sequence_length={longest} or less."
        )


FASTER["keras_hub"] = encode
