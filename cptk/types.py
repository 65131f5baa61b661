"""Names for the types that every room of cptk speaks of.

Keras, KerasHub and the backends carry no types, and a type checker sees `Any` in their place. Each
kind of object that comes from there has a name here, so that a signature says which one it means;
what is ours has a type: a `Protocol` for what is passed in, a `TypedDict` for a batch of tokens.
Shapes stand in the docstrings.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from os import PathLike
from typing import Any, Protocol, TypeAlias, TypedDict, runtime_checkable

import numpy as np
from numpy.typing import NDArray

Tensor: TypeAlias = Any
"""A tensor of the Keras backend in use, or a symbolic `keras.KerasTensor`: a `tf.Tensor`, a
`jax.Array` and a `torch.Tensor` have no base class in common."""

TensorLike: TypeAlias = Any
"""Whatever `keras.ops.convert_to_tensor` takes: a tensor, a NumPy array, a (nested) list."""

Shape: TypeAlias = tuple[int | None, ...]
"""A static shape; None where a dimension is not known yet."""

Path: TypeAlias = str | PathLike[str]
"""A file or folder, as it is passed in."""

Layer: TypeAlias = Any
"""A `keras.layers.Layer`."""

Model: TypeAlias = Any
"""A `keras.Model`, which may be a trainer, an embedder or a `keras_hub.models.Backbone`."""

Variable: TypeAlias = Any
"""A `keras.Variable`."""

Optimizer: TypeAlias = Any
"""A `keras.optimizers.Optimizer`, or a name of one."""

Callback: TypeAlias = Any
"""A `keras.callbacks.Callback`."""

DType: TypeAlias = Any
"""A dtype or dtype policy as Keras takes it: "float32", a `keras.DTypePolicy`, its config."""

Config: TypeAlias = dict[str, Any]
"""What `get_config` returns, or JSON that has been read: names and plain values."""


class TokenBatch(TypedDict):
    """Texts as an embedder takes them."""

    token_ids: Tensor
    """`(n, length)` integers, padded on the right."""
    padding_mask: Tensor
    """`(n, length)` booleans, False at padding."""


class Tokenizer(Protocol):
    """What is asked of a KerasHub tokenizer."""

    def vocabulary_size(self) -> int:
        """Number of ids."""

    def detokenize(self, inputs: Sequence[int]) -> str:
        """The text of some ids."""


class Preprocessor(Protocol):
    """Texts in, token ids out: what training and encoding ask of an embedder's preprocessor."""

    sequence_length: int
    tokenizer: Tokenizer

    @property
    def roles(self) -> Mapping[str, Any]:
        """What stands before and after a text, by role."""

    def resolve_role(self, role: str | None) -> str:
        """The role, or the default one; an error if there is none of this name."""

    def tokenize(self, texts: Sequence[str], role: str | None = None) -> list[Sequence[int]]:
        """The ids of each text in its role, cut to `sequence_length`."""


@runtime_checkable
class Encoder(Protocol):
    """Something that turns texts into vectors: all that evaluation asks for."""

    def encode_text(self, texts: Sequence[str]) -> NDArray[np.floating[Any]]:
        """`(n, dim)`, one row for each text, in their order."""


TorchModule: TypeAlias = Any
"""A `torch.nn.Module`, such as a `SentenceTransformer`."""
