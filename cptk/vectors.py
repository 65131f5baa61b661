"""Vectors on disk, as `encode(..., output="vectors.npy")` writes them, and what they are of.

| file | what |
|---|---|
| `vectors.npy` | the vectors or their codes, an array that NumPy opens |
| `vectors.npy.json` | whose they are: embedder, role, texts, type of numbers, calibration |
| `vectors.npy.part` | what is there before the last vector is |
"""

from __future__ import annotations

from pathlib import Path as FilePath
from typing import Any, NamedTuple, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cptk import checks, files
from cptk.quantization import DTYPES, Calibration, VectorDType, code_shape, dequantize
from cptk.types import Config, Path, Vectors

__all__ = ["StoredVectors"]

FORMAT = "cptk vectors"
VERSION = 1
HEADER = 128
"""Bytes before the first vector: of one size, however many vectors there will be."""


class Form(NamedTuple):
    """What a vector is kept in."""

    dtype: VectorDType
    dim: int

    @property
    def of_type(self) -> np.dtype[Any]:
        """The NumPy type of the codes."""
        return code_shape(self.dtype, self.dim)[0]

    @property
    def width(self) -> int:
        """How many codes a vector has."""
        return code_shape(self.dtype, self.dim)[1]

    @property
    def row(self) -> int:
        """Bytes of a vector."""
        return self.width * self.of_type.itemsize

    def header(self, rows: int) -> bytes:
        """The first bytes of an .npy file of so many vectors."""
        descr = self.of_type.newbyteorder("<").str
        about = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': ({rows}, {self.width}), }}"
        room = HEADER - 10
        return b"\x93NUMPY\x01\x00" + room.to_bytes(2, "little") + f"{about:<{room - 1}}\n".encode()


class StoredVectors:
    """The vectors of a file that `encode(..., output=…)` has written to its end.

    Args:
        path: The `.npy` file. Beside it lies `path` + `.json`.

    Attributes:
        codes: `(n, dim)` float32, float16 or int8, or `(n, ⌈dim / 8⌉)` uint8 of bits: a
            read-only memory map.
        dtype: `"float32"`, `"float16"`, `"int8"` or `"binary"`.
        dim: Numbers of a vector.
        role: The role that the texts were embedded in; None where the embedder has none.
        fingerprint: Of the embedder (`cptk.fingerprint.fingerprint`).
        calibration: What int8 stands for; None of another dtype.

    Raises:
        FileNotFoundError: One of the two files is missing, or the file is not complete yet.
        ValueError: One is damaged or cut short, or of another version.

    Example:

    ```pycon
    >>> import cptk
    >>> texts = ["how do I open a file?", "sort", "add"]
    >>> codes = embedder.encode_text(texts, output="few.npy", dtype="int8")
    >>> stored = cptk.vectors.StoredVectors("few.npy")
    >>> stored
    StoredVectors('few.npy', 3 vectors of 16 numbers in int8)
    >>> stored.decode([2]).shape
    (1, 16)

    ```
    """

    def __init__(self, path: Path) -> None:
        self.path = checks.path(path, "path")
        about = read_about(self.path)
        if not self.path.is_file():
            begun = part_of(self.path).exists()
            raise FileNotFoundError(
                f"There are no vectors at {str(self.path)!r}"
                + (": they were not written to their end. Call `encode` again." if begun else ".")
            )
        self.dtype, self.dim = about.form
        self.role: str | None = about.content["role"]
        self.fingerprint: str | None = about.content["fingerprint"]
        self.calibration = about.calibration
        self.codes = mapped(self.path, about.form, about.rows)

    def __len__(self) -> int:
        return len(self.codes)

    def decode(self, rows: ArrayLike | None = None) -> Vectors:
        """Some vectors as float32 `(m, dim)`, or all of them.

        Args:
            rows: (m,) their numbers, from 0.

        Raises:
            IndexError: No such vector.
        """
        codes = self.codes if rows is None else self.codes[np.asarray(rows)]
        return dequantize(codes, self.dtype, self.calibration, self.dim)

    def __repr__(self) -> str:
        return (
            f"StoredVectors({str(self.path)!r}, {len(self):,} vectors of {self.dim} numbers in "
            f"{self.dtype})"
        )


class About(NamedTuple):
    """What stands beside vectors, checked."""

    content: Config
    form: Form
    rows: int
    calibration: Calibration | None


def about_of(path: FilePath) -> FilePath:
    """Where it says whose vectors those of a file are."""
    return path.with_name(path.name + ".json")


def part_of(path: FilePath) -> FilePath:
    """Where vectors are written until the last one is."""
    return path.with_name(path.name + ".part")


def read_about(path: FilePath) -> About:
    """What stands beside the vectors at `path`.

    Raises:
        FileNotFoundError: Nothing.
        ValueError: It is damaged, or of another version.
    """
    place = about_of(path)
    content = files.read_json(place, "What says whose the vectors are,")
    again = "Delete both and encode again."
    try:
        known = content["format"], content["version"]
        if known == (FORMAT, VERSION):
            dtype = cast(VectorDType, checks.choice("dtype", content["dtype"], DTYPES))
            form = Form(dtype, checks.integer("dim", content["dim"], 1))
            rows = checks.integer("rows", content["rows"], 0)
            for name in ("fingerprint", "role", "texts"):
                content[name]
            given = content["calibration"]
            calibration = None if given is None else Calibration.from_json(given)
            return About(content, form, rows, calibration)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{str(place)!r} says nothing of vectors ({checks.shown(str(error))} is missing or "
            f"wrong). {again}"
        ) from None
    raise ValueError(
        f"{str(place)!r} is of format {checks.shown(known)}, and this cptk reads "
        f"{(FORMAT, VERSION)}. {again}"
    )


def mapped(path: FilePath, form: Form, rows: int) -> NDArray[Any]:
    """`(rows, width)` codes of a complete file, read by memory map.

    Raises:
        ValueError: The file is cut short, or of another form.
    """
    size, expected = path.stat().st_size, HEADER + rows * form.row
    with path.open("rb") as file:
        right = file.read(HEADER) == form.header(rows)
    if size != expected or not right:
        fault = "cut short or grown" if size != expected else "of another form"
        raise ValueError(
            f"{str(path)!r} is {fault}: {size:,} bytes, and {expected:,} of {rows:,} vectors of "
            f"{form.dim} numbers in {form.dtype} were written. Delete it and "
            f"{about_of(path).name!r}, and encode again."
        )
    if not rows:
        return np.empty((0, form.width), form.of_type)
    shape = (rows, form.width)
    of_type = np.dtype(form.of_type.newbyteorder("<").str)  # this machine's own where they agree
    codes: NDArray[Any] = np.memmap(path, of_type, mode="r", offset=HEADER, shape=shape)
    return codes
