"""What pyproject.toml promises: every import is declared, every kept file is in the sdist."""

import ast
import shutil
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
PROJECT = PYPROJECT["project"]
# Distributions that are not called like what one imports, in case they are not installed here.
NAMES = {
    "keras_hub": "keras-hub",
    "pytrec_eval": "pytrec-eval-terrier",
    "sentence_transformers": "sentence-transformers",
    "sklearn": "scikit-learn",
    "tree_sitter": "tree-sitter",
    "umap": "umap-learn",
}


def imported(folder: Path) -> set[str]:
    """The top-level names that the files of a folder import, inside functions too."""
    found = set()
    for file in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, ast.Import):
                found |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                found.add(str(node.module).partition(".")[0])
    return found - set(sys.stdlib_module_names) - {"cptk"}


def declared() -> set[str]:
    lists = [PROJECT["dependencies"], *PROJECT["optional-dependencies"].values()]
    return {canonicalize_name(Requirement(line).name) for lines in lists for line in lines}


def test_every_import_is_declared() -> None:
    wanted = {canonicalize_name(NAMES.get(name, name)) for name in imported(ROOT / "cptk")}
    assert {"h5py", "joblib", "threadpoolctl"} <= wanted
    assert wanted - declared() == set()


def test_lower_bounds_are_not_above_what_the_tests_run_on() -> None:
    lines = PROJECT["dependencies"]
    for requirement in map(Requirement, lines):
        try:
            installed = metadata.version(requirement.name)
        except metadata.PackageNotFoundError:  # TensorFlow may have been removed
            continue
        assert installed in requirement.specifier, f"{requirement}, and {installed} is here"


def test_the_sdist_holds_what_git_keeps() -> None:
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("not a checkout")
    kept = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split("\0")
    tops = {name.partition("/")[0] for name in kept if name}
    sdist = PYPROJECT["tool"]["hatch"]["build"]["targets"]["sdist"]
    assert set(sdist["only-include"]) == tops
    left_out = [name for name in kept if f"/{name}".startswith(tuple(sdist["exclude"]))]
    assert left_out == ["docs/notebooks"]


def test_project_urls_are_addresses_and_no_index() -> None:
    assert PROJECT["urls"]
    for address in PROJECT["urls"].values():
        assert address.startswith("https://")
        assert "pypi" not in address
