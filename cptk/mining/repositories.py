"""The files that a git repository tracks, as text, without a checkout."""

from __future__ import annotations

import subprocess
from collections import Counter
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

from cptk import checks
from cptk.mining import licenses
from cptk.mining.code import LARGEST_FILE, SKIPPED_FOLDERS
from cptk.mining.documents import Document, LeftOut, taken
from cptk.mining.file_rules import Names, Source, decoded, document
from cptk.types import Path as StrPath


def read_git(
    repository: StrPath,
    endings: Iterable[str] | None = None,
    *,
    revision: str = "HEAD",
    skipped_folders: Iterable[str] = SKIPPED_FOLDERS,
    largest: int = LARGEST_FILE,
    plain: bool = False,
    counts: Counter[str] | None = None,
) -> Iterator[Document]:
    r"""The text files of a commit, one after another, in the order of their names.

    They are read by `git` from its objects, of a bare repository too; the working tree counts for
    nothing. The rules of `read_folder` hold for each file. Symbolic links and submodules are left
    out, and counted ("link").

    Args:
        repository: A folder with a repository.
        endings: Endings of files that are read, `[".py", ".md"]`; all by default.
        revision: The commit: a branch, a tag or a hash.
        skipped_folders: Names of folders that are not entered: tests and vendored copies.
        largest: Bytes of a file.
        plain: As `read_folder` has it.
        counts: Is told how many files were read ("files"), and by which rule others fell.

    Returns:
        An iterator of `Document`s: the path; the text; the folder's name and the commit's first
        digits as `source`; as `license` what the file declares, or else the licence whose text lies
        at the top.

    Raises:
        FileNotFoundError: There is no such folder, or no `git`.
        ValueError: It is no repository, has no such revision, or nothing in it was to be read.
        TypeError: Endings or folders that are no strings.

    Example:

    ```pycon
    >>> from cptk.mining import read_git
    >>> read_git("no_repository")
    Traceback (most recent call last):
    FileNotFoundError: There is no folder 'no_repository'.

    ```
    """
    root = checks.path(repository, "repository")
    if not root.exists():
        raise FileNotFoundError(f"There is no folder {str(root)!r}.")
    names = Names(endings, skipped_folders, checks.switch("plain", plain))
    largest = checks.integer("largest", largest, 1)
    if not isinstance(revision, str) or not revision or revision.startswith("-"):
        raise ValueError(f"`revision` should name a commit. Received: {checks.shown(revision)}.")
    commit = _git(root, "rev-parse", "--verify", "--quiet", "--end-of-options",
                  f"{revision}^{{commit}}").decode().strip()  # fmt: skip
    counts = Counter() if counts is None else counts
    return _documents(root, commit, names, (largest, plain), counts)


class _Entry(NamedTuple):
    """A file of a commit."""

    path: str
    mode: str
    name: str
    size: int


def _documents(
    root: Path, commit: str, names: Names, limits: tuple[int, bool], counts: Counter[str]
) -> Iterator[Document]:
    entries = [_entry(line) for line in _git(root, "ls-tree", "-rlz", commit).split(b"\0") if line]
    own = root.resolve()
    name = (own.parent if own.name == ".git" else own).name.removesuffix(".git")
    nothing = f"`repository` holds no file{names.wanted()} to read. Received: {str(root)!r}."
    with _Objects(root) as objects:
        license_ = ""
        for entry in entries:
            is_license = licenses.LICENSE_FILE.fullmatch(entry.path) and entry.size <= limits[0]
            if not license_ and is_license and entry.mode.startswith("100"):
                license_ = _license(objects.read(entry.name))
        source = Source(f"{name}@{commit[:12]}", license_, *limits)
        wanted = (entry for entry in entries if names.takes_below(entry.path))
        candidates = (partial(_document, objects, entry, source) for entry in wanted)
        yield from taken(candidates, counts, nothing=nothing)


def _document(objects: _Objects, entry: _Entry, source: Source) -> Document:
    if not entry.mode.startswith("100"):
        raise LeftOut("link")
    if entry.size > source.largest:
        raise LeftOut("too large")
    return document(objects.read(entry.name), entry.path, source)


def _entry(line: bytes) -> _Entry:
    about, path = line.split(b"\t", 1)
    mode, _, name, size = about.split()
    count = int(size) if size.isdigit() else 0  # submodules have none
    return _Entry(path.decode(errors="surrogateescape"), mode.decode(), name.decode(), count)


def _license(data: bytes) -> str:
    try:
        return licenses.of_license_file(decoded(data))
    except LeftOut:
        return ""


class _Objects:
    """Git's objects by name, from one process."""

    def __init__(self, root: Path) -> None:
        self._process = subprocess.Popen(
            ["git", "-C", str(root), "cat-file", "--batch"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        )  # fmt: skip

    def read(self, name: str) -> bytes:
        """An object's bytes; `LeftOut` where it is missing."""
        asked, answered = self._process.stdin, self._process.stdout
        assert asked is not None
        assert answered is not None
        asked.write(f"{name}\n".encode())
        asked.flush()
        *_, size = answered.readline().split() or [b""]
        if not size.isdigit():
            raise LeftOut("not readable")
        data = answered.read(int(size))
        answered.read(1)
        return data

    def __enter__(self) -> _Objects:
        return self

    def __exit__(self, *_: object) -> None:
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                stream.close()
        self._process.terminate()
        self._process.wait()


def _git(root: Path, *arguments: str) -> bytes:
    try:
        done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True)
    except FileNotFoundError:
        raise FileNotFoundError(
            "Reading a repository needs `git`, which is not installed here. Install it, or read "
            "the folder by `read_folder`."
        ) from None
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip()
        raise ValueError(
            f"`repository` should be a git repository that has the revision. {str(root)!r}: "
            f"{checks.shown(said or 'no such revision')}."
        )
    return done.stdout
