"""What a contrastive loss is to the trainer: embeddings of a batch in, one value per anchor out."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Self

import keras
from keras import ops

from cptk.checks import shown
from cptk.losses.masks import equal_ids
from cptk.ops import dimension, off_diagonal
from cptk.types import Config, Tensor

EMBEDDED = ("query", "document", "negatives")
"""The columns of a batch that are embeddings; the others are numbers."""


class PerAnchor(NamedTuple):
    """What an objective says of the n local pairs.

    Example:

    ```pycon
    >>> import cptk, keras
    >>> cptk.losses.PerAnchor(keras.ops.zeros(3)).scores
    {}

    ```
    """

    losses: Tensor
    """`(n,)`, neither weighted nor reduced: the trainer takes the mean."""
    scores: Mapping[str, Tensor] = {}
    """For each name of `Objective.metrics`, `(n,)` values whose mean is shown."""


@dataclass(frozen=True)
class Batch:
    """A batch of pairs as an objective sees it.

    Where the step runs once for each of several devices, each run has n of the m pairs: the *local*
    ones. The *gathered* columns hold all m, the local ones first. On one device, and on JAX, the
    two are the same. So entry (i, j) of a matrix of local rows and gathered columns is the positive
    where i = j, on any number of devices.

    Example:

    ```pycon
    >>> import cptk, keras
    >>> vectors = {"query": keras.ops.eye(3), "document": keras.ops.eye(3)}
    >>> head = cptk.layers.ContrastiveHead(temperature=0.5)
    >>> batch = cptk.losses.Batch(vectors, vectors, head, scale=2.0)
    >>> [round(float(x), 4) for x in batch.logits()[0]]
    [2.0, 0.0, 0.0]
    >>> [round(float(x), 4) for x in cptk.losses.InfoNCE()(batch).losses]
    [0.2395, 0.2395, 0.2395]

    ```
    """

    local: Mapping[str, Tensor]
    """Embeddings `(n, dim)` of "query" and of "document", of any length; where the pairs have hard
    negatives that the objective reads, `(n, k, dim)` of "negatives"; and the number columns that it
    asks for, `(n,)` or wider."""
    gathered: Mapping[str, Tensor]
    """The same columns of all m pairs."""
    head: Callable[[Tensor, Tensor], Tensor]
    """Queries `(a, dim)` and documents `(b, dim)` to logits `(a, b)`: cosine / temperature."""
    scale: Tensor
    """Scalar, 1 / temperature, trained with the weights."""
    text_ids: Mapping[str, Tensor] = field(default_factory=dict)
    """For each side `(m,)` integers, equal where the texts are; without a side if not known. Of
    "negatives" `(m, k)`, numbered with the documents."""
    is_pair: Tensor | None = None
    """`(m,)` booleans, False at rows that only fill a batch up; None if all rows hold pairs."""
    tile_size: int | None = None
    """Rows and columns of the tiles in which a matrix of logits is to be computed and forgotten;
    None if it may be held."""
    has_negative: Tensor | None = None
    """`(m, k)` booleans, False where a pair has fewer than k hard negatives; None without any."""

    def logits(self, anchors: str = "query", candidates: str = "document") -> Tensor:
        """`(n, m)` logits of the local anchors with the gathered candidates."""
        if anchors == "document" and candidates == "query":
            return ops.transpose(self.head(self.gathered["query"], self.local["document"]))
        return self.head(self.local[anchors], self.gathered[candidates])

    def negatives(self, mask_equal_texts: bool = False) -> Tensor:
        """`(n, m)` booleans, True where the candidate is a negative of the anchor.

        Args:
            mask_equal_texts: Whether to leave out a candidate that repeats the anchor's own
                positive, or whose own positive repeats the anchor.
        """
        n, m = dimension(self.local["query"], 0), dimension(self.gathered["query"], 0)
        left_out = self.left_out(mask_equal_texts)
        negative = off_diagonal(n, m)
        if left_out is None:
            return negative
        return ops.logical_and(negative, ops.logical_not(left_out))

    def left_out(self, mask_equal_texts: bool = False) -> Tensor | None:
        """`(n, m)` booleans, True where `negatives` is False off the diagonal; None if nowhere."""
        mask = None
        sides = [ids for name, ids in self.text_ids.items() if name != "negatives"]
        for ids in sides if mask_equal_texts else ():
            equal = equal_ids(self.local_ids(ids), ids)
            mask = equal if mask is None else ops.logical_or(mask, equal)
        if self.is_pair is not None:
            n, m = dimension(self.local["query"], 0), dimension(self.gathered["query"], 0)
            filler = ops.broadcast_to(ops.expand_dims(ops.logical_not(self.is_pair), 0), (n, m))
            mask = filler if mask is None else ops.logical_or(mask, filler)
        return mask

    def local_ids(self, ids: Tensor) -> Tensor:
        """The first n of `(m,)` numbers: those of the local rows."""
        return ids[: ops.shape(self.local["query"])[0]]


class Objective:
    """The base of contrastive losses: what `ContrastiveTrainer.compile(loss=…)` takes.

    A subclass writes `call` and, where it has arguments, `get_config`. It sees embeddings and
    returns one value per pair. Devices, rows that fill a batch up, weights of pairs, micro-batches
    and the mean are the trainer's.

    Attributes:
        columns: Columns of the pairs that `call` reads from `batch.local`, beside the two sides:
            "negatives", whose embeddings it finds there, or a number column such as "score".
        optional_columns: The same, of columns that pairs may lack.
        metrics: Names of the scores that `call` returns, which `fit` shows.
        tile_size: Rows and columns of a tile, for objectives that compute their matrix in tiles.
        needs_dropout: Whether a pair may be a text and itself, which dropout alone tells apart.
        trained_dims: Sizes to which embeddings may be cut after training; none where not known.

    Example:

    ```pycon
    >>> import cptk
    >>> from keras import ops
    >>> class Hinge(cptk.losses.Objective):
    ...     \"\"\"Negatives should stay a margin below the positive.\"\"\"
    ...     def call(self, batch):
    ...         logits = batch.logits()
    ...         above = logits - ops.expand_dims(ops.diagonal(logits), 1) + 1.0
    ...         return ops.sum(ops.where(batch.negatives(), ops.relu(above), 0.0), axis=1)
    >>> vectors = {"query": ops.eye(3), "document": ops.eye(3)}
    >>> batch = cptk.losses.Batch(vectors, vectors, cptk.layers.ContrastiveHead(2.0), scale=0.5)
    >>> [float(x) for x in Hinge()(batch).losses]
    [1.0, 1.0, 1.0]

    ```

    References:
        The form is ours: a `keras.losses.Loss` compares a prediction with a label row by row,
        while each row here is compared with the whole batch.
    """

    columns: tuple[str, ...] = ()
    optional_columns: tuple[str, ...] = ()
    metrics: tuple[str, ...] = ()
    tile_size: int | None = None
    needs_dropout: bool = False
    trained_dims: tuple[int, ...] = ()

    def call(self, batch: Batch) -> Tensor | tuple[Tensor, Mapping[str, Tensor]]:
        """Losses `(n,)` of the local pairs; or these and, by name, scores `(n,)`."""
        raise NotImplementedError(
            f"{type(self).__name__} should have a method `call(self, batch)` that returns (n,) "
            "losses, or these and a mapping of (n,) scores."
        )

    def __call__(self, batch: Batch) -> PerAnchor:
        """`call`, its result checked.

        Raises:
            ValueError: Not one loss per local pair, or other scores than `metrics` names.
        """
        found = self.call(batch)
        result = PerAnchor(*found) if isinstance(found, tuple) else PerAnchor(found)
        shape = tuple(getattr(result.losses, "shape", ()))
        n = batch.local["query"].shape[0]
        if len(shape) != 1 or (None not in (n, shape[0]) and n != shape[0]):
            raise ValueError(
                f"{type(self).__name__}.call should return one loss per local pair, of shape "
                f"({n},), not reduced. Received: {shape}."
            )
        if set(result.scores) != set(self.metrics):
            raise ValueError(
                f"{type(self).__name__}.call should return the scores that `metrics` names: "
                f"{list(self.metrics)}. Received: {shown(sorted(result.scores))}."
            )
        return result

    def chance(self, batch: Batch, pairs: Tensor) -> Tensor | None:
        """The loss of a batch of so many pairs, were its embeddings all alike; None: not known.

        `fit` says so when an epoch ends there.
        """
        return None

    def get_config(self) -> Config:
        """The arguments of the constructor, as plain values."""
        return {}

    def __repr__(self) -> str:
        defaults = inspect.signature(type(self)).parameters
        changed = [
            f"{name}={value!r}"
            for name, value in self.get_config().items()
            if name not in defaults or defaults[name].default != value
        ]
        return f"{type(self).__name__}({', '.join(changed)})"

    @classmethod
    def from_config(cls, config: Config) -> Self:
        """The objective of a config."""
        return cls(**config)


def get(identifier: object) -> Objective:
    """What `cptk.losses.get` does but for a mapping by source; see there."""
    if identifier is None:
        identifier = "InfoNCE"
    if isinstance(identifier, str):
        known = {
            name.split(">")[-1]: kind
            for name, kind in keras.saving.get_custom_objects().items()
            if isinstance(kind, type) and issubclass(kind, Objective)
        }
        by_name = {name.lower(): kind for name, kind in known.items()}
        kind = by_name.get(identifier.replace("_", "").lower())
        if kind is None:
            raise ValueError(
                f"`loss` should be one of {sorted(known)}, or an object of your own class. "
                f"Received: {shown(identifier)}."
            )
        required = [
            name
            for name, parameter in inspect.signature(kind).parameters.items()
            if parameter.default is parameter.empty
            and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
        ]
        if required:
            raise ValueError(
                f"`loss` {shown(identifier)} has arguments that have to be given. Pass an object, "
                f"{kind.__name__}({', '.join(required)})."
            )
        return kind()
    found: Any = identifier
    if isinstance(identifier, dict):
        found = keras.saving.deserialize_keras_object(identifier)
    if isinstance(found, Objective):
        return found
    received = f"the class {found.__name__}" if isinstance(found, type) else type(found).__name__
    raise TypeError(
        "`loss` should be a cptk.losses.Objective such as cptk.losses.InfoNCE(), or its name. "
        f"Received: {received}. A loss of keras.losses compares rows with labels, and pairs have "
        "none: write a subclass of cptk.losses.Objective (docs, Extending)."
    )
