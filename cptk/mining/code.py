"""Mines (docstring, function) pairs out of Python source code, without running any of it.

The code pairs of Neelakantan et al. (2022) are a function's top-level docstring and its
implementation. This module reads them by `ast` from folders of Python files. The filters (length,
generated, test and vendored files, duplicates) are ours: the paper does not list its own.

References:
    Neelakantan et al., Text and Code Embeddings by Contrastive Pre-Training, arXiv 2201.10005.
"""

import ast
import os
import re
import stat
import tokenize
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, MappingView, Sequence, Set
from inspect import cleandoc
from pathlib import Path
from typing import NamedTuple, TypeAlias

import pyarrow as pa

from cptk import checks
from cptk.checks import is_integer, shown
from cptk.data.pairs import Pairs
from cptk.mining.copies import deduplicate
from cptk.types import Path as StrPath

FunctionNode: TypeAlias = ast.FunctionDef | ast.AsyncFunctionDef

SKIPPED_FOLDERS = frozenset(
    "test tests idle_test _test_data vendor vendored _vendor _vendored _vendored_packages extern "
    "third_party node_modules site-packages dist-packages __pycache__ __pypackages__".split()
)
SKIPPED_FILES = re.compile(r"(test_.*|.*_tests?|conftest|.*_pb2|.*_pb2_grpc)\.py")
GENERATED = re.compile(
    r"@generated\b|(machine|auto|automatically)[- ]?generated|do not (edit|modify)"
    r"|^\W*(this (file|module) (is|was) )?generated (by|from|with)",
    re.IGNORECASE | re.MULTILINE,
)
GO_GENERATED = re.compile(r"^// Code generated .* DO NOT EDIT\.$", re.MULTILINE)
"""Go's own mark (`go help generate`), before the package's name, behind however long a licence."""
LARGEST_FILE = 1_000_000  # bytes; larger ones are tables in Python's clothes
FIELD = re.compile(r"\*{0,2}\w+\*{0,2} ?\(`.+\)(,? \*?optional\*?)?\s*:")
"""A parameter without a section around it: "labels (`torch.Tensor`, *optional*): what they are"."""
TO_DO = re.compile(r"(TODO|FIXME|XXX)\b")


class _Function(NamedTuple):
    """One documented function, a row of what is mined."""

    query: str
    document: str
    name: str
    path: str
    line: int


_TEXTS = [(name, pa.string()) for name in ("query", "document", "name", "path")]
_SCHEMA = pa.schema([*_TEXTS, ("line", pa.int64())])


def mine_functions(
    roots: StrPath | Iterable[StrPath],
    *,
    min_words: int = 3,
    skipped_folders: Iterable[str] = SKIPPED_FOLDERS,
    on_file: Callable[[int, int], object] | None = None,
    on_skip: Callable[[str, str], object] | None = None,
) -> Pairs:
    """Collects (docstring, function) pairs from Python files, duplicates removed.

    Functions and methods are taken wherever they stand at module or class level, inside `if` and
    `try` too. A function nested in another one is part of the outer one's code and gives no pair
    of its own. Functions that only declare (`pass`, `...`, `raise NotImplementedError`) are left
    out. Files are read by PEP 263 (UTF-8 unless they say otherwise), each once, whatever links
    lead to it. The result's order depends on the roots' order and the files' names alone.

    Args:
        roots: folders or `.py` files, `~` expanded; one or several.
        min_words: shortest docstring that counts, in words.
        skipped_folders: names of folders below a root that are not entered: tests, vendored
            copies, nested `site-packages`.
        on_file: called as `on_file(done, total)` after every file, for a progress bar.
        on_skip: called as `on_skip(path, reason)` for every file that gave nothing because it was
            skipped: a test or generated file, too large, not readable, not valid Python.

    Returns:
        `Pairs` with the columns `query` (the docstring's first paragraph on one line), `document`
        (the function's source: decorators kept, docstring cut out, dedented), `name` (qualified
        inside its file, `Class.method`), `path` (relative to the mined root, with forward slashes)
        and `line` (that of `def`, from 1).

    Raises:
        TypeError: if `roots` is not a path or an iterable of paths, or `skipped_folders` is one
            string.
        ValueError: if `roots` is empty, holds no Python file, or `min_words` is below 1.
        FileNotFoundError: if a root does not exist.

    Example:

    ```pycon
    >>> import json
    >>> from cptk.mining import mine_functions
    >>> pairs = mine_functions(json.__path__[0])
    >>> pairs.columns, pairs[0]["path"]
    (['query', 'document', 'name', 'path', 'line'], '__init__.py')

    ```
    """
    if not is_integer(min_words) or min_words < 1:
        raise ValueError(
            f"`min_words` must be an integer of at least 1. Received: {shown(min_words)}."
        )
    folders = _checked_folders(skipped_folders)
    seen: set[tuple[int, int]] = set()
    files = [file for root in _checked(roots) for file in _python_files(root, folders, seen)]
    if not files:
        raise ValueError(f"`roots` holds no Python file to read. Received: {shown(roots)}.")
    found: list[_Function] = []
    for done, (file, path) in enumerate(files, start=1):
        try:
            found += _functions_in(_read(file), path, min_words)
        except _Skip as skip:
            if on_skip:
                on_skip(path, str(skip))
        if on_file:
            on_file(done, len(files))
    return deduplicate(_as_pairs(found))


def functions_in_source(source: str, path: str = "", *, min_words: int = 3) -> Pairs:
    r"""The pairs of one file's text in the order of its lines, as `mine_functions` returns them.

    Args:
        source: The file's text.
        path: What its pairs have as `path`.
        min_words: Shortest docstring that counts, in words.

    Raises:
        ValueError: It is not Python.

    Example:

    ```pycon
    >>> from cptk.mining import functions_in_source
    >>> source = 'def add(a, b):\n    "Adds two numbers."\n    return a + b'
    >>> functions_in_source(source)[0]["query"]
    'Adds two numbers.'

    ```
    """
    return _as_pairs(_functions_in(source, path, min_words))


def _as_pairs(functions: Sequence[_Function]) -> Pairs:
    """The functions in columns; there may be none."""
    return Pairs._of(pa.Table.from_pylist([row._asdict() for row in functions], schema=_SCHEMA))


def _functions_in(source: str, path: str, min_words: int) -> list[_Function]:
    if "def " not in source:
        return []
    try:
        with warnings.catch_warnings():  # invalid escapes in other people's strings
            warnings.simplefilter("ignore")
            tree = ast.parse(source)
        return _pairs(tree, source, path, min_words)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise _Skip(f"not valid Python: {error}") from error


def _pairs(tree: ast.Module, source: str, path: str, min_words: int) -> list[_Function]:
    # The tokenizer of Python ends a line at "\n" alone; splitlines() would also at a form feed.
    lines = source.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    pairs = []
    for node, name in _functions(tree, ""):
        docstring = ast.get_docstring(node, clean=False)
        if docstring is None or _only_declares(node):
            continue
        summary = first_paragraph(docstring)
        if count_words(summary) >= min_words and _is_unicode(summary):
            pairs.append(
                _Function(summary, _code_without_docstring(node, lines), name, path, node.lineno)
            )
    return pairs


def first_paragraph(docstring: str) -> str:
    """The first paragraph on one line; "" where it opens with code, fields or what is to do."""
    paragraph = re.split(r"\n[ \t]*\n", cleandoc(docstring).strip(), maxsplit=1)[0]
    if paragraph.startswith((">>>", ":", "@")) or FIELD.match(paragraph) or TO_DO.match(paragraph):
        return ""
    return " ".join(paragraph.split())


def count_words(text: str) -> int:
    """How many words of two letters or more a text has; a web address has none."""
    return len(re.findall(r"[^\W\d_]{2,}", re.sub(r"https?://\S+", " ", text)))


class _Skip(ValueError):
    """Why a file gives no pairs."""


def _checked(roots: object) -> list[Path]:
    expected = "`roots` must be a folder or a .py file, or an iterable of them."
    if isinstance(roots, str | os.PathLike):
        roots = [roots]
    frame_or_file = hasattr(roots, "columns") or hasattr(roots, "read")
    unordered = isinstance(roots, bytes | bytearray | Mapping | MappingView | Set)
    if not isinstance(roots, Iterable) or frame_or_file or unordered:
        raise TypeError(f"{expected} Received: {shown(roots)} of type {type(roots).__name__}.")
    roots = list(roots)
    if not roots:
        raise ValueError(f"{expected} Received none.")
    paths = []
    for root in roots:
        if not isinstance(root, str | os.PathLike):
            raise TypeError(f"{expected} Received: {shown(root)}.")
        path = checks.path(root, "roots") if os.fspath(root) else None
        if path is None or not os.path.exists(path):
            raise FileNotFoundError(f"{expected} No such file or folder: {shown(os.fspath(root))}.")
        if not path.is_dir() and not (path.is_file() and path.name.endswith(".py")):
            raise ValueError(f"{expected} Received a file of another kind: {shown(str(path))}.")
        paths.append(path)
    return paths


def _checked_folders(names: object) -> frozenset[str]:
    if isinstance(names, Iterable) and not isinstance(names, str | bytes | Mapping):
        folders = list(names)
        if all(isinstance(name, str) for name in folders):
            return frozenset(folders)
    raise TypeError(
        f"`skipped_folders` must be names of folders. Received: {shown(names)} of type "
        f"{type(names).__name__}."
    )


def _python_files(
    root: Path, skipped_folders: frozenset[str], seen: set[tuple[int, int]]
) -> Iterator[tuple[Path, str]]:
    """(file, path relative to the root) sorted by name; links are followed, each target once."""
    if root.is_file():
        yield root, root.name
        return
    stack = [(root, "")]
    while stack:
        folder, prefix = stack.pop()
        try:
            status = folder.stat()
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except OSError:
            continue
        if (status.st_dev, status.st_ino) in seen:
            continue
        seen.add((status.st_dev, status.st_ino))
        below = []
        for entry in entries:
            path = prefix + entry.name
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                if entry.name not in skipped_folders:
                    below.append((Path(entry.path), path + "/"))
            elif entry.name.endswith(".py"):
                yield Path(entry.path), path
        stack += reversed(below)


def _read(file: Path) -> str:
    if SKIPPED_FILES.fullmatch(file.name):
        raise _Skip("a test or generated file by its name")
    try:
        status = file.stat()
        if not stat.S_ISREG(status.st_mode):  # a pipe would never end
            raise _Skip("no regular file")
        if status.st_size > LARGEST_FILE:
            raise _Skip(f"larger than {LARGEST_FILE:,} bytes")
        with tokenize.open(file) as stream:
            source = stream.read()
    except OSError as error:
        raise _Skip(f"not readable: {error.strerror or error}") from error
    except (SyntaxError, UnicodeDecodeError) as error:
        raise _Skip(f"not text in its encoding: {error}") from error
    if is_generated(source):
        raise _Skip("a generated file by its first lines")
    return source


def is_generated(text: str) -> bool:
    """Whether a file says in its first lines that a tool has made it."""
    head, package, _ = text[:10_000].partition("\npackage ")
    if package and GO_GENERATED.search(head):
        return True
    return GENERATED.search("\n".join(text[:1000].split("\n")[:10])) is not None


def _functions(node: ast.AST, prefix: str) -> Iterator[tuple[FunctionNode, str]]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, FunctionNode):
            yield child, prefix + child.name
        elif isinstance(child, ast.ClassDef):
            yield from _functions(child, f"{prefix}{child.name}.")
        elif not isinstance(child, ast.expr):
            yield from _functions(child, prefix)


def _only_declares(node: FunctionNode) -> bool:
    """Whether nothing, or nothing that runs, follows the docstring."""
    for statement in node.body[1:]:
        constant = isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
        gives_up = isinstance(statement, ast.Raise) and "NotImplemented" in ast.dump(statement)
        if not (isinstance(statement, ast.Pass) or constant or gives_up):
            return False
    return True


def _code_without_docstring(node: FunctionNode, lines: Sequence[str]) -> str:
    """The function's own lines, from its first decorator on, less docstring and indentation."""
    first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)]) - 1
    own = {index: lines[index] for index in range(first, node.end_lineno or node.lineno)}
    docstring = node.body[0]
    start, end = docstring.lineno - 1, (docstring.end_lineno or docstring.lineno) - 1
    # Columns of `ast` count UTF-8 bytes.
    before = own[start].encode()[: docstring.col_offset].decode()
    after = own[end].encode()[docstring.end_col_offset :].decode().lstrip("; \t\f")
    for index in range(start, end + 1):
        del own[index]
    if before.strip() or (after and not after.startswith("#")):  # it shared its line with code
        own[start] = before + after
    margin = lines[first][: len(lines[first]) - len(lines[first].lstrip())]
    fixed = _lines_inside_strings(node, lines) if margin else set()
    return "\n".join(
        line if index in fixed else line.removeprefix(margin) for index, line in sorted(own.items())
    ).rstrip()


def _lines_inside_strings(node: FunctionNode, lines: Sequence[str]) -> set[int]:
    """Indices of the lines that begin inside a string: their indentation is part of its value."""
    inside: set[int] = set()
    for child in ast.walk(node):
        string = isinstance(child, ast.JoinedStr) or (
            isinstance(child, ast.Constant) and isinstance(child.value, str | bytes)
        )
        if string and isinstance(child, ast.expr) and child.end_lineno not in (None, child.lineno):
            span = range(child.lineno, child.end_lineno or 0)
            text = "\n".join(lines[child.lineno - 1 : child.end_lineno])
            if '"""' in text or "'''" in text or "\\\n" in text:
                inside.update(span)
    return inside


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:  # lone surrogates, written as escapes
        return False
    return True
