"""An embedder as a sentence-transformers folder, written without torch or transformers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path as FilePath

import numpy as np
from safetensors.numpy import save_file

from cptk import files
from cptk.export.card import checked_card, with_use
from cptk.export.hugging_face import DECODERS, config_and_weights, family
from cptk.export.parts import Parts, check_embedder, check_float, take_apart
from cptk.export.target import Exported, checked_folder, finish, write_json, writing
from cptk.export.tokenizer_file import (
    Shared,
    Tokenization,
    padding_token,
    shared_roles,
    tokenization,
    with_role,
)
from cptk.types import Config, Model, Path

#: Our poolings → the switches that every version of sentence-transformers, and
#: text-embeddings-inference, read.
_POOLINGS = {
    "cls": "pooling_mode_cls_token",
    "mean": "pooling_mode_mean_tokens",
    "max": "pooling_mode_max_tokens",
    "weighted_mean": "pooling_mode_weightedmean_tokens",
    "eos": "pooling_mode_lasttoken",
}
_ACTIVATIONS = {
    "linear": "torch.nn.modules.linear.Identity",
    "gelu": "torch.nn.modules.activation.GELU",
    "relu": "torch.nn.modules.activation.ReLU",
    "sigmoid": "torch.nn.modules.activation.Sigmoid",
    "silu": "torch.nn.modules.activation.SiLU",
    "tanh": "torch.nn.modules.activation.Tanh",
}
_USE = """```python
from sentence_transformers import SentenceTransformer

model = SentenceTransformer("{folder}")
vectors = model.encode(["how do I open a file?"]{prompt})
```"""


def to_sentence_transformers(
    embedder: Model,
    folder: Path,
    *,
    roles: str | Sequence[str] | None = None,
    card: str | None = None,
    overwrite: bool = False,
) -> Exported:
    """Write a folder that sentence-transformers and text-embeddings-inference load.

    `SentenceTransformer(folder).encode(texts, prompt_name="query")` gives the vectors of
    `embedder.encode_text(texts, role="query")`, and `encode(texts)` those of the default role. LoRA
    is merged; of a shortened backbone the layers that it has are written.

    A folder has one tokenizer, which puts the same ids around every text. So roles that end in
    different ids, as the paper's `[` … `]` and `{` … `}` do, need a folder each: `roles=["query"]`.
    Prompts (`Role(prompt=…)`) have no such limit.

    Args:
        embedder: A `TextEmbedder` on BERT, RoBERTa, XLM-RoBERTa, GPT-2, Llama (Llama 3, SmolLM2),
            Qwen 2, Qwen 3 or Gemma 3, or one of KerasHub's own whose ids are the `tokenizers`
            library's.
        folder: The folder to write.
        roles: Names of the roles that it should have; all by default.
        card: The model card; `model_card(embedder)` by default.
        overwrite: Replace an export that stands there.

    Returns:
        The folder and its files.

    Raises:
        TypeError: No embedder, or an argument of another type.
        ValueError: A folder that exists; a backbone, an activation or a tokenizer that the layout
            cannot have exactly; roles that do not go into one folder; quantised weights.
        OSError: The disk is too full. Nothing has been written then.

    Example:

    ```pycon
    >>> import cptk
    >>> exported = cptk.export.to_sentence_transformers(embedder, "st_query", roles=["query"])
    >>> sorted(exported.files)[:3]
    ['1_Pooling/config.json', '2_Normalize/config.json', 'README.md']
    >>> loaded = cptk.models.TextEmbedder.from_preset("st_query")
    >>> bool(abs(loaded.encode_text("a") - embedder.encode_text("a", role="query")).max() < 1e-5)
    True

    ```

    References:
        Reimers & Gurevych, Sentence-BERT, arXiv:1908.10084.
    """
    check_embedder(embedder)
    target = checked_folder(folder, overwrite)
    check_float(embedder, "a sentence-transformers folder")
    text = checked_card(card, embedder)
    parts = take_apart(embedder)
    family(parts.backbone)
    found = tokenization(embedder, roles)
    if found.content is None:
        raise ValueError(f"This embedder has no counterpart elsewhere: {found.why_not}.")
    shared = shared_roles(embedder, found, "A sentence-transformers folder")
    kinds = [_activation(layer) for layer in parts.projection]
    size = 4 * sum(int(np.prod(weight.shape)) for weight in embedder.weights)
    files.check_free_space(target, size + 2**20, f"The folder {str(target)!r}")
    config, weights = config_and_weights(parts.backbone, parts.bidirectional, found.sequence_length)
    padding = padding_token(found.content, config.get("pad_token_id"))
    if config["model_type"] in ("roberta", "xlm-roberta"):
        _check_padding(found.content, padding)
    with writing(target, overwrite) as new:
        token, index = padding
        write_json(new / "config.json", {**config, "pad_token_id": index})
        save_file(weights, new / "model.safetensors", metadata={"format": "pt"})
        _write_tokenizer(new, found, shared, token)
        _write_modules(new, parts, kinds)
        _write_prompts(new, found, shared)
        named = found.default if found.default in shared.prompts else ""
        prompt = f', prompt_name="{named}"' if named and shared.prompts[named] else ""
        about = {"format": "sentence-transformers", "roles": list(found.roles)}
        use = _USE.format(folder=target.name, prompt=prompt)
        notes = (*_notes(parts), *([found.remark] if found.remark else []))
        sizes = finish(new, with_use(text, use, notes), about)
    return Exported(target, sizes, notes=notes)


def _check_padding(content: Config, padding: tuple[str, int]) -> None:
    """In RoBERTa transformers gives no position to a token with the id of padding, 1."""
    token, index = padding
    if index != 1 or token == content["model"].get("unk_token"):
        raise ValueError(
            "RoBERTa counts no token of the id 1, which should be the tokenizer's padding. Here "
            f"that id is another token's, and padding would be {token!r} ({index}). Use a "
            "tokenizer with '<pad>' as its token 1, as RoBERTa's own."
        )


def _activation(layer: Config) -> str:
    name = str(layer["activation"])
    if name not in _ACTIVATIONS:
        raise ValueError(
            f"The projection's activation {name!r} has no name in a sentence-transformers folder. "
            f"Known: {sorted(_ACTIVATIONS)}. ONNX, SavedModel and LiteRT take every activation."
        )
    return _ACTIVATIONS[name]


def _write_tokenizer(folder: FilePath, found: Tokenization, shared: Shared, token: str) -> None:
    assert found.content is not None
    # Uncut: sentence-transformers cuts at `max_seq_length`, and would take a length of this file's
    # for one that it had set itself.
    write_json(
        folder / "tokenizer.json", with_role(found.content, shared.prefix, shared.suffix, None)
    )
    about = {
        # The class that takes tokenizer.json as it is.
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": found.sequence_length,
        "model_input_names": ["input_ids", "attention_mask"],
        "padding_side": "right",
        "truncation_side": "right",
        "pad_token": token,
        "clean_up_tokenization_spaces": False,
    }
    write_json(folder / "tokenizer_config.json", about)
    write_json(folder / "special_tokens_map.json", {"pad_token": token})
    write_json(
        folder / "sentence_bert_config.json",
        {"max_seq_length": found.sequence_length, "do_lower_case": False},
    )


def _write_modules(folder: FilePath, parts: Parts, activations: list[str]) -> None:
    width = int(parts.backbone.hidden_dim)
    switches = {switch: name == parts.pooling for name, switch in _POOLINGS.items()}
    write_json(
        folder / "1_Pooling" / "config.json",
        {
            "word_embedding_dimension": width,
            **switches,
            "pooling_mode_mean_sqrt_len_tokens": False,
            "include_prompt": True,
        },
    )
    kinds = ["Transformer", "Pooling", *["Dense"] * len(activations)]
    kinds += ["Normalize"] if parts.normalize else []
    modules = []
    for index, kind in enumerate(kinds):
        path = "" if index == 0 else f"{index}_{kind}"
        place = f"sentence_transformers.models.{kind}"
        modules.append({"idx": index, "name": str(index), "path": path, "type": place})
    write_json(folder / "modules.json", modules)
    for index, activation in enumerate(activations):
        weights = parts.kernels[index]
        layer = folder / f"{index + 2}_Dense"
        rows, columns = weights[0].shape
        about = {
            "in_features": int(rows),
            "out_features": int(columns),
            "bias": len(weights) > 1,
            "activation_function": activation,
        }
        write_json(layer / "config.json", about)
        named = {"linear.weight": np.ascontiguousarray(weights[0].T.astype(np.float32))}
        if len(weights) > 1:
            named["linear.bias"] = weights[1].astype(np.float32)
        save_file(named, layer / "model.safetensors", metadata={"format": "pt"})
    if parts.normalize:
        write_json(folder / f"{len(kinds) - 1}_Normalize" / "config.json", {})


def _write_prompts(folder: FilePath, found: Tokenization, shared: Shared) -> None:
    default = found.default if shared.prompts[found.default] else None
    write_json(
        folder / "config_sentence_transformers.json",
        {
            "prompts": shared.prompts,
            "default_prompt_name": default,
            "similarity_fn_name": "cosine",
        },
    )


def _notes(parts: Parts) -> tuple[str, ...]:
    notes = []
    kind = family(parts.backbone)
    if parts.bidirectional and kind in DECODERS:
        notes.append("Attention is bidirectional: transformers 5.2 or newer reads that.")
    if str(parts.backbone.compute_dtype) != "float32":
        notes.append(
            f"Weights are float32; the embedder computes in {parts.backbone.compute_dtype}."
        )
    return tuple(notes)
