"""Recall against time: `cptk.search.Index` in its forms, beside FAISS and scikit-learn.

    python benchmarks/search.py [--documents 1000000] [--queries 1000] [--size 384] [--k 10]
                                [--vectors FILE.npy] [--contenders ...] [--fresh] [--tiny]

Each contender builds its index in a process of its own, saves it where it can, loads it again, and
answers queries one by one and all together, in several settings where it has any. Recall is the
share of the k nearest, by all dot products, that were found. The vectors are drawn: clusters in a
space of 48 dimensions, turned into 384, with some noise; or they are read from `--vectors`, of
which the last ones are the queries. Writes search.json and search.md, and goes on where it was.
"""

import argparse
import datetime
import functools
import importlib.util
import json
import os
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import reporting

PACKAGES = "cptk numpy pyarrow faiss-cpu scikit-learn".split()
SEED = 2201_10005
ALONE = 200
"""Queries that are asked one by one."""


class Contender(NamedTuple):
    """What is measured."""

    name: str
    of: str  # cptk, faiss or sklearn
    kind: dict[str, Any]
    settings: tuple[Any, ...] = ("",)


CONTENDERS = {
    "cptk": Contender("cptk `Index()`, exact", "cptk", {}),
    "cptk-int8": Contender("cptk `Index(dtype=\"int8\")`", "cptk", {"dtype": "int8"}, (1, 4)),
    "cptk-binary": Contender(
        "cptk `Index(dtype=\"binary\")`", "cptk", {"dtype": "binary"}, (4, 16, 64)
    ),
    "cptk-hnsw": Contender(
        "cptk `Index(factory=\"HNSW32\")`", "cptk", {"factory": "HNSW32"},
        ("efSearch=16", "efSearch=64", "efSearch=256"),
    ),
    "cptk-ivf": Contender(
        "cptk `Index(factory=\"IVF1024,Flat\")`", "cptk", {"factory": "IVF1024,Flat"},
        ("nprobe=4", "nprobe=16", "nprobe=64"),
    ),
    "faiss": Contender("FAISS `Flat`", "faiss", {"factory": "Flat"}),
    "faiss-sq8": Contender("FAISS `SQ8`", "faiss", {"factory": "SQ8"}),
    "faiss-hnsw": Contender(
        "FAISS `HNSW32`", "faiss", {"factory": "HNSW32"},
        ("efSearch=16", "efSearch=64", "efSearch=256"),
    ),
    "faiss-ivf": Contender(
        "FAISS `IVF1024,Flat`", "faiss", {"factory": "IVF1024,Flat"},
        ("nprobe=4", "nprobe=16", "nprobe=64"),
    ),
    "sklearn": Contender("scikit-learn `NearestNeighbors`, brute force", "sklearn", {}),
}  # fmt: skip
NEEDS = {"cptk": "cptk", "faiss": "faiss", "sklearn": "sklearn"}


# === The vectors ===


def make_vectors(task):
    """Documents and queries of unit length."""
    if task["vectors"]:
        found = np.load(task["vectors"], mmap_mode="r")[: task["documents"] + task["queries"]]
        vectors = np.array(found, np.float32)
    else:
        rng = np.random.default_rng(SEED)
        inner, count = 48, task["documents"] + task["queries"]
        turn = rng.standard_normal((inner, task["size"]), dtype=np.float32)
        turn *= (np.arange(1, inner + 1, dtype=np.float32) ** -0.5)[:, None]
        centres = rng.standard_normal((500, inner), dtype=np.float32)
        vectors = np.empty((count, task["size"]), np.float32)
        for start in range(0, count, 65_536):
            part = vectors[start : start + 65_536]
            near = centres[rng.integers(0, len(centres), len(part))]
            near = near + 0.7 * rng.standard_normal(near.shape, dtype=np.float32)
            part[...] = near @ turn + 0.3 * rng.standard_normal(part.shape, dtype=np.float32)
    for start in range(0, len(vectors), 65_536):
        part = vectors[start : start + 65_536]
        part /= np.linalg.norm(part, axis=1, keepdims=True)
    return vectors[: -task["queries"]], vectors[-task["queries"] :]


def least_scores(documents, queries, k):
    """The k-th greatest of all dot products of each query."""
    best = np.full((len(queries), k), -np.inf, np.float32)
    for start in range(0, len(documents), 32_768):
        scores = queries @ documents[start : start + 32_768].T
        both = np.concatenate([best, scores], axis=1)
        best = np.partition(both, both.shape[1] - k, axis=1)[:, -k:]
    return best.min(axis=1)


# === The contenders ===


class OfCptk:
    """An index of cptk's, on the disk."""

    def __init__(self, documents, kind, folder):
        from cptk.search import Index

        self.index = Index(**kind).add(documents)
        self.folder = folder
        self.index.save(folder)

    def load(self):
        """Open what was saved."""
        from cptk.search import Index

        self.index = Index.load(self.folder)

    def set(self, setting):
        """FAISS's parameters, or how many candidates are scored again."""
        self.oversample = setting if isinstance(setting, int) else 4
        if isinstance(setting, str) and setting:
            self.index.search_parameters = setting

    def search(self, queries, k):
        """(n, k) rows."""
        return self.index.nearest(queries, k, oversample=self.oversample)[1]


class OfFaiss:
    """An index of FAISS's, on the disk."""

    def __init__(self, documents, kind, folder):
        import faiss

        self.index = faiss.index_factory(
            documents.shape[1], kind["factory"], faiss.METRIC_INNER_PRODUCT
        )
        self.index.train(documents)
        self.index.add(documents)
        self.path = str(folder / "faiss.index")
        faiss.write_index(self.index, self.path)

    def load(self):
        """Read what was saved."""
        import faiss

        self.index = faiss.read_index(self.path)

    def set(self, setting):
        """Its parameters."""
        import faiss

        if setting:
            faiss.ParameterSpace().set_index_parameters(self.index, setting)

    def search(self, queries, k):
        """(n, k) rows."""
        return self.index.search(queries, k)[1]


class OfSklearn:
    """scikit-learn's, which has no file of its own."""

    def __init__(self, documents, kind, folder):
        from sklearn.neighbors import NearestNeighbors

        self.index = NearestNeighbors(metric="cosine", algorithm="brute").fit(documents)

    load = None

    def set(self, setting):
        """It has no settings."""

    def search(self, queries, k):
        """(n, k) rows."""
        return self.index.kneighbors(queries, k, return_distance=False)


TOOLS = {"cptk": OfCptk, "faiss": OfFaiss, "sklearn": OfSklearn}


def measure(task):
    """Build, save, load, search: one contender's row."""
    contender = CONTENDERS[task["contender"]]
    if importlib.util.find_spec(NEEDS[contender.of]) is None:
        return {"status": "not installed"}
    documents, queries = make_vectors(task)
    least = least_scores(documents, queries, task["k"])
    kind = dict(contender.kind)
    if task["tiny"] and "factory" in kind:
        kind["factory"] = kind["factory"].replace("1024", "8")
    with tempfile.TemporaryDirectory() as name:
        seconds, cpu, tool = reporting.timed(
            lambda: TOOLS[contender.of](documents, kind, Path(name))
        )
        size = sum(file.stat().st_size for file in Path(name).iterdir())
        row = {"build_seconds": seconds, "build_cpu_seconds": cpu, "mib": size / 2**20}
        if tool.load is not None:
            row["load_seconds"] = reporting.timed(tool.load)[0]
        row["first_seconds"] = reporting.timed(lambda: first(tool, contender, queries, task))[0]
        row["points"] = [
            point(tool, setting, documents, queries, least, task) for setting in contender.settings
        ]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    row["peak_gib"] = peak * (1 if sys.platform == "darwin" else 1024) / 2**30
    return {"status": "measured", **row}


def first(tool, contender, queries, task):
    """The first answer after loading."""
    tool.set(contender.settings[0])
    tool.search(queries[:1], task["k"])


def point(tool, setting, documents, queries, least, task):
    """Recall and time in one setting."""
    tool.set(setting)
    k, times = task["k"], []
    for query in queries[:ALONE]:
        start = time.perf_counter()
        tool.search(query[None], k)
        times.append(time.perf_counter() - start)
    seconds, cpu, rows = reporting.timed(lambda: tool.search(queries, k))
    rows = np.asarray(rows)
    scores = np.stack([np.vecdot(documents[row], q) for row, q in zip(rows, queries, strict=True)])
    found = (scores >= least[:, None] - 1e-6) & (rows >= 0)
    return {
        "setting": setting,
        "recall": float(found.sum(axis=1).mean() / k),
        "ms_alone": 1000 * float(np.median(times)),
        "ms_alone_p95": 1000 * float(np.quantile(times, 0.95)),
        "ms_together": 1000 * seconds / len(queries),
        "cpu_ms_together": 1000 * cpu / len(queries),
    }


# === The report ===


def to_markdown(report):
    """The table that the documentation shows."""
    setup = report["setup"]
    lines = []
    for row in report["rows"]:
        name = CONTENDERS[row["contender"]].name
        if row["status"] != "measured":
            lines.append([name, row["status"], *[""] * 8])
            continue
        about = [f"{row['mib']:,.0f}" if row["mib"] else "", f"{row['build_seconds']:.1f}"]
        about += [f"{row['load_seconds']:.3f}" if "load_seconds" in row else ""]
        about += [f"{row['first_seconds']:.3f}", f"{row['peak_gib']:.2f}"]
        for i, at in enumerate(row["points"]):
            setting = f"oversample={at['setting']}" if isinstance(at["setting"], int) else None
            cells = [name if i == 0 else "", setting or at["setting"], f"{100 * at['recall']:.1f}"]
            cells += [f"{at[key]:.2f}" for key in ("ms_alone", "ms_together")]
            lines.append(cells + (about if i == 0 else [""] * 5))
    header = ["contender", "setting", f"recall@{setup['k']}, %", "ms a query, alone",
              f"ms a query, {setup['queries']:,} together", "MiB on disk", "build, s", "load, s",
              "first answer, s", "peak, GiB"]  # fmt: skip
    loads = [row["load_average"] for row in report["rows"] if row.get("load_average") is not None]
    load = f"load average {min(loads)} to {max(loads)}; " if loads else ""
    packages = ", ".join(f"{name} {version}" for name, version in report["versions"].items())
    where = "drawn" if setup["vectors"] is None else f"of {setup['vectors']}"
    return f"""# Search: recall against time

{setup["documents"]:,} vectors of {setup["size"]} numbers, {where}, and {setup["queries"]:,} \
queries; k = {setup["k"]}. Each contender in a process of its own, vectors included in its peak \
memory. "Alone" is the median of {min(ALONE, setup["queries"])} queries, one after another. What \
cptk finds by codes or by FAISS is scored by float32 vectors read from the disk: `oversample` \
candidates for each of the k, 4 by default.

{reporting.markdown_table(header, lines)}

{reporting.described(report["machine"])}; {load}{packages}; {report["date"]}.
"""


def write(report, output):
    """Both files, as far as the rows go."""
    report["rows"].sort(key=lambda row: [*CONTENDERS].index(row["contender"]))
    report["date"] = datetime.datetime.now(datetime.UTC).date().isoformat()
    reporting.write_atomically(output / "search.json", json.dumps(report, indent=2) + "\n")
    reporting.write_atomically(output / "search.md", to_markdown(report))


def parse(arguments):
    """The command line, checked."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--documents", type=int, help="number of documents (1,000,000)")
    add("--queries", type=int, help="number of queries (1,000)")
    add("--size", type=int, help="numbers in a vector (384)")
    add("--k", type=int, default=10, help="neighbours to find (10)")
    add("--vectors", type=Path, help="a .npy file of vectors in place of drawn ones")
    add("--contenders", nargs="+", choices=list(CONTENDERS), default=list(CONTENDERS))
    reporting.add_run_flags(parser)
    parsed = parser.parse_args(arguments)
    reporting.check_above_zero(parser, parsed, "documents", "queries", "size", "k")
    usual = (600, 20, 32) if parsed.tiny else (1_000_000, 1000, 384)
    for name, value in zip(("documents", "queries", "size"), usual, strict=True):
        if getattr(parsed, name) is None:
            setattr(parsed, name, value)
    if parsed.vectors is not None:
        try:
            count, parsed.size = np.load(parsed.vectors, mmap_mode="r").shape
        except (ValueError, OSError) as error:
            parser.error(f"--vectors should be a .npy file of rows: {error}.")
        parsed.documents = min(parsed.documents, count - parsed.queries)
        if parsed.documents < 1:
            parser.error(f"--vectors has {count} rows, and {parsed.queries} are for queries.")
        parsed.vectors = parsed.vectors.resolve()
    if parsed.k > parsed.documents:
        parser.error(f"--k should be at most the documents. Received: {parsed.k}.")
    return parsed


def main(arguments=None):
    """Measure what is asked for and not there, row by row."""
    arguments = parse(arguments)
    if arguments.worker:
        row = measure(json.loads(arguments.worker[0]))
        Path(arguments.worker[1]).write_text(json.dumps(row))
        return
    names = ("documents", "queries", "size", "k", "tiny")
    setup = {name: getattr(arguments, name) for name in names}
    where = None if arguments.vectors is None else str(arguments.vectors)
    setup["vectors"] = None if where is None else os.path.basename(where)
    report = reporting.begin("search", PACKAGES, setup, arguments)
    wanted = [
        (
            {"contender": name},
            CONTENDERS[name].name,
            functools.partial(
                reporting.run_worker, __file__, {**setup, "vectors": where, "contender": name},
                dict(os.environ),
            ),
        )
        for name in dict.fromkeys(arguments.contenders)
    ]  # fmt: skip
    reporting.measure_missing(
        report, wanted, arguments.fresh, lambda: write(report, arguments.output)
    )
    print(to_markdown(report), flush=True)


if __name__ == "__main__":
    main()
