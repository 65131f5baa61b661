"""A folder of code or text becomes a token store of pairs, with a report on what was left out.

    python examples/mine_pairs.py FOLDER STORE [--kind code text] [--preset PRESET] [--keep-text]

Code gives (documentation, function) pairs of seven languages; text gives neighbouring pieces. The
store is tokenised for an embedder (all-MiniLM-L6-v2, or `--preset`), and `trainer.fit` takes it.
Mined pairs lie in STORE.work, so that a call that was killed goes on where it was, and ends with
the same bytes: the store, report.md and report.png. `--no-resume` mines anew.
"""

import argparse
import concurrent.futures
import json
import multiprocessing
import os
import shutil
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np

import cptk
from cptk import files
from cptk.progress import progress

sys.path.append(str(Path(__file__).parent))
import mine_at_scale_parts as work


def units_of(job: work.Job, step: int) -> list[list[str]]:
    """The files of each piece of work, by their paths: a killed call does those again.

    What a call has written itself, where STORE lies in FOLDER, is left out.
    """
    store = os.path.relpath(job.work.removesuffix(".work"), job.source)
    own = tuple(f"{each}/".replace(os.sep, "/") for each in (store, f"{store}.work"))
    found = work.listed(job.source, work.ENDINGS[job.kind])
    paths = [path for path in found if not path.startswith(own)]
    if not paths:
        raise SystemExit(f"FOLDER holds no file of {job.kind} to read. Received: {job.source}.")
    return [paths[start : start + step] for start in range(0, len(paths), step)]


def mine(number: int, paths: Sequence[str], job: work.Job) -> int:
    """Mine a piece of work, if it is missing; how many files it is."""
    work.mine({"unit": np.array([number]), "paths": [json.dumps(paths)]}, job)
    return len(paths)


def mine_all(units: Sequence[Sequence[str]], job: work.Job, workers: int) -> None:
    """Mine what is missing, in several processes, and show how long it will take."""
    bar = progress(sum(map(len, units)), "file")
    missing = []
    for number, paths in enumerate(units):
        if work.is_there(work.mined(job, number)):
            bar.add(len(paths))
        else:
            missing.append((number, paths))
    if min(workers, len(missing)) < 2:
        for number, paths in missing:
            bar.add(mine(number, paths, job))
        return
    # Forked processes would share the threads of what is loaded here.
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(workers, context, end_with_parent) as pool:
        waiting = [pool.submit(mine, number, paths, job) for number, paths in missing]
        for future in concurrent.futures.as_completed(waiting):
            bar.add(future.result())


def end_with_parent() -> None:
    """End this process when the one that started it ends: it would wait for work for ever."""
    parent = multiprocessing.parent_process()

    def watch() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def mined(count: int, job: work.Job, report: Any) -> Iterator[Any]:
    """The pairs of all pieces in their order, noted in the report."""
    tables = [work.got_table(work.mined(job, number)) for number in range(count)]
    for table in tables:
        report.counts.update(json.loads(table.schema.metadata[b"counts"]))
    total = sum(table.num_rows for table in tables)
    if not total:
        raise SystemExit(f"No pair was found: {dict(report.counts)}.")
    bar = progress(total, "pair")
    parts = (cptk.data.Pairs(table.replace_schema_metadata()) for table in tables if table.num_rows)
    for pairs in report.watch(parts):
        yield pairs
        bar.add(len(pairs))  # the writer asks for more: these are tokenised, or about to be


def main(arguments: Sequence[str] | None = None) -> None:
    """Mine, tokenise, write, and say what was found; each step goes on where it was."""
    options, job = parse(arguments)
    place = Path(job.work)
    place.mkdir(parents=True, exist_ok=True)
    lock = files.sole_lock(place, f"Another process works in {job.work!r}. Wait for it.")
    try:
        if not options.resume and (place / "job.json").exists():
            if (place / "mined").exists():
                shutil.rmtree(place / "mined")
            (place / "job.json").unlink()
        mine_and_store(options, job)
    finally:
        if lock is not None:
            lock.release()


def mine_and_store(options: argparse.Namespace, job: work.Job) -> None:
    """All that a call does in a folder of work that is its own."""
    units = units_of(job, options.files_per_task)
    work.claim(job, work.stamps(job.source, [path for unit in units for path in unit]))
    mine_all(units, job, options.workers)
    embedder = cptk.models.TextEmbedder.from_preset(options.preset, load_weights=False)
    report = cptk.mining.MiningReport(seed=options.seed)
    store = cptk.data.TokenStore.write(
        options.store,
        mined(len(units), job, report),
        embedder.preprocessor,
        keep_text=options.keep_text,
        rows_per_shard=options.rows_per_shard,
        verbose=0,
    )
    print(f"{report}\n{store}")
    with files.replacing(options.store / "report.md") as file:
        file.write(report.to_markdown().encode())
    with files.replacing(options.store / "report.png", ".png") as file:
        report.plot().figure.savefig(file, dpi=150, format="png")


def parse(arguments: Sequence[str] | None) -> tuple[argparse.Namespace, work.Job]:
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
    add("--rows-per-shard", type=int, default=65_536, help="pairs in a file of the store")
    add("--files-per-task", type=int, default=200)
    add("--workers", type=int, default=os.cpu_count(), help="processes that mine (one a core)")
    add("--resume", action=argparse.BooleanOptionalAction, default=True,
        help="go on with what STORE.work holds; else mine anew")  # fmt: skip
    add("--seed", type=int, default=0, help="of the twenty pairs to read")
    options = parser.parse_args(arguments)
    if not options.folder.is_dir():
        parser.error(f"FOLDER should be a folder. Received: {options.folder}.")
    if options.folder.resolve().is_relative_to(options.store.resolve()):
        parser.error(f"STORE should not be FOLDER, nor hold it. Received: {options.store}.")
    for name in ("workers", "rows_per_shard", "files_per_task"):
        if getattr(options, name) < 1:
            parser.error(f"--{name.replace('_', '-')} should be 1 or more.")
    if options.preset is None:
        import quickstart_models

        options.preset = quickstart_models.minilm_folder()
    between = f"{os.path.abspath(options.store)}.work"
    return options, work.Job(
        os.path.abspath(options.folder), between, options.kind, options.unit,
        by="", similarity=0.0, preset="", rows_per_shard=0, keep_text=False,
    )  # fmt: skip


if __name__ == "__main__":
    main()
