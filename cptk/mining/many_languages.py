"""Functions with their documentation, in CodeSearchNet's six languages and TypeScript.

Code is read by tree-sitter, and never run. A file that does not parse gives what does parse.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa

from cptk.data.pairs import Pairs
from cptk.docstrings import Node, parse, python_docstring, strip_docstring
from cptk.mining.code import FIELD, TO_DO, count_words
from cptk.mining.documents import Document, each_document, provenance

LANGUAGE_OF = {
    ".py": "python", ".java": "java", ".go": "go", ".php": "php", ".rb": "ruby",
    ".js": "javascript", ".mjs": "javascript", ".cjs": "javascript", ".jsx": "javascript",
    ".ts": "typescript", ".mts": "typescript", ".cts": "typescript", ".tsx": "tsx",
}  # fmt: skip
"""Languages by the ending of a file's name."""

_FUNCTIONS = {
    "python": {"function_definition"},
    "java": {"method_declaration", "constructor_declaration"},
    "go": {"function_declaration", "method_declaration"},
    "php": {"function_definition", "method_declaration"},
    "ruby": {"method", "singleton_method"},
    "javascript": {"function_declaration", "generator_function_declaration", "method_definition"},
}
_FUNCTIONS["typescript"] = _FUNCTIONS["tsx"] = _FUNCTIONS["javascript"]
_VALUES = {"arrow_function", "function_expression", "generator_function", "function"}
_NAMED = {
    "class", "class_declaration", "class_definition", "interface_declaration", "enum_declaration",
    "record_declaration", "trait_declaration", "module", "abstract_class_declaration",
    "internal_module",
}  # fmt: skip
"""What gives the functions in it a name before their own."""

# Methods that are documented alike everywhere: CodeSearchNet leaves out constructors and what it
# calls standard extension methods (arXiv:1909.09436, section 3.1). The lists are ours.
_STANDARD = {
    "python": r"__\w+__",
    "java": r"toString|hashCode|equals|finalize|notify|notifyAll|clone|compareTo|wait|getClass",
    "php": r"__\w+",
    "ruby": r"initialize|to_s|inspect|==|eql\?|hash|<=>",
    "go": r"String|init",
    "javascript": r"constructor|toString|toLocaleString|valueOf",
}
_STANDARD["typescript"] = _STANDARD["tsx"] = _STANDARD["javascript"]

# The first line of a part that is no description: a tag, a field, a section, an example.
_SECTION = re.compile(
    r"[@\\]\w+|:\w[\w \t*.,\[\]]*:(?!`)|>>>|```|(args|arguments|parameters|params|returns?|raises"
    r"|throws|yields|examples?|usage|notes?|see also|since|todo|deprecated)\b\s*:?\s*$|-{3,}|={3,}",
    re.IGNORECASE,
)
_DIRECTIVE = re.compile(r"//(go:|export |line |\s*\+build\b|\s*nolint|\s*eslint-|\s*@ts-|/\s*<)|#!")


class Rules(NamedTuple):
    r"""Why a documented function is left out; CodeSearchNet's by default.

    Attributes:
        min_words: Words that its documentation has, at least; a web address has none.
        min_lines: Lines that its code has, at least.
        tests: Whether functions are taken that have "test" in their name.
        standard: Whether constructors and methods such as `toString` are taken.
        undocumented: Whether functions without documentation are taken, with "" as their query:
            for an index of code, not for pairs to train on.

    Example:

    ```pycon
    >>> from cptk.mining import Rules, functions
    >>> files = [("a.rb", "# Adds two numbers up.\ndef add(a, b) = a + b")]
    >>> len(list(functions(files))), len(list(functions(files, rules=Rules(min_lines=1))))
    (0, 1)

    ```
    """

    min_words: int = 3
    min_lines: int = 3
    tests: bool = False
    standard: bool = False
    undocumented: bool = False


class _Found(NamedTuple):
    """A function as it stands in its file."""

    name: str
    documentation: str
    code: str
    line: int
    end_line: int


_TEXTS = ("query", "document", "name", "language", "path", "source", "license")
_SCHEMA = pa.schema(
    [*((name, pa.string()) for name in _TEXTS), ("line", pa.int64()), ("end_line", pa.int64())]
)


def functions(
    files: Iterable[tuple[str, ...]],
    *,
    rules: Rules | None = None,
    counts: Counter[str] | None = None,
) -> Iterator[Pairs]:
    r"""The documented functions and methods of code files in any of eight languages.

    Python, Java, JavaScript, TypeScript (`.ts` and `.tsx`), Go, Ruby and PHP, by the endings of the
    files. Functions in other functions are part of their code. The documentation is the docstring,
    or the comments that stand right before the function; its first paragraph, on one line, without
    the marks of a comment, is the query. It is taken out of the code, and nothing else is touched
    but the common indentation. Of a file that does not parse, what does parse is taken.

    Args:
        files: `Document`s, as the readers give them, or tuples of a path and a text. They are read
            one by one, and none is held.
        rules: What is left out. Default: `Rules()`, CodeSearchNet's.
        counts: Is told how many functions were taken ("taken"), by which rule the others fell, and
            how many files were in no such language.

    Returns:
        An iterator of `Pairs`, one for each file that has any: `query`, `document`, `name` (with
        the classes around it), `language`, the file's `path`, `source` and `license`, `line` (where
        the function begins, from 1) and `end_line`.

    Raises:
        TypeError: A file that is no tuple of two strings.
        ImportError: tree-sitter or a grammar is not installed: `pip install "cptk[code]"`.

    Example:

    ```pycon
    >>> from collections import Counter
    >>> from cptk.mining import functions
    >>> go = "// Area gives the area of a square.\nfunc Area(a int) int {\n\treturn a * a\n}"
    >>> counts = Counter()
    >>> (pairs,) = functions([("a.go", go + "\n// x\nfunc G() {}"), ("b.c", "")], counts=counts)
    >>> pairs[0]["query"], pairs[0]["name"], pairs[0]["line"]
    ('Area gives the area of a square.', 'Area', 2)
    >>> sorted(counts.items())
    [('no such language', 1), ('short documentation', 1), ('taken', 1)]

    ```

    References:
        Husain et al. 2019, CodeSearchNet Challenge, arXiv:1909.09436, section 3.1. Its filters for
        near copies are `cptk.mining.deduplicate`'s task.
    """
    rules = Rules() if rules is None else rules
    counts = Counter() if counts is None else counts
    for file in each_document(files):
        language = LANGUAGE_OF.get(Path(file.path).suffix.lower())
        if language is None:
            counts["no such language"] += 1
            continue
        pairs = _pairs_in(file, language, rules, counts)
        if len(pairs):
            yield pairs


def _pairs_in(file: Document, language: str, rules: Rules, counts: Counter[str]) -> Pairs:
    rows = []
    for found in _found_in(file.text, language, counts, rules.undocumented):
        reason = _refused(found, language, rules)
        counts[reason or "taken"] += 1
        if reason is None:
            texts = {"query": found.documentation, "document": found.code, "name": found.name}
            rows.append({**texts, "language": language, **provenance(file),
                         "line": found.line, "end_line": found.end_line})  # fmt: skip
    return Pairs._of(pa.Table.from_pylist(rows, schema=_SCHEMA))


def _refused(found: _Found, language: str, rules: Rules) -> str | None:
    """The rule by which a function falls."""
    name = re.split(r"[.:#]", found.name)[-1]
    if not found.documentation and not rules.undocumented:
        return "no documentation"
    if found.documentation and count_words(found.documentation) < rules.min_words:
        return "short documentation"
    if len(found.code.splitlines()) < rules.min_lines:
        return "short code"
    if not rules.tests and "test" in name.lower():
        return "test"
    if not rules.standard and (
        re.fullmatch(_STANDARD[language], name) or found.name.endswith(f"{name}.{name}")
    ):
        return "standard method"
    try:
        (found.documentation + found.code).encode()
    except UnicodeEncodeError:
        return "not Unicode"
    return None


# === Where functions stand ===


def _found_in(
    source: str, language: str, counts: Counter[str], undocumented: bool
) -> Iterator[_Found]:
    """The functions that have a body, in the order of the file; `undocumented` ones with code."""
    root = parse(source, language)
    data = source.encode(errors="surrogatepass")
    # With the comments before a node: Ruby's stand before the body whose first method they are of.
    waiting: list[tuple[Node, str, list[Node]]] = [(root, "", [])]
    while waiting:
        node, prefix, comments = waiting.pop()
        below = []
        decorated: int | None = None  # where the decorators before a child begin
        for child in node.children:
            if child.type == "decorator":
                decorated = child.start_byte if decorated is None else decorated
                continue
            begin, decorated = child.start_byte if decorated is None else decorated, None
            if "comment" in child.type:
                if _after_code(data, child):
                    comments = []
                    continue
                if comments and not _adjacent(data, comments[-1].end_byte, child.start_byte):
                    comments = []
                comments.append(child)
                continue
            if child.type == "attribute_list":
                continue
            found = _function(child, language)
            if found is None:
                below.append((child, prefix + _own_name(child), comments))
            else:
                name, function = found
                if function.has_error:
                    counts["does not parse"] += 1
                elif function.child_by_field_name("body") is None and language != "ruby":
                    counts["no body"] += 1
                elif language == "python" and _only_declares(function):
                    counts["only declares"] += 1
                else:
                    near = comments and _adjacent(data, comments[-1].end_byte, begin)
                    yield _read(data, begin, child, function, prefix + name,
                                comments if near else [], language, undocumented)  # fmt: skip
            comments = []
        waiting.extend(reversed(below))


def _adjacent(data: bytes, end: int, start: int) -> bool:
    """Whether no blank line stands between."""
    between = data[end - 1 : start]  # some grammars take the end of the line into the comment
    return not data[end:start].strip() and between.count(b"\n") < 2


def _after_code(data: bytes, comment: Node) -> bool:
    """Whether a comment of one line is about the code before it on its line."""
    head = data.rfind(b"\n", 0, comment.start_byte) + 1
    block = data.startswith(b"/*", comment.start_byte)
    return not block and bool(data[head : comment.start_byte].strip())


def _own_name(node: Node) -> str:
    """The name that a class or module gives what is in it, with a dot; or ""."""
    name = node.child_by_field_name("name") if node.type in _NAMED else None
    return "" if name is None else f"{name.text.decode(errors='replace')}."


def _function(node: Node, language: str) -> tuple[str, Node] | None:
    """Name and node of the function that a statement declares; None where it declares none."""
    kinds = _FUNCTIONS[language]
    if node.type in kinds:
        return _named(node, language), node
    if node.type == "decorated_definition":
        inner = node.child_by_field_name("definition")
        return None if inner is None else _function(inner, language)
    if language == "ruby" and node.type == "call":  # private def f
        arguments = node.child_by_field_name("arguments")
        inside = [] if arguments is None else arguments.named_children
        if len(inside) == 1 and inside[0].type in kinds:
            return _named(inside[0], language), inside[0]
    if language in ("javascript", "typescript", "tsx"):
        return _assigned(node, language)
    return None


def _assigned(node: Node, language: str) -> tuple[str, Node] | None:
    """JavaScript's other ways to declare a function: exported, or the value of something named."""
    if node.type == "export_statement":
        for field in ("declaration", "value"):
            inner = node.child_by_field_name(field)
            if inner is not None and inner.type in _VALUES:
                return "default", inner
            if inner is not None:
                return _function(inner, language)
        return None
    if node.type in ("lexical_declaration", "variable_declaration"):
        declared = [c for c in node.named_children if c.type == "variable_declarator"]
        return _value(declared[0], "name", "value") if len(declared) == 1 else None
    if node.type == "expression_statement" and node.named_children:
        inner = node.named_children[0]
        if inner.type == "assignment_expression":
            return _value(inner, "left", "right")
    if node.type == "pair":
        return _value(node, "key", "value")
    if node.type in ("field_definition", "public_field_definition"):
        name = "name" if node.child_by_field_name("name") is not None else "property"
        return _value(node, name, "value")
    return None


def _value(node: Node, name: str, value: str) -> tuple[str, Node] | None:
    left, right = node.child_by_field_name(name), node.child_by_field_name(value)
    if left is None or right is None or right.type not in _VALUES:
        return None
    return left.text.decode(errors="replace").removeprefix("module.exports."), right


def _named(node: Node, language: str) -> str:
    name = node.child_by_field_name("name")
    found = "" if name is None else name.text.decode(errors="replace")
    receiver = node.child_by_field_name("receiver") if language == "go" else None
    if receiver is not None:
        types = re.findall(rb"\w+", receiver.text.split(b"[")[0])
        found = f"{types[-1].decode(errors='replace')}.{found}" if types else found
    return found


# === What stands there ===


def _read(
    data: bytes,
    begin: int,
    node: Node,
    function: Node,
    name: str,
    comments: list[Node],
    language: str,
    undocumented: bool,
) -> _Found:
    """Code and documentation of a function."""
    line, end_line = function.start_point[0] + 1, node.end_point[0] + 1
    if language == "python":
        documentation = _of_docstring(python_docstring(function))
    else:
        marked = _of_comments([c.text.decode(errors="surrogatepass") for c in comments])
        documentation = _without_markup(marked)
    if not documentation and not undocumented:  # it falls, whatever its code: most functions do
        return _Found(name, "", "", line, end_line)
    text = data[begin : node.end_byte].decode(errors="surrogatepass")
    head = data.rfind(b"\n", 0, begin) + 1
    margin = data[head:begin].decode(errors="surrogatepass")
    if not margin.strip():
        text = _dedented(text, margin)
    code = strip_docstring(text, language) if documentation else text
    return _Found(name, documentation, code, line, end_line)


def _dedented(text: str, margin: str) -> str:
    first, *rest = text.split("\n")
    return "\n".join([first, *(line.removeprefix(margin) for line in rest)])


def _of_docstring(literal: str | None) -> str:
    """The first paragraph of a docstring, of its literal."""
    if literal is None:
        return ""
    body = re.fullmatch(r"[rRuU]*('''|\"\"\"|'|\")(.*)\1", literal.strip(), re.DOTALL)
    return _first_paragraph(body[2].split("\n")) if body else ""


def _only_declares(function: Node) -> bool:
    """Whether a Python function does nothing but pass, or raise NotImplementedError."""
    body = function.child_by_field_name("body")
    statements = [] if body is None else body.named_children
    return all(
        node.type in ("pass_statement", "comment")
        or (node.type == "raise_statement" and b"NotImplemented" in node.text)
        or re.fullmatch(rb"\.\.\.|[rRuU]*[\"'].*", node.text, re.DOTALL) is not None
        for node in statements
    )


def _of_comments(comments: list[str]) -> str:
    """The first paragraph of the comments before a function."""
    documenting = [c for c in comments if c.startswith(("/**", "=begin"))] or comments
    if documenting and documenting[-1].startswith(("/*", "=begin")):
        documenting = documenting[-1:]  # the last block alone belongs to the function
    lines: list[str] = []
    for comment in documenting:
        if comment.startswith("/*"):
            inner = comment.removeprefix("/*").removesuffix("*/").strip("*!")
            lines += [re.sub(r"^\s*\*+ ?", "", line) for line in inner.split("\n")]
        elif comment.startswith("=begin"):
            lines += comment.split("\n")[1:-1]
        elif not _DIRECTIVE.match(comment):
            lines += [re.sub(r"^\s*(//+!?|#+)", "", line) for line in comment.split("\n")]
    return _first_paragraph(lines)


def _first_paragraph(lines: list[str]) -> str:
    """The first paragraph of documentation on one line; "" where it has none."""
    kept: list[str] = []
    for line in lines:
        words = re.sub(r"</?(p|br)\s*/?>", "\0", line, flags=re.IGNORECASE).strip()
        if not words.strip("\0") or _is_section(words.lstrip("\0"), first=not kept):
            if kept or words.strip("\0"):
                break
            continue
        if kept and words.startswith("\0"):
            break
        kept.append(words.strip("\0").split("\0")[0])
        if "\0" in words.strip("\0"):
            break
    return " ".join(" ".join(kept).split())


def _is_section(line: str, first: bool) -> bool:
    """Whether a line begins what is no description; `first`, whether it is the first one."""
    found = _SECTION.match(line) or FIELD.match(line) or (first and TO_DO.match(line))
    return bool(found)


def _without_markup(text: str) -> str:
    """Without Javadoc's inline tags, and without HTML's."""
    text = re.sub(r"\{@(?:code|link|linkplain|literal)\s+([^{}]*)\}", r"\1", text)
    return " ".join(re.sub(r"\{@\w+[^{}]*\}|</?[a-zA-Z][^<>]*>", "", text).split())
