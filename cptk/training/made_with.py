"""What a training run is made with: its data, optimizer and versions."""

from __future__ import annotations

import hashlib
import importlib.metadata
from collections.abc import Mapping
from typing import Any

import keras

from cptk import checks
from cptk.data.order import OrderedBatches
from cptk.types import Batches, Optimizer


def describe(data: Batches) -> dict[str, Any]:
    """What tells one set of pairs and one batch size from another."""
    if not isinstance(data, OrderedBatches):
        return {"data": type(data).__name__}
    # The digest is known already: the order of the pairs is kept by it.
    content = hashlib.sha256(data.digest.encode())
    if data.sample_weight is not None:
        content.update(data.sample_weight.tobytes())
    return {
        "number of pairs": data.size,
        "batch_size": data.batch_size,
        "steps_per_epoch": len(data),
        "shuffle": bool(data.shuffle),
        "content of the pairs": content.hexdigest()[:16],
    }


def made_with(optimizer: Optimizer, data: dict[str, Any]) -> dict[str, Any]:
    """All that an uninterrupted run would have kept: to be compared when it goes on."""
    config = keras.saving.serialize_keras_object(optimizer)
    return {
        **{f"optimizer {name}": value for name, value in _flat(config["config"]).items()},
        **data,
        "backend": keras.config.backend(),
        "keras": keras.__version__,
        "cptk": importlib.metadata.version("cptk"),
    }


def _flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in config.items():
        if name in ("name", "module", "registered_name", "build_config"):
            continue
        if isinstance(value, Mapping):
            found |= _flat(value, f"{prefix}{name} ")
        else:
            kept = value is None or isinstance(value, bool | int | float | str)
            found[f"{prefix}{name}"] = value if kept else checks.shown(value)
    return found
