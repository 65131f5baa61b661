"""The command line: `cptk mine`, `train`, `encode`, `index`, `search`, `evaluate`, `export`.

Each command is a thin layer over the public API, and lives in a file of its own. Keras is imported
when a command runs, so that `--help` is quick.
"""

from cptk.cli.commands import main

__all__ = ["main"]
