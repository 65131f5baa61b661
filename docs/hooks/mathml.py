"""Turns the formulas that `pymdownx.arithmatex` has marked into MathML, at build time."""

import html
import re
from typing import Any

from latex2mathml.converter import convert

FORMULA = re.compile(
    r'<(span|div) class="arithmatex">\s*\\(?:\(|\[)(?P<latex>.*?)\\(?:\)|\])\s*</\1>', re.DOTALL
)


def on_page_content(content: str, **_: Any) -> str:
    def to_mathml(match: re.Match[str]) -> str:
        display = "inline" if match[1] == "span" else "block"
        return convert(html.unescape(match["latex"]).strip(), display=display)

    return FORMULA.sub(to_mathml, content)
