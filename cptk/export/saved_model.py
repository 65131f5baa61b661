"""An embedder as a TensorFlow SavedModel, for TensorFlow Serving and everything that loads one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path as FilePath

import numpy as np

from cptk import checks
from cptk.export import word_piece_graph
from cptk.export.card import checked_card, with_use
from cptk.export.graph import OUTPUT, in_batches, on_tensorflow, quantized_copy, token_function
from cptk.export.parts import check_embedder, check_float
from cptk.export.samples import Sample, check_close, compare, sample
from cptk.export.target import Exported, checked_folder, finish, writing
from cptk.export.tokenizer_file import Tokenization, example, tokenization, write_beside
from cptk.models.keras_hub_embedders import text_reader
from cptk.types import Config, Model, Path, Tensor

#: What the same graph may differ by, run by itself.
_ACCEPTED, _ACCEPTED_16_BITS = 1e-5, 3e-2
_LARGEST = 2**31 - 2**20  # bytes
_STRINGS = """```python
import tensorflow as tf
import tensorflow_text  # its operations are in the graph

served = tf.saved_model.load("{folder}")
vectors = served.signatures["serving_default"](tf.constant(["a text"]))["embeddings"]
```

Signatures: `serving_default` takes strings as texts of the role `{default}`, `encode_<role>` those
of each role, and `tokens` takes `token_ids` (int32) and `padding_mask` (bool)."""
_TOKENS = """```python
import tensorflow as tf
from tokenizers import Tokenizer

served = tf.saved_model.load("{folder}")
ids = Tokenizer.from_file("{folder}/tokenizer.json").encode({text}).ids
vectors = served.signatures["serving_default"](
    token_ids=tf.constant([ids]), padding_mask=tf.ones((1, len(ids)), tf.bool)
)["embeddings"]
```

It takes token ids. `tokenizer.json` gives those of a text in the role `{default}`; `roles.json` has
what stands around a text in each role."""


def to_saved_model(
    embedder: Model,
    folder: Path,
    *,
    roles: str | Sequence[str] | None = None,
    quantize: str | None = None,
    card: str | None = None,
    overwrite: bool = False,
) -> Exported:
    """Write a TensorFlow SavedModel, which needs neither cptk nor Keras.

    It takes strings where TensorFlow's operations give the reference ids: for WordPiece, which BERT
    has. Otherwise it takes token ids, and `tokenizer.json` stands beside it. The notes say which.
    Where Keras runs on another backend, a process of its own converts on TensorFlow.

    Args:
        embedder: A `TextEmbedder`, or one of KerasHub's own.
        folder: The folder to write.
        roles: Names of the roles that it should have; all by default.
        quantize: `"int8"`: weights of the backbone in 8 bits, by Keras.
        card: The model card; `model_card(embedder)` by default.
        overwrite: Replace an export that stands there.

    Returns:
        The folder, and the differences to the embedder's own vectors.

    Raises:
        TypeError, ValueError: A bad argument, as for `to_sentence_transformers`; here every
            backbone is taken, and all roles go into one folder.
        RuntimeError: The vectors differ from the embedder's. Nothing has been written then.

    Example:

    ```python title="Needs a minute"
    exported = cptk.export.to_saved_model(embedder, "my_saved_model")
    served = tf.saved_model.load("my_saved_model").signatures["tokens"]
    ```
    """
    check_embedder(embedder)
    target = checked_folder(folder, overwrite)
    check_quantize(quantize)
    if quantize is not None:
        check_float(embedder, "an int8 SavedModel")
    text = checked_card(card, embedder)
    found = tokenization(embedder, roles) if text_reader(embedder) is not None else None
    given = sample(embedder, found.default if found is not None else None)
    computes = str(embedder.backbone.compute_dtype)
    with writing(target, overwrite) as new:
        options = {"roles": _options(found), "quantize": quantize, "computes": computes}
        measured = on_tensorflow("saved_model", embedder, new, given, **options)
        notes = (*write_beside(new, found), *measured["notes"])
        form = _STRINGS if measured["strings"] else _TOKENS
        default = found.default if found else ""
        use = form.format(folder=target.name, default=default, text=example(found))
        about = {"format": "saved_model", "quantize": quantize, **measured}
        sizes = finish(new, with_use(text, use, notes), about)
    return Exported(target, sizes, measured["difference"], measured["cosine"], notes)


def check_quantize(quantize: object) -> None:
    """Raise `ValueError` for anything but `"int8"` and None."""
    if quantize is not None:
        checks.choice("quantize", quantize, ["int8"])


def check_size(embedder: Model, target: str) -> None:
    """Raise `ValueError` where the weights do not fit in a file that protobuf or LiteRT reads."""
    size = 4 * sum(int(np.prod(weight.shape)) for weight in embedder.weights)
    if size > _LARGEST:
        raise ValueError(
            f"The weights take {size / 2**30:.1f} GiB, and a file for {target} holds 2. Export a "
            "SavedModel, or a sentence-transformers folder."
        )


def _options(found: Tokenization | None) -> Config | None:
    if found is None:
        return None
    roles = {name: list(role) for name, role in found.roles.items()}
    about = {**found._asdict(), "roles": roles}
    # A graph of strings would follow tokenizer.json, and the embedder reads otherwise.
    return {**about, "content": None, "why_not": found.remark} if found.remark else about


def build(embedder: Model, folder: FilePath, given: Sample, options: Config) -> Config:
    """Write the SavedModel into a folder and compare it with the embedder; on TensorFlow."""
    import tensorflow as tf

    source = embedder if options["quantize"] is None else quantized_copy(embedder)
    module = tf.Module(name="embedder")
    module.weights_ = [weight.value for weight in source.variables]
    tokens = token_function(source)
    module.serve = tokens
    signature = tokens.input_signature

    @tf.function(input_signature=signature, autograph=False)  # type: ignore[untyped-decorator]
    def from_tokens(token_ids: Tensor, padding_mask: Tensor) -> dict[str, Tensor]:
        return {OUTPUT: tokens(token_ids, padding_mask)}

    signatures = {"tokens": from_tokens, "serving_default": from_tokens}
    why = "the embedder reads no texts"
    graphs = None
    if options["roles"] is not None:
        graphs, why = word_piece_graph.for_roles(options["roles"], given.texts)
    for role, ids_of in (graphs or {}).items():
        served = _from_strings(ids_of, tokens)
        signatures[f"encode_{role}"] = served
        if role == options["roles"]["default"]:
            signatures["serving_default"] = served
    tf.saved_model.save(module, str(folder), signatures=signatures)
    loaded = tf.saved_model.load(str(folder)).signatures

    def run(token_ids: object, mask: object) -> Tensor:
        found = loaded["tokens"](
            token_ids=tf.constant(token_ids, tf.int32), padding_mask=tf.constant(mask, tf.bool)
        )
        return found[OUTPUT].numpy()

    compared = compare(in_batches(run, given), given.vectors)
    # What the vectors were computed in: a process of its own may compute in float32.
    accepted = _ACCEPTED if options["computes"] == "float32" else _ACCEPTED_16_BITS
    if options["quantize"] is None:
        check_close(compared, accepted, given.vectors, "The SavedModel")
    if graphs:
        strings = loaded["serving_default"](tf.constant(list(given.texts)))[OUTPUT].numpy()
        whole = compare(np.asarray(strings), in_batches(run, given))
        check_close(whole, accepted, given.vectors, "The SavedModel, given strings,")
    notes = [] if graphs else [f"It takes token ids and no strings: {why}."]
    return {**compared._asdict(), "strings": bool(graphs), "notes": notes}


def _from_strings(ids_of: Tensor, tokens: Tensor) -> Tensor:
    import tensorflow as tf

    signature = [tf.TensorSpec((None,), tf.string, "texts")]

    @tf.function(input_signature=signature, autograph=False)  # type: ignore[untyped-decorator]
    def serve(texts: Tensor) -> dict[str, Tensor]:
        token_ids, mask = ids_of(texts)
        return {OUTPUT: tokens(token_ids, mask)}

    return serve
