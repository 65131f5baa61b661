"""Taking the wanted files out of a zip or tar archive without leaving the folder."""

from __future__ import annotations

import fnmatch
import lzma
import os
import secrets
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO

Member = tuple[str, Callable[[], IO[bytes]]]


def unpack(archive: Path, folder: Path, members: Sequence[str]) -> None:
    """Writes the files of `archive` that match `members` below `folder`, all of them or none.

    Every path in the archive is judged, wanted or not: one that is absolute, holds `..`, or is a
    link or a device condemns the archive. Files are written to a temporary folder beside `folder`
    and renamed; if another process was first, its folder stands.

    Args:
        archive: A `.zip` or `.tar` file, compressed or not.
        folder: Where the files come to lie, with their folders.
        members: Patterns (`fnmatch`, case aside) for paths in the archive.

    Raises:
        ValueError: if the archive is broken, holds a forbidden path, or nothing that matches.
    """
    temporary = folder.with_name(f".{folder.name}-{os.getpid()}-{secrets.token_hex(4)}")
    try:
        with _opened(archive) as entries:
            wanted = [
                (path, opener)
                for path, opener in [(_inside(archive, name), opener) for name, opener in entries]
                if any(fnmatch.fnmatch(str(path).lower(), pattern.lower()) for pattern in members)
                and path.parts[0] != "__MACOSX"
            ]
            if not wanted:
                raise ValueError(f"{archive} holds no file that matches {' or '.join(members)}.")
            for path, opener in wanted:
                place = temporary / path
                place.parent.mkdir(parents=True, exist_ok=True)
                with opener() as source, place.open("wb") as target:
                    shutil.copyfileobj(source, target)
        try:
            os.rename(temporary, folder)
        except OSError:
            if not folder.is_dir():
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _inside(archive: Path, name: str) -> PurePosixPath:
    """The path of a member, refused if it could lead out of the folder."""
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or ":" in name or not path.parts:
        raise ValueError(f"{archive} holds the path {name!r}, which leaves its folder: refused.")
    return path


@contextmanager
def _opened(archive: Path) -> Iterator[list[Member]]:
    """The regular files of a zip or tar archive: names and how to open them."""
    broken = (zipfile.BadZipFile, tarfile.TarError, EOFError, zlib.error, lzma.LZMAError)
    try:
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as zipped:
                yield [_zip_member(archive, zipped, info) for info in _zip_files(zipped)]
        else:
            with tarfile.open(archive) as tarred:
                yield [_tar_member(archive, tarred, info) for info in _tar_files(tarred)]
    except broken as error:
        raise ValueError(
            f"{archive} cannot be unpacked ({error}): broken off, or no archive. Delete it and "
            f"load the data set again."
        ) from error


def _zip_files(zipped: zipfile.ZipFile) -> list[zipfile.ZipInfo]:
    return [info for info in zipped.infolist() if not info.is_dir()]


def _tar_files(tarred: tarfile.TarFile) -> list[tarfile.TarInfo]:
    return [info for info in tarred.getmembers() if not info.isdir()]


def _zip_member(archive: Path, zipped: zipfile.ZipFile, info: zipfile.ZipInfo) -> Member:
    if stat.S_ISLNK(info.external_attr >> 16):
        raise ValueError(f"{archive} holds the link {info.filename!r}: refused.")
    return info.filename, lambda: zipped.open(info)


def _tar_member(archive: Path, tarred: tarfile.TarFile, info: tarfile.TarInfo) -> Member:
    if not info.isfile():
        raise ValueError(f"{archive} holds {info.name!r}, a link or device: refused.")

    def opened() -> IO[bytes]:
        file = tarred.extractfile(info)
        if file is None:
            raise ValueError(f"{archive}: {info.name!r} is not a file.")
        return file

    return info.name, opened
