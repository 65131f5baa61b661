"""BERT, RoBERTa and XLM-RoBERTa under transformers' names."""

from __future__ import annotations

import keras
import numpy as np

from cptk import checks
from cptk.export.parts import array, linear
from cptk.types import Config, Layer, Model, Vectors

#: Name of an activation in `config.json` → the function.
_ACTIVATIONS = {
    "gelu": keras.activations.gelu,
    "gelu_pytorch_tanh": lambda x: keras.activations.gelu(x, approximate=True),
    "relu": keras.activations.relu,
    "silu": keras.activations.silu,
}
#: RoBERTa's first two positions are for padding; KerasHub has none of them.
_OFFSET = 2


def bert_config(backbone: Model, longest: int) -> Config:
    """What `config.json` says of a BERT."""
    return {
        "model_type": "bert",
        "architectures": ["BertModel"],
        **_shared_config(backbone),
        "max_position_embeddings": backbone.max_sequence_length,
        "type_vocab_size": backbone.num_segments,
        "pad_token_id": 0,
    }


def roberta_config(backbone: Model, longest: int) -> Config:
    """What `config.json` says of a RoBERTa or XLM-RoBERTa."""
    return {
        **_shared_config(backbone),
        "max_position_embeddings": backbone.max_sequence_length + _OFFSET,
        "type_vocab_size": 1,
        "pad_token_id": 1,
    }


def _shared_config(backbone: Model) -> Config:
    layer = backbone.transformer_layers[0]
    return {
        "vocab_size": backbone.vocabulary_size,
        "hidden_size": backbone.hidden_dim,
        "num_hidden_layers": backbone.num_layers,
        "num_attention_heads": backbone.num_heads,
        "intermediate_size": backbone.intermediate_dim,
        "hidden_act": _activation(layer),
        "layer_norm_eps": float(layer._feedforward_layer_norm.epsilon),
        "hidden_dropout_prob": float(backbone.dropout),
        "attention_probs_dropout_prob": float(backbone.dropout),
        "position_embedding_type": "absolute",
    }


def _activation(layer: Layer) -> str:
    """The name of a layer's activation, told by its values: KerasHub gives functions of its own."""
    points = np.linspace(-4, 4, 33).astype(np.float32)
    function = layer._feedforward_intermediate_dense.activation
    found = array(function(keras.ops.convert_to_tensor(points)))
    for name, known in _ACTIVATIONS.items():
        if np.abs(array(known(keras.ops.convert_to_tensor(points))) - found).max() < 1e-6:
            return name
    raise ValueError(
        f"The activation {checks.shown(function)} has no name in Hugging Face's layout. Known: "
        f"{', '.join(_ACTIVATIONS)}."
    )


def bert(backbone: Model) -> dict[str, Vectors]:
    """The weights of a BERT."""
    return {
        "embeddings.word_embeddings.weight": array(backbone.token_embedding.embeddings),
        "embeddings.position_embeddings.weight": array(
            backbone.position_embedding.position_embeddings
        ),
        "embeddings.token_type_embeddings.weight": array(backbone.segment_embedding.embeddings),
        **_layers(backbone),
        **linear("pooler.dense", backbone.pooled_dense, 1),
    }


def roberta(backbone: Model) -> dict[str, Vectors]:
    """The weights of a RoBERTa; its one token type is in the positions already."""
    positions = array(backbone.embeddings.position_embedding.position_embeddings)
    width = positions.shape[1]
    return {
        "embeddings.word_embeddings.weight": array(backbone.token_embedding.embeddings),
        "embeddings.position_embeddings.weight": np.vstack(
            [np.zeros((_OFFSET, width), np.float32), positions]
        ),
        "embeddings.token_type_embeddings.weight": np.zeros((1, width), np.float32),
        **_layers(backbone),
        # No embedding depends on the pooler. Without one transformers makes one up and warns.
        "pooler.dense.weight": np.zeros((width, width), np.float32),
        "pooler.dense.bias": np.zeros(width, np.float32),
    }


def _layers(backbone: Model) -> dict[str, Vectors]:
    found = _norm("embeddings.LayerNorm", backbone.embeddings_layer_norm)
    for index, layer in enumerate(backbone.transformer_layers):
        name, attention = f"encoder.layer.{index}", layer._self_attention_layer
        found |= {
            **linear(f"{name}.attention.self.query", attention.query_dense, 1),
            **linear(f"{name}.attention.self.key", attention.key_dense, 1),
            **linear(f"{name}.attention.self.value", attention.value_dense, 1),
            **linear(f"{name}.attention.output.dense", attention.output_dense, 2),
            **_norm(f"{name}.attention.output.LayerNorm", layer._self_attention_layer_norm),
            **linear(f"{name}.intermediate.dense", layer._feedforward_intermediate_dense, 1),
            **linear(f"{name}.output.dense", layer._feedforward_output_dense, 1),
            **_norm(f"{name}.output.LayerNorm", layer._feedforward_layer_norm),
        }
    return found


def _norm(name: str, layer: Layer) -> dict[str, Vectors]:
    return {f"{name}.weight": array(layer.gamma), f"{name}.bias": array(layer.beta)}
