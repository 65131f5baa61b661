"""One saved preset of GPT-2 and one of Llama for all tests of models; never to be changed."""

import shutil
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
import pytest

from cptk.data.batching import pad_tokens
from cptk.models import Role, TextEmbedder
from tests import toys

ROLES = {"query": Role("Q: ", [1, 2]), "document": Role("", " = "), "third": Role("3", "")}
TEXTS = [text for text in toys.TEXTS if text.strip()]


class Saved(NamedTuple):
    embedder: Any
    folder: Path


def llama_embedder(num_layers: int = 2, **kwargs: Any) -> TextEmbedder:
    """Everything in it is other than the default."""
    reader = toys.preprocessor("llama3", 21, roles=ROLES)
    backbone = toys.backbone("Llama3", num_layers, **kwargs)
    return TextEmbedder(backbone, reader, pooling="weighted_mean", normalize=False)


def vectors(embedder: Any, role: str | None = None, texts: Any = TEXTS) -> np.ndarray:
    """As `encode_text` gives them, without a compilation for each embedder."""
    rows = embedder.preprocessor.tokenize(texts, role)
    # One shape for most tests: JAX compiles each operation for each shape.
    features = pad_tokens(rows, 32 if max(map(len, rows)) <= 32 else 64)
    return keras.ops.convert_to_numpy(embedder(features, training=False))


def assert_same(found: Any, expected: Any, roles: Any = (None,)) -> None:
    for role in roles:
        np.testing.assert_allclose(vectors(found, role), vectors(expected, role), atol=1e-6)


def save(embedder: Any, folder: Path) -> Saved:
    embedder.save_to_preset(folder)
    return Saved(embedder, folder)


@pytest.fixture(scope="session")
def gpt2(tmp_path_factory: pytest.TempPathFactory) -> Saved:
    return save(toys.gpt2_embedder(), tmp_path_factory.mktemp("presets") / "gpt2")


@pytest.fixture(scope="session")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Saved:
    embedder = llama_embedder(tie_word_embeddings=True)
    return save(embedder, tmp_path_factory.mktemp("presets") / "llama")


@pytest.fixture(scope="session")
def hugging_face(gpt2: Saved, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Saved]:
    """Family → a backbone (GPT-2's is that of the preset) and its Hugging Face folder."""
    root = tmp_path_factory.mktemp("hugging_face")
    llama = toys.backbone("Llama3", 1, tie_word_embeddings=True)
    sources = {"gpt2": gpt2.embedder.backbone, "llama3": llama, "smollm": llama}
    return {
        family: Saved(source, toys.save_hugging_face(root / family, source, family))
        for family, source in sources.items()
    }


@pytest.fixture
def hugging_face_copy(hugging_face: dict[str, Saved], tmp_path: Path) -> Any:
    """Copies the folder of a family, to be spoilt."""
    return lambda family: Path(shutil.copytree(hugging_face[family].folder, tmp_path / family))


@pytest.fixture
def copy(gpt2: Saved, tmp_path: Path) -> Path:
    """A copy of the GPT-2 preset, to be spoilt."""
    return Path(shutil.copytree(gpt2.folder, tmp_path / "copy"))
