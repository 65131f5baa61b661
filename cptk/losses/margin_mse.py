"""A teacher's margins, learned as margins."""

from __future__ import annotations

import keras
from keras import ops

from cptk import checks
from cptk.losses.distillation import COLUMNS, all_there, of_student, of_teacher
from cptk.losses.objective import Batch, Objective
from cptk.types import Config, Tensor


@keras.saving.register_keras_serializable(package="cptk")
class MarginMSE(Objective):
    """A query's document should be as far ahead of each of its negatives as a teacher has it.

    With c_0 the cosine of query i and its document, c_j that of the query and its j-th negative, of
    k, and t_0 ... t_k the teacher's scores of the same, in the column "teacher", the loss of pair i
    is

        mean_{j = 1 ... k} ( scale * (c_0 - c_j) - (t_0 - t_j) )^2

    of shape (n,); 0 for a pair without negatives. Nothing is compared with other pairs, and the
    temperature plays no part. Where a pair has fewer than k negatives, its scores are filled up
    with any number.

    Args:
        scale: What a difference of cosines of 1 is in the teacher's scores, above 0.

    Raises:
        ValueError: A scale that is no positive finite number; pairs without negatives or a
            teacher's scores, or with another number of scores than 1 + k.

    Example:

    ```pycon
    >>> import cptk
    >>> from keras import ops
    >>> columns = {"query": ops.ones((1, 2)), "document": ops.ones((1, 2))}
    >>> columns |= {"negatives": ops.convert_to_tensor([[[1.0, -1.0]]])}  # a cosine of 0
    >>> columns |= {"teacher": ops.convert_to_tensor([[3.0, 1.0]])}
    >>> has = ops.ones((1, 1), "bool")
    >>> head = cptk.layers.ContrastiveHead()
    >>> batch = cptk.losses.Batch(columns, columns, head, scale=14.3, has_negative=has)
    >>> [round(float(x), 4) for x in cptk.losses.MarginMSE()(batch).losses]  # (1 - 2)^2
    [1.0]

    ```

    References:
        Hofstätter et al. 2020, Improving Efficient Neural Ranking Models with Cross-Architecture
        Knowledge Distillation, arXiv 2010.02666, section 3. It takes dot products, where the scale
        is learned with the length of the vectors.
    """

    columns = COLUMNS

    def __init__(self, scale: float = 1.0) -> None:
        self.scale = checks.positive("scale", scale)

    def call(self, batch: Batch) -> Tensor:
        student = of_student(batch)
        teacher = of_teacher("MarginMSE", batch, student)
        ours = self.scale * (student[:, :1] - student[:, 1:])
        errors = ops.square(ours - (teacher[:, :1] - teacher[:, 1:]))
        has = ops.cast(all_there(batch)[:, 1:], errors.dtype)
        count = ops.sum(has, axis=1)
        return ops.sum(errors * has, axis=1) / ops.where(count > 0, count, 1.0)

    def get_config(self) -> Config:
        return {"scale": self.scale}
