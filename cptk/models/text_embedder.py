"""A KerasHub decoder as a text embedder: backbone, pooling, normalisation, preset."""

from collections.abc import Mapping
from typing import Any, Self

import keras
import keras_hub

from cptk import layers, ops
from cptk.models import presets, saving
from cptk.models.encode import check_sequence_length, encode
from cptk.models.preprocessor import (
    DecoderTextEmbedderPreprocessor,
    GPT2TextEmbedderPreprocessor,
    Role,
)

POOLINGS = {
    "eos": layers.EOSPooling,
    "mean": layers.MeanPooling,
    "weighted_mean": layers.WeightedMeanPooling,
}


@keras.saving.register_keras_serializable(package="cptk")
class DecoderTextEmbedder(keras_hub.models.TextEmbedder):  # type: ignore[misc]
    """Text embedder on any KerasHub decoder backbone.

    The embedding of a text is the backbone's output, pooled over the sequence and divided by its
    Euclidean length. With `"eos"` pooling, as in the paper, it is the state at the last token,
    which is the closing delimiter of the text's role.

    Args:
        backbone: A KerasHub decoder backbone with inputs `token_ids` and `padding_mask`
            (GPT-2, Llama 3 and SmolLM2, Qwen 3, OPT, Gemma 3, …).
        preprocessor: A `DecoderTextEmbedderPreprocessor`, or `None` for tokenised input.
        pooling: `"eos"`, `"mean"` or `"weighted_mean"`.
        normalize: Whether embeddings have unit length.

    Input shape:
        `{"token_ids": (n, length), "padding_mask": (n, length)}`.

    Output shape:
        `(n, hidden_dim)`, float32 also where the backbone computes in 16 bits.

    Raises:
        ValueError: A backbone with other inputs, an unknown pooling, or a `sequence_length` that
            the backbone's position embedding cannot hold.

    Example:

    ```python
    backbone = keras_hub.models.GPT2Backbone(
        vocabulary_size=50257, num_layers=2, num_heads=2, hidden_dim=64, intermediate_dim=128
    )
    embedder = cptk.models.DecoderTextEmbedder(backbone)
    vectors = embedder.predict(
        {"token_ids": np.ones((1, 4), "int32"), "padding_mask": np.ones((1, 4), "bool")}
    )
    ```

    References:
        - Neelakantan et al., Text and Code Embeddings by Contrastive Pre-Training,
          arXiv:2201.10005, section 2.1.
    """

    backbone_cls: Any = None  # Any decoder: KerasHub's registry by backbone has no word for that.
    preprocessor_cls: Any = DecoderTextEmbedderPreprocessor

    def __init__(
        self,
        backbone: Any,
        preprocessor: Any = None,
        pooling: str = "eos",
        normalize: bool = True,
        **kwargs: Any,
    ) -> None:
        if pooling not in list(POOLINGS):
            raise ValueError(f"`pooling` should be one of {list(POOLINGS)}. Received: {pooling!r}.")
        inputs = getattr(backbone, "input", None)
        if not isinstance(inputs, dict) or set(inputs) != {"token_ids", "padding_mask"}:
            received = sorted(inputs) if isinstance(inputs, dict) else type(backbone).__name__
            raise ValueError(
                "`backbone` should be a KerasHub decoder backbone with the inputs "
                f"['padding_mask', 'token_ids']. Received: {received}."
            )
        if preprocessor is not None:
            check_sequence_length(backbone, preprocessor.sequence_length)
        # === Layers ===
        self.backbone = backbone
        self.preprocessor = preprocessor
        # === Functional model ===
        states = backbone(inputs)
        if isinstance(states, dict):
            states = states["sequence_output"]
        # Pooled and normalised in float32, whatever the backbone computes in.
        dtype = "float64" if backbone.compute_dtype == "float64" else "float32"
        x = POOLINGS[pooling](dtype=dtype, name="pooling")(states, mask=inputs["padding_mask"])
        if normalize:
            x = ops.l2_normalize(x)
        super().__init__(inputs=inputs, outputs=x, **kwargs)
        # === Config ===
        self.pooling = pooling
        self.normalize = normalize

    def encode_text(
        self,
        texts: str | Any,
        role: str | None = None,
        batch_size: int = 32,
        verbose: str | int | bool = "auto",
    ) -> Any:
        """Embed texts.

        Texts are tokenised, sorted by length and embedded in batches that are padded to a few
        lengths only, so that little work goes into padding and few shapes are compiled. The
        result does not depend on the order of the texts nor on `batch_size`.

        Args:
            texts: One string, or a sequence of n strings.
            role: Name of the role. Defaults to `"document"`, or to the only role there is.
            batch_size: Number of texts in a batch.
            verbose: `1` shows a progress bar, `0` none, `"auto"` only on long work.

        Returns:
            A float32 array of shape `(n, hidden_dim)`, in the order of `texts`; n is 1 for one
            string. Rows have unit length unless `normalize=False`.

        Raises:
            ValueError: No texts, an empty text, an unknown role, no preprocessor.
            TypeError: Something that is not a string.

        Example:

        ```python
        vectors = embedder.encode_text(["how do I open a file?"], role="query")
        ```
        """
        return encode(self, texts, role, batch_size, verbose)

    @classmethod
    def from_preset(
        cls,
        preset: str,
        load_weights: bool = True,
        *,
        num_layers: int | None = None,
        sequence_length: int | None = None,
        roles: Mapping[str, Role | tuple[Any, Any]] | None = None,
        **kwargs: Any,
    ) -> Self:
        """Load an embedder, or make one from a decoder's preset.

        Args:
            preset: A built-in name (`"gpt2_base_en"`), a `kaggle://` or `hf://` handle, a local
                KerasHub preset folder, a local Hugging Face folder (safetensors), or a folder
                written by `save_to_preset`.
            load_weights: Whether to load the weights or leave them at random.
            num_layers: Keep the first `num_layers` layers only; see
                `cptk.models.keep_first_layers`.
            sequence_length: Replaces that of the preset.
            roles: Replaces those of the preset.
            **kwargs: `pooling`, `normalize`, `dtype`.

        Returns:
            The embedder. Of a folder written by `save_to_preset`, the class that was saved.

        Raises:
            FileNotFoundError: The folder, or a file in it, is missing.
            ValueError: A damaged file; a model that is not a decoder; a bad argument.

        Example:

        ```python
        embedder = cptk.models.GPT2TextEmbedder.from_preset("gpt2_base_en", sequence_length=128)
        ```
        """
        embedder: Self = presets.load_embedder(
            cls, preset, load_weights, num_layers, sequence_length, roles, **kwargs
        )
        return embedder

    def save_to_preset(self, preset_dir: str, max_shard_size: float = 10) -> None:
        """Save as a KerasHub preset, with roles, pooling, normalisation and sequence length.

        The folder appears whole or not at all: it is written beside its final place and changes
        places with the preset that stands there, if one does. A folder that holds anything else,
        at any depth, is refused. What a killed save left behind is cleared by the next one.

        Args:
            preset_dir: The folder to write.
            max_shard_size: Size in GB above which weights are split over files.

        Raises:
            ValueError: `preset_dir` exists and is not a preset, or not only that; a file stands
                where its parent should be; its name is too long.
            OSError: The disk is too full. Nothing has been written then.
        """
        saving.save_embedder(self, super().save_to_preset, preset_dir, max_shard_size)

    def compile_from_config(self, config: dict[str, Any]) -> None:
        # KerasHub's `compile` is its own, and Keras asks such a class to say how it is undone.
        self.compile(**keras.saving.deserialize_keras_object(config))

    def get_config(self) -> dict[str, Any]:
        config = super().get_config()
        presets.complete_config(config["backbone"]["config"], self.backbone)
        return {**config, "pooling": self.pooling, "normalize": self.normalize}


@keras.saving.register_keras_serializable(package="cptk")
class GPT2TextEmbedder(DecoderTextEmbedder):
    """`DecoderTextEmbedder` on GPT-2: cpt-text as in the paper.

    Args:
        backbone: A `keras_hub.models.GPT2Backbone`.
        preprocessor: A `GPT2TextEmbedderPreprocessor`, or `None` for tokenised input.
        pooling: `"eos"`, `"mean"` or `"weighted_mean"`.
        normalize: Whether embeddings have unit length.

    Example:

    ```python
    embedder = cptk.models.GPT2TextEmbedder.from_preset("gpt2_base_en", sequence_length=128)
    vectors = embedder.encode_text(["how do I open a file?"], role="query")
    ```
    """

    backbone_cls = keras_hub.models.GPT2Backbone
    preprocessor_cls = GPT2TextEmbedderPreprocessor
