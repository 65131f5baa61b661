"""A sentence-transformers folder of a tiny BERT, written by hand, and BERT in NumPy."""

import json
import math
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

DIM, HEADS, LAYERS, LONGEST, EPSILON = 16, 2, 2, 20, 1e-6
_LETTERS = "abcdefghijklmnopqrstuvwxyz"
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *_LETTERS, ":", ".", "the", "film"]
WORDS += [f"##{letter}" for letter in _LETTERS]
PROMPTS = {"query": "q: ", "code": "The "}


def tensors(seed: int = 0) -> dict[str, np.ndarray]:
    """Weights that are all of some size, under transformers' names."""
    rng = np.random.default_rng(seed)
    shapes = {"embeddings.word_embeddings.weight": (len(WORDS), DIM)}
    shapes |= {"embeddings.position_embeddings.weight": (LONGEST, DIM)}
    shapes |= {"embeddings.token_type_embeddings.weight": (2, DIM)}
    norms = ["embeddings.LayerNorm"]
    dense = {}
    for index in range(LAYERS):
        layer = f"encoder.layer.{index}"
        names = ("attention.self.query", "attention.self.key", "attention.self.value")
        dense |= {f"{layer}.{name}": (DIM, DIM) for name in (*names, "attention.output.dense")}
        dense |= {f"{layer}.intermediate.dense": (32, DIM), f"{layer}.output.dense": (DIM, 32)}
        norms += [f"{layer}.attention.output.LayerNorm", f"{layer}.output.LayerNorm"]
    for name, shape in dense.items():
        shapes |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
    made = {name: rng.normal(scale=0.5, size=shape) for name, shape in shapes.items()}
    for name in norms:
        made[f"{name}.weight"] = 1 + rng.normal(scale=0.3, size=DIM)
        made[f"{name}.bias"] = rng.normal(scale=0.3, size=DIM)
    return {name: value.astype("float32") for name, value in made.items()}


def bert(weights: dict[str, np.ndarray], ids: list[int]) -> np.ndarray:
    """arXiv 1810.04805 with exact GELU, one text, in float64: the states of its tokens."""
    w = {name: value.astype("float64") for name, value in weights.items()}

    def norm(x, name):
        x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + EPSILON)
        return x * w[f"{name}.weight"] + w[f"{name}.bias"]

    def dense(x, name):
        return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    def heads(x):
        return x.reshape(len(ids), HEADS, -1).swapaxes(0, 1)

    x = w["embeddings.word_embeddings.weight"][ids]
    x = x + w["embeddings.position_embeddings.weight"][: len(ids)]
    x = norm(x + w["embeddings.token_type_embeddings.weight"][0], "embeddings.LayerNorm")
    for index in range(LAYERS):
        layer = f"encoder.layer.{index}"
        names = ("query", "key", "value")
        q, k, v = (heads(dense(x, f"{layer}.attention.self.{name}")) for name in names)
        scores = np.exp(q @ k.swapaxes(1, 2) / math.sqrt(DIM / HEADS))
        mixed = (scores / scores.sum(-1, keepdims=True) @ v).swapaxes(0, 1).reshape(len(ids), DIM)
        mixed = dense(mixed, f"{layer}.attention.output.dense")
        x = norm(x + mixed, f"{layer}.attention.output.LayerNorm")
        inner = dense(x, f"{layer}.intermediate.dense")
        inner = inner * 0.5 * (1 + np.vectorize(math.erf)(inner / math.sqrt(2)))
        x = norm(x + dense(inner, f"{layer}.output.dense"), f"{layer}.output.LayerNorm")
    return x


def tokenizer_json() -> dict:
    """Lower-cased WordPiece, [CLS] and [SEP] around a text, and a length that is not to be used."""
    special = [
        {"id": index, "content": token, "special": True, "single_word": False, "lstrip": False}
        | {"rstrip": False, "normalized": False}
        for index, token in enumerate(WORDS[:5])
    ]
    first, text, last = (
        {"SpecialToken": {"id": "[CLS]", "type_id": 0}},
        {"Sequence": {"id": "A", "type_id": 0}},
        {"SpecialToken": {"id": "[SEP]", "type_id": 0}},
    )
    return {
        "version": "1.0",
        "truncation": {
            "max_length": 7,
            "strategy": "LongestFirst",
            "stride": 0,
            "direction": "Right",
        },
        "padding": None,
        "added_tokens": special,
        "normalizer": {
            "type": "BertNormalizer",
            "clean_text": True,
            "handle_chinese_chars": True,
            "strip_accents": None,
            "lowercase": True,
        },
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [first, text, last],
            "pair": [first, text, last],
            "special_tokens": {
                token: {"id": token, "ids": [WORDS.index(token)], "tokens": [token]}
                for token in ("[CLS]", "[SEP]")
            },
        },
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True},
        "model": {
            "type": "WordPiece",
            "unk_token": "[UNK]",
            "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100,
            "vocab": {word: index for index, word in enumerate(WORDS)},
        },
    }


def write(folder: Path, pooling: dict | None = None, dense: bool = True, **config) -> Path:
    """The folder, with a Dense of 6 units and tanh, and Normalize."""
    rng = np.random.default_rng(1)
    base = "sentence_transformers.models"
    modules = [("", f"{base}.Transformer"), ("1_Pooling", f"{base}.Pooling")]
    modules += [("2_Dense", f"{base}.Dense")] * dense + [("3_Normalize", f"{base}.Normalize")]
    listed = [
        {"idx": index, "name": str(index), "path": path, "type": kind}
        for index, (path, kind) in enumerate(modules)
    ]
    settings = {
        "model_type": "bert",
        "hidden_act": "gelu",
        "hidden_size": DIM,
        "intermediate_size": 32,
        "layer_norm_eps": EPSILON,
        "max_position_embeddings": LONGEST,
        "num_attention_heads": HEADS,
        "num_hidden_layers": LAYERS,
        "vocab_size": len(WORDS),
        "hidden_dropout_prob": 0.0,
        **config,
    }
    contents = {
        "modules.json": listed,
        "config.json": settings,
        "tokenizer.json": tokenizer_json(),
        "tokenizer_config.json": {"model_max_length": 512},
        "sentence_bert_config.json": {"max_seq_length": 10, "do_lower_case": False},
        "config_sentence_transformers.json": {"prompts": PROMPTS, "default_prompt_name": None},
        "1_Pooling/config.json": pooling or {"pooling_mode_mean_tokens": True},
    }
    if dense:
        contents["2_Dense/config.json"] = {
            "in_features": DIM,
            "out_features": 6,
            "bias": True,
            "activation_function": "torch.nn.modules.activation.Tanh",
        }
    for name, content in contents.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(json.dumps(content))
    save_file(tensors(), folder / "model.safetensors")
    if dense:
        layer = {"linear.weight": rng.normal(size=(6, DIM)), "linear.bias": rng.normal(size=6)}
        layer = {name: value.astype("float32") for name, value in layer.items()}
        save_file(layer, folder / "2_Dense" / "model.safetensors")
    return folder


def edit(file: Path, **changes) -> None:
    """Set keys of a JSON file."""
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))
