"""The dtype policy for a machine."""

import keras
import pytest

from cptk.models import fastest_dtype, precision


@pytest.mark.parametrize("flags", ["avx512_bf16 avx2", "avx2", None])
def test_by_cpu_flags(flags, tmp_path, monkeypatch):
    file = tmp_path / "cpuinfo"
    if flags is not None:
        file.write_text(f"flags: {flags}\n")
    monkeypatch.setattr(precision, "_CPU_FLAGS", file)
    monkeypatch.setattr(keras.distribution, "list_devices", lambda: ["cpu:0", "cpu:1"])
    gains = keras.backend.backend() == "tensorflow" and flags is not None and "bf16" in flags
    assert fastest_dtype() == ("mixed_bfloat16" if gains else "float32")


@pytest.mark.skipif(keras.backend.backend() == "torch", reason="asks torch, not Keras")
@pytest.mark.parametrize("device", ["GPU:0", "tpu:3"])
def test_accelerators(device, tmp_path, monkeypatch):
    monkeypatch.setattr(precision, "_CPU_FLAGS", tmp_path / "none")
    monkeypatch.setattr(keras.distribution, "list_devices", lambda: ["cpu:0", device])
    assert fastest_dtype() == "mixed_bfloat16"
