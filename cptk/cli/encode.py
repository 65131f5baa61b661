"""`cptk encode`: vectors of texts, in a file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cptk.cli.commands import reporting
from cptk.cli.inputs import INPUT, OUTPUT, dtype_option, embedder_of, texts_of

if TYPE_CHECKING:
    from cptk.quantization import VectorDType


@click.command()
@click.argument("embedder")
@click.argument("texts", type=INPUT)
@click.option("--out", type=OUTPUT, required=True, help="An .npy file.")
@click.option("--column", help="Column of the texts (text, document, sentence or query).")
@click.option("--role", help="query, document, …; the embedder's own default.")
@click.option(
    "--dtype",
    type=click.Choice(["float32", "float16", "int8", "binary"]),
    default="float32",
    show_default=True,
    help="What vectors are kept in.",
)
@click.option("--truncate-dim", type=click.IntRange(1), help="Keep the first numbers alone.")
@dtype_option
@reporting
def command(
    embedder: str, texts: Path, out: Path, column: str | None, role: str | None, dtype: VectorDType,
    truncate_dim: int | None, compute_dtype: str,
) -> tuple[dict[str, Any], str]:  # fmt: skip
    r"""Encode TEXTS, a file, by EMBEDDER, a preset or a folder.

    A file has a text a line, or is .csv, .tsv, .jsonl or .parquet with a column of them. Killed and
    given again, the command goes on, and the file ends with the same bytes.

    \b
    Example:
        cptk encode my_embedder texts.txt --out vectors.npy --dtype float16
    """
    import cptk

    read, _ = texts_of(texts, column)
    model = embedder_of(embedder, compute_dtype)
    vectors = cptk.encode(
        model, read, role=role, dtype=dtype, truncate_dim=truncate_dim, output=out
    )
    stored = cptk.vectors.StoredVectors(out)
    found = {"out": str(out), "texts": len(vectors), "dim": stored.dim, "dtype": dtype}
    return found, f"{len(vectors):,} vectors, {dtype}, in {out}."
