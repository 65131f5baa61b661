"""Files of a folder as text, one by one, with what is left out counted by rule."""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path

from cptk import checks
from cptk.mining.code import LARGEST_FILE, SKIPPED_FOLDERS
from cptk.mining.documents import Document, LeftOut, taken
from cptk.mining.file_rules import Names, Source, document
from cptk.types import Path as StrPath


def read_folder(
    folder: StrPath,
    endings: Iterable[str] | None = None,
    *,
    skipped_folders: Iterable[str] = SKIPPED_FOLDERS,
    largest: int = LARGEST_FILE,
    plain: bool = False,
    counts: Counter[str] | None = None,
) -> Iterator[Document]:
    r"""The text files below a folder, one after another, in the order of their names.

    Hidden files and folders are passed over, links are followed, and each file is read once,
    whatever leads to it. A file is left out, and counted, that is larger than `largest` bytes
    ("too large"), holds a zero byte ("binary"), is not in UTF-8, or in the encoding that a Python
    file declares ("wrong encoding"), has lines as minified scripts have ("minified"), says in its
    first lines that it was generated ("generated"), is empty ("empty"), or cannot be read ("not
    readable"). Line ends become `"\n"`.

    Args:
        folder: Where to look.
        endings: Endings of files that are read, `[".py", ".md"]`; all by default.
        skipped_folders: Names of folders that are not entered: tests and vendored copies.
        largest: Bytes.
        plain: Make plain text, with headings as `# ` lines, of web pages (extra `web`), Markdown,
            reStructuredText and manual pages, those in `.gz` too.
        counts: Is told how many files were read ("files"), and by which rule others fell.

    Returns:
        An iterator of `Document`s: the path below the folder, with forward slashes; the text; the
        name of the folder as `source`; the file's own `SPDX-License-Identifier` as `license`.

    Raises:
        FileNotFoundError: There is no such folder.
        ValueError: It is a file; or nothing in it was to be read.
        TypeError: Endings or folders that are no strings.
        ImportError: trafilatura, for web pages, is not installed: `pip install "cptk[web]"`.

    Example:

    ```pycon
    >>> import json
    >>> from cptk.mining import read_folder
    >>> [each.path for each in read_folder(json.__path__[0], [".py"])][:2]
    ['__init__.py', 'decoder.py']

    ```
    """
    root = checks.path(folder, "folder")
    if not root.exists():
        raise FileNotFoundError(f"There is no folder {str(root)!r}.")
    if not root.is_dir():
        raise ValueError(f"`folder` should be a folder. {str(root)!r} is a file.")
    names = Names(endings, skipped_folders, checks.switch("plain", plain))
    largest = checks.integer("largest", largest, 1)
    source = Source(root.resolve().name, "", largest, plain)
    return _documents(root, names, source, Counter() if counts is None else counts)


def _documents(
    root: Path, names: Names, source: Source, counts: Counter[str]
) -> Iterator[Document]:
    candidates = (
        partial(_document, file, path, source)
        for file, path in files_below(root, names, counts)
        if names.takes(path)
    )
    nothing = f"`folder` holds no file{names.wanted()} to read. Received: {str(root)!r}."
    return taken(candidates, counts, nothing=nothing)


def files_below(root: Path, wanted: Names, counts: Counter[str]) -> Iterator[tuple[Path, str]]:
    """(file, path below the root), sorted by name; no recursion, and each inode once."""
    seen: set[tuple[int, int]] = set()
    waiting = [(root, "")]
    while waiting:
        place, path = waiting.pop()
        try:
            status = place.stat()
            if (status.st_dev, status.st_ino) in seen:
                continue
            seen.add((status.st_dev, status.st_ino))
            if not stat.S_ISDIR(status.st_mode):
                if stat.S_ISREG(status.st_mode):  # a pipe would never end
                    yield place, path
                continue
            names = sorted(os.listdir(place), reverse=True)
        except OSError:
            counts["not readable"] += 1
            continue
        below = f"{path}/" if path else ""
        waiting += [(place / name, below + name) for name in names if wanted.enters(name)]


def _document(file: Path, path: str, source: Source) -> Document:
    """A file's document, of whose bytes no more are read than are taken."""
    try:
        with file.open("rb") as stream:
            data = stream.read(source.largest + 1)
    except OSError:
        raise LeftOut("not readable") from None
    return document(data, path, source)
