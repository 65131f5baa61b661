"""Weights as llama.cpp has them, and back."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from types import MappingProxyType

import numpy as np
from keras_hub.src.utils import preset_utils
from safetensors.numpy import save_file

from cptk.export.parts import Parts
from cptk.models import TextEmbedder
from cptk.models.preset_hugging_face import load_backbone
from cptk.types import Config, Model, Vectors

_BLOCK = 32  # numbers that Q8_0 keeps under one scale
#: KerasHub's class → the member of `gguf.MODEL_ARCH`.
ARCHITECTURES: Mapping[str, str] = MappingProxyType(
    {
        "BertBackbone": "BERT",
        "GPT2Backbone": "GPT2",
        "LlamaBackbone": "LLAMA",
        "QwenBackbone": "QWEN2",
        "Qwen3Backbone": "QWEN3",
    }
)


def to_rows(kind: str, weights: Mapping[str, Vectors], config: Config) -> dict[str, Vectors]:
    """The weights by llama.cpp's names, matrices as `(out, in)`.

    llama.cpp's rotation of a Llama takes neighbours, transformers' takes halves: the rows of its
    query and key matrices are put so. GPT-2's matrices, which are `(in, out)`, are turned.

    Args:
        kind: A key of `ARCHITECTURES`.
        weights: By transformers' names.
        config: The `config.json` that belongs to them.

    References:
        `LlamaModel.permute` in llama.cpp's convert_hf_to_gguf.py.
    """
    library = import_module("gguf")
    layers = int(config["n_layer"] if kind == "GPT2Backbone" else config["num_hidden_layers"])
    architecture = library.MODEL_ARCH[ARCHITECTURES[kind]]
    names = library.get_tensor_name_map(architecture, layers)
    found = {}
    for name, weight in weights.items():
        if name.startswith("pooler."):
            continue
        key = names.get_name(name, try_suffixes=(".weight", ".bias"))
        if key is None:
            raise ValueError(f"This gguf library has no name for {name!r}. Install gguf 0.19.")
        if kind == "LlamaBackbone" and ("q_proj" in name or "k_proj" in name):
            keys = "num_key_value_heads" if "k_proj" in name else "num_attention_heads"
            weight = _neighbours(weight, int(config[keys]))
        if kind == "GPT2Backbone" and weight.ndim == 2 and name.startswith("h."):
            weight = weight.T
        found[key] = np.ascontiguousarray(weight, np.float32)
    return found


def _neighbours(weight: Vectors, heads: int) -> Vectors:
    rows, columns = weight.shape
    halves = weight.reshape(heads, 2, rows // heads // 2, columns)
    turned: Vectors = halves.swapaxes(1, 2).reshape(rows, columns)
    return turned


def rope_divisors(config: Config) -> Vectors | None:
    """Llama 3.1's scaling of the rotation, one divisor a frequency; None where there is none."""
    scaling = config.get("rope_scaling")
    if scaling is None:
        return None
    head = int(config["head_dim"])
    wavelength = 2 * np.pi * config["rope_theta"] ** (np.arange(0, head, 2) / head)
    low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
    length = scaling["original_max_position_embeddings"]
    smooth = np.clip((length / wavelength - low) / (high - low), 0, 1)
    return np.asarray(1 / ((1 - smooth) / scaling["factor"] + smooth), np.float32)


def rounded(kind: str, weights: Mapping[str, Vectors]) -> dict[str, Vectors]:
    """The weights, by transformers' names, as they come back from Q8_0."""
    library = import_module("gguf")
    q8_0 = library.GGMLQuantizationType.Q8_0
    found = {}
    for name, weight in weights.items():
        turned = kind == "GPT2Backbone" and weight.ndim == 2 and name.startswith("h.")
        rows = np.ascontiguousarray(weight.T if turned else weight)
        if is_quantized(name, rows):
            rows = library.quants.dequantize(library.quants.quantize(rows, q8_0), q8_0)
        found[name] = np.asarray(rows.T if turned else rows, np.float32)
    return found


def is_quantized(name: str, rows: Vectors) -> bool:
    """Whether Q8_0 takes a matrix `(out, in)`: those of positions and segments stay as they are."""
    kept = ("position_emb", "wpe.", "token_type")
    return rows.ndim == 2 and rows.shape[1] % _BLOCK == 0 and not any(k in name for k in kept)


def read_back(parts: Parts, config: Config, weights: Mapping[str, Vectors]) -> Model:
    """An embedder of token ids of the same kind, with other weights, by transformers' names."""
    with tempfile.TemporaryDirectory(prefix="cptk-export-") as folder:
        (Path(folder) / "config.json").write_text(json.dumps(config), encoding="utf-8")
        save_file(dict(weights), Path(folder) / "model.safetensors", metadata={"format": "pt"})
        backbone = load_backbone(preset_utils.get_preset_loader(folder), True, None)
    return TextEmbedder(
        backbone,
        pooling=parts.pooling,
        normalize=parts.normalize,
        attention="bidirectional" if parts.bidirectional else None,
    )
