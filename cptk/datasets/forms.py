"""What the table of sets is made of: formats, and how their files are recognised by name."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatch
from pathlib import Path

from cptk.datasets.download import Source
from cptk.datasets.records import Record

Files = Mapping[str, Path]  # "folder/file" in lower case -> path
Match = Callable[[Files], list[Path] | None]


@dataclasses.dataclass(frozen=True)
class Form:
    """One format that a split may lie in.

    Attributes:
        match: The files that it is made of, among those of a folder; `None` if they are not there.
        read: Who reads them.
        example: What the error of a missing set says was looked for.
    """

    match: Match
    read: Callable[[Sequence[Path]], Record]
    example: str


@dataclasses.dataclass(frozen=True)
class Spec:
    """One named set.

    Attributes:
        folders: Names that its folder may have below CPTK_DATA_DIR, best first; case and
            `-`, `_`, `.` aside.
        splits: Formats of each split, best first.
        reference: Who published it, and under which terms where any are stated.
        sources: Where it is fetched from; empty where nobody offers a download.
    """

    folders: tuple[str, ...]
    splits: Mapping[str, tuple[Form, ...]]
    reference: str
    sources: tuple[Source, ...] = ()


def named(*patterns: str) -> Match:
    """Files by name, plain or `.gz`: one for a plain pattern (the least deep), all for a `*`."""

    def match(files: Files) -> list[Path] | None:
        found: list[Path] = []
        for pattern in (pattern.lower() for pattern in patterns):
            ends = ("*/" + pattern, "*/" + pattern + ".gz")
            hits = [name for name in files if any(fnmatch(name, end) for end in ends)]
            hits.sort(key=lambda name: (name.count("/"), name))
            if not hits:
                return None
            found += [files[name] for name in (hits if "*" in pattern else hits[:1])]
        return found

    return match


def of_language(language: str, split: str) -> Match:
    """CodeSearchNet's JSONL by the words in its path: `python/final/jsonl/test/…`, `python.jsonl`.

    A path that names no language may hold all six; one that names no split holds the test set.
    """
    languages = {"python", "java", "go", "php", "ruby", "javascript", "js"}
    own = {"javascript", "js"} if language == "javascript" else {language}
    splits = {"train": {"train"}, "validation": {"valid", "validation", "dev"}, "test": {"test"}}

    def match(files: Files) -> list[Path] | None:
        best: dict[tuple[bool, bool], list[Path]] = {}
        for name, path in sorted(files.items()):
            words = set(re.split(r"[^a-z]+", name))
            if not name.endswith((".jsonl", ".jsonl.gz")) or words & {"corpus", "queries"}:
                continue
            named_languages = words & languages
            named_splits = words & set().union(*splits.values())
            if (not named_languages or named_languages & own) and (
                named_splits & splits[split] or (not named_splits and split == "test")
            ):
                best.setdefault((not named_languages, not named_splits), []).append(path)
        return best[min(best)] if best else None

    return match


def form(read: Callable[[Sequence[Path]], Record], *patterns: str) -> Form:
    """A format whose files are known by their names."""
    return Form(named(*patterns), read, " and ".join(patterns))
