"""A sentence-transformers model as an encoder that cptk's evaluation takes."""

import difflib
import hashlib
import json
from collections.abc import Sequence
from os import PathLike
from types import ModuleType

from cptk import checks, optional
from cptk.encoders import Vectors, check_vectors
from cptk.search.exact import unit_rows
from cptk.types import Config, Path, TorchModule


class SentenceEncoder:
    """A `SentenceTransformer` with `encode_text(texts, role=None)`; `as_encoder` makes it.

    Attributes:
        model: The `SentenceTransformer`.
        batch_size: Number of texts in a batch.
        normalize: Whether vectors are divided by their length.
    """

    def __init__(self, model: TorchModule, batch_size: int, normalize: bool) -> None:
        self.model = model
        self.batch_size = batch_size
        self.normalize = normalize

    @property
    def roles(self) -> tuple[str, ...]:
        """The roles there are: `"query"`, `"document"` and the model's other prompts."""
        return tuple(dict.fromkeys(["query", "document", *self.model.prompts]))

    @property
    def fingerprint(self) -> str:
        """SHA-256 of all that the vectors depend on: weights, modules, prompts, vocabulary, length.

        It takes as long as reading the weights once (a second for 500 MB).
        """
        model = self.model
        tokenizer = getattr(model, "tokenizer", None)
        vocabulary: dict[str, int] = getattr(tokenizer, "get_vocab", dict)()
        setting = [str(model), model.prompts, model.default_prompt_name, model.truncate_dim]
        setting += [model.max_seq_length, self.normalize, sorted(vocabulary.items())]
        setting += [_pipeline(tokenizer), getattr(tokenizer, "padding_side", None)]
        digest = hashlib.sha256(json.dumps(setting).encode())
        for name, weight in sorted(model.state_dict().items()):
            digest.update(f"{name} {weight.dtype} {tuple(weight.shape)}".encode())
            flat = weight.detach().cpu().contiguous().reshape(-1)
            digest.update(flat.view(_library("torch").uint8).numpy().tobytes())
        return digest.hexdigest()

    def encode_text(self, texts: str | Sequence[str], role: str | None = None) -> Vectors:
        """Embed texts; they are sorted by length and put into batches by sentence-transformers.

        Args:
            texts: One string, or a sequence of n strings.
            role: `"query"` and `"document"` go through the model's `encode_query` and
                `encode_document` (its prompts of these names, and its own path for each where it
                has two); another role is the prompt of that name; `None` is plain `encode`, with
                the model's default prompt if it has one.

        Returns:
            (n, d) float32, in the order of `texts`.

        Raises:
            TypeError: Something that is not a string.
            ValueError: No texts, a blank one, an unknown role.
        """
        checked = checks.texts([texts] if isinstance(texts, str) else texts)
        options: dict[str, object] = {"batch_size": self.batch_size}
        encode = self.model.encode
        if role in ("query", "document"):
            encode = getattr(self.model, f"encode_{role}")
        elif role is not None:
            if not isinstance(role, str) or role not in self.model.prompts:
                near = difflib.get_close_matches(str(role), self.roles, n=1)
                hint = f" Did you mean {near[0]!r}?" if near else ""
                raise ValueError(
                    f"`role` should be None or one of {list(self.roles)}. Received: {role!r}.{hint}"
                )
            options["prompt_name"] = role
        vectors = check_vectors(encode(checked, **options), len(checked), "The SentenceTransformer")
        return unit_rows(vectors) if self.normalize else vectors


def as_encoder(
    model: TorchModule | Path,
    *,
    batch_size: int = 32,
    normalize: bool = False,
    device: str | None = None,
) -> SentenceEncoder:
    """Make an encoder of a sentence-transformers model, for everything in `cptk.evaluation`.

    Args:
        model: A `SentenceTransformer`, or the folder of one, which is loaded. A name on the Hugging
            Face hub is not looked up: pass `SentenceTransformer(name)`.
        batch_size: Number of texts in a batch.
        normalize: Divide vectors by their length; otherwise they are as the model gives them (many
            models have a module that does it).
        device: Where a folder's model is put (`"cpu"`, `"cuda"`); sentence-transformers' choice if
            `None`.

    Returns:
        Something with `encode_text(texts, role=None)`, `roles`, and a `fingerprint` of the model.

    Raises:
        ImportError: sentence-transformers is not installed.
        FileNotFoundError: There is no such folder, or it holds no model.
        TypeError: `model` is neither, or `batch_size` no integer.
        ValueError: `batch_size` is below 1, or the folder's model cannot be loaded.

    Example:

    ```python title="Needs sentence-transformers and the network"
    model = SentenceTransformer("all-MiniLM-L6-v2")
    encoder = cptk.integrations.sentence_transformers.as_encoder(model)
    report = cptk.evaluation.evaluate(encoder, ["sst2_linear_probe"])
    ```

    References:
        - Reimers & Gurevych, Sentence-BERT, arXiv:1908.10084.
    """
    library = _library()
    batch_size = checks.integer("batch_size", batch_size, 1)
    if isinstance(model, str | PathLike):
        folder = checks.path(model, "model")
        if not any((folder / file).is_file() for file in ("modules.json", "config.json")):
            raise FileNotFoundError(
                f"There is no sentence-transformers model in the folder {str(folder)!r}: no "
                "modules.json and no config.json. For a model on the Hugging Face hub pass "
                "`SentenceTransformer(name)`."
            )
        try:
            model = library.SentenceTransformer(str(folder), device=device, local_files_only=True)
        except Exception as error:  # each of its parts has errors of its own
            raise ValueError(
                f"The sentence-transformers model in {str(folder)!r} cannot be loaded "
                f"({type(error).__name__}: {error}). Save or download it again."
            ) from error
    if not isinstance(model, library.SentenceTransformer):
        raise TypeError(
            "`model` should be a SentenceTransformer or the folder of one. Received: "
            f"{type(model).__name__}."
        )
    return SentenceEncoder(model, batch_size, normalize)


def _pipeline(tokenizer: object) -> Config | None:
    """What a fast tokenizer does to a text, without the length of the last call."""
    to_str = getattr(getattr(tokenizer, "backend_tokenizer", None), "to_str", None)
    if to_str is None:
        return None
    spec = json.loads(to_str())
    return {key: value for key, value in spec.items() if key not in ("truncation", "padding")}


def _library(name: str = "sentence_transformers") -> ModuleType:
    """The `sentence_transformers` library, or its torch, checked at the door."""
    package = "sentence-transformers 6.2 or newer"
    return optional.load(name, "Running a SentenceTransformer", package, "sentence-transformers")
