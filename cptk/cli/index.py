"""`cptk index`: texts that can be searched."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import pyarrow as pa

from cptk.cli.commands import reporting
from cptk.cli.inputs import INPUT, OUTPUT, dtype_option, embedder_of, texts_of

if TYPE_CHECKING:
    from cptk.quantization import VectorDType
    from cptk.search import Index

ROWS_PER_SAVE = 16_384


@click.command()
@click.argument("embedder")
@click.argument("texts", type=INPUT)
@click.option("--out", type=OUTPUT, required=True, help="Folder of the index.")
@click.option("--column", help="Column of the texts (text, document, sentence or query).")
@click.option(
    "--dtype",
    type=click.Choice(["float32", "int8", "binary"]),
    default="float32",
    show_default=True,
    help="What candidates are found by.",
)
@click.option("--factory", help='An index of FAISS\'s: "HNSW32", "IVF1024,Flat", …')
@dtype_option
@reporting
def command(
    embedder: str, texts: Path, out: Path, column: str | None, dtype: VectorDType,
    factory: str | None, compute_dtype: str,
) -> tuple[dict[str, Any], str]:  # fmt: skip
    r"""Index TEXTS, a file as of `cptk encode`, by EMBEDDER, a preset or a folder.

    Other columns of the file are kept, and shown by what is found. Killed and given again, the
    command goes on with the rows that are missing; so it does where texts came to the end of the
    file.

    \b
    Example:
        cptk index my_embedder documents.csv --column body --out my_index
    """
    import cptk

    read, others = texts_of(texts, column)
    model = embedder_of(embedder, compute_dtype)
    ids = others["id"].to_pylist() if "id" in others.column_names else None
    others = others if ids is None else others.drop_columns(["id"])
    index = cptk.search.Index(model, dtype=dtype, factory=factory)
    if (out / "index.json").exists():  # which a first save writes last
        index = cptk.search.Index.load(out, model)
        _check_same(out, index, (dtype, factory), read, ids, others)
    there = len(index)
    for start in range(there, len(read), ROWS_PER_SAVE):
        rows = slice(start, start + ROWS_PER_SAVE)
        columns = others.slice(start, ROWS_PER_SAVE) if others.num_columns else None
        index.add(read[rows], ids=None if ids is None else ids[rows], metadata=columns)
        index.save(out)
    found = {"out": str(out), "rows": len(index), "new": len(index) - there, "dim": index.dim}
    return found, f"{len(index):,} rows, {len(index) - there:,} of them new, in {out}."


def _check_same(
    out: Path,
    index: Index,
    settings: tuple[str, str | None],
    texts: list[str],
    ids: list[Any] | None,
    others: pa.Table,
) -> None:
    """Raise `ValueError` where the index is not of the first rows of the file."""
    there = index.rows
    expected = {name: others[name].to_pylist() for name in others.column_names}
    expected |= {"text": texts, "id": [*range(len(texts))] if ids is None else ids}
    same = {*expected} == {*there.column_names} and all(
        there[name].to_pylist() == values[: len(there)] for name, values in expected.items()
    )
    if not same or (index.dtype, index.factory) != settings:
        what = "other rows" if not same else "another --dtype or --factory"
        raise ValueError(f"{str(out)!r} is an index of {what}. Name another, or delete it.")
