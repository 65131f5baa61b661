"""The one layer of the contrastive model that holds the temperature."""

from __future__ import annotations

import math

import keras
from keras import ops

from cptk.checks import is_number
from cptk.ops import check_embeddings, cosine_similarity, static_shape
from cptk.types import Config, Shape, Tensor


class _Within(keras.constraints.Constraint):  # type: ignore[misc]
    """Sets a weight back to the limit that an optimizer step has carried it past."""

    def __init__(self, low: float, high: float) -> None:
        self.low, self.high = low, high

    def __call__(self, w: Tensor) -> Tensor:
        w = ops.convert_to_tensor(w)  # Optimizers pass the variable itself.
        # Not `ops.clip`, which returns float32 for float64 on torch (Keras 3.15).
        w = ops.where(ops.greater(w, self.high), self.high, w)
        return ops.where(ops.less(w, self.low), self.low, w)

    def get_config(self) -> Config:
        return {"low": self.low, "high": self.high}


@keras.saving.register_keras_serializable(package="cptk")
class ContrastiveHead(keras.layers.Layer):  # type: ignore[misc]
    """Cosine of every query with every document, divided by a learned temperature.

        logits(i, j) = cos(q_i, d_j) * exp(tau)

    tau is one trainable scalar, log(1 / temperature). A **weight constraint** holds exp(tau)
    between `min_scale` and `max_scale`: the optimizer takes its step, and only then is tau set back
    to the limit that it went past. The lower limit matters because at a scale near 0 all logits are
    equal, so one step at a high learning rate could lose tau for good.

    The forward pass has no clip. A clip there (`minimum(exp(tau), 100)`) has gradient zero past the
    limit: a tau that once stepped over it could never come back, and its optimizer moments would go
    on as if the loss were flat. With the constraint the gradient at the limit is the true one, and
    tau leaves the limit in the first step that asks for it.

    Precision: tau is kept in float32 under every dtype policy but float64 (a bfloat16 tau
    near 4.6 moves in steps of 0.03), the inputs are not autocast, and the logits come out
    in float32 (float64 under a float64 policy), since the softmax over a batch needs it.

    An optimizer with weight decay pulls tau towards 0 (scale 1) like any other weight; call
    `optimizer.exclude_from_weight_decay(var_list=[head.tau])` before building it to stop that.

    Args:
        temperature: the initial temperature, 1 / exp(tau). 0.07 by default.
        max_scale: the largest exp(tau) allowed, 100 by default (temperature 0.01).
        min_scale: the smallest exp(tau) allowed; by default 1 (temperature 1), or the first scale
            where that is smaller.
        **kwargs: `name`, `dtype`, `trainable` of `keras.layers.Layer`. `trainable=False`
            keeps the temperature fixed.

    Call arguments:
        query: (n, d), of any length: they are normalised here; a zero vector has cosine 0.
        document: (m, d). For training, m >= n, the positive of query i in row i.

    Returns:
        logits (n, m).

    Raises:
        ValueError: if the temperature or a scale is not a positive finite number, the first
            scale is above the largest or below the smallest, or the inputs are not (n, d) and
            (m, d).

    Example:

    ```pycon
    >>> import cptk, keras, numpy as np
    >>> head = cptk.layers.ContrastiveHead(temperature=0.5)
    >>> logits = head(np.array([[1.0, 0.0]]), np.array([[3.0, 0.0], [0.0, 1.0]]))
    >>> keras.ops.convert_to_numpy(logits).round(4).tolist()
    [[2.0, 0.0]]
    >>> round(keras.ops.convert_to_numpy(head.temperature).item(), 4)
    0.5

    ```

    References:
        Neelakantan et al. 2022, arXiv 2201.10005, section 2: the form of the logits.
        Radford et al. 2021, CLIP, arXiv 2103.00020, sections 2.3 and 2.5: 0.07 and 100. The
        first paper gives neither number, so both are ours for it, and so are the constraint and
        its lower limit.
    """

    def __init__(
        self,
        temperature: float = 0.07,
        max_scale: float = 100.0,
        min_scale: float | None = None,
        **kwargs: object,
    ) -> None:
        super().__init__(autocast=False, **kwargs)
        self.initial_temperature = _positive("temperature", temperature)
        self.max_scale = _positive("max_scale", max_scale)
        start, high = -math.log(self.initial_temperature), math.log(self.max_scale)
        self.min_scale = (
            min(1.0, math.exp(start), self.max_scale)
            if min_scale is None
            else _positive("min_scale", min_scale)
        )
        low = math.log(self.min_scale)
        if start > high + 1e-9:
            raise ValueError(
                "ContrastiveHead starts at scale 1 / temperature, which must not be above "
                f"max_scale. Received: temperature={temperature} (scale "
                f"{1 / self.initial_temperature:g}), max_scale={max_scale}. Raise one of them."
            )
        if start < low - 1e-9 or low > high + 1e-9:
            raise ValueError(
                "ContrastiveHead starts at scale 1 / temperature, which must not be below "
                f"min_scale. Received: temperature={temperature} (scale "
                f"{1 / self.initial_temperature:g}), min_scale={min_scale}. Lower one of them."
            )
        self.supports_masking = True
        # Here and not in `build`, since the shape is known: the trainer, a distribution scope and
        # `exclude_from_weight_decay` need tau before the first batch.
        self.tau = self.add_weight(
            name="tau",
            shape=(),
            dtype=self._logits_dtype,
            initializer=keras.initializers.Constant(start),
            constraint=_Within(low, high),
            autocast=False,
        )

    @property
    def _logits_dtype(self) -> str:
        return "float64" if self.compute_dtype == "float64" else "float32"

    @property
    def temperature(self) -> Tensor:
        """exp(-tau), a scalar tensor: the temperature as it is now."""
        return ops.exp(ops.negative(self.tau))

    def call(self, query: Tensor, document: Tensor) -> Tensor:
        check_embeddings(static_shape(query), static_shape(document), type(self).__name__)
        query = ops.cast(query, self._logits_dtype)
        document = ops.cast(document, self._logits_dtype)
        return ops.multiply(cosine_similarity(query, document), ops.exp(self.tau))

    def compute_mask(self, *args: object, **kwargs: object) -> None:
        """None: logits carry no sequence."""

    def compute_output_shape(self, query_shape: Shape, document_shape: Shape) -> Shape:
        check_embeddings(tuple(query_shape), tuple(document_shape), type(self).__name__)
        return (query_shape[0], document_shape[0])

    def compute_output_spec(self, query: Tensor, document: Tensor) -> keras.KerasTensor:
        shape = self.compute_output_shape(static_shape(query), static_shape(document))
        return keras.KerasTensor(shape, dtype=self._logits_dtype)

    def get_config(self) -> Config:
        config: Config = super().get_config()
        return {
            **config,
            "temperature": self.initial_temperature,
            "max_scale": self.max_scale,
            "min_scale": self.min_scale,
        }


def _positive(name: str, value: object) -> float:
    """The value as a float, refused unless it is a positive finite number."""
    if not is_number(value) or not math.isfinite(value) or value <= 0:
        raise ValueError(
            f"ContrastiveHead expects `{name}` to be a positive finite number. "
            f"Received: {name}={value!r}."
        )
    return float(value)
