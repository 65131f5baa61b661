"""Keras's own methods of an embedder: texts are checked, and a changed model compiled anew."""

from __future__ import annotations

import functools
import operator
import threading
from collections.abc import Mapping
from typing import TypeGuard

import keras
import keras_hub

from cptk import checks
from cptk.models.forward import check_not_forked, forward, kept, predict_on_jax, signature
from cptk.types import Results, StepFunction, TensorLike, TokenBatch, Vectors


class CheckedTextEmbedder(keras_hub.models.TextEmbedder):  # type: ignore[misc]
    """A KerasHub `TextEmbedder` that checks the texts given to `fit`, `evaluate` and `predict`.

    `predict` and `predict_on_batch` may be called from any thread. A function that Keras has
    compiled is made anew where the model has changed since.
    """

    takes_any_mask = True
    """Padding may stand anywhere, and a row may have no token at all."""

    # === Texts are checked ===

    def fit(self, x: object = None, *args: object, **kwargs: object) -> keras.callbacks.History:
        return super().fit(self._checked(x), *args, **kwargs)

    def evaluate(self, x: object = None, *args: object, **kwargs: object) -> Results:
        logs: Results = super().evaluate(self._checked(x), *args, **kwargs)
        return logs

    def predict(self, x: object = None, *args: object, **kwargs: object) -> Vectors:
        check_not_forked()
        # On JAX Keras keeps the state of a run on the model: one run at a time.
        with self.__dict__.setdefault("_one_run", threading.RLock()):
            vectors: Vectors = super().predict(self._checked(x), *args, **kwargs)
        return vectors

    def train_on_batch(self, x: object, *args: object, **kwargs: object) -> Results:
        logs: Results = super().train_on_batch(self._checked(x), *args, **kwargs)
        return logs

    def test_on_batch(self, x: object, *args: object, **kwargs: object) -> Results:
        logs: Results = super().test_on_batch(self._checked(x), *args, **kwargs)
        return logs

    def predict_on_batch(self, x: object) -> Vectors:
        batch = self.preprocess_samples(self._checked(x))
        return forward(self, keras.utils.unpack_x_y_sample_weight(batch)[0])

    def _checked(self, x: object) -> object:
        """Texts as a list of strings; tokens, tensors and datasets as they are."""
        library = type(x).__module__.split(".")[0]
        if self.preprocessor is None or x is None or _is_tokens(x):
            return x
        if library in ("tensorflow", "grain") or isinstance(x, keras.utils.PyDataset):
            return x
        return checks.texts(x)

    def preprocess_samples(
        self, x: object, y: TensorLike | None = None, sample_weight: TensorLike | None = None
    ) -> object:
        if _is_tokens(x):
            return keras.utils.pack_x_y_sample_weight(x, y, sample_weight)
        return super().preprocess_samples(x, y, sample_weight)

    # === What is compiled follows the model ===

    def make_train_function(self, force: bool = False) -> StepFunction:
        built_for = getattr(self.optimizer, "_trainable_variables", None)
        if getattr(self.optimizer, "built", False) and built_for is not None:
            now = self.trainable_variables
            if len(now) != len(built_for) or not all(map(operator.is_, now, built_for)):
                raise ValueError(
                    "What is trainable has changed since the optimizer was built, as by LoRA, "
                    "`trainable` or `quantize`. Compile again: embedder.compile(optimizer, loss)."
                )
        step: StepFunction = super().make_train_function(force or self._has_changed("train"))
        return step

    def make_test_function(self, force: bool = False) -> StepFunction:
        step: StepFunction = super().make_test_function(force or self._has_changed("test"))
        return step

    def make_predict_function(self, force: bool = False) -> StepFunction:
        if keras.config.backend() == "jax" and keras.distribution.distribution() is None:
            self.predict_function: StepFunction = functools.partial(predict_on_jax, self)
            return None
        step: StepFunction = super().make_predict_function(force or self._has_changed("predict"))
        return step

    def _has_changed(self, kind: str) -> bool:
        """Whether the model has changed since the last function of this kind was made.

        Args:
            kind: "train", "test" or "predict".
        """
        # Not by `setattr`: Keras would keep track of the variables in the dictionary.
        made_for = self.__dict__.setdefault("_made_for", {})
        before = made_for.get(kind)
        now = made_for[kind] = (signature(self), [v.trainable for v in self.variables])
        return before is not None and before != now

    def _purge_model_variables(self, **kinds: bool) -> None:
        with kept(self.variables):
            super()._purge_model_variables(**kinds)


def _is_tokens(x: object) -> TypeGuard[TokenBatch]:
    return isinstance(x, Mapping) and set(x) == {"token_ids", "padding_mask"}
