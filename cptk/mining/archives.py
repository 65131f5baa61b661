"""Packages and archives as text, file by file: nothing is unpacked to disk, and nothing is run."""

from __future__ import annotations

import contextlib
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path

from cptk import checks
from cptk.mining import licenses
from cptk.mining.archive_members import Member, members
from cptk.mining.code import LARGEST_FILE, SKIPPED_FOLDERS
from cptk.mining.documents import Document, LeftOut, taken
from cptk.mining.file_rules import Names, Source, decoded, document
from cptk.mining.streams import DAMAGED, FREE, LARGEST_RATIO, TooLarge
from cptk.types import Path as StrPath

_ENDINGS = re.compile(
    r"((-py[23].*)?\.(whl|egg|zip|jar)|\.(tar(\.\w+)?|tgz|tbz2?|txz|deb))$", re.IGNORECASE
)
_INSTALLED = re.compile(r"(?:.*/)?(?:dist-packages|site-packages|node_modules)/")
"""Where a Debian package puts a library: its own files, and no copy of another's."""


def read_archive(
    archive: StrPath,
    endings: Iterable[str] | None = None,
    *,
    skipped_folders: Iterable[str] = SKIPPED_FOLDERS,
    largest: int = LARGEST_FILE,
    plain: bool = False,
    counts: Counter[str] | None = None,
) -> Iterator[Document]:
    r"""The text files in a package or archive, one after another, in the order they stand in.

    It reads wheels and other zip files; sdists, npm's tarballs and other tar files, plain or packed
    by gzip, bzip2, xz or zstd; and Debian's packages. What it is, its first bytes say. A tar file
    is read twice, since a package's licence may stand behind its code.

    The rules of `read_folder` hold for each file. Also left out, and counted, are files that say
    that they lie outside of the archive ("outside"), links and devices ("link"), and encrypted or
    damaged ones ("not readable"). Sizes are counted while unpacking, whatever the headers say.

    Args:
        archive: The file.
        endings: Endings of files that are read, `[".py", ".md"]`; all by default.
        skipped_folders: Names of folders that are not entered: tests and vendored copies.
        largest: Bytes of a file, unpacked.
        plain: As `read_folder` has it.
        counts: Is told how many files were read ("files"), and by which rule others fell.

    Returns:
        An iterator of `Document`s: the path in the archive; the text; the package's "name-version"
        as `source`, or else the archive's name; as `license` what the file declares, or what the
        package does in `METADATA`, `PKG-INFO`, `package.json` or Debian's `copyright`, or else the
        licence whose text lies at the top.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is no archive; it is damaged or cut short, which may show after some
            documents only; it unpacks to 200 times its size and more; nothing in it was to be read.
        TypeError: Endings or folders that are no strings.

    Example:

    ```pycon
    >>> import zipfile
    >>> from cptk.mining import read_archive
    >>> with zipfile.ZipFile("tool-1.0-py3-none-any.whl", "w") as wheel:
    ...     wheel.writestr("tool/use.py", "print(1)\n")
    ...     fields = "Name: tool\nVersion: 1.0\nLicense-Expression: MIT\n"
    ...     wheel.writestr("tool-1.0.dist-info/METADATA", fields)
    >>> list(read_archive("tool-1.0-py3-none-any.whl", [".py"]))
    [Document(path='tool/use.py', text='print(1)\n', source='tool-1.0', license='MIT', title='')]

    ```
    """
    file = checks.path(archive, "archive")
    if not file.exists():
        raise FileNotFoundError(f"There is no archive {str(file)!r}.")
    if not file.is_file():
        raise ValueError(f"`archive` should be a file. {str(file)!r} is none.")
    names = Names(endings, skipped_folders, checks.switch("plain", plain))
    largest = checks.integer("largest", largest, 1)
    return _documents(file, names, largest, plain, Counter() if counts is None else counts)


def _documents(
    file: Path, names: Names, largest: int, plain: bool, counts: Counter[str]
) -> Iterator[Document]:
    nothing = f"`archive` holds no file{names.wanted()} to read. Received: {str(file)!r}."
    with _explained(file):
        source = _source(file, largest, plain)
        candidates = _candidates(file, names, source)
        yield from taken(candidates, counts, nothing=nothing)


def _candidates(file: Path, names: Names, source: Source) -> Iterator[Callable[[], Document]]:
    for member in _members(file, source.largest):
        path = _path(member.path)
        own = _INSTALLED.sub("", path or "", count=1)
        of_package = member.path.startswith("DEBIAN/")  # its `control.tar`
        if not of_package and (path is None or names.takes_below(own)):
            yield partial(_document, member, path, source)


def _document(member: Member, path: str | None, source: Source) -> Document:
    if path is None:
        raise LeftOut("outside")
    if member.is_link:
        raise LeftOut("link")
    return document(member.read(), path, source)


def _members(file: Path, largest: int) -> Iterator[Member]:
    return members(file, largest, FREE + LARGEST_RATIO * os.path.getsize(file))


@contextlib.contextmanager
def _explained(file: Path) -> Iterator[None]:
    """Bombs and damage as one error that names the archive."""
    try:
        yield
    except TooLarge:
        raise ValueError(
            f"The archive {str(file)!r} unpacks to more than {LARGEST_RATIO} times its size, as "
            "bombs do. It is not read further."
        ) from None
    except DAMAGED as error:
        raise ValueError(
            f"The archive {str(file)!r} is damaged or cut short ({error}). Download it again."
        ) from None


def _path(name: str) -> str | None:
    """A member's path with forward slashes; None where it leads out of the archive."""
    parts = [each for each in name.replace("\\", "/").split("/") if each != "."]
    if ".." in parts or parts[:1] == [""] or re.match(r"[A-Za-z]:", parts[0] if parts else ""):
        return None
    return "/".join(parts)


def _source(file: Path, largest: int, plain: bool) -> Source:
    """What the archive says of itself: the file nearest to its top counts."""
    found: dict[str, tuple[int, str]] = {}
    for member in _members(file, largest):
        path = _path(member.path)
        kind = path and not member.is_link and _declares(path)
        if not path or not kind:
            continue
        depth = path.count("/")
        if kind not in found or depth < found[kind][0]:
            try:
                found[kind] = (depth, decoded(member.read()))
            except LeftOut:
                continue
    texts = {kind: text for kind, (_, text) in found.items()}
    name, license_ = "", ""
    if "control" in texts:
        name = licenses.of_debian_control(texts["control"])
        license_ = licenses.of_debian_copyright(texts.get("copyright", ""))
    elif "metadata" in texts:
        name, license_ = licenses.of_metadata(texts["metadata"])
    elif "package.json" in texts:
        name, license_ = licenses.of_package_json(texts["package.json"])
    license_ = license_ or licenses.of_license_file(texts.get("license", ""))
    return Source(name or _ENDINGS.sub("", file.name), license_, largest, plain)


def _declares(path: str) -> str | None:
    """What a file of this path says of the package, if anything."""
    folders, _, name = path.rpartition("/")
    depth = path.count("/")
    if folders == "DEBIAN" and name == "control":
        return "control"
    if name == "copyright" and re.fullmatch(r"usr/share/doc/[^/]+", folders):
        return "copyright"
    if (name == "METADATA" and folders.endswith(".dist-info")) or (
        name == "PKG-INFO" and depth <= 1
    ):
        return "metadata"
    if name == "package.json" and depth <= 1:
        return "package.json"
    in_wheel = re.fullmatch(r"[^/]+\.dist-info(/licenses)?", folders)
    is_license = licenses.LICENSE_FILE.fullmatch(name) is not None
    return "license" if is_license and (depth <= 1 or in_wheel) else None
