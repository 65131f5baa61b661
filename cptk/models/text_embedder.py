"""A KerasHub backbone as a text embedder: pooling, projection, normalisation, preset."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, Self, TypeAlias

import keras
import keras_hub
import numpy as np

from cptk import checks, layers, ops
from cptk.data.token_store import TokenStore
from cptk.layers.right_padding import RightPadding
from cptk.models import presets, saving
from cptk.models.attention import Attention, check_attention, own_attention, seen_by_all
from cptk.models.backbones import complete_config
from cptk.models.configured_backbones import is_encoder
from cptk.models.encode import Codes, check_sequence_length, encode
from cptk.models.forward import check_not_forked
from cptk.models.keras_methods import CheckedTextEmbedder
from cptk.models.preprocessor import (
    GPT2TextEmbedderPreprocessor,
    RolesLike,
    TextEmbedderPreprocessor,
)
from cptk.progress import Shown
from cptk.quantization import Calibration, VectorDType
from cptk.types import Config, Layer, Path

Pooling: TypeAlias = Literal["eos", "mean", "weighted_mean", "cls", "max"]

POOLINGS = {
    "eos": layers.EOSPooling,
    "mean": layers.MeanPooling,
    "weighted_mean": layers.WeightedMeanPooling,
    "cls": layers.CLSPooling,
    "max": layers.MaxPooling,
}

Projection: TypeAlias = int | Mapping[str, object] | Sequence[int | Mapping[str, object]]
"""Layers after the pooling: `units`, or `{"units", "activation", "use_bias"}`, or several."""


@keras.saving.register_keras_serializable(package="cptk")
class TextEmbedder(CheckedTextEmbedder):
    """Text embedder on any KerasHub backbone of text, decoder or encoder.

    The embedding of a text is the backbone's output, pooled over the sequence, projected where
    that is wanted, and divided by its Euclidean length. With `"eos"` pooling, as in the paper, the
    embedding is the state at the last token, which is the closing delimiter of the text's role.

    Args:
        backbone: A KerasHub backbone with inputs `token_ids` and `padding_mask`, and
            `segment_ids`, which are zeros, where it has such: a decoder (GPT-2, Llama 3 and
            SmolLM2, Qwen 3, OPT, Gemma 3, …) or an encoder (BERT, RoBERTa, XLM-RoBERTa, …).
        preprocessor: A `TextEmbedderPreprocessor`, or `None` for tokenised input.
        pooling: `"eos"`, which is for decoders alone, `"mean"`, `"weighted_mean"`, `"cls"`
            (the first token) or `"max"`.
        normalize: Whether embeddings have unit length.
        projection: Dense layers between pooling and normalisation: the number of units of one,
            `{"units": 64, "activation": "tanh", "use_bias": True}`, or a list of these. By default
            an activation is none and there is a bias.
        attention: What of its own text a token sees: `"causal"`, what stands before it, or
            `"bidirectional"`, all of it, which is meant for `"mean"` pooling and for training to
            follow. By default what the backbone was pre-trained with: causal for a decoder. GPT-2,
            Llama (Llama 3, SmolLM2), Qwen 2 and Qwen 3 can have either; an encoder is
            bidirectional and nothing else. A sliding window, where a backbone has one, stays. The
            backbone may be shared with a causal embedder.
        trained_dims: Sizes to which embeddings may be cut, where they were trained for it: those of
            `cptk.losses.Matryoshka` in the last `ContrastiveTrainer.fit`, which sets them. Give
            them for a model that comes from elsewhere. None are known by default.

    Input shape:
        `{"token_ids": (n, length), "padding_mask": (n, length)}`. Padding may stand anywhere. The
        embedder moves it to the right, since GPT-2 and OPT count positions from the first column.

    Output shape:
        `(n, hidden_dim)`, or the units of the last projection; float32 also where the backbone
        computes in 16 bits.

    Raises:
        ValueError: A backbone with other inputs, an unknown pooling, `"eos"` on an encoder, a
            projection that is none, an attention that is unknown or that the backbone cannot have,
            or a `sequence_length` that the backbone's position embedding cannot hold.

    Example:

    ```pycon
    >>> import cptk, keras_hub
    >>> import numpy as np
    >>> backbone = keras_hub.models.GPT2Backbone(
    ...     vocabulary_size=256, num_layers=1, num_heads=2, hidden_dim=16, intermediate_dim=32
    ... )
    >>> embedder = cptk.models.TextEmbedder(backbone)
    >>> tokens = {"token_ids": np.ones((1, 4), "int32"), "padding_mask": np.ones((1, 4), "bool")}
    >>> embedder.predict(tokens, verbose=0).shape
    (1, 16)

    ```

    References:
        - Neelakantan et al., Text and Code Embeddings by Contrastive Pre-Training,
          arXiv:2201.10005, section 2.1.
        - Reimers & Gurevych, Sentence-BERT, arXiv:1908.10084, section 3.
        - BehnamGhader et al., LLM2Vec, arXiv:2404.05961, section 2.1: bidirectional attention.
    """

    # None is any backbone. So KerasHub, which looks classes up by backbone, never chooses this one;
    # `registration` mends that.
    backbone_cls: type[keras_hub.models.Backbone] | None = None
    preprocessor_cls = TextEmbedderPreprocessor

    def __init__(
        self,
        backbone: keras_hub.models.Backbone,
        preprocessor: TextEmbedderPreprocessor | None = None,
        pooling: Pooling | str = "eos",
        normalize: bool = True,
        projection: Projection | None = None,
        attention: Attention | str | None = None,
        trained_dims: Sequence[int] = (),
        **kwargs: object,
    ) -> None:
        check_not_forked()
        checks.choice("pooling", pooling, POOLINGS)
        projections = check_projection(projection)
        trained_dims = checks.items(trained_dims, "trained_dims", "positive integers")
        dims = [checks.integer(f"trained_dims[{i}]", dim, 1) for i, dim in enumerate(trained_dims)]
        if not isinstance(normalize, bool | np.bool_):
            raise ValueError(
                f"`normalize` should be True or False. Received: {checks.shown(normalize)}."
            )
        needed = getattr(backbone, "input", None)
        if not isinstance(needed, dict) or set(needed) - {"segment_ids"} != {
            "token_ids",
            "padding_mask",
        }:
            received = sorted(needed) if isinstance(needed, dict) else type(backbone).__name__
            raise ValueError(
                "`backbone` should be a KerasHub backbone of text with the inputs "
                "['padding_mask', 'token_ids'], or with 'segment_ids' beside them. Received: "
                f"{received}."
            )
        if pooling == "eos" and is_encoder(backbone):
            raise ValueError(
                f"`pooling='eos'` is for decoders: in {type(backbone).__name__}, an encoder, the "
                "last token has not read more than the others. Use pooling='mean', 'cls', 'max' or "
                "'weighted_mean'."
            )
        attention = own_attention(backbone) if attention is None else attention
        check_attention(attention, backbone)
        if preprocessor is not None:
            check_sequence_length(backbone, preprocessor.sequence_length)
        # === Layers ===
        self.backbone = backbone
        self.preprocessor = preprocessor
        # === Functional model ===
        # New inputs, not the backbone's: an exported model takes them, and the mask should be bool
        # there, as the preprocessor gives it.
        inputs = {
            "token_ids": keras.Input((None,), dtype="int32", name="token_ids"),
            "padding_mask": keras.Input((None,), dtype="bool", name="padding_mask"),
        }
        token_ids, mask = RightPadding(name="right_padding")(
            inputs["token_ids"], inputs["padding_mask"]
        )
        given = {"token_ids": token_ids, "padding_mask": mask}
        if attention != own_attention(backbone):
            given["padding_mask"] = seen_by_all(backbone, mask)
        if "segment_ids" in needed:
            given["segment_ids"] = keras.ops.zeros_like(token_ids)
        states = backbone(given)
        if isinstance(states, dict):
            states = states["sequence_output"]
        # Pooling and normalisation compute in float32 or higher, whatever the backbone computes in.
        dtype = "float64" if backbone.compute_dtype == "float64" else "float32"
        x = POOLINGS[pooling](dtype=dtype, name="pooling")(states, mask=mask)
        for index, each in enumerate(projections):
            x = keras.layers.Dense(**each, dtype=dtype, name=f"projection_{index}")(x)
        if normalize:
            x = ops.l2_normalize(x)
        super().__init__(inputs=inputs, outputs=x, **kwargs)
        # === Config ===
        self.pooling = pooling
        self.normalize = bool(normalize)
        self.projection = tuple(projections)
        self.attention = attention
        self.trained_dims = tuple(dims)

    def encode_text(
        self,
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
        """Embed texts, in memory or into a file.

        Texts are tokenised on a thread of their own, sorted by length and embedded in batches that
        need little padding, equal texts once. The result does not depend, but for rounding, on the
        order of the texts nor on the batches. Several threads may call it at once, and beside a
        `ContrastiveTrainer.fit`, where vectors are those of the weights as they stand.

        Args:
            texts: One string, or n of them: a list, tuple, generator, array, or a column of a
                frame or table; or a `TokenStore`.
            role: Name of the role. Defaults to `"document"`, or to the only role there is.
            batch_size: Number of texts in a batch; by default as many as `batch_tokens` allows.
            verbose: `1` shows progress, `0` none, `"auto"` only on long work. Progress is a bar in
                a terminal or notebook, and a line now and then in a file or pipe.
            truncate_dim: How many numbers of each vector to keep, the first ones, which are brought
                to unit length again. For embedders that were trained with
                `cptk.losses.Matryoshka`; all by default. Below the smallest or above the largest
                of `trained_dims` there is a warning; between them none is needed.
            batch_tokens: Tokens in a batch, padding included; by default 512 on a processor.
            dtype: What a vector is kept in: `"float32"`, `"float16"`, `"int8"` or `"binary"`.
            output: An `.npy` file that vectors are written to block by block. Killed and called
                again, it goes on.
            progress: In place of `verbose`: True, False, "auto", or a function of (done, total).
            column: Which column of a store, frame or table.
            calibration: For int8; see `cptk.encode`.

        Returns:
            A float32 array of shape `(n, hidden_dim)`, or `(n, truncate_dim)`, in the order of
            `texts`; n is 1 for one string. Rows have unit length unless `normalize=False`. With
            `output` it is a read-only memory map of the file; with another `dtype` the codes of
            `cptk.quantization`.

        Raises:
            ValueError: No texts, an empty text or one of white space, an unknown role, no
                preprocessor, a vector that is not finite, a `truncate_dim` above `hidden_dim`; an
                `output` of other vectors.
            TypeError: Something that is not a string.
            RuntimeError: In a process that was forked after an embedder had been made.

        `cptk.encode` does the same for any embedder, and says more of files.

        Example:

        ```pycon
        >>> import numpy as np
        >>> vectors = embedder.encode_text(["how do I open a file?", "sort"], role="query")
        >>> vectors.shape  # this embedder's backbone has a `hidden_dim` of 16
        (2, 16)
        >>> [round(float(length), 4) for length in np.linalg.norm(vectors, axis=1)]
        [1.0, 1.0]

        ```

        References:
            Kusupati et al. 2022, Matryoshka Representation Learning, arXiv:2205.13147, where sizes
            between the trained ones do as well.
        """
        return encode(
            self,
            texts,
            role,
            batch_size,
            verbose,
            truncate_dim,
            batch_tokens=batch_tokens,
            dtype=dtype,
            output=output,
            progress=progress,
            column=column,
            calibration=calibration,
        )

    # === Presets, precision, export ===

    @classmethod
    def from_preset(
        cls,
        preset: Path,
        load_weights: bool = True,
        *,
        num_layers: int | None = None,
        sequence_length: int | None = None,
        roles: RolesLike | None = None,
        **kwargs: object,
    ) -> Self:
        """Load an embedder, or make one from a backbone's preset.

        A sentence-transformers folder gives the vectors that sentence-transformers gives: its
        pooling, Dense and Normalize modules, lengths and prompts are read. `role="query"` and
        `role="document"` embed as its `encode_query` and `encode_document`, any other prompt is a
        role of its name, and without a role texts are embedded as by its `encode`. Of an encoder
        that KerasHub's own embedder saved, its pooling and its length are read.

        Args:
            preset: A built-in name (`"gpt2_base_en"`), a `kaggle://` or `hf://` handle, a local
                KerasHub preset folder, a local Hugging Face or sentence-transformers folder
                (safetensors), or a folder written by `save_to_preset`.
            load_weights: Whether to load the weights or leave them at random.
            num_layers: Keep the first `num_layers` layers only; see
                `cptk.models.keep_first_layers`.
            sequence_length: Replaces that of the preset.
            roles: Replaces those of the preset.
            **kwargs: `pooling`, `normalize`, `projection`, `attention`, `trained_dims`, `dtype`.

        Returns:
            The embedder. Of a folder written by `save_to_preset`, the class that was saved.

        Raises:
            FileNotFoundError: The folder, or a file in it, is missing.
            ValueError: A damaged file; a model that is none of text; a module or an option of a
                sentence-transformers folder that has no counterpart; a bad argument.

        Example:

        ```pycon
        >>> import cptk
        >>> embedder.save_to_preset("my_embedder")
        >>> loaded = cptk.models.TextEmbedder.from_preset("my_embedder", sequence_length=16)
        >>> type(loaded).__name__, loaded.preprocessor.sequence_length
        ('GPT2TextEmbedder', 16)

        ```

        By the name of a decoder:

        ```python title="Needs the network"
        embedder = cptk.models.GPT2TextEmbedder.from_preset("gpt2_base_en", sequence_length=128)
        ```
        """
        overrides = presets.Overrides(num_layers, sequence_length, roles)
        embedder: Self = presets.load_embedder(
            cls, preset, TextEmbedder, load_weights, overrides, **kwargs
        )
        return embedder

    def save_to_preset(self, preset_dir: Path, max_shard_size: float | None = 10) -> None:
        """Save as a KerasHub preset, with roles, pooling, `trained_dims` and sequence length.

        The folder appears whole or not at all: it is written beside its final place, and then
        changes places with a preset that stands there. A folder that holds anything but a preset,
        at any depth, is refused. The next save clears up what a killed save left behind.

        Args:
            preset_dir: The folder to write.
            max_shard_size: Size in GB above which weights are split over files; None splits none.

        Raises:
            ValueError: `preset_dir` exists and is not a preset, or not only that; a file stands
                where its parent should be; its name is too long.
            OSError: The disk is too full. Nothing has been written then.
        """
        saving.save_embedder(self, super().save_to_preset, preset_dir, max_shard_size)

    def quantize(
        self, mode: Literal["int8", "int4", "float8"] | None = None, **kwargs: object
    ) -> None:
        """Quantise the backbone's weights in place: `"int8"`, `"int4"`, … as `keras.Model` does.

        `encode_text`, `save_to_preset` and `from_preset` go on as before.

        Args:
            mode: `"int8"`, `"int4"`, or `"float8"`, which takes the linear layers alone.
            **kwargs: `config` and `filters`, as in `keras.Model.quantize`.

        Example:

        ```pycon
        >>> import cptk
        >>> embedder.quantize("int8")
        >>> embedder.save_to_preset("my_embedder_int8")
        >>> loaded = cptk.models.TextEmbedder.from_preset("my_embedder_int8")
        >>> "int8" in {weight.dtype for weight in loaded.weights}
        True

        ```
        """
        kwargs.setdefault("filters", _can_be_quantized)
        self.backbone.quantize(mode, **kwargs)
        self.train_function = self.test_function = self.predict_function = None

    def export(
        self,
        filepath: Path,
        format: str = "tf_saved_model",  # noqa: A002
        **kwargs: object,
    ) -> None:
        """Write the forward pass for serving: a SavedModel, ONNX or LiteRT, as `keras.Model` does.

        The exported model takes what the preprocessor gives: `token_ids` int32 and `padding_mask`
        bool.

        Args:
            filepath: Where to write.
            format: `"tf_saved_model"`, `"onnx"` or `"litert"`, among others.
            **kwargs: As for `keras.Model.export`.

        Example:

        ```pycon
        >>> import tensorflow as tf
        >>> embedder.export("my_embedder", verbose=False)
        >>> served = tf.saved_model.load("my_embedder")
        >>> features = embedder.preprocessor(["how do I open a file?"], role="query")
        >>> tuple(served.serve(features).shape)
        (1, 16)

        ```
        """
        # Keras exports to ONNX only what has been called.
        self({"token_ids": np.zeros((1, 2), "int32"), "padding_mask": np.ones((1, 2), bool)})
        saved_model = format == "tf_saved_model" and "input_signature" not in kwargs
        if saved_model and keras.config.backend() == "jax":
            # By default Keras gives the two inputs a length each, and JAX cannot know that the
            # lengths are equal.
            longest = getattr(self.backbone, "max_sequence_length", None)
            shape = "(batch, length)"
            options = {
                "polymorphic_shapes": [{"token_ids": shape, "padding_mask": shape}],
                "polymorphic_constraints": [f"length <= {longest}"] if longest else [],
                "with_gradient": False,
            }
            kwargs.setdefault("jax2tf_kwargs", options)
        super().export(filepath, format=format, **kwargs)

    def compile_from_config(self, config: Config) -> None:
        # KerasHub overrides `compile`, and Keras asks such a class to say how to compile again.
        self.compile(**keras.saving.deserialize_keras_object(config))

    def get_config(self) -> Config:
        config: Config = super().get_config()
        complete_config(config["backbone"]["config"], self.backbone)
        config |= {"pooling": self.pooling, "normalize": self.normalize}
        if self.projection:
            config["projection"] = [dict(each) for each in self.projection]
        if self.attention != own_attention(self.backbone):
            config["attention"] = self.attention
        if self.trained_dims:
            config["trained_dims"] = list(self.trained_dims)
        return config


@keras.saving.register_keras_serializable(package="cptk")
class GPT2TextEmbedder(TextEmbedder):
    """`TextEmbedder` on GPT-2: cpt-text as in the paper.

    Args:
        backbone: A `keras_hub.models.GPT2Backbone`.
        preprocessor: A `GPT2TextEmbedderPreprocessor`, or `None` for tokenised input.
        pooling: `"eos"`, `"mean"`, `"weighted_mean"`, `"cls"` or `"max"`.
        normalize: Whether embeddings have unit length.
        attention: `"causal"`, as by default, or `"bidirectional"`.

    Example:

    ```pycon
    >>> import cptk
    >>> backbone, preprocessor = embedder.backbone, embedder.preprocessor
    >>> mean = cptk.models.GPT2TextEmbedder(backbone, preprocessor, pooling="mean")
    >>> mean.encode_text("how do I open a file?", role="query").shape
    (1, 16)

    ```
    """

    backbone_cls = keras_hub.models.GPT2Backbone
    preprocessor_cls = GPT2TextEmbedderPreprocessor


def check_projection(projection: object) -> list[Config]:
    """The arguments of each `Dense` of a projection, in full; `ValueError` where it is none."""
    if projection is None:
        return []
    several = isinstance(projection, Sequence) and not isinstance(projection, str)
    checked = []
    for each in projection if isinstance(projection, Sequence) and several else [projection]:
        given = dict(each) if isinstance(each, Mapping) else {"units": each}
        known = {"units", "activation", "use_bias"}
        if not set(given) <= known or not checks.is_integer(given.get("units")):
            raise ValueError(
                "`projection` should be a number of units, a dictionary of `units`, `activation` "
                f"and `use_bias`, or a list of these. Received: {checks.shown(each)}."
            )
        activation = given.get("activation")
        try:
            name = keras.activations.serialize(keras.activations.get(activation))
        except (ValueError, TypeError):
            name = None
        if not isinstance(name, str) or callable(activation):
            raise ValueError(
                "The `activation` of a projection should be the name of one in Keras, such as "
                f"'tanh', or None. Received: {checks.shown(activation)}."
            )
        checked.append(
            {
                "units": checks.integer("units", given["units"], 1),
                "activation": name,
                "use_bias": checks.switch("use_bias", given.get("use_bias", True)),
            }
        )
    return checked


def _can_be_quantized(layer: Layer) -> bool:
    """Whether a layer has weights to quantise: Keras warns of each layer that has none."""
    return type(layer).quantize is not keras.layers.Layer.quantize
