"""A table as text, Markdown and HTML."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

Rows: TypeAlias = Sequence[Sequence[str]]


class Table(NamedTuple):
    """What a report or a comparison shows: a table, and notes below it."""

    header: list[str]
    rows: list[list[str]]
    notes: list[str]


def as_text(header: Sequence[str], rows: Rows) -> str:
    """Columns padded to their widest cell; figures to the right."""
    lines = [list(header), *map(list, rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(header))]
    right = [all(_numeric(row[i]) for row in rows) and bool(rows) for i in range(len(header))]
    text = [
        "  ".join(
            cell.rjust(width) if to_right else cell.ljust(width)
            for cell, width, to_right in zip(line, widths, right, strict=True)
        ).rstrip()
        for line in lines
    ]
    return "\n".join([text[0], "  ".join("─" * width for width in widths), *text[1:]])


def as_markdown(header: Sequence[str], rows: Rows) -> str:
    """A table of GitHub's Markdown."""
    escaped = [[cell.replace("|", "\\|").replace("\n", " ") for cell in row] for row in rows]
    rules = [
        "---:" if rows and all(_numeric(r[i]) for r in rows) else "---" for i in range(len(header))
    ]
    return "\n".join("| " + " | ".join(line) + " |" for line in [list(header), rules, *escaped])


def as_html(header: Sequence[str], rows: Rows) -> str:
    """An HTML table, every cell escaped."""
    head = "".join(f"<th>{html.escape(cell)}</th>" for cell in header)
    body = "".join(
        "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _numeric(cell: str) -> bool:
    return cell[:1].isdigit() or cell[:2].lstrip("-+")[:1].isdigit() or cell == ""
