"""The half of the loss in which documents look for their queries."""

from __future__ import annotations

import keras
from keras import ops

from cptk.losses.in_batch import DOCUMENT_TO_QUERY, in_batch_softmax
from cptk.losses.objective import Batch, Objective, PerAnchor
from cptk.types import Tensor


@keras.saving.register_keras_serializable(package="cptk")
class DocumentToQuery(Objective):
    """Each document finds its query among those of the batch.

    With s(i, j) the logit of query i and document j, the loss of pair i is

        -log( exp s(i, i) / sum_j exp s(j, i) )

    For pairs whose documents many queries fit, but not the reverse: a label and what carries it.

    Example:

    ```pycon
    >>> import cptk
    >>> cptk.losses.DocumentToQuery().metrics
    ('document_accuracy',)

    ```

    References:
        Neelakantan et al. 2022, arXiv 2201.10005, section 2: the second half of its loss. Alone it
        is ours.
    """

    metrics = ("document_accuracy",)

    def call(self, batch: Batch) -> PerAnchor:
        [(losses, scores)] = in_batch_softmax(batch, [DOCUMENT_TO_QUERY])
        return PerAnchor(losses, {"document_accuracy": scores})

    def chance(self, batch: Batch, pairs: Tensor) -> Tensor:
        return ops.log(pairs)
