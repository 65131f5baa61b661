"""Tiny tokenizers, decoders and embedders that spell every text and cost nothing to make."""

import importlib
import io
import json
from pathlib import Path

import keras
import keras_hub
import numpy as np
import tokenizers

from cptk.models import GPT2TextEmbedder, TextEmbedder, TextEmbedderPreprocessor
from cptk.models.preprocessor import GPT2TextEmbedderPreprocessor

ALPHABET = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
MERGES = ["Ġ t", "Ġt h", "i n"]
SPECIAL = {
    "gpt2": ["<|endoftext|>"],
    "llama3": [f"<|{name}|>" for name in ("begin_of_text", "start_header_id", "end_header_id")]
    + ["<|eot_id|>", "<|end_of_text|>"],
    "smollm": ["<|im_start|>", "<|im_end|>"],
    "qwen3": ["<|im_end|>", "<|endoftext|>"],
    "opt": ["<s>", "<pad>", "</s>"],
}
#: The largest of those vocabularies; every toy decoder has so many rows.
VOCABULARY_SIZE = 272
HIDDEN_DIM = 16
LONGEST = 32

TEXTS = ["the thing", "x", "def f(x):\n\n    return x + 1\n", "a café in Zürich \U0001f600", "  "]


def vocabulary(family: str = "gpt2") -> dict[str, int]:
    """256 byte symbols, three merged tokens and the family's special ones."""
    tokens = [*ALPHABET, *(rule.replace(" ", "") for rule in MERGES), *SPECIAL[family]]
    return {token: index for index, token in enumerate(tokens)}


def tokenizer(family: str = "gpt2"):
    """A KerasHub tokenizer of the family."""
    words = vocabulary(family)
    if family == "smollm":
        return keras_hub.models.Llama3Tokenizer(words, MERGES, *SPECIAL[family], set())
    name = {"gpt2": "GPT2", "llama3": "Llama3", "qwen3": "Qwen3", "opt": "OPT"}[family]
    return getattr(keras_hub.models, f"{name}Tokenizer")(words, MERGES)


def sentencepiece_tokenizer(texts=("the quick brown fox", "[a] {b} in one word")):
    """A tiny Gemma 3 tokenizer, of the kind that is no byte-pair encoding of byte symbols."""
    sentencepiece = importlib.import_module("sentencepiece")
    proto = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([*texts] * 3),
        model_writer=proto,
        vocab_size=60,
        model_type="WORD",
        pad_id=0,
        bos_id=2,
        eos_id=1,
        unk_id=3,
        pad_piece="<pad>",
        bos_piece="<bos>",
        eos_piece="<eos>",
        unk_piece="<unk>",
        minloglevel=2,
        hard_vocab_limit=False,
        control_symbols=["<start_of_image>", "<end_of_image>", "<img>", "<end_of_turn>"],
        user_defined_symbols=["[", "]", "{", "}"],
    )
    return keras_hub.models.Gemma3Tokenizer(proto=proto.getvalue())


_SIZES = {
    "vocabulary_size": VOCABULARY_SIZE,
    "hidden_dim": HIDDEN_DIM,
    "intermediate_dim": 4 * HIDDEN_DIM,
}
_GROUPED = {**_SIZES, "num_query_heads": 2, "num_key_value_heads": 1}
_ARGUMENTS = {
    "GPT2": {**_SIZES, "num_heads": 2, "max_sequence_length": LONGEST},
    "OPT": {**_SIZES, "num_heads": 2, "max_sequence_length": LONGEST},
    "Bloom": {**_SIZES, "num_heads": 2},
    "GPTNeoX": {**_SIZES, "num_heads": 2, "max_sequence_length": LONGEST},
    "Falcon": {**_SIZES, "num_attention_heads": 2},
    "Llama": _GROUPED,
    "Llama3": _GROUPED,
    "Mistral": _GROUPED,
    "Phi3": {**_GROUPED, "max_sequence_length": LONGEST},
    "Qwen3": {**_GROUPED, "head_dim": 8},
    "Gemma3": {
        **_GROUPED,
        "head_dim": 8,
        "image_size": 16,
        "vision_encoder": None,
        "use_sliding_window_attention": True,
        "sliding_window_size": 4,
    },
    "SmolLM3": {
        **_SIZES,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "attention_bias": False,
        "attention_dropout": 0.0,
        "mlp_bias": False,
        "layer_norm_epsilon": 1e-6,
        "max_position_embeddings": LONGEST,
        "rope_theta": 10_000,
        "partial_rotary_factor": 1.0,
    },
}
DECODERS = tuple(_ARGUMENTS)


def backbone(name: str = "GPT2", num_layers: int = 2, **kwargs):
    """A KerasHub decoder with weights, norm scales and biases too, that are all of some size."""
    arguments = {**_ARGUMENTS[name], "num_layers": num_layers, **kwargs}
    if name == "SmolLM3":
        arguments["rope_layer_enabled_list"] = [index % 2 == 0 for index in range(num_layers)]
        arguments["layer_types"] = ["full_attention"] * num_layers
    return with_weights_of_some_size(f"{name}Backbone", arguments)


def with_weights_of_some_size(kind: str, arguments: dict):
    """A backbone whose weights are away from what new layers start with: one not loaded shows."""
    made = getattr(keras_hub.models, kind)(**arguments)
    rng = np.random.default_rng(0)
    for weight in made.weights:
        size = 0.2 if len(weight.shape) > 1 else 0.1
        value = rng.normal(scale=size, size=weight.shape)
        weight.assign(keras.ops.convert_to_numpy(weight) * (len(weight.shape) == 1) + value)
    return made


def preprocessor(family: str = "gpt2", sequence_length: int = 24, **kwargs):
    """A preprocessor with a byte-level tokenizer."""
    return TextEmbedderPreprocessor(tokenizer(family), sequence_length, **kwargs)


def gpt2_embedder(num_layers: int = 2, sequence_length: int = 24, **kwargs):
    """A `GPT2TextEmbedder`."""
    reader = GPT2TextEmbedderPreprocessor(tokenizer(), sequence_length)
    return GPT2TextEmbedder(backbone("GPT2", num_layers), reader, **kwargs)


def embedder(name: str = "GPT2", num_layers: int = 2, **kwargs):
    """A `TextEmbedder` on any of `DECODERS`."""
    family = {"Llama3": "llama3", "SmolLM3": "llama3", "Qwen3": "qwen3", "OPT": "opt"}
    reader = preprocessor(family.get(name, "gpt2"))
    return TextEmbedder(backbone(name, num_layers), reader, **kwargs)


def save_hugging_face(folder: Path, source, family: str, add_tokenizer_json: bool = True) -> Path:
    """Write a Llama or GPT-2 backbone as transformers does: the inverse of KerasHub's converter."""
    safetensors = importlib.import_module("safetensors.numpy")
    folder.mkdir(parents=True, exist_ok=True)
    gpt2 = family == "gpt2"
    config, tensors = (_hugging_face_gpt2 if gpt2 else _hugging_face_llama)(source)
    safetensors.save_file(
        {key: np.ascontiguousarray(value) for key, value in tensors.items()},
        folder / "model.safetensors",
    )
    (folder / "config.json").write_text(json.dumps(config))
    words = vocabulary(family)
    if gpt2:
        (folder / "vocab.json").write_text(json.dumps(words))
        (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *MERGES]))
    special = SPECIAL[family]
    names = {"bos_token": special[0], "eos_token": special[-1]}
    (folder / "tokenizer_config.json").write_text(json.dumps(names))
    if add_tokenizer_json:
        content = _tokenizer_json(words, special, digits=family == "smollm")
        (folder / "tokenizer.json").write_text(json.dumps(content))
    return folder


def _tokenizer_json(words: dict[str, int], special: list[str], digits: bool) -> dict:
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
    steps = [{**byte_level, "use_regex": True}]
    if digits:
        steps.insert(0, {"type": "Digits", "individual_digits": True})
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {"id": words[token], "content": token, "special": True, **flags} for token in special
        ],
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": steps},
        "post_processor": None,
        "decoder": {**byte_level, "use_regex": True},
        "model": {"type": "BPE", "vocab": words, "merges": [rule.split() for rule in MERGES]},
    }


def _numpy(weight) -> np.ndarray:
    return np.array(keras.ops.convert_to_numpy(weight))


def _hugging_face_gpt2(source) -> tuple[dict, dict]:
    dim = source.hidden_dim
    config = {
        "model_type": "gpt2",
        "vocab_size": source.vocabulary_size,
        "n_layer": source.num_layers,
        "n_head": source.num_heads,
        "n_embd": dim,
        "n_positions": source.max_sequence_length,
        "resid_pdrop": 0.1,
    }
    tensors = {
        "wte.weight": _numpy(source.token_embedding.embeddings),
        "wpe.weight": _numpy(source.position_embedding.position_embeddings),
        "ln_f.weight": _numpy(source.layer_norm.gamma),
        "ln_f.bias": _numpy(source.layer_norm.beta),
    }
    for index, layer in enumerate(source.transformer_layers):
        attention = layer._self_attention_layer
        parts = [attention.query_dense, attention.key_dense, attention.value_dense]
        dense = {
            "attn.c_proj": (attention.output_dense, (dim, dim)),
            "mlp.c_fc": (layer._feedforward_intermediate_dense, (dim, -1)),
            "mlp.c_proj": (layer._feedforward_output_dense, (-1, dim)),
        }
        block = {
            "attn.c_attn.weight": np.hstack([_numpy(p.kernel).reshape(dim, dim) for p in parts]),
            "attn.c_attn.bias": np.hstack([_numpy(p.bias).reshape(dim) for p in parts]),
            "ln_1.weight": _numpy(layer._self_attention_layer_norm.gamma),
            "ln_1.bias": _numpy(layer._self_attention_layer_norm.beta),
            "ln_2.weight": _numpy(layer._feedforward_layer_norm.gamma),
            "ln_2.bias": _numpy(layer._feedforward_layer_norm.beta),
        }
        for name, (part, shape) in dense.items():
            block[f"{name}.weight"] = _numpy(part.kernel).reshape(shape)
            block[f"{name}.bias"] = _numpy(part.bias).reshape(-1)
        tensors |= {f"h.{index}.{name}": value for name, value in block.items()}
    return config, tensors


def _hugging_face_llama(source) -> tuple[dict, dict]:
    dim = source.hidden_dim
    config = {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "vocab_size": source.vocabulary_size,
        "num_hidden_layers": source.num_layers,
        "num_attention_heads": source.num_query_heads,
        "num_key_value_heads": source.num_key_value_heads,
        "hidden_size": dim,
        "intermediate_size": source.intermediate_dim,
        "rope_theta": 10_000,
        "rms_norm_eps": 1e-6,
        "tie_word_embeddings": True,
    }
    tensors = {
        "model.embed_tokens.weight": _numpy(source.token_embedding.embeddings),
        "model.norm.weight": _numpy(source.get_layer("sequence_output_layernorm").scale),
    }
    for index, layer in enumerate(source.transformer_layers):
        attention = layer._self_attention_layer
        dense = {
            "self_attn.q_proj": attention._query_dense,
            "self_attn.k_proj": attention._key_dense,
            "self_attn.v_proj": attention._value_dense,
            "mlp.gate_proj": layer._feedforward_gate_dense,
            "mlp.up_proj": layer._feedforward_intermediate_dense,
            "mlp.down_proj": layer._feedforward_output_dense,
        }
        block = {name: _numpy(part.kernel) for name, part in dense.items()}
        block = {name: value.reshape(len(value), -1).T for name, value in block.items()}
        output = _numpy(attention._output_dense.kernel)
        block["self_attn.o_proj"] = output.reshape(-1, dim).T
        block["input_layernorm"] = _numpy(layer._self_attention_layernorm.scale)
        block["post_attention_layernorm"] = _numpy(layer._feedforward_layernorm.scale)
        tensors |= {f"model.layers.{index}.{k}.weight": v for k, v in block.items()}
    return config, tensors


_WORDS = "a b c d e is spelt how just like it ? :"


def keras_hub_embedder(name: str = "Bert", dropout: float = 0.0, **kwargs):
    """One of KerasHub's own embedders: Bert, XLMRoberta, Qwen3 or Gemma3."""
    arguments = {"num_layers": 2, "hidden_dim": HIDDEN_DIM, "intermediate_dim": 32}
    if name in ("Bert", "XLMRoberta"):
        arguments |= {"num_heads": 2, "max_sequence_length": LONGEST, "dropout": dropout}
        arguments["vocabulary_size"] = VOCABULARY_SIZE
    else:
        arguments = {**_ARGUMENTS[name], "num_layers": 2, "dropout": dropout}
    if name == "Bert":
        letters = "abcdefghijklmnopqrstuvwxyz?:"
        words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "is", "just", "it", *letters]
        reads = keras_hub.models.BertTokenizer([*words, *(f"##{x}" for x in letters)])
    elif name == "Qwen3":
        reads = tokenizer("qwen3")
    elif name == "Gemma3":
        reads = sentencepiece_tokenizer([_WORDS])
    else:
        reads = xlm_roberta_tokenizer()
    made = with_weights_of_some_size(f"{name}Backbone", arguments)
    preprocessor = getattr(keras_hub.models, f"{name}TextEmbedderPreprocessor")(reads, LONGEST)
    return getattr(keras_hub.models, f"{name}TextEmbedder")(made, preprocessor, **kwargs)


def xlm_roberta_tokenizer():
    """A tiny XLM-RoBERTa tokenizer."""
    sentencepiece = importlib.import_module("sentencepiece")
    proto = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([_WORDS] * 3),
        model_writer=proto,
        vocab_size=30,
        model_type="WORD",
        minloglevel=2,
        hard_vocab_limit=False,
        pad_id=-1,
    )
    return keras_hub.models.XLMRobertaTokenizer(proto=proto.getvalue())
