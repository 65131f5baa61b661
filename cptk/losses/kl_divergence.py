"""A teacher's ranking of a query's texts, as a distribution."""

from __future__ import annotations

import keras
from keras import ops

from cptk import checks
from cptk.losses.distillation import COLUMNS, all_there, of_student, of_teacher
from cptk.losses.masks import LEFT_OUT
from cptk.losses.objective import Batch, Objective
from cptk.types import Config, Tensor


@keras.saving.register_keras_serializable(package="cptk")
class KLDivergence(Objective):
    """The softmax over a query's document and its negatives should be a teacher's.

    With c_0 the cosine of query i and its document, c_j that of the query and its j-th negative, of
    k, and t_0 ... t_k the teacher's scores of the same, in the column "teacher", the loss of pair i
    is

        sum_j p_j log( p_j / q_j ),    p = softmax(t / T),    q = softmax(c / temperature)

    of shape (n,), times T^2, over those texts that there are. The temperature is the head's and is
    trained. Nothing is compared with other pairs. Where a pair has fewer than k negatives, its
    scores are filled up with any number.

    Args:
        teacher_temperature: T, above 0.

    Raises:
        ValueError: A temperature that is no positive finite number; pairs without negatives or a
            teacher's scores, or with another number of scores than 1 + k.

    Example:

    ```pycon
    >>> import cptk
    >>> from keras import ops
    >>> columns = {"query": ops.ones((1, 2)), "document": ops.ones((1, 2))}
    >>> columns |= {"negatives": ops.convert_to_tensor([[[1.0, -1.0]]])}  # a cosine of 0
    >>> columns |= {"teacher": ops.convert_to_tensor([[3.0, 3.0]])}
    >>> has = ops.ones((1, 1), "bool")
    >>> head = cptk.layers.ContrastiveHead(0.5)
    >>> batch = cptk.losses.Batch(columns, columns, head, scale=2.0, has_negative=has)
    >>> [round(float(x), 4) for x in cptk.losses.KLDivergence()(batch).losses]
    [0.4338]

    ```

    References:
        Hinton et al. 2015, arXiv 1503.02531, section 2: T and its square, where T divides the
        student's logits too. Here these have the head's temperature: a fixed one of T is Hinton's.
        Lin et al. 2021, In-Batch Negatives for Knowledge Distillation, RepL4NLP: of a retriever.
    """

    columns = COLUMNS

    def __init__(self, teacher_temperature: float = 1.0) -> None:
        self.teacher_temperature = checks.positive("teacher_temperature", teacher_temperature)

    def call(self, batch: Batch) -> Tensor:
        student = of_student(batch)
        teacher = of_teacher("KLDivergence", batch, student) / self.teacher_temperature
        has = all_there(batch)
        ours = _log_softmax(student * ops.cast(batch.scale, student.dtype), has)
        theirs = _log_softmax(teacher, has)
        terms = ops.where(has, ops.exp(theirs) * (theirs - ours), 0.0)
        return ops.sum(terms, axis=1) * self.teacher_temperature**2

    def get_config(self) -> Config:
        return {"teacher_temperature": self.teacher_temperature}


def _log_softmax(logits: Tensor, has: Tensor) -> Tensor:
    logits = ops.where(has, logits, LEFT_OUT)
    logits = logits - ops.stop_gradient(ops.max(logits, axis=1, keepdims=True))
    return logits - ops.log(ops.sum(ops.exp(logits), axis=1, keepdims=True))
