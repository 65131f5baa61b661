"""An embedder as a LiteRT file (TensorFlow Lite), for phones and small computers."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path as FilePath
from types import ModuleType

import numpy as np

from cptk import checks, optional
from cptk.export.card import checked_card, with_use
from cptk.export.graph import OUTPUT, in_batches, on_tensorflow, token_function
from cptk.export.parts import check_embedder, check_float, check_float32
from cptk.export.samples import Sample, check_close, compare, sample
from cptk.export.saved_model import check_quantize, check_size
from cptk.export.target import Exported, checked_folder, finish, writing
from cptk.export.tokenizer_file import example, tokenization, write_beside
from cptk.models.keras_hub_embedders import text_reader
from cptk.types import Config, Model, Path, Tensor, Vectors

FILE = "model.tflite"
_INT32 = 3  # TensorFlow's number of the type
#: What another implementation of the same operations may differ by.
_ACCEPTED = 1e-4
_USE = """```python
import numpy as np
from ai_edge_litert.interpreter import Interpreter
from tokenizers import Tokenizer

run = Interpreter("{folder}/model.tflite").get_signature_runner()
ids = Tokenizer.from_file("{folder}/tokenizer.json").encode({text}).ids
inputs = {{"token_ids": np.array([ids], "int32"), "padding_mask": np.ones((1, len(ids)), bool)}}
vectors = run(**inputs)["embeddings"]
```

`tokenizer.json` gives the ids of a text in the role `{default}`; `roles.json` has what stands
around a text in each role."""


def to_litert(
    embedder: Model,
    folder: Path,
    *,
    quantize: str | None = None,
    card: str | None = None,
    overwrite: bool = False,
) -> Exported:
    """Write a LiteRT file: token ids in, vectors out, of any batch and length.

    Inputs are `token_ids` (int32) and `padding_mask` (bool), both `(batch, length)`, the output is
    `embeddings`. It has LiteRT's own operations alone, and none of TensorFlow's. Beside it stand
    `tokenizer.json` and `roles.json`. The file is run and compared with the embedder before the
    folder appears. Where Keras runs on another backend, a process of its own converts on
    TensorFlow.

    Args:
        embedder: A `TextEmbedder`, or one of KerasHub's own.
        folder: The folder to write.
        quantize: `"int8"`: weights in 8 bits; products are computed in 8 bits where LiteRT can.
        card: The model card; `model_card(embedder)` by default.
        overwrite: Replace an export that stands there.

    Returns:
        The folder, and the differences to the embedder's own vectors.

    Raises:
        ImportError: ai-edge-litert is not installed, which runs the file.
        TypeError, ValueError: A bad argument; a backbone with an operation that LiteRT lacks.
        RuntimeError: The vectors differ from the embedder's. Nothing has been written then.

    Example:

    ```python title="Needs ai-edge-litert"
    exported = cptk.export.to_litert(embedder, "my_litert", quantize="int8")
    print(exported.cosine)  # the smallest one to the float32 embedder
    ```
    """
    check_embedder(embedder)
    target = checked_folder(folder, overwrite)
    check_quantize(quantize)
    _library()
    check_float(embedder, "LiteRT")
    check_float32(embedder, "LiteRT")
    check_size(embedder, "LiteRT")
    text = checked_card(card, embedder)
    found = tokenization(embedder) if text_reader(embedder) is not None else None
    given = sample(embedder, found.default if found is not None else None)
    with writing(target, overwrite) as new:
        measured = on_tensorflow("litert", embedder, new, given, quantize=quantize)
        notes = write_beside(new, found)
        default = found.default if found else ""
        use = _USE.format(folder=target.name, default=default, text=example(found))
        about = {"format": "litert", "quantize": quantize, **measured}
        sizes = finish(new, with_use(text, use, notes), about)
    return Exported(target, sizes, measured["difference"], measured["cosine"], notes)


def build(embedder: Model, folder: FilePath, given: Sample, options: Config) -> Config:
    """Write `model.tflite` into a folder and compare it with the embedder; on TensorFlow."""
    import tensorflow as tf

    module, tokens = tf.Module(), token_function(embedder)
    signature = tokens.input_signature
    graph, ends = _frozen(tokens)

    @tf.function(input_signature=signature, autograph=False)  # type: ignore[untyped-decorator]
    def serve(token_ids: Tensor, padding_mask: Tensor) -> dict[str, Tensor]:
        given = dict(zip(ends[:2], (token_ids, padding_mask), strict=True))
        (found,) = tf.graph_util.import_graph_def(graph, given, return_elements=ends[2:])
        return {OUTPUT: found}

    with tempfile.TemporaryDirectory(prefix="cptk-export-") as saved:
        # The graph has been taken from where its gradients were known; nothing asks for them.
        plain = tf.saved_model.SaveOptions(experimental_custom_gradients=False)
        tf.saved_model.save(module, saved, signatures={"serving_default": serve}, options=plain)
        converter = tf.lite.TFLiteConverter.from_saved_model(saved)
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
        if options["quantize"] is not None:
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
        try:
            content = converter.convert()
        except Exception as error:  # the converter has errors of several kinds
            missing = re.search(r"TF Select ops: ([\w, ]+)", str(error))
            why = f"it lacks {missing[1]}" if missing else checks.shown(str(error), 300)
            raise ValueError(
                f"LiteRT cannot hold a {type(embedder.backbone).__name__}: {why}. Export to ONNX "
                "or a SavedModel."
            ) from error
    (folder / FILE).write_bytes(content)
    run_signature = _library().Interpreter(model_content=content).get_signature_runner()

    def run(token_ids: object, mask: object) -> Vectors:
        found: Vectors = run_signature(
            token_ids=np.asarray(token_ids, np.int32), padding_mask=np.asarray(mask, bool)
        )[OUTPUT]
        return found

    compared = compare(in_batches(run, given), given.vectors)
    if options["quantize"] is None:
        check_close(compared, _ACCEPTED, given.vectors, "The LiteRT file")
    return compared._asdict()


def _frozen(tokens: Tensor) -> tuple[Tensor, list[str]]:
    """The graph of a `tf.function` with its weights in it, and the names of its ends.

    LiteRT's converter does not know the slice that adds an axis, `x[:, None]`, of tensors whose
    shape is not known: here it adds the axis by itself.
    """
    from tensorflow.python.framework import convert_to_constants

    frozen = convert_to_constants.convert_variables_to_constants_v2(tokens.get_concrete_function())
    graph = frozen.graph.as_graph_def()
    constants = {node.name: node for node in graph.node if node.op == "Const"}
    for node in list(graph.node):
        node.attr.pop("_gradient_op_type", None)
        axes = _added_axes(node, constants)
        if not axes:
            continue
        name, given, kind = node.name, node.input[0], node.attr["T"].type
        node.Clear()
        for index, axis in enumerate(axes):
            last = index == len(axes) - 1
            each = node if last else graph.node.add()
            each.name, each.op = (name if last else f"{name}/added_{index}"), "ExpandDims"
            place = _integer(graph.node.add(), f"{name}/axis_{index}", axis)
            each.input.extend([given, place])
            each.attr["T"].type, each.attr["Tdim"].type = kind, _INT32
            given = each.name
    return graph, [tensor.name for tensor in (*frozen.inputs, *frozen.outputs)]


def _integer(node: Tensor, name: str, value: int) -> str:
    """Make a node a constant, and return its name."""
    node.name, node.op = name, "Const"
    node.attr["dtype"].type = node.attr["value"].tensor.dtype = _INT32
    node.attr["value"].tensor.tensor_shape.SetInParent()
    node.attr["value"].tensor.int_val.append(value)
    return name


def _added_axes(node: Tensor, constants: Mapping[str, Tensor]) -> list[int]:
    """The axes that a slice adds, in the order to add them in, where that is all that it does.

    Those after an ellipsis, `x[..., None]`, are counted from the end.
    """
    if node.op != "StridedSlice" or node.input[1] not in constants:
        return []
    (length,) = [dim.size for dim in constants[node.input[1]].attr["value"].tensor.tensor_shape.dim]
    masks = {
        name: [bool(node.attr[f"{name}_mask"].i >> place & 1) for place in range(length)]
        for name in ("begin", "end", "new_axis", "shrink_axis", "ellipsis")
    }
    for place in range(length):
        kept = masks["begin"][place] and masks["end"][place]
        if masks["shrink_axis"][place] or not (
            kept or masks["new_axis"][place] or masks["ellipsis"][place]
        ):
            return []
    middle = masks["ellipsis"].index(True) if any(masks["ellipsis"]) else length
    added = [place for place in range(length) if masks["new_axis"][place]]
    return [
        *(place for place in added if place < middle),
        *(place - length for place in reversed(added) if place > middle),
    ]


def _library() -> ModuleType:
    """LiteRT's interpreter, checked at the door."""
    optional.load("ai_edge_litert", "Export to LiteRT", "ai-edge-litert 2.3 or newer", "litert")
    return import_module("ai_edge_litert.interpreter")
