"""All that a trained model is used by, beside `fit`: `doors` of `parity_script.py`."""

import sys
from pathlib import Path
from typing import Any

import evaluation_toys
import keras
import numpy as np
import parity_script
import training_toys

import cptk
from cptk import distribution

PATH = Path(sys.argv[2])
#: Of one length, so that little is compiled; batches of 4, 4 and an uneven 2.
TEXTS = parity_script.TEXTS = training_toys.PAIRS
BATCH = parity_script.BATCH = training_toys.BATCH
parity_script.PAIRS = 10


def pairs(count: int) -> dict[str, list[str]]:
    return {side: texts[:count] for side, texts in TEXTS.items()}


def score() -> Any:
    """A task whose score moves with the weights."""

    def run(embed: Any, split: str | None) -> Any:
        vectors = embed(TEXTS["query"][:5], role="query")
        scores = {"first": np.abs(vectors[:, 0]).tolist()}
        return evaluation_toys.result(scores, "size", split=split or "test")

    return cptk.evaluation.Task("score", run)


def find(scope: Any) -> dict[str, Any]:
    """What each door gives, under a strategy's scope; the last thing that a process does."""
    keras.utils.set_random_seed(5)
    with scope():
        model = cptk.ContrastiveTrainer(training_toys.embedder(), seed=3)
        model.compile(keras.optimizers.SGD(0.05, momentum=0.5))
    chief = distribution.is_chief(model)
    weight = np.linspace(0.5, 2, 3)
    found: dict[str, Any] = {}

    def note(name: str, values: Any) -> None:
        """A number, an array or a mapping of them."""
        values = values if isinstance(values, dict) else {"": values}
        found.update({f"{name}/{k}": np.asarray(v, "float32") for k, v in values.items()})
        print(name, flush=True)

    note("encode_text", model.embedder.encode_text(TEXTS["query"], role="query", batch_size=BATCH))
    note("predict", model.predict(TEXTS, batch_size=BATCH, verbose=0))
    note("predict of PyDataset", model.predict(parity_script.as_data("PyDataset"), verbose=0))
    note("predict of tf.data", model.predict(parity_script.as_data("tf.data"), verbose=0))
    note("predict steps", model.predict(parity_script.as_data("PyDataset"), steps=2, verbose=0))
    note("predict_on_batch", model.predict_on_batch(pairs(3)))
    note("test_on_batch", model.test_on_batch(pairs(3), sample_weight=weight, return_dict=True))
    note("evaluate", model.evaluate(TEXTS, batch_size=BATCH, verbose=0, return_dict=True))
    for _ in range(2):
        logs = model.train_on_batch(pairs(3), sample_weight=weight, return_dict=True)
    note("train_on_batch", logs)
    note("encode_text after a step", model.embedder.encode_text(TEXTS["query"][:3], role="query"))
    callback = cptk.evaluation.EvaluationCallback(
        score(), every_n_steps=2, at_start=True, file=PATH.parent / f"{PATH.stem}.csv"
    )
    callbacks = [callback, cptk.evaluation.EvaluationCallback(score())]
    history = model.fit(TEXTS, batch_size=BATCH, epochs=2, verbose=0, callbacks=callbacks).history
    note("fit", {name: history[name] for name in ("loss", "query_accuracy")})
    assert [row["step"] for row in callback.history] == ([2, 4, 6, 8] if chief else [])
    assert not any(row["error"] for row in callback.history), callback.history
    note("callback", [row["score"] for row in callback.history])
    if chief:
        note("callback in logs", history["score"])
    note("evaluate after fit", model.evaluate(TEXTS, batch_size=BATCH, verbose=0, return_dict=True))
    vectors = model.embedder.encode_text(TEXTS["document"], role="document")
    note("encode_text after fit", vectors)
    if chief:
        folder = PATH.parent / f"{PATH.stem}_preset"
        model.embedder.save_to_preset(str(folder))
        if keras.config.backend() == "jax":
            keras.distribution.set_distribution(None)
        loaded = cptk.models.GPT2TextEmbedder.from_preset(str(folder))
        again = loaded.encode_text(TEXTS["document"], role="document")
        np.testing.assert_allclose(again, vectors, rtol=0, atol=1e-5)
    return found
