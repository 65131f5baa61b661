"""Texts to padded token ids, with a role's prefix and suffix around each text."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple, TypeAlias, TypeGuard

import keras
import keras_hub
import numpy as np

from cptk import checks
from cptk.data.batching import pad_tokens
from cptk.tokenizers import LlamaBPETokenizer, ReferenceTokenizer
from cptk.tokenizers.config_file import check_config_file
from cptk.types import Config, Shape, Tensor, TensorLike

Affix: TypeAlias = str | Sequence[int]
"""What stands before or after a text: a string or token ids."""


class Role(NamedTuple):
    """What stands before and after a text: two strings, or two lists of token ids.

    A string is tokenised once, on its own, so that the ids of the text never depend on its role.
    A `prompt` is otherwise: the text is tokenised with it before it, as one string, as
    sentence-transformers does it. Where the whole is too long, it is cut like the text's own end.

    Example:

    ```pycon
    >>> import cptk
    >>> role = cptk.models.Role(prefix="[", suffix="]")
    >>> preprocessor = cptk.models.TextEmbedderPreprocessor(
    ...     embedder.preprocessor.tokenizer, sequence_length=128, roles={"text": role}
    ... )
    >>> preprocessor.tokenize(["a"], role="text")
    [[58, 64, 60]]

    ```
    """

    prefix: Affix = ""
    suffix: Affix = ""
    prompt: str = ""


RolesLike: TypeAlias = Mapping[str, Role | Sequence[Affix]]
"""Roles by name, as they are passed in: a `Role`, or a plain pair or triple, each."""


#: The delimiters of the paper (section 2.1 and appendix A of arXiv:2201.10005).
PAPER_ROLES = {"query": Role("[", "]"), "document": Role("{", "}")}


@keras.saving.register_keras_serializable(package="cptk")
class TextEmbedderPreprocessor(keras_hub.models.TextEmbedderPreprocessor):  # type: ignore[misc]
    """Tokenises texts, puts a role's token ids around them, cuts and pads.

    A text with tokens `t` in a role with prefix ids `p` and suffix ids `s` becomes `p + t + s`.
    Where the whole is longer than `sequence_length`, `t` is cut at its end. `p` and `s` are never
    cut, so the last token, whose hidden state is the embedding, is always the role's own.

    Token ids are those of the `tokenizers` library, eagerly and inside `tf.data`. (KerasHub's own
    GPT-2 and Llama 3 tokenizers differ from it on newline runs, for one.)

    Args:
        tokenizer: A KerasHub tokenizer.
        sequence_length: Length at which sequences are cut, and padded to when the layer is
            called.
        roles: Mapping of role names to `Role(prefix, suffix)`, or to plain pairs. Each of prefix
            and suffix is a string or a list of token ids. Defaults to the paper's delimiters,
            `query` `[` … `]` and `document` `{` … `}`; for an encoder's tokenizer, which has
            tokens of its own for it, to these, such as `[CLS]` … `[SEP]`.
        tokenizer_spec: The pipeline around the vocabulary (normaliser, pre-tokeniser, special
            tokens) as `tokenizers` writes it into `tokenizer.json`. Defaults to the pipeline of
            the tokenizer's family. See `cptk.tokenizers`.

    Call arguments:
        x: A string or a batch of n strings (list, NumPy array, `tf.Tensor`). A tuple of two or
            three is taken for `(x, y, sample_weight)`, as in all of KerasHub.
        y, sample_weight: Passed through.
        role: Name of the role. Defaults to the only role there is, or `"text"`, or `"document"`.

    Returns:
        `{"token_ids": (n, sequence_length) int32, "padding_mask": same shape, bool}`.

    Raises:
        ValueError: A role that does not exist; a prefix or suffix that the vocabulary cannot
            spell or that leaves no room for text; an empty batch or an empty text.
        TypeError: Something that is not a string; `tokenizer` is not a KerasHub tokenizer.

    Example:

    ```pycon
    >>> import cptk
    >>> tokenizer = embedder.preprocessor.tokenizer
    >>> preprocessor = cptk.models.TextEmbedderPreprocessor(
    ...     tokenizer, sequence_length=128, roles={"text": ("", ' means in one word: "')}
    ... )
    >>> features = preprocessor(["a fine film"], role="text")
    >>> tuple(features["token_ids"].shape)
    (1, 128)
    >>> tokenizer.detokenize(preprocessor.tokenize(["a fine film"], role="text"))
    ['a fine film means in one word: "']

    ```

    References:
        - Neelakantan et al., Text and Code Embeddings by Contrastive Pre-Training,
          arXiv:2201.10005.
        - Jiang et al., Scaling Sentence Embeddings with Large Language Models (PromptEOL),
          arXiv:2307.16645.
    """

    def __init__(
        self,
        tokenizer: keras_hub.tokenizers.Tokenizer,
        sequence_length: int = 256,
        roles: RolesLike | None = None,
        tokenizer_spec: Mapping[str, object] | None = None,
        **kwargs: object,
    ) -> None:
        kwargs.pop("truncate", None)
        if not isinstance(tokenizer, keras_hub.tokenizers.Tokenizer):
            raise TypeError(
                "`tokenizer` should be a KerasHub tokenizer, such as "
                "keras_hub.tokenizers.Tokenizer.from_preset(preset). Received: "
                f"{type(tokenizer).__name__}."
            )
        # KerasHub reads and writes files of these names, wherever they lead.
        check_config_file(kwargs.get("config_file", "preprocessor.json"))
        check_config_file(tokenizer.config_file)
        # A preset would not bring KerasHub's own Llama 3 tokenizer back.
        tokenizer = LlamaBPETokenizer.from_llama3(tokenizer)
        super().__init__(tokenizer, sequence_length=sequence_length, **kwargs)
        self.roles = _check_roles(default_roles(tokenizer) if roles is None else roles)
        self.tokenizer_spec = tokenizer_spec
        self._reference: ReferenceTokenizer | None = None
        self._affixes: dict[str, tuple[list[int], list[int]]] = {}
        _check_length(sequence_length)
        # A tokenizer that is loaded from a preset has no vocabulary, or no `proto`, yet:
        # `load_preset_assets` looks the ids up.
        if all(getattr(tokenizer, name, "") is not None for name in ("vocabulary", "proto")):
            for name in self.roles:
                self.affixes(name)

    def build(self, input_shape: Shape | None = None) -> None:
        self.built = True

    @property
    def sequence_length(self) -> int:
        """Length at which sequences are cut."""
        return int(self._sequence_length)

    @sequence_length.setter
    def sequence_length(self, value: int) -> None:
        _check_length(value)
        # The constructor of the base class sets the length before `_affixes` is there.
        for name in getattr(self, "_affixes", {}):
            self._check_room_for_text(name, value)
        self._sequence_length = int(value)

    @property
    def reference(self) -> ReferenceTokenizer:
        """The `tokenizers` pipeline over the vocabulary of `self.tokenizer`."""
        if self._reference is None:
            self._reference = ReferenceTokenizer(self.tokenizer, self.tokenizer_spec)
        return self._reference

    def resolve_role(self, role: str | None) -> str:
        """The name of the role to use; raises `ValueError` if there is no such role."""
        if role is None:
            role = next(iter(self.roles)) if len(self.roles) == 1 else self._plain_role()
        if not isinstance(role, str) or role not in self.roles:
            raise ValueError(
                f"There is no role {checks.shown(role)}. This embedder has {sorted(self.roles)}: "
                "pass one of them as `role=`, or give `roles=` when you make the embedder."
            )
        return role

    def _plain_role(self) -> str:
        """The role of texts for which none is named: "text" where there is one, else "document"."""
        return "text" if "text" in self.roles else "document"

    def affixes(self, role: str) -> tuple[list[int], list[int]]:
        """Token ids of the prefix and of the suffix of a role."""
        if role not in self._affixes:
            prefix, suffix = (self._affix_ids(role, part) for part in self.roles[role][:2])
            self._affixes[role] = (prefix, suffix)
            self._check_room_for_text(role, self.sequence_length)
        return self._affixes[role]

    def _affix_ids(self, role: str, part: Affix) -> list[int]:
        if isinstance(part, str):
            return self.reference.encode_exactly(part) if part else []
        size = self.tokenizer.vocabulary_size()
        bad = [i for i in part if not 0 <= i < size]
        if bad:
            raise ValueError(
                f"Role {role!r} has token ids {bad}, which are not in the vocabulary of {size} "
                "tokens. Give ids below that, or a string."
            )
        return list(part)

    def _check_room_for_text(self, role: str, length: int) -> None:
        taken = sum(map(len, self._affixes[role]))
        if length <= taken:
            raise ValueError(
                f"sequence_length={length} leaves no room for text: role {role!r} itself takes "
                f"{taken} tokens. Use sequence_length={taken + 1} or more."
            )

    def tokenize(self, texts: Iterable[str], role: str | None = None) -> list[list[int]]:
        """Token ids of each text with its role around it, cut to `sequence_length`.

        Args:
            texts: n strings: a list, tuple, generator, array, or a column of a frame or table.
            role: Name of the role.

        Returns:
            n lists of at least one and at most `sequence_length` ids, unpadded.
        """
        role = self.resolve_role(role)
        prefix, suffix = self.affixes(role)
        prompt = self.roles[role].prompt
        checked = checks.texts(texts)
        if prompt:
            checked = [prompt + text for text in checked]
        room = self.sequence_length - len(prefix) - len(suffix)
        ids = self.reference.encode_batch(checked, room)
        return [[*prefix, *row, *suffix] for row in ids]

    def __call__(self, x: object, *args: object, **kwargs: object) -> object:
        # Texts are checked before Keras sees them: its errors print everything that was passed.
        if isinstance(x, str):
            checks.texts([x])
        elif not isinstance(x, tuple) and not _is_tensorflow(x):
            x = checks.texts(x)
        return super().__call__(x, *args, **kwargs)

    def call(
        self,
        x: str | Iterable[str] | Tensor,
        y: TensorLike | None = None,
        sample_weight: TensorLike | None = None,
        role: str | None = None,
    ) -> object:
        if _is_tensorflow(x):
            from cptk.data import tensorflow as tf_data

            features = tf_data.preprocess(self, x, role)
        elif isinstance(x, str):
            one = pad_tokens(self.tokenize([x], role), self.sequence_length)
            features = {
                "token_ids": one["token_ids"][0],
                "padding_mask": one["padding_mask"][0],
            }
        else:
            features = pad_tokens(self.tokenize(x, role), self.sequence_length)
        return keras.utils.pack_x_y_sample_weight(features, y, sample_weight)

    def load_preset_assets(self, preset: str) -> None:
        """Load the vocabulary from a preset, and only then look up the roles' ids."""
        super().load_preset_assets(preset)
        for name in self.roles:
            self.affixes(name)

    def get_config(self) -> Config:
        config: Config = super().get_config()
        del config["truncate"]
        roles = {
            # A role without a prompt is a pair, as it was before there were prompts.
            name: [
                part if isinstance(part, str) else list(part)
                for part in (role if any(role[2:]) else role[:2])
            ]
            for name, role in self.roles.items()
        }
        return {**config, "roles": roles, "tokenizer_spec": self.tokenizer_spec}


@keras.saving.register_keras_serializable(package="cptk")
class GPT2TextEmbedderPreprocessor(TextEmbedderPreprocessor):
    """`TextEmbedderPreprocessor` for GPT-2, so that KerasHub finds it by its backbone.

    Example:

    ```pycon
    >>> import cptk
    >>> tokenizer = embedder.preprocessor.tokenizer
    >>> preprocessor = cptk.models.GPT2TextEmbedderPreprocessor(tokenizer, sequence_length=128)
    >>> preprocessor.tokenize(["a"], role="query")  # [a]
    [[58, 64, 60]]

    ```
    """

    backbone_cls = keras_hub.models.GPT2Backbone
    tokenizer_cls = keras_hub.models.GPT2Tokenizer


def default_roles(tokenizer: keras_hub.tokenizers.Tokenizer) -> dict[str, Role]:
    """The paper's delimiters; the tokenizer's own first and last token where it has such."""
    names: tuple[str, str] | None = None
    if hasattr(tokenizer, "cls_token_id") and hasattr(tokenizer, "sep_token_id"):
        names = ("cls_token_id", "sep_token_id")
    elif isinstance(
        tokenizer, keras_hub.models.RobertaTokenizer | keras_hub.models.XLMRobertaTokenizer
    ):
        names = ("start_token_id", "end_token_id")
    ids = [getattr(tokenizer, name) for name in names or ()]
    if not ids or None in ids:  # a vocabulary that a preset brings later brings roles too
        return dict(PAPER_ROLES)
    return {name: Role([int(ids[0])], [int(ids[1])]) for name in PAPER_ROLES}


def _check_length(value: object) -> None:
    if not checks.is_integer(value) or value < 3:
        raise ValueError(
            "`sequence_length` should be an integer of at least 3 (prefix, one token, suffix). "
            f"Received: {value!r}."
        )


def _check_roles(roles: object) -> dict[str, Role]:
    if not isinstance(roles, Mapping) or not roles:
        raise ValueError(
            "`roles` should map at least one name to a (prefix, suffix) pair, such as "
            f'{{"query": ("[", "]")}}. Received: {roles!r}.'
        )
    checked = {}
    for name, role in roles.items():
        if not isinstance(name, str) or not name:
            raise ValueError(f"A role's name should be a non-empty string. Received: {name!r}.")
        if isinstance(role, str) or not isinstance(role, Sequence) or len(role) not in (2, 3):
            raise ValueError(
                f"Role {name!r} should be a (prefix, suffix) pair, or have a prompt as a third "
                f"part. Received: {checks.shown(role)}."
            )
        prefix, suffix, prompt = (*role, "")[:3]
        if not isinstance(prompt, str):
            raise ValueError(
                f"The prompt of role {name!r} should be a string. Received: {checks.shown(prompt)}."
            )
        checked[name] = Role(_check_affix(name, prefix), _check_affix(name, suffix), prompt)
    return checked


def _check_affix(name: str, part: object) -> str | list[int]:
    if isinstance(part, str):
        return part
    if isinstance(part, Sequence | np.ndarray) and all(map(checks.is_integer, part)):
        return [int(i) for i in part]
    raise ValueError(
        f"Prefix and suffix of role {name!r} should each be a string or a list of token ids. "
        f"Received: {part!r}."
    )


def _is_tensorflow(x: object) -> TypeGuard[Tensor]:
    """Whether it is a `tf.Tensor`, told without an import of TensorFlow."""
    return type(x).__module__.split(".")[0] == "tensorflow"
