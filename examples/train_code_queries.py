"""Queries as people type them, out of the names of functions, for `train_code.py`."""

import ast
import re
from typing import Any

import numpy as np

import cptk

FORMS = [
    "{language} {words}", "how to {words} in {language}", "{words} {language}",
    "{language} how to {words}", "{words} in {language}", "{words}",
]  # fmt: skip
COMMENT = {"python": "#", "ruby": "#"}  # and "//" in the others
NAME = "f"  # in place of a function's own


def with_typed_queries(pairs: Any, share: float, seed: int) -> Any:
    """Pairs, a share of them with another query, and another form of the function.

    A documentation is a sentence; who searches types a few words: "python merge two dictionaries".
    The words of a function's name come near to that. The function then has its documentation again,
    as most functions that are searched have, and its name is taken out of it, which would tell the
    answer. Names of a single word say too little, and these pairs stay, as do those without a name.
    """
    if not {"name", "language"} <= {*pairs.columns}:
        return pairs
    rng = np.random.default_rng(seed)
    columns = {name: list(pairs[name]) for name in pairs.columns}
    for i, name in enumerate(columns["name"]):
        words, own = words_of(name), re.split(r"[.:#>]", name)[-1]
        if len(words) < 2 or rng.random() >= share:
            continue
        language = columns["language"][i]
        form = FORMS[rng.integers(len(FORMS))]
        code = documented(columns["document"][i], columns["query"][i], language)
        columns["query"][i] = form.format(language=language, words=" ".join(words))
        columns["document"][i] = re.sub(rf"\b{re.escape(own)}\b", NAME, code)
    return cptk.data.Pairs(columns)


def words_of(name: str) -> list[str]:
    """The words of a name: "Reader.readLine" has "read" and "line"."""
    own = re.split(r"[.:#>]", name)[-1]
    parts = re.sub(r"([a-z0-9])([A-Z])|([A-Z])(?=[A-Z][a-z])", r"\1\3 \2", own)
    return re.findall(r"[a-z0-9]+", parts.lower())


def documented(code: str, documentation: str, language: str) -> str:
    """A function with its documentation where it stands in its language."""
    lines = code.split("\n")
    mark = COMMENT.get(language, "//")
    above = [f"{mark} {line}" for line in documentation.split("\n")]
    if language != "python":
        return "\n".join([*above, *lines])
    try:
        function: Any = ast.parse(code).body[0]
        first = function.body[0]
    except (SyntaxError, ValueError, IndexError, AttributeError):
        return "\n".join([*above, *lines])
    if first.lineno == function.lineno:
        return "\n".join([*above, *lines])
    indent = " " * first.col_offset
    place = first.lineno - 1
    return "\n".join([*lines[:place], f'{indent}"""{documentation}"""', *lines[place:]])
