"""Packed files as streams, of which no more is ever unpacked than is asked for."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import tarfile
import zlib
from pathlib import Path
from typing import IO, Any, Final, cast

import pyarrow as pa

DAMAGED: Final = (OSError, EOFError, zlib.error, lzma.LZMAError, tarfile.TarError)
"""What libraries raise where a packed file is cut short or was changed."""
LARGEST_RATIO = 200
FREE = 64 << 20
"""An archive may unpack to so many times its size, and so many bytes on top. Texts are packed to a
tenth; a bomb unpacks to a thousand times its size and more. Ours."""
_MAGIC: Final = {
    b"\x1f\x8b": "gz",
    b"BZh": "bz2",
    b"\xfd7zXZ\0": "xz",
    b"\x28\xb5\x2f\xfd": "zst",
}


class TooLarge(ValueError):
    """An archive that unpacks to more than any honest one does."""


def unpacked(file: IO[bytes]) -> IO[bytes]:
    """What a file of one of these formats unpacks to, by its first bytes: gzip, bzip2, xz, zstd.

    Any other file is given back as it is. The file should be seekable.
    """
    start = file.tell()
    head = file.read(8)
    file.seek(start)
    kind = next((name for magic, name in _MAGIC.items() if head.startswith(magic)), None)
    if kind == "gz":
        return cast(IO[bytes], gzip.GzipFile(fileobj=file))
    if kind == "bz2":
        return bz2.BZ2File(file)
    if kind == "xz":
        return lzma.LZMAFile(file)
    if kind == "zst":
        stream: Any = pa.CompressedInputStream(pa.PythonFile(file, "r"), "zstd")
        return io.BufferedReader(stream, 1 << 17)
    return file


def begins_with(path: Path, head: bytes) -> bool:
    """Whether a file begins so, or what it unpacks to; a damaged one does not."""
    with path.open("rb") as file:
        try:
            return unpacked(file).read(len(head)) == head
        except DAMAGED:
            return False


class Section(io.RawIOBase):
    """A part of a file, as a file."""

    def __init__(self, file: IO[bytes], start: int, size: int) -> None:
        self._file, self._start, self._size, self._place = file, start, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._place

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: self._size}[whence]
        self._place = max(base + offset, 0)
        return self._place

    def readinto(self, buffer: Any) -> int:
        self._file.seek(self._start + self._place)
        size = max(min(len(buffer), self._size - self._place), 0)
        data = self._file.read(size)
        if len(data) < size:
            raise EOFError("the file ends early")
        buffer[: len(data)] = data
        self._place += len(data)
        return len(data)


class Forward:
    """A stream as `tarfile` reads it: it goes forward, or one byte back, and holds one byte.

    Args:
        stream: Unpacked bytes.
        most: So many bytes are taken at most.
        piece: No more is read at once: what asks for more is a header that lies.
    """

    def __init__(self, stream: IO[bytes], most: int, piece: int) -> None:
        self._stream, self._most, self._piece = stream, most, piece
        self._place = 0
        self._last = b""
        self._back = False

    def tell(self) -> int:
        """How many bytes were passed."""
        return self._place - self._back

    def seek(self, place: int) -> int:
        """Go to a place that was not passed yet, or to the byte before."""
        if place == self._place - 1 and self._last:
            self._back = True
        elif place < self._place:
            raise tarfile.ReadError("members overlap")
        else:
            self._back = False
            while self._place < place:
                if not self._take(min(place - self._place, 1 << 16)):
                    break
        return self.tell()

    def read(self, size: int = -1) -> bytes:
        """The next bytes; fewer only where the stream ends."""
        if not 0 <= size <= self._piece:
            raise tarfile.ReadError("a header asks for more than any has")
        found = bytearray()
        if self._back and size:
            self._back = False
            found += self._last
        while len(found) < size:
            data = self._take(size - len(found))
            if not data:
                break
            found += data
        return bytes(found)

    def _take(self, size: int) -> bytes:
        data = self._stream.read(size)
        self._place += len(data)
        if self._place > self._most:
            raise TooLarge
        self._last = data[-1:] or self._last
        return data
