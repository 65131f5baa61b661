"""The index of `search_your_code.py`: which files it has read, and what it finds in them."""

import hashlib
import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import cptk
from cptk import files
from cptk.datasets.places import cache_dir
from cptk.mining import LANGUAGE_OF, Document, Rules, functions
from cptk.mining.code import SKIPPED_FOLDERS
from cptk.mining.documents import LeftOut
from cptk.mining.file_rules import Names, Source, document
from cptk.mining.folders import files_below

EVERY_FUNCTION = Rules(min_words=0, min_lines=1, tests=True, standard=True, undocumented=True)
NAMES = Names([*LANGUAGE_OF], SKIPPED_FOLDERS, plain=False)
LETTERS = 4000
"""Of a function's text that are kept; an embedder reads less."""
LINES = 12
"""Of a function that are shown."""
WITHOUT = "without_functions.json"
"""The files that were read and have no function."""
AT_A_TIME = 2048
"""Functions that are embedded before the index is saved: a run that is killed goes on there."""


class Found(NamedTuple):
    """A function that answers a question."""

    path: str
    line: int
    end_line: int
    name: str
    language: str
    says: str
    snippet: str
    score: float


class Changes(NamedTuple):
    """What a refresh has found."""

    functions: int
    files: int
    read: int
    gone: int
    skipped: int = 0
    """Files that cannot be read, or whose names are no UTF-8."""

    def __str__(self) -> str:
        said = (
            f"{self.functions:,} functions of {self.files:,} files; {self.read:,} files read anew, "
            f"{self.gone:,} gone"
        )
        why = "that cannot be read, or whose names are no UTF-8"
        return f"{said}; {self.skipped:,} left out {why}" if self.skipped else said


class CodeIndex:
    """Functions of a folder, kept in an index on the disk.

    Args:
        place: A folder for the index and a list of files.
        embedder: What embeds functions and questions.
        fresh: Whether to forget what is there.

    Raises:
        ValueError: What is there is damaged, or another embedder's.
    """

    def __init__(self, place: Path, embedder: Any, fresh: bool = False) -> None:
        self.place, self.embedder = place, embedder
        if fresh:
            shutil.rmtree(place / "index", ignore_errors=True)
            (place / WITHOUT).unlink(missing_ok=True)
        if (place / "index" / "index.json").exists():
            try:
                self.index = cptk.search.Index.load(place / "index", embedder)
            except (ValueError, FileNotFoundError) as error:
                raise ValueError(f"{error} Or begin anew: --fresh.") from None
        else:
            self.index = cptk.search.Index(embedder)

    def __len__(self) -> int:
        return len(self.index)

    def search(self, question: str, k: int) -> list[Found]:
        """The functions nearest to a question, the best first.

        Raises:
            ValueError: An empty question.
        """
        hits = self.index.search(question, k)
        names = [name for name in Found._fields if name != "score"]
        return [Found(*(hit.metadata[name] for name in names), score=hit.score) for hit in hits]

    def refresh(
        self, folder: Path, on_progress: Callable[[int, int], None] | None = None
    ) -> Changes:
        """Bring the index up to date with a folder.

        Every file is read, and told from what it was by its content; the functions of the changed
        ones are embedded. Saved now and then, whole files at a time.

        Args:
            folder: Where the code lies.
            on_progress: Called with the functions embedded, and how many there are to embed.

        Raises:
            ValueError: Another process writes the index.
            OSError: The disk is full.
        """
        left_out: Counter[str] = Counter()
        there = dict(digests(folder, left_out))
        known = self._known()
        gone = known.keys() - there.keys()
        changed = [path for path, digest in there.items() if known.get(path) != digest]
        self._take_out({*gone, *changed})
        rows = []
        for path in changed:
            try:
                rows.append((path, list(functions_of(folder, path, there[path]))))
            except OSError:  # gone, or locked, in the meantime: the next run tries again
                left_out[path] += 1
        stay = known.keys() - gone - set(changed) - set(self._paths())
        empty = {path: known[path] for path in stay}
        empty |= {path: there[path] for path, found in rows if not found}
        total, done = sum(len(found) for _, found in rows), 0
        waiting: list[dict[str, Any]] = []
        for _, found in rows:
            waiting += found
            if len(waiting) >= AT_A_TIME:
                done += self._add(waiting)
                self._save(empty)
                waiting = []
                if on_progress is not None:
                    on_progress(done, total)
        if waiting or gone or changed:
            done += self._add(waiting)
            self._save(empty)
            if on_progress is not None and waiting:
                on_progress(done, total)
        skipped = left_out.total()
        return Changes(len(self), len(there), len(rows), len(gone), skipped)

    def _known(self) -> dict[str, str]:
        """The digest of each file that was read."""
        columns = self.index.rows
        known = {}
        if len(self):
            known = dict(
                zip(columns["path"].to_pylist(), columns["digest"].to_pylist(), strict=True)
            )
        place = self.place / WITHOUT
        if not place.exists():
            return known
        try:
            return {**files.read_json(place), **known}
        except (ValueError, TypeError):  # damaged: they are read again
            return known

    def _take_out(self, paths: set[str]) -> None:
        if len(self):
            columns = self.index.rows.select(["id", "path"]).to_pydict()
            ids = [
                i for i, path in zip(columns["id"], columns["path"], strict=True) if path in paths
            ]
            if ids:
                self.index.delete(ids)

    def _add(self, rows: list[dict[str, Any]]) -> int:
        if rows:
            texts, ids = ([row[name] for row in rows] for name in ("text", "id"))
            rest = [{k: v for k, v in row.items() if k not in ("text", "id")} for row in rows]
            self.index.add(texts, ids, rest)
        return len(rows)

    def _paths(self) -> list[str]:
        """The file of each function."""
        return self.index.rows["path"].to_pylist() if len(self) else []

    def _save(self, empty: dict[str, str]) -> None:
        """Save the index, and which files were read and have no function."""
        self.place.mkdir(parents=True, exist_ok=True)
        if self.index.dim is not None:
            self.index.save(self.place / "index")
        with files.replacing(self.place / WITHOUT) as file:
            file.write(json.dumps(empty).encode())


def digests(folder: Path, left_out: Counter[str]) -> Iterator[tuple[str, str]]:
    """The path below a folder of each file of code, and the digest of its content.

    Files that cannot be read, and those whose names are no UTF-8, are counted in `left_out`.
    """
    for place, path in files_below(folder, NAMES, Counter()):
        if NAMES.takes(path):
            try:
                path.encode()
                with place.open("rb") as file:
                    yield path, hashlib.file_digest(file, "sha256").hexdigest()
            except (OSError, UnicodeEncodeError):  # as if it were not there
                left_out[path] += 1


def functions_of(folder: Path, path: str, digest: str) -> Iterator[dict[str, Any]]:
    """The rows of a file's functions; none where the file is no code that somebody wrote.

    Raises:
        OSError: It cannot be read.
    """
    source = Source(folder.resolve().name)
    with (folder / path).open("rb") as file:
        data = file.read(source.largest + 1)
    try:
        read: Document = document(data, path, source)
    except LeftOut:
        return
    seen: Counter[str] = Counter()
    for pairs in functions([read], rules=EVERY_FUNCTION):
        for row in pairs:
            place = f"{path}:{row['line']}:{row['name']}"
            seen[place] += 1
            says = f"{row['name']}: {row['query']}" if row["query"] else row["name"]
            yield {
                "id": place if seen[place] == 1 else f"{place}:{seen[place]}",
                "text": f"{says}\n{row['document']}"[:LETTERS],
                "says": row["query"],
                "snippet": "\n".join(row["document"].splitlines()[:LINES]),
                "digest": digest,
                **{name: row[name] for name in ("path", "line", "end_line", "name", "language")},
            }


def default_place(folder: Path) -> Path:
    """A folder in the user's cache for the index of a folder of code."""
    whole = str(folder.resolve())
    name = hashlib.sha256(whole.encode(errors="surrogateescape")).hexdigest()[:12]
    return cache_dir() / "code" / f"{folder.resolve().name}-{name}"
