"""Answers questions about a folder of code: which function does that, in which file and line.

    python examples/search_your_code.py FOLDER                          # ask in the terminal
    python examples/search_your_code.py FOLDER "how is a file opened?"  # one answer
    python examples/search_your_code.py FOLDER --serve 8000             # a page in the browser

Functions and methods of Python, Java, JavaScript, TypeScript, Go, Ruby and PHP are embedded by
all-MiniLM-L6-v2, or `--preset`, and kept in an index on the disk. A second run reads all files,
embeds the functions of those that have changed, and takes out those of files that are gone.
"""

import argparse
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

from quickstart_models import minilm_folder
from search_your_code_page import make_server, serve
from search_your_code_parts import CodeIndex, default_place

import cptk

LENGTH = 96
"""Tokens of a function that are read: its name, what it says it does, and its first lines."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Bring the index up to date, and answer."""
    options = parse(arguments)
    say = print if options.verbose else (lambda *_: None)
    place = options.index or default_place(options.folder)
    start = time.perf_counter()
    try:
        embedder = load(options.preset)
    except (ValueError, OSError) as error:
        sys.exit(str(error))
    embedder.encode_text(["how is a file opened?"], verbose=0)  # compiled before somebody waits
    say(f"{options.preset or 'all-MiniLM-L6-v2'} loaded in {time.perf_counter() - start:.1f} s.")
    start = time.perf_counter()
    try:
        code = CodeIndex(place, embedder, fresh=options.fresh)
        if options.serve is not None:  # before the work: the port may be taken
            server = make_server(code, options.folder, options.serve)
        changes = code.refresh(options.folder, on_progress=progress if options.verbose else None)
    except (ValueError, OSError) as error:
        sys.exit(str(error))
    say(f"{changes} ({time.perf_counter() - start:.1f} s; index in {place}).")
    if not len(code):
        sys.exit(f"{str(options.folder)!r} holds no function in any of the languages.")
    if options.serve is not None:
        serve(server)
    elif options.question is not None:
        answer(code, options.question, options.k)
    else:
        converse(code, options.k)


def load(preset: str | None) -> Any:
    """An embedder that reads the beginning of each function."""
    return cptk.models.TextEmbedder.from_preset(preset or minilm_folder(), sequence_length=LENGTH)


def progress(done: int, total: int) -> None:
    """One line that is written over; a line each in a file."""
    print(f"\r  {done:,} of {total:,} functions embedded", end="" if done < total else "\n")


def answer(code: CodeIndex, question: str, k: int) -> None:
    """The functions nearest to a question, with file, line and first lines."""
    start = time.perf_counter()
    try:
        found = code.search(question, k)
    except ValueError as error:
        print(error)
        return
    for each in found:
        print(f"\n{each.path}:{each.line}  {each.name}  ({each.score:.2f}, {each.language})")
        if each.says:
            print(f"    {each.says:.120}")
        print("\n".join(f"    {line}" for line in each.snippet.splitlines()[:6]))
    print(f"\n{time.perf_counter() - start:.2f} s")


def converse(code: CodeIndex, k: int) -> None:
    """Questions and answers, until there is no question."""
    print("Ask what the code does; an empty line ends.")
    while True:
        try:
            question = input("\n? ").strip()
        except (EOFError, KeyboardInterrupt):
            break
        if not question:
            break
        answer(code, question, k)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line, checked."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("folder", type=Path, help="where the code lies")
    add("question", nargs="?", help="one question; without it you are asked")
    add("-k", type=int, default=5, help="functions that are shown (5)")
    add("--serve", nargs="?", type=int, const=8000, metavar="PORT",
        help="answer in the browser, on this machine alone (8000; 0: any free port)")  # fmt: skip
    add("--index", type=Path, help="folder of the index (one by folder in the user's cache)")
    add("--preset", help="another embedder: a folder or name that TextEmbedder.from_preset takes")
    add("--fresh", action="store_true", help="begin the index anew")
    add("--quiet", dest="verbose", action="store_false", help="say nothing but the answers")
    options = parser.parse_args(arguments)
    if not options.folder.is_dir():
        parser.error(f"FOLDER should be a folder. Received: {str(options.folder)!r}.")
    if options.k < 1:
        parser.error(f"-k should be 1 or more. Received: {options.k}.")
    if options.serve is not None and not 0 <= options.serve < 65_536:
        parser.error(f"--serve should be a port, 0 to 65535. Received: {options.serve}.")
    return options


if __name__ == "__main__":
    main()
