"""The texts on which an export is compared with its embedder."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from cptk.checks import shown
from cptk.data.batching import pad_tokens
from cptk.models.forward import forward
from cptk.models.keras_hub_embedders import text_reader
from cptk.types import Model, TokenBatch, Vectors

#: What tokenizers have been seen to disagree on, and what people embed.
TEXTS = (
    "how do I open a file?",
    "A fine film, and a sad one: I'd see it again.",
    "def read(path):\n    with open(path) as file:\n\n\n        return file.read()\n",
    "\tint main(void)\r\n{\r\n\treturn 0x1F;\r\n}",
    "  two  spaces   and a line\n\n",
    "x",
    "(brackets) [and] {braces} <here>",
    "naïve café in Zürich, Straße, ÅNGSTRÖM, İstanbul, ΣΊΣΥΦΟΣ",
    "e\u0301 a\u0323\u0302 ﬁne ½ Ⅷ 3.14159 1,000,000",
    "日本語のテキスト。漢字かなカタカナー",
    "你好，世界！ 한국어 문장입니다.",
    "Это предложение на русском языке. Ενα κείμενο.",
    "مرحبا بالعالم שלום עולם हिन्दी ภาษาไทยไม่มีช่องว่างระหว่างคำในประโยค",
    "\U0001f600 \U0001f469\u200d\U0001f467 \U0001f44d\U0001f3fd \u2764\ufe0f",
    "zero\u200bwidth \u00a0space\u3000wide \ufeffmark \u00adsoft",
    "http://example.org/a?b=c&d=%20#e user@example.org $9.99 C++",
    "[SEP] [MASK] <s> </s> <|endoftext|> <|im_end|> ##ing",
    "word " * 700,
    "unbroken" * 60,
    "…—“quoted” ‘single’ don't won't they'll",
)


class Sample(NamedTuple):
    """Texts or token ids, with the embedder's own vectors of them."""

    texts: tuple[str, ...]
    """Empty where the embedder reads no texts."""
    tokens: TokenBatch
    """`(n, length)`, NumPy."""
    vectors: Vectors


def sample(embedder: Model, role: str | None = None) -> Sample:
    """The sample texts of an embedder in a role; random ids where it has no preprocessor."""
    reader = text_reader(embedder)
    if reader is None:
        size = int(embedder.backbone.vocabulary_size)
        rng = np.random.default_rng(0)
        longest = min(64, int(getattr(embedder.backbone, "max_sequence_length", None) or 64))
        lengths = [1, 2, longest // 2, longest]
        rows = [rng.integers(0, size, length).tolist() for length in lengths]
        texts: tuple[str, ...] = ()
    else:
        texts = readable(embedder)
        rows = [list(row) for row in reader.tokenize(texts, role)]
    tokens = pad_tokens(rows, max(map(len, rows)))
    vectors = np.asarray(forward(embedder, tokens), np.float32)
    return Sample(texts, tokens, vectors)


def readable(embedder: Model) -> tuple[str, ...]:
    """The sample texts that the vocabulary can spell, of which a toy's are few."""
    reader = text_reader(embedder)
    assert reader is not None
    found = []
    for text in TEXTS:
        try:
            (row,) = reader.tokenize([text])
        except ValueError:
            continue
        if len(row):
            found.append(text)
    if not found:
        raise ValueError("The vocabulary spells none of the sample texts, as it should for text.")
    return tuple(found)


class Comparison(NamedTuple):
    """How far an export's vectors are from the embedder's own."""

    difference: float
    """The largest absolute difference of a number."""
    cosine: float
    """The smallest cosine."""


def compare(vectors: Vectors, expected: Vectors) -> Comparison:
    """Compare `(n, dim)` vectors with those expected."""
    found, wanted = np.asarray(vectors, np.float64), np.asarray(expected, np.float64)
    if found.shape != wanted.shape:
        raise RuntimeError(
            f"The export gives vectors of the shape {found.shape}; expected {wanted.shape}."
        )
    lengths = np.linalg.norm(found, axis=1) * np.linalg.norm(wanted, axis=1)
    cosines = (found * wanted).sum(axis=1) / np.where(lengths == 0, 1.0, lengths)
    return Comparison(float(np.abs(found - wanted).max()), float(cosines.min()))


def check_close(found: Comparison, most: float, expected: Vectors, what: str) -> None:
    """Raise `RuntimeError` where an export that should be exact is not, so that none is written.

    Args:
        found: Of its vectors.
        most: What is accepted, for numbers of up to 1; in proportion for larger ones.
        expected: The embedder's own vectors.
        what: The export, for the message.
    """
    most *= max(1.0, float(np.abs(expected).max(initial=0)))
    if not found.difference <= most:
        raise RuntimeError(
            f"{what} gives other vectors than the embedder: they differ by up to "
            f"{shown(found.difference)} (at most {most:g} is accepted). Nothing was written. The "
            "converter may be of a version that cptk does not know: install the ones named in "
            "constraints.txt."
        )
