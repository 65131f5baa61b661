"""How many parameters and returns of `cptk/` say nothing of their type: bare `Any`.

Run as a script it counts them by file: `python tests/any_share.py`.
"""

from __future__ import annotations

import ast
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "cptk"


def counted(folder: Path = PACKAGE) -> dict[str, tuple[int, int]]:
    """For each file, its annotations of parameters and returns: bare `Any`, and all."""
    found = {}
    for file in sorted(folder.rglob("*.py")):
        annotations = [
            annotation
            for node in ast.walk(ast.parse(file.read_text()))
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
            for annotation in _annotations(node)
        ]
        bare = sum(ast.unparse(node).removeprefix("typing.") == "Any" for node in annotations)
        found[str(file.relative_to(folder))] = (bare, len(annotations))
    return found


def share(counts: dict[str, tuple[int, int]]) -> float:
    """Bare `Any` among all annotations."""
    return sum(bare for bare, _ in counts.values()) / sum(every for _, every in counts.values())


def _annotations(node: ast.FunctionDef | ast.AsyncFunctionDef) -> list[ast.expr]:
    arguments = node.args
    parameters = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
    parameters += [extra for extra in (arguments.vararg, arguments.kwarg) if extra is not None]
    annotations = [parameter.annotation for parameter in parameters] + [node.returns]
    return [annotation for annotation in annotations if annotation is not None]


if __name__ == "__main__":
    counts = counted()
    for name, (bare, every) in sorted(counts.items(), key=lambda item: -item[1][0]):
        if bare:
            print(f"{bare:4} of {every:4}  {name}")
    print(f"{share(counts):.1%} of {sum(every for _, every in counts.values())}")
