"""Names for the types that every room of cptk speaks of.

Keras, KerasHub and the backends carry no types, and a type checker sees `Any` in their place. Each
kind of object that comes from there has a name here, so that a signature says which one it means;
what is ours has a type: a `Protocol` for what is passed in, a `TypedDict` for a batch of tokens.
Shapes stand in the docstrings.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
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

Tree: TypeAlias = Any
"""Tensors in nested mappings, lists and tuples, as `keras.tree` and `jax.tree` take them."""

Size: TypeAlias = Any
"""An int, or a scalar tensor where a size or an index is known at run time alone."""

Layer: TypeAlias = Any
"""A `keras.layers.Layer`."""

Model: TypeAlias = Any
"""A `keras.Model`, which may be a trainer, an embedder or a `keras_hub.models.Backbone`."""

Variable: TypeAlias = Any
"""A `keras.Variable`."""

Strategy: TypeAlias = Any
"""A `tf.distribute.Strategy`."""

Optimizer: TypeAlias = Any
"""A `keras.optimizers.Optimizer`, or a name of one."""

History: TypeAlias = Any
"""A `keras.callbacks.History`."""

Callback: TypeAlias = Any
"""A `keras.callbacks.Callback`."""

DType: TypeAlias = Any
"""A dtype or dtype policy as Keras takes it: "float32", a `keras.DTypePolicy`, its config."""

Batches: TypeAlias = Any
"""Batches as Keras takes them: a `keras.utils.PyDataset`, a `tf.data.Dataset`, a generator."""

KerasBatch: TypeAlias = Any
"""What Keras hands to a step: `x`, or a tuple of `x`, `y` and `sample_weight`."""

Logs: TypeAlias = Any
"""Figures by name, as Keras hands them to callbacks; None before there are any."""

Config: TypeAlias = dict[str, Any]
"""What `get_config` returns, or JSON that has been read: names and plain values."""

Json: TypeAlias = Any
"""What a JSON file holds: dictionaries, lists, strings, numbers, booleans, None."""

Frame: TypeAlias = Any
"""A pandas or polars frame, or an Arrow table."""

Vectors: TypeAlias = NDArray[np.float32]
"""`(n, dim)`, one embedding a row."""

Results: TypeAlias = float | list[float] | dict[str, float]
"""What Keras's `evaluate`, `train_on_batch` and `test_on_batch` return: loss and metrics."""

StepFunction: TypeAlias = Callable[..., Any] | None
"""What Keras's `make_train_function` and its like return: one step, or None where it is kept on the
model alone."""


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

    @property
    def sequence_length(self) -> int:
        """Length at which texts are cut."""

    @property
    def tokenizer(self) -> Tokenizer:
        """The vocabulary."""

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


class Embedder(Protocol):
    """A Keras model from token ids to vectors: what training and encoding ask of an embedder."""

    @property
    def preprocessor(self) -> Preprocessor | None:
        """What turns texts into token ids; None where the embedder takes tokens alone."""

    @property
    def backbone(self) -> Model:
        """The decoder or encoder: a `keras_hub.models.Backbone`."""

    @property
    def output(self) -> Tensor:
        """The symbolic `(n, dim)` output."""

    @property
    def variables(self) -> list[Variable]:
        """All that a state of the embedder consists of."""

    @property
    def trainable_variables(self) -> list[Variable]:
        """What an optimizer changes."""

    def __call__(self, inputs: TokenBatch, training: bool | None = None) -> Tensor:
        """`(n, dim)`, one embedding a row."""

    def encode_text(self, texts: Sequence[str], role: str | None = None) -> Vectors:
        """`(n, dim)`, one row for each text, in their order."""


TorchModule: TypeAlias = Any
"""A `torch.nn.Module`, such as a `SentenceTransformer`."""
