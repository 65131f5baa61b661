"""Real pairs of code without a data set to download: from Debian's packages, and Python's.

    python examples/collect_corpus.py FOLDER [--languages go java …] [--packages 200] [--workers 2]
    python examples/collect_corpus.py FOLDER --text

Each package is fetched by `apt-get download`, read without being installed or run, and mined by
`cptk.mining.functions`; Python's are those that are installed. FOLDER/go/NAME.parquet and so on
hold the pairs of a package each, with path, lines and licence.

`--text` collects text in their place (corpus_text.py says which): FOLDER/parts/ has the pairs of
each package, FOLDER/glosses.parquet and so on those of each kind that are clean and in no test set
that is here, FOLDER/dropped/ what is in one, and report.md what was found and left out.

Started again, it goes on with the packages that are missing. Nothing outside of FOLDER is changed;
apt's own sources are read, and asked for source packages too.
"""

import argparse
import concurrent.futures
import multiprocessing
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import corpus_text

import cptk


class Language(NamedTuple):
    """Where code of a language is found."""

    endings: tuple[str, ...]
    packages: str = ""
    """A pattern of Debian's binary packages that hold code as it was written."""
    first: tuple[str, ...] = ()
    """Packages that come before those of the pattern: the language's own library."""
    sources: tuple[str, ...] = ()
    """Source packages, of languages whose binary packages are compiled."""


LANGUAGES = {
    "go": Language((".go",), r"golang-.*-dev", ("golang-1.19-src",)),
    "java": Language((".java",), first=("openjdk-17-source",), sources=tuple("""
        libcommons-lang3-java libcommons-collections4-java commons-io guava-libraries
        jackson-databind jackson-core netty httpcomponents-client libspring-java tomcat9 jetty9
        apache-log4j2 libcommons-compress-java libcommons-codec-java libcommons-net-java jsoup
        libpdfbox2-java junit5 mockito bouncycastle ant maven
    """.split())),
    "javascript": Language((".js", ".mjs", ".jsx", ".ts"), r"(node|libjs)-.*(?<!-doc)"),
    "php": Language((".php",), r"php-.*"),
    "python": Language((".py",)),
    "ruby": Language((".rb",), r"ruby-.*(?<!-doc)", ("libruby3.1",)),
}  # fmt: skip
APT_HELPER = "/usr/lib/apt/apt-helper"
SIZES = 15_000, 3_000_000
"""Bytes of a package: smaller ones hold little, larger ones are pictures and tables."""


# === Packages ===


class Apt:
    """Debian's package lists and packages, in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("sources", "lists/partial", "cache/archives/partial", "downloads"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        self._options = [
            f"-oDir::Etc::sourcelist={os.devnull}", f"-oDir::Etc::sourceparts={folder}/sources",
            f"-oDir::State::lists={folder}/lists", f"-oDir::Cache={folder}/cache",
            "-oAcquire::Languages=en", "-oAPT::Sandbox::User=root",
        ]  # fmt: skip

    def update(self, system: Path = Path("/etc/apt")) -> None:
        """Fetch the lists of what the system's sources have, source packages among it."""
        for file in [system / "sources.list", *(system / "sources.list.d").glob("*")]:
            text = file.read_text(encoding="utf-8") if file.is_file() else ""
            if file.suffix == ".sources":
                text = re.sub(r"^Types:.*$", "Types: deb deb-src", text, flags=re.MULTILINE)
            elif file.suffix == ".list":
                text += re.sub(r"^deb\b", "deb-src", text, flags=re.MULTILINE)
            if text.strip():
                name = file.name if file.suffix else f"{file.name}.list"
                (self.folder / "sources" / name).write_text(text, encoding="utf-8")
        self._run("apt-get", "update")

    def matching(self, pattern: str) -> list[str]:
        """The names of binary packages of a pattern and of a likely size, in order."""
        known = self._run("apt-cache", "dumpavail")
        found = re.findall(r"^Package: (\S+)$.*?^Size: (\d+)$", known, re.MULTILINE | re.DOTALL)
        fits = {name for name, size in found if SIZES[0] <= int(size) <= SIZES[1]}
        return sorted(name for name in fits if re.fullmatch(pattern, name))

    def fetch(self, name: str, source: bool = False) -> Path | None:
        """The file of a package, fetched if it is not there; None, and a word, where it fails."""
        folder = self.folder / "downloads" / name
        pattern = "*.orig.tar.*" if source else "*.deb"
        if not folder.is_dir():
            scratch = folder.with_name(f".{name}-{os.getpid()}")
            scratch.mkdir(exist_ok=True)
            asked = ["source", "--download-only"] if source else ["download"]
            try:
                self._run("apt-get", *asked, name, folder=scratch)
            except subprocess.CalledProcessError as error:  # the next call tries again
                why = (error.stderr or "").strip().splitlines() or ["apt-get failed"]
                print(f"{name} is left out: {why[-1]}", flush=True)
                shutil.rmtree(scratch)
                return None
            scratch.replace(folder)
        files = [file for file in sorted(folder.glob(pattern)) if file.suffix != ".asc"]
        return files[0] if files else None

    def descriptions(self) -> Iterator[Path]:
        """The package lists with long descriptions, a file for each of the system's sources."""
        wanted = ("indextargets", "--format", "$(FILENAME)", "Created-By: Translations")
        for name in self._run("apt-get", *wanted).split():
            file = self.folder / "descriptions" / f"{Path(name).stem}.txt"
            file.parent.mkdir(exist_ok=True)
            file.write_text(self._run(APT_HELPER, "cat-file", name), encoding="utf-8")
            yield file

    def _run(self, *command: str, folder: Path | None = None) -> str:
        tool, *arguments = command
        done = subprocess.run(
            [tool, "-q", *self._options, *arguments], cwd=folder, check=True, text=True,
            capture_output=True,
        )  # fmt: skip
        return done.stdout


# === Pairs ===


class Task(NamedTuple):
    """A package whose pairs are wanted."""

    language: str
    name: str
    place: Path
    file: Path


def mine(task: Task) -> tuple[int, Counter[str]]:
    """Write the pairs of a package; how many there are, and what was left out."""
    counts: Counter[str] = Counter()
    if task.language in LANGUAGES:
        documents = read(task.place, LANGUAGES[task.language].endings, counts)
        named = (each._replace(source=task.name) for each in documents)
        parts = list(cptk.mining.functions(named, counts=counts))
    else:
        found = corpus_text.mine(task.language, task.name, task.place, counts)
        parts = [pairs for pairs in found if pairs is not None]
        counts["taken"] = sum(map(len, parts))
    if parts:
        pairs = cptk.data.Pairs.concat(parts)
        if task.language in LANGUAGES:
            pairs = cptk.mining.deduplicate(pairs)
        pairs.to_parquet(task.file)
    else:
        task.file.with_suffix(".none").touch()
    return counts["taken"], counts


def read(place: Path, endings: Sequence[str], counts: Counter[str]) -> Iterator[Any]:
    """The code of a folder or of a package."""
    try:
        yield from cptk.mining.read(place, endings, counts=counts)
    except ValueError:  # nothing to read in it
        counts["packages without such files"] += 1


def tasks(options: argparse.Namespace) -> Iterator[Task]:
    """The packages of each language, or part, that were not mined yet, fetched one by one."""
    for language in options.languages:
        folder = options.parts / language
        folder.mkdir(parents=True, exist_ok=True)
        for name, place in places(language, options):
            file = folder / f"{name}.parquet"
            if not file.exists() and not file.with_suffix(".none").exists():
                yield Task(language, name, place, file)


def places(language: str, options: argparse.Namespace) -> Iterator[tuple[str, Path]]:
    """`(name, file or folder)` of each package of a language."""
    if language == "python":
        yield "python", Path(sysconfig.get_path("stdlib"))
        packages = Path(sysconfig.get_path("purelib"))
        found = sorted(each for each in packages.iterdir() if (each / "__init__.py").is_file())
        yield from ((each.name, each) for each in found)
        return
    apt = Apt(options.folder / "apt")
    if language not in LANGUAGES:
        yield from corpus_text.places(language, apt)
        return
    about = LANGUAGES[language]
    names = [(name, False) for name in about.first] + [(name, True) for name in about.sources]
    if about.packages:
        names += [(name, False) for name in spread(apt.matching(about.packages), options.packages)]
    for name, source in names:
        file = apt.fetch(name, source)
        if file is not None:
            yield name, inner_archive(file) if name == "openjdk-17-source" else file


def inner_archive(package: Path) -> Path:
    """The zip file in a package that holds nothing else: OpenJDK's sources."""
    folder = package.parent / "unpacked"
    if not folder.is_dir():
        scratch = folder.with_name(f".unpacked-{os.getpid()}")
        subprocess.run(["dpkg-deb", "-x", str(package), str(scratch)], check=True)
        scratch.replace(folder)
    return next(file for file in folder.rglob("*.zip") if not file.is_symlink())


def spread(names: list[str], most: int) -> list[str]:
    """So many of the names, evenly from first to last: neighbours are often of one project."""
    step = max(1.0, len(names) / most)
    return [names[int(i * step)] for i in range(min(most, len(names)))]


# === The command line ===


def main(arguments: Sequence[str] | None = None) -> None:
    """Fetch, mine and count."""
    options = parse(arguments)
    options.folder.mkdir(parents=True, exist_ok=True)
    if set(options.languages) != {"python"}:
        Apt(options.folder / "apt").update()
    counts: Counter[str] = Counter()
    # Forked processes would share the threads of what is loaded here.
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(options.workers, context) as pool:
        waiting = {}
        for task in tasks(options):
            waiting[pool.submit(mine, task)] = task
            report(waiting, counts, wait=len(waiting) >= 4 * options.workers)
        while waiting:
            report(waiting, counts, wait=True)
    for language in options.languages:
        files = sorted((options.parts / language).glob("*.parquet"))
        pairs = sum(len(cptk.data.Pairs.from_parquet(file)) for file in files)
        print(f"{language}: {pairs:,} pairs of {len(files)} packages", flush=True)
    left_out = ", ".join(f"{name} {count:,}" for name, count in counts.most_common())
    print(f"this time: {left_out or 'nothing to do'}")
    if options.text:
        corpus_text.finish(options.folder, options.parts)


def report(waiting: dict[Any, Task], counts: Counter[str], wait: bool) -> None:
    """Say what is done of what was handed out; wait for one of them if asked."""
    if wait:
        concurrent.futures.wait(waiting, return_when=concurrent.futures.FIRST_COMPLETED)
    for future in [each for each in waiting if each.done()]:
        task = waiting.pop(future)
        taken, own = future.result()
        counts.update(own)
        print(f"{task.language} {task.name}: {taken:,} pairs", flush=True)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line, checked."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("folder", type=Path, help="where pairs and packages go")
    add("--languages", nargs="+", choices=[*LANGUAGES], default=[*LANGUAGES])
    add("--text", action="store_true", help="text in place of code")
    add("--packages", type=int, default=200, help="Debian packages of a language, at most (200)")
    add("--workers", type=int, default=os.cpu_count(), help="processes")
    options = parser.parse_args(arguments)
    if options.packages < 1 or options.workers < 1:
        parser.error("--packages and --workers should be 1 or more.")
    options.parts = options.folder / "parts" if options.text else options.folder
    if options.text:
        options.languages = corpus_text.PARTS
    return options


if __name__ == "__main__":
    main(sys.argv[1:])
