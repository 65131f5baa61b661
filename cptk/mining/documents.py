"""What all readers give and all miners take: a text, and where it comes from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple, TypeGuard

from cptk import checks


class Document(NamedTuple):
    r"""A text, and where it comes from: what pairs mined from it carry with them.

    Attributes:
        path: Where it lies below its source, with forward slashes.
        text: What stands there, with `"\n"` at the ends of lines.
        source: What it was read from: the name of a folder, an archive or a repository.
        license: The licence that its source declares, as SPDX names it where known; "" if none.
        title: Its title, where its format has one.

    Example:

    ```pycon
    >>> from cptk.mining import Document, neighbouring_text
    >>> text = "The first one says this.\n\nThe second one says more."
    >>> document = Document("a.txt", text, source="notes", license="MIT")
    >>> (pairs,) = neighbouring_text([document], unit="paragraph", pieces=(1, 1))
    >>> len(pairs)
    1

    ```
    """

    path: str
    text: str
    source: str = ""
    license: str = ""
    title: str = ""


class LeftOut(Exception):
    """The rule by which a file, a record or a message gives no document."""


def taken(
    candidates: Iterable[Callable[[], Document]],
    counts: Counter[str],
    what: str = "files",
    nothing: str = "",
) -> Iterator[Document]:
    """The documents of some candidates, with those that are left out counted by their rule.

    Args:
        candidates: Functions that read a document each, or raise `LeftOut`. Each is called before
            the next one is asked for.
        counts: Is told.
        what: The name by which documents are counted.
        nothing: An error for where there are no candidates at all.

    Raises:
        ValueError: There are none, and `nothing` says that there should be.
    """
    none = True
    for read in candidates:
        none = False
        try:
            found = read()
        except LeftOut as rule:
            counts[str(rule)] += 1
        else:
            counts[what] += 1
            yield found
    if none and nothing:
        raise ValueError(nothing)


def each_document(documents: Iterable[tuple[str, ...]]) -> Iterator[Document]:
    """Each document, or tuple of a path and a text, checked; `TypeError` for something else."""
    expected = "documents, or tuples of a path and a text"
    for each in checks.iterated(documents, "files", expected):
        if _is_document(each):
            yield Document(*each)
        else:
            raise TypeError(
                f"`files` should be {expected}, all strings. Received: {checks.shown(each)}."
            )


def _is_document(value: object) -> TypeGuard[tuple[str, ...]]:
    fits = isinstance(value, Document) or (isinstance(value, tuple) and len(value) == 2)
    return fits and all(type(x) is str for x in value)  # type: ignore[attr-defined]


def provenance(document: Document) -> dict[str, str]:
    """The columns that each pair of a document has of it."""
    return {"path": document.path, "source": document.source, "license": document.license}
