"""What commands read: embedders, pairs and texts."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import pyarrow as pa
import pyarrow.csv as arrow_csv
import pyarrow.parquet as parquet

from cptk import checks

if TYPE_CHECKING:
    from cptk.data import Pairs

TEXT_COLUMNS = ("text", "document", "sentence", "query")
"""Where the texts of a file with columns are looked for, in this order."""
READERS = {
    ".csv": "from_csv", ".tsv": "from_csv",
    ".jsonl": "from_jsonl", ".json": "from_jsonl", ".parquet": "from_parquet",
}  # fmt: skip

INPUT = click.Path(exists=True, path_type=Path)
OUTPUT = click.Path(path_type=Path)


def dtype_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """`--compute-dtype`."""
    return click.option(
        "--compute-dtype",
        type=click.Choice(["auto", "float32", "bfloat16", "float16"]),
        default="float32",
        show_default=True,
        help="What the embedder computes in; auto is bfloat16 where the processor has it.",
    )(command)


def embedder_of(preset: str, compute_dtype: str = "float32", **options: Any) -> Any:
    """An embedder of a preset's name or folder, a sentence-transformers folder, or a GGUF file."""
    import cptk

    dtype = cptk.models.fastest_dtype() if compute_dtype == "auto" else compute_dtype
    given = {name: value for name, value in options.items() if value is not None}
    if preset.endswith(".gguf"):
        return cptk.integrations.gguf.load_embedder(preset, dtype=dtype, **given)
    return cptk.models.TextEmbedder.from_preset(preset, dtype=dtype, **given)


def pairs_of(path: Path, **names: str | None) -> Pairs:
    """Pairs out of a file, by its ending."""
    from cptk.data import Pairs

    reader = READERS.get(Path(path.name.removesuffix(".gz")).suffix.lower())
    if reader is None:
        raise ValueError(
            f"{str(path)!r} should be a file of pairs: {', '.join(READERS)}; or the folder of a "
            "token store."
        )
    given = {name: value for name, value in names.items() if value is not None}
    found: Pairs = getattr(Pairs, reader)(path, **given)
    return found


def texts_of(path: Path, column: str | None) -> tuple[list[str], pa.Table]:
    """Texts out of a file, and its other columns.

    A file without columns has a text a line; empty lines are left out.
    """
    table = _table(path)
    if column is None:
        known = [name for name in TEXT_COLUMNS if name in table.column_names]
        if not known:
            raise ValueError(
                f"{str(path)!r} has no column of the name {', '.join(TEXT_COLUMNS)}. It has "
                f"{checks.shown(table.column_names)}: name one by --column."
            )
        column = known[0]
    elif column not in table.column_names:
        raise ValueError(
            f"--column should be one of {checks.shown(table.column_names)}. Received: {column!r}."
        )
    try:
        texts = checks.texts(table[column], column)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{str(path)!r}: {error}") from None
    return texts, table.drop_columns([column])


def _table(path: Path) -> pa.Table:
    ending = path.suffix.lower()
    try:
        if ending == ".parquet":
            return parquet.read_table(path)
        if ending in (".csv", ".tsv"):
            parse = arrow_csv.ParseOptions(
                delimiter="\t" if ending == ".tsv" else ",", newlines_in_values=True
            )
            return arrow_csv.read_csv(path, parse_options=parse)
        content = path.read_text(encoding="utf-8")
        if ending in (".jsonl", ".json"):
            rows = [json.loads(line) for line in content.splitlines() if line.strip()]
            return pa.Table.from_pylist(rows)
    except (pa.ArrowException, UnicodeDecodeError, ValueError) as error:
        raise ValueError(f"{str(path)!r} cannot be read: {checks.shown(str(error))}.") from None
    lines = [line for line in content.split("\n") if line.strip()]
    return pa.table({"text": pa.array(lines, pa.string())})
