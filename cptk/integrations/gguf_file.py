"""An open GGUF file of the Llama architecture, with errors that say what to do."""

from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

_REQUIRED = object()


def library() -> Any:
    """The `gguf` library, checked at the door."""
    try:
        import gguf
    except ImportError as error:
        raise ImportError(
            "Reading a GGUF file needs the gguf library. Run `pip install gguf`, or install cptk "
            'from its checkout with the extra: `pip install ".[gguf]"`.'
        ) from error
    return gguf


@dataclass(frozen=True)
class File:
    """Metadata and tensors of one file, mapped into memory: what is not asked for is not read."""

    path: str
    reader: Any
    tensors: dict[str, Any]

    @classmethod
    def open(cls, path: str | PathLike[str]) -> "File":
        """Open and check a file."""
        gguf = library()
        file = Path(path)
        if not file.is_file():
            raise FileNotFoundError(f"There is no file {str(file)!r}. Pass that of a GGUF file.")
        with file.open("rb") as stream:
            start = stream.read(4)
        if start != b"GGUF":
            raise ValueError(
                f"{str(file)!r} is not a GGUF file: it starts with {start!r} and not with b'GGUF'. "
                "Pass a .gguf file; a Hugging Face folder goes to `from_preset`."
            )
        try:
            reader = gguf.GGUFReader(file)
        except (ValueError, IndexError, KeyError, TypeError, OverflowError) as error:
            raise ValueError(
                f"{str(file)!r} is damaged or cut short ({file.stat().st_size:,} bytes; the reader "
                f"says {error}). Download it again."
            ) from error
        opened = cls(str(file), reader, {tensor.name: tensor for tensor in reader.tensors})
        opened.check()
        return opened

    def check(self) -> None:
        """Refuse what is not a Llama of this machine's byte order."""
        architecture = self.get("general.architecture")
        if architecture != "llama":
            self.fail(
                f"holds the architecture {architecture!r}",
                "cptk reads 'llama' (Llama 2 and 3, SmolLM2). Load the model's Hugging Face folder "
                "by `DecoderTextEmbedder.from_preset(folder)` instead",
            )
        if self.reader.byte_order == "S":
            self.fail("has the byte order of another machine", "Convert it on this one")

    def fail(self, what: str, remedy: str) -> NoReturn:
        """Raise `ValueError`: what the file has, and what to do."""
        raise ValueError(f"{self.path!r} {what}. {remedy}.")

    def get(self, key: str, default: Any = _REQUIRED) -> Any:
        """A value of the metadata; without a default it must be there."""
        field = self.reader.get_field(key)
        if field is not None:
            return field.contents()
        if default is _REQUIRED:
            self.fail(f"has no {key!r}", "Convert the model again with a current llama.cpp")
        return default

    def tensor(self, name: str, *shape: int) -> np.ndarray:
        """A tensor of the file as float32, checked to have the given shape."""
        if name not in self.tensors:
            self.fail(f"has no tensor {name!r}", "It is incomplete: download or convert it again")
        tensor = self.tensors[name]
        found = tuple(int(size) for size in reversed(tensor.shape))
        if found != shape:
            self.fail(f"has {name!r} of shape {found} and not {shape}", "Convert it again")
        try:
            values = library().quants.dequantize(tensor.data, tensor.tensor_type)
        except NotImplementedError:
            self.fail(
                f"has {name!r} in the quantisation {tensor.tensor_type.name}, which is not known",
                "Use a file in F16, Q8_0, Q4_0 or Q4_1",
            )
        values = np.asarray(values, dtype=np.float32).reshape(shape)
        if not np.isfinite(values).all():
            self.fail(f"has {name!r} with values that are not finite", "Download it again")
        return values
