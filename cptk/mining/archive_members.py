"""What lies in zip and tar files and in Debian's packages, member by member."""

from __future__ import annotations

import io
import stat
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import IO, NamedTuple, cast

from cptk.mining.documents import LeftOut
from cptk.mining.streams import DAMAGED, Forward, Section, TooLarge, unpacked


class Member(NamedTuple):
    """A file in an archive.

    Attributes:
        path: As it stands there, which is not to be trusted.
        is_link: Whether it is no regular file: a link, a device.
        read: Its bytes, not many more than the limit; `LeftOut` where they cannot be read. To be
            called before the next member is asked for.
    """

    path: str
    is_link: bool
    read: Callable[[], bytes]


def members(file: Path, largest: int, most: int) -> Iterator[Member]:
    """The members of an archive, whatever its format.

    Args:
        file: The archive.
        largest: Bytes of a member that are read at most, and one more.
        most: Bytes that are unpacked in all.

    Raises:
        ValueError: It is no archive.
        TooLarge: It unpacks to more than `most`.
        streams.DAMAGED: It is damaged or cut short.
    """
    with file.open("rb") as opened:
        head = opened.read(8)
        opened.seek(0)
        if head == b"!<arch>\n":
            yield from _of_deb(opened, largest, most)
        elif head[:4] in (b"PK\3\4", b"PK\5\6"):
            yield from _of_zip(opened, largest, most)
        elif is_tar(opened):
            yield from _of_tar(unpacked(opened), largest, most)
        else:
            raise ValueError(
                f"`archive` should be a zip or tar file or a Debian package. {str(file)!r} is none."
            )


def is_tar(file: IO[bytes]) -> bool:
    """Whether a file is a tar file, packed or not; an empty one counts. Afterwards it is at 0."""
    try:
        head = unpacked(file).read(512)
        if any(head):
            tarfile.TarInfo.frombuf(head, "utf-8", "replace")  # which checks its sum
        return len(head) == 512
    except DAMAGED:
        return False
    finally:
        file.seek(0)


def _of_zip(file: IO[bytes], largest: int, most: int) -> Iterator[Member]:
    passed = 0
    try:
        archive = zipfile.ZipFile(file)
    except (zipfile.BadZipFile, NotImplementedError, UnicodeDecodeError) as error:
        raise EOFError(str(error)) from None

    def read() -> bytes:
        nonlocal passed
        try:
            with archive.open(info) as stream:
                data = stream.read(largest + 1)
        except (
            zipfile.BadZipFile, NotImplementedError, RuntimeError, ValueError, *DAMAGED,
        ):  # fmt: skip
            raise LeftOut("not readable") from None
        passed += len(data)
        if passed > most:
            raise TooLarge
        return data

    with archive:
        for info in archive.infolist():
            if not info.is_dir():
                mode = info.external_attr >> 16
                yield Member(info.filename, stat.S_IFMT(mode) not in (0, stat.S_IFREG), read)


def _of_tar(stream: IO[bytes], largest: int, most: int, within: str = "") -> Iterator[Member]:
    forward = Forward(stream, most, max(largest + 1, 1 << 20))

    def read(info: tarfile.TarInfo) -> bytes:
        if info.size > largest:  # it is where the next member begins: it cannot lie
            raise LeftOut("too large")
        if info.issparse():
            raise LeftOut("not readable")
        forward.seek(info.offset_data)
        data = forward.read(info.size)
        if len(data) < info.size:
            raise EOFError("it ends within a file")
        return data

    with tarfile.open(
        fileobj=cast(IO[bytes], forward), mode="r:", errors="surrogateescape"
    ) as archive:
        while True:
            info = archive.next()
            if info is None:
                break
            archive.members.clear()  # type: ignore[attr-defined]  # it would hold all of them
            if not info.isdir():
                yield Member(within + info.name, not info.isreg(), partial(read, info))
    while forward.read(1 << 16):  # so that a checksum behind the last member is looked at
        pass


def _of_deb(file: IO[bytes], largest: int, most: int) -> Iterator[Member]:
    """The members of `control.tar`, below "DEBIAN/", and of `data.tar`."""
    place, parts = 8, 0
    while True:
        file.seek(place)
        header = file.read(60)
        if len(header) < 60:
            if parts < 2 or header:
                raise EOFError("it ends early")
            return
        size = header[48:58].strip()
        if header[58:] != b"`\n" or not size.isdigit():
            raise OSError("it has no header of a member where one should be")
        name = header[:16].rstrip(b" /")
        start, place = place + 60, place + 60 + int(size) + int(size) % 2
        if name.startswith((b"control.tar", b"data.tar")):
            parts += 1
            section = io.BufferedReader(Section(file, start, int(size)), 1 << 16)
            within = "DEBIAN/" if name.startswith(b"control") else ""
            yield from _of_tar(unpacked(section), largest, most, within)
