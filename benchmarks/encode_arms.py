"""What `encode.py` measures: one tool, one model, one set of texts, in this process."""

import importlib.util
import json
import random
import shutil
import sys
import sysconfig
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import reporting

sys.path.append(str(Path(__file__).parents[1] / "examples"))

LENGTH = 256  # tokens at which every tool cuts
PEAK_SIZE = 2048
SAME = 0.99  # cosine of two tools' vectors of a text
MODELS = {"smollm2": "SmolLM2-135M", "minilm": "all-MiniLM-L6-v2"}
TEXTS = {"sst2": "SST-2 sentences", "functions": "Python functions", "mixed": "mixed lengths"}
COUNTS = {"sst2": 1024, "functions": 384, "mixed": 512}


class Arm(NamedTuple):
    """A row of the table.

    `tool`: `"ours"`, `"kerashub"` or `"st"` (sentence-transformers). `modules` are what has to be
    installed.
    """

    name: str
    tool: str
    backend: str = "tensorflow"
    dtype: str = "float32"
    options: dict | None = None
    modules: tuple = ()


_ST = ("sentence_transformers", "torch")
ARMS = {
    "st": Arm("sentence-transformers, torch", "st", modules=_ST),
    "st-bfloat16": Arm("sentence-transformers, torch", "st", dtype="bfloat16", modules=_ST),
    "st-onnx": Arm(
        "sentence-transformers, ONNX", "st", options={"backend": "onnx"},
        modules=(*_ST, "onnxruntime", "optimum.onnxruntime"),
    ),
    "st-openvino": Arm(
        "sentence-transformers, OpenVINO", "st", options={"backend": "openvino"},
        modules=(*_ST, "openvino", "optimum.intel"),
    ),
    "kerashub": Arm("KerasHub's encode_text, TensorFlow", "kerashub"),
    "tensorflow": Arm("cptk, TensorFlow", "ours"),
    "tensorflow-bfloat16": Arm("cptk, TensorFlow", "ours", dtype="bfloat16"),
    "tensorflow-int8": Arm("cptk, TensorFlow", "ours", dtype="int8"),
    "jax": Arm("cptk, JAX", "ours", "jax", modules=("jax",)),
    "jax-bfloat16": Arm("cptk, JAX", "ours", "jax", "bfloat16", modules=("jax",)),
    "jax-int8": Arm("cptk, JAX", "ours", "jax", "int8", modules=("jax",)),
}  # fmt: skip


def missing_modules(arm, tiny):
    """Names of the modules that an arm needs and that are not here."""
    return [name for name in arm.modules if not _is_there(name)]


def _is_there(name):
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:  # of a name with a dot: what is before it
        return False


# === What is laid ready ===


def prepare(folder, models, sets, tiny):
    """Texts and models as all tools read them: lists in JSON, sentence-transformers folders."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in sets:
        file = folder / f"{name}.json"
        if not file.exists():
            reporting.write_atomically(file, json.dumps(texts_of(name, tiny)))
    if "smollm2" in models and not tiny and not (folder / "smollm2").exists():
        _write_smollm2(folder / "smollm2")


def texts_of(name, tiny):
    """The texts of a set, the same on each call."""
    if tiny:
        words = {"sst2": 3, "functions": 9, "mixed": 6}[name]
        rng = random.Random(0)
        return [" ".join(["the thing"] * rng.randint(1, words)) + f" {i}" for i in range(24)]
    import cptk

    rng = random.Random(0)
    sentences = cptk.datasets.load("sst2", "train").texts
    sentences = rng.sample(list(sentences), COUNTS["sst2"])
    if name == "sst2":
        return sentences
    library = cptk.mining.mine_functions(sysconfig.get_path("stdlib"))
    functions = [pair["document"] for pair in library.to_arrow().to_pylist()]
    functions = rng.sample(functions, COUNTS["functions"])
    if name == "functions":
        return functions
    half = COUNTS["mixed"] // 2
    return rng.sample(sentences[:half] + functions[:half], 2 * half)


def _write_smollm2(folder):
    """SmolLM2 as a sentence-transformers folder: the mean of its states, at unit length."""
    import torch
    import transformers
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer import modules

    import cptk

    path = Path(cptk.integrations.gguf.smollm2_path())
    source = {"pretrained_model_name_or_path": str(path.parent), "gguf_file": path.name}
    tokenizer = transformers.AutoTokenizer.from_pretrained(**source)
    packed = transformers.AutoModel.from_pretrained(**source, dtype=torch.float32)
    config = packed.config
    vars(config).pop("quantization_config", None)  # with it transformers saves nothing
    model = transformers.AutoModel.from_config(config)
    model.load_state_dict(packed.state_dict())
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    # With it sentence-transformers reads each text as a message of a chat: 26 tokens more.
    tokenizer.chat_template = None
    scratch = folder.with_name("smollm2.tmp")
    shutil.rmtree(scratch, ignore_errors=True)
    for part in (model, tokenizer):
        part.save_pretrained(scratch / "model")
    body = modules.Transformer(str(scratch / "model"))
    body.max_seq_length = LENGTH
    pooling = modules.Pooling(body.get_embedding_dimension(), "mean")
    whole = SentenceTransformer(modules=[body, pooling, modules.Normalize()], device="cpu")
    whole.save(str(scratch / "st"))
    (scratch / "st").rename(folder)
    shutil.rmtree(scratch)


# === What is measured ===


def measure(task):
    """The row of a task: rates, the vectors' cosine to the first float32 ones."""
    if task["kind"] == "peak":
        return {"status": "measured", **peaks(128 if task["tiny"] else PEAK_SIZE)}
    folder, arm = Path(task["folder"]), ARMS[task["arm"]]
    texts = json.loads((folder / f"{task['texts']}.json").read_text())
    call, reader, parameters = loaded(arm, task["model"], folder, task["tiny"])
    tokens = sum(len(row) for row in reader.tokenize(texts, reader.resolve_role(None)))
    # JAX compiles each shape once, and finds it in its cache in the next process.
    call(texts if arm.backend == "jax" else texts[:64])
    wall, cpu, vectors = reporting.timed(lambda: call(texts))
    vectors = np.asarray(vectors, np.float32)
    cosine = _cosine(vectors, folder / f"{task['model']}-{task['texts']}.npy", arm)
    if cosine is not None and cosine < SAME and arm.dtype != "int8":
        raise SystemExit(
            "The contenders should make the same vectors of the same texts. Received a mean cosine "
            f"of {cosine:.4f} to the first one's: it is other work that is timed."
        )
    return {
        "status": "measured",
        "seconds": wall,
        "texts_per_second": len(texts) / wall,
        "tokens_per_second": tokens / wall,
        "cpu_milliseconds": 1000 * cpu / len(texts),
        "flops": 2 * parameters * tokens / wall,
        "cosine": cosine,
    }


def peaks(size):
    """Products of square matrices: floating-point operations a second, the best of ten."""
    import tensorflow as tf

    found = {}
    for dtype in ("float32", "bfloat16"):
        a = tf.cast(tf.random.normal((size, size)), dtype)
        product = tf.function(tf.matmul)
        product(a, a)
        times = []
        for _ in range(10):
            start = time.perf_counter()
            product(a, a).numpy()
            times.append(time.perf_counter() - start)
        found[dtype] = 2 * size**3 / min(times)
    return found


def loaded(arm, model, folder, tiny):
    """`(texts -> vectors, reader of texts, weights that take part in a product)`."""
    import keras
    import keras_hub

    import cptk

    keras.utils.set_random_seed(0)
    dtype = "float32" if arm.dtype == "int8" else arm.dtype
    place = _place(model, folder, tiny)
    if tiny:
        embedder = _toy(model, dtype)
    elif model == "minilm" and arm.tool == "kerashub":
        embedder = keras_hub.models.TextEmbedder.from_preset(place, dtype=dtype)
    else:
        embedder = cptk.models.TextEmbedder.from_preset(place, dtype=dtype, sequence_length=LENGTH)
    reader = cptk.models.text_reader(embedder)
    weights = [
        w for w in embedder.backbone.weights if len(w.shape) > 1 and "embedding" not in w.path
    ]
    parameters = sum(int(np.prod(weight.shape)) for weight in weights)
    if arm.tool == "st" and not tiny:
        del embedder
        return _sentence_transformer(arm, place), reader, parameters
    if arm.tool == "kerashub":
        slow = keras_hub.models.TextEmbedder.encode_text
        return lambda texts: slow(embedder, texts, verbose=0), reader, parameters
    if arm.dtype == "int8":
        if isinstance(embedder, cptk.models.TextEmbedder):
            embedder.quantize("int8")
        else:
            embedder.backbone.quantize("int8")
    return lambda texts: cptk.encode(embedder, texts, verbose=0), reader, parameters


def _sentence_transformer(arm, place):
    import sentence_transformers
    import torch

    options = dict(arm.options or {})
    if "backend" not in options:
        options["model_kwargs"] = {"torch_dtype": getattr(torch, arm.dtype)}
    model = sentence_transformers.SentenceTransformer(str(place), device="cpu", **options)
    model.max_seq_length = LENGTH
    return lambda texts: model.encode(
        texts, normalize_embeddings=True, show_progress_bar=False, convert_to_numpy=True
    )


def _place(model, folder, tiny):
    if tiny or model == "smollm2":
        return str(folder / "smollm2")
    import quickstart_models

    return quickstart_models.minilm_folder()


def _toy(model, dtype):
    sys.path.append(str(Path(__file__).parents[1]))
    import cptk
    from tests import toys

    if model == "minilm":
        return toys.keras_hub_embedder("Bert")
    made = toys.backbone("Llama3", 1, dtype=dtype)
    return cptk.models.TextEmbedder(made, toys.preprocessor("llama3"), pooling="mean")


def _cosine(vectors, file, arm):
    """Mean cosine to the vectors of the first float32 row, which writes them; None of that row."""
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    if not file.exists():
        if arm.dtype == "float32":
            np.save(file, unit)
        return None
    return float((np.load(file, allow_pickle=False) * unit).sum(axis=1).mean())
