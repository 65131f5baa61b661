"""Backbones in Hugging Face's layout: the inverse of KerasHub's converters, with exact settings.

KerasHub's own exporters take some settings for granted (GPT-2's head, Llama's epsilon in bfloat16's
name, Qwen's window) and have none for encoders and Qwen 3. So the weights are named here, and
`config.json` says what the layers compute.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import keras_hub
import numpy as np

from cptk import checks
from cptk.export import decoder_weights, encoder_weights
from cptk.types import Config, Model, Vectors

Weights = dict[str, Vectors]

#: KerasHub's class → the config and the weights of one. A subclass counts as its base.
_FAMILIES: Mapping[str, tuple[Callable[[Model, int], Config], Callable[[Model], Weights]]] = (
    MappingProxyType(
        {
            "BertBackbone": (encoder_weights.bert_config, encoder_weights.bert),
            "RobertaBackbone": (encoder_weights.roberta_config, encoder_weights.roberta),
            "XLMRobertaBackbone": (encoder_weights.roberta_config, encoder_weights.roberta),
            "GPT2Backbone": (decoder_weights.gpt2_config, decoder_weights.gpt2),
            "LlamaBackbone": (decoder_weights.llama_config, decoder_weights.llama),
            "QwenBackbone": (decoder_weights.qwen2_config, decoder_weights.llama),
            "Qwen3Backbone": (decoder_weights.qwen3_config, decoder_weights.llama),
            "Gemma3Backbone": (decoder_weights.gemma3_config, decoder_weights.gemma3),
        }
    )
)
#: Those that see what stands before them alone, unless they are told otherwise.
DECODERS = ("GPT2Backbone", "LlamaBackbone", "QwenBackbone", "Qwen3Backbone")
NAMES = "BERT, RoBERTa, XLM-RoBERTa, GPT-2, Llama (Llama 3, SmolLM2), Qwen 2, Qwen 3, Gemma 3"


def family(backbone: keras_hub.models.Backbone) -> str:
    """The name of the KerasHub class that a backbone is written as.

    Raises:
        ValueError: A backbone of another kind.
    """
    for cls in type(backbone).__mro__:
        if cls.__name__ in _FAMILIES and cls.__module__.startswith("keras_hub."):
            return cls.__name__
    raise ValueError(
        f"A {type(backbone).__name__} cannot be written exactly in Hugging Face's layout. These "
        f"can: {NAMES}. ONNX, SavedModel and LiteRT take every backbone."
    )


def config_and_weights(
    backbone: keras_hub.models.Backbone, bidirectional: bool, longest: int
) -> tuple[Config, Weights]:
    """What `config.json` and `model.safetensors` should hold.

    LoRA is merged. No output embedding is written: an embedder has no use for one.

    Args:
        backbone: One of those of `NAMES`.
        bidirectional: Whether a token sees those behind it.
        longest: Tokens that a text may have, for models that count no positions themselves.

    Raises:
        ValueError: Another backbone, or one with a setting that the layout has no exact place for.
    """
    kind = family(backbone)
    make_config, make_weights = _FAMILIES[kind]
    config = make_config(backbone, longest)
    if kind in ("RobertaBackbone", "XLMRobertaBackbone"):
        xlm = kind == "XLMRobertaBackbone"
        config["model_type"] = "xlm-roberta" if xlm else "roberta"
        config["architectures"] = ["XLMRobertaModel" if xlm else "RobertaModel"]
    if bidirectional and kind in DECODERS:
        config["is_causal"] = False
    config["torch_dtype"] = "float32"
    # safetensors writes the memory of an array, whatever its strides say.
    weights = {name: np.ascontiguousarray(each) for name, each in make_weights(backbone).items()}
    broken = [name for name, weight in weights.items() if not _is_finite(weight)]
    if broken:
        raise ValueError(
            f"The weights {checks.shown(broken)} are not finite: training may have diverged. Load "
            "an earlier state of the embedder."
        )
    return config, weights


def _is_finite(weight: Vectors) -> bool:
    """Whether no number is NaN or infinite."""
    total = float(abs(weight).max(initial=0))
    return total == total and total != float("inf")
