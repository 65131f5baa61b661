"""Which precision this machine multiplies fastest in."""

from pathlib import Path

import keras

_CPU_FLAGS = Path("/proc/cpuinfo")


def fastest_dtype() -> str:
    """The dtype policy to load a backbone in: 16 bits where the hardware multiplies in them.

    GPUs and TPUs do, and so do CPUs with AVX512-BF16 under TensorFlow. On such a CPU SmolLM2's
    matrix products ran twice as fast as in float32, while JAX gained nothing (measured; the choice
    is ours). Weights stay in float32, and so does pooling.

    Returns:
        `"mixed_bfloat16"` or `"float32"`.

    Example:

    ```pycon
    >>> import cptk
    >>> dtype = cptk.models.fastest_dtype()
    >>> dtype in ("float32", "mixed_bfloat16")
    True
    >>> embedder.save_to_preset("my_embedder")
    >>> loaded = cptk.models.TextEmbedder.from_preset("my_embedder", dtype=dtype)
    >>> loaded.backbone.dtype_policy.name == dtype
    True

    ```
    """
    backend = keras.backend.backend()
    if backend == "torch":  # Keras does not list the devices of torch.
        import torch

        return "mixed_bfloat16" if torch.cuda.is_available() else "float32"
    devices = [device.lower() for device in keras.distribution.list_devices()]
    if any(kind in device for device in devices for kind in ("gpu", "tpu")):
        return "mixed_bfloat16"
    flags = _CPU_FLAGS.read_text() if _CPU_FLAGS.exists() else ""
    return "mixed_bfloat16" if backend == "tensorflow" and "avx512_bf16" in flags else "float32"
