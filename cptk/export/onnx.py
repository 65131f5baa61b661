"""An embedder as an ONNX file, for onnxruntime and everything that reads one."""

from __future__ import annotations

from collections.abc import Iterable
from importlib import import_module
from pathlib import Path as FilePath
from types import ModuleType
from typing import Any

import numpy as np

from cptk import checks, optional
from cptk.export.card import checked_card, with_use
from cptk.export.graph import OUTPUT, in_batches, on_tensorflow, token_function
from cptk.export.onnx_nodes import einsums_as_products, erfc_as_erf
from cptk.export.parts import check_embedder, check_float, check_float32
from cptk.export.samples import Sample, check_close, compare, sample
from cptk.export.saved_model import check_quantize, check_size
from cptk.export.target import Exported, checked_folder, finish, writing
from cptk.export.tokenizer_file import example, tokenization, write_beside
from cptk.models.keras_hub_embedders import text_reader
from cptk.types import Config, Model, Path, Vectors

FILE = "model.onnx"
#: The opset by default, which all runtimes of the last years have; and the first one that has all
#: that an embedder needs.
_OPSET, _FIRST_OPSET = 17, 13
#: What a graph of another library may differ by.
_ACCEPTED = 1e-4
_USE = """```python
import numpy as np
import onnxruntime
from tokenizers import Tokenizer

session = onnxruntime.InferenceSession("{folder}/model.onnx")
ids = Tokenizer.from_file("{folder}/tokenizer.json").encode({text}).ids
inputs = {{"token_ids": np.array([ids], "int32"), "padding_mask": np.ones((1, len(ids)), bool)}}
vectors = session.run(["embeddings"], inputs)[0]
```

`tokenizer.json` gives the ids of a text in the role `{default}`; `roles.json` has what stands
around a text in each role."""


def to_onnx(
    embedder: Model,
    folder: Path,
    *,
    opset: int = _OPSET,
    quantize: str | None = None,
    card: str | None = None,
    overwrite: bool = False,
) -> Exported:
    """Write an ONNX file: token ids in, vectors out, of any batch and length.

    Inputs are `token_ids` (int32) and `padding_mask` (bool), both `(batch, length)`, the output is
    `embeddings`. Beside it stand `tokenizer.json` and `roles.json`. The file is run by onnxruntime
    and compared with the embedder before the folder appears. Where Keras runs on another backend, a
    process of its own converts on TensorFlow.

    Args:
        embedder: A `TextEmbedder`, or one of KerasHub's own.
        folder: The folder to write.
        opset: Version of ONNX's operators, 13 or later.
        quantize: `"int8"`: matrices in 8 bits, and products computed in 8 bits, by onnxruntime.
        card: The model card; `model_card(embedder)` by default.
        overwrite: Replace an export that stands there.

    Returns:
        The folder, and the differences to the embedder's own vectors.

    Raises:
        ImportError: onnx, onnxruntime or tf2onnx is not installed.
        TypeError, ValueError: A bad argument; an opset that onnxruntime or the converter lacks;
            weights of more than 2 GB, which an ONNX file cannot hold.
        RuntimeError: The vectors differ from the embedder's. Nothing has been written then.

    Example:

    ```python title="Needs onnx, onnxruntime and tf2onnx"
    exported = cptk.export.to_onnx(embedder, "my_onnx", quantize="int8")
    print(exported.cosine)  # the smallest one to the float32 embedder
    ```
    """
    check_embedder(embedder)
    target = checked_folder(folder, overwrite)
    check_quantize(quantize)
    for library in ("onnx", "onnxruntime", "tf2onnx"):
        _library(library)
    opset = checks.integer("opset", opset, _FIRST_OPSET)
    check_opset(opset)
    check_float(embedder, "ONNX")
    check_float32(embedder, "ONNX")
    check_size(embedder, "ONNX")
    text = checked_card(card, embedder)
    found = tokenization(embedder) if text_reader(embedder) is not None else None
    given = sample(embedder, found.default if found is not None else None)
    with writing(target, overwrite) as new:
        measured = on_tensorflow("onnx", embedder, new, given, opset=opset, quantize=quantize)
        notes = write_beside(new, found)
        default = found.default if found else ""
        use = _USE.format(folder=target.name, default=default, text=example(found))
        about = {"format": "onnx", "opset": opset, "quantize": quantize, **measured}
        sizes = finish(new, with_use(text, use, notes), about)
    return Exported(target, sizes, measured["difference"], measured["cosine"], notes)


def check_opset(opset: int) -> None:
    """Raise `ValueError` for an opset that onnxruntime, or the converter, lacks."""
    onnx, runtime = _library("onnx"), _library("onnxruntime")
    # Not what tf2onnx.schemas says, which is what onnx has.
    latest = max(map(int, import_module("tf2onnx.constants").OPSET_TO_IR_VERSION))
    latest = min(latest, int(onnx.defs.onnx_opset_version()))
    fault = f"the converter knows up to {latest}" if opset > latest else ""
    try:
        if not fault:
            session(_identity(onnx, opset), runtime)
    except Exception as error:  # of a kind of its own
        fault = f"this onnxruntime, {runtime.__version__}, lacks it ({checks.shown(str(error))})"
    if fault:
        raise ValueError(
            f"`opset` {opset} cannot be had: {fault}. Use opset={_OPSET}, or install a newer one."
        )


def _identity(onnx: ModuleType, opset: int) -> bytes:
    """The smallest model of an opset."""
    helper, kind = onnx.helper, onnx.TensorProto.FLOAT
    ends = [helper.make_tensor_value_info(name, kind, [1]) for name in ("x", "y")]
    graph = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["y"])], "identity", ends[:1], ends[1:]
    )
    version = helper.find_min_ir_version_for([helper.make_opsetid("", opset)], True)
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=version
    )
    serialized: bytes = model.SerializeToString()
    return serialized


def session(model: bytes | str, runtime: ModuleType) -> Any:
    """An onnxruntime session on the CPU that keeps its warnings to itself."""
    options = runtime.SessionOptions()
    options.log_severity_level = 4
    return runtime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def build(embedder: Model, folder: FilePath, given: Sample, options: Config) -> Config:
    """Write `model.onnx` into a folder and compare it with the embedder; on TensorFlow."""
    onnx, runtime, tf2onnx = map(_library, ("onnx", "onnxruntime", "tf2onnx"))
    # tf2onnx 1.17 does not know NumPy 2; Keras's own export mends it so.
    import_module("keras.src.export.tf2onnx_lib").patch_tf2onnx()
    function, opset = token_function(embedder), int(options["opset"])
    model, _ = tf2onnx.convert.from_function(
        function, input_signature=function.input_signature, opset=opset
    )
    _captures_as_constants(model, function.get_concrete_function().graph.captures)
    _name_outputs_and_axes(model)
    erfc_as_erf(model)
    einsums_as_products(model)
    onnx.checker.check_model(model)
    file = folder / FILE
    onnx.save_model(model, file)
    if options["quantize"] is not None:
        _quantize(file)
    running = session(str(file), runtime)

    def run(token_ids: object, mask: object) -> Vectors:
        inputs = {"token_ids": np.asarray(token_ids, np.int32), "padding_mask": np.asarray(mask)}
        found: Vectors = running.run([OUTPUT], inputs)[0]
        return found

    compared = compare(in_batches(run, given), given.vectors)
    if options["quantize"] is None:
        check_close(compared, _ACCEPTED, given.vectors, "The ONNX file")
    return compared._asdict()


def _captures_as_constants(model: Any, captures: Iterable[tuple[Any, Any]]) -> None:
    """What a backbone made once, outside the function, as Gemma's scale: tf2onnx asks for it."""
    numpy_helper = import_module("onnx.numpy_helper")
    values = {inside.name: outside for outside, inside in captures}
    for given in [each for each in model.graph.input if each.name in values]:
        array = np.asarray(values[given.name])
        model.graph.initializer.append(numpy_helper.from_array(array, given.name))
        model.graph.input.remove(given)


def _name_outputs_and_axes(model: Any) -> None:
    """Call the output `embeddings`, and the axes that may be of any size by what they are."""
    graph = model.graph
    (output,) = graph.output
    for node in graph.node:
        for names in (node.input, node.output):
            for index, name in enumerate(names):
                if name == output.name:
                    names[index] = OUTPUT
    output.name = OUTPUT
    for given in graph.input:
        given.name, before = given.name.removesuffix(":0"), given.name
        for node in graph.node:
            for index, name in enumerate(node.input):
                if name == before:
                    node.input[index] = given.name
        for axis, name in zip(given.type.tensor_type.shape.dim, ("batch", "length"), strict=True):
            axis.dim_param = name
    output.type.tensor_type.shape.dim[0].dim_param = "batch"


def _quantize(file: FilePath) -> None:
    """Matrices in 8 bits, one scale a column; what they multiply is quantised as it runs."""
    quantization = import_module("onnxruntime.quantization")
    whole = file.with_name("float32.onnx")
    file.rename(whole)
    quantization.quantize_dynamic(
        whole, file, per_channel=True, weight_type=quantization.QuantType.QInt8
    )
    whole.unlink()


def _library(name: str) -> ModuleType:
    """A library of the extra, checked at the door."""
    versions = {"onnx": "1.23", "onnxruntime": "1.32", "tf2onnx": "1.17"}
    return optional.load(name, "Export to ONNX", f"{name} {versions[name]} or newer", "onnx")
