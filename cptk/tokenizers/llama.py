"""A Llama 3 tokenizer that survives a preset."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import keras
import keras_hub

from cptk.tokenizers.config_file import check_config_file
from cptk.types import Config, Path


@keras.saving.register_keras_serializable(package="cptk")
class LlamaBPETokenizer(keras_hub.models.Llama3Tokenizer):  # type: ignore[misc]
    """A `Llama3Tokenizer` whose config keeps its special tokens.

    KerasHub 0.32's `Llama3Tokenizer` forgets them. Saved with SmolLM2's `<|im_start|>`, it asks for
    Llama 3's `<|begin_of_text|>` when it is loaded, and fails.

    Args:
        vocabulary, merges: As in KerasHub.
        bos_token, eos_token: Text of the first and the last token of a document.
        misc_special_tokens: The other tokens never to be split.
    """

    backbone_cls = None  # Not a candidate when KerasHub looks for the tokenizer of a backbone.

    def __init__(
        self,
        vocabulary: Mapping[str, int] | Path | None = None,
        merges: Sequence[str] | Path | None = None,
        bos_token: str = "<|begin_of_text|>",
        eos_token: str = "<|end_of_text|>",
        misc_special_tokens: Sequence[str] = ("<|start_header_id|>", "<|end_header_id|>"),
        **kwargs: object,
    ) -> None:
        check_config_file(kwargs.get("config_file", "tokenizer.json"))
        self._bos, self._eos = bos_token, eos_token
        self._misc = tuple(sorted(misc_special_tokens))
        super().__init__(
            vocabulary=vocabulary,
            merges=merges,
            bos_token=bos_token,
            eos_token=eos_token,
            misc_special_tokens=set(misc_special_tokens),
            **kwargs,
        )

    @classmethod
    def from_llama3(
        cls, tokenizer: keras_hub.tokenizers.Tokenizer
    ) -> keras_hub.tokenizers.Tokenizer:
        """The same tokenizer in this class, if it is a `Llama3Tokenizer` that has its vocabulary.

        Any other tokenizer comes back as it is.
        """
        if type(tokenizer) is not keras_hub.models.Llama3Tokenizer or tokenizer.vocabulary is None:
            return tokenizer
        return cls(
            vocabulary=dict(tokenizer.vocabulary),
            merges=list(tokenizer.merges),
            bos_token=tokenizer.start_token,
            eos_token=tokenizer.end_token,
            misc_special_tokens=tokenizer.special_tokens,
            **{
                key: value
                for key, value in tokenizer.get_config().items()
                if key in ("name", "sequence_length", "add_prefix_space", "unsplittable_tokens")
            },
        )

    def get_config(self) -> Config:
        return {
            **super().get_config(),
            "bos_token": self._bos,
            "eos_token": self._eos,
            "misc_special_tokens": list(self._misc),
        }
