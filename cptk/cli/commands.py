"""The group of commands, and what all of them share: errors, exit status, JSON."""

from __future__ import annotations

import contextlib
import functools
import json
import math
import os
import sys
import warnings
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

import click

from cptk.version import __version__

COMMANDS = ("mine", "train", "encode", "index", "search", "evaluate", "export")
BACKENDS = ("tensorflow", "jax", "torch")
#: Errors that say what to do. Any other is a fault of ours, and is shown whole.
SAID = (ValueError, TypeError, OSError, ImportError)


class _Commands(click.Group):
    """The commands, each imported when it is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*COMMANDS]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = import_module(f"cptk.cli.{cmd_name}").command
        return command


@click.command(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="cptk")
@click.option(
    "--backend",
    type=click.Choice(BACKENDS),
    help="What Keras computes with. Default: KERAS_BACKEND, else TensorFlow.",
)
def main(backend: str | None) -> None:
    r"""Text and code embedders: mine pairs, train, encode, search, evaluate, export.

    A first session, from pairs to an answer:

    \b
        cptk train pairs.csv --base BASE --out my_embedder
        cptk index my_embedder texts.txt --out my_index
        cptk search my_embedder my_index "how do I open a file?"
        cptk export my_embedder --to sentence-transformers --out for_others

    Every command ends with status 0 when its work is done, 1 when something stood in its way, and 2
    for a wrong command line. Training, vectors and indices that were killed go on when the same
    command is given again.
    """
    if backend is not None:
        os.environ["KERAS_BACKEND"] = backend
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")


def reporting(run: Callable[..., tuple[Mapping[str, Any], str]]) -> Callable[..., None]:
    """A command out of a function that returns its result: as JSON values, and as a text.

    The result alone goes to standard output, one of the two; progress goes to standard error.
    """

    @click.option("--json", "as_json", is_flag=True, help="Print the result as one JSON object.")
    @functools.wraps(run)
    def command(as_json: bool, **options: Any) -> None:
        try:
            with contextlib.redirect_stdout(sys.stderr), warnings.catch_warnings():
                warnings.showwarning = _shown
                found, text = run(**options)
        except SAID as error:
            message = " ".join(str(error).split()) or type(error).__name__
            raise click.ClickException(message) from error
        except KeyboardInterrupt:
            raise click.ClickException("Interrupted.") from None
        click.echo(json.dumps(_plain(found), indent=1, allow_nan=False) if as_json else text)

    return command


def _plain(value: Any) -> Any:
    """A value as JSON has it: null for a number that is none, text for what it does not know."""
    if isinstance(value, Mapping):
        return {str(name): _plain(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, str | int):
        return value
    return value.item() if hasattr(value, "item") else str(value)


def _shown(message: Warning | str, *_: object, **__: object) -> None:
    """A warning in one line, without the line of code that gave it."""
    click.echo(f"Warning: {' '.join(str(message).split())}", err=True)
