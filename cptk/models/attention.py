"""Which tokens of its text a token sees: those before it, or all."""

from __future__ import annotations

import functools
from typing import Literal, TypeAlias

import keras_hub
from keras import ops

from cptk import checks
from cptk.models.configured_backbones import is_encoder
from cptk.types import Layer, Tensor

Attention: TypeAlias = Literal["bidirectional", "causal"]

SEEN_BY_ALL = 2
"""In a padding mask: a token that those before it see, too; 1 is a token, and 0 padding."""

#: Backbones whose layers are told by the padding mask alone what a token sees.
_DECODERS = tuple(
    getattr(keras_hub.models, f"{name}Backbone") for name in ("GPT2", "Llama", "Qwen", "Qwen3")
)


def own_attention(backbone: keras_hub.models.Backbone) -> Attention:
    """The attention that a backbone was made with."""
    both_ways = is_encoder(backbone) or getattr(backbone, "use_bidirectional_attention", False)
    return "bidirectional" if both_ways else "causal"


def can_have(attention: str, backbone: keras_hub.models.Backbone) -> bool:
    """Whether an embedder on a backbone can have an attention."""
    return attention == own_attention(backbone) or isinstance(backbone, _DECODERS)


def check_attention(attention: object, backbone: keras_hub.models.Backbone) -> None:
    """Raise `ValueError` for an attention that is unknown or that a backbone cannot have."""
    if can_have(checks.choice("attention", attention, ("bidirectional", "causal")), backbone):
        return
    kind = type(backbone).__name__
    if attention == "causal":
        raise ValueError(
            f"`attention='causal'` is for decoders: every token of {kind} sees all others. "
            "Leave `attention` out."
        )
    known = ", ".join(each.__name__ for each in _DECODERS)
    raise ValueError(
        f"`attention='bidirectional'` works on {known} (Llama 3 and SmolLM2 are Llamas), and is "
        f"what encoders have anyway. Received: a {kind}. Leave `attention` out, or take one of "
        "these."
    )


def seen_by_all(backbone: keras_hub.models.Backbone, mask: Tensor) -> Tensor:
    """The padding mask with which every token of a causal backbone sees its whole text.

    KerasHub's layers put the causal mask over every other, and no argument of theirs takes it off.
    So each layer of `backbone` learns to read one more value in the padding mask, `SEEN_BY_ALL`.
    Of zeros and ones it makes what it made before: another embedder or a language model may have
    the same backbone, and stays causal. A copy by `keras.models.clone_model` has layers of its own,
    which have not learnt it. (Ours.)

    Args:
        backbone: One of `_DECODERS`; its layers are changed in place, as said.
        mask: `(n, length)`, true at tokens.

    Returns:
        `(n, length)`, int32, for the backbone's input `padding_mask`.
    """
    for layer in backbone.transformer_layers:
        layer._compute_self_attention_mask = functools.partial(_attention_mask, layer)
    return SEEN_BY_ALL * ops.cast(mask, "int32")


def _attention_mask(
    layer: Layer, decoder_padding_mask: Tensor | None = None, **others: object
) -> Tensor:
    """What of each text the layer's tokens see: `(n, length, length)`, the last axis that seen."""
    causal = type(layer)._compute_self_attention_mask(
        layer, decoder_padding_mask=decoder_padding_mask, **others
    )
    if decoder_padding_mask is None:
        return causal
    by_all = ops.expand_dims(ops.equal(decoder_padding_mask, SEEN_BY_ALL), axis=1)
    return ops.maximum(causal, ops.cast(by_all, causal.dtype))
