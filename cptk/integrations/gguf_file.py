"""An open GGUF file of the Llama architecture, with errors that say what to do.

The header is read here and not by the `gguf` library, which believes every count that a file states
and would build arrays of 2⁶³ items: here a count is held against the bytes that are left.
"""

import math
import struct
import sys
from dataclasses import dataclass
from os import PathLike
from types import ModuleType
from typing import Any, Literal, NamedTuple, NoReturn, TypeAlias

import numpy as np

from cptk import checks, optional
from cptk.checks import is_integer, is_number, shown

Quantization: TypeAlias = Any
"""A `gguf.GGMLQuantizationType`."""

_REQUIRED = object()
_STRING, _ARRAY = 8, 9  # Kinds of a value; the others are numbers, as `struct` and NumPy name them.
_NUMBERS = dict(zip((0, 1, 2, 3, 4, 5, 6, 7, 10, 11, 12), "BbHhIif?Qqd", strict=True))


def library() -> ModuleType:
    """The `gguf` library, checked at the door."""
    return optional.load("gguf", "Reading a GGUF file", "gguf", "gguf")


@dataclass(frozen=True)
class Tensor:
    """Where a tensor lies: its shape, rows first, its quantisation, and its bytes in the file."""

    shape: tuple[int, ...]
    kind: Quantization
    start: int
    size: int


@dataclass(frozen=True)
class GGUFFile:
    """Metadata and tensors of one file, mapped into memory: what is not asked for is not read."""

    path: str
    fields: dict[str, Any]
    tensors: dict[str, Tensor]
    data: np.ndarray

    @classmethod
    def open(cls, path: str | PathLike[str]) -> "GGUFFile":
        """Open and check a file."""
        gguf = library()
        file = checks.path(path, "path")
        if not file.is_file():
            kind = ": it is a folder" if file.is_dir() else ""
            raise FileNotFoundError(
                f"There is no file {str(file)!r}{kind}. Pass that of a GGUF file."
            )
        with file.open("rb") as stream:
            start, version = stream.read(4), stream.read(4)
        if start != b"GGUF":
            raise ValueError(
                f"{str(file)!r} is not a GGUF file: it starts with {start!r} and not with b'GGUF'. "
                "Pass a .gguf file; a Hugging Face folder goes to `from_preset`."
            )
        if version and int.from_bytes(version, sys.byteorder) & 0xFFFF == 0:
            raise ValueError(
                f"{str(file)!r} has the byte order of another machine. Convert it on this one."
            )
        header = _Header(np.memmap(file, dtype=np.uint8, mode="r"))
        try:
            opened = cls(str(file), *header.read(gguf), header.data)
        except _Damaged as error:
            raise ValueError(
                f"{str(file)!r} is damaged or cut short ({len(header.data):,} bytes; {error}). "
                "Download it again."
            ) from None
        architecture = opened.get("general.architecture")
        if architecture != "llama":
            opened.fail(
                f"holds the architecture {shown(architecture)}",
                "cptk reads 'llama' (Llama 2 and 3, SmolLM2). Load the model's Hugging Face folder "
                "by `TextEmbedder.from_preset(folder)` instead",
            )
        return opened

    def fail(self, what: str, remedy: str) -> NoReturn:
        """Raise `ValueError`: what the file has, and what to do."""
        raise ValueError(f"{self.path!r} {what}. {remedy}.")

    def get(self, key: str, default: object = _REQUIRED) -> object:
        """A value of the metadata, or the default; without a default it must be there.

        A list of numbers comes as an array. Texts are decoded here and not when the file is opened:
        a damaged text that nobody asks for does no harm.
        """
        if key not in self.fields:
            if default is _REQUIRED:
                self.fail(f"has no {key!r}", "Convert the model again with a current llama.cpp")
            return default
        value = self.fields[key]
        try:
            if isinstance(value, bytes):
                return value.decode()
            return [item.decode() for item in value] if isinstance(value, list) else value
        except UnicodeDecodeError as error:
            self.fail(
                f"has a {key!r} that is not UTF-8: {shown(error.object)}",
                "Download or convert it again",
            )

    def integer(self, key: str, least: int, most: int, default: object = _REQUIRED) -> int:
        """A whole number of the metadata within its limits."""
        value = self.get(key, default)
        if not is_integer(value) or not least <= value <= most:
            self.fail(
                f"has {key!r} {shown(value)}, where a whole number from {least:,} to {most:,} was "
                "expected",
                "Download or convert it again",
            )
        return value

    def number(self, key: str, low: float, high: float, default: object = _REQUIRED) -> float:
        """A number of the metadata within its limits; NaN is not."""
        value = self.get(key, default)
        if not is_number(value) or not low <= value <= high:
            self.fail(
                f"has {key!r} {shown(value)}, where a number from {low:g} to {high:g} was expected",
                "Download or convert it again",
            )
        return float(value)

    def texts(self, key: str) -> list[str]:
        """A list of texts of the metadata."""
        value = self.get(key)
        if not isinstance(value, list):
            self.fail(
                f"has {key!r} {shown(value)}, where a list of texts was expected",
                "Download or convert it again",
            )
        return value

    def require(self, name: str, *shape: int) -> Tensor:
        """A tensor that must be there and have a shape, not read yet."""
        if name not in self.tensors:
            self.fail(f"has no tensor {name!r}", "It is incomplete: download or convert it again")
        tensor = self.tensors[name]
        if tensor.shape != shape:
            self.fail(f"has {name!r} of shape {tensor.shape} and not {shape}", "Convert it again")
        return tensor

    def tensor(self, name: str, *shape: int) -> np.ndarray:
        """A tensor of the file as float32, checked to have the given shape."""
        tensor = self.require(name, *shape)
        rows = self.data[tensor.start : tensor.start + tensor.size].reshape(*shape[:-1], -1)
        try:
            with np.errstate(all="ignore"):  # A value that overflows is refused below.
                values = library().quants.dequantize(rows, tensor.kind)
        except NotImplementedError:
            self.fail(
                f"has {name!r} in the quantisation {tensor.kind.name}, which is not known",
                "Use a file in F16, Q8_0, Q4_0 or Q4_1",
            )
        values = np.asarray(values, dtype=np.float32).reshape(shape)
        if not np.isfinite(values).all():
            self.fail(f"has {name!r} with values that are not finite", "Download it again")
        return values


class _Damaged(Exception):
    """What is wrong with a header."""


class _Place(NamedTuple):
    """What a header says of a tensor; the offset counts from the end of the header."""

    name: str
    shape: tuple[int, ...]
    kind: Quantization
    offset: int
    size: int


class _Header:
    """Reads a header from its start on, and never past the end of the file."""

    def __init__(self, data: np.ndarray) -> None:
        self.data, self.at = data, 4
        self.view: memoryview = data.data

    def read(self, gguf: ModuleType) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """The metadata, whose texts are still bytes, and the tensors."""
        version = self.integer("I")
        if version not in (2, 3):
            raise _Damaged(f"version {version}, and 2 and 3 are known")
        tensors = self.count("tensors", of_at_least=24)
        fields: dict[str, Any] = {}
        for _ in range(self.count("values", of_at_least=13)):
            key = self.name()
            if key in fields:
                raise _Damaged(f"two values of {key!r}")
            fields[key] = self.value(key)
        places = [self.place(gguf) for _ in range(tensors)]
        alignment = fields.get("general.alignment", 32)
        if type(alignment) is not int or alignment < 1 or alignment & (alignment - 1):
            raise _Damaged(f"an alignment of {shown(alignment)}")
        start = -(-self.at // alignment) * alignment
        found: dict[str, Tensor] = {}
        for name, shape, kind, offset, size in places:
            if name in found:
                raise _Damaged(f"two tensors {name!r}")
            if offset % alignment or start + offset + size > len(self.data):
                raise _Damaged(f"the tensor {name!r} does not lie in it")
            found[name] = Tensor(shape, kind, start + offset, size)
        if sum(tensor.size for tensor in found.values()) > len(self.data):
            raise _Damaged("tensors lie upon one another")
        return fields, found

    def place(self, gguf: ModuleType) -> _Place:
        """What the header says of the next tensor."""
        name, dimensions = self.name(), self.integer("I")
        if not 1 <= dimensions <= 4:
            raise _Damaged(f"the tensor {name!r} has {dimensions} dimensions")
        columns, *rows = (self.integer("Q") for _ in range(dimensions))
        number, offset = self.integer("I"), self.integer("Q")
        try:
            kind = gguf.GGMLQuantizationType(number)
            block, block_size = gguf.GGML_QUANT_SIZES[kind]
        except (ValueError, KeyError):
            raise _Damaged(f"the tensor {name!r} is in the unknown quantisation {number}") from None
        size = math.prod(rows) * columns // block * block_size
        if not size or columns % block:
            raise _Damaged(f"the tensor {name!r} has the shape {shown([*rows[::-1], columns])}")
        return _Place(name, (*rows[::-1], columns), kind, offset, size)

    def value(self, key: str) -> object:
        """The next value: bytes, a number, a list of bytes or an array of numbers."""
        kind = self.integer("I")
        if kind == _STRING:
            return self.raw()
        if kind != _ARRAY:
            return self.number(self.number_kind(key, kind))
        kind = self.integer("I")
        if kind == _ARRAY:
            raise _Damaged(f"{key!r} is a list of lists, and no Llama has one")
        if kind == _STRING:
            return [self.raw() for _ in range(self.count(key, of_at_least=8))]
        dtype = np.dtype(self.number_kind(key, kind))
        count = self.count(key, of_at_least=dtype.itemsize)
        return np.frombuffer(self.take(count * dtype.itemsize), dtype)

    @staticmethod
    def number_kind(key: str, kind: int) -> str:
        if kind not in _NUMBERS:
            raise _Damaged(f"{key!r} is of the unknown kind {kind}")
        return _NUMBERS[kind]

    def count(self, what: str, of_at_least: int) -> int:
        """A count of things that take `of_at_least` bytes each, and must fit into the rest."""
        count = self.integer("Q")
        if count * of_at_least > len(self.data) - self.at:
            raise _Damaged(f"a count of {count:,} for {what!r}")
        return count

    def name(self) -> str:
        raw = self.raw()
        try:
            return raw.decode()
        except UnicodeDecodeError:
            raise _Damaged(f"the name {shown(raw)}, which is not UTF-8") from None

    def raw(self) -> bytes:
        return bytes(self.take(self.integer("Q")))

    def integer(self, code: Literal["I", "Q"]) -> int:
        """The next unsigned integer: of 4 bytes ("I") or of 8 ("Q")."""
        return int(self.number(code))

    def number(self, code: str) -> float:
        """The next number, of a kind of `struct`'s."""
        found: float = struct.unpack("=" + code, self.take(struct.calcsize("=" + code)))[0]
        return found

    def take(self, size: int) -> memoryview:
        if size > len(self.data) - self.at:
            raise _Damaged(f"{size:,} bytes are expected at {self.at:,}")
        self.at += size
        return self.view[self.at - size : self.at]
