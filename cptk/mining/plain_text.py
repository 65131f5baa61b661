"""Prose in the formats that people write it in, as plain text with headings as `# ` lines."""

from __future__ import annotations

import re
from typing import Final

from cptk import optional
from cptk.mining.documents import LeftOut
from cptk.mining.man_pages import of_man
from cptk.mining.markup import of_markdown, of_rst

_FORMATS: Final = {
    ".html": "html",
    ".htm": "html",
    ".xhtml": "html",
    ".md": "markdown",
    ".markdown": "markdown",
    ".rst": "rst",
    ".rest": "rst",
}
_SECTION = re.compile(r".*\.[1-9][a-z]*", re.DOTALL)
_ROFF = re.compile(r"^[.'][ \t]*(TH|Dd|Dt)[ \t]", re.MULTILINE)


def format_of(path: str) -> str | None:
    """The format that a file's name says: "html", "markdown", "rst", "man", or None for others."""
    name = path.rpartition("/")[2].lower()
    _, dot, ending = name.rpartition(".")
    found = _FORMATS.get(dot + ending)
    return found or ("man" if _SECTION.fullmatch(name) else None)


def is_roff(text: str) -> bool:
    """Whether a text has the title that each manual page begins with."""
    return _ROFF.search(text[:20_000]) is not None


def of_text(text: str, form: str) -> tuple[str, str]:
    """(plain text, title) of Markdown, reStructuredText or a manual page."""
    if form == "man":
        return of_man(text)
    text = of_markdown(text) if form == "markdown" else of_rst(text)
    heading = re.search(r"^#+ (.*)", text, re.MULTILINE)
    return text, heading[1] if heading else ""


def of_html(data: bytes | str) -> tuple[str, str]:
    """(main text, title) of a web page, without its navigation, by trafilatura.

    Raises:
        LeftOut: It holds no main text ("no main text"), or is no page ("not readable").
        ImportError: trafilatura is not installed.
    """
    trafilatura = optional.load(
        "trafilatura",
        "The main text of web pages",
        "trafilatura",
        "web",
        "Or name `endings` that leave web pages out.",
    )
    if (b"\0" if isinstance(data, bytes) else "\0") in data:  # type: ignore[operator]
        raise LeftOut("binary")
    try:
        tree = trafilatura.load_html(data)
        if tree is None:
            raise LeftOut("not readable")
        title = " ".join((tree.findtext(".//title") or "").split())
        text = trafilatura.extract(tree, output_format="markdown", include_comments=False)
    except LeftOut:
        raise
    except Exception:  # whatever a parser thinks of a stranger's page: the next one is read
        raise LeftOut("not readable") from None
    if not text:
        raise LeftOut("no main text")
    return of_markdown(text), title
