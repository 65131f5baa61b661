"""Code without its documentation, by tree-sitter, for CodeSearchNet's six languages.

A function that holds its docstring would be found by it at once. CodeSearchNet publishes Python
functions with their docstring inside, and takes the docstring out of the tokens that it embeds
(github/CodeSearchNet, `function_parser/parsers/python_parser.py`, `tokenize_code(...,
{docstring_node})`). Of the other languages it publishes the function without the comment before it
(`java_parser.py`, `go_parser.py`, `ruby_parser.py`, `php_parser.py`, `javascript_parser.py`): there
is mostly nothing to take out, except in other collections, which left the comment where it stood.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import NamedTuple, Protocol, TypeAlias

from cptk import checks, optional

LANGUAGES = ("python", "java", "go", "php", "ruby", "javascript")
PARSED = (*LANGUAGES, "typescript", "tsx")
"""Languages whose grammars are known. CodeSearchNet has no TypeScript."""

# A function alone does not parse as a file: texts to put before and after it, tried in turn.
_AROUND = {
    "java": (("class A {\n", "\n}"),),
    "go": (("package p\n", ""),),
    "php": (("class A {\n", "\n}"),),
    **dict.fromkeys(
        ("javascript", "typescript", "tsx"),
        (("(\n", "\n)"), ("({\n", "\n})"), ("class A {\n", "\n}")),
    ),
}
_BODIES = {"block", "statement_block", "compound_statement", "constructor_body", "body_statement"}
_TRIPLE = re.compile(
    r"""(:[ \t]*(?:#[^\n]*)?\n)[ \t]*[rRuU]?(\"{3}|'{3}).*?\2[ \t]*(?:;[ \t]*|\r?\n)?""", re.DOTALL
)


Span: TypeAlias = tuple[int, int]
"""Where something begins and ends in the source, in bytes."""


class Node(Protocol):
    """What is asked of a node of tree-sitter's syntax tree."""

    type: str
    text: bytes
    start_byte: int
    end_byte: int
    start_point: tuple[int, int]
    end_point: tuple[int, int]
    has_error: bool
    children: list[Node]
    named_children: list[Node]
    next_sibling: Node | None

    def child_by_field_name(self, name: str, /) -> Node | None:
        """The child that the grammar gives this name."""


class Tree(Protocol):
    """What tree-sitter gives for a source."""

    root_node: Node


class Parser(Protocol):
    """What is asked of a `tree_sitter.Parser`."""

    def parse(self, source: bytes, /) -> Tree:
        """The syntax tree of a source; nodes that the grammar does not take are marked."""


class Parsed(NamedTuple):
    """A function in what its grammar needs around it.

    Attributes:
        source: The bytes that were parsed.
        root: The root of their tree.
        before: How many bytes of `source` stand before the function, and are ours.
        after: How many stand after it.
    """

    source: bytes
    root: Node
    before: int
    after: int


class Stripped(NamedTuple):
    """What `strip_docstrings` gives.

    Attributes:
        codes: The functions without their documentation, in order.
        stripped: How many had any.
        unparsed: How many the grammar did not take as a whole.
    """

    codes: list[str]
    stripped: int
    unparsed: int


def strip_docstring(code: str, language: str) -> str:
    r"""A function's source without its docstring or documentation comment.

    - Python: the string that is the first statement of the function (or class). Strings that merely
      look like one, docstrings of functions inside it, and comments stay.
    - Java, Go, PHP, Ruby, JavaScript, TypeScript: the comments before the function, of any form,
      and documentation comments (`/** */`) between its annotations and its body. Comments inside
      the body stay: they are not what a docstring is made from.

    Of a function that holds nothing but documentation the head stays (`def f():`). Of a comment
    alone nothing stays. Code that does not parse is read as far as it does. Of Python without a
    function in it, the first triple-quoted string after a colon is taken out.

    Args:
        code: One function.
        language: `"python"`, `"java"`, `"go"`, `"php"`, `"ruby"`, `"javascript"`, `"typescript"`
            or `"tsx"`.

    Returns:
        The code without it, stripped of blank lines at both ends.

    Raises:
        TypeError: If the code is no string.
        ValueError: If the language is none of these.
        ImportError: If tree-sitter or the language's grammar is not installed.

    Example:

    ```pycon
    >>> from cptk.evaluation import strip_docstring
    >>> print(strip_docstring('def f():\n    "One."\n    return 1', "python"))
    def f():
        return 1

    ```
    """
    return _strip(code, language).code


def strip_docstrings(codes: Sequence[str], language: str) -> Stripped:
    r"""`strip_docstring` of many functions, and how many had one and how many did not parse.

    Args:
        codes: Functions.
        language: As for `strip_docstring`.

    Returns:
        The functions and the two counts.

    Raises:
        TypeError: If the code is no string.
        ValueError: If the language is none of these.
        ImportError: If tree-sitter or the language's grammar is not installed.

    Example:

    ```pycon
    >>> from cptk.docstrings import strip_docstrings
    >>> codes = ["// F is one.\nfunc F() int { return 1 }", "func G() {}"]
    >>> found = strip_docstrings(codes, "go")
    >>> found.codes
    ['func F() int { return 1 }', 'func G() {}']
    >>> found.stripped, found.unparsed
    (1, 0)

    ```
    """
    results = [_strip(code, language) for code in checks.items(codes, "codes", "functions")]
    return Stripped(
        [result.code for result in results],
        sum(result.had_any for result in results),
        sum(result.is_broken for result in results),
    )


class _Stripped(NamedTuple):
    """A function without its documentation, whether it had any, and whether it did not parse."""

    code: str
    had_any: bool
    is_broken: bool


def _strip(code: str, language: str) -> _Stripped:
    if not isinstance(code, str):
        raise TypeError(f"`code` should be a function's source. Received: {checks.shown(code)}.")
    parsed = _parse(code, language)
    broken = bool(parsed.root.has_error)
    if language == "python":
        spans = _python_docstring(parsed.root)
        if not spans and _first_definition(parsed.root) is None:
            text, found = _TRIPLE.subn(r"\1", code, count=1)
            return _Stripped(text.strip("\r\n"), bool(found), True)
    else:
        spans = list(_comments(parsed))
    if not spans:
        return _Stripped(code, False, broken)
    source, end = parsed.source, len(parsed.source) - parsed.after
    for start, stop in sorted(spans, reverse=True):
        start, stop = _whole_lines(source, start, stop, parsed.before, end)
        source = source[:start] + source[stop:]
        end -= stop - start
    kept = source[parsed.before : end].decode(errors="surrogatepass")
    return _Stripped(kept.strip("\r\n"), True, broken)


def _parse(code: str, language: str) -> Parsed:
    """The function in the surroundings in which it parses; in none where it parses in none."""
    parsers = _parsers(language)
    first = None
    around = () if "<?php" in code else _AROUND.get(language, ())
    for before, after in (("", ""), *around):
        source = (before + code + after).encode(errors="surrogatepass")
        root = parsers("<?php" in code).parse(source).root_node
        parsed = Parsed(source, root, len(before), len(after))
        if not root.has_error:
            return parsed
        first = first or parsed
    assert first is not None
    return first


def python_docstring(function: Node) -> str | None:
    """The literal of a Python function's docstring, with its quotes; None where it has none.

    Args:
        function: Its node, `function_definition` or what holds one.
    """
    for start, _ in _python_docstring(function):
        for node in _walk(function):
            if node.start_byte == start and node.type in ("string", "concatenated_string"):
                return node.text.decode(errors="surrogatepass")
    return None


def _python_docstring(root: Node) -> list[Span]:
    """The docstring of the first function or class; empty where it has none."""
    definition = _first_definition(root)
    body = None if definition is None else definition.child_by_field_name("body")
    statements = [] if body is None else [c for c in body.named_children if c.type != "comment"]
    if not statements or statements[0].type != "expression_statement":
        return []
    strings = statements[0].named_children
    if len(strings) != 1 or strings[0].type not in ("string", "concatenated_string"):
        return []
    if re.match(rb"[rRuU]*[\"']", strings[0].text) is None:  # bytes or an f-string: no docstring
        return []
    last = statements[0].next_sibling
    if last is None or last.type != ";":
        last = statements[0]
    return [(statements[0].start_byte, last.end_byte)]


def _first_definition(root: Node) -> Node | None:
    """The first function or class, wherever it stands."""
    for node in _walk(root):
        if node.type in ("function_definition", "class_definition"):
            return node
    return None


def _comments(parsed: Parsed) -> Iterator[Span]:
    """The comments before the function, and documentation comments up to its body."""
    leading = True
    for node in _walk(parsed.root):
        if node.start_byte < parsed.before:
            continue
        if node.type in _BODIES or node.start_byte >= len(parsed.source) - parsed.after:
            return
        if "comment" in node.type:
            if leading or node.text.startswith(b"/**"):
                yield node.start_byte, node.end_byte
        elif not node.children and node.type not in ("php_tag", "text"):
            leading = False


def _walk(root: Node) -> Iterator[Node]:
    """The nodes in the order of the source, comments without their insides; no recursion."""
    waiting = [root]
    while waiting:
        node = waiting.pop()
        yield node
        if "comment" not in node.type:
            waiting.extend(reversed(node.children))


def _whole_lines(source: bytes, start: int, stop: int, first: int, last: int) -> Span:
    """The span with the blanks around it, and with the line break where it filled its lines."""
    head = start
    while head > first and source[head - 1] in b" \t":
        head -= 1
    tail = stop
    while tail < last and source[tail] in b" \t\r":
        tail += 1
    if head == first or source[head - 1] in b"\n":
        if tail < last and source[tail] in b"\n":
            return head, tail + 1
        return (head, tail) if tail >= last else (start, tail)
    return (head, tail) if tail >= last or source[tail] in b"\n" else (start, tail)


def parse(source: str, language: str) -> Node:
    r"""The root of the syntax tree of a whole file.

    Raises:
        ValueError: If the language is none of `PARSED`.
        ImportError: If tree-sitter or the language's grammar is not installed.

    Example:

    ```pycon
    >>> from cptk.docstrings import parse
    >>> parse("func F() int { return 1 }", "go").type
    'source_file'

    ```
    """
    return _parsers(language)(True).parse(source.encode(errors="surrogatepass")).root_node


def _parsers(language: str) -> Callable[[bool], Parser]:
    return _known_parsers(checks.choice("language", language, PARSED))


@cache
def _known_parsers(language: str) -> Callable[[bool], Parser]:
    """A function from whether the code has PHP's opening tag to the parser that takes it."""
    purpose = f"Reading {language} code"
    tree_sitter = optional.load("tree_sitter", purpose, "tree-sitter", "code")
    name = "typescript" if language == "tsx" else language
    grammar = optional.load(f"tree_sitter_{name}", purpose, f"tree-sitter-{name}", "code")

    @cache
    def parser(with_tag: bool) -> Parser:
        names = {"typescript": "language_typescript", "tsx": "language_tsx"}
        names["php"] = "language_php" if with_tag else "language_php_only"
        found = getattr(grammar, names.get(language, "language"))()
        made: Parser = tree_sitter.Parser(tree_sitter.Language(found))
        return made

    return parser
