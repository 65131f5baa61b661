"""SmolLM2-135M, a real decoder, across backends (slow tier)."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

import cptk

TEXTS = [
    "Return the sum of all items.",
    "def mean(xs):\n    return sum(xs) / len(xs)\n\n\n",
    "Größe, 大きさ, حجم 🙂",
    "x",
]
BACKENDS = {"tensorflow": "tensorflow", "jax": "jax", "torch": "torch"}
SCRIPT = """
import sys
import cptk, numpy as np
embedder = cptk.models.TextEmbedder.from_preset(sys.argv[1])
np.save(sys.argv[2], embedder.encode_text(np.load(sys.argv[3]).tolist(), role="query"))
"""


def smollm2(**arguments):
    pytest.importorskip("gguf", reason="needs the extra gguf")
    try:
        path = cptk.integrations.gguf.smollm2_path()
    except ImportError as error:
        pytest.skip(str(error))
    return cptk.integrations.gguf.load_embedder(path, sequence_length=64, **arguments)


@pytest.mark.slow
@pytest.mark.once
def test_a_preset_gives_the_same_vectors_on_every_backend(tmp_path):
    embedder = smollm2()
    embedder.save_to_preset(str(tmp_path / "preset"))
    expected = embedder.encode_text(TEXTS, role="query")
    np.save(tmp_path / "texts.npy", np.array(TEXTS))
    del embedder
    others = [
        name
        for name, module in BACKENDS.items()
        if name != keras.config.backend() and importlib.util.find_spec(module) is not None
    ]
    if not others:
        pytest.skip("needs a second backend: pip install jax, or torch")
    for backend in others:
        out = tmp_path / f"{backend}.npy"
        subprocess.run(
            [sys.executable, "-c", SCRIPT, tmp_path / "preset", out, tmp_path / "texts.npy"],
            env={
                **os.environ,
                "KERAS_BACKEND": backend,
                "PYTHONPATH": str(Path(cptk.__file__).parents[1]),
            },
            check=True,
        )
        np.testing.assert_allclose(np.load(out), expected, rtol=0, atol=1e-5, err_msg=backend)
