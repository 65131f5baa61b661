import importlib
import warnings
from pathlib import Path
from typing import Any

import evaluation_toys as toys
import keras
import numpy as np
import pytest
from toys import gpt2_embedder

import cptk
from cptk import encoders
from cptk.evaluation import CachedEncoder, embed, evaluate
from cptk.fingerprint import describe, fingerprint

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


@pytest.mark.parametrize(
    "damage",
    "cut flip empty text pickle nan shape width moved deflate method encrypted".split(),
)
def test_damaged_file_is_computed_anew(damage: str, tmp_path: Path) -> None:
    first = CachedEncoder(toys.function, tmp_path, name="v1")(TEXTS)
    (path,) = files(tmp_path)
    content = path.read_bytes()
    middle = content.index(first[-1].tobytes())  # in the vectors themselves
    with np.load(path) as archive:
        keys = archive["keys"]
    if damage == "pickle":
        np.savez(path, keys=np.array([{}], dtype=object), vectors=np.array([{}], dtype=object))
    elif damage == "nan":
        np.savez(path, keys=np.zeros(32, np.uint8), vectors=np.full((1, 6), np.nan, np.float32))
    elif damage == "shape":
        np.savez(path, keys=np.zeros(31, np.uint8), vectors=np.ones((1, 6), np.float32))
    elif damage == "width":  # a whole file with the right keys and vectors of another length
        np.savez(path, keys=keys, vectors=np.ones((len(keys) // 32, 3), np.float32))
    elif damage == "moved":  # another encoder's file in this one's place
        CachedEncoder(lambda texts: toys.function(texts) + 1, tmp_path / "b", name="v2")(TEXTS)
        (other,) = files(tmp_path / "b")
        path.write_bytes(other.read_bytes())
    elif damage == "deflate":  # zlib.error in the middle of a compressed member
        np.savez_compressed(path, keys=keys, vectors=np.zeros((4, 6), np.float32))
        packed = bytearray(path.read_bytes())
        packed[80:110] = b"\xff" * 30
        path.write_bytes(packed)
    else:
        directory = content.index(b"PK\x01\x02") + 10  # the method: NotImplementedError
        method = content[:directory] + b"\x63\x00" + content[directory + 2 :]
        path.write_bytes(
            {
                "cut": content[:middle],
                "flip": content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :],
                "empty": b"",
                "text": b"<html>not found</html>",
                "method": method,
                "encrypted": content[: directory - 2] + b"\x01" + content[directory - 1 :],
            }[damage]
        )
    again = CachedEncoder(toys.function, tmp_path, name="v1")
    np.testing.assert_array_equal(again(TEXTS), first)
    assert again.embedded == 4
    assert CachedEncoder(toys.function, tmp_path, name="v1")(["a"]).shape == (1, 6)


@pytest.mark.parametrize("error", [MemoryError(), PermissionError(13, "denied")])
def test_file_that_cannot_be_read_now_is_not_removed(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = CachedEncoder(toys.function, tmp_path, name="v1")(TEXTS)

    def fail(*_: Any, **__: Any) -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(np, "load", fail)
        again = CachedEncoder(toys.function, tmp_path, name="v1")
        np.testing.assert_array_equal(again(["a"]), first[:1])
        assert again.embedded == 1
    assert len(files(tmp_path)) == 2  # the new one beside it


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


@pytest.mark.parametrize(
    ("where", "error"),
    [
        ("os.replace", OSError(28, "No space left on device")),
        ("tempfile.TemporaryFile", OSError(30, "Read-only file system")),
        ("pathlib.Path.mkdir", PermissionError(13, "Permission denied")),
    ],
)
def test_disk_that_cannot_be_written_is_a_warning_and_ends_nothing(
    where: str, error: OSError, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise error

    kept = CachedEncoder(toys.function, tmp_path / "d", name="v1")(["a"])
    before = files(tmp_path)
    monkeypatch.setattr(where, fail)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        cached = CachedEncoder(toys.function, tmp_path / "d", name="v1")
        np.testing.assert_array_equal(cached(TEXTS), toys.function(TEXTS))
        cached(["said once"])
    (warning,) = told
    assert "cannot be written" in str(warning.message)
    assert "choose another `cache_dir`" in str(warning.message)
    assert cached.embedded == 4  # "a" was read
    np.testing.assert_array_equal(cached(["a"]), kept)
    assert files(tmp_path) == before


def test_file_in_place_of_the_folder_is_refused_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for place in (tmp_path / "file", tmp_path / "file" / "cache"):
        with pytest.raises(ValueError, match=r"`cache_dir` should be a folder.*file' is a file"):
            CachedEncoder(toys.function, place, name="v1")
    with pytest.raises(TypeError, match="`cache_dir` should be a path"):
        CachedEncoder(toys.function, 3, name="v1")  # type: ignore[arg-type]


def test_home_is_found_and_no_role_leaves_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    roles = ["../../../out", "a/b", "r" * 300, "default", None]
    cached = CachedEncoder(toys.Counter(), "~/d", name="v1")
    vectors = [cached(["x"], role=role) for role in roles]
    again = CachedEncoder(toys.Counter(), tmp_path / "d", name="v1")
    for role, expected in zip(roles, vectors, strict=True):
        np.testing.assert_array_equal(again(["x"], role=role), expected)
    assert again.embedded == 0
    assert len(np.unique(vectors, axis=0)) == len(roles)
    assert {path.parents[2] for path in files(tmp_path)} == {tmp_path / "d"}


def test_what_cannot_be_told_apart_on_disk_needs_a_name(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"weights of this function cannot be read.*`name`"):
        CachedEncoder(toys.function, tmp_path)
    with pytest.raises(TypeError, match="CachedEncoder already"):
        CachedEncoder(CachedEncoder(toys.function))
    CachedEncoder(toys.function, tmp_path, name="v1")(["a"])
    other = CachedEncoder(lambda texts: np.ones((len(texts), 3)), tmp_path, name="v1")
    with pytest.raises(ValueError, match="size 3, and those of its name that are kept 6"):
        other(["b"])


@pytest.fixture(scope="module")
def embedder() -> Any:
    return gpt2_embedder(num_layers=1)


def test_fingerprint_is_that_of_an_equal_embedder(embedder: Any, tmp_path: Path) -> None:
    known = fingerprint(embedder)
    assert known == fingerprint(gpt2_embedder(num_layers=1))  # other names of layers
    embedder.save_to_preset(str(tmp_path / "preset"))
    assert fingerprint(type(embedder).from_preset(str(tmp_path / "preset"))) == known


def changes(embedder: Any) -> dict[str, tuple[Any, str, Any]]:
    """One thing each that vectors depend on: object, attribute, another value."""
    reader, tokenizer = embedder.preprocessor, embedder.preprocessor.tokenizer
    norm = embedder.backbone.layer_norm
    words = tokenizer.vocabulary
    roles = {
        "query": {"query": ("]", "["), "document": ("{", "}")},
        "sides": {"query": ("[", "]"), "document": ("}", "{")},
        "a": {"name": ("a:", "")},
        "b": {"name": ("", "a:")},
        "c": {"name": ("b:", "")},
        "d": {"trainable": ("a:", "")},
        "e": {"unsplittable_tokens": ("a:", "")},
        "f": {"unsplittable_tokens": ("", "a:")},
        "ids": {"name": ([1, 2], [])},
        "ids in another order": {"name": ([2, 1], [])},
    }
    return {
        **{f"roles {name}": (reader, "roles", value) for name, value in roles.items()},
        "length": (reader, "sequence_length", 16),
        "tokenizer": (reader, "tokenizer_spec", {"added_tokens": ["b", "a"]}),
        "order of a list": (reader, "tokenizer_spec", {"added_tokens": ["a", "b"]}),
        "space": (tokenizer, "add_prefix_space", True),
        "vocabulary": (tokenizer, "vocabulary", {**words, "a": words["b"], "b": words["a"]}),
        "merges": (tokenizer, "merges", list(tokenizer.merges)[::-1]),
        "special": (tokenizer, "unsplittable_tokens", ["<a>"]),
        "pooling": (embedder, "pooling", "mean"),
        "normalize": (embedder, "normalize", False),
        "heads": (embedder.backbone, "num_heads", 4),
        "epsilon": (norm, "epsilon", 1e-3),
        "type": (norm, "dtype_policy", keras.DTypePolicy("mixed_bfloat16")),
    }


def test_fingerprint_follows_each_thing_that_a_vector_depends_on(embedder: Any) -> None:
    seen = {"nothing": fingerprint(embedder)}
    for what, (owner, name, value) in changes(embedder).items():
        before = getattr(owner, name)
        setattr(owner, name, value)
        seen[what] = fingerprint(embedder)
        setattr(owner, name, before)
    for weight in embedder.weights:  # the least change, in the last place
        before = np.array(keras.ops.convert_to_numpy(weight))
        after = before.copy()
        after.flat[-1] = np.nextafter(after.flat[-1], np.float32(9))
        weight.assign(after)
        seen[weight.path] = fingerprint(embedder)
        weight.assign(before)
    first, second = (w for w in embedder.weights if w.path.endswith(("query/bias", "key/bias")))
    values = [np.array(keras.ops.convert_to_numpy(weight)) for weight in (first, second)]
    first.assign(values[1])
    second.assign(values[0])
    seen["two weights in each other's place"] = fingerprint(embedder)
    first.assign(values[0])
    second.assign(values[1])
    assert fingerprint(embedder) == seen["nothing"]
    assert None not in seen.values()
    assert len(set(seen.values())) == len(seen)


def test_fingerprint_follows_lora_and_its_scale() -> None:
    embedder = gpt2_embedder(num_layers=1)
    seen = {fingerprint(embedder)}
    cptk.training.enable_lora(embedder, rank=2)
    seen.add(fingerprint(embedder))
    embedder.backbone.transformer_layers[0]._feedforward_output_dense.lora_alpha = 4.0
    seen.add(fingerprint(embedder))
    assert len(seen) == 3


def _wired(*order: int) -> Any:
    """A model of two branches, subtracted in this order."""
    x = keras.Input((2,))
    parts = [keras.layers.Dense(2, "relu")(x), keras.layers.Dense(2)(x)]
    total = keras.layers.Subtract()([parts[place] for place in order])
    model = keras.Model(x, total)
    model.set_weights([np.full(w.shape, 0.1 * i) for i, w in enumerate(model.get_weights())])
    return model


def test_fingerprint_follows_the_wires_of_a_model_and_no_names() -> None:
    plain = fingerprint(_wired(0, 1))
    assert fingerprint(_wired(0, 1)) == plain  # Keras has numbered its layers on.
    assert len({plain, fingerprint(_wired(1, 0))}) == 2
    sequential = [keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)]) for _ in range(2)]
    sequential[1].set_weights(sequential[0].get_weights())
    assert len(set(map(fingerprint, sequential))) == 1


def test_set_has_no_order_and_a_list_has() -> None:
    module = importlib.import_module("cptk.fingerprint")
    assert module._essential({"tokens": {"<b>", "<a>"}}) == module._essential(
        {"tokens": {"<a>", "<b>"}}
    )
    assert module._essential(["b", "a"]) != module._essential(["a", "b"])
    first, second = ({"unsplittable_tokens": list(order)} for order in ("ab", "ba"))
    assert module._layer_config(first) == module._layer_config(second)
    values = [np.zeros(2), np.ones(2), b"a", b"b", np.sin, np.cos]
    assert len({str(module._essential(value)) for value in values}) == len(values)


class Trained:
    """An encoder whose fingerprint is its weight."""

    weight = 1.0

    @property
    def fingerprint(self) -> str:
        return str(self.weight)

    def encode_text(self, texts: list[str]) -> np.ndarray:
        return self.weight * toys.function(texts)


@pytest.mark.parametrize("on_disk", [True, False])
def test_nothing_stale_is_read_or_written(on_disk: bool, tmp_path: Path) -> None:
    encoder = Trained()
    cached = CachedEncoder(encoder, tmp_path if on_disk else None)
    plain = toys.function(TEXTS)
    np.testing.assert_array_equal(cached(TEXTS), plain)
    encoder.weight = 3.0
    np.testing.assert_array_equal(cached(TEXTS), 3 * plain)
    cached(["new"])
    assert evaluate(cached, toys.signs()).about["embedder"]["fingerprint"] == cached.fingerprint
    encoder.weight = 1.0
    np.testing.assert_array_equal(cached(["new"]), toys.function(["new"]))
    np.testing.assert_array_equal(cached(TEXTS), plain)
    again = CachedEncoder(Trained(), tmp_path if on_disk else None)
    np.testing.assert_array_equal(again(TEXTS[:2]), plain[:2])
    assert again.embedded == (0 if on_disk else 2)


def test_encoder_is_looked_at_once_in_a_steady_block(monkeypatch: pytest.MonkeyPatch) -> None:
    looks = []
    module = importlib.import_module("cptk.evaluation.cache")
    monkeypatch.setattr(module, "fingerprint", lambda encoder: looks.append(1) or str(len(looks)))
    cached = CachedEncoder(toys.function)
    with cached.steady():
        cached(["a"])
        cached(["a", "b"])
    assert (len(looks), cached.embedded) == (0, 2)
    cached(["a"])  # of whom the vectors were, nobody had asked
    assert (len(looks), cached.embedded) == (1, 3)
    evaluate(cached, [toys.signs("one"), toys.signs("two")])
    assert (len(looks), cached.embedded) == (2, 43)


def test_zero_vectors_are_told_of_and_counted() -> None:
    def words(texts: list[str]) -> np.ndarray:
        return np.array([[text.count("1"), text.count("2")] for text in texts], np.float32)

    zeros = sum("1" not in text and "2" not in text for text in toys.TEXTS)
    with pytest.warns(UserWarning, match=r"zero vectors.*text \d+ and \d+ more") as told:
        report = evaluate(words, [toys.signs("one"), toys.signs("two")])
    assert len(told) == 1
    assert report["one"].details["zero_vectors"] == report["two"].details["zero_vectors"] == zeros
    assert f"{zeros} of one, {zeros} of two" in str(report)
    with pytest.warns(UserWarning, match="zero vectors"):
        assert embed(words, ["a", "1"]).tolist() == [[0, 0], [1, 0]]
    sparse = importlib.import_module("scipy.sparse")
    assert not embed(lambda texts: sparse.csr_matrix((len(texts), 3)), ["a"]).any()


def test_zero_vector_of_a_trained_embedder_is_refused(embedder: Any) -> None:
    class Zeros:
        def __init__(self, source: Any) -> None:
            self.state_dict = source

        def encode(self, texts: list[str]) -> np.ndarray:
            return np.zeros((len(texts), 2), np.float32)

    with pytest.raises(ValueError, match="must not give zero vectors"):
        embed(Zeros(dict), ["a"])
    with pytest.warns(UserWarning, match="Zeros gave zero vectors"):
        embed(Zeros(None), ["a"])
    assert encoders.is_trained(embedder)
    assert encoders.is_trained(encoders.quiet(embedder))
    assert not encoders.is_trained(toys.Counter())


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
    assert about["roles"]["query"] == ["[", "]", ""]
    assert about["parameters"] > 0
