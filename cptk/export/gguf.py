"""An embedder as a GGUF file, for llama.cpp's `--embedding`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path as FilePath
from types import ModuleType

from cptk import optional
from cptk.export.card import checked_card, with_use
from cptk.export.gguf_tokenizer import Edges, around, tokenizer_kind, write_tokenizer
from cptk.export.gguf_weights import (
    ARCHITECTURES,
    is_quantized,
    read_back,
    rope_divisors,
    rounded,
    to_rows,
)
from cptk.export.hugging_face import config_and_weights, family
from cptk.export.parts import Parts, check_embedder, check_float, take_apart
from cptk.export.samples import compare, sample
from cptk.export.saved_model import check_quantize
from cptk.export.target import Exported, checked_folder, finish, writing
from cptk.export.tokenizer_file import tokenization, write_beside
from cptk.models.forward import forward
from cptk.types import Config, Model, Path, Vectors

FILE = "model.gguf"
#: Our poolings → members of `gguf.PoolingType`.
_POOLINGS = {"cls": "CLS", "eos": "LAST", "mean": "MEAN"}
_USE = """```bash
llama-embedding -m {folder}/model.gguf --pooling {pooling} --embd-normalize {norm} -p "a text"
```

`llama-server --embedding` takes texts, or lists of token ids, which `tokenizer.json` gives for the
role `{default}`; `roles.json` has what stands around a text in each role."""


def to_gguf(
    embedder: Model,
    folder: Path,
    *,
    roles: str | Sequence[str] | None = None,
    quantize: str | None = None,
    card: str | None = None,
    overwrite: bool = False,
) -> Exported:
    """Write a GGUF file for llama.cpp, with its tokenizer and pooling.

    llama.cpp puts at most one id before every text and one after it. Where a role has that (the
    paper's delimiters, BERT's [CLS] and [SEP]), texts may be given; otherwise token ids. The notes
    say which. Its arithmetic is its own: GELU from a table in 16 bits, for one.

    Args:
        embedder: A `TextEmbedder` on BERT (WordPiece), GPT-2, Llama (Llama 3, SmolLM2), Qwen 2 or
            Qwen 3, with the pooling `"eos"`, `"cls"` or `"mean"` and no projection.
        folder: The folder to write.
        roles: Names of the roles that it should have; all by default.
        quantize: `"int8"`: matrices in llama.cpp's Q8_0.
        card: The model card; `model_card(embedder)` by default.
        overwrite: Replace an export that stands there.

    Returns:
        The folder; with `quantize`, the differences that it makes.

    Raises:
        ImportError: gguf is not installed.
        TypeError, ValueError: A bad argument; a backbone, pooling, projection or tokenizer that
            llama.cpp does not have.

    Example:

    ```python title="Needs gguf"
    exported = cptk.export.to_gguf(embedder, "my_gguf", roles=["query"], quantize="int8")
    again = cptk.integrations.gguf.load_embedder("my_gguf/model.gguf")
    ```

    References:
        GGUF: docs/gguf.md in the ggml repository.
    """
    check_embedder(embedder)
    target = checked_folder(folder, overwrite)
    check_quantize(quantize)
    library = optional.load("gguf", "Export to GGUF", "gguf 0.19 or newer", "gguf")
    check_float(embedder, "GGUF")
    text = checked_card(card, embedder)
    parts = take_apart(embedder)
    kind = _checked_kind(parts)
    found = tokenization(embedder, roles)
    if found.content is None:
        raise ValueError(f"This embedder has no counterpart elsewhere: {found.why_not}.")
    tokenizer_kind(found.content)
    edges, notes = around(found)
    config, weights = config_and_weights(parts.backbone, parts.bidirectional, found.sequence_length)
    if parts.bidirectional and kind != "BertBackbone":
        notes += ("Run it with `--attention non-causal`: its attention is bidirectional.",)
    difference = cosine = None
    if quantize is not None:
        weights = rounded(kind, weights)
        given = sample(embedder, found.default)
        again = forward(read_back(parts, config, weights), given.tokens)
        difference, cosine = compare(again, given.vectors)
    with writing(target, overwrite) as new:
        rows = to_rows(kind, weights, config)
        notes += _write(
            library, new / FILE, parts, config, rows, found.content, edges, quantize is not None
        )
        notes += write_beside(new, found)
        norm = 2 if parts.normalize else -1
        pooling = _POOLINGS[parts.pooling].lower()
        use = _USE.format(folder=target.name, pooling=pooling, norm=norm, default=found.default)
        about: Config = {"format": "gguf", "quantize": quantize, "roles": list(found.roles)}
        about |= {"difference": difference, "cosine": cosine}
        sizes = finish(new, with_use(text, use, notes), about)
    return Exported(target, sizes, difference, cosine, notes)


def _checked_kind(parts: Parts) -> str:
    kind = family(parts.backbone)
    if kind not in ARCHITECTURES:
        raise ValueError(
            f"A {type(parts.backbone).__name__} is not written as GGUF. These are: "
            f"{', '.join(ARCHITECTURES)}. Export a sentence-transformers folder, which llama.cpp's "
            "own converter reads."
        )
    if parts.pooling not in _POOLINGS or parts.projection:
        what = "a projection" if parts.projection else f"the pooling {parts.pooling!r}"
        raise ValueError(
            f"llama.cpp has no counterpart of {what}: it has the poolings {sorted(_POOLINGS)}, and "
            "nothing after them. Export to ONNX or a sentence-transformers folder."
        )
    return kind


def _write(
    library: ModuleType,
    file: FilePath,
    parts: Parts,
    config: Config,
    rows: Mapping[str, Vectors],
    content: Config,
    edges: Edges,
    quantize: bool,
) -> tuple[str, ...]:
    """Write the file; notes on its tokenizer."""
    kind = family(parts.backbone)
    architecture = library.MODEL_ARCH[ARCHITECTURES[kind]]
    writer = library.GGUFWriter(file, library.MODEL_ARCH_NAMES[architecture])
    try:
        q8_0, f32 = library.LlamaFileType.MOSTLY_Q8_0, library.LlamaFileType.ALL_F32
        writer.add_file_type(q8_0 if quantize else f32)
        _add_settings(library, writer, kind, config, parts)
        notes = write_tokenizer(writer, content, edges, int(config["vocab_size"]))
        divisors = rope_divisors(config)
        if divisors is not None:
            writer.add_tensor("rope_freqs.weight", divisors)
        for name, weight in rows.items():
            if quantize and is_quantized(name, weight):
                block = library.GGMLQuantizationType.Q8_0
                blocks = library.quants.quantize(weight, block)
                writer.add_tensor(name, blocks, raw_dtype=block)
            else:
                writer.add_tensor(name, weight)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
    finally:
        writer.close()
    return notes


def _add_settings(
    library: ModuleType, writer: Model, kind: str, config: Config, parts: Parts
) -> None:
    """The numbers of `config.json` under llama.cpp's names."""
    gpt2 = kind == "GPT2Backbone"
    layers, width, heads, inner, longest = (
        config[name]
        for name in (
            ("n_layer", "n_embd", "n_head", "n_inner", "n_positions")
            if gpt2
            else (
                "num_hidden_layers",
                "hidden_size",
                "num_attention_heads",
                "intermediate_size",
                "max_position_embeddings",
            )
        )
    )
    writer.add_block_count(layers)
    writer.add_context_length(longest)
    writer.add_embedding_length(width)
    writer.add_feed_forward_length(inner)
    writer.add_head_count(heads)
    writer.add_pooling_type(library.PoolingType[_POOLINGS[parts.pooling]])
    if gpt2 or kind == "BertBackbone":
        writer.add_layer_norm_eps(config.get("layer_norm_eps", config.get("layer_norm_epsilon")))
    else:
        head = config.get("head_dim", width // heads)
        writer.add_head_count_kv(config["num_key_value_heads"])
        writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
        writer.add_rope_freq_base(config["rope_theta"])
        writer.add_rope_dimension_count(head)
        writer.add_key_length(head)
        writer.add_value_length(head)
    if kind == "BertBackbone":
        writer.add_causal_attention(False)
        writer.add_token_type_count(config["type_vocab_size"])
