"""Libraries that cptk can do without, loaded where they are first needed."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType


def load(module: str, purpose: str, package: str, extra: str, instead: str = "") -> ModuleType:
    """A library that comes with one of cptk's extras, or an error that says how to install it.

    Args:
        module: The name to import.
        purpose: What needs it, as the error's first words: `"BM25"`.
        package: What pip calls it, with the versions that do: `"bm25s"`.
        extra: The extra of cptk that holds it.
        instead: A last sentence for the error: how to do without.

    Raises:
        ImportError: It is not installed, or cannot be imported.

    Example:

    ```pycon
    >>> from cptk import optional
    >>> optional.load("numpy", "This example", "numpy", "eval").__name__
    'numpy'

    ```
    """
    try:
        return import_module(module)
    except ImportError as error:
        raise ImportError(
            f"{purpose} needs {package} ({error}). Run `pip install {package.split()[0]}`, or "
            f'install cptk[{extra}] from its checkout: `pip install ".[{extra}]"`.'
            + (f" {instead}" if instead else "")
        ) from error
