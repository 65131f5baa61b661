"""A folder of code or text becomes a token store of pairs, with a report on what was left out.

    python examples/mine_pairs.py FOLDER STORE [--kind code text] [--preset PRESET] [--keep-text]

Code gives (documentation, function) pairs of seven languages; text gives neighbouring pieces. The
store is tokenised for an embedder (all-MiniLM-L6-v2, or `--preset`), and `trainer.fit` takes it.
Killed and started again, it goes on with the shards that are missing.
"""

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import cptk

CODE = [*cptk.mining.LANGUAGE_OF]
TEXT = [".txt", ".md", ".rst"]


def mined(folder: Path, kind: str, unit: str, counts: Any) -> Iterator[Any]:
    """Pairs of each file of a folder."""
    endings = CODE if kind == "code" else TEXT
    files = cptk.mining.read_folder(folder, endings, counts=counts)
    if kind == "code":
        return cptk.mining.functions(files, counts=counts)
    return cptk.mining.neighbouring_text(files, unit=unit, counts=counts)


def main(arguments: Sequence[str] | None = None) -> None:
    """Mine, tokenise, write, and say what was found."""
    options = parse(arguments)
    embedder = cptk.models.TextEmbedder.from_preset(options.preset, load_weights=False)
    report = cptk.mining.MiningReport(seed=options.seed)
    store = cptk.data.TokenStore.write(
        options.store,
        report.watch(mined(options.folder, options.kind, options.unit, report.counts)),
        embedder.preprocessor,
        keep_text=options.keep_text,
    )
    print(f"{report}\n{store}")
    (options.store / "report.md").write_text(report.to_markdown(), encoding="utf-8")
    report.plot().figure.savefig(options.store / "report.png", dpi=150)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line, checked."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("folder", type=Path, help="where code or text lies")
    add("store", type=Path, help="folder of the token store")
    add("--kind", choices=["code", "text"], default="code")
    add("--unit", choices=["sentence", "paragraph"], default="sentence", help="of pieces of text")
    add("--preset", help="the embedder's preset (all-MiniLM-L6-v2, of a pip package)")
    add("--keep-text", action="store_true", help="keep the texts beside their ids")
    add("--seed", type=int, default=0, help="of the twenty pairs to read")
    options = parser.parse_args(arguments)
    if not options.folder.is_dir():
        parser.error(f"FOLDER should be a folder. Received: {options.folder}.")
    if options.preset is None:
        sys.path.append(str(Path(__file__).parent))
        import quickstart_models

        options.preset = quickstart_models.minilm_folder()
    return options


if __name__ == "__main__":
    main()
