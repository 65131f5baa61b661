"""Texts without pairs: a text and itself, under other dropout."""

from __future__ import annotations

import keras

from cptk.losses.info_nce import InfoNCE
from cptk.types import Config


@keras.saving.register_keras_serializable(package="cptk")
class SimCSE(InfoNCE):
    """Each text finds itself, embedded again under other dropout, among those of the batch.

    The pairs are each a text and itself, `{"query": texts, "document": texts}`. Query and document
    pass through the embedder with a dropout mask of their own; with h_i and h'_i the two unit
    vectors of text i, of n, and s(i, j) = (h_i · h'_j) / temperature, the loss of text i is

        -log( exp s(i, i) / sum_j exp s(i, j) )

    of shape (n,). It is `InfoNCE` one way, with equal texts left out of the negatives; a text is
    always its own positive. Where the embedder has no dropout, both vectors are one and nothing is
    learned: `fit` refuses that. Other pairs are taken too, with hard negatives or without.

    The paper's temperature is 0.05, fixed: `ContrastiveHead(0.05, trainable=False)`. Roles of an
    embedder (the delimiters of `GPT2TextEmbedder`) make the two views differ as well.

    Args:
        symmetric: Whether the second views look for the first ones too.
        mask_equal_texts: Whether a text that stands in the batch twice is no negative of itself.
            (Ours.)
        tile_size: As of `InfoNCE`.
        hard_negatives: As of `InfoNCE`.

    Raises:
        ValueError: A tile size below 1, or another choice of hard negatives.
        TypeError: A tile size that is no integer, or a switch that is no boolean.

    Example:

    ```pycon
    >>> import cptk
    >>> from keras import ops
    >>> vectors = {"query": ops.eye(3), "document": ops.eye(3)}
    >>> head = cptk.layers.ContrastiveHead(temperature=0.5)
    >>> batch = cptk.losses.Batch(vectors, vectors, head, scale=2.0)
    >>> [round(float(x), 4) for x in cptk.losses.SimCSE()(batch).losses]  # log(1 + 2 exp(-2))
    [0.2395, 0.2395, 0.2395]

    ```

    References:
        Gao et al. 2021, SimCSE, arXiv 2104.08821, section 3; with entailment pairs and
        contradictions as hard negatives, section 4.
    """

    needs_dropout = True

    def __init__(
        self,
        symmetric: bool = False,
        mask_equal_texts: bool = True,
        tile_size: int | None = None,
        hard_negatives: str | None = "all",
    ) -> None:
        super().__init__(symmetric, mask_equal_texts, tile_size, hard_negatives=hard_negatives)

    def get_config(self) -> Config:
        names = ("symmetric", "mask_equal_texts", "tile_size", "hard_negatives")
        return {name: getattr(self, name) for name in names}
