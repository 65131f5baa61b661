"""Any embedder as an encoder of mteb 2, the Massive Text Embedding Benchmark's library."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from types import ModuleType
from typing import TYPE_CHECKING, TypeAlias

import keras
import numpy as np

from cptk import checks, optional
from cptk.encoders import TextEncoder, Vectors, embed, embed_checked
from cptk.fingerprint import fingerprint
from cptk.types import Model, Tensor, TensorLike

if TYPE_CHECKING:
    from mteb.models import ModelMeta
    from mteb.types import PromptType

Roles: TypeAlias = Mapping[str | None, str | None]
"""mteb's "query", "document" or None -> the role of the embedder that stands for it."""

#: What the default revision is taken from: prose, a question, code, another script. (Ours.)
_PROBES = (
    "The quick brown fox jumps over the lazy dog.",
    "how do I open a file?",
    "def add(a, b):\n    return a + b",
    "Ein Café in Zürich, 12.5 km von hier",
)
_FRAMEWORKS = {"tensorflow": "TensorFlow", "jax": "JAX", "torch": "PyTorch"}


def as_encoder(
    encoder: TextEncoder,
    name: str | None = None,
    *,
    roles: Roles | None = None,
    revision: str | None = None,
    **metadata: object,
) -> MTEBEncoder:
    """Wrap an embedder so that `mteb.evaluate` takes it.

    mteb says of a retrieval task's texts whether they are queries or documents; they are embedded
    in the role of that name. Of other tasks' texts (similarity, classification, clustering) it says
    nothing: they take the embedder's default role. Similarity is the cosine.

    mteb keeps results on disk by name and revision, and gives them out again instead of running a
    task that it has. The default revision is therefore a hash of the vectors of four short texts in
    each role and, where the weights can be read, of all that vectors depend on: another embedder,
    other weights, roles or lengths give another revision. It is taken once: after more training,
    wrap the embedder anew. (Ours.)

    A blank text, such as some corpora hold, cannot be embedded; it gets the zero vector, whose
    cosine with everything is 0. (Ours.) The `batch_size` in mteb's `encode_kwargs` is passed over:
    an embedder batches by itself.

    Args:
        encoder: Anything that embeds text (`cptk.encoders.embed`): an embedder of cptk
            or KerasHub, a fitted vectoriser, a function texts -> array.
        name: `"organisation/model"`, under which results are kept. Defaults to `"cptk/"` and the
            embedder's own name.
        roles: The roles that stand for mteb's `"query"` and `"document"`, and by the key `None` for
            neither, where they are not of these names: `{"document": "passage"}`.
        revision: Replaces the hash.
        **metadata: More fields of `mteb.models.ModelMeta`, or replacements of those set here (size,
            number of parameters and of tokens, framework): `languages=["eng-Latn"]`,
            `training_datasets={"NQ"}`.

    Returns:
        An encoder of mteb's `EncoderProtocol`.

    Raises:
        ImportError: mteb is not installed.
        TypeError: `encoder` embeds no text, or `roles` is no mapping.
        ValueError: A `name` without one slash, a key in `roles` or a field that mteb does not know,
            or a role that the embedder does not have.

    Example:

    ```python title="Needs mteb and the network"
    encoder = cptk.integrations.mteb.as_encoder(embedder, "me/my-embedder")
    result = mteb.evaluate(encoder, mteb.get_task("STSBenchmark.v2"))
    result.task_results[0].get_score()  # Spearman's correlation
    ```

    References:
        - Muennighoff et al., MTEB: Massive Text Embedding Benchmark, arXiv:2210.07316.
        - Protocol: `EncoderProtocol` in embeddings-benchmark/mteb, mteb/models/models_protocols.py.
    """
    library = _library()
    name = _default_name(encoder) if name is None else name
    if not isinstance(name, str) or [bool(part.strip()) for part in name.split("/")] != [True] * 2:
        raise ValueError(f"`name` should be 'organisation/model'. Received: {name!r}.")
    if roles is not None and not isinstance(roles, Mapping):
        raise TypeError(f"`roles` should be a mapping. Received: {checks.shown(roles)}.")
    chosen: dict[str | None, str | None] = {"query": "query", "document": "document", None: None}
    if unknown := set(roles or ()) - set(chosen):
        raise ValueError(
            "`roles` should map 'query', 'document' or None, which are all that mteb tells apart, "
            f"to roles of the embedder. Received the keys: {sorted(map(repr, unknown))}."
        )
    chosen |= roles or {}
    size, default_revision = _probe(encoder, chosen)
    keras_model: Model = encoder if isinstance(encoder, keras.Model) else None
    fields: dict[str, object] = {
        "loader": None,
        "name": name,
        "revision": default_revision if revision is None else revision,
        "release_date": None,
        "languages": None,
        "n_parameters": None if keras_model is None else keras_model.count_params(),
        "memory_usage_mb": None,
        "max_tokens": getattr(getattr(encoder, "preprocessor", None), "sequence_length", None),
        "embed_dim": size,
        "license": None,
        "open_weights": None,
        "public_training_code": None,
        "public_training_data": None,
        "framework": [] if keras_model is None else [_FRAMEWORKS[keras.backend.backend()]],
        "similarity_fn_name": "cosine",
        "use_instructions": None,
        "training_datasets": None,
        **metadata,
    }
    return MTEBEncoder(encoder, chosen, size, library.models.ModelMeta(**fields))


class MTEBEncoder:
    """An embedder with all that mteb asks of an encoder; `as_encoder` makes it."""

    def __init__(self, encoder: TextEncoder, roles: Roles, size: int, meta: ModelMeta) -> None:
        self.encoder = encoder
        self.roles = roles
        self.size = size
        self.mteb_model_meta = meta

    def encode(
        self,
        inputs: Iterable[Mapping[str, object]],
        *,
        prompt_type: PromptType | None = None,
        **_: object,
    ) -> Vectors:
        """Embed the `"text"` of batches, as mteb's data loader gives them."""
        batches = [batch["text"] for batch in inputs if _has_text(batch)]
        texts = [text for batch in batches for text in checks.items(batch, "text", "strings")]
        texts = checks.texts(texts, "text", allow_blank=True) if texts else []
        rows = [row for row, text in enumerate(texts) if text.strip()]
        vectors = np.zeros((len(texts), self.size), np.float32)
        if rows:
            kind = getattr(prompt_type, "value", prompt_type)
            role = self.roles[kind]
            vectors[rows] = embed(self.encoder, [texts[row] for row in rows], role)
        return vectors

    def similarity(self, embeddings1: TensorLike, embeddings2: TensorLike) -> Tensor:
        """Cosine of each row of the one with each of the other, by mteb's own function."""
        from mteb.similarity_functions import cos_sim

        return cos_sim(embeddings1, embeddings2)

    def similarity_pairwise(self, embeddings1: TensorLike, embeddings2: TensorLike) -> Tensor:
        """Cosine of each row of the one with the same row of the other, by mteb's own function."""
        from mteb.similarity_functions import pairwise_cos_sim

        return pairwise_cos_sim(embeddings1, embeddings2)


def _has_text(batch: object) -> bool:
    if not isinstance(batch, Mapping) or "text" not in batch:
        raise TypeError(
            'A batch should be a mapping with "text", as of mteb\'s tasks on text. Received: '
            f"{checks.shown(batch)}."
        )
    return True


def _library() -> ModuleType:
    """The `mteb` library, checked at the door."""
    return optional.load("mteb", "Running mteb's tasks", "mteb 2.26 or newer", "mteb")


def _default_name(encoder: TextEncoder) -> str:
    name = getattr(encoder, "name", None) or getattr(encoder, "__name__", None)
    name = name if isinstance(name, str) else type(encoder).__name__
    return "cptk/" + re.sub(r"\W+", "-", name).strip("-")


def _probe(encoder: TextEncoder, roles: Roles) -> tuple[int, str]:
    """Size of the vectors, and a hash of some of them, rounded so that it holds across machines."""
    digest = hashlib.sha256((fingerprint(encoder) or "").encode())
    for role in (roles[None], roles["query"], roles["document"]):
        vectors, _ = embed_checked(encoder, list(_PROBES), role)
        largest = float(np.abs(vectors).max()) or 1.0
        steps = np.rint(vectors * (1000 / largest)).astype("<i2")
        digest.update(f"{largest:.3g} {steps.shape}".encode() + steps.tobytes())
    return vectors.shape[1], digest.hexdigest()[:40]
