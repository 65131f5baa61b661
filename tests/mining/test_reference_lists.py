"""Functions of real source files, found by other means, are mined with their documentation.

The lists are made by `ast` for Python, whose standard library is at hand, and by regular
expressions over lines for the other languages, of which `CPTK_SOURCES` names a folder: source
files, or archives and Debian's packages of them, as `examples/collect_corpus.py` fetches them. They
hold only what can be told by its look: documentation that begins with words of prose, right before
a function that begins a line.
"""

from __future__ import annotations

import ast
import os
import re
import sysconfig
import warnings
from collections import Counter
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import pytest

from cptk.mining import Rules, functions, read, read_folder
from tests.tiers import FULL

ALL = Rules(min_words=1, min_lines=1, tests=True, standard=True)
FILES = 100_000 if FULL else 300
ARCHIVES = (".deb", ".zip", ".jar", ".tgz", ".gz", ".xz", ".bz2")
PROSE = re.compile(r"[A-Z][a-z]+(?: [a-z]{2,}){3}[^{}<>@\\`*]*")
"""A line that begins with four words, and has no marks in it."""


class Listed(NamedTuple):
    """A documented function as the other list has it."""

    name: str
    line: int
    first: str
    """The first line of its documentation."""


# === Python ===


def python_functions(tree: ast.AST) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
    """Those with a docstring that stand in no other function."""
    found, waiting = [], [tree]
    while waiting:
        for child in ast.iter_child_nodes(waiting.pop()):
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
                found.append(child)
            elif not isinstance(child, ast.Lambda):
                waiting.append(child)
    return [node for node in found if ast.get_docstring(node)]


def without_docstring(node: ast.AST) -> str:
    node.body = node.body[1:]
    return ast.dump(node)


def first_paragraph(docstring: str) -> str:
    return " ".join(docstring.strip().split("\n\n")[0].split())


@pytest.mark.slow
def test_python():
    pytest.importorskip("tree_sitter_python")
    root = sysconfig.get_path("stdlib")
    listed = missed = 0
    for document in islice(read_folder(root, [".py"]), FILES):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                wanted = python_functions(ast.parse(document.text))
        except (SyntaxError, ValueError, RecursionError):
            continue
        mined: dict[str, list] = {}
        for pairs in functions([document], rules=ALL):
            for row in pairs:
                mined.setdefault(row["name"].split(".")[-1], []).append(row)
        for node in wanted:
            docstring = ast.get_docstring(node)
            if "\\" in (ast.get_source_segment(document.text, node.body[0]) or ""):
                continue  # spelt with escapes, which stay as they are written
            if not PROSE.fullmatch(first_paragraph(docstring)) or len(node.body) < 2:
                continue  # no prose, or nothing but documentation
            if all(isinstance(each, ast.Pass | ast.Raise) for each in node.body[1:]):
                continue  # only declares, or raises NotImplementedError
            listed += 1
            rows = mined.get(node.name, [])
            row = next((r for r in rows if r["line"] <= node.lineno <= r["end_line"]), None)
            if row is None:
                missed += 1
                print(f"{document.path}:{node.lineno} {node.name}")
                continue
            where = f"{document.path}:{node.lineno}"
            assert row["query"] == first_paragraph(docstring), where
            (own,) = ast.parse(row["document"]).body
            assert without_docstring(node) == ast.dump(own), where  # nothing else is touched
    assert listed > 200
    assert missed == 0


# === The others ===

DEFINED = {
    "go": r"func (?:\([^)]*\) )?(?P<name>\w+)\(.*\{$",
    "ruby": r"\s*def (?:self\.)?(?P<name>[a-z_]\w*[?!]?)(?:\(.*\)|)$",
    "java": r"\s+(?:(?:public|protected|private|static|final|synchronized) )+"
    r"(?:<[^()=]*> )?[\w.<>\[\], ?]+ (?P<name>\w+)\([^()]*\)(?: throws [\w., ]+)? \{$",
    "php": r"\s*(?:(?:public|protected|private|static|final) )*function &?(?P<name>\w+)\([^()]*\)"
    r"(?:: ?\??[\w\\]+)?(?: ?\{)?$",
    "javascript": r"(?:(?:export )?(?:async )?function |[\w.]+\.(?=\w+ = ))(?P<name>\w+)"
    r"(?: = (?:async )?function(?: \w+)?)? ?\(.*\) ?\{$",
}
"""A line that begins a function with a body, in each language's usual layout."""
ENDINGS = {"go": ".go", "ruby": ".rb", "java": ".java", "php": ".php", "javascript": ".js"}
QUOTED = {"ruby": r"<<[~-]?['\"A-Z]", "php": r"<<<", "javascript": r"`"}
"""Files in which code may stand in a text of several lines are left out."""
LIKELY = {
    "go": "golang", "ruby": "ruby", "java": ".*(java|jackson|commons|ant)", "php": "php",
    "javascript": "node|lodash",
}  # fmt: skip
"""How the names begin of packages that are read first."""
LINE_COMMENTS = {"go": "//", "ruby": "#"}


def listed_in(text: str, language: str) -> list[Listed]:
    """The functions of a file whose documentation can be told by its look."""
    lines = text.split("\n")
    mark = LINE_COMMENTS.get(language)
    found = []
    for number, line in enumerate(lines):
        match = re.match(DEFINED[language], line)
        if match is None or not number:
            continue
        end, margin = number, re.match(r"\s*", line)[0]
        if mark is not None:
            begin = end
            while begin and lines[begin - 1].startswith(margin + mark):
                begin -= 1
            if begin == end or (begin and "*/" in lines[begin - 1]):
                continue
            first = lines[begin].removeprefix(margin + mark)
        else:
            while end and re.match(r"\s*@\w[\w.]*$", lines[end - 1]):  # annotations
                end -= 1
            if lines[end - 1] != f"{margin} */":
                continue
            begin = end - 1
            while begin and not lines[begin].lstrip().startswith("/*"):
                begin -= 1
            if lines[begin] != f"{margin}/**":
                continue
            first = lines[begin + 1].removeprefix(f"{margin} *")
        if first.startswith(" ") and PROSE.fullmatch(first.strip()):
            found.append(Listed(match["name"], number + 1, first.strip()))
    return found


def sources(language: str):
    """Documents of a language, of files and archives."""
    place = os.environ.get("CPTK_SOURCES", "")
    if not place or not Path(place).is_dir():
        pytest.skip("CPTK_SOURCES should name a folder of source files or packages.")
    ending = ENDINGS[language]
    if any(Path(place).rglob(f"*{ending}")):
        yield from read_folder(place, [ending])
    archives = [path for path in Path(place).rglob("*") if path.suffix in ARCHIVES]
    for archive in sorted(archives, key=lambda p: (not re.match(LIKELY[language], p.name), p)):
        try:
            yield from read(archive, [ending])
        except ValueError:  # of another language
            continue


def squeezed(text: str) -> str:
    return "".join(text.split())


@pytest.mark.slow
@pytest.mark.parametrize("language", [*DEFINED])
def test_other_languages(language):
    pytest.importorskip(f"tree_sitter_{language}")
    counts: Counter[str] = Counter()
    for document in islice(sources(language), FILES):
        if re.search(QUOTED.get(language, r"(?!)"), document.text):
            continue
        wanted = listed_in(document.text, language)
        own: Counter[str] = Counter()
        mined: dict[str, list] = {}
        for pairs in functions([document], rules=ALL, counts=own):
            for row in pairs:
                mined.setdefault(re.split(r"[.:#]", row["name"])[-1], []).append(row)
        if own["does not parse"]:
            counts["files that do not parse"] += 1
            continue
        whole = squeezed(document.text)
        for each in wanted:
            counts["listed"] += 1
            where = f"{document.source} {document.path}:{each.line} {each.name}"
            rows = [r for r in mined.get(each.name, []) if r["line"] <= each.line <= r["end_line"]]
            if not rows:
                print("missed:", where)
                counts["missed"] += 1
                continue
            words, query = each.first.split(), rows[0]["query"].split()
            if query[: len(words)] != words:
                print("other documentation:", where, rows[0]["query"][:80])
                counts["other documentation"] += 1
            code = rows[0]["document"]
            head = code.split("{")[0] if language != "ruby" else code.split("\n")[0]
            if each.first in head or squeezed(code) not in whole:
                print("not its code:", where)
                counts["not its code"] += 1
    print(language, dict(counts))
    if not counts["listed"]:
        pytest.skip(f"CPTK_SOURCES holds no {language} code.")
    assert not counts["missed"] + counts["other documentation"] + counts["not its code"]
