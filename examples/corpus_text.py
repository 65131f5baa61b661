"""The text of collect_corpus.py: which packages hold it, and how it becomes clean pairs.

| part | from | kinds of pairs |
|---|---|---|
| descriptions | Debian's package lists | short and long description |
| wordnet | the package wordnet-base | terms and gloss; an example and the gloss that it is for |
| dictionaries | packages for dictd | term and gloss |
| manuals | documentation packages | heading and section, neighbouring paragraphs, questions |
| readmes | installed Python packages | the same, and summary and first paragraph |

Each package has a file of pairs with a column `kind`. `clean` makes one file of each kind of them,
without duplicates and without what stands in a test set.
"""

import email
import gzip
import re
import subprocess
import sysconfig
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import cptk

PARTS = ("descriptions", "wordnet", "dictionaries", "manuals", "readmes")
MANUALS = tuple("""
    manpages manpages-dev perl-doc git-doc postgresql-doc-15 python3.11-doc python-django-doc
    debian-reference-en debian-policy developers-reference sqlite3-doc octave-doc maxima-doc
    bind9-doc gimp-help-en linux-doc-6.1
""".split())  # fmt: skip
DICTIONARIES = ("dict-foldoc", "dict-jargon")
SYNSETS = ("data.adj", "data.adv", "data.noun", "data.verb")
ENDINGS = (".html", ".rst", ".md", *(f".{section}" for section in range(1, 9)), ".3perl", ".txt")
WORDS = {"min_words": 4, "max_words": 96}
"""Of a document. Training sees the first few dozen tokens of it."""
PROSE = ("headings", "neighbours", "questions")
"""Kinds whose language is looked at. The others are English, and too short to tell."""


# === Packages ===


def places(part: str, apt: Any) -> Iterator[tuple[str, Path]]:
    """`(name, file)` of each package of a part."""
    if part == "descriptions":
        yield from ((file.stem, file) for file in apt.descriptions())
    elif part == "readmes":
        packages = Path(sysconfig.get_path("purelib"))
        yield from ((each.parent.stem, each) for each in sorted(packages.glob("*-info/METADATA")))
    else:
        of_part = {"wordnet": ("wordnet-base",), "dictionaries": DICTIONARIES, "manuals": MANUALS}
        files = ((name, apt.fetch(name)) for name in of_part[part])
        yield from ((name, file) for name, file in files if file is not None)


def mine(part: str, name: str, place: Path, counts: Counter[str]) -> Iterator[Any]:
    """The pairs of a package, some at a time."""
    if part == "descriptions":
        text = place.read_text(encoding="utf-8", errors="replace")
        yield table("descriptions", descriptions(text), name)
    elif part == "readmes":
        yield from readme(place.read_text(encoding="utf-8", errors="replace"), name, counts)
    elif part == "manuals":
        try:
            documents = list(cptk.mining.read(place, ENDINGS, plain=True, counts=counts))
        except ValueError:  # nothing to read in it
            counts["packages without such files"] += 1
            return
        yield from of_documents(documents, counts)
    else:
        with tempfile.TemporaryDirectory() as scratch:
            subprocess.run(["dpkg-deb", "-x", str(place), scratch], check=True)
            files = [file for file in sorted(Path(scratch).rglob("*")) if file.is_file()]
            if part == "wordnet":
                found = (file for file in files if file.name in SYNSETS)
                text = "".join(file.read_text(encoding="utf-8") for file in found)
                yield table("glosses", glosses(text), name)
                yield table("examples", examples(text), name)
            for file in (each for each in files if each.name.endswith(".dict.dz")):
                text = gzip.decompress(file.read_bytes()).decode("utf-8", "replace")
                document = cptk.mining.Document(file.name, text, source=name)
                yield from titled([document], "term", counts)


# === Pairs ===


def of_documents(documents: list[Any], counts: Counter[str]) -> Iterator[Any]:
    """Headings, questions and neighbouring paragraphs of some documents."""
    yield from titled(documents, "heading", counts)
    yield from titled(documents, "question", counts)
    without_headings = (
        each._replace(text=re.sub(r"^#+ .*", "", each.text, flags=re.MULTILINE))
        for each in documents
    )
    parts = cptk.mining.neighbouring_text(
        without_headings, unit="paragraph", pieces=(1, 1), counts=counts, **WORDS
    )
    for pairs in parts:
        yield with_kind(pairs, "neighbours")


def titled(documents: Iterable[Any], kind: str, counts: Counter[str]) -> Iterator[Any]:
    """Titles of a kind and what stands under them."""
    for pairs in cptk.mining.titled_text(documents, kind=kind, counts=counts, **WORDS):
        yield with_kind(pairs, f"{kind}s")


def descriptions(text: str) -> Iterator[tuple[str, str]]:
    """Short description and first paragraph of the long one, of Debian's `Translation-en`."""
    for found in re.finditer(r"^Description-en: (.+)\n((?: .*\n)+)", text, re.MULTILINE):
        paragraphs = re.split(r"^ \.\n", found[2], flags=re.MULTILINE)
        yield found[1].strip(), " ".join(paragraphs[0].split())


def synsets(text: str) -> Iterator[tuple[list[str], str]]:
    """Words and gloss of each line of WordNet's data files (wndb(5WN))."""
    for line in text.splitlines():
        if not line.startswith("  "):  # its licence
            data, _, gloss = line.partition(" | ")
            fields = data.split(" ")
            words = fields[4 : 4 + 2 * int(fields[3], 16) : 2]
            yield [re.sub(r"\(\w+\)$", "", word).replace("_", " ") for word in words], gloss.strip()


def glosses(text: str) -> Iterator[tuple[str, str]]:
    """The terms of a synset, and what they mean."""
    for words, gloss in synsets(text):
        yield ", ".join(words), gloss.split('; "')[0]


def examples(text: str) -> Iterator[tuple[str, str]]:
    """A sentence with a word of a synset, and what this one means there."""
    for _, gloss in synsets(text):
        meaning, *quoted = gloss.split('; "')
        for example in quoted:
            if len(example.split()) >= 4:
                yield example.partition('"')[0], meaning


def readme(text: str, name: str, counts: Counter[str]) -> Iterator[Any]:
    """Of a Python package's METADATA: summary and first paragraph, and what its README holds."""
    about = email.message_from_string(text)
    body, summary = str(about.get_payload()), " ".join(str(about["Summary"] or "").split())
    form = ".rst" if "rst" in str(about["Description-Content-Type"] or "rst") else ".md"
    if not body.strip():
        return
    with tempfile.TemporaryDirectory() as scratch:
        (Path(scratch) / f"{name}{form}").write_text(body, encoding="utf-8")
        read = list(cptk.mining.read_folder(scratch, plain=True, counts=counts))
    documents = [each._replace(source=name) for each in read]
    yield from of_documents(documents, counts)
    for document in documents:
        paragraphs = re.split(r"\n\s*\n", document.text)
        prose = (each for each in paragraphs if not each.lstrip().startswith("#"))
        first = next((each for each in prose if len(each.split()) > 8), "")
        yield table("descriptions", [(summary, " ".join(first.split()))], name)


def table(kind: str, rows: Iterable[tuple[str, str]], source: str) -> Any:
    """Pairs of which both sides hold text, as the miners give them."""
    least, most = WORDS.values()
    kept = [
        {"query": query, "document": document, "path": "", "source": source, "kind": kind}
        for query, document in rows
        if query and least <= len(document.split()) <= most and query != document
    ]
    return cptk.data.Pairs(kept) if kept else None


def with_kind(pairs: Any, kind: str) -> Any:
    """The pairs with a column that says what they are."""
    columns = {name: pairs[name] for name in ("query", "document", "path", "source")}
    return cptk.data.Pairs({**columns, "kind": [kind] * len(pairs)})


# === What is left of them ===


def finish(folder: Path, parts: Path) -> None:
    """A file of clean pairs for each kind, and what was found and left out."""
    found = [cptk.data.Pairs.from_parquet(file) for file in sorted(parts.rglob("*.parquet"))]
    if not found:
        print("No pairs were found.")
        return
    every = cptk.data.Pairs.concat(found)
    tests = list(test_texts())
    report = cptk.mining.MiningReport()
    (folder / "dropped").mkdir(exist_ok=True)
    for kind in sorted({str(each) for each in every["kind"]}):
        own = every.filter([each == kind for each in every["kind"]])
        counts: Counter[str] = Counter()
        pairs = clean(own, kind, tests, folder / "dropped" / f"{kind}.parquet", counts)
        report.counts.update({f"{kind}: {rule}": count for rule, count in counts.items()})
        for watched in report.watch([pairs] if len(pairs) else []):
            watched.to_parquet(folder / f"{kind}.parquet")
            print(f"{kind}: {len(watched):,} of {len(own):,} pairs", flush=True)
    (folder / "report.md").write_text(report.to_markdown(), encoding="utf-8")
    report.plot().figure.savefig(folder / "report.png", dpi=150)


def clean(pairs: Any, kind: str, tests: list[str], dropped: Path, counts: Counter[str]) -> Any:
    """Pairs without boilerplate, other languages, near duplicates, and texts of a test set.

    What is in a test set is written to `dropped`.
    """
    languages = ("en",) if kind in PROSE else None
    kept = cptk.mining.keep_clean([pairs], languages=languages, by="document", counts=counts)
    pairs = next(iter(kept), pairs[:0])
    for rule, step in (
        ("equal to others", cptk.mining.deduplicate),
        ("nearly equal to others", cptk.mining.drop_near_duplicates),
        ("in a test set", lambda each: cptk.mining.decontaminate(each, tests, dropped=dropped)),
    ):
        if len(pairs) and (tests or rule != "in a test set"):
            before = len(pairs)
            pairs = step(pairs)
            counts[rule] += before - len(pairs)
    return pairs


def test_texts() -> Iterator[str]:
    """The texts of the public sets that are here, but for what they give to train on."""
    for name in cptk.datasets.list():
        if name == "rotten_tomatoes":  # whose sentences are SST-2's and MR's
            continue
        for split in cptk.datasets.available_splits(name):
            if split == "train":
                continue
            data = cptk.datasets.load(name, split=split)
            for field in ("texts", "first", "second", "queries", "corpus"):
                found = getattr(data, field, ())
                texts = found.values() if isinstance(found, dict) else found
                yield from (text for text in texts if text.strip())  # cranfield has two empty ones
