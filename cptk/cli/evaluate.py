"""`cptk evaluate`: what an embedder is good for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from cptk.cli.commands import reporting
from cptk.cli.inputs import OUTPUT, dtype_option, embedder_of, new_file


@click.command()
@click.argument("embedder")
@click.option(
    "--tasks", default="all", show_default=True, help="Names of tasks or groups, with commas."
)
@click.option("--split", type=click.Choice(["train", "validation", "test"]))
@click.option("--out", type=OUTPUT, help="A file for the report: .json, .md or .png.")
@click.option("--cache", type=OUTPUT, help="Folder that keeps embeddings for the next time.")
@dtype_option
@reporting
def command(
    embedder: str, tasks: str, split: str | None, out: Path | None, cache: Path | None,
    compute_dtype: str,
) -> tuple[dict[str, Any], str]:  # fmt: skip
    r"""Evaluate EMBEDDER, a preset or a folder, on tasks.

    Tasks whose data is not here are named and passed over. With --cache, a command that was killed
    embeds no text again.

    \b
    Examples:
        cptk evaluate my_embedder --tasks sst2 --out report.json
        cptk evaluate my_embedder --tasks stsb,cranfield --split validation
    """
    from cptk import evaluation
    from cptk.cli.report_file import ENDINGS, write

    if out is not None:
        new_file(out, *ENDINGS)
    names = [name.strip() for name in tasks.split(",")]
    chosen = evaluation.find_tasks(names if len(names) > 1 else names[0])
    model = embedder_of(embedder, compute_dtype)
    report = evaluation.evaluate(
        model, chosen, split=split, name=Path(embedder).name, cache_dir=cache, on_missing="skip"
    )
    if not len(report):
        raise FileNotFoundError(
            "No task could be run: " + "; ".join(f"{k}: {v}" for k, v in report.missing.items())
        )
    if out is not None:
        write(report, out)
    found: dict[str, Any] = json.loads(report.to_json())
    return found, str(report)
