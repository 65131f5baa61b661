"""One door to all readers: what lies at a place says which of them it is for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

from cptk import checks
from cptk.mining.archives import read_archive
from cptk.mining.documents import Document
from cptk.mining.folders import read_folder
from cptk.mining.mail import read_mail
from cptk.mining.records import kind_of, read_records
from cptk.mining.repositories import read_git
from cptk.mining.web import read_web
from cptk.types import Path as StrPath


def read(
    place: StrPath,
    endings: Iterable[str] | None = None,
    *,
    plain: bool = False,
    counts: Counter[str] | None = None,
) -> Iterator[Document]:
    r"""The texts of a folder, an archive, a repository, a mailbox or a file of records.

    | what lies there | read by |
    |---|---|
    | a folder | `read_folder` |
    | a maildir, or a file `.mbox` | `read_mail` |
    | a bare git repository, `tool.git` | `read_git` |
    | `.warc`, `.wet`, packed by gzip or not, or a page, `.html` | `read_web` |
    | `.jsonl`, `.csv`, `.tsv`, `.parquet`, packed or not, with a column `text` | `read_records` |
    | any other file | `read_archive` |

    A working tree is a folder: to read the files that its repository tracks call `read_git`.

    Args:
        place: The folder or file.
        endings: Endings of files that are read, `[".py", ".md"]`, of folders, archives and
            repositories.
        plain: Make plain text of web pages, Markdown, reStructuredText and manual pages.
        counts: Is told how many were read, and by which rule others fell.

    Raises:
        FileNotFoundError: There is nothing.
        ValueError: It is none of these, or nothing in it was to be read.
        TypeError: Endings that are no strings.

    Example:

    ```pycon
    >>> import json
    >>> from cptk.mining import read
    >>> next(read(json.__path__[0], [".py"])).path
    '__init__.py'

    ```
    """
    file = checks.path(place, "place")
    if not file.exists():
        raise FileNotFoundError(f"There is nothing at {str(file)!r}.")
    if file.is_file() and kind_of(file) is not None:
        return read_records(file, counts=counts)
    name = file.name.lower().removesuffix(".gz")
    if file.is_file() and name.endswith((".warc", ".wet", ".html", ".htm")):
        return read_web(file, counts=counts)
    maildir = all((file / each).is_dir() for each in ("cur", "new"))
    if maildir or (file.is_file() and name.endswith(".mbox")):
        return read_mail(file, counts=counts)
    bare = all((file / each).exists() for each in ("HEAD", "objects", "refs"))
    reader = read_git if bare else read_folder if file.is_dir() else read_archive
    return reader(file, endings, plain=plain, counts=counts)
