"""Which of several processes this is."""

from __future__ import annotations

from importlib import import_module

import keras

from cptk.types import Model, Strategy


def is_chief(model: Model | Strategy | None = None) -> bool:
    """Whether this process is the one that writes files and prints.

    True for the only process there is, and for one of several: the first.

    Args:
        model: A model or a `tf.distribute` strategy, which knows the processes that it was made
            for. Without one, and outside of the strategy's scope, TensorFlow knows the processes
            from `TF_CONFIG` alone. JAX needs neither.

    Example:

    ```pycon
    >>> import cptk
    >>> if cptk.distribution.is_chief(embedder):
    ...     embedder.save_to_preset("my_embedder")
    >>> cptk.distribution.is_chief(embedder)  # the only process there is
    True

    ```
    """
    if keras.config.backend() == "jax":
        return bool(import_module("jax").process_index() == 0)
    if keras.config.backend() == "tensorflow":
        return tf_process(getattr(model, "distribute_strategy", model)) == 0
    return True


def tf_process(strategy: Strategy | None = None) -> int:
    """The number of this process under TensorFlow.

    The chief has number 0. Where there is no chief, the first worker has it.
    """
    distribute = import_module("tensorflow").distribute
    strategy = strategy or distribute.get_strategy()
    resolver = getattr(strategy, "cluster_resolver", None)
    if resolver is None:
        resolver = distribute.cluster_resolver.TFConfigClusterResolver()
    if not resolver.task_type:
        return 0
    chiefs = len(resolver.cluster_spec().as_dict().get("chief", ()))
    return int(resolver.task_id) + (0 if resolver.task_type == "chief" else chiefs)
