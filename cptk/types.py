"""Names for the types that every room of cptk speaks of.

Shapes stand in the docstrings, not in the types: a Keras tensor is a `tf.Tensor`, a
`jax.Array`, a `torch.Tensor` or a symbolic `KerasTensor`, and no common base class exists.
"""

from __future__ import annotations

from typing import Any, TypeAlias

Tensor: TypeAlias = Any
"""A tensor of the Keras backend in use, or a symbolic `keras.KerasTensor`."""

TensorLike: TypeAlias = Any
"""Whatever `keras.ops.convert_to_tensor` takes: a tensor, a NumPy array, a (nested) list."""

Shape: TypeAlias = tuple[int | None, ...]
"""A static shape; None where a dimension is not known yet."""
