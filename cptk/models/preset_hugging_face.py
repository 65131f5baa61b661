"""Backbones from Hugging Face's layout that compute what transformers computes, or an error.

KerasHub's converters read some settings of `config.json` and take others for granted. Here what
they leave out is given to the backbone where it has a place for it, and refused where not.
"""

from __future__ import annotations

from collections.abc import Iterable

import keras
import keras_hub
from keras_hub.src.utils import preset_utils
from keras_hub.src.utils.transformers.safetensor_utils import SafetensorLoader
from safetensors import safe_open

from cptk.checks import shown
from cptk.models import configured_backbones
from cptk.models.attention import can_have
from cptk.models.preset_reading import Refused
from cptk.types import Config, DType, Tensor, Variable

#: Model type → settings of `config.json` and the values that KerasHub's layers compute with. The
#: first one is what an absent setting means.
_COMPUTED: dict[str, dict[str, tuple[object, ...]]] = {
    "bert": {"position_embedding_type": ("absolute",), "is_decoder": (False,)},
    "roberta": {"position_embedding_type": ("absolute",), "is_decoder": (False,)},
    "xlm-roberta": {"position_embedding_type": ("absolute",), "is_decoder": (False,)},
    "gpt2": {
        "use_bidirectional_attention": (False, None),
        "activation_function": ("gelu_new", "gelu_pytorch_tanh"),
        "layer_norm_epsilon": (1e-5,),
        "n_inner": (None,),
        "scale_attn_by_inverse_layer_idx": (False,),
        "scale_attn_weights": (True,),
    },
    "llama": {
        "hidden_act": ("silu", "swish"),
        "attention_bias": (False,),
        "mlp_bias": (False,),
        "use_bidirectional_attention": (False, None),
    },
    "qwen2": {
        "hidden_act": ("silu", "swish"),
        "use_sliding_window": (False,),
        "use_bidirectional_attention": (False, None),
    },
    "qwen3": {
        "hidden_act": ("silu", "swish"),
        "attention_bias": (False,),
        "use_sliding_window": (False,),
        "use_bidirectional_attention": (False, None),
    },
    "gemma3_text": {
        "hidden_activation": ("gelu_pytorch_tanh",),
        "attention_bias": (False,),
        "rms_norm_eps": (1e-6,),
        "attn_logit_softcapping": (None,),
    },
}
#: Beginnings and ends of the names of weights that no embedding depends on.
_UNUSED = ("pooler.", "lm_head.", "cls.", "score.", "classifier.")
_UNUSED_ENDS = ("position_ids", "attn.bias", "attn.masked_bias", "rotary_emb.inv_freq")


def is_known(config: Config) -> bool:
    """Whether `load_backbone` knows the model, or KerasHub's converter is left alone with it."""
    return config.get("model_type") in _COMPUTED


def check_settings(config: Config) -> None:
    """Raise `ValueError` for a setting that KerasHub's backbone does not compute with."""
    kind = config["model_type"]
    for name, known in _COMPUTED.get(kind, {}).items():
        value = config.get(name, known[0])
        # GPT-2's `n_inner` may say what its default is.
        if value not in known and not (name == "n_inner" and value == 4 * config.get("n_embd", 0)):
            raise _refused(name, value, " or ".join(map(str, known)))
    activation = config.get("hidden_act", "gelu")
    if (
        kind in ("bert", "roberta", "xlm-roberta")
        and activation not in configured_backbones.ACTIVATIONS
    ):
        raise _refused("hidden_act", activation, ", ".join(configured_backbones.ACTIVATIONS))
    if kind in ("roberta", "xlm-roberta") and config.get("pad_token_id", 1) != 1:
        raise _refused("pad_token_id", config["pad_token_id"], "1")  # positions start behind it
    if kind == "llama":
        heads, width = config.get("num_attention_heads", 1), config.get("hidden_size", 0)
        if config.get("head_dim") not in (None, width // heads):
            raise _refused(
                "head_dim", config["head_dim"], f"hidden_size / heads = {width // heads}"
            )
    if kind == "gemma3_text":
        _check_gemma3(config)


def _check_gemma3(config: Config) -> None:
    """KerasHub's Gemma 3 has five local layers to a global one, and fixed wavelengths."""
    types = config.get("layer_types") or []
    expected = [
        "sliding_attention" if (index + 1) % 6 else "full_attention" for index in range(len(types))
    ]
    if types not in (expected, ["full_attention"] * len(types)):
        raise _refused("layer_types", types, "five sliding layers to a full one")
    for name, theta in (("sliding_attention", 10_000), ("full_attention", 1_000_000)):
        rope = (config.get("rope_parameters") or {}).get(name) or {}
        if name in types and rope.get("rope_theta", theta) != theta:
            raise _refused(f"rope_theta of {name}", rope["rope_theta"], str(theta))
    scalar, heads = config.get("query_pre_attn_scalar"), config.get("num_attention_heads", 1)
    if scalar not in (None, config.get("head_dim"), config.get("hidden_size", 0) // heads):
        raise _refused("query_pre_attn_scalar", scalar, f"head_dim = {config.get('head_dim')}")


def check_bidirectional(backbone: keras_hub.models.Backbone) -> None:
    """Raise `ValueError` where `is_causal = false` asks for what a backbone cannot do.

    transformers, from 5.2 on, then lets each token of a decoder see all others.
    """
    if not can_have("bidirectional", backbone):
        raise _refused("is_causal", False, "True")


def _refused(name: str, value: object, expected: str) -> Refused:
    return Refused(
        f"config.json has {name} = {shown(value)}, and KerasHub's backbone computes with "
        f"{expected}: vectors would differ from the model's. Load it by transformers or "
        "sentence-transformers instead."
    )


def load_backbone(
    loader: preset_utils.PresetLoader, load_weights: bool, dtype: DType | None
) -> keras_hub.models.Backbone:
    """The backbone of a preset in Hugging Face's layout, of a model that `is_known`.

    Args:
        loader: KerasHub's, of that preset.
        load_weights: Whether to load the weights or leave them at random.
        dtype: As for a Keras layer.

    Raises:
        ValueError: A weight that KerasHub's backbone has no place for.
    """
    config, cls = dict(loader.config), loader.check_backbone_class()
    with _Weights(loader.preset) as weights:
        if load_weights and not any("lm_head" in key for key in weights.names()):
            config["tie_word_embeddings"] = True  # an embedder needs no output embedding
        arguments = {**loader.converter.convert_backbone_config(config), "dtype": dtype}
        if config["model_type"] in ("bert", "roberta", "xlm-roberta"):
            arguments["activation"] = configured_backbones.ACTIVATIONS[
                config.get("hidden_act", "gelu")
            ]
            arguments["layer_norm_epsilon"] = config.get("layer_norm_eps", 1e-12)
            arguments["dropout"] = config.get("hidden_dropout_prob", 0.1)
        if config["model_type"] == "llama":
            arguments["layer_norm_epsilon"] = config.get("rms_norm_eps", 1e-6)
        if arguments.get("is_embedding_model"):
            # transformers sees half a window to each side; KerasHub sees one token less on the left
            # where the window is even.
            window = arguments["sliding_window_size"]
            arguments["sliding_window_size"] = window // 2 * 2 + 1
            # The layers that KerasHub puts after EmbeddingGemma are this embedder's own.
            arguments |= {"is_embedding_model": False, "pooling_intermediate_dim": None}
            arguments["embedding_dim"] = None
        backbone = configured_backbones.CONFIGURED.get(cls, cls)(**arguments)
        if load_weights:
            preset_utils.jax_memory_cleanup(backbone)
            loader.converter.convert_weights(backbone, weights, config)
            if config["model_type"] == "roberta":
                # Every token is of type 0. KerasHub has no such embedding, and its converter leaves
                # it out for this model alone.
                position = backbone.embeddings.position_embedding.position_embeddings
                types = weights.get_tensor("roberta.embeddings.token_type_embeddings.weight")
                position.assign_add(keras.ops.broadcast_to(types[0], position.shape))
            weights.check_all_read(cls.__name__)
    return backbone


class _Weights(SafetensorLoader):  # type: ignore[misc]
    """KerasHub's reader, for folders of the bare model too, which has no prefix before a name.

    sentence-transformers saves a `LlamaModel` or a `RobertaModel`, without a head and, of some,
    without a pooler; KerasHub's converters ask for names as in a model with a head.
    """

    def __init__(self, preset: str) -> None:
        super().__init__(preset)
        self._read: set[str] = set()

    def names(self) -> list[str]:
        """The names of all weights in the files."""
        if self.safetensor_config is not None:
            return list(self.safetensor_config["weight_map"])
        path = preset_utils.get_file(self.preset, preset_utils.SAFETENSOR_FILE)
        with safe_open(path, framework="np") as file:
            return list(file.keys())

    def get_prefixed_key(self, hf_weight_key: str, dict_like: object) -> str:
        keys: Iterable[str] = dict_like.keys()  # type: ignore[attr-defined]
        bare = hf_weight_key.partition(".")[2]
        if hf_weight_key.startswith(("model.", "roberta.")) and bare in keys:
            hf_weight_key = bare
        found: str = super().get_prefixed_key(hf_weight_key, dict_like)
        self._read.add(found)
        return found

    def port_weight(
        self, keras_variable: Variable, hf_weight_key: str, hook_fn: object = None
    ) -> Tensor:
        pooler = "pooler." in hf_weight_key
        if pooler and not any(name.endswith(hf_weight_key) for name in self.names()):
            return  # no embedding depends on it
        super().port_weight(keras_variable, hf_weight_key, hook_fn)

    def check_all_read(self, backbone: str) -> None:
        """Raise `ValueError` for weights in the files that the backbone has no place for."""
        left = [
            name
            for name in self.names()
            if name not in self._read
            and not name.endswith(_UNUSED_ENDS)
            and not any(f".{part}" in f".{name}" for part in _UNUSED)
        ]
        if left:
            raise Refused(
                f"The files hold weights that KerasHub's {backbone} has no place for: "
                f"{shown(sorted(left), 200)}. Vectors would differ from the model's."
            )
