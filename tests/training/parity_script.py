"""Trains toys on one kind of devices and saves what came of it; `test_distribution.py` starts it.

Arguments: the kind (`single`, `mirrored:2`, `tpu:2`, `workers:2`, `devices:4`, `processes:2`,
`mesh:2`), the file, and what is trained: names of `CASES`, `FEATURES`, `OBJECTIVES` or mutants,
`cases`, `features` or `objectives` for all of these, `doors` for what `doors_script.py` does.
Several processes find each other by what `examples/cluster/launch.py` sets.
"""

import contextlib
import os
import sys
from typing import Any

KIND, _, COUNT = sys.argv[1].partition(":")
DEVICES = {"processes": 2, "mesh": 4}.get(KIND, int(COUNT or 1))
if os.environ["KERAS_BACKEND"] == "jax":
    os.environ["XLA_FLAGS"] = (
        f"--xla_force_host_platform_device_count={DEVICES} --xla_backend_optimization_level=0"
    )

import keras  # noqa: E402
import numpy as np  # noqa: E402
import objective_kinds  # noqa: E402
import toys  # noqa: E402

import cptk  # noqa: E402
from cptk import distribution  # noqa: E402

STEPS_PER_EPOCH, EPOCHS, BATCH, PAIRS = 5, 2, 8, 20  # A pass has 8, 8 and 4 pairs.
TEXTS = {
    "query": [f"{chr(97 + i)}: how is it spelt?"[: 6 + i] for i in range(PAIRS)],
    "document": [f"{chr(65 + i)} is spelt just like it" for i in range(PAIRS)],
}
TEXTS["query"][3] = TEXTS["query"][11]
CASES = {
    f"{backbone}-{lora}-{dtype}-{optimizer}": (backbone, lora, dtype, optimizer)
    for backbone in ("GPT2", "Llama3")
    for lora in (0, 2)
    for dtype, optimizer in (("float64", "SGD"), ("float64", "AdamW"), ("float32", "SGD"))
}
#: By gradient caching, but for one device: it takes the plain step, to hold them against.
CASES["GPT2-0-float64-SGD-cached"] = ("GPT2", 0, "float64", "SGD")
CASES["Llama3-2-float64-AdamW-cached"] = ("Llama3", 2, "float64", "AdamW")

#: What `compile` and `fit` can be asked for besides; `docs/scaling.md` lists them.
FEATURES: dict[str, dict[str, Any]] = {
    "clipping by global norm": {"global_clipnorm": 0.05},
    "clipping by norm": {"clipnorm": 0.01},
    "moving average of weights": {"use_ema": True, "ema_momentum": 0.5},
    "gradient accumulation": {"gradient_accumulation_steps": 2},
    "mixed bfloat16": {"dtype": "mixed_bfloat16"},
    "mixed float16, loss scaled": {"dtype": "mixed_float16"},
    "jit_compile=True": {"jit_compile": True},
    "steps_per_execution=2": {"steps_per_execution": 2},
    "micro-batches": {"micro_batch_size": 3},
    "tf.data": {"data": "tf.data"},
    "PyDataset": {"data": "PyDataset"},
    "generator": {"data": "generator"},
}


class Positives(cptk.losses.Objective):
    """As a user may write it: neither registered nor in tiles."""

    def call(self, batch: Any) -> Any:
        logits = batch.logits()
        negatives = keras.ops.where(batch.negatives(), logits, 0.0)
        return keras.ops.mean(negatives, axis=1) - keras.ops.diagonal(logits)


#: Several processes take them by micro-batches, a single one takes the plain step.
OBJECTIVES = {
    f"objective {kind.__name__}": {"loss": kind} for kind in [*objective_kinds.FOUND, Positives]
}


OBJECTIVES["objective InfoNCE with negatives"] = {
    "loss": lambda: cptk.losses.InfoNCE(mask_equal_texts=True, same_side=True),
    "negatives": "all",
}
OBJECTIVES["objective InfoNCE with own negatives in tiles"] = {
    "loss": lambda: cptk.losses.InfoNCE(hard_negatives="own", tile_size=4),
    "negatives": "own",
}
OBJECTIVES["objective by source"] = {
    "loss": lambda: {"pairs": cptk.losses.InfoNCE(), "graded": cptk.losses.CoSENT()},
    "sources": ("pairs", "graded"),
}
OBJECTIVES["objective InfoNCE with a guide in tiles"] = {
    "loss": lambda: cptk.losses.InfoNCE(false_negative_margin=0.0, guide=True, tile_size=4),
    "negatives": "all",
}


class Shown(keras.callbacks.Callback):
    """What the progress bar shows after each step."""

    def __init__(self) -> None:
        super().__init__()
        self.values: list[list[float]] = []

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.values.append([float(logs[name]) for name in sorted(logs)])


def prepare() -> Any:
    """The strategy to train under on TensorFlow; on JAX the distribution is set."""
    if KIND == "single":
        return contextlib.nullcontext
    if keras.config.backend() == "tensorflow":
        import tensorflow as tf

        if KIND == "workers":
            return tf.distribute.MultiWorkerMirroredStrategy().scope
        cpu = tf.config.list_physical_devices("CPU")[0]
        tf.config.set_logical_device_configuration(
            cpu, [tf.config.LogicalDeviceConfiguration()] * DEVICES
        )
        kind = tpu_strategy() if KIND == "tpu" else tf.distribute.MirroredStrategy
        return kind([f"CPU:{i}" for i in range(DEVICES)]).scope
    if KIND == "processes":
        keras.distribution.initialize(
            os.environ["JAX_COORDINATOR_ADDRESS"], int(COUNT), int(os.environ["JAX_PROCESS_ID"])
        )
    if KIND != "mesh":
        keras.distribution.set_distribution(keras.distribution.DataParallel())
    return contextlib.nullcontext


def tpu_strategy() -> Any:
    """A stand-in for `tf.distribute.TPUStrategy` on CPUs, which Keras and cptk take for it."""
    import tensorflow as tf

    class TPUStrategy(tf.distribute.MirroredStrategy):
        @property
        def cluster_resolver(self) -> Any:
            """As of `TPUClusterResolver(tpu="local")`."""
            nobody = tf.train.ClusterSpec({})
            return tf.distribute.cluster_resolver.SimpleClusterResolver(nobody, "", "worker", 0)

    tf.distribute.TPUStrategy = TPUStrategy
    return TPUStrategy


def use_mesh(backbone: str) -> None:
    import keras_hub

    mesh = keras.distribution.DeviceMesh((DEVICES // int(COUNT), int(COUNT)), ["batch", "model"])
    kind = getattr(keras_hub.models, f"{backbone}Backbone")
    layout = distribution.layout_map(kind, mesh)
    keras.distribution.set_distribution(
        keras.distribution.ModelParallel(layout_map=layout, batch_dim_name="batch")
    )


def widen() -> None:
    """Have float64 mean float64: Keras on JAX, and KerasHub, compute parts in float32 even so."""
    from keras.src.backend.common import dtypes

    dtypes.BIT64_TO_BIT32_DTYPE["float64"] = "float64"
    cast = keras.ops.cast

    def cast_down_to_float64(x: Any, dtype: Any) -> Any:
        wide = keras.backend.standardize_dtype(getattr(x, "dtype", "int32")) == "float64"
        return x if wide and dtype == "float32" else cast(x, dtype)

    keras.ops.cast = cast_down_to_float64
    if keras.config.backend() == "jax":
        import jax

        def attention(query: Any, key: Any, value: Any, *, mask: Any, scale: Any, **_: Any) -> Any:
            logits = jax.numpy.einsum("bqnh,bknh->bnqk", query, key) * scale
            weights = jax.nn.softmax(jax.numpy.where(mask, logits, -1e30))
            return jax.numpy.einsum("bnqk,bknh->bqnh", weights, value)

        jax.nn.dot_product_attention = attention


def as_data(kind: str) -> Any:
    """The same batches in the same order, as another kind of data."""
    batches = [
        {side: texts[start : start + BATCH] for side, texts in TEXTS.items()}
        for start in range(0, PAIRS, BATCH)
    ]
    if kind == "tf.data":
        import tensorflow as tf

        return tf.data.Dataset.from_tensor_slices(TEXTS).batch(BATCH)
    if kind == "generator":
        return (batch for _ in range(EPOCHS) for batch in batches)

    class Batches(keras.utils.PyDataset):
        def __len__(self) -> int:
            return len(batches)

        def __getitem__(self, index: int) -> Any:
            return batches[index]

    return Batches()


def train_with(scope: Any, feature: str) -> dict[str, Any]:
    """GPT-2 and SGD with one feature; its refusal, if it is refused."""
    options = dict((FEATURES | OBJECTIVES)[feature])
    # A steep loss makes much of float32's rounding.
    floatx = "float64" if "loss" in options else "float32"
    keras.config.set_floatx(floatx)
    keras.config.set_dtype_policy(options.pop("dtype", floatx))
    keras.utils.set_random_seed(5)
    data = options.pop("data", None)
    texts: dict[str, Any] = dict(TEXTS)
    if options.pop("negatives", None):  # Of 0 to 2 a pair; some are documents of other pairs.
        others = TEXTS["document"][::-1]
        texts["negatives"] = [
            [text for text in others[i : i + i % 3] if text != TEXTS["document"][i]]
            for i in range(PAIRS)
        ]
    of_trainer = {k: options.pop(k) for k in ("micro_batch_size",) if k in options}
    of_compile = {k: options.pop(k) for k in ("jit_compile", "steps_per_execution") if k in options}
    sources = options.pop("sources", ())
    numbers, length = {}, 24
    if "loss" in options:
        numbers = {"score": np.arange(PAIRS) * 3 % 7}
        numbers["teacher"] = np.random.default_rng(2).normal(size=(PAIRS, 3))
        numbers["guide"] = np.random.default_rng(3).normal(size=(PAIRS, 4, 3))
        texts.setdefault("negatives", [[f"not {i}", f"nor {i} here"] for i in range(PAIRS)])
        of_compile["loss"] = objective_kinds.make(options.pop("loss"))
        of_trainer["micro_batch_size"] = None if KIND == "single" else 3
        # Whole batches of texts of one length: JAX compiles each length, forward and back.
        texts = {name: column[: 2 * BATCH] for name, column in texts.items()}
        numbers = {name: column[: 2 * BATCH] for name, column in numbers.items()}
        length = 8
    try:
        with scope():
            decoder = toys.backbone("GPT2", 1, dropout=0.0)
            reader = toys.preprocessor("gpt2", length)
            embedder = cptk.models.TextEmbedder(decoder, reader)
            trainer = cptk.ContrastiveTrainer(embedder, seed=3, **of_trainer)
            trainer.compile(keras.optimizers.SGD(0.05, **options), **of_compile)
        if data is None:
            columns = texts | numbers
            halves = {  # Of each source every other pair.
                source: {name: values[i :: len(sources)] for name, values in columns.items()}
                for i, source in enumerate(sources)
            }
            given: dict[str, Any] = {"x": halves or columns, "batch_size": BATCH}
        else:
            given = {"x": as_data(data)}
        if data == "generator":
            given["steps_per_epoch"] = -(-PAIRS // BATCH)
        history = trainer.fit(**given, epochs=EPOCHS, verbose=0).history
    except ValueError as error:
        return {"refused": np.array(str(error))}
    found = {"history": np.array([history[name] for name in sorted(history)])}
    for index, variable in enumerate(trainer.trainable_variables):
        found[f"weight{index}"] = np.asarray(keras.ops.convert_to_numpy(variable.value), "float32")
    return found


def train(
    scope: Any, backbone: str, lora: int, dtype: str, optimizer: str, micro: int | None = None
) -> dict[str, Any]:
    keras.config.set_floatx(dtype)
    keras.config.set_dtype_policy(dtype)
    keras.utils.set_random_seed(5)
    if KIND == "mesh":
        use_mesh(backbone)
    with scope():
        reader = toys.preprocessor("llama3" if backbone == "Llama3" else "gpt2")
        # Two heads of each kind: they are what a mesh divides.
        heads = {"num_key_value_heads": 2} if backbone == "Llama3" else {"dropout": 0.0}
        decoder = toys.backbone(backbone, 1, **heads)
        for layer in decoder._flatten_layers():
            if isinstance(layer, keras.layers.Softmax):
                layer.dtype_policy = keras.DTypePolicy(dtype)
        embedder = cptk.models.TextEmbedder(decoder, reader)
        if lora:
            cptk.training.enable_lora(embedder, lora)
        trainer = cptk.ContrastiveTrainer(embedder, seed=3, micro_batch_size=micro)
        rate = {"SGD": 0.05, "AdamW": 0.01}[optimizer]
        loss = cptk.losses.InfoNCE(mask_equal_texts=True)
        trainer.compile(getattr(keras.optimizers, optimizer)(rate), loss)
    if KIND == "mesh":
        assert not all(v.value.is_fully_replicated for v in embedder.variables)
    shown = Shown()
    history = trainer.fit(
        TEXTS,
        batch_size=BATCH,
        epochs=EPOCHS,
        steps_per_epoch=STEPS_PER_EPOCH,
        sample_weight=np.linspace(0.5, 2, PAIRS),
        validation_data={side: texts[:7] for side, texts in TEXTS.items()},
        validation_batch_size=4,
        callbacks=[shown],
        verbose=0,
    ).history
    found = {"shown": np.array(shown.values)}
    found["history"] = np.array([history[name] for name in sorted(history)])
    for index, variable in enumerate(trainer.trainable_variables):
        found[f"weight{index}"] = np.asarray(keras.ops.convert_to_numpy(variable.value))
    found["vectors"] = embedder.encode_text(TEXTS["query"][:5], role="query")
    return found


def train_mutant(scope: Any, mutation: str) -> dict[str, Any]:
    """The first case with one thing wrong on TensorFlow's replicas."""
    import tensorflow as tf

    from cptk.distribution import tensorflow_step

    places = {"gather": distribution, "apply_gradients": tensorflow_step}
    places["all_reduce_sum"] = distribution
    kept = {name: getattr(place, name) for name, place in places.items()}

    def gather_without_gradient(tree: Any) -> Any:
        everything = kept["gather"](tree)
        own = len(keras.tree.flatten(tree)) and tf.shape(keras.tree.flatten(tree)[0])[0]
        return keras.tree.map_structure(
            lambda mine, all_: tf.concat([mine, tf.stop_gradient(all_[own:])], 0), tree, everything
        )

    def apply(factor: float) -> Any:
        return lambda optimizer, gradients, variables: kept["apply_gradients"](
            optimizer, [g if g is None else factor * tf.convert_to_tensor(g) for g in gradients],
            variables,
        )  # fmt: skip

    mutants = {
        "negatives without gradient": {"gather": gather_without_gradient},
        "gradients counted once a replica": {"apply_gradients": apply(float(DEVICES))},
        "mean of gradients": {"apply_gradients": apply(1 / DEVICES)},
        "sums of one replica": {"all_reduce_sum": lambda tensor: tensor},
    }
    for name, function in mutants[mutation].items():
        setattr(places[name], name, function)
    try:
        return train(scope, *next(iter(CASES.values())))
    finally:
        for name, function in kept.items():
            setattr(places[name], name, function)


def main() -> None:
    path, given = sys.argv[2], sys.argv[3:]
    all_of = {"cases": list(CASES), "features": list(FEATURES), "objectives": list(OBJECTIVES)}
    all_of["doors"] = []
    names = list(dict.fromkeys(name for word in given for name in all_of.get(word, [word])))
    if keras.config.backend() == "jax":
        import jax

        jax.config.update("jax_enable_x64", True)
    widen()
    scope = prepare()
    results = {}
    for name in names:
        if name in CASES:
            cached = name.endswith("-cached") and KIND != "single"
            trained = train(scope, *CASES[name], micro=3 if cached else None)
        else:
            known = name in FEATURES or name in OBJECTIVES
            trained = (train_with if known else train_mutant)(scope, name)
        for key, value in trained.items():
            results[f"{name}/{key}"] = value
        print("trained", name, flush=True)
    if "doors" in given:
        import doors_script

        keras.config.set_floatx("float32")
        keras.config.set_dtype_policy("float32")
        results |= {f"doors/{key}": value for key, value in doors_script.find(scope).items()}
    if distribution.is_chief():
        np.savez(path, **results)


if __name__ == "__main__":
    main()
