import importlib
import os
from pathlib import Path
from typing import Any

import evaluation_toys as toys
import keras
import numpy as np
import pytest
from toys import gpt2_embedder

from cptk.evaluation import CachedEncoder
from cptk.evaluation.fingerprint import describe, fingerprint

TEXTS = ["a", "b", "a", "c b", "é\n"]


def files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def test_each_text_is_embedded_once_in_each_role() -> None:
    counter = toys.Counter()
    cached = CachedEncoder(counter)
    first = cached(TEXTS, role="query")
    np.testing.assert_array_equal(first[0], first[2])
    np.testing.assert_array_equal(cached(["c b", "a"], role="query"), first[[3, 0]])
    cached(["new", "a"], role="query")
    cached(["a"])
    assert sorted(counter.asked, key=str) == sorted(
        [("a", "query"), ("b", "query"), ("c b", "query"), ("é\n", "query"), ("new", "query"),
         ("a", None)], key=str,
    )  # fmt: skip
    expected = toys.Counter().encode_text(TEXTS, "query")
    np.testing.assert_array_equal(first, expected)
    assert cached.embedded == 6


def test_disk_gives_what_was_embedded_and_holds_no_pickle(tmp_path: Path) -> None:
    first = CachedEncoder(toys.function, tmp_path, name="v1")(TEXTS)

    def refuse(texts: list[str]) -> Any:
        raise AssertionError(texts)

    again = CachedEncoder(refuse, tmp_path, name="v1")
    np.testing.assert_array_equal(again(TEXTS[::-1]), first[::-1])
    assert again.embedded == 0
    with pytest.raises(AssertionError, match="fresh"):
        again(["fresh"])
    with pytest.raises(AssertionError):
        CachedEncoder(refuse, tmp_path, name="v2")(TEXTS)
    for path in files(tmp_path):
        np.load(path, allow_pickle=False).close()
        assert not path.name.startswith(".scratch")


@pytest.mark.parametrize("damage", ["cut", "flip", "empty", "text", "pickle", "nan", "shape"])
def test_damaged_file_is_computed_anew(damage: str, tmp_path: Path) -> None:
    first = CachedEncoder(toys.function, tmp_path, name="v1")(TEXTS)
    (path,) = files(tmp_path)
    content = path.read_bytes()
    middle = content.index(first[-1].tobytes())  # in the vectors themselves
    if damage == "pickle":
        np.savez(path, keys=np.array([{}], dtype=object), vectors=np.array([{}], dtype=object))
    elif damage == "nan":
        np.savez(path, keys=np.zeros(32, np.uint8), vectors=np.full((1, 6), np.nan, np.float32))
    elif damage == "shape":
        np.savez(path, keys=np.zeros(31, np.uint8), vectors=np.ones((1, 6), np.float32))
    else:
        path.write_bytes(
            {
                "cut": content[:middle],
                "flip": content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :],
                "empty": b"",
                "text": b"<html>not found</html>",
            }[damage]
        )
    again = CachedEncoder(toys.function, tmp_path, name="v1")
    np.testing.assert_array_equal(again(TEXTS), first)
    assert again.embedded == 4
    assert CachedEncoder(toys.function, tmp_path, name="v1")(["a"]).shape == (1, 6)


def test_interrupted_run_keeps_the_blocks_that_it_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cptk.evaluation.cache.BLOCK", 10)
    calls = []

    def stops(texts: list[str]) -> Any:
        calls.append(len(texts))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return toys.function(texts)

    with pytest.raises(KeyboardInterrupt):
        CachedEncoder(stops, tmp_path, name="v1")(toys.TEXTS)
    lines: list[Any] = []
    again = CachedEncoder(
        toys.function, tmp_path, name="v1", on_progress=lambda *line: lines.append(line[:2])
    )
    np.testing.assert_array_equal(again(toys.TEXTS), toys.function(toys.TEXTS))
    assert again.embedded == 20
    assert lines == [(10, 20), (20, 20)]


def test_failed_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="No space"):
        CachedEncoder(toys.function, tmp_path, name="v1")(TEXTS)
    assert files(tmp_path) == []


def test_what_cannot_be_told_apart_on_disk_needs_a_name(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"weights of this function cannot be read.*`name`"):
        CachedEncoder(toys.function, tmp_path)
    with pytest.raises(TypeError, match="CachedEncoder already"):
        CachedEncoder(CachedEncoder(toys.function))
    CachedEncoder(toys.function, tmp_path, name="v1")(["a"])
    other = CachedEncoder(lambda texts: np.ones((len(texts), 3)), tmp_path, name="v1")
    with pytest.raises(ValueError, match="size 3, and those of its name that are kept 6"):
        other(["b"])


def test_fingerprint_follows_all_that_a_vector_depends_on(tmp_path: Path) -> None:
    embedder = gpt2_embedder(num_layers=1)
    known = fingerprint(embedder)
    assert known == fingerprint(gpt2_embedder(num_layers=1))  # other names of layers
    embedder.save_to_preset(str(tmp_path / "preset"))
    assert fingerprint(type(embedder).from_preset(str(tmp_path / "preset"))) == known
    seen = {known}
    embedder.preprocessor.sequence_length = 16
    seen.add(fingerprint(embedder))
    embedder.trainable_weights[0].assign(keras.ops.copy(embedder.trainable_weights[0]) + 1e-3)
    seen.add(fingerprint(embedder))
    seen.add(fingerprint(gpt2_embedder(num_layers=1, pooling="mean")))
    seen.add(fingerprint(gpt2_embedder(num_layers=2)))
    embedder.backbone.enable_lora(2)
    seen.add(fingerprint(embedder))
    assert len(seen) == 6
    assert None not in seen


@pytest.mark.slow_on_jax
def test_keras_embedder_in_the_cache(tmp_path: Path) -> None:
    embedder = gpt2_embedder(num_layers=1)
    cached = CachedEncoder(embedder, tmp_path, on_progress=lambda *_: None)
    vectors = cached(["x y", "z"])
    np.testing.assert_allclose(vectors, embedder.encode_text(["x y", "z"]), atol=1e-6)
    np.testing.assert_array_equal(cached(["z"], role="document"), vectors[1:])  # the default role
    assert cached.embedded == 2
    assert np.abs(cached(["z"], role="query") - vectors[1:]).max() > 1e-3
    with pytest.raises(ValueError, match=r"passage"):
        cached(["z"], role="passage")
    again = CachedEncoder(gpt2_embedder(num_layers=1), tmp_path)
    np.testing.assert_array_equal(again(["z", "x y"]), vectors[::-1])
    assert again.embedded == 0


def test_other_encoders_with_a_fingerprint() -> None:
    class Own:
        fingerprint = "my-model-v3"

    class Torch:
        def encode(self) -> None: ...

        def __init__(self, value: float) -> None:
            self.value = value

        def __repr__(self) -> str:
            return "Torch()"

        def state_dict(self) -> dict[str, Any]:
            return {"weight": Tensor(self.value)}

    class Tensor:
        def __init__(self, value: float) -> None:
            self.value = value

        def float(self) -> "Tensor":
            return self

        def cpu(self) -> "Tensor":
            return self

        def numpy(self) -> np.ndarray:
            return np.full(3, self.value, np.float32)

    assert len(fingerprint(Own()) or "") == 64
    assert fingerprint(Torch(1.0)) == fingerprint(Torch(1.0)) != fingerprint(Torch(2.0))
    assert fingerprint(toys.function) is None
    assert describe(toys.function) == {"class": "function"}
    about = describe(gpt2_embedder(num_layers=1))
    assert about["backbone"] == "GPT2Backbone"
    assert about["roles"]["query"] == ["[", "]"]
    assert about["parameters"] > 0


def test_fingerprint_does_not_hang_on_the_order_of_a_set():
    module = importlib.import_module("cptk.evaluation.fingerprint")
    forms = [["<b>", "<a>"], ["<a>", "<b>"], {"<a>", "<b>"}]
    assert len({str(module._essential({"tokens": form})) for form in forms}) == 1
    assert module._essential([2, 1]) != module._essential([1, 2])
