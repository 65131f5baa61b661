"""GPT-2, Llama, Qwen 2, Qwen 3 and Gemma 3 under transformers' names."""

from __future__ import annotations

import numpy as np

from cptk import checks
from cptk.export.parts import array, kernel, linear
from cptk.types import Config, Model, Vectors

#: Tokens that a text may have at least: these models count positions by rotation, without end.
_POSITIONS = 2048

# === GPT-2 ===


def gpt2_config(backbone: Model, longest: int) -> Config:
    """What `config.json` says of a GPT-2."""
    dropout = float(backbone.dropout)
    return {
        "model_type": "gpt2",
        "architectures": ["GPT2Model"],
        "vocab_size": backbone.vocabulary_size,
        "n_positions": backbone.max_sequence_length,
        "n_embd": backbone.hidden_dim,
        "n_layer": backbone.num_layers,
        "n_head": backbone.num_heads,
        "n_inner": backbone.intermediate_dim,
        "activation_function": "gelu_new",
        "layer_norm_epsilon": 1e-5,
        "resid_pdrop": dropout,
        "embd_pdrop": dropout,
        "attn_pdrop": dropout,
    }


def gpt2(backbone: Model) -> dict[str, Vectors]:
    """The weights of a GPT-2, whose matrices are `(in, out)`."""
    width = backbone.hidden_dim
    found = {
        "wte.weight": array(backbone.token_embedding.embeddings),
        "wpe.weight": array(backbone.position_embedding.position_embeddings),
        "ln_f.weight": array(backbone.layer_norm.gamma),
        "ln_f.bias": array(backbone.layer_norm.beta),
    }
    for index, layer in enumerate(backbone.transformer_layers):
        name, attention = f"h.{index}", layer._self_attention_layer
        parts = (attention.query_dense, attention.key_dense, attention.value_dense)
        joined = [kernel(part).reshape(width, width) for part in parts]
        found |= {
            f"{name}.attn.c_attn.weight": np.hstack(joined),
            f"{name}.attn.c_attn.bias": np.hstack([array(p.bias).reshape(-1) for p in parts]),
            f"{name}.attn.c_proj.weight": kernel(attention.output_dense).reshape(width, width),
            f"{name}.attn.c_proj.bias": array(attention.output_dense.bias),
            f"{name}.mlp.c_fc.weight": kernel(layer._feedforward_intermediate_dense),
            f"{name}.mlp.c_fc.bias": array(layer._feedforward_intermediate_dense.bias),
            f"{name}.mlp.c_proj.weight": kernel(layer._feedforward_output_dense),
            f"{name}.mlp.c_proj.bias": array(layer._feedforward_output_dense.bias),
            f"{name}.ln_1.weight": array(layer._self_attention_layer_norm.gamma),
            f"{name}.ln_1.bias": array(layer._self_attention_layer_norm.beta),
            f"{name}.ln_2.weight": array(layer._feedforward_layer_norm.gamma),
            f"{name}.ln_2.bias": array(layer._feedforward_layer_norm.beta),
        }
    return found


# === Llama, Qwen 2, Qwen 3 ===


def llama_config(backbone: Model, longest: int) -> Config:
    """What `config.json` says of a Llama."""
    _check_plain("rope_position_scaling_factor", backbone.rope_position_scaling_factor)
    config = {
        "model_type": "llama",
        "architectures": ["LlamaModel"],
        **_llama_like(backbone, longest),
        "head_dim": backbone.hidden_dim // backbone.num_query_heads,
        "attention_bias": False,
        "mlp_bias": False,
    }
    if backbone.rope_frequency_adjustment_factor is not None:
        config["rope_scaling"] = {
            "rope_type": "llama3",
            "factor": float(backbone.rope_frequency_adjustment_factor),
            "low_freq_factor": float(backbone.rope_low_freq_factor),
            "high_freq_factor": float(backbone.rope_high_freq_factor),
            "original_max_position_embeddings": int(backbone.rope_pretraining_sequence_length),
        }
        config["max_position_embeddings"] = max(longest, 131072)
    return config


def qwen2_config(backbone: Model, longest: int) -> Config:
    """What `config.json` says of a Qwen 2."""
    _check_plain("rope_scaling_factor", backbone.rope_scaling_factor)
    _check_window(backbone.use_sliding_window_attention, backbone.sliding_window_size, longest)
    return {
        "model_type": "qwen2",
        "architectures": ["Qwen2Model"],
        **_llama_like(backbone, longest),
        "use_sliding_window": False,
        "sliding_window": None,
    }


def qwen3_config(backbone: Model, longest: int) -> Config:
    """What `config.json` says of a Qwen 3."""
    _check_plain("rope_scaling_factor", backbone.rope_scaling_factor)
    window = backbone.sliding_window_size
    _check_window(window is not None, window, longest)
    inner = backbone.transformer_layers[0]._self_attention_layer._query_dense_layer_norm.epsilon
    if float(inner) != float(backbone.layer_norm_epsilon):
        raise ValueError(
            f"KerasHub's Qwen3Backbone has the epsilon {inner:g} within attention and "
            f"{backbone.layer_norm_epsilon:g} elsewhere; transformers has one for both. Load the "
            "model's Hugging Face folder by cptk.models.TextEmbedder.from_preset(folder), which "
            "computes as transformers does, and train that."
        )
    return {
        "model_type": "qwen3",
        "architectures": ["Qwen3Model"],
        **_llama_like(backbone, longest),
        "head_dim": backbone.head_dim,
        "attention_bias": False,
        "use_sliding_window": False,
        "sliding_window": None,
    }


def _llama_like(backbone: Model, longest: int) -> Config:
    return {
        "vocab_size": backbone.vocabulary_size,
        "hidden_size": backbone.hidden_dim,
        "num_hidden_layers": backbone.num_layers,
        "num_attention_heads": backbone.num_query_heads,
        "num_key_value_heads": backbone.num_key_value_heads,
        "intermediate_size": backbone.intermediate_dim,
        "max_position_embeddings": max(longest, _POSITIONS),
        "rope_theta": float(backbone.rope_max_wavelength),
        "rms_norm_eps": float(backbone.layer_norm_epsilon),
        "hidden_act": "silu",
        "attention_dropout": float(backbone.dropout),
        "tie_word_embeddings": True,
    }


def llama(backbone: Model) -> dict[str, Vectors]:
    """The weights of a Llama; of Qwen 2 with biases, of Qwen 3 with norms of queries and keys."""
    found = {
        "embed_tokens.weight": array(backbone.token_embedding.embeddings),
        "norm.weight": array(backbone.layer_norm.scale),
    }
    for index, layer in enumerate(backbone.transformer_layers):
        name, attention = f"layers.{index}", layer._self_attention_layer
        found |= {
            f"{name}.input_layernorm.weight": array(layer._self_attention_layernorm.scale),
            f"{name}.post_attention_layernorm.weight": array(layer._feedforward_layernorm.scale),
            **linear(f"{name}.self_attn.q_proj", attention._query_dense, 1),
            **linear(f"{name}.self_attn.k_proj", attention._key_dense, 1),
            **linear(f"{name}.self_attn.v_proj", attention._value_dense, 1),
            **linear(f"{name}.self_attn.o_proj", attention._output_dense, 2),
            **linear(f"{name}.mlp.gate_proj", layer._feedforward_gate_dense, 1),
            **linear(f"{name}.mlp.up_proj", layer._feedforward_intermediate_dense, 1),
            **linear(f"{name}.mlp.down_proj", layer._feedforward_output_dense, 1),
        }
        for part in ("query", "key"):
            norm = getattr(attention, f"_{part}_dense_layer_norm", None)
            if norm is not None:
                found[f"{name}.self_attn.{part[0]}_norm.weight"] = array(norm.scale)
    return found


# === Gemma 3 ===


def gemma3_config(backbone: Model, longest: int) -> Config:
    """What `config.json` says of a Gemma 3 of text."""
    fixed = {
        "vision_encoder": None,
        "is_embedding_model": False,
        "attention_logit_soft_cap": None,
        "use_query_key_norm": True,
        "use_post_ffw_norm": True,
        "use_post_attention_norm": True,
    }
    for name, expected in fixed.items():
        if getattr(backbone, name) != expected:
            raise _no_place(name, getattr(backbone, name))
    inner = backbone.transformer_layers[0].layer_norm_epsilon
    if float(inner) != float(backbone.layer_norm_epsilon):  # KerasHub keeps 1e-6 within its layers
        raise _no_place("layer_norm_epsilon", backbone.layer_norm_epsilon)
    heads, width = backbone.num_query_heads, backbone.hidden_dim
    normalizer = backbone.head_dim if backbone.query_head_dim_normalize else width // heads
    layers = [backbone.get_layer(f"decoder_block_{i}") for i in range(backbone.num_layers)]
    kinds = ["sliding_attention", "full_attention"]
    types = [kinds[not layer.use_sliding_window_attention] for layer in layers]
    waves = {"sliding_attention": 10_000.0, "full_attention": 1_000_000.0}
    waves |= {kind: float(la.rope_wavelength) for kind, la in zip(types, layers, strict=True)}
    factors = [backbone.local_rope_scaling_factor, backbone.global_rope_scaling_factor]
    ropes = {
        kind: {"rope_type": "linear", "rope_theta": waves[kind], "factor": float(factor)}
        for kind, factor in zip(kinds, factors, strict=True)
    }
    return {
        "model_type": "gemma3_text",
        "architectures": ["Gemma3TextModel"],
        "vocab_size": backbone.vocabulary_size,
        "hidden_size": width,
        "num_hidden_layers": backbone.num_layers,
        "num_attention_heads": heads,
        "num_key_value_heads": backbone.num_key_value_heads,
        "head_dim": backbone.head_dim,
        "intermediate_size": backbone.intermediate_dim,
        "rms_norm_eps": float(backbone.layer_norm_epsilon),
        "hidden_activation": "gelu_pytorch_tanh",
        "attention_bias": False,
        "attention_dropout": float(backbone.dropout),
        "attn_logit_softcapping": None,
        "query_pre_attn_scalar": normalizer,
        "max_position_embeddings": max(longest, _POSITIONS),
        "layer_types": types,
        "sliding_window": _gemma3_window(backbone),
        "rope_parameters": ropes,
        "use_bidirectional_attention": bool(backbone.use_bidirectional_attention),
        "tie_word_embeddings": True,
    }


def _gemma3_window(backbone: Model) -> int:
    """Half a window to each side is what transformers sees where attention is bidirectional."""
    window = int(backbone.sliding_window_size)
    if not backbone.use_bidirectional_attention or not backbone.use_sliding_window_attention:
        return window
    if window % 2 == 0:  # KerasHub then sees one token less on the left
        raise _no_place("an even sliding_window_size with bidirectional attention", window)
    return window - 1


def gemma3(backbone: Model) -> dict[str, Vectors]:
    """The weights of a Gemma 3 of text."""
    found = {
        "embed_tokens.weight": array(backbone.token_embedding.embeddings),
        "norm.weight": array(backbone.layer_norm.scale),
    }
    for index in range(backbone.num_layers):
        layer, name = backbone.get_layer(f"decoder_block_{index}"), f"layers.{index}"
        attention = layer.attention
        norms = {
            "input_layernorm": layer.pre_attention_norm,
            "post_attention_layernorm": layer.post_attention_norm,
            "pre_feedforward_layernorm": layer.pre_ffw_norm,
            "post_feedforward_layernorm": layer.post_ffw_norm,
            "self_attn.q_norm": attention.query_norm,
            "self_attn.k_norm": attention.key_norm,
        }
        found |= {f"{name}.{key}.weight": array(norm.scale) for key, norm in norms.items()}
        heads = {"q": attention.query_dense, "k": attention.key_dense, "v": attention.value_dense}
        for letter, dense in heads.items():  # (heads, in, head)
            weight = kernel(dense).transpose(0, 2, 1)
            found[f"{name}.self_attn.{letter}_proj.weight"] = weight.reshape(-1, weight.shape[-1])
        found |= {
            **linear(f"{name}.self_attn.o_proj", attention.output_dense, 2),
            **linear(f"{name}.mlp.gate_proj", layer.gating_ffw, 1),
            **linear(f"{name}.mlp.up_proj", layer.gating_ffw_2, 1),
            **linear(f"{name}.mlp.down_proj", layer.ffw_linear, 1),
        }
    return found


def _check_window(used: bool, window: int, longest: int) -> None:
    """A window that holds every text changes nothing; KerasHub's has another form than theirs."""
    if used and int(window) < longest:
        raise _no_place("sliding_window_size", window)


def _check_plain(name: str, factor: object) -> None:
    if factor not in (None, 1, 1.0):
        raise _no_place(name, factor)


def _no_place(name: str, value: object) -> ValueError:
    return ValueError(
        f"The backbone has {name} = {checks.shown(value)}, for which Hugging Face's layout has no "
        "exact place. Export it to ONNX, SavedModel or LiteRT, which take every backbone."
    )
