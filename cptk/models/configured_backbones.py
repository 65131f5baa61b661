"""KerasHub's backbones with the settings that a model was trained with.

KerasHub 0.32's BERT always computes GELU by its tanh approximation. Hugging Face's `"gelu"`, which
almost all published encoders have, is the exact one: vectors differ by 4e-4. Its Qwen 3 has an
epsilon of its own within attention. So a Hugging Face folder is loaded into these classes, which
keep such settings in their config.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import keras
import keras_hub

from cptk import checks
from cptk.models.encoder_layer import EncoderLayer, gelu
from cptk.types import Config, Model

#: Names of activations in a Hugging Face `config.json` → the function in Keras.
ACTIVATIONS: Mapping[str, str] = MappingProxyType(
    {
        "gelu": "gelu",
        "gelu_new": "gelu_approximate",
        "gelu_pytorch_tanh": "gelu_approximate",
        "relu": "relu",
        "silu": "silu",
        "swish": "silu",
    }
)


class _AsConfigured:
    """A post-norm encoder whose layers have a given activation and epsilon.

    Args:
        activation: `"gelu"`, which is exact, `"gelu_approximate"`, `"relu"` or `"silu"`.
        layer_norm_epsilon: That of every layer normalisation.
        **kwargs: Those of KerasHub's class.
    """

    def __init__(
        self, activation: str = "gelu", layer_norm_epsilon: float = 1e-12, **kwargs: object
    ) -> None:
        checks.choice("activation", activation, set(ACTIVATIONS.values()))
        super().__init__(**kwargs)
        model: Model = self
        own = {"gelu": gelu, "gelu_approximate": _gelu_approximate}
        function = keras.activations.get(own.get(activation, activation))
        # No weight depends on either, and a functional model calls its layers anew.
        model.embeddings_layer_norm.epsilon = layer_norm_epsilon
        for layer in model.transformer_layers:
            layer.__class__ = EncoderLayer
            layer.activation = function
            layer._feedforward_intermediate_dense.activation = function
            layer.layer_norm_epsilon = layer_norm_epsilon
            layer._self_attention_layer_norm.epsilon = layer_norm_epsilon
            layer._feedforward_layer_norm.epsilon = layer_norm_epsilon
        self.activation = activation
        self.layer_norm_epsilon = layer_norm_epsilon

    def get_config(self) -> Config:
        return {
            **super().get_config(),  # type: ignore[misc]
            "activation": self.activation,
            "layer_norm_epsilon": self.layer_norm_epsilon,
        }


@keras.saving.register_keras_serializable(package="cptk")
class BertBackbone(_AsConfigured, keras_hub.models.BertBackbone):  # type: ignore[misc]
    """KerasHub's `BertBackbone` with an activation and an epsilon."""


@keras.saving.register_keras_serializable(package="cptk")
class RobertaBackbone(_AsConfigured, keras_hub.models.RobertaBackbone):  # type: ignore[misc]
    """KerasHub's `RobertaBackbone` with an activation and an epsilon."""


@keras.saving.register_keras_serializable(package="cptk")
class XLMRobertaBackbone(_AsConfigured, keras_hub.models.XLMRobertaBackbone):  # type: ignore[misc]
    """KerasHub's `XLMRobertaBackbone` with an activation and an epsilon."""


@keras.saving.register_keras_serializable(package="cptk")
class Qwen3Backbone(keras_hub.models.Qwen3Backbone):  # type: ignore[misc]
    """KerasHub's `Qwen3Backbone` with `layer_norm_epsilon` in the norms of queries and keys too."""

    def __init__(self, layer_norm_epsilon: float = 1e-6, **kwargs: object) -> None:
        super().__init__(layer_norm_epsilon=layer_norm_epsilon, **kwargs)
        for layer in self.transformer_layers:
            attention = layer._self_attention_layer
            attention.layer_norm_epsilon = layer_norm_epsilon
            attention._query_dense_layer_norm.epsilon = layer_norm_epsilon
            attention._key_dense_layer_norm.epsilon = layer_norm_epsilon


CONFIGURED: Mapping[type, type] = MappingProxyType(
    {
        keras_hub.models.BertBackbone: BertBackbone,
        keras_hub.models.RobertaBackbone: RobertaBackbone,
        keras_hub.models.XLMRobertaBackbone: XLMRobertaBackbone,
        keras_hub.models.Qwen3Backbone: Qwen3Backbone,
    }
)
"""KerasHub's class → ours."""


def is_encoder(backbone: keras_hub.models.Backbone) -> bool:
    """Whether every token of a backbone sees all others, as in BERT."""
    # KerasHub's encoders say where their first token stands; its decoders have none.
    names = ("cls_token_index", "start_token_index")
    return any(hasattr(backbone, name) for name in names)


def _gelu_approximate(x: object) -> object:
    return keras.activations.gelu(x, approximate=True)
