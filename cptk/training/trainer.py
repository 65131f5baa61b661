"""`ContrastiveTrainer`: pairs of texts in, an embedder out, by `compile` and `fit`.

Over 400 lines because the doors of `keras.Model` (`fit`, `evaluate`, `predict`, the batch methods,
saving) stand here together with their documentation; what they call is in the files beside.
"""

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, Self

import keras
import numpy as np
from keras import ops
from numpy.typing import NDArray

from cptk import distribution, losses, metrics
from cptk.checks import shown
from cptk.compilation_cache import keep_compiled_programs
from cptk.data.batching import SIDES, PairDataset, check_batch_size
from cptk.data.columns import is_pairs
from cptk.data.mixture import as_mixture
from cptk.data.order import OrderedBatches
from cptk.data.store_batches import StoreBatches
from cptk.data.token_store import TokenStore
from cptk.layers import ContrastiveHead
from cptk.losses.by_source import BySource
from cptk.losses.tiles import DEFAULT_TILE_SIZE
from cptk.models.encode import Codes, encode
from cptk.models.forward import forward, holds, kept
from cptk.models.keras_hub_embedders import embed, is_keras_hubs_own, text_reader
from cptk.ops import float32_or_higher
from cptk.progress import verbosity
from cptk.training import filler, gradient_cache, validation
from cptk.training.callbacks import backing_up
from cptk.training.chance import WarnAtChance
from cptk.training.gradient_cache import check_first_pass, check_micro_batches
from cptk.training.inputs import (
    DataOrder,
    FollowOrder,
    check_seed,
    closes_data,
    each_batch,
    may_end_early,
    on_any_backend,
    split,
    to_backend,
    unpack,
)
from cptk.training.lora import LoraState, restore_training_state, training_state
from cptk.training.reading import PairReader, longest_text, refuse_labels
from cptk.training.running_mean import LossMean, PairMean
from cptk.training.saving import write_whole
from cptk.training.text_columns import gathered_text_ids, of_pairs, text_columns
from cptk.training.traced import (
    Traced,
    assign_state,
    check_optimizer,
    guarded,
    replace_layer,
)
from cptk.training.views import check_views
from cptk.types import (
    Batches,
    Callback,
    Config,
    History,
    Layer,
    Model,
    Optimizer,
    Path,
    Tensor,
    TensorLike,
    TokenBatch,
    Tree,
    Variable,
)

LARGE = 4096
"""Pairs in a batch from which on the loss of a plain step is taken in tiles, too: by
`benchmarks/tiled_loss.py` as quick there, in half of the memory or less."""


@keras.saving.register_keras_serializable(package="cptk")
class ContrastiveTrainer(keras.Model):  # type: ignore[misc]
    """Trains an embedder on pairs of texts with in-batch negatives.

    Query and document pass through the same embedder, independently, each in its role. The loss is
    an object that `compile` takes, `cptk.losses.InfoNCE()` by default; the other pairs of a batch
    are the negatives, on however many devices it lies.

    The temperature is a weight of the head: `head=ContrastiveHead(temperature=0.05)` sets where it
    starts.

    A `keras.Model` like any other: `compile`, `fit`, `evaluate`, callbacks, mixed precision,
    LoRA (`cptk.training.enable_lora(embedder)`), `save`. The product is `trainer.embedder`. When
    what is trained changes after a `fit` (LoRA, `trainable`, another head), `compile` again with a
    new optimizer; going on without is an error.

    Args:
        embedder: A `cptk.models.TextEmbedder`, or any `keras_hub.models.TextEmbedder` as
            it is: `trainer.embedder` is that object, and its ids are its own preprocessor's.
        head: A `cptk.layers.ContrastiveHead`; a new one by default.
        seed: Integer that fixes the order of the pairs. Drawn by default.
        micro_batch_size: Texts that pass through the model at once. The step is that of the whole
            batch all the same, by gradient caching: its memory is that of a micro-batch, and
            texts pass twice. "auto" tries a few sizes at the first `fit`, and says which it took.
            By default all pass at once, in one plain step.
        micro_batch_tokens: Instead of a number of texts, a budget of tokens, padding included:
            micro-batches of short texts hold more of them.
        first_pass_dtype: "bfloat16" or "float16": the first of the two passes, which gives the
            loss its embeddings, computes in 16 bits. Quicker where the hardware is, and no longer
            exact: the loss is that of slightly other embeddings. None, the default, is exact.

    Example:

    ```pycon
    >>> import cptk, keras
    >>> trainer = cptk.ContrastiveTrainer(embedder)
    >>> trainer.compile(optimizer=keras.optimizers.AdamW(1e-4))
    >>> pairs = {"query": queries, "document": documents}
    >>> history = trainer.fit(pairs, batch_size=5, epochs=1, verbose=0)
    >>> sorted(history.history)
    ['document_accuracy', 'loss', 'query_accuracy', 'temperature']
    >>> trainer.embedder.save_to_preset("my_embedder")

    ```

    References:
        - Neelakantan et al., Text and Code Embeddings by Contrastive Pre-Training,
          arXiv:2201.10005, section 2.
        - Gao et al., Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup,
          arXiv:2101.06983: gradient caching.
    """

    train_function: Any  # Keras's compiled steps; None until they are made.
    test_function: Any

    def __init__(
        self,
        embedder: Model,
        head: Layer | None = None,
        seed: int | None = None,
        micro_batch_size: int | str | None = None,
        micro_batch_tokens: int | None = None,
        first_pass_dtype: str | None = None,
        **kwargs: Any,
    ) -> None:
        _refuse_others_arguments(kwargs)
        super().__init__(**kwargs)
        self._trained, self._evaluated = Traced(), Traced()
        self.embedder = embedder
        holds(self, embedder)
        self.head = ContrastiveHead() if head is None else head
        self.seed = check_seed(seed)
        self.data_order = DataOrder()
        self.micro_batches = check_micro_batches(micro_batch_size, micro_batch_tokens, embedder)
        asked = self.micro_batches or gradient_cache.MicroBatches()
        self.micro_batch_size, self.micro_batch_tokens = asked
        self.first_pass_dtype = check_first_pass(first_pass_dtype, self.micro_batches, embedder)
        self.large_batches = False
        self.slices = 1
        self._sliced_for: tuple[int | None, bool] | None = None
        self.not_finite = gradient_cache.NotFinite()
        self.lora_state = LoraState(lambda: self.embedder)
        self.loss = losses.get(None)
        self._shown = _Shown(self.loss.metrics)
        self._mark_as_built()

    def __setattr__(self, name: str, value: object) -> None:
        """Another embedder or head takes the place of the one before it."""
        if name not in ("embedder", "head"):
            super().__setattr__(name, value)
            return
        if name == "embedder" and not (
            isinstance(value, keras.Model) and hasattr(value, "backbone")
        ):
            raise TypeError(
                "`embedder` should be a cptk.models.TextEmbedder or a "
                "keras_hub.models.TextEmbedder. Received: "
                f"{type(value).__name__}."
            )
        replace_layer(self, name, value)
        super().__setattr__(name, value)
        if hasattr(self, "_shown"):
            self._mark_as_built()

    def _mark_as_built(self) -> None:
        self.head(self.embedder.output, self.embedder.output)  # Builds it.
        # All that has weights is built. `fit` would otherwise draw a batch to build the tokenizer,
        # and the batches that were fetched ahead with it would come out of order.
        for layer in self._flatten_layers():
            if not is_keras_hubs_own(layer):
                layer.built = True

    def _purge_model_variables(self, **kinds: bool) -> None:
        with kept([*self.variables, *self.metrics_variables, *self._optimizer_variables]):
            super()._purge_model_variables(**kinds)

    @property
    def _all_variables(self) -> list[Variable]:
        return [*self.variables, *self._optimizer_variables]

    @property
    def _optimizer_variables(self) -> list[Any]:
        """None before `compile`."""
        return getattr(getattr(self, "optimizer", None), "variables", [])

    # === The step ===

    def call(self, inputs: Mapping[str, Any], training: bool | None = None) -> dict[str, Tensor]:
        """Embeddings `(n, dim)` of each side; `token_ids` and `padding_mask` are `(n, length)`.

        Of negatives, `(n, k, length)`, they are `(n * k, dim)`.
        """
        if self.micro_batches is not None and not training:
            return gradient_cache.embed(self, inputs)
        on_jax = keras.config.backend() == "jax"  # There the step itself cuts.
        if training and self.micro_batches is None and self.slices > 1 and not on_jax:
            return gradient_cache.embed_by_length(self, inputs)
        texts = text_columns(inputs)
        return {name: embed(self.embedder, tokens, training) for name, tokens in texts.items()}

    def compute_loss(
        self,
        x: Mapping[str, TokenBatch] | None = None,
        y: None = None,
        y_pred: Mapping[str, Tensor] | None = None,
        sample_weight: Tensor | None = None,
        training: bool = True,
    ) -> Tensor:
        """The scalar loss of a batch; the place to override for another one.

        Of several replicas on TensorFlow each calls it with its share of the batch, and the mean
        of what they return is optimised and shown. So `super().compute_loss(…) + penalty` is the
        same loss on any number of devices.

        Args:
            x: The batch: `token_ids` and `padding_mask`, `(n, length)`, of each side. Without it,
                equal texts are not known as such.
            y: `None`: a pair is its own label.
            y_pred: Embeddings `(n, dim)` of each side.
            sample_weight: `(n,)`, the weights of the pairs.
            training: Whether this is a training step.
        """
        batch, is_pair = self._seen(x, y_pred or {})
        of_pairs, scores = self.loss(batch)
        pairs = ops.ones_like(of_pairs)
        if is_pair is not None:
            pairs = ops.cast(is_pair, pairs.dtype)
        weight = pairs if sample_weight is None else ops.cast(sample_weight, pairs.dtype) * pairs
        # Not `ops.mean`, which computes float64 in float32 on JAX and torch (Keras 3.15).
        value = ops.sum(of_pairs * weight)
        sums = [value, ops.sum(pairs), ops.sum(weight)]
        for name in self.loss.metrics:
            score = ops.cast(scores[name], value.dtype)
            counts = ops.equal(score, score)  # NaN: the pair has no such score.
            sums.append(ops.sum(ops.where(counts, score, 0.0) * weight))
            sums.append(ops.sum(ops.where(counts, weight, 0.0)))
        sums = distribution.all_reduce_sum(ops.stop_gradient(ops.stack(sums)))
        loss = value * distribution.replicas_in_sync() / sums[1]
        for extra in self.losses:
            loss = loss + ops.cast(ops.sum(extra), loss.dtype)
        chance = self.loss.chance(batch, sums[1])
        if chance is not None:
            self._loss_tracker.compare_with_chance(sums[0], chance, sums[2])
        for k, metric in enumerate(self._shown.scores):
            metric.add(sums[3 + 2 * k], sums[4 + 2 * k])
        self._shown.temperature.update_state(self.head.temperature)
        return loss

    def _seen(
        self, x: Mapping[str, TokenBatch] | None, y_pred: Mapping[str, Tensor]
    ) -> tuple[losses.Batch, Tensor | None]:
        """The batch as the objective sees it, and which of the local rows hold a pair."""
        local = {side: float32_or_higher(y_pred[side]) for side in SIDES}
        columns: Mapping[str, Any] = x or {}
        local |= {
            name: ops.cast(columns[name], "float32")
            for name in self.loss.columns
            if name != "negatives"
        }
        has_negative = None
        if "negatives" in y_pred:
            mask = columns["negatives"]["padding_mask"]
            local["negatives"] = of_pairs(float32_or_higher(y_pred["negatives"]), mask)
            has_negative = distribution.gather(ops.any(ops.cast(mask, "bool"), axis=2))
        gathered = distribution.gather(local)
        text_ids, is_pair, all_pairs = {}, None, None
        if x is not None:
            text_ids = gathered_text_ids(x)
            if distribution.replicas(self).total > 1:
                is_pair = filler.is_pair(x)
                all_pairs = distribution.gather(is_pair)
        tile_size = (self.loss.tile_size or DEFAULT_TILE_SIZE) if self._in_tiles() else None
        # A head of another kind has a temperature, and need not have its logarithm as a weight.
        scale = 1.0 / self.head.temperature if tile_size is None else ops.exp(self.head.tau)
        batch = losses.Batch(
            local, gathered, self.head, scale, text_ids, all_pairs, tile_size, has_negative
        )
        return batch, is_pair

    def _in_tiles(self) -> bool:
        """Whether the matrix of logits is never held: another head's may be of any form."""
        stock = type(self.head).call is ContrastiveHead.call
        asked = self.micro_batches is not None or self.loss.tile_size is not None
        return stock and (asked or self.large_batches)

    def train_step(self, *args: Tree) -> Tree:
        """One step, of a replica on TensorFlow, of all elsewhere."""
        with self._loss_tracker.weighed(lambda: filler.count_pairs(self, args[-1])):
            if self.micro_batches is not None:
                return gradient_cache.train_step(self, *args)
            if keras.config.backend() == "tensorflow":
                from cptk.distribution import tensorflow_step

                return tensorflow_step.train_step(self, *args)
            if keras.config.backend() == "torch":
                from cptk.distribution import torch_step

                return torch_step.train_step(self, *args)
            return super().train_step(*args)

    def test_step(self, *args: Tree) -> Tree:
        """Loss and metrics of a batch, as `train_step`."""
        with self._loss_tracker.weighed(lambda: filler.count_pairs(self, args[-1])):
            if keras.config.backend() == "tensorflow":
                from cptk.distribution import tensorflow_step

                return tensorflow_step.test_step(self, *args)
            return super().test_step(*args)

    def make_train_function(self, force: bool = False) -> None:
        """Called by Keras; on TensorFlow the optimizer's variables are made first.

        Made in the step, they would have it traced twice: a minute for a deep decoder.
        """
        check_optimizer(self.optimizer, self.trainable_variables)
        if keras.config.backend() == "tensorflow":
            distribution.build(self)
        if hasattr(self.embedder, "trained_dims"):  # ours; KerasHub's own remember nothing
            self.embedder.trained_dims = self.loss.trained_dims
        if self._trained.is_stale(self._step_variables()) or force or self.train_function is None:
            super().make_train_function(force=True)
            if self._cuts_the_step():
                self.train_function = self._make_function(gradient_cache.sliced_step(self))
            self.train_function = guarded(self.train_function, self, self._trained)

    def _cuts_the_step(self) -> bool:
        """Whether the step on JAX goes in slices, which passes what a subclass may have changed."""
        if keras.config.backend() != "jax" or self.micro_batches is not None or self.slices < 2:
            return False
        names = ("train_step", "call", "compute_loss_and_updates")
        return all(getattr(type(self), each) is getattr(ContrastiveTrainer, each) for each in names)

    def make_predict_function(self, force: bool = False) -> Callable[..., Tree]:
        """Called by Keras."""
        self._drop_stale_steps()
        return super().make_predict_function(force)  # type: ignore[no-any-return]

    def _drop_stale_steps(self) -> None:
        """Steps that were traced with other variables than there are now are made anew."""
        if self._evaluated.is_stale(self._step_variables()):
            self.test_function = self.predict_function = None

    def _step_variables(self) -> list[Any]:
        return [*self.embedder.variables, *self.head.variables]

    def _get_jax_state(self, **kinds: bool) -> Tree:
        """Called by Keras on JAX, before it empties the variables."""
        self._trained.in_state = (self.trainable_variables, self.non_trainable_variables)
        return super()._get_jax_state(**kinds)

    if keras.config.backend() == "jax":

        def jax_state_sync(self) -> None:
            """Called by Keras; a callback may have frozen or unfrozen layers since."""
            if not self._jax_state_synced and getattr(self, "_jax_state", None):
                parts = ("trainable_variables", "non_trainable_variables")
                state = [self._jax_state.pop(part, None) for part in parts]
                if None not in state:
                    assign_state(self._trained, *state)
            super().jax_state_sync()

    def make_test_function(self, force: bool = False) -> Callable[..., Tree]:
        """Called by Keras; the function also hands over the embeddings, for `mrr`."""
        self._drop_stale_steps()
        if self.test_function is None or force:
            make = functools.partial(super().make_test_function, force=True)
            self.test_function = validation.test_function(self, make)
        return self.test_function  # type: ignore[no-any-return]

    def _maybe_symbolic_build(self, iterator: object = None, data_batch: object = None) -> None:
        """Called by Keras on TensorFlow: all that is missing is made in `make_train_function`."""

    def compute_metrics(
        self,
        x: Mapping[str, TokenBatch],
        y: None,
        y_pred: Mapping[str, Tensor],
        sample_weight: Tensor | None = None,
    ) -> dict[str, Tensor]:
        # `compute_loss` has updated them: it had the logits.
        self._retrieval.note(self, x, y_pred, sample_weight)
        return self.get_metrics_result()  # type: ignore[no-any-return]

    def compile(
        self,
        optimizer: Optimizer = "adamw",
        loss: losses.Objective | str | Mapping[str, losses.Objective | str] | None = None,
        **kwargs: Any,
    ) -> None:
        """Configure training. Arguments as of `keras.Model.compile`, without metrics.

        Args:
            optimizer: An optimizer or its name.
            loss: A `cptk.losses.Objective`, or its name; `cptk.losses.InfoNCE()` by default. Or a
                mapping of these by source, for pairs of several sources (`cptk.data.Mixture`).
            **kwargs: `jit_compile`, `run_eagerly`, `steps_per_execution`, `auto_scale_loss`.

        Raises:
            ValueError: An unknown name, or metrics are given.
            TypeError: A loss that is no `Objective`.
        """
        for name in ("loss_weights", "metrics", "weighted_metrics"):
            if kwargs.get(name) is not None:
                raise ValueError(
                    f"ContrastiveTrainer shows the scores of its loss: leave `{name}` out. For "
                    "others, write a subclass of cptk.losses.Objective that names them in "
                    "`metrics`."
                )
        objective = losses.get(loss)
        if keras.config.backend() == "tensorflow":
            # XLA compiles each batch length anew and is slower on CPUs; ask for it on a GPU.
            kwargs.setdefault("jit_compile", False)
            if self.micro_batches is not None:
                kwargs["jit_compile"] = gradient_cache.without_xla(kwargs["jit_compile"])
        keep_compiled_programs()
        distribution.check_compile(self, optimizer, kwargs)
        with distribution.scope(self):
            super().compile(optimizer=optimizer, **kwargs)
            self.loss = objective
            self._sliced_for = None
            self._shown = _Shown(objective.metrics)
            # Past Keras's tracking, which would keep the one of each `compile` before.
            object.__setattr__(self, "_loss_tracker", LossMean(name="loss"))
            self._retrieval = validation.Retrieval()
        distribution.take_over(self)

    @property
    def metrics(self) -> list[Any]:
        """The loss, the scores of the objective, the temperature, and a subclass's own."""
        found, own = super().metrics, [*self._shown.scores, self._shown.temperature]
        first = 1 if self.compiled else 0
        return [*found[:first], *own, *found[first:]]

    def get_compile_config(self) -> dict[str, Any]:
        """As of `keras.Model`, with the objective."""
        config = super().get_compile_config()
        if config:
            config["loss"] = keras.saving.serialize_keras_object(self.loss)
        return config  # type: ignore[no-any-return]

    def compile_from_config(self, config: dict[str, Any]) -> None:
        config = keras.saving.deserialize_keras_object(on_any_backend(config))
        self.compile(**config)
        self.optimizer.build(self.trainable_variables)

    # === Data ===

    @closes_data
    def fit(
        self,
        x: object = None,
        y: None = None,
        batch_size: int | None = None,
        epochs: int = 1,
        verbose: str | int = "auto",
        callbacks: Callback | Sequence[Callback] | None = None,
        validation_split: float = 0.0,
        validation_data: object = None,
        shuffle: bool = True,
        class_weight: None = None,
        sample_weight: TensorLike | None = None,
        initial_epoch: int = 0,
        steps_per_epoch: int | None = None,
        validation_steps: int | None = None,
        validation_batch_size: int | None = None,
        validation_freq: int | Sequence[int] = 1,
    ) -> History:
        """Train on pairs. Arguments as of `keras.Model.fit`, but for the data.

        Args:
            x: `{"query": …, "document": …}`, each n strings, or each `{"token_ids",
                "padding_mask"}` of n rows; a frame or table with these columns among others; a list
                of (query, document) tuples, or what `cptk.data` mines; a mapping of such pairs by
                source, each batch from one of them (`cptk.data.Mixture`); or a `tf.data.Dataset`,
                `keras.utils.PyDataset` or generator of batches of any of these (a dataset of single
                pairs too, with `batch_size`).
            batch_size: Pairs in a batch; 32 by default, where `x` is not batched already. A last
                pair alone is put with the batch before. Where `x` is batched already, a batch of
                one pair is left out of training, with a warning.
            verbose: As Keras's; "auto" is a bar in a terminal or notebook, and a line an epoch in a
                file or pipe.
            validation_data: As `x`, or `(x, None, sample_weight)`.
            shuffle: Whether to shuffle the pairs anew in each pass.
            sample_weight: n weights of the pairs.
            initial_epoch: Epoch at which to begin. If it is not 0, the pairs come in that epoch's
                order whatever has been trained on before.
            steps_per_epoch: Batches in an epoch. With pairs in memory an epoch may be shorter or
                longer than a pass; the next one begins where it ended, and so does the next call
                of `fit` on the same pairs.

        Returns:
            The `History`: `loss`, `query_accuracy` (its document is ranked first in the batch), the
            reverse `document_accuracy`, `temperature`, and their `val_` values. And of the whole
            validation set, whatever the batch size, `val_mrr`, `val_recall@1` and `val_recall@10`:
            all its documents are candidates, equal texts are one, and a query of several pairs has
            several right answers.

        Raises:
            ValueError: Sides of unequal length, fewer than 2 pairs, an empty text or one of white
                space, or a bad weight.
            TypeError: Something that is neither text nor tokens.
        """
        if class_weight is not None:
            raise ValueError("Pairs have no classes: leave `class_weight` out.")
        if validation_split:
            if validation_data is not None:
                raise ValueError("Pass `validation_data` or `validation_split`, not both.")
            if isinstance(self.loss, BySource) or as_mixture(x) is not None:
                raise ValueError(
                    "`validation_split` takes pairs of one source. Hold pairs of each source out "
                    "yourself (`Pairs.split`), and pass them as `validation_data`."
                )
            x, sample_weight, validation_data = split(
                x, sample_weight, validation_split, self._reader().columns_of(x)
            )
        of_user = isinstance(x, PairDataset | StoreBatches)
        if of_user and steps_per_epoch is not None:
            raise ValueError(
                f"Give `steps_per_epoch` to the {type(x).__name__}, and leave it out of `fit`."
            )
        self.seed = distribution.broadcast_from_chief(self.seed, self)
        data = self._batches(
            x,
            y,
            sample_weight,
            batch_size,
            shuffle=shuffle,
            steps_per_epoch=steps_per_epoch,
            least=2,
        )
        check_views(self.loss, self.embedder, data)
        self._choose_micro_batch_size(data, bool(verbose))
        self._choose_tiles(getattr(data, "batch_size", None))
        self._choose_slices(getattr(data, "batch_size", None))
        callbacks = self._callbacks(callbacks, data, not of_user, initial_epoch)
        if validation_data is not None:
            size = batch_size if validation_batch_size is None else validation_batch_size
            validation_data = self._validation_batches(
                validation_data, size, validation_batch_size is None
            )
        if isinstance(data, OrderedBatches):
            steps_per_epoch = None
        feed = to_backend(data, self)
        # A run that was restored before has left its epoch here, and Keras would begin at it.
        self._initial_epoch = None
        quiet = may_end_early(feed, whole_passes=steps_per_epoch is None)
        with (
            quiet,
            self.not_finite.named(self),
            distribution.running(self),
            backing_up(callbacks, data) as callbacks,
        ):
            return super().fit(
                feed,
                epochs=epochs,
                verbose=verbosity(verbose),
                callbacks=callbacks,
                validation_data=validation_data,
                shuffle=False,
                initial_epoch=initial_epoch,
                steps_per_epoch=steps_per_epoch,
                validation_steps=validation_steps,
                validation_freq=validation_freq,
            )

    def _callbacks(
        self,
        given: Callback | Sequence[Callback] | None,
        data: Batches,
        set_seed: bool,
        initial_epoch: int,
    ) -> list[Callback]:
        """The callbacks given, as a list, and the trainer's own before and after them."""
        given = getattr(given, "callbacks", given)
        given = [given] if isinstance(given, keras.callbacks.Callback) else list(given or [])
        first = []
        if self.micro_batches is not None and keras.config.backend() == "jax":
            first.append(gradient_cache.StopNotFinite())
        if isinstance(data, OrderedBatches):
            first.append(FollowOrder(data, set_seed, initial_epoch))
        return [*first, *given, WarnAtChance()]

    def _validation_batches(
        self, data: object, batch_size: int | None, of_training: bool
    ) -> Batches:
        """Batches of `validation_data`, in order; `of_training`: the size is for pairs alone."""
        x, y, sample_weight = unpack(data)
        if not of_training:
            check_batch_size(batch_size)
        elif not is_pairs(x):
            batch_size = None
        return to_backend(self._batches(x, y, sample_weight, batch_size, shuffle=False), self)

    @closes_data
    def evaluate(
        self,
        x: object = None,
        y: None = None,
        batch_size: int | None = None,
        verbose: str | int = "auto",
        sample_weight: TensorLike | None = None,
        **kwargs: Any,
    ) -> list[float] | dict[str, float]:
        """Loss, metrics, `mrr` and `recall@k` on pairs, in their order. Data as for `fit`."""
        if not kwargs.get("_use_cached_eval_dataset", False):
            if batch_size is not None:
                check_batch_size(batch_size)
            x = self._batches(x, y, sample_weight, batch_size, shuffle=False)
            self._choose_micro_batch_size(x, bool(verbose))
            self._choose_tiles(getattr(x, "batch_size", None))
            x = to_backend(x, self)
        with self.not_finite.named(self), distribution.running(self):
            return validation.evaluate(  # type: ignore[no-any-return]
                self, super().evaluate, x, verbose=verbosity(verbose), **kwargs
            )

    @closes_data
    def predict(
        self, x: object, batch_size: int | None = None, verbose: str | int = "auto", **kwargs: Any
    ) -> dict[str, NDArray[np.floating[Any]]]:
        """`{"query", "document"}` embeddings of pairs, in their order. Data as for `fit`."""
        data = self._batches(x, None, None, batch_size, of_loss=False, shuffle=False)
        if distribution.replicas(self).total == 1:
            return super().predict(to_backend(data, self), verbose=verbosity(verbose), **kwargs)  # type: ignore[no-any-return]
        # On this process alone: `predict` of Keras waits for the others, or fails.
        batches = each_batch(data, kwargs.get("steps"))
        parts = [self.predict_on_batch(batch) for batch in batches]
        return {side: np.concatenate([part[side] for part in parts]) for side in SIDES}

    def train_on_batch(
        self, x: object, y: None = None, sample_weight: TensorLike | None = None, **kwargs: Any
    ) -> list[float] | dict[str, float]:
        """One step on a batch of pairs, of strings or of tokens."""
        x, weights = self._placed_batch(x, y, sample_weight, training=True)
        with self.not_finite.named(self):
            return super().train_on_batch(x, sample_weight=weights, **kwargs)  # type: ignore[no-any-return]

    def test_on_batch(
        self, x: object, y: None = None, sample_weight: TensorLike | None = None, **kwargs: Any
    ) -> list[float] | dict[str, float]:
        """Loss and metrics on one batch of pairs, of strings or of tokens."""
        x, weights = self._placed_batch(x, y, sample_weight)
        with self.not_finite.named(self):
            return super().test_on_batch(x, sample_weight=weights, **kwargs)  # type: ignore[no-any-return]

    def predict_on_batch(self, x: object) -> dict[str, NDArray[np.floating[Any]]]:
        """`{"query", "document"}` embeddings of one batch of pairs, of strings or of tokens."""
        tokens, _ = self._reader(of_loss=False).batch(x, None, least=1)
        return {side: forward(self.embedder, tokens[side]) for side in SIDES}

    def encode_text(
        self,
        texts: str | Iterable[str] | TokenStore,
        role: str | None = None,
        batch_size: int | None = None,
        verbose: Literal["auto"] | int = "auto",
        truncate_dim: int | None = None,
        **options: Any,
    ) -> Codes:
        """Embed texts with the embedder as it is now, within `fit` too.

        As `TextEmbedder.encode_text`, for KerasHub's own embedders as well: theirs pads each
        text to `sequence_length`, and cannot be called on JAX while `fit` holds the weights.

        Args:
            texts: One string, or n of them.
            role: Name of the role; None for KerasHub's own embedders, which have none.
            batch_size: Number of texts in a batch; by default as many as fit in 512 tokens.
            verbose: `1` shows progress, `0` none, `"auto"` only on long work.
            truncate_dim: How many numbers of each vector to keep, brought to unit length again; all
                by default.
            **options: The others of `cptk.encode`: `batch_tokens`, `dtype`, `output`, ….

        Returns:
            A float32 array `(n, dim)`, in the order of `texts`; `cptk.encode` has the rest.

        Raises:
            ValueError: As `cptk.encode`.

        Example:

        ```pycon
        >>> import cptk
        >>> trainer = cptk.ContrastiveTrainer(embedder)
        >>> trainer.encode_text(["how do I open a file?", "sort"], role="query").shape
        (2, 16)

        ```
        """
        return encode(self.embedder, texts, role, batch_size, verbose, truncate_dim, **options)

    def _reader(self, of_loss: bool = True) -> PairReader:
        """Reads pairs, with the number columns of the loss or without."""
        reader = PairReader(text_reader(self.embedder))
        if not of_loss:
            return reader
        of_source = None
        if isinstance(self.loss, BySource):
            every = self.loss.objectives.items()
            of_source = {name: (one.columns, one.optional_columns) for name, one in every}
        columns, optional = self.loss.columns, self.loss.optional_columns
        return reader._replace(columns=columns, optional=optional, of_source=of_source)

    def _batches(
        self,
        x: object,
        y: None,
        sample_weight: TensorLike | None,
        batch_size: int | None,
        of_loss: bool = True,
        **options: Any,
    ) -> Batches:
        """Any kind of data that `fit` takes, as batches of tokens."""
        refuse_labels(y)
        replicas = distribution.replicas(self).total
        return self._reader(of_loss).batches(
            x, sample_weight, batch_size, seed=self.seed, replicas=replicas, **options
        )

    def _placed_batch(
        self, x: object, y: None, sample_weight: TensorLike | None, training: bool = False
    ) -> Tree:
        """One batch and its weights, checked, where the replicas are; the step is ready for it."""
        refuse_labels(y)
        tokens, weights = self._reader().batch(x, sample_weight)
        self._choose_micro_batch_size([tokens], verbose=True)
        pairs = len(tokens["query"]["token_ids"])
        self._choose_tiles(pairs)
        if training:
            self._choose_slices(pairs)
        return distribution.shard_batch((tokens, weights), self)

    def _choose_micro_batch_size(self, data: Batches, verbose: bool) -> None:
        """Have "auto" be a number, by the length that a text may have."""
        if self.micro_batches is None or self.micro_batches.size != "auto":
            return
        self._assert_compile_called("fit")
        longest = longest_text(text_reader(self.embedder), data)
        self.micro_batches = gradient_cache.choose_micro_batch_size(self, longest, verbose)

    def _choose_tiles(self, pairs: object) -> None:
        """Tiles from now on, if a batch is large; a step that was traced without is dropped."""
        if isinstance(pairs, int) and pairs >= LARGE and not self.large_batches:
            self.large_batches = True
            self.train_function = self.test_function = None

    def _choose_slices(self, pairs: int | None) -> None:
        """Slices by length for the plain step on batches of so many pairs; None is not known."""
        if self.micro_batches is not None:
            return
        own = None if pairs is None else 2 * pairs // distribution.replicas(self).total
        strategy = getattr(self, "distribute_strategy", None)  # There is none but on TensorFlow.
        static = bool(self.jit_compile and not self.run_eagerly) or "TPU" in type(strategy).__name__
        if self._sliced_for == (own, static):
            return
        slices = gradient_cache.slices(self.embedder, own, static)
        self._sliced_for = own, static
        if slices != self.slices:
            self.slices, self.train_function = slices, None

    # === Saving ===

    def save(self, filepath: Path, overwrite: bool = True, **kwargs: Any) -> None:
        """As of `keras.Model`, but whole or not at all.

        Raises:
            OSError: There is not the room.
        """
        write_whole(super().save, ".keras", filepath, overwrite, kwargs, self._all_variables)

    def save_weights(self, filepath: Path, overwrite: bool = True, **kwargs: Any) -> None:
        """As of `keras.Model`, but whole or not at all.

        Raises:
            OSError: There is not the room.
        """
        save = super().save_weights
        write_whole(save, ".weights.h5", filepath, overwrite, kwargs, self._all_variables)

    def summary(self, *args: Any, **kwargs: Any) -> None:
        """As of `keras.Model`."""
        self._hides_lora_state = not self.lora_state.in_use
        try:
            super().summary(*args, **kwargs)
        finally:
            self._hides_lora_state = False

    @property
    def layers(self) -> list[Any]:
        """The embedder, the head, and what saves LoRA's factors beside Keras's own files."""
        found = super().layers
        hides = getattr(self, "_hides_lora_state", False)
        return [layer for layer in found if not (hides and layer is self.lora_state)]

    def get_config(self) -> dict[str, Any]:
        embedder = keras.saving.serialize_keras_object(self.embedder)
        embedder.pop("compile_config", None)  # It is trained by this model, never by itself.
        return {
            **super().get_config(),
            "embedder": embedder,
            "head": keras.saving.serialize_keras_object(self.head),
            "seed": self.seed,
            "data_order": self.data_order.get_config(),
            "micro_batch_size": self.micro_batch_size,
            "micro_batch_tokens": self.micro_batch_tokens,
            "first_pass_dtype": self.first_pass_dtype,
            "training_state": training_state(self.embedder),
        }

    @classmethod
    def from_config(
        cls, config: Config, custom_objects: Mapping[str, object] | None = None
    ) -> Self:
        config = dict(config)
        state = config.pop("training_state")
        order = config.pop("data_order", {})
        for name in ("embedder", "head"):
            config[name] = keras.saving.deserialize_keras_object(config[name], custom_objects)
        restore_training_state(config["embedder"], state)
        trainer = cls(**config)
        trainer.data_order = DataOrder(**order)
        return trainer


def _refuse_others_arguments(kwargs: Mapping[str, object]) -> None:
    """Say where a setting belongs that people look for here."""
    owners = {
        "temperature": "it is a weight of the head. Pass head=cptk.layers.ContrastiveHead({given})",
        "loss": "it is an argument of `compile`. Say trainer.compile(optimizer, {given})",
    }
    of_loss = "it is an option of the loss. Say trainer.compile(loss=cptk.losses.InfoNCE({given}))"
    owners |= dict.fromkeys(losses.InfoNCE().get_config(), of_loss)
    for name, value in kwargs.items():
        if name in owners:
            given = owners[name].format(given=f"{name}={shown(value)}")
            raise TypeError(f"ContrastiveTrainer has no argument `{name}`: {given}.")


class _Shown:
    """What `fit` shows beside the loss.

    Metrics that a model has as attributes stay in its list after another `compile`; these do not.
    """

    def __init__(self, scores: tuple[str, ...]) -> None:
        self.scores = [PairMean(name=name) for name in scores]
        self.temperature = metrics.Temperature(name="temperature")
