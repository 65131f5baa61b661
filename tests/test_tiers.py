"""What runs once is what `tiers.NO_BACKEND` says, and that needs no backend."""

import ast

import keras
import pytest
from tiers import HERE, NO_BACKEND, ONCE

#: Of `keras`, what computes on the backend.
COMPUTES = {"backend", "layers", "losses", "metrics", "ops", "optimizers", "random"}
BACKENDS = {"tensorflow", "jax", "torch"}


def files(names: list[str]) -> list[str]:
    found = [path for name in names for path in sorted((HERE / name).rglob("test_*.py"))]
    found += [HERE / name for name in names if name.endswith(".py")]
    return sorted(path.relative_to(HERE).as_posix() for path in found)


def test_every_name_is_there_once():
    for name in NO_BACKEND + ONCE:
        assert (HERE / name).exists(), f"delete {name} from tests/tiers.py"
    found = files(NO_BACKEND) + files(ONCE)
    assert len(set(found)) == len(found)


@pytest.mark.parametrize("name", files(NO_BACKEND))
def test_no_backend_is_imported(name):
    reached = set()
    for node in ast.walk(ast.parse((HERE / name).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            reached |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            reached |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Attribute):
            reached.add(ast.unparse(node))
    for dotted in reached:
        first, *rest = dotted.split(".")
        assert first not in BACKENDS, f"{name} uses {dotted}"
        assert first != "keras" or not rest or rest[0] not in COMPUTES, f"{name} uses {dotted}"


def test_a_variable_is_refused_where_no_backend_is_declared():
    with pytest.raises(AssertionError, match=r"test_tiers.py is in NO_BACKEND"):
        getattr(keras, "Variable")([1.0])  # noqa: B009
