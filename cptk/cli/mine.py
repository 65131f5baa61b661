"""`cptk mine`: pairs out of code or text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from cptk.cli.commands import reporting
from cptk.cli.inputs import INPUT, OUTPUT, new_file

KINDS = ("code", "neighbours", "titles")


@click.command()
@click.argument("source", type=INPUT)
@click.option("--out", type=OUTPUT, required=True, help="A .parquet file.")
@click.option(
    "--kind",
    type=click.Choice(KINDS),
    default="code",
    show_default=True,
    help="Functions by their documentation; neighbouring pieces of text; titles and headings.",
)
@click.option("--near-duplicates", is_flag=True, help="Keep them; needs no extra then.")
@reporting
def command(
    source: Path, out: Path, kind: str, near_duplicates: bool
) -> tuple[dict[str, Any], str]:
    r"""Mine pairs from SOURCE, a folder, an archive, a repository, a mailbox or a file of records.

    \b
    Examples:
        cptk mine my_project --out pairs.parquet
        cptk mine handbook --kind titles --out pairs.parquet
    """
    import cptk

    new_file(out, ".parquet")
    mining = cptk.mining
    report = mining.MiningReport()
    code = [*mining.LANGUAGE_OF] if kind == "code" and source.is_dir() else None
    texts = mining.read(source, code, plain=kind != "code", counts=report.counts)
    miner: Any = {
        "code": mining.functions,
        "neighbours": mining.neighbouring_text,
        "titles": mining.titled_text,
    }[kind]
    parts = list(report.watch(miner(texts, counts=report.counts)))
    if not parts:
        raise ValueError(f"{str(source)!r} gives no pairs of this kind.\n{report}")
    pairs = mining.deduplicate(cptk.data.Pairs.concat(parts))
    if not near_duplicates:
        pairs = mining.drop_near_duplicates(pairs)
    pairs.to_parquet(out)
    found = {"pairs": len(pairs), "mined": report.pairs, "out": str(out)}
    text = f"{report}\n{len(pairs):,} pairs in {out}, without duplicates."
    return found | {"counts": dict(report.counts)}, text
