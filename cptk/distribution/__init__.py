"""Several devices and machines: the objective of one device, whatever there is.

In contrastive learning the negatives of a pair come from the whole global batch. What that means on
many devices is said here, once: one file a backend, and `one_device.py` lists what each answers.
README.md beside this file has the rest.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import keras

from cptk.distribution.layout import layout_map
from cptk.distribution.lost import lost_named
from cptk.distribution.one_device import OneDevice
from cptk.distribution.replicas import Replicas
from cptk.processes import is_chief
from cptk.types import Model

__all__ = ["Replicas", "all_reduce_sum", "gather", "is_chief", "layout_map", "replicas"]


def _answers_of(backend: str) -> OneDevice:
    if backend == "jax":
        from cptk.distribution.jax import OneArray

        return OneArray()
    if backend == "tensorflow":
        from cptk.distribution.tensorflow import ManyReplicas

        return ManyReplicas()
    if backend == "torch":
        from cptk.distribution.torch import OneProcess

        return OneProcess()
    return OneDevice()


_answers = _answers_of(keras.config.backend())

replicas = _answers.replicas
shard_batch = _answers.shard_batch
from_parts = _answers.from_parts
broadcast_from_chief = _answers.broadcast_from_chief
check_compile = _answers.check_compile
take_over = _answers.take_over
scope = _answers.scope
gather = _answers.gather
everywhere = _answers.everywhere
all_reduce_sum = _answers.all_reduce_sum
replicas_in_sync = _answers.replicas_in_sync


def build(model: Model) -> None:
    """Make the optimizer's variables where the model's are.

    WORKAROUND (keras #20585). Keras would take a batch from the data to build the model by, which
    fails with several processes, and where replicas get unequal numbers of rows.
    """
    if not model.optimizer.built:
        with scope(model):
            model.optimizer.build(model.trainable_variables)


@contextlib.contextmanager
def running(model: Model) -> Iterator[None]:
    """Around `fit` and `evaluate`: data comes cut, and lost processes are named.

    Raises:
        RuntimeError: Another process was lost.
    """
    with lost_named(replicas(model).processes), _answers.data_comes_cut():
        yield
