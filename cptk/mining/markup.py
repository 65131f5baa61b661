"""Markdown and reStructuredText as plain text: headings as `# ` lines, code four spaces in."""

from __future__ import annotations

import re
from collections.abc import Iterator

_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})")
_ATX = re.compile(r" {0,3}(#{1,6})[ \t]+(.*?)(?:[ \t]+#+)?[ \t]*$")
_SETEXT = re.compile(r" {0,3}(=+|-+)[ \t]*$")
_BLOCK = re.compile(r" {0,3}([-*+>#|]|\d+[.)] )")
_RULE = re.compile(r" {0,3}([-*_])[ \t]*(\1[ \t]*){2,}$")
_ADORNMENT = re.compile(r"([!-/:-@[-`{-~])\1+[ \t]*$")
_DIRECTIVE = re.compile(r"\.\. ([\w:.+-]+)::[ \t]*(.*)$")
_CODE = frozenset("code code-block sourcecode literalinclude parsed-literal math doctest".split())
_NO_TEXT = frozenset(
    "image figure toctree include index contents raw csv-table only highlight module "
    "currentmodule automodule autoclass autofunction tabularcolumns default-role kernel-doc".split()
)

# Tags and links are looked for within a length, so that no text costs quadratic time.
_MARKDOWN = (
    (re.compile(r"!\[[^\]\n]{0,500}\](\([^)\n]{0,2000}\)|\[[^\]\n]{0,200}\])"), ""),
    (re.compile(r"\[([^\[\]\n]{0,500})\](?:\([^)\n]{0,2000}\)|\[[^\]\n]{0,200}\])"), r"\1"),
    (re.compile(r"<(https?://[^<>\s]{1,2000})>"), r"\1"),
    (re.compile(r"</?[A-Za-z][^<>\n]{0,500}>"), ""),
    (re.compile(r"(\*\*|__)(?=\S)([^*_\n]{1,500}?)(?<=\S)\1"), r"\2"),
    (re.compile(r"(?<![\w*])([*_])(?=\S)([^*_\n]{1,500}?)(?<=\S)\1(?![\w*])"), r"\2"),
    (re.compile(r"`+([^`\n]{1,500})`+"), r"\1"),
    (re.compile(r"\\([!-/:-@\[-`{-~])"), r"\1"),
)
_RST = (
    (re.compile(r"``([^`\n]{1,500})``"), r"\1"),
    (re.compile(r":[\w:.+-]{1,50}:`([^`<]{1,500}?)(?:\s*<[^`<>]{1,500}>)?`"), r"\1"),
    (re.compile(r"`([^`<]{1,500}?)\s*<[^`<>]{1,500}>`__?"), r"\1"),
    (re.compile(r"`([^`]{1,500})`_{0,2}"), r"\1"),
    (re.compile(r"(\*\*?)(?=\S)([^*\n]{1,500}?)(?<=\S)\1"), r"\2"),
    (re.compile(r" ?\[(?:#[\w-]*|\d+|\*)\]_"), ""),
    (re.compile(r"\|([^|\s][^|\n]{0,100})\|_?"), r"\1"),
)


def of_markdown(text: str) -> str:
    r"""Markdown without its marks.

    Example:

    ```pycon
    >>> from cptk.mining.markup import of_markdown
    >>> of_markdown("Title\n=====\nSee [the *manual*](https://example.org).")
    '# Title\nSee the manual.'

    ```
    """
    text = re.sub(r"\A---\n(?:.*\n)*?(?:---|\.\.\.)\n", "", text)  # front matter
    text = re.sub(r"<!--[\s\S]{0,5000}?-->", "", text)
    return _joined(_markdown_lines(text.split("\n")))


def _markdown_lines(lines: list[str]) -> Iterator[str]:
    fence = ""
    for number, line in enumerate(lines):
        mark = _FENCE.match(line)
        if fence:
            if mark and mark[1].startswith(fence) and not line[mark.end() :].strip():
                fence = ""
            else:
                yield f"    {line}".rstrip()
        elif mark:
            fence = mark[1]
        elif heading := _ATX.match(line):
            yield f"{heading[1]} {_bare(heading[2], _MARKDOWN)}"
        elif _under(lines, number):
            continue
        elif _under(lines, number + 1):
            level = "#" if lines[number + 1].lstrip().startswith("=") else "##"
            yield f"{level} {_bare(line.strip(), _MARKDOWN)}"
        elif _RULE.match(line) or re.match(r" {0,3}\[[^\]\n]{1,200}\]:[ \t]*\S", line):
            continue
        elif line.startswith(("    ", "\t")):
            yield line.rstrip()
        else:
            yield _bare(re.sub(r"^ {0,3}(?:> ?)+", "", line), _MARKDOWN)


def _under(lines: list[str], number: int) -> bool:
    """Whether a line underlines the one above it: a heading as Setext has it."""
    if not 0 < number < len(lines) or not _SETEXT.match(lines[number]):
        return False
    above = lines[number - 1]
    return bool(above.strip()) and not (above.startswith("    ") or _BLOCK.match(above))


def of_rst(text: str) -> str:
    r"""ReStructuredText without its marks; levels of headings in the order of their first use.

    Example:

    ```pycon
    >>> from cptk.mining.markup import of_rst
    >>> of_rst("Title\n=====\n\nSee :ref:`the manual <manual>`.\n\n.. _here:\n")
    '# Title\n\nSee the manual.'

    ```
    """
    return _joined(_rst_lines(text.split("\n")))


def _rst_lines(lines: list[str]) -> Iterator[str]:
    levels: dict[str, int] = {}
    number, dropped, code = 0, -1, -1  # `dropped`, `code`: of the block whose lines are deeper
    while number < len(lines):
        line = lines[number]
        depth = len(line) - len(line.lstrip())
        number += 1
        if line.strip():
            dropped = dropped if depth > dropped else -1
            code = code if depth > code else -1
        if dropped >= 0:
            continue
        if code >= 0:
            if not re.fullmatch(r"\s+:[\w-]+:.*", line):  # an option of the directive
                yield f"    {line}".rstrip()
            continue
        heading = _rst_heading(lines, number - 1)
        if heading:
            style, title, taken = heading
            level = min(levels.setdefault(style, len(levels) + 1), 6)
            yield f"{'#' * level} {_bare(title, _RST)}"
            number += taken - 1
            continue
        stripped = line.strip()
        if _ADORNMENT.fullmatch(stripped) and len(stripped) > 3:  # a transition, a table's edge
            continue
        if stripped == ".." or stripped.startswith(".. "):
            directive = _DIRECTIVE.match(stripped)
            if directive is None or directive[1].rpartition(":")[2] in _NO_TEXT:
                dropped = depth  # comments, targets, substitutions, pictures
            elif directive[1] in _CODE:
                code = depth
            elif directive[2]:
                yield _bare(directive[2], _RST)
            continue
        if re.fullmatch(r":[\w -]+:(\s.*)?", stripped):  # fields
            continue
        if stripped.endswith("::"):
            code = depth
            stripped = stripped[:-1] if stripped != "::" else ""
        yield _bare(stripped, _RST)


def _rst_heading(lines: list[str], number: int) -> tuple[str, str, int] | None:
    """(style, title, lines that it takes) of the heading that begins at a line."""
    first, second, third = (*lines[number : number + 3], "", "")[:3]
    over = _ADORNMENT.fullmatch(first)
    if over and second.strip() and third.strip() == first.strip():
        return over[1] * 2, second.strip(), 3
    under = _ADORNMENT.fullmatch(second)
    if under and first.strip() and not over and first[0] not in " \t":
        long_enough = len(second.strip()) >= min(len(first.strip()), 4)
        return (under[1], first.strip(), 2) if long_enough else None
    return None


def _bare(text: str, marks: tuple[tuple[re.Pattern[str], str], ...]) -> str:
    for pattern, instead in marks:
        text = pattern.sub(instead, text)
    return text.rstrip()


def _joined(lines: Iterator[str]) -> str:
    """The lines as a text, in which no more than one blank line stands in a row."""
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip("\n")
