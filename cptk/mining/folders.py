"""Files of a folder as text, one by one, with what is left out counted by rule."""

from __future__ import annotations

import io
import os
import stat
import tokenize
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from cptk import checks
from cptk.mining.code import LARGEST_FILE, SKIPPED_FOLDERS, is_generated
from cptk.mining.documents import Document
from cptk.types import Path as StrPath

LONGEST_LINE = 5_000
MEAN_LINE = 300
"""Letters of a line: files above either were written by no one, as minified scripts are. Ours."""


def read_folder(
    folder: StrPath,
    endings: Iterable[str] | None = None,
    *,
    skipped_folders: Iterable[str] = SKIPPED_FOLDERS,
    largest: int = LARGEST_FILE,
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
        counts: Is told how many files were read ("files"), and by which rule others fell.

    Returns:
        An iterator of `Document`s: the path below the folder, with forward slashes; the text; the
        name of the folder as `source`.

    Raises:
        FileNotFoundError: There is no such folder.
        ValueError: It is a file; or nothing in it was to be read.
        TypeError: Endings or folders that are no strings.

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
    ends = None if endings is None else tuple(_names(endings, "endings"))
    skipped = frozenset(_names(skipped_folders, "skipped_folders"))
    largest = checks.integer("largest", largest, 1)
    return _texts(root, ends, skipped, largest, Counter() if counts is None else counts)


def _names(values: Iterable[str], name: str) -> list[str]:
    if isinstance(values, Iterable) and not isinstance(values, str | bytes | Mapping):
        found = list(values)
        if all(isinstance(each, str) and each for each in found):
            return found
    raise TypeError(f"`{name}` should be several strings. Received: {checks.shown(values)}.")


def _texts(
    root: Path,
    endings: tuple[str, ...] | None,
    skipped: frozenset[str],
    largest: int,
    counts: Counter[str],
) -> Iterator[Document]:
    any_file = False
    for file, path in files_below(root, skipped, counts):
        if endings is not None and not path.lower().endswith(endings):
            continue
        any_file = True
        text, rule = _read(file, largest)
        counts[rule or "files"] += 1
        if text is not None:
            yield Document(path, text, root.resolve().name)
    if not any_file:
        wanted = "" if endings is None else f" that ends in {', '.join(endings)}"
        raise ValueError(f"`folder` holds no file{wanted} to read. Received: {str(root)!r}.")


def files_below(
    root: Path, skipped: frozenset[str], counts: Counter[str]
) -> Iterator[tuple[Path, str]]:
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
        waiting += [
            (place / name, below + name)
            for name in names
            if not name.startswith(".") and name not in skipped
        ]


def _read(file: Path, largest: int) -> tuple[str | None, str | None]:
    """The text of a file, or the rule by which it falls."""
    try:
        if file.stat().st_size > largest:
            return None, "too large"
        data = file.read_bytes()
    except OSError:
        return None, "not readable"
    return text_of(data, file.suffix)


def text_of(data: bytes, suffix: str) -> tuple[str | None, str | None]:
    r"""The text that stands in the bytes of a file, or the rule by which it falls.

    Args:
        data: The file's bytes.
        suffix: How its name ends; Python files may declare their encoding.

    Example:

    ```pycon
    >>> from cptk.mining.folders import text_of
    >>> text_of(b"Words.\r\n", ".txt"), text_of(b"\xff", ".txt")
    (('Words.\n', None), (None, 'wrong encoding'))

    ```
    """
    if b"\0" in data:
        return None, "binary"
    encoding = "utf-8-sig"
    try:
        if suffix == ".py":
            encoding, _ = tokenize.detect_encoding(io.BytesIO(data).readline)
        text = data.decode(encoding)
    except (SyntaxError, ValueError, LookupError):
        return None, "wrong encoding"
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    if not text.strip():
        return None, "empty"
    lines = text.split("\n")
    if max(map(len, lines)) > LONGEST_LINE or len(text) > MEAN_LINE * len(lines):
        return None, "minified"
    if is_generated(text):
        return None, "generated"
    return text, None
