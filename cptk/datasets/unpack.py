"""Taking the wanted files out of a zip or tar archive without leaving the folder."""

from __future__ import annotations

import bz2
import errno
import fnmatch
import gzip
import hashlib
import io
import lzma
import os
import secrets
import shutil
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path, PurePosixPath
from typing import IO

from cptk.checks import shown
from cptk.datasets.files import most_unpacked

MOST_MEMBERS = 100_000
# Bytes that `tarfile` may ask for at once: it reads a long name whole, whatever its length.
LONGEST_READ = 1 << 20
BLOCK = 1 << 18

Member = tuple[str, Callable[[], IO[bytes]]]

_BROKEN = (
    zipfile.BadZipFile,
    tarfile.TarError,
    EOFError,
    zlib.error,
    lzma.LZMAError,
    gzip.BadGzipFile,
    struct.error,
    RuntimeError,  # an encrypted member
    NotImplementedError,  # a method of packing that Python does not know
    IndexError,
    OverflowError,
    MemoryError,  # a dictionary of 4 GiB, in the header of an .xz file
)
_UNWRITABLE = (errno.EEXIST, errno.EISDIR, errno.ENOTDIR, errno.ENAMETOOLONG, errno.EINVAL)


def unpack(archive: Path, folder: Path, members: Sequence[str]) -> dict[str, str]:
    """Writes the files of `archive` that match `members` below `folder`, all of them or none.

    Every path in the archive is judged, wanted or not: one that is absolute, holds `..`, or is a
    link or a device condemns the archive, and so does a size out of all proportion. Files are
    written to a temporary folder beside `folder` and renamed; if another process was first, its
    folder stands.

    Args:
        archive: A `.zip` or `.tar` file, compressed or not.
        folder: Where the files come to lie, with their folders.
        members: Patterns (`fnmatch`, case aside) for paths in the archive.

    Returns:
        The SHA-256 of each file, by its path below `folder`.

    Raises:
        ValueError: if the archive is broken, encrypted or too large, holds a forbidden path or one
            that cannot be written, or nothing that matches.
    """
    temporary = folder.with_name(f".{folder.name}-{os.getpid()}-{secrets.token_hex(4)}")
    sums: dict[str, str] = {}
    try:
        with _opened(archive) as entries:
            for name, opener in entries:
                path = _inside(archive, name)
                if _is_wanted(path, members):
                    with opener() as source:
                        sums[path.as_posix()] = _write(archive, source, temporary, path)
        if not sums:
            raise ValueError(f"{archive} holds no file that matches {' or '.join(members)}.")
        try:
            os.rename(temporary, folder)
        except OSError:
            if not folder.is_dir():
                raise
        return sums
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _is_wanted(path: PurePosixPath, members: Sequence[str]) -> bool:
    name = str(path).lower()
    return path.parts[0] != "__MACOSX" and any(
        fnmatch.fnmatch(name, pattern.lower()) for pattern in members
    )


def _write(archive: Path, source: IO[bytes], folder: Path, path: PurePosixPath) -> str:
    """Writes one member; its SHA-256."""
    place, digest = folder / path, hashlib.sha256()
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        target = place.open("wb")
    except OSError as error:
        if error.errno not in _UNWRITABLE:
            raise
        raise ValueError(
            f"{archive} holds {shown(str(path))}, which cannot be written ({error.strerror}): its "
            "name is too long, or a file and a folder bear one name. Refused."
        ) from None
    with target:
        while block := source.read(BLOCK):
            digest.update(block)
            target.write(block)
    return digest.hexdigest()


def _inside(archive: Path, name: str) -> PurePosixPath:
    """The path of a member, refused if it could lead out of the folder."""
    path = PurePosixPath(name.replace("\\", "/"))
    leaves = path.is_absolute() or ".." in path.parts or not path.parts
    if leaves or ":" in name or min(name) < " ":
        raise ValueError(
            f"{archive} holds the path {shown(name)}, which leaves its folder: refused."
        )
    return path


@contextmanager
def _opened(archive: Path) -> Iterator[Iterator[Member]]:
    """The regular files of a zip or tar archive, in order: names and how to open them."""
    limit = most_unpacked(archive)
    try:
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as zipped:
                yield _zip_members(archive, zipped, limit)
        else:
            with closing(_decompressed(archive)) as raw:
                yield _tar_members(archive, raw, limit)
    except _BROKEN as error:
        raise _cannot_unpack(archive, error) from error
    except (OSError, ValueError) as error:
        # bzip2's errors have no number; EINVAL means that a header led to before the start.
        number = getattr(error, "errno", None)
        if number not in (None, errno.EINVAL) or str(error).startswith(str(archive)):
            raise
        raise _cannot_unpack(archive, error) from error


def _cannot_unpack(archive: Path, error: Exception) -> ValueError:
    return ValueError(
        f"{archive} cannot be unpacked ({shown(str(error))}): broken off, encrypted, or no archive "
        "of a known kind. Delete it and load the data set again."
    )


def _too_large(archive: Path, limit: int) -> ValueError:
    return ValueError(
        f"{archive} cannot be unpacked: {archive.stat().st_size:,} bytes would become more than "
        f"{limit:,}, which no text does. Refused."
    )


def _zip_members(archive: Path, zipped: zipfile.ZipFile, limit: int) -> Iterator[Member]:
    infos = zipped.infolist()
    if sum(info.file_size for info in infos) > limit or len(infos) > MOST_MEMBERS:
        raise _too_large(archive, limit)
    for info in infos:
        kind = stat.S_IFMT(info.external_attr >> 16)
        if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
            what = "link" if kind == stat.S_IFLNK else "device"
            raise ValueError(f"{archive} holds the {what} {shown(info.filename)}: refused.")
        if not info.is_dir():
            yield info.filename, lambda info=info: zipped.open(info)  # type: ignore[misc]


def _tar_members(archive: Path, raw: IO[bytes], limit: int) -> Iterator[Member]:
    stream = _Bounded(archive, raw, limit)
    with tarfile.open(fileobj=stream, mode="r:") as tarred:
        for count, info in enumerate(tarred):
            if count > MOST_MEMBERS or info.size < 0:
                raise _too_large(archive, limit)
            if info.isdir():
                continue
            if not info.isfile() or info.issparse():
                what = "a sparse file" if info.issparse() else "a link or device"
                raise ValueError(f"{archive} holds {shown(info.name)}, {what}: refused.")
            yield info.name, lambda info=info: tarred.extractfile(info)  # type: ignore[misc]
        # `tarfile` takes a damaged header for the end and says nothing.
        stream.seek(tarred.offset)
        if stream.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
            raise tarfile.ReadError("a damaged header, or no end")
        while stream.read(BLOCK):  # up to the end, where gzip checks its checksum
            pass


def _decompressed(archive: Path) -> IO[bytes]:
    with archive.open("rb") as file:
        start = file.read(6)
    openers: dict[bytes, Callable[..., IO[bytes]]] = {
        b"\x1f\x8b": gzip.open,  # type: ignore[dict-item]
        b"BZh": bz2.open,
        b"\xfd7zXZ\x00": lzma.open,
    }
    for magic, opener in openers.items():
        if start.startswith(magic):
            return opener(archive, "rb")
    return archive.open("rb")


class _Bounded(io.RawIOBase):
    """A stream that ends in an error where it is too long, or asked for too much at once."""

    def __init__(self, archive: Path, raw: IO[bytes], limit: int) -> None:
        self.archive, self.raw, self.limit = archive, raw, limit

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= LONGEST_READ or self.raw.tell() + size > self.limit + LONGEST_READ:
            raise _too_large(self.archive, self.limit)
        return self.raw.read(size)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        if offset > self.limit:
            raise _too_large(self.archive, self.limit)
        return self.raw.seek(offset, whence)

    def tell(self) -> int:
        return self.raw.tell()
