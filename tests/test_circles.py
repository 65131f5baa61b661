"""No import circle inside a room or between rooms, lazy and typing imports included.

import-linter leaves imports under `TYPE_CHECKING` out and `import_module("...")` too, which hide a
circle rather than mend it. Run as a script, this file prints the circles of the whole package.
"""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "cptk"


def module_name(file: Path) -> str:
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def import_graph() -> dict[str, set[str]]:
    """Each module of the package, and the modules that it imports anywhere in its text."""
    files = {module_name(file): file for file in sorted(PACKAGE.rglob("*.py"))}
    return {name: imported(file, set(files)) - {name} for name, file in files.items()}


def imported(file: Path, modules: set[str]) -> set[str]:
    """The modules that a file imports: at its top, in a function, for typing, or by a string.

    `from package import module` is an import of the module. `from package import name` is one of
    the package's `__init__`.
    """
    names: list[str] = []
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: a relative import"
            source = node.module or ""
            inner = [f"{source}.{alias.name}" for alias in node.names]
            names += [name if name in modules else source for name in inner]
        elif isinstance(node, ast.Call) and "import_module" in ast.unparse(node.func):
            names += [part.value for part in node.args if isinstance(part, ast.Constant)]
    return modules & set(names)


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Strongly connected components of two modules or more."""
    reached = {name: reachable(graph, name) for name in graph}
    found = {
        tuple(sorted(other for other in reached[name] if name in reached[other]))
        for name in graph
        if name in reached[name]
    }
    return [list(circle) for circle in sorted(found)]


def reachable(graph: dict[str, set[str]], start: str) -> set[str]:
    """What a module imports, directly or by others."""
    seen: set[str] = set()
    waiting = [start]
    while waiting:
        new = graph[waiting.pop()] - seen
        seen |= new
        waiting += new
    return seen


def test_a_circle_is_found_wherever_its_imports_stand(tmp_path: Path) -> None:
    modules = {"cptk.a", "cptk.b", "cptk.c", "cptk.d"}
    texts = {
        "cptk.a": "if TYPE_CHECKING:\n    from cptk import b",
        "cptk.b": "def f():\n    import_module('cptk.c')",
        "cptk.c": "from cptk.a import name",
        "cptk.d": "import cptk.a",
    }
    graph = {}
    for name, text in texts.items():
        file = tmp_path / f"{name}.py"
        file.write_text(text)
        graph[name] = imported(file, modules)
    assert circles(graph) == [["cptk.a", "cptk.b", "cptk.c"]]


def test_no_circle_anywhere() -> None:
    assert circles(import_graph()) == [], "move what both sides need into a module below them"


if __name__ == "__main__":
    for circle in circles(import_graph()):
        print(*circle)
