"""What commands read: embedders, pairs and texts."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import pyarrow as pa

from cptk import checks
from cptk.data import reading

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


def new_file(path: Path, *endings: str) -> None:
    """Raise `ValueError` where a result cannot be written to a file, before the work."""
    if path.suffix not in endings:
        raise ValueError(f"--out should end in {', '.join(endings)}. Received: {str(path)!r}.")
    not_there(path)
    if not path.absolute().parent.is_dir():
        raise ValueError(f"--out should lie in a folder that is there. Received: {str(path)!r}.")


def not_there(path: Path) -> None:
    """Raise `ValueError` where an output would replace something."""
    if path.exists():
        raise ValueError(f"{str(path)!r} is there already. Delete it, or name another --out.")


def _table(path: Path) -> pa.Table:
    """A file as a table; of CSV all columns are texts, and stay so when the file grows."""
    ending = Path(path.name.removesuffix(".gz")).suffix.lower()
    if ending == ".parquet":
        return reading.parquet(path)
    if ending in (".csv", ".tsv"):
        delimiter = "\t" if ending == ".tsv" else ","
        with reading.naming(path, "as CSV"), reading.opened(path) as stream:
            lines = io.TextIOWrapper(stream, "utf-8-sig", newline="")
            names = next(csv.reader(lines, delimiter=delimiter), [])
            if len({*names}) < len(names):
                raise ValueError(f"two columns of one name: {checks.shown(names)}")
        return reading.csv(path, delimiter, True, names)
    if ending in (".jsonl", ".json"):
        with reading.naming(path, "as JSON"):
            rows = [row for _, row in reading.objects(path)]
            names = [*dict.fromkeys(name for row in rows for name in row)]
            return pa.table({name: pa.array([row.get(name) for row in rows]) for name in names})
    with reading.naming(path, "as text"), reading.opened(path) as stream:
        content = stream.read().decode("utf-8")
    texts = [line.removesuffix("\r") for line in content.split("\n") if line.strip()]
    return pa.table({"text": pa.array(texts, pa.string())})
