"""The memory of callbacks: what `ExactBackupAndRestore` saves of them, and what it cannot."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Any

import keras
import numpy as np

from cptk import files
from cptk.types import Callback, Tree

STATE = {
    "CSVLogger": (),  # Its file: see `_state`.
    "CallbackList": (),
    "BackupAndRestore": (),
    "EarlyStopping": ("wait", "stopped_epoch", "best", "best_epoch", "best_weights"),
    "History": ("epoch", "history"),
    "LambdaCallback": (),
    "LearningRateScheduler": (),
    "ModelCheckpoint": ("best", "_batches_seen_since_last_saving", "_last_batch_seen"),
    "MonitorCallback": ("best",),
    "OrbaxCheckpoint": (
        "best",
        "_batches_seen_since_last_saving",
        "_last_batch_seen",
        "_total_batches_seen",
    ),
    "ProgbarLogger": (),
    "ReduceLROnPlateau": ("wait", "cooldown_counter", "best"),
    "RemoteMonitor": (),
    "SwapEMAWeights": ("_ema_weights_in_model",),
    "TensorBoard": ("_global_train_batch", "_global_test_batch"),
    "TerminateOnNaN": (),
}
"""The attributes of Keras's callbacks that change as training goes on."""


def keyed(callbacks: Sequence[Any]) -> dict[str, Any]:
    """Callbacks by class and place: "EarlyStopping.0" is the first of its class."""
    counts: Counter[str] = Counter()
    found = {}
    for callback in callbacks:
        kind = type(callback).__name__
        found[f"{kind}.{counts[kind]}"] = callback
        counts[kind] += 1
    return found


def save(
    callbacks: dict[str, Any], weights: dict[str, Any]
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """What callbacks hold, as JSON and as arrays; `weights` are those of the model, by path."""
    arrays: dict[str, np.ndarray] = {}
    states = {name: _state(callback, weights) for name, callback in callbacks.items()}
    found = {
        name: _pack(state, f"callbacks/{name}", arrays)
        for name, state in states.items()
        if state is not None
    }
    return found, arrays


def restore(
    callbacks: dict[str, Any],
    saved: dict[str, Any],
    arrays: dict[str, np.ndarray],
    weights: dict[str, Any],
) -> None:
    """Give callbacks what `save` has found on those of the same class and place."""
    for name in callbacks.keys() & saved.keys():
        state, callback = _unpack(saved[name], arrays), callbacks[name]
        if _has_hooks(callback):
            callback.set_state(state)
            continue
        if isinstance(callback, keras.callbacks.CSVLogger):
            _rewrite(callback, state)
            continue
        if isinstance(state.get("best_weights"), dict):
            best = state["best_weights"]
            state["best_weights"] = [best[path] for path in weights]
        for attribute, value in state.items():
            setattr(callback, attribute, value)


def memory(callback: Callback) -> dict[str, Any]:
    """A picture of what a callback of somebody else's holds and `save` does not: to compare."""
    if type(callback).__module__.split(".")[0] in ("keras", "cptk") or _has_hooks(callback):
        return {}
    known = {*_attributes(callback), "params", "_model", "monitor_op", "min_delta"}
    return {
        name: _picture(value, 4)
        for name, value in vars(callback).items()
        if name not in known and not callable(value)
    }


def _has_hooks(callback: Callback) -> bool:
    return all(callable(getattr(callback, name, None)) for name in ("get_state", "set_state"))


def _attributes(callback: Callback) -> list[str]:
    kinds = [kind for kind in type(callback).__mro__ if kind.__module__.startswith("keras.")]
    return [name for kind in kinds[:1] for name in STATE.get(kind.__name__, ())]


def _state(callback: Callback, weights: dict[str, Any]) -> Tree:
    if _has_hooks(callback):
        return callback.get_state()
    if isinstance(callback, keras.callbacks.CSVLogger):
        path = Path(callback.filename)
        text = path.read_bytes().decode() if path.exists() else ""
        return {"text": text, "keys": callback.keys}
    state = {name: getattr(callback, name, None) for name in _attributes(callback)}
    best = state.get("best_weights")
    if isinstance(best, list):
        # By path: another backend may list them in another order.
        arrays = [np.asarray(weight) for weight in best]
        state["best_weights"] = dict(zip(weights, arrays, strict=True))
    return state or None


def _rewrite(callback: Callback, state: dict[str, Any]) -> None:
    """The rows that the file had then: later ones are written again."""
    callback.csv_file.close()
    with files.replacing(Path(callback.filename)) as file:
        file.write(state["text"].encode())
    callback.csv_file = open(callback.filename, "a")  # noqa: SIM115 (the callback closes it)
    callback.append_header = not state["text"]
    callback.keys = state["keys"]


def _pack(value: Tree, name: str, arrays: dict[str, np.ndarray]) -> Tree:
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Mapping):
        pairs = [[key, _pack(item, f"{name}/{key}", arrays)] for key, item in value.items()]
        return {"mapping": pairs}
    if isinstance(value, list | tuple):
        return [_pack(item, f"{name}/{index}", arrays) for index, item in enumerate(value)]
    if isinstance(value, np.ndarray) or keras.ops.is_tensor(value):
        arrays[name] = np.array(keras.ops.convert_to_numpy(value))
        return {"array": name}
    raise TypeError(
        f"`get_state` should return numbers, texts, arrays, and lists or dictionaries of them. "
        f"{name} holds a {type(value).__name__}."
    )


def _unpack(value: Tree, arrays: dict[str, np.ndarray]) -> Tree:
    if isinstance(value, list):
        return [_unpack(item, arrays) for item in value]
    if isinstance(value, dict) and "array" in value:
        return arrays[value["array"]]
    if isinstance(value, dict):
        return {key: _unpack(item, arrays) for key, item in value["mapping"]}
    return value


def _picture(value: Tree, depth: int) -> Tree:
    """Something that equals another picture as long as the value has not changed."""
    if value is None or isinstance(value, bool | int | float | complex | str | bytes | Path):
        return repr(value)
    if isinstance(value, np.ndarray | np.generic | keras.Variable) or keras.ops.is_tensor(value):
        array = np.asarray(keras.ops.convert_to_numpy(value))
        return hashlib.sha256(array.tobytes()).hexdigest(), array.shape
    if depth and isinstance(value, Mapping):
        return [(repr(key), _picture(item, depth - 1)) for key, item in value.items()]
    if depth and isinstance(value, AbstractSet):
        return sorted(map(repr, value))
    if depth and not isinstance(value, type) and hasattr(value, "__len__"):
        with_items = getattr(value, "__iter__", None) is not None
        own = isinstance(value, keras.Model | keras.layers.Layer)
        if with_items and not own:
            return [_picture(item, depth - 1) for item in value]
    plain = not callable(value) and not isinstance(value, keras.callbacks.Callback)
    if depth and plain and type(value).__module__.split(".")[0] not in ("keras", "cptk", "io"):
        return {k: _picture(v, depth - 1) for k, v in getattr(value, "__dict__", {}).items()}
    return id(value)
