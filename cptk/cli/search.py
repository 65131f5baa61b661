"""`cptk search`: what is nearest to a question."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from cptk.cli.commands import reporting
from cptk.cli.inputs import INPUT, dtype_option, embedder_of


@click.command()
@click.argument("embedder")
@click.argument("index", type=INPUT)
@click.argument("queries", nargs=-1, required=True)
@click.option("-k", type=click.IntRange(1), default=5, show_default=True, help="How many to find.")
@click.option("--hybrid", is_flag=True, help="Search by words too (BM25).")
@dtype_option
@reporting
def command(
    embedder: str, index: Path, queries: tuple[str, ...], k: int, hybrid: bool, compute_dtype: str
) -> tuple[dict[str, Any], str]:
    r"""Search INDEX, of `cptk index`, by QUERIES, with the EMBEDDER that made it.

    \b
    Example:
        cptk search my_embedder my_index "how do I open a file?" -k 3
    """
    import cptk

    searched = cptk.search.Index.load(index, embedder_of(embedder, compute_dtype))
    found: Any = searched.search([*queries], k=k, hybrid=hybrid)  # a list, of a list
    rows = [
        {"query": query, "hits": [hit._asdict() for hit in hits]}
        for query, hits in zip(queries, found, strict=True)
    ]
    texts = [
        f"{query}\n{hits}" if len(queries) > 1 else str(hits)
        for query, hits in zip(queries, found, strict=True)
    ]
    return {"results": rows}, "\n\n".join(texts)
