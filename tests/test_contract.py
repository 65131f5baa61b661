"""One contract for every public layer, loss function and metric. That of objectives, which are
trained with, is in `training/test_objectives.py`.

The names are found in `__all__` of `cptk.layers`, `cptk.losses` and `cptk.metrics`: a new one
fails `test_every_public_name_is_under_contract` until it has an entry below.
"""

from __future__ import annotations

import inspect
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np
import pytest
from gradients import BACKEND, float64_allowed, to_numpy, value_and_gradients
from keras import ops

import cptk.layers
import cptk.losses
import cptk.metrics

N, LENGTH, DIM = 4, 5, 3
ROOMS = {"layers": cptk.layers, "losses": cptk.losses, "metrics": cptk.metrics}
#: tolerance of a result that went through this dtype.
POLICIES = {"float32": 1e-5, "float64": 1e-5, "mixed_bfloat16": 3e-2, "mixed_float16": 4e-3}


@dataclass(frozen=True)
class Spec:
    """How to try one public name.

    inputs: what to call it with (`update_state`, for a metric).
    differentiable: how many of the inputs, from the first, have a gradient.
    options: constructor arguments other than the defaults, which a config must carry.
    behaviour: layer -> numbers that depend on an option no call shows.
    """

    inputs: tuple[np.ndarray, ...]
    differentiable: int = 1
    options: dict[str, Any] = field(default_factory=dict)
    behaviour: Callable[[Any], Any] = lambda thing: 0.0


RNG = np.random.default_rng(0)
STATES = RNG.normal(size=(N, LENGTH, DIM)).astype("float32")
TOKENS = np.tri(N, LENGTH, 1).astype(bool)
QUERY, DOCUMENT = RNG.normal(size=(2, N, DIM)).astype("float32")
LOGITS = RNG.normal(size=(N, N)).astype("float32")
LOGITS[0] += 3  # so that rows and columns do not agree on who wins
FALSE_NEGATIVES = np.eye(N, k=1).astype(bool)
WEIGHTS = RNG.random(N).astype("float32")

SPECS = {
    "layers.EOSPooling": Spec((STATES, TOKENS)),
    "layers.CLSPooling": Spec((STATES, TOKENS)),
    "layers.MaxPooling": Spec((STATES, TOKENS)),
    "layers.MeanPooling": Spec((STATES, TOKENS)),
    "layers.WeightedMeanPooling": Spec((STATES, TOKENS)),
    "layers.ContrastiveHead": Spec(
        (QUERY, DOCUMENT),
        differentiable=2,
        options={"temperature": 0.3, "max_scale": 7.0},
        behaviour=lambda head: head.tau.constraint(ops.convert_to_tensor(50.0)),
    ),
    "losses.info_nce": Spec((LOGITS, FALSE_NEGATIVES, WEIGHTS)),
    "losses.symmetric_info_nce": Spec((LOGITS, FALSE_NEGATIVES, WEIGHTS)),
    "losses.cosine_logits": Spec((QUERY, DOCUMENT, np.float32(0.1)), differentiable=3),
    "losses.same_text_mask": Spec(
        (np.array([1, 2, 1, 3], "int32"), np.arange(4, dtype="int32")), differentiable=0
    ),
    "losses.text_ids": Spec((np.array([[1, 2], [2, 1], [1, 2], [3, 3]], "int32"),), 0),
    "losses.tiled_info_nce": Spec((QUERY, DOCUMENT, np.float32(0.1)), differentiable=3),
    "losses.tiled_symmetric_info_nce": Spec((QUERY, DOCUMENT, np.float32(0.1)), differentiable=3),
    "metrics.InBatchAccuracy": Spec(
        (LOGITS, WEIGHTS), options={"direction": "document_to_query", "name": "accuracy"}
    ),
    "metrics.PositiveCosine": Spec((LOGITS, WEIGHTS), options={"name": "positive"}),
    "metrics.NegativeCosine": Spec((LOGITS, WEIGHTS), options={"name": "negative"}),
    "metrics.Temperature": Spec((np.float32(0.07),), options={"name": "t"}),
}


def public_names(room: str) -> list[str]:
    return [f"{room}.{name}" for name in ROOMS[room].__all__]


def find(name: str) -> Any:
    room, attribute = name.split(".")
    return getattr(ROOMS[room], attribute)


ALL = [name for room in ROOMS for name in public_names(room)]
each_layer = pytest.mark.parametrize("name", public_names("layers"))
each_metric = pytest.mark.parametrize("name", public_names("metrics"))
each_function = pytest.mark.parametrize(
    "name", [name for name in SPECS if name.startswith("losses.")]
)
each_policy = pytest.mark.parametrize("policy", POLICIES)


def tensors(spec: Spec, dtype: str = "float32") -> list[Any]:
    """The inputs as tensors, the floats among them in `dtype`."""
    return [
        ops.convert_to_tensor(x, dtype=dtype if x.dtype.kind == "f" else x.dtype.name)
        for x in spec.inputs
    ]


def moved(layer: Any) -> Any:
    """Moves every weight off its initial value, so that a weight not restored shows."""
    for weight in layer.weights:
        weight.assign(ops.add(weight, 0.25))
    return layer


def again(thing: Any) -> Any:
    """Through JSON-able config and back."""
    return keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(thing))


def assert_finite_gradients(function: Callable[..., Any], spec: Spec, dtype: str) -> None:
    varied = spec.inputs[: spec.differentiable]
    fixed = tensors(spec)[spec.differentiable :]
    _, gradients = value_and_gradients(lambda *x: function(*x, *fixed), *varied, dtype=dtype)
    for gradient in gradients:
        assert np.isfinite(gradient).all()
        assert np.any(gradient != 0)


class OneStep(keras.Model):
    """Dense before the function under test, whose output, squared, is the loss.

    Keras finds the weights of a layer given as `function`; `update(metric, inputs)` runs where
    `ContrastiveTrainer` updates its metrics, inside `compute_loss`.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        spec: Spec,
        metric: Any = None,
        update: Callable[[Any, Any], None] = lambda metric, inputs: metric.update_state(*inputs),
    ) -> None:
        super().__init__()
        self.function, self.metric, self.update = function, metric, update
        self.dense = keras.layers.Dense(spec.inputs[0].shape[-1])

    def call(self, inputs: Any) -> Any:
        first, *rest = inputs
        return self.function(self.dense(first), *rest)

    def compute_loss(
        self,
        x: Any = None,
        y: Any = None,
        y_pred: Any = None,
        sample_weight: Any = None,
        training: bool = True,
    ) -> Any:
        if self.metric is not None:
            self.update(self.metric, x)
        return ops.mean(ops.square(ops.cast(y_pred, "float32")))


def train_one_step(model: keras.Model, spec: Spec) -> None:
    model.compile(optimizer=keras.optimizers.SGD(0.1))
    history = model.fit(list(spec.inputs), np.zeros(N), batch_size=N, shuffle=False, verbose=0)
    assert np.isfinite(history.history["loss"]).all()


# --- everything public ----------------------------------------------------------------------------


def test_every_public_name_is_under_contract() -> None:
    types = [name for name in public_names("losses") if inspect.isclass(find(name))]
    assert sorted(ALL) == sorted([*SPECS, *types, "losses.get"])


# --- layers ---------------------------------------------------------------------------------------


@each_layer
def test_layer_takes_its_options_by_name_and_the_usual_ones_of_keras(name: str) -> None:
    layer = find(name)(name="mine", dtype="mixed_bfloat16", trainable=False, **SPECS[name].options)
    assert (layer.name, layer.dtype_policy.name) == ("mine", "mixed_bfloat16")
    layer(*tensors(SPECS[name]))
    assert layer.built
    assert not layer.trainable_variables


@each_layer
def test_layer_config_round_trip_by_behaviour(name: str) -> None:
    spec = SPECS[name]
    layer = find(name)(**spec.options)
    rebuilt = again(layer)
    expected = to_numpy(layer(*tensors(spec)))
    # Before any weight is copied: the initial values come from the config alone.
    np.testing.assert_array_equal(to_numpy(rebuilt(*tensors(spec))), expected)
    if spec.options:  # else they would prove nothing
        assert not np.array_equal(to_numpy(find(name)()(*tensors(spec))), expected)

    rebuilt.set_weights(moved(layer).get_weights())

    expected = to_numpy(layer(*tensors(spec)))
    np.testing.assert_array_equal(to_numpy(rebuilt(*tensors(spec))), expected)
    assert float(spec.behaviour(rebuilt)) == float(spec.behaviour(layer))


@each_layer
@each_policy
def test_layer_in_a_saved_model(name: str, policy: str, tmp_path: Any) -> None:
    spec = SPECS[name]
    with float64_allowed():
        inputs = [
            keras.Input((None, *x.shape[2:]) if x.ndim == 3 else x.shape[1:], dtype=x.dtype.name)
            for x in spec.inputs
        ]
        layer = find(name)(dtype=policy, **spec.options)
        model = keras.Model(inputs, layer(*inputs))
        moved(layer)
        model.save(tmp_path / "model.keras")
        loaded = keras.saving.load_model(tmp_path / "model.keras")

        expected = model(tensors(spec))
        np.testing.assert_array_equal(to_numpy(loaded(tensors(spec))), to_numpy(expected))
        assert loaded.layers[-1].dtype_policy.name == policy
        dtype = keras.backend.standardize_dtype(expected.dtype)
        assert dtype == keras.backend.standardize_dtype(model.outputs[0].dtype)


@pytest.mark.slow_on_jax
@each_layer
@each_policy
def test_layer_under_every_policy(name: str, policy: str) -> None:
    spec = SPECS[name]
    reference = find(name)(**spec.options)(*tensors(spec))
    with float64_allowed():
        dtype = "float64" if policy == "float64" else "float32"
        layer = find(name)(dtype=policy, **spec.options)
        output = layer(*tensors(spec, dtype))
        assert tuple(output.shape) == layer.compute_output_shape(*shapes(layer, spec))
        symbolic = layer.compute_output_spec(*map(keras.KerasTensor, shapes(layer, spec)))
        assert keras.backend.standardize_dtype(output.dtype) == symbolic.dtype
        np.testing.assert_allclose(
            to_numpy(output), to_numpy(reference), rtol=POLICIES[policy], atol=POLICIES[policy]
        )
        assert_finite_gradients(layer, spec, dtype)


def shapes(layer: Any, spec: Spec) -> list[tuple[int, ...]]:
    """As many input shapes as `compute_output_shape` asks for."""
    count = len(inspect.signature(layer.compute_output_shape).parameters)
    return [x.shape for x in spec.inputs[:count]]


@each_layer
def test_layer_ends_the_mask(name: str) -> None:
    layer = find(name)()
    assert layer.supports_masking
    assert layer.compute_mask(*tensors(SPECS[name])) is None


@each_layer
@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16", "mixed_float16"])
def test_layer_trains_one_step(name: str, policy: str) -> None:
    spec = SPECS[name]
    layer = find(name)(dtype=policy, **spec.options)
    model = OneStep(layer, spec)
    model(tensors(spec))
    before = [to_numpy(weight.value) for weight in model.trainable_weights]
    assert len(before) == 2 + len(layer.trainable_weights)
    train_one_step(model, spec)
    for weight, old in zip(model.trainable_weights, before, strict=True):
        assert np.isfinite(to_numpy(weight.value)).all()
        assert np.any(to_numpy(weight.value) != old), weight.path


# --- losses ---------------------------------------------------------------------------------------


@pytest.mark.slow_on_jax
@each_function
@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16", "float16"])
def test_function_in_every_precision(name: str, dtype: str) -> None:
    spec, function = SPECS[name], find(name)
    reference = to_numpy(function(*tensors(spec)))
    with float64_allowed():
        output = function(*tensors(spec, dtype))
        np.testing.assert_allclose(to_numpy(output), reference, rtol=3e-2, atol=2e-1)
        if not spec.differentiable:
            integers = {"losses.text_ids": "int32"}
            assert keras.backend.standardize_dtype(output.dtype) == integers.get(name, "bool")
            return
        at_least_float32 = "float64" if dtype == "float64" else "float32"
        assert keras.backend.standardize_dtype(output.dtype) == at_least_float32
        assert_finite_gradients(function, spec, dtype)


@each_function
def test_function_takes_numpy_and_lists(name: str) -> None:
    spec, function = SPECS[name], find(name)
    expected = to_numpy(function(*tensors(spec)))
    found = to_numpy(function(*spec.inputs))
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    found = to_numpy(function(*(x.tolist() for x in spec.inputs)))
    np.testing.assert_allclose(found, expected, rtol=1e-6)


@each_function
def test_function_trains_one_step(name: str) -> None:
    function = find(name)
    if name in ("losses.cosine_logits", "losses.tiled_info_nce", "losses.tiled_symmetric_info_nce"):
        spec = Spec((QUERY, DOCUMENT))
        model = OneStep(lambda query, document: function(query, document, 0.1), spec)
    elif name == "losses.text_ids":
        spec = Spec((LOGITS, *SPECS[name].inputs))
        mask, loss = cptk.losses.same_text_mask, cptk.losses.symmetric_info_nce
        model = OneStep(
            lambda logits, tokens: loss(logits, mask(function(tokens), function(tokens))), spec
        )
    elif name == "losses.same_text_mask":
        spec = Spec((LOGITS, np.array([1, 2, 1, 3], "int32"), np.arange(4, dtype="int32")))
        loss = cptk.losses.symmetric_info_nce
        model = OneStep(lambda logits, *ids: loss(logits, function(*ids)), spec)
    else:
        spec = SPECS[name]
        model = OneStep(function, spec)
    model(tensors(spec))
    before = to_numpy(model.dense.kernel.value)
    train_one_step(model, spec)
    assert np.isfinite(to_numpy(model.dense.kernel.value)).all()
    assert np.any(to_numpy(model.dense.kernel.value) != before)


# --- metrics --------------------------------------------------------------------------------------


def result(metric: Any) -> float:
    return float(to_numpy(metric.result()))


@each_metric
def test_metric_config_and_state_round_trip_by_behaviour(name: str) -> None:
    spec = SPECS[name]
    metric = find(name)(**spec.options)
    rebuilt = again(metric)
    metric.update_state(*tensors(spec))
    assert result(metric) != 0
    if set(spec.options) - {"name"}:  # else they would prove nothing
        default = find(name)()
        default.update_state(*tensors(spec))
        assert result(default) != result(metric)
    assert result(rebuilt) == 0
    for variable, value in zip(rebuilt.variables, metric.variables, strict=True):
        variable.assign(value.value)
    assert result(rebuilt) == result(metric)
    rebuilt.reset_state()
    assert result(rebuilt) == 0
    rebuilt.update_state(*tensors(spec))
    assert (rebuilt.name, result(rebuilt)) == (metric.name, result(metric))


@each_metric
@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16", "float16"])
def test_metric_takes_every_precision(name: str, dtype: str) -> None:
    spec = SPECS[name]
    reference, metric = find(name)(), find(name)()
    reference.update_state(*tensors(spec))
    with float64_allowed():
        metric.update_state(*tensors(spec, dtype))
    assert result(metric) == pytest.approx(result(reference), abs=1e-2)


@each_metric
def test_metric_without_state_change(name: str) -> None:
    spec = SPECS[name]
    metric, other = find(name)(), find(name)()
    other.update_state(*tensors(spec))
    start = [variable.value for variable in metric.variables]
    state = metric.stateless_update_state(start, *tensors(spec))
    assert float(to_numpy(metric.stateless_result(state))) == pytest.approx(result(other))
    assert result(metric) == 0


@each_metric
def test_metric_is_updated_inside_compute_loss(name: str) -> None:
    spec, metric, other = SPECS[name], find(name)(), find(name)()
    other.update_state(*tensors(spec))
    if spec.inputs[0].ndim == 0:  # a batch is at least a column: its mean is the scalar
        spec = Spec((np.full((N, 1), spec.inputs[0]),))
        model = OneStep(
            lambda x: x, spec, metric, lambda m, inputs: m.update_state(ops.mean(inputs[0]))
        )
    else:
        model = OneStep(lambda x, *rest: x, spec, metric)
    train_one_step(model, spec)
    assert result(metric) == pytest.approx(result(other), rel=1e-5)
    logs = {key: float(to_numpy(x)) for key, x in model.get_metrics_result().items()}
    assert logs[metric.name] == pytest.approx(result(other), rel=1e-5)


# --- compiled -------------------------------------------------------------------------------------


def compiled(function: Callable[..., Any], spec: Spec, jit: bool) -> Callable[..., Any]:
    """As a user would compile it: AutoGraph on, sizes unknown; `jax.jit`; `torch.compile`."""
    if BACKEND == "tensorflow":
        import tensorflow as tf

        specs = [tf.TensorSpec([None] * x.ndim, x.dtype) for x in spec.inputs]
        return tf.function(function, input_signature=specs, jit_compile=jit)
    if BACKEND == "jax":
        import jax

        return jax.jit(function)
    import torch

    if not jit:  # Traced and differentiated, and not made into C++: that takes a minute.
        return torch.compile(function, backend="aot_eager")
    if shutil.which("g++") is None:
        pytest.skip("torch.compile needs a C++ compiler")
    return torch.compile(function)


# What torch's compiler says of torch and of Keras.
@pytest.mark.filterwarnings(*(["ignore"] if BACKEND == "torch" else ["error"]))
@pytest.mark.parametrize("jit", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", sorted(SPECS))
def test_runs_compiled(name: str, jit: bool) -> None:
    if jit and BACKEND == "jax":
        pytest.skip("always compiled")
    spec = SPECS[name]
    thing = find(name)
    if name.startswith("losses."):
        function = thing
    elif name.startswith("layers."):
        function = thing()
    else:
        metric = thing()
        start = [variable.value for variable in metric.variables]

        def function(*inputs: Any) -> Any:
            return metric.stateless_result(metric.stateless_update_state(start, *inputs))

        if BACKEND == "tensorflow":  # Where state may change in what is compiled.

            def function(*inputs: Any) -> Any:
                metric.update_state(*inputs)
                return metric.result()

    found = to_numpy(compiled(function, spec, jit)(*tensors(spec)))
    if name.startswith("metrics."):
        metric.reset_state()
    expected = to_numpy(function(*tensors(spec)))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
