"""An embedder as a TensorFlow function, on TensorFlow or by a process that runs on it.

ONNX, LiteRT and SavedModel are all made of TensorFlow graphs. Where Keras runs on another backend,
the embedder is saved as a preset, and a process of its own loads it on TensorFlow and converts it.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import json
import logging
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import keras
import keras_hub
import numpy as np

from cptk import checks, optional
from cptk.export.samples import Sample
from cptk.models.keras_hub_embedders import embed
from cptk.types import Config, Model, Tensor, Vectors

OUTPUT = "embeddings"
#: Seconds that a process of its own may take.
_LONGEST = 3600

Build = Callable[[Model, Path, Sample, Config], Config]
"""`(embedder, folder, sample, options) → what was measured`, on TensorFlow."""


def on_tensorflow(
    target: str, embedder: Model, folder: Path, given: Sample, **options: Any
) -> Config:
    """Run `build` of `cptk.export.{target}` on TensorFlow, in this process if it runs on that.

    Args:
        target: A module of this package.
        embedder: The embedder.
        folder: Where files are written.
        given: Texts, tokens, and the embedder's own vectors of them.
        **options: For `build`; JSON values.

    Returns:
        What `build` returns.

    Raises:
        ImportError: TensorFlow is not installed.
        RuntimeError: The process failed.
    """
    if importlib.util.find_spec("tensorflow") is None:  # not imported beside another backend
        optional.load("tensorflow", "This export", "tensorflow 2.21 or newer", "onnx")
    if keras.config.backend() == "tensorflow":
        with _warnings_kept():
            return _build(target)(embedder, folder, given, options)
    with tempfile.TemporaryDirectory(prefix="cptk-export-") as name:
        work = Path(name)
        embedder.save_to_preset(str(work / "preset"))
        np.savez(work / "sample.npz", **given.tokens, vectors=given.vectors)
        job = {"target": target, "folder": str(folder.resolve()), "texts": given.texts}
        (work / "job.json").write_text(json.dumps({**job, "options": options}), encoding="utf-8")
        environment = {
            **os.environ,
            "KERAS_BACKEND": "tensorflow",
            "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path),
            "CUDA_VISIBLE_DEVICES": "-1",
            "TF_CPP_MIN_LOG_LEVEL": "3",
        }
        command = [sys.executable, "-m", "cptk.export.graph", str(work)]
        run = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=_LONGEST
        )
        if run.returncode != 0:
            lines = run.stderr.strip().splitlines() or ["no message"]
            if lines[-1].startswith("ValueError: "):
                raise ValueError(lines[-1].removeprefix("ValueError: "))
            raise RuntimeError(
                f"The export ran on TensorFlow in a process of its own, which failed: "
                f"{checks.shown(lines[-1], 400)}. Load the embedder under KERAS_BACKEND=tensorflow "
                "and export it there to see more."
            )
        measured: Config = json.loads((work / "measured.json").read_text(encoding="utf-8"))
        return measured


def _build(target: str) -> Build:
    build: Build = importlib.import_module(f"cptk.export.{target}").build
    return build


@contextlib.contextmanager
def _warnings_kept() -> Iterator[None]:
    """Hide TensorFlow's warnings: of tables that it cannot list, of names that it mends."""
    import tensorflow as tf

    logger = tf.get_logger()
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


def _main(work: Path) -> None:
    """What the process does: load the preset, build, write down what was measured."""
    job = json.loads((work / "job.json").read_text(encoding="utf-8"))
    importlib.import_module("cptk.models")
    embedder = keras_hub.models.TextEmbedder.from_preset(str(work / "preset"))
    with np.load(work / "sample.npz") as arrays:
        tokens: Any = {name: arrays[name] for name in ("token_ids", "padding_mask")}
        given = Sample(tuple(job["texts"]), tokens, arrays["vectors"])
    measured = _build(job["target"])(embedder, Path(job["folder"]), given, job["options"])
    (work / "measured.json").write_text(json.dumps(measured), encoding="utf-8")


def token_function(embedder: Model) -> Tensor:
    """A `tf.function` from `token_ids` and `padding_mask` to vectors, of any batch and length."""
    import tensorflow as tf

    signature = [
        tf.TensorSpec((None, None), tf.int32, name="token_ids"),
        tf.TensorSpec((None, None), tf.bool, name="padding_mask"),
    ]

    @tf.function(input_signature=signature, autograph=False)  # type: ignore[untyped-decorator]
    def serve(token_ids: Tensor, padding_mask: Tensor) -> Tensor:
        tokens = {"token_ids": token_ids, "padding_mask": padding_mask}
        return tf.identity(tf.cast(embed(embedder, tokens, training=False), tf.float32), OUTPUT)

    return serve


def quantized_copy(embedder: Model) -> Model:
    """An embedder of its own with int8 weights, made by Keras; the given one stays as it is."""
    with tempfile.TemporaryDirectory(prefix="cptk-export-") as name:
        preset = os.path.join(name, "preset")
        embedder.save_to_preset(preset)
        copy = keras_hub.models.TextEmbedder.from_preset(preset)
    if hasattr(copy, "takes_any_mask"):
        copy.quantize("int8")
    else:
        copy.backbone.quantize("int8")
    return copy


def in_batches(run: Callable[[Any, Any], Vectors], given: Sample, size: int = 4) -> Vectors:
    """Vectors of a sample, a few rows at a time, each batch cut to its longest row."""
    ids, mask = np.asarray(given.tokens["token_ids"]), np.asarray(given.tokens["padding_mask"])
    rows = []
    for start in range(0, len(ids), size):
        part = mask[start : start + size]
        length = int(part.sum(axis=1).max())
        rows.append(np.asarray(run(ids[start : start + size, :length], part[:, :length])))
    return np.concatenate(rows).astype(np.float32)


if __name__ == "__main__":
    _main(Path(sys.argv[1]))
