"""GGUF files of which every byte can be chosen: nothing but ValueErrors that name the file."""

import functools
import itertools
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("gguf", reason="pip install gguf")

from cptk.integrations import gguf as integration
from tests.integrations.test_gguf import (
    EPSILON,
    HEADS,
    INNER,
    KV_HEADS,
    LAYERS,
    MERGES,
    THETA,
    TOKENS,
    WIDTH,
    weights,
)

pytestmark = pytest.mark.slow_on_jax


def number(code: str, value: float) -> bytes:
    """A number of the metadata: its kind and itself, as `struct` names it."""
    kinds = {"I": 4, "i": 5, "f": 6, "?": 7, "Q": 10, "d": 12}
    return struct.pack("<I" + code, kinds[code], value)


def string(value: str | bytes) -> bytes:
    raw = value if isinstance(value, bytes) else value.encode()
    return struct.pack("<Q", len(raw)) + raw


def text(value: str | bytes) -> bytes:
    return struct.pack("<I", 8) + string(value)


def array(kind: int, count: int, payload: bytes) -> bytes:
    return struct.pack("<IIQ", 9, kind, count) + payload


def strings(values: list[Any]) -> bytes:
    return array(8, len(values), b"".join(map(string, values)))


FIELDS = {
    "general.architecture": text("llama"),
    "llama.block_count": number("I", LAYERS),
    "llama.context_length": number("I", 256),
    "llama.embedding_length": number("I", WIDTH),
    "llama.feed_forward_length": number("I", INNER),
    "llama.attention.head_count": number("I", HEADS),
    "llama.attention.head_count_kv": number("I", KV_HEADS),
    "llama.rope.freq_base": number("f", THETA),
    "llama.attention.layer_norm_rms_epsilon": number("f", EPSILON),
    "tokenizer.ggml.model": text("gpt2"),
    "tokenizer.ggml.pre": text("smollm"),
    "tokenizer.ggml.tokens": strings(TOKENS),
    "tokenizer.ggml.token_type": array(
        5, len(TOKENS), np.array([3] * 2 + [1] * (len(TOKENS) - 2), "int32").tobytes()
    ),
    "tokenizer.ggml.merges": strings(MERGES),
    "tokenizer.ggml.bos_token_id": number("I", 0),
    "tokenizer.ggml.eos_token_id": number("I", 1),
}


@functools.cache
def weights_by_hand() -> tuple[dict[str, bytes], bytes]:
    """Where each tensor lies, as the header says it, and all of them."""
    described, data = dict[str, bytes](), b""
    for name, value in weights(np.random.default_rng(0), tied=True).items():
        described[name] = info(*value.shape[::-1], offset=len(data))
        data += value.tobytes() + bytes(-value.nbytes % 32)
    return described, data


def by_hand(
    path: Path,
    fields: dict[str, bytes | None] | None = None,
    infos: dict[str, bytes] | None = None,
    counts: tuple[int | None, int | None] = (None, None),
    version: int = 3,
) -> Path:
    """A GGUF file of which every byte can be chosen; a field that is `None` is left out."""
    chosen = {key: value for key, value in (FIELDS | (fields or {})).items() if value is not None}
    places, data = weights_by_hand()
    described = places | (infos or {})
    totals = [
        own if own is not None else len(found)
        for own, found in zip(counts, (described, chosen), strict=True)
    ]
    header = b"GGUF" + struct.pack("<IQQ", version, *totals)
    header += b"".join(string(key) + value for key, value in chosen.items())
    header += b"".join(string(name) + value for name, value in described.items())
    path.write_bytes(header + bytes(-len(header) % 32) + data)
    return path


def test_a_file_by_hand_is_whole(tmp_path):
    file = integration.GGUFFile.open(by_hand(tmp_path / "m.gguf"))
    config = integration._config(file)
    integration._check_tensors(file, config, LAYERS, untied=False)
    assert (config["num_layers"], config["vocabulary_size"]) == (LAYERS, len(TOKENS))
    for name, value in weights(np.random.default_rng(0), tied=True).items():
        assert np.array_equal(file.tensor(name, *value.shape), value)
    assert integration.load_tokenizer(by_hand(tmp_path / "m.gguf", version=2))[0].merges == MERGES


def info(*shape: int, kind: int = 0, offset: int = 0, dimensions: int | None = None) -> bytes:
    count = len(shape) if dimensions is None else dimensions
    return struct.pack(f"<I{len(shape)}QIQ", count, *shape, kind, offset)


ENDLESS = 2**63 - 1
HEAD_COUNT, EMBEDDING = "llama.attention.head_count", "token_embd.weight"
NAN = float("nan")


@pytest.mark.parametrize(
    "options",
    [
        *({"version": version} for version in (0, 1, 4, 3 << 24)),
        *({"counts": (count, None)} for count in (ENDLESS, 2**64 - 1, 2**31, LAYERS)),
        *({"counts": (None, count)} for count in (ENDLESS, 2**64 - 1, 2**31, 0, 3)),
        *(
            {"fields": {key: array(kind, count, payload)}}
            for key in ("general.tags", "tokenizer.ggml.tokens", "tokenizer.ggml.token_type")
            for kind, count, payload in [
                (8, ENDLESS, b""),
                (8, 2**31, b""),
                (4, ENDLESS, b""),
                (7, 2**61, b""),
                (9, ENDLESS, b""),
                (9, 1, struct.pack("<IQ", 9, 1) * 5000),
                (99, 1, b"x"),
            ]
        ),
        {"fields": {"general.name": struct.pack("<IQ", 8, ENDLESS)}},
        {"fields": {"general.name": struct.pack("<I", 77)}},
        *(
            {"fields": {"general.alignment": value}}
            for value in (number("I", 0), number("I", 3), number("I", 2**31), text("32"))
        ),
        *(
            {"fields": {"llama.block_count": value}}
            for value in (number("I", 2**31), number("I", 2**32 - 1), number("Q", 2**63))
        ),
        *({"fields": {"llama.block_count": number("I", count)}} for count in (0, 2, 4)),
        *(
            {"fields": {key: value}}
            for key in (
                "llama.block_count",
                "llama.embedding_length",
                "llama.feed_forward_length",
                HEAD_COUNT,
                HEAD_COUNT + "_kv",
                "llama.rope.freq_base",
                "llama.attention.layer_norm_rms_epsilon",
            )
            for value in (
                number("I", 0),
                number("i", -4),
                number("Q", 2**64 - 1),
                number("f", NAN),
                number("d", float("inf")),
                number("?", True),
                text("4"),
                strings(["4"]),
                array(4, 2, struct.pack("<II", 4, 4)),
            )
        ),
        *({"fields": {"llama.rope.freq_base": number("f", base)}} for base in (0.0, -1.0, 1e-40)),
        *(
            {"fields": {"llama.attention.layer_norm_rms_epsilon": number("f", epsilon)}}
            for epsilon in (0.0, -1e-5, 1e-45, 7.0)
        ),
        *({"fields": {HEAD_COUNT: number("I", heads)}} for heads in (3, 64, 65)),
        {"fields": {"llama.rope.scaling.type": strings(["none"])}},
        {"fields": {"llama.rope.scale_linear": number("f", 4.0)}},
        {"fields": {"llama.expert_count": array(4, 1, struct.pack("<I", 0))}},
        *({"fields": {key: None}} for key in ("llama.embedding_length", HEAD_COUNT)),
        {"fields": {"general.architecture": number("I", 1)}},
        {"fields": {"general.architecture": text(b"\xffllama")}},
        {"fields": {b"\xff".decode("latin-1"): b""}},
        *(
            {"infos": {EMBEDDING: value}}
            for value in (
                info(WIDTH),
                info(WIDTH, len(TOKENS), 1),
                info(WIDTH, 2**62),
                info(0, len(TOKENS)),
                info(WIDTH, len(TOKENS), kind=99),
                info(WIDTH, len(TOKENS), kind=2**31),
                info(WIDTH, len(TOKENS), offset=2**63),
                info(WIDTH, len(TOKENS), offset=1),
                info(WIDTH, len(TOKENS), dimensions=2**31),
                info(dimensions=0),
                info(WIDTH - 1, len(TOKENS), kind=2),
            )
        ),
        {"infos": {f"blk.0.x{i}.weight": info(WIDTH, len(TOKENS)) for i in range(20)}},
    ],
    ids=itertools.count(),
)
def test_damaged_header(tmp_path, options):
    path = by_hand(tmp_path / "damaged.gguf", **options)
    with pytest.raises(ValueError, match=r"damaged\.gguf") as caught:
        integration.load_backbone(path)
    assert len(str(caught.value)) < 600 + len(str(path))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"merges": text("merges.txt")}, "'merges.txt', where a list of texts"),
        ({"merges": array(4, 1, bytes(4))}, "where a list of texts"),
        ({"merges": strings(["t h", "q zz"])}, "merges 'q zz', of which"),
        ({"merges": strings(["th"])}, "merges 'th', of which"),
        ({"merges": strings([b"t \xff"])}, "not UTF-8"),
        ({"merges": None}, "has no 'tokenizer.ggml.merges'"),
        ({"tokens": text("a b c")}, "where a list of texts"),
        ({"tokens": strings([])}, "damaged vocabulary"),
        ({"tokens": strings([b"\xc3", *TOKENS[1:]])}, "not UTF-8"),
        ({"tokens": strings([*TOKENS[:-1], "a"])}, "damaged vocabulary"),
        ({"tokens": strings([*TOKENS[:-1], ""])}, "damaged vocabulary"),
        (
            {"tokens": strings([*TOKENS, "more"]), "token_type": None},
            rf"has {len(TOKENS) + 1} tokens and embeddings of {len(TOKENS)}",
        ),
        ({"token_type": array(5, 1, bytes(4))}, "damaged vocabulary"),
        ({"token_type": number("I", 1)}, "damaged vocabulary"),
        ({"token_type": array(6, len(TOKENS), bytes(4 * len(TOKENS)))}, "damaged vocabulary"),
        ({"token_type": text("x" * len(TOKENS))}, "damaged vocabulary"),
        *(
            ({key: value}, f"{key}.*where a whole number from 0 to {len(TOKENS) - 1}")
            for key in ("bos_token_id", "eos_token_id")
            for value in (number("I", len(TOKENS)), number("i", -1), text("1"), number("?", True))
        ),
        ({"eos_token_id": None}, "has no 'tokenizer.ggml.eos_token_id'"),
        ({"pre": strings(["smollm"])}, r"has the pre-tokenizer \['smollm'\]"),
        ({"pre": text(b"\xff")}, "not UTF-8"),
        ({"model": number("I", 1)}, "a tokenizer of the kind 1"),
    ],
)
def test_damaged_tokenizer(tmp_path, fields, message):
    named = {f"tokenizer.ggml.{key}": value for key, value in fields.items()}
    path = by_hand(tmp_path / "damaged.gguf", named)
    for load in (integration.load_tokenizer, integration.load_embedder):
        with pytest.raises(ValueError, match=r"damaged\.gguf.*" + message):
            load(path)


def test_what_nobody_asks_for_does_no_harm(tmp_path):
    fields = {
        "general.description": text(b"caf\xe9"),
        "general.tags": array(7, 3, b"\x00\x01\x02"),
        "general.size": number("Q", 2**64 - 1),
    }
    integration.load_tokenizer(by_hand(tmp_path / "m.gguf", fields))


def test_any_damaged_byte_is_a_value_error(tmp_path):
    data = by_hand(tmp_path / "m.gguf").read_bytes()
    end = data.index(b"blk.2.ffn_down.weight")
    path, rng = tmp_path / "damaged.gguf", np.random.default_rng(0)
    refused = []
    for place in rng.integers(4, end, size=100):
        damaged = bytearray(data)
        damaged[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(damaged)
        try:
            integration.load_tokenizer(path)
            file = integration.GGUFFile.open(path)
            config = integration._config(file)
            integration._check_tensors(file, config, LAYERS, untied=False)
        except ValueError as error:
            refused.append(str(error))
    assert len(refused) > 50
    assert all("damaged.gguf" in message for message in refused)


def test_a_folder_and_what_is_no_path(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"There is no file .*: it is a folder"):
        integration.load_backbone(tmp_path)
    with pytest.raises(TypeError, match="`path` should be a path"):
        integration.load_backbone(3)
    with pytest.raises(TypeError, match="`sequence_length` should be an integer"):
        integration.load_embedder(by_hand(tmp_path / "m.gguf"), sequence_length="256")


def test_home_is_expanded(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    by_hand(tmp_path / "m.gguf")
    assert integration.load_tokenizer("~/m.gguf")[0].merges == MERGES
